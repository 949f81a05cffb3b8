"""The wire, both ends joined without a pipe."""

from __future__ import annotations

import itertools
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from solo_trio.runtimes import wire

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NUMBERS = st.integers(0, 2**53)
OBJECTS = st.dictionaries(st.text(), JSON, max_size=3)
HELLO = st.builds(wire.Hello, st.text(), st.text(), NUMBERS, NUMBERS, st.text(), OBJECTS, NUMBERS, st.binary())
FROM_KERNEL = st.lists(
    st.builds(wire.Call, NUMBERS, st.text(), st.lists(JSON, max_size=3), OBJECTS, OBJECTS)
    | st.builds(wire.Cancel, NUMBERS)
    | st.builds(wire.Stop)
    | st.builds(wire.Answer, NUMBERS, st.text(), st.text(), JSON)
    | st.builds(wire.Connected, NUMBERS, st.integers(-20, 200), st.text())
)
LOGS = st.lists(
    st.builds(wire.Log, st.text(), st.text(), OBJECTS)
    | st.builds(wire.Connect, NUMBERS, st.text(max_size=300), NUMBERS, st.floats(0, 30)),
    max_size=3,
)
WORK = st.lists(
    st.builds(wire.Result, NUMBERS, st.text(), JSON, st.text(), st.text())
    | st.builds(wire.Ask, NUMBERS, NUMBERS, st.text(), st.text(), st.lists(JSON, max_size=3), OBJECTS, st.floats(0, 30))
    | st.builds(wire.AskRight, NUMBERS, NUMBERS, st.text(max_size=300), st.text(max_size=300))
    | st.builds(wire.Drop, NUMBERS)
    | st.builds(wire.Connect, NUMBERS, st.text(max_size=300), NUMBERS, st.floats(0, 30))
    | st.builds(wire.Log, st.text(), st.text(), OBJECTS),
    max_size=4,
)
ENDED = st.builds(wire.Ended, st.text(), st.text(), st.text())


@st.composite
def kernel_streams(draw: st.DrawFn) -> list[Any]:
    return [draw(HELLO), *draw(FROM_KERNEL)]


@st.composite
def service_streams(draw: st.DrawFn) -> list[Any]:
    if draw(st.booleans()):
        return [*draw(LOGS), draw(st.builds(wire.Failed, st.text(), st.text()))]
    return [*draw(LOGS), wire.Loaded(), *draw(WORK), wire.Ready(), *draw(WORK), draw(ENDED)]


def joined(role: wire.Role, messages: list[Any], cuts: list[int]) -> list[Any]:
    sender, receiver = wire.Wire(role), wire.Wire("service" if role == "kernel" else "kernel")
    data = b"".join(sender.send(message) for message in messages)
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [message for a, b in itertools.pairwise(edges) for message in receiver.receive(data[a:b])]


@given(kernel_streams(), st.lists(NUMBERS))
def test_any_split_gives_the_kernels_messages(messages: list[Any], cuts: list[int]) -> None:
    assert joined("kernel", messages, cuts) == messages


@given(service_streams(), st.lists(NUMBERS))
def test_any_split_gives_the_services_messages(messages: list[Any], cuts: list[int]) -> None:
    assert joined("service", messages, cuts) == messages


def test_byte_by_byte() -> None:
    messages = [wire.Hello("t", "s", 1, 1, "process", {}, 64, b"x = 1\n"), wire.Stop()]
    assert joined("kernel", messages, list(range(1000))) == messages


@given(st.lists(st.binary(max_size=200), max_size=5), st.sampled_from(["kernel", "service"]))
def test_random_bytes_are_at_worst_a_protocol_error(chunks: list[bytes], role: wire.Role) -> None:
    end = wire.Wire(role)
    try:
        for chunk in chunks:
            assert end.receive(chunk) == []
    except wire.WireError:
        with pytest.raises(wire.WireError):
            end.receive(b"")


KINDS = {kind.__name__.lower(): kind for kind in wire.TAGS}


def frame(name: str | int, values: Any, body: bytes = b"") -> bytes:
    data = values if isinstance(values, bytes) else orjson.dumps(values)
    return wire.HEAD.pack(wire.TAGS[KINDS[name]] if isinstance(name, str) else name, len(data), len(body)) + data + body


