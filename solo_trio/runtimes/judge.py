"""How a process ended. Owns: the one rule that turns what was said and what was seen into an `Ending`. Never: I/O."""

from __future__ import annotations

import os
import signal
from typing import Final

from attrs import evolve, frozen

from solo_trio.ports import Ending
from solo_trio.runtimes import wire

REASON_CHARS_MAX: Final = 1_000
TRACEBACK_CHARS_MAX: Final = 8_000
"""An ending is kept for ever: what a service says about its own is not taken at any length."""


@frozen
class Evidence:
    """`status` is the wait status, None if the zygote died before it could tell; `fault` is why the kernel ended it."""

    status: int | None
    last_word: wire.Failed | wire.Ended | None
    killed: bool
    stop_requested: bool
    fault: str | None


def judge(seen: Evidence) -> Ending:
    """What the service said counts only if it then exited by itself; a signal is stronger than words."""
    ending = _judge(seen)
    return evolve(ending, reason=ending.reason[:REASON_CHARS_MAX], traceback=_last_lines(ending.traceback))


def _last_lines(text: str) -> str:
    if len(text) <= TRACEBACK_CHARS_MAX:
        return text
    kept = text[-TRACEBACK_CHARS_MAX:]
    return kept.partition("\n")[2] or kept  # from the start of a line, if there is one


def _judge(seen: Evidence) -> Ending:
    code, name = _status(seen.status)
    if seen.fault is not None:
        return Ending("crashed", seen.fault, exit_code=code, signal=name)
    word = seen.last_word
    if isinstance(word, wire.Failed):
        return Ending("load_failed", word.reason, word.traceback, exit_code=code, signal=name)
    if isinstance(word, wire.Ended) and name is None:
        match word.kind:
            case "completed":
                return Ending("completed", word.reason, exit_code=code)
            case "stopped" if seen.stop_requested:
                return Ending("stopped", word.reason, exit_code=code)
            case _:  # also a stop that nobody asked for
                return Ending("crashed", word.reason, word.traceback, exit_code=code)
    if seen.killed and (name == "SIGKILL" or seen.status is None):
        return Ending("killed", "killed by the kernel", exit_code=code, signal=name)
    if seen.status is None:
        return Ending("lost", "the zygote of its tenant died")
    traceback = word.traceback if isinstance(word, wire.Ended) else ""
    reason = f"ended by {name}" if name is not None else f"exited by itself with code {code}"
    return Ending("crashed", reason, traceback, exit_code=code, signal=name)


def _status(status: int | None) -> tuple[int | None, str | None]:
    if status is None:
        return None, None
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            return None, signal.Signals(number).name
        except ValueError:
            return None, f"SIGNAL {number}"  # a real-time one
    return os.WEXITSTATUS(status), None
