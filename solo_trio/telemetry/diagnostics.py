"""The kernel's own notes. Owns: contained defects and notable faults, on the log and in memory. Never: swallows one."""

from __future__ import annotations

import logging
from collections import deque
from typing import Any, Final

BUGS_KEPT_MAX: Final = 100
log = logging.getLogger("solo")


class Diagnostics:
    """Implements `ports.Telemetry` on the standard `logging`."""

    def __init__(self) -> None:
        self.bugs: deque[str] = deque(maxlen=BUGS_KEPT_MAX)
        self.bug_count = 0

    def bug(self, where: str, error: BaseException) -> None:
        self.bug_count += 1
        self.bugs.append(f"{where}: {type(error).__name__}")
        log.error("contained a defect while %s", where, exc_info=error)

    def note(self, message: str, **fields: Any) -> None:
        log.warning("%s %s", message, " ".join(f"{name}={value}" for name, value in fields.items()))
