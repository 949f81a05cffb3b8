"""The fence around service code. Owns: turning whatever it raises into a value. Never: swallows Trio's own `Cancelled`.

House rule 9 forbids catching `BaseException` everywhere else. Here SystemExit, KeyboardInterrupt and exception groups that
mix `Cancelled` with errors of clean-up become an `Outcome` (supervision rows 15 and 17).
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import trio
from attrs import frozen

TRACEBACK_LINES_MAX: Final = 40
TRACEBACK_CHARS_MAX: Final = 8_192
REASON_CHARS_MAX: Final = 500
TYPE_CHARS_MAX: Final = 100

_OWN_CODE: Final = (
    *(str(Path(__file__).parents[1] / room) + "/" for room in ("runtimes", "service")),
    "<frozen importlib.",
)
"""And the machinery of imports, between one module of an archive and another."""


@frozen
class Outcome:
    """How a piece of service code ended: with a value, with an error, or (neither) because it was cancelled."""

    value: Any = None
    error: BaseException | None = None
    cancelled: bool = False


async def fenced(scope: trio.CancelScope, body: Callable[[], Awaitable[Any]]) -> Outcome:
    """Run `body` inside `scope`; never raises. After an outer cancellation the next checkpoint raises, as it should.

    A `Cancelled` that no scope asked for (kept from an earlier one and raised again) is an error of the service: let
    through, it would go up to the kernel's own nursery.
    """
    try:
        with scope:
            return Outcome(value=await body())
        return Outcome(cancelled=True)
    except BaseException as error:  # noqa: BLE001 - this is the fence
        rest = without_cancelled(error)
        if rest is not None:
            return Outcome(error=rest)
        if scope.cancel_called or trio.current_effective_deadline() == -math.inf:
            return Outcome(cancelled=True)
        return Outcome(error=RuntimeError("raised trio.Cancelled though nothing had cancelled it"))


def without_cancelled(error: BaseException) -> BaseException | None:
    """What is left of `error` without any `Cancelled` in it, at every depth."""
    if isinstance(error, trio.Cancelled):
        return None
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1]
    return error


def innermost(error: BaseException) -> BaseException:
    """The one error inside groups of one: what a person wants to read."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def message_of(error: BaseException) -> str:
    """`str(error)`, bounded, encodable, and safe against a `__str__` that raises."""
    try:
        text = str(error)
    except BaseException:  # noqa: BLE001 - service code
        text = "<the exception's str() failed>"
    return _clean(text)[:REASON_CHARS_MAX]


def type_of(error: BaseException) -> str:
    """The name of its class, bounded: a service may make classes of any name."""
    return type(error).__name__[:TYPE_CHARS_MAX]


def reason_of(error: BaseException) -> str:
    """One line for people: the type and message of the error that matters."""
    found = innermost(error)
    text = message_of(found).partition("\n")[0]
    return f"{type_of(found)}: {text}" if text else type_of(found)


def traceback_tail(error: BaseException) -> str:
    """The last lines of the traceback as Python prints it, without the frames of Solo itself."""
    try:
        report = traceback.TracebackException.from_exception(error)
        _trim(report)
        text = _clean("".join(report.format(chain=True)))
    except BaseException:  # noqa: BLE001 - formatting runs service code (__str__, __notes__), which may do anything
        text = reason_of(error) + "\n"
    return "".join(text.splitlines(keepends=True)[-TRACEBACK_LINES_MAX:])[-TRACEBACK_CHARS_MAX:]


def _trim(report: traceback.TracebackException) -> None:
    waiting, seen = [report], set[int]()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        kept = [frame for frame in one.stack if not frame.filename.startswith(_OWN_CODE)]
        one.stack = traceback.StackSummary.from_list(kept)
        waiting.extend(part for part in (one.__cause__, one.__context__, *(one.exceptions or ())) if part is not None)


def _clean(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
