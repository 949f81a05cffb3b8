"""The wire between kernel and service process. Owns: messages, frames, and which may follow which. Never: does I/O.

In the manner of h11: bytes in, messages out, one `Wire` at each end. A frame is a byte for its kind and two big-endian 32-bit
lengths, then a JSON object, then a raw body (the source, in `Hello`; empty otherwise). Anything malformed, too large or out of
order raises `WireError`, after which this end is of no use any more. The service is the untrusted end: the order and the size
of what it says, which has a bound for each kind, are checked from those nine bytes, before any of it is kept or parsed.

    kernel:   Hello, then any of Call Cancel Stop Answer Connected
    service:  LOADING -Loaded-> LOADED -Ready-> READY, from each of them -Failed or Ended-> OVER
              Log Connect Drop in all but OVER; Result Ask AskSecret AskRight once loaded

With the first byte of a `Connected` that grants something comes one descriptor (SCM_RIGHTS); descriptors come in the order of
those messages. The kernel takes none.
"""

from __future__ import annotations

import struct
from typing import Any, Final, Literal, cast

import attrs
import orjson
from attrs import frozen

FRAME_BYTES_MAX: Final = 16 * 1024 * 1024
"""Header and body of one frame from the kernel; so the largest source or argument list."""
RESULT_BYTES_MAX: Final = 1024 * 1024 + 16 * 1024
"""A mebibyte of value, and room for what is around it."""
ASK_BYTES_MAX: Final = 1024 * 1024 + 16 * 1024
LOG_BYTES_MAX: Final = 64 * 1024
LAST_WORD_BYTES_MAX: Final = 32 * 1024
SIGN_BYTES_MAX: Final = 4 * 1024
"""Messages that say nothing but themselves and a number."""
HEAD: Final = struct.Struct(">BII")


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
    """The source: as `format` says, text in UTF-8 or an archive."""
    format: str = "python_source"


@frozen
class Call:
    id: int
    function: str
    args: list[Any]
    kwargs: dict[str, Any]
    caller: dict[str, Any]
    """Who calls, as far as the service may know."""


@frozen
class Cancel:
    id: int


@frozen
class Stop:
    pass


@frozen
class Answer:
    """To an `Ask`, `AskSecret` or `AskRight`: `code` is empty, or that of the error."""

    id: int
    code: str
    detail: str
    value: Any = attrs.field(repr=False)


@frozen
class Connected:
    """To a `Connect`. `error` 0: a descriptor came with it. Otherwise an errno, or if below 0 one of getaddrinfo's."""

    id: int
    error: int
    detail: str


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
    """The service calls another one. `call`: the `Call` that it does so for, which must be open; 0: by itself."""

    id: int
    call: int
    service_id: str
    function: str
    args: list[Any]
    kwargs: dict[str, Any]
    timeout_s: float
    size: int = attrs.field(default=0, eq=False)
    """Bytes that it came in; not sent."""


@frozen
class AskSecret:
    """The service wants the value of a secret: `{"text": ...}` or `{"base64": ...}`."""

    id: int
    name: str
    size: int = attrs.field(default=0, eq=False)
    """Bytes that it counts for; not sent."""


@frozen
class AskRight:
    """Whether who made the open `Call` of that number has `permission` of `resource`."""

    id: int
    call: int
    resource: str
    permission: str
    size: int = attrs.field(default=0, eq=False)
    """Bytes that it counts for; not sent."""


@frozen
class Connect:
    """The service wants a connection to `host`, a name or an address; waits so long for it at the most."""

    id: int
    host: str
    port: int
    timeout_s: float


@frozen
class Drop:
    """The service no longer waits for the answer to an `Ask`, `AskSecret`, `AskRight` or `Connect`, numbered together."""

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


FromKernel = Hello | Call | Cancel | Stop | Answer | Connected
FromService = Loaded | Ready | Log | Result | Ask | AskSecret | AskRight | Connect | Drop | Failed | Ended
Message = FromKernel | FromService

Role = Literal["kernel", "service"]

