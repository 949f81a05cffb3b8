"""The wire between kernel and service process. Owns: messages, frames, and which may follow which. Never: does I/O.

In the manner of h11: bytes in, messages out, one `Wire` at each end. A frame is two big-endian 32-bit lengths, then a JSON
header, then a raw body (the source, in `Hello`; empty otherwise). Anything malformed, too large or out of order raises
`WireError`, after which this end is of no use any more. The service is the untrusted end.

    kernel:   Hello, then any of Call Cancel Stop Answer
    service:  LOADING -Loaded-> LOADED -Ready-> READY, from each of them -Failed or Ended-> OVER
              Log in all but OVER; Result Ask Drop once loaded
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Final, Literal, cast

import attrs
import orjson
from attrs import frozen

FRAME_BYTES_MAX: Final = 16 * 1024 * 1024
"""Header and body of one frame; so the largest source, argument list or result."""
_LENGTHS: Final = struct.Struct(">II")


class WireError(Exception):
    """The other end broke the protocol, or this end was asked to."""


class FrameTooLarge(WireError):
    """The message does not fit a frame, or has no JSON form; nothing was sent and the wire is still good."""


@frozen
class Hello:
    tenant_id: str
    service_id: str
    version: int
    generation: int
    isolation: str
    config: dict[str, Any]
    calls_in_flight: int
    body: bytes = attrs.field(default=b"", repr=False)
    """The source, UTF-8."""


@frozen
class Call:
    id: int
    function: str
    args: list[Any]
    kwargs: dict[str, Any]


@frozen
class Cancel:
    id: int


@frozen
class Stop:
    pass


@frozen
class Answer:
    """To an `Ask`: `code` is empty, or that of the error."""

    id: int
    code: str
    detail: str
    value: Any


@frozen
class Loaded:
    pass


@frozen
class Ready:
    pass


@frozen
class Log:
    level: str
    message: str
    fields: dict[str, Any]


@frozen
class Result:
    """To a `Call`: `kind` is one of `life.ReplyKind`."""

    id: int
    kind: str
    value: Any
    error_type: str
    message: str


@frozen
class Ask:
    """The service calls another one."""

    id: int
    service_id: str
    function: str
    args: list[Any]
    kwargs: dict[str, Any]
    timeout_s: float


@frozen
class Drop:
    """The service no longer waits for the answer to an `Ask`."""

    id: int


@frozen
class Failed:
    """The source did not load."""

    reason: str
    traceback: str


@frozen
class Ended:
    """The last word: `kind` is one of `life.Verdict`'s."""

    kind: str
    reason: str
    traceback: str


FromKernel = Hello | Call | Cancel | Stop | Answer
FromService = Loaded | Ready | Log | Result | Ask | Drop | Failed | Ended
Message = FromKernel | FromService

Role = Literal["kernel", "service"]

# state of the sender -> message -> its next state
_KERNEL: Final[dict[str, dict[type, str]]] = {
    "new": {Hello: "open"},
    "open": {Call: "open", Cancel: "open", Stop: "open", Answer: "open"},
}
_SERVICE: Final[dict[str, dict[type, str]]] = {
    "loading": {Log: "loading", Loaded: "loaded", Failed: "over", Ended: "over"},
    "loaded": {Log: "loaded", Result: "loaded", Ask: "loaded", Drop: "loaded", Ready: "ready", Ended: "over"},
    "ready": {Log: "ready", Result: "ready", Ask: "ready", Drop: "ready", Ended: "over"},
    "over": {},
}
_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "str": (str,),
    "int": (int,),
    "float": (float, int),
    "list[Any]": (list,),
    "dict[str, Any]": (dict,),
    "Any": (object,),
}
_SHAPES: Final[dict[type, dict[str, tuple[type, ...]]]] = {
    kind: {a.name: _TYPES[str(a.type)] for a in attrs.fields(kind) if a.name != "body"}
    for table in (_KERNEL, _SERVICE)
    for moves in table.values()
    for kind in moves
}
_BY_NAME: Final = {kind.__name__.lower(): kind for kind in _SHAPES}


