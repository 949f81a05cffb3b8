"""Stored bytes are for ever: golden samples of every kind, damaged and newer ones, and upcasters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from attrs import fields, frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from model_driver import with_tenant
from model_histories import endings, specs
from model_samples import GOLDEN, OLD_SAMPLES, SAMPLES

from solo_trio.errors import Faulted
from solo_trio.model import codec
from solo_trio.model.event import KINDS, UPCASTERS, Event, event
from solo_trio.model.record import StoredEvent
from solo_trio.model.service_events import ServiceCrashed, ServiceDeploymentStarted
from solo_trio.model.spec import ServiceSpec
from solo_trio.model.state import KernelState, apply

FILES = sorted(GOLDEN.iterdir())
every_kind = pytest.mark.parametrize("kind", sorted(KINDS))


def kind_of(file: Path) -> tuple[str, int]:
    kind, version, suffix = file.name.split(".")
    assert suffix == "json" and version.startswith("v")
    return kind, int(version.removeprefix("v"))


def stored(kind: str, schema: int, payload: bytes | None) -> StoredEvent:
    return StoredEvent(1, 0, 0.0, None, None, None, kind, schema, payload)


# -- golden samples


@every_kind
def test_every_kind_has_a_golden_sample_of_its_newest_version(kind: str) -> None:
    assert kind in SAMPLES, "say in model_samples.py what it is read as"
    assert (GOLDEN / f"{kind}.v{KINDS[kind].SCHEMA}.json").is_file()


@pytest.mark.parametrize("file", FILES, ids=[file.name for file in FILES])
def test_every_golden_sample_is_read_as_ever(file: Path) -> None:
    """Of older versions too, through their upcasters."""
    kind, schema = kind_of(file)
    payload = file.read_bytes()
    sample = codec.decode(kind, schema, payload)
    assert sample == OLD_SAMPLES.get((kind, schema), SAMPLES[kind])
    assert type(sample) is KINDS[kind]
    if schema == KINDS[kind].SCHEMA:
        assert codec.encode(SAMPLES[kind]) == payload


@pytest.mark.parametrize("file", FILES, ids=[file.name for file in FILES])
def test_a_golden_sample_is_of_a_kind_that_is_known(file: Path) -> None:
    kind, schema = kind_of(file)
    assert 1 <= schema <= KINDS[kind].SCHEMA
    if schema == KINDS[kind].SCHEMA:
        assert set(orjson.loads(file.read_bytes())) == {field.name for field in fields(KINDS[kind])}


# -- what cannot be read


@every_kind
def test_a_newer_version_is_not_ours_to_read(kind: str) -> None:
    with pytest.raises(Faulted) as fault:
        codec.decode(kind, KINDS[kind].SCHEMA + 1, codec.encode(SAMPLES[kind]))
    assert fault.value.code == "data_newer"


@pytest.mark.parametrize("kind", ["service_dreamt", "", "x_paid", "service_ready ", "SERVICE_READY"])
def test_an_unknown_kind_is_from_a_newer_version(kind: str) -> None:
    with pytest.raises(Faulted) as fault:
        codec.decode(kind, 1, b"{}")
    assert fault.value.code == "data_newer"


@every_kind
@pytest.mark.parametrize(
    "payload",
    [b"", b"null", b"[]", b"1", b'"text"', b"{", b"{}}", b"\xff\xfe", b'{"a": NaN}', b"\0", b'{"unknown": 1}', b"[{}]"],
)
def test_a_damaged_payload(kind: str, payload: bytes) -> None:
    with pytest.raises(Faulted) as fault:
        codec.decode(kind, 1, payload)
    assert fault.value.code == "data_damaged"


@every_kind
def test_a_field_too_many_or_missing_is_damage(kind: str) -> None:
    whole = orjson.loads(codec.encode(SAMPLES[kind]))
    less = [{key: value for key, value in whole.items() if key != name} for name in whole]
    for damaged in ({**whole, "extra": 1}, *less):
        with pytest.raises(Faulted) as fault:
            codec.decode(kind, KINDS[kind].SCHEMA, orjson.dumps(damaged))
        assert fault.value.code == "data_damaged"


def test_a_field_too_many_further_in_is_damage() -> None:
    whole = orjson.loads(codec.encode(SAMPLES["service_deployment_started"]))
    for inner in (whole["spec"], whole["spec"]["limits"], whole["spec"]["restart_limits"]):
        inner["extra"] = 1
        with pytest.raises(Faulted) as fault:
            codec.decode("service_deployment_started", 6, orjson.dumps(whole))
        assert fault.value.code == "data_damaged"
        del inner["extra"]
    assert codec.decode("service_deployment_started", 6, orjson.dumps(whole)) == SAMPLES["service_deployment_started"]


@pytest.mark.parametrize("schema", [0, -1])
def test_a_version_that_never_was_is_damage(schema: int) -> None:
    with pytest.raises(Faulted) as fault:
        codec.decode("service_ready", schema, b'{"deployment":1,"generation":1}')
    assert fault.value.code == "data_damaged"


@settings(deadline=None, print_blob=True)
@given(st.sampled_from(sorted(KINDS)), st.integers(-2, 4), st.binary(max_size=60))
def test_no_payload_makes_it_crash(kind: str, schema: int, payload: bytes) -> None:
    try:
        codec.decode(kind, schema, payload)
    except Faulted as fault:
        assert fault.code in ("data_newer", "data_damaged")


@settings(deadline=None, print_blob=True)
@given(st.data())
def test_a_bit_that_flipped_is_read_as_an_event_or_as_damage(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(KINDS)))
    payload = bytearray(codec.encode(SAMPLES[kind]))
    payload[data.draw(st.integers(0, len(payload) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        assert isinstance(codec.decode(kind, KINDS[kind].SCHEMA, bytes(payload)), KINDS[kind])
    except Faulted as fault:
        assert fault.code == "data_damaged"


# -- there and back


@settings(deadline=None, print_blob=True)
@given(specs, st.integers(1, 99))
def test_a_specification_comes_back_equal(spec: Any, version: int) -> None:
    intent = ServiceDeploymentStarted(spec, spec.digest, version, None, None)
    payload = codec.encode(intent)
    again = codec.decode(intent.TYPE, intent.SCHEMA, payload)
    assert again == intent
    assert codec.encode(again) == payload


@settings(deadline=None, print_blob=True)
@given(endings, st.booleans(), st.booleans())
def test_a_crash_comes_back_equal(ending: Any, counted: bool, restart: bool) -> None:
    crashed = ServiceCrashed(
        1, 2, ending.reason, ending.traceback, ending.exit_code, ending.signal, counted=counted, restart=restart
    )
    assert codec.decode(crashed.TYPE, crashed.SCHEMA, codec.encode(crashed)) == crashed


def test_bytes_do_not_depend_on_the_order_of_keys() -> None:
    one = ServiceDeploymentStarted(_with_config({"a": 1, "b": {"c": 2, "d": 3}}), "", 1, None, None)
    other = ServiceDeploymentStarted(_with_config({"b": {"d": 3, "c": 2}, "a": 1}), "", 1, None, None)
    assert codec.encode(one) == codec.encode(other)


def _with_config(config: dict[str, Any]) -> Any:
    return ServiceSpec(config=config)


# -- upcasters


@contextmanager
def kind_known(cls: type[Event], *upcasters: Any) -> Iterator[None]:
    """The event's kind with upcasters from version 1 on, for as long as the block lasts."""
    try:
        for version, upcaster in enumerate(upcasters, start=1):
            UPCASTERS[cls.TYPE, version] = upcaster
        yield
    finally:
        KINDS.pop(cls.TYPE, None)
        for version in range(1, cls.SCHEMA):
            UPCASTERS.pop((cls.TYPE, version), None)


