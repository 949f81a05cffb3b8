"""What happened in a run, in order. Owns: its lines, the digest over all of them, violations. Never: decides anything."""

from __future__ import annotations

import hashlib
from collections import deque
from typing import Final

LINES_KEPT: Final = 60
"""Of a run that is not traced in full."""
VIOLATIONS_MAX: Final = 20


class Trace:
    """`full`: keep every line."""

    def __init__(self, *, full: bool = False) -> None:
        self.lines: deque[str] = deque(maxlen=None if full else LINES_KEPT)
        self.violations: list[str] = []
        self._digest = hashlib.sha256()

    def add(self, line: str) -> None:
        self.lines.append(line)
        self._digest.update(line.encode() + b"\n")

    def violate(self, line: str, what: str) -> None:
        self.add(f"{line} VIOLATION {what}")
        if len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(what)

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()