class Wire:
    """One end of a connection: `send` turns a message into bytes, `receive` turns bytes into messages."""

    def __init__(self, role: Role) -> None:
        self._buffer = bytearray()
        self._broken = False
        if role == "kernel":
            self._mine, self._my_state, self._theirs, self._their_state = _KERNEL, "new", _SERVICE, "loading"
        else:
            self._mine, self._my_state, self._theirs, self._their_state = _SERVICE, "loading", _KERNEL, "new"

    @property
    def over(self) -> bool:
        """The other end has said its last word."""
        return self._their_state == "over"

    def send(self, message: Message) -> bytes:
        """The frame of `message`. Raises `FrameTooLarge`, and `WireError` if it may not be sent now."""
        moves = self._mine[self._my_state]
        if type(message) not in moves:
            raise WireError(f"{type(message).__name__} may not be sent when {self._my_state}")
        body = message.body if isinstance(message, Hello) else b""
        values = {name: getattr(message, name) for name in _SHAPES[type(message)]}
        try:
            header = orjson.dumps([type(message).__name__.lower(), values])
        except (TypeError, orjson.JSONEncodeError) as error:
            raise FrameTooLarge(f"not JSON: {error}") from None
        if len(header) + len(body) > FRAME_BYTES_MAX:
            raise FrameTooLarge(f"{len(header) + len(body)} bytes; a frame has at most {FRAME_BYTES_MAX}")
        self._my_state = moves[type(message)]
        return _LENGTHS.pack(len(header), len(body)) + header + body

    def receive(self, data: bytes) -> list[Message]:
        """Take `data`, give the messages that it completes. Raises `WireError`, once and for all."""
        if self._broken:
            raise WireError("this end was broken off already")
        self._buffer += data
        messages = []
        try:
            while (message := self._next()) is not None:
                messages.append(message)
        except WireError:
            self._broken = True
            self._buffer.clear()
            raise
        return messages

    def _next(self) -> Message | None:
        if len(self._buffer) < _LENGTHS.size:
            return None
        header_size, body_size = _LENGTHS.unpack_from(self._buffer)
        if header_size + body_size > FRAME_BYTES_MAX:
            raise WireError(f"a frame of {header_size + body_size} bytes; at most {FRAME_BYTES_MAX} are taken")
        middle = _LENGTHS.size + header_size
        end = middle + body_size
        if len(self._buffer) < end:
            return None
        header, body = bytes(self._buffer[_LENGTHS.size : middle]), bytes(self._buffer[middle:end])
        del self._buffer[:end]
        message = _decode(header, body)
        moves = self._theirs.get(self._their_state, {})
        if type(message) not in moves:
            raise WireError(f"{type(message).__name__} may not be received when {self._their_state}")
        self._their_state = moves[type(message)]
        return message


def _decode(header: bytes, body: bytes) -> Message:
    try:
        frame = orjson.loads(header)
    except orjson.JSONDecodeError as error:
        raise WireError(f"the header is not JSON: {error}") from None
    if not (
        isinstance(frame, list) and len(frame) == 2 and isinstance(frame[0], str) and isinstance(frame[1], Mapping)
    ):
        raise WireError("the header is not [name, values]")
    name, values = frame
    kind = _BY_NAME.get(name)
    if kind is None:
        raise WireError(f"unknown message {name[:40]!r}")
    shape = _SHAPES[kind]
    if values.keys() != shape.keys():
        raise WireError(f"{name} has fields {sorted(values)[:20]}, not {sorted(shape)}")
    for field, types in shape.items():
        if not isinstance(values[field], types) or (isinstance(values[field], bool) and types != (object,)):
            raise WireError(f"{name}.{field} is a {type(values[field]).__name__}")
    if kind is Hello:
        return Hello(**values, body=body)
    if body:
        raise WireError(f"{name} has a body")
    return cast(Message, kind(**values))