@given(st.integers(0, 255), JSON.filter(lambda value: value != {}), st.binary(max_size=10))
def test_random_headers_are_at_worst_a_protocol_error(tag: int, header: Any, body: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.Wire("kernel").receive(frame(tag, header, body))


@given(st.sampled_from(["loaded", "log", "result", "ask", "drop", "ended", "failed"]), OBJECTS)
def test_known_names_with_wrong_values_are_at_worst_a_protocol_error(name: str, values: dict[str, Any]) -> None:
    end = wire.Wire("kernel")
    try:
        end.receive(frame(name, values))
    except wire.WireError:
        return
    assert name == "loaded" and values == {}


@pytest.mark.parametrize(
    "data",
    [
        frame("loaded", b"{"),
        frame("loaded", b""),
        frame("loaded", b'{"a":NaN}'),
        frame("loaded", []),
        frame(0, {}),
        frame(255, {}),
        frame("loaded", {"more": 1}),
        frame("loaded", {}, b"body"),
        frame("result", {"id": 1, "kind": "ok", "value": 1, "error_type": "", "message": ""}),
        frame("connect", {"id": 1, "host": "a", "port": True, "timeout_s": 1}),
        frame("connect", {"id": 1, "host": "a", "port": 1.5, "timeout_s": 1}),
        frame("connect", {"id": 1, "host": None, "port": 1, "timeout_s": 1}),
        frame("connected", {"id": 1, "error": 0, "detail": ""}),
        frame("loaded", {}) + frame("drop", {"id": True}),
        frame("loaded", {}) + frame("drop", {"id": "1"}),
        frame("loaded", {}) + frame("drop", {"id": 1.5}),
        frame("ready", {}),
        frame("loaded", {}) * 2,
        frame("loaded", {}) + frame("ready", {}) * 2,
        frame("failed", {"reason": "", "traceback": ""}) + frame("loaded", {}),
        frame("ended", {"kind": "", "reason": "", "traceback": ""}) * 2,
        frame("stop", {}),
        frame("log", b"[" * 60_000),
        wire.HEAD.pack(wire.TAGS[wire.Loaded], 1, wire.SIGN_BYTES_MAX),
        wire.HEAD.pack(wire.TAGS[wire.Log], 2**32 - 1, 2**32 - 1),
    ],
)
def test_what_the_kernel_does_not_take(data: bytes) -> None:
    end = wire.Wire("kernel")
    with pytest.raises(wire.WireError):
        end.receive(data)


FROM_SERVICE = (
    wire.Loaded,
    wire.Ready,
    wire.Log,
    wire.Result,
    wire.Ask,
    wire.Connect,
    wire.Drop,
    wire.Failed,
    wire.Ended,
)


@pytest.mark.parametrize("kind", FROM_SERVICE)
@pytest.mark.parametrize("in_body", [False, True])
def test_too_large_is_seen_from_the_head_alone(kind: type, in_body: bool) -> None:
    end = wire.Wire("kernel")
    if kind not in (wire.Loaded, wire.Failed):
        end.receive(frame("loaded", {}))
    most = wire.BYTES_MAX[kind]
    assert most <= wire.RESULT_BYTES_MAX and (most < 100_000 or kind in (wire.Ask, wire.Result))
    sizes = (1, most) if in_body else (most + 1, 0)
    with pytest.raises(wire.WireError, match="at most"):
        end.receive(wire.HEAD.pack(wire.TAGS[kind], *sizes))


@pytest.mark.parametrize("kind", [wire.Log, wire.Result, wire.Ask])
def test_the_largest_of_its_kind_is_taken(kind: type) -> None:
    def message(text: str) -> Any:
        if kind is wire.Log:
            return wire.Log("info", text, {})
        return wire.Result(1, "ok", text, "", "") if kind is wire.Result else wire.Ask(1, 0, "s", "f", [text], {}, 1.0)

    service, kernel = wire.Wire("service"), wire.Wire("kernel")
    kernel.receive(service.send(wire.Loaded()))
    rest = wire.BYTES_MAX[kind] - (len(service.send(message(""))) - wire.HEAD.size)
    data = service.send(message("x" * rest))
    assert kernel.receive(data) == [message("x" * rest)]
    with pytest.raises(wire.FrameTooLarge):
        service.send(message("x" * (rest + 1)))
    if kind is wire.Ask:
        [again] = kernel.receive(data)
        assert isinstance(again, wire.Ask) and again.size == wire.ASK_BYTES_MAX


def test_messages_one_at_a_time() -> None:
    service, kernel = wire.Wire("service"), wire.Wire("kernel")
    kernel.feed(service.send(wire.Loaded()) + service.send(wire.Drop(1)) + b"\xff" * wire.HEAD.size)
    assert kernel.next() == wire.Loaded() and kernel.next() == wire.Drop(1)
    for _ in range(2):
        with pytest.raises(wire.WireError):
            kernel.next()


def test_the_first_good_messages_of_a_bad_chunk_are_not_delivered() -> None:
    end = wire.Wire("kernel")
    with pytest.raises(wire.WireError):
        end.receive(frame("loaded", {}) + frame("loaded", {}))
    with pytest.raises(wire.WireError):
        end.receive(frame("ready", {}))


def test_sending_out_of_order_or_too_much() -> None:
    end = wire.Wire("service")
    with pytest.raises(wire.WireError):
        end.send(wire.Ready())
    end.send(wire.Loaded())
    with pytest.raises(wire.FrameTooLarge):
        end.send(wire.Result(1, "ok", "x" * wire.RESULT_BYTES_MAX, "", ""))
    with pytest.raises(wire.FrameTooLarge):
        end.send(wire.Result(1, "ok", object(), "", ""))
    end.send(wire.Ready())  # neither of them hurt the wire
    with pytest.raises(wire.WireError):
        end.send(wire.Stop())
    with pytest.raises(wire.WireError):
        wire.Wire("kernel").send(wire.Stop())


def test_the_bound_is_exact() -> None:
    empty = len(orjson.dumps(dict(zip(HELLO_FIELDS, (*HELLO_VALUES, "python_source"), strict=True))))
    fits = wire.FRAME_BYTES_MAX - empty
    [message] = wire.Wire("service").receive(wire.Wire("kernel").send(wire.Hello(*HELLO_VALUES, b"x" * fits)))
    assert isinstance(message, wire.Hello) and len(message.body) == fits
    with pytest.raises(wire.FrameTooLarge):
        wire.Wire("kernel").send(wire.Hello(*HELLO_VALUES, b"x" * (fits + 1)))


HELLO_VALUES: tuple[Any, ...] = ("t", "s", 1, 1, "process", {}, 64)
HELLO_FIELDS = ("tenant_id", "service_id", "version", "generation", "isolation", "config", "calls_in_flight", "format")
