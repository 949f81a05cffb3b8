"""Chunked bodies, strictly. Owns: what of h11's reader of chunks and trailers is refused. Never: reads a socket.

Other servers end a chunk's line or a trailer where h11 does not, or the other way round; then two of them in a row see
different requests (`tests/gateways/test_http_strict.py` compares with a second parser).
"""

from __future__ import annotations

import re
from typing import Any, Final

import h11
from h11._readers import ChunkedReader

LOOSE: Final = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\n[ \t]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
"""A line feed without carriage return, the reverse, a folded line, a control character: servers read these differently."""
_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED: Final = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
_LINE: Final = re.compile(rb"[0-9A-Fa-f]{1,16}(?:;" + _TOKEN + rb"(?:=(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?)*")
"""A chunk's size and extensions, as in RFC 9112 7.1, without the blanks that it calls bad."""
_LINE_END: Final = b"\r\n"
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})


class StrictChunks(ChunkedReader):
    """h11's, looking first at what it is about to take."""

    def __init__(self, line_bytes_max: int) -> None:
        super().__init__()
        self._line_bytes_max = line_bytes_max

    def __call__(self, buf: Any) -> Any:
        data: bytearray = buf._data
        if self._reading_trailer:
            self._check_trailer(data)
        elif not self._bytes_in_chunk:
            start = len(self._bytes_to_discard)
            end = data.find(_LINE_END, start, start + self._line_bytes_max)
            self._check_length(end - start if end >= 0 else len(data) - start)
            if end >= 0 and _LINE.fullmatch(data, start, end) is None:
                raise h11.RemoteProtocolError("a chunk begins with its size in hexadecimal digits, and tokens")
        event = super().__call__(buf)
        if isinstance(event, h11.EndOfMessage) and any(name in _FRAMING for name, _ in event.headers):
            raise h11.RemoteProtocolError("a trailer cannot frame the message it ends")
        return event

    def _check_trailer(self, data: bytearray) -> None:
        if data.startswith(_LINE_END):
            return
        end = data.find(_LINE_END * 2)
        end = len(data) if end < 0 else end
        self._check_length(end)
        if LOOSE.search(data, 0, end):
            raise h11.RemoteProtocolError("the trailer has loose line ends, folded lines or control characters")

    def _check_length(self, length: int) -> None:
        if length >= self._line_bytes_max:
            raise h11.RemoteProtocolError("the line of a chunk, or a trailer, is too long", error_status_hint=431)