def greeted() -> type[Event]:
    @event("test_greeted", schema=3)
    @frozen
    class Greeted(Event):
        first: str
        last: str
        loud: bool

        def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
            return state

    return Greeted


def split_name(fields: dict[str, Any]) -> dict[str, Any]:
    first, last = fields.pop("name").split(" ")
    return {**fields, "first": first, "last": last}


def add_loud(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "loud": False}


def test_an_old_version_goes_through_all_its_upcasters() -> None:
    cls: Any = greeted()
    with kind_known(cls, split_name, add_loud):
        expected = cls("Ada", "L", False)
        assert codec.decode("test_greeted", 1, b'{"name":"Ada L"}') == expected
        assert codec.decode("test_greeted", 2, b'{"first":"Ada","last":"L"}') == expected
        assert codec.decode("test_greeted", 3, b'{"first":"Ada","last":"L","loud":false}') == expected
        with pytest.raises(Faulted) as fault:
            codec.decode("test_greeted", 4, b'{"first":"Ada","last":"L","loud":false}')
        assert fault.value.code == "data_newer"
    assert "test_greeted" not in KINDS and not any(kind == "test_greeted" for kind, _ in UPCASTERS)


@pytest.mark.parametrize("payload", [b'{"name":"Ada"}', b'{"nom":"Ada L"}', b"[]", b"null", b"1"])
def test_an_upcaster_that_cannot_read_its_payload_means_damage(payload: bytes) -> None:
    cls = greeted()
    with kind_known(cls, split_name, add_loud):
        with pytest.raises(Faulted) as fault:
            codec.decode("test_greeted", 1, payload)
        assert fault.value.code == "data_damaged"


def test_every_version_between_the_first_and_the_newest_has_an_upcaster() -> None:
    needed = {(kind, version) for kind, cls in KINDS.items() for version in range(1, cls.SCHEMA)}
    assert set(UPCASTERS) == needed


def test_a_kind_is_registered_once() -> None:
    before = dict(KINDS)
    with pytest.raises(RuntimeError):

        @event("service_ready")
        @frozen
        class Again(Event):
            pass

    assert before == KINDS


# -- what is shown


def test_an_erased_event_has_no_payload_and_changes_nothing() -> None:
    record = codec.to_record(stored("service_ready", 1, None))
    assert record.event is None
    assert codec.public(record.stored)["payload"] is None
    state = apply(KernelState(), record)
    assert (state.last_id, state.tenants, state.capabilities) == (1, KernelState().tenants, KernelState().capabilities)


def test_the_public_form() -> None:
    driver = with_tenant()
    driver.deploy()
    driver.begin()
    shown = codec.public(driver.records[-1].stored)
    assert shown == {
        "id": 5,
        "at": "2023-11-14T22:13:20.000000Z",
        "type": "service_started",
        "tenant_id": "acme",
        "subject": "calc",
        "payload": {"deployment": 4, "generation": 1, "cause": "deploy"},
        "causation_id": None,
        "correlation_id": None,
    }


@pytest.mark.parametrize(
    ("at_us", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1, "1970-01-01T00:00:00.000001Z"),
        (999_999, "1970-01-01T00:00:00.999999Z"),
        (1_767_225_600_000_000, "2026-01-01T00:00:00.000000Z"),
        (4_102_444_799_999_999, "2099-12-31T23:59:59.999999Z"),
        (951_782_400_000_001, "2000-02-29T00:00:00.000001Z"),
    ],
)
def test_time_as_text(at_us: int, text: str) -> None:
    assert codec.rfc3339(at_us) == text