# state of the sender -> message -> its next state
_KERNEL: Final[dict[str, dict[type, str]]] = {
    "new": {Hello: "open"},
    "open": {Call: "open", Cancel: "open", Stop: "open", Answer: "open", Connected: "open"},
}
_SERVICE: Final[dict[str, dict[type, str]]] = {
    "loading": {Log: "loading", Connect: "loading", Drop: "loading", Loaded: "loaded", Failed: "over", Ended: "over"},
    "loaded": {
        **dict.fromkeys((Log, Result, Ask, AskSecret, AskRight, Connect, Drop), "loaded"),
        Ready: "ready",
        Ended: "over",
    },
    "ready": {**dict.fromkeys((Log, Result, Ask, AskSecret, AskRight, Connect, Drop), "ready"), Ended: "over"},
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
    kind: {a.name: _TYPES[str(a.type)] for a in attrs.fields(kind) if a.name not in ("body", "size")}
    for table in (_KERNEL, _SERVICE)
    for moves in table.values()
    for kind in moves
}
_BY_TAG: Final[dict[int, type]] = {
    1: Hello,
    2: Call,
    3: Cancel,
    4: Stop,
    5: Answer,
    6: Connected,
    16: Loaded,
    17: Ready,
    18: Log,
    19: Result,
    20: Ask,
    21: Drop,
    22: Failed,
    23: Ended,
    24: Connect,
    25: AskSecret,
    26: AskRight,
}
TAGS: Final[dict[type, int]] = {kind: tag for tag, kind in _BY_TAG.items()}
"""The first byte of a frame."""
BYTES_MAX: Final[dict[type, int]] = {
    **dict.fromkeys(TAGS, FRAME_BYTES_MAX),
    Loaded: SIGN_BYTES_MAX,
    Ready: SIGN_BYTES_MAX,
    Drop: SIGN_BYTES_MAX,
    Connect: SIGN_BYTES_MAX,
    AskSecret: SIGN_BYTES_MAX,
    AskRight: SIGN_BYTES_MAX,
    Log: LOG_BYTES_MAX,
    Result: RESULT_BYTES_MAX,
    Ask: ASK_BYTES_MAX,
    Failed: LAST_WORD_BYTES_MAX,
    Ended: LAST_WORD_BYTES_MAX,
}
"""Header and body of one frame, for each kind of message."""


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
            header = orjson.dumps(values)
        except (TypeError, orjson.JSONEncodeError) as error:
            raise FrameTooLarge(f"not JSON: {error}") from None
        size, most = len(header) + len(body), BYTES_MAX[type(message)]
        if size > most:
            raise FrameTooLarge(f"{size} bytes; at most {most} are taken")
        self._my_state = moves[type(message)]
        return HEAD.pack(TAGS[type(message)], len(header), len(body)) + header + body

    def feed(self, data: bytes) -> None:
        """Take `data`; `next` gives the messages that it completes."""
        if self._broken:
            raise WireError("this end was broken off already")
        self._buffer += data

    def next(self) -> Message | None:
        """The next whole message, if there is one. Raises `WireError`, once and for all."""
        if self._broken:
            raise WireError("this end was broken off already")
        try:
            return self._next()
        except WireError:
            self._broken = True
            self._buffer.clear()
            raise

    def receive(self, data: bytes) -> list[Message]:
        """Take `data`, give all messages that it completes; if one of them is bad, none. Raises `WireError`."""
        self.feed(data)
        messages = []
        while (message := self.next()) is not None:
            messages.append(message)
        return messages

    def _next(self) -> Message | None:
        if len(self._buffer) < HEAD.size:
            return None
        tag, header_size, body_size = HEAD.unpack_from(self._buffer)
        kind, moves = _BY_TAG.get(tag), self._theirs.get(self._their_state, {})
        if kind not in moves:
            name = f"a message of kind {tag}" if kind is None else kind.__name__
            raise WireError(f"{name} may not be received when {self._their_state}")
        size, most = header_size + body_size, BYTES_MAX[kind]
        if size > most:
            raise WireError(f"{kind.__name__} of {size} bytes; at most {most} are taken")
        middle, end = HEAD.size + header_size, HEAD.size + size
        if len(self._buffer) < end:
            return None
        header, body = bytes(self._buffer[HEAD.size : middle]), bytes(self._buffer[middle:end])
        del self._buffer[:end]
        message = _decode(kind, header, body)
        self._their_state = moves[kind]
        return message


def _decode(kind: type, header: bytes, body: bytes) -> Message:
    name = kind.__name__
    try:
        values = orjson.loads(header)
    except orjson.JSONDecodeError as error:
        raise WireError(f"{name} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise WireError(f"{name} is no object")
    shape = _SHAPES[kind]
    if values.keys() != shape.keys():
        raise WireError(f"{name} has {len(values)} fields, not {sorted(shape)}")
    for field, types in shape.items():
        if not isinstance(values[field], types) or (isinstance(values[field], bool) and types != (object,)):
            raise WireError(f"{name}.{field} is a {type(values[field]).__name__}")
    if kind is Hello:
        return Hello(**values, body=body)
    if body:
        raise WireError(f"{name} has a body")
    if kind is Ask:
        return Ask(**values, size=len(header))
    return cast(Message, kind(**values))
