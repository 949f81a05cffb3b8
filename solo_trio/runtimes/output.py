"""Printed lines. Owns: cutting a byte stream into bounded lines, and draining a pipe. Never: decides what is kept."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Final

import trio

from solo_trio.policy.redaction import RedactedStream

LOG_LINE_BYTES_MAX: Final = 8_192
"""A longer line is handed on in parts of this size."""
READ_BYTES: Final = 8_192
"""Small, so that a flood of empty lines costs the kernel's loop milliseconds, not more, before others have their turn."""


class LineSplitter:
    """Bytes in, lines out; what is not UTF-8 is replaced."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """The lines that `data` completes."""
        *whole, rest = (self._rest + data).split(b"\n")
        lines = [part for line in whole for part in _parts(line)]
        while len(rest) > LOG_LINE_BYTES_MAX:
            lines.append(_text(rest[:LOG_LINE_BYTES_MAX]))
            rest = rest[LOG_LINE_BYTES_MAX:]
        self._rest = rest
        return lines

    def finish(self) -> list[str]:
        """The last line, if it had no end."""
        rest, self._rest = self._rest, b""
        return _parts(rest) if rest else []


def _parts(line: bytes) -> list[str]:
    return [_text(line[at : at + LOG_LINE_BYTES_MAX]) for at in range(0, len(line), LOG_LINE_BYTES_MAX)] or [""]


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip("\r")


async def drain(descriptor: int, take: Callable[[str], None], redacted: RedactedStream) -> None:
    """Hand on each line of a non-blocking pipe until it ends; on cancellation, what was read so far."""
    splitter = LineSplitter()
    try:
        while True:
            await trio.lowlevel.wait_readable(descriptor)
            with contextlib.suppress(BlockingIOError):
                data = os.read(descriptor, READ_BYTES)
                if not data:
                    return
                for line in splitter.feed(redacted.feed(data)):
                    take(line)
    finally:
        for line in (*splitter.feed(redacted.finish()), *splitter.finish()):
            take(line)
