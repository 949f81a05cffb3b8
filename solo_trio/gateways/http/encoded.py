"""Records as bytes, made once for all watchers. Owns: the public JSON and its frames, kept for the newest. Never: sends."""

from __future__ import annotations

from typing import Final

import orjson
from attrs import frozen

from solo_trio.kernel.hub import Hub
from solo_trio.model import codec
from solo_trio.model.record import StoredEvent

KEPT_RECORDS_MAX: Final = 1_024
"""Of the newest: watchers that are further behind read the journal anyway, and are not many."""
KEPT_BYTES_MAX: Final = 8 * 1_048_576
"""Of JSON; the newest record is kept whatever its size."""
_SHORT_MAX: Final = 125
_MIDDLE_MAX: Final = 0xFFFF


@frozen
class Shown:
    """One record: its public JSON, and what stands before it in each dialect."""

    json: bytes
    sse_head: bytes
    socket_head: bytes


SSE_TAIL: Final = b"\n\n"
_SOCKET_OPEN: Final = b'{"event":'
SOCKET_TAIL: Final = b"}"


class Encodings:
    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._kept: dict[int, Shown] = {}
        self._kept_bytes = 0
        self.made = 0

    def of(self, stored: StoredEvent) -> Shown:
        shown = self._kept.get(stored.id)
        if shown is None:
            shown = self._make(stored)
            if stored.id > self._hub.last_id - KEPT_RECORDS_MAX:
                self._keep(stored.id, shown)
        return shown

    def _make(self, stored: StoredEvent) -> Shown:
        self.made += 1
        json = orjson.dumps(codec.public(stored))
        return Shown(
            json,
            b"id: %d\nevent: %s\ndata: " % (stored.id, stored.type.encode()),
            frame_head(len(_SOCKET_OPEN) + len(json) + len(SOCKET_TAIL)) + _SOCKET_OPEN,
        )

    def _keep(self, id_: int, shown: Shown) -> None:
        self._kept[id_] = shown
        self._kept_bytes += len(shown.json)
        while len(self._kept) > KEPT_RECORDS_MAX or (self._kept_bytes > KEPT_BYTES_MAX and len(self._kept) > 1):
            oldest = next(iter(self._kept))
            self._kept_bytes -= len(self._kept.pop(oldest).json)


def frame_head(size: int) -> bytes:
    """The head of a whole text frame from a server (RFC 6455 5.2): final, not masked."""
    if size <= _SHORT_MAX:
        return bytes((0x81, size))
    if size <= _MIDDLE_MAX:
        return b"\x81\x7e" + size.to_bytes(2, "big")
    return b"\x81\x7f" + size.to_bytes(8, "big")


def text_frame(text: bytes) -> bytes:
    return frame_head(len(text)) + text
