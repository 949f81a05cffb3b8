"""One life of one loaded service. Owns: running `main` and the calls, and the verdict. Never: knows process from task."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, Literal

import trio
from attrs import frozen

from solo_trio.runtimes.fence import Outcome, fenced, innermost, message_of, reason_of, traceback_tail, type_of
from solo_trio.service.calling import MAIN, Caller, answering
from solo_trio.service.context import Context
from solo_trio.service.module import FunctionNotFound, Module
from solo_trio.service.values import NotJson

CALLS_IN_FLIGHT_DEFAULT: Final = 64

ReplyKind = Literal["ok", "raised", "function_not_found", "result_not_serialisable", "overloaded", "interrupted"]


@frozen
class Reply:
    """What a call came to. `error_type` is the class name of what it raised."""

    kind: ReplyKind
    value: Any = None
    error_type: str = ""
    message: str = ""


@frozen
class Verdict:
    """How a life ended, by what happened inside it."""

    kind: Literal["completed", "crashed", "stopped"]
    reason: str
    traceback: str = ""
    exit_code: int = 0


class Life:
    """Runs a `Module`: `run` once; `call` and `stop` from the same Trio thread."""

    def __init__(self, module: Module, ctx: Context, calls_max: int, on_ready: Callable[[], None]) -> None:
        self._module = module
        self._ctx = ctx
        self.calls_max = calls_max
        self._on_ready = on_ready
        self._scope = trio.CancelScope()
        self._calls: dict[int, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None
        self._early: dict[int, tuple[Callable[[], None], Callable[[Reply], None]]] | None = {}
        """Calls that came before `run`, in order: how to start one, and its `done`. None from then on."""
        self._stopping = False
        self._fatal: BaseException | None = None

    async def run(self) -> Verdict:
        """Until `main` ends, `stop` is called, or a call raises what no call may raise. Never raises by itself."""
        answering(MAIN)  # whatever it was that began this task: `main` is nobody's call
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            early, self._early = self._early, None
            for start, _ in (early or {}).values():
                start()
            outcome = await fenced(self._scope, functools.partial(self._module.run, self._ctx, self._on_ready))
            self._nursery = None
            for scope in self._calls.values():
                scope.cancel()
        return self._verdict(outcome)

    def stop(self) -> None:
        """Cancel `main` and the calls; idempotent."""
        self._stopping = True
        self._scope.cancel()

    def call(
        self,
        number: int,
        function: str,
        args: list[Any],
        kwargs: dict[str, Any],
        told: dict[str, Any],
        done: Callable[[Reply], None],
    ) -> None:
        """Start a call; `done` gets its reply exactly once, unless the whole life is cancelled from outside.

        `told`: what the service may know of who calls (`model.mandate.Mandate.view`).
        """
        if self._early is not None:
            self._early[number] = functools.partial(self.call, number, function, args, kwargs, told, done), done
        elif self._nursery is None or self._scope.cancel_called:
            done(Reply("interrupted"))
        elif len(self._calls) >= self.calls_max:
            done(Reply("overloaded", message=f"{self.calls_max} calls are in flight"))
        else:
            self._calls[number] = trio.CancelScope()
            who = self._ctx.answering(number, told)
            self._nursery.start_soon(self._call, who, function, args, kwargs, done, name=f"call {function[:80]}")

    def cancel(self, number: int) -> None:
        """Cancel a call; unknown numbers are calls that are over already."""
        if number in self._calls:
            self._calls[number].cancel()
        elif self._early is not None and number in self._early:
            self._early.pop(number)[1](Reply("interrupted"))

    @trio.lowlevel.enable_ki_protection
    async def _call(
        self, who: Caller, function: str, args: list[Any], kwargs: dict[str, Any], done: Callable[[Reply], None]
    ) -> None:
        answering(who)  # a task of its own has a context of its own
        number = who.number
        outcome = await fenced(self._calls[number], functools.partial(self._module.call, function, args, kwargs))
        del self._calls[number]
        if outcome.error is not None and not isinstance(outcome.error, Exception):
            # SystemExit and its like end a program wherever they are raised; so they do here (supervision row 17).
            if self._fatal is None:
                self._fatal = outcome.error
            self._scope.cancel()
        done(_reply(outcome))

    def _verdict(self, outcome: Outcome) -> Verdict:
        error = self._fatal if self._fatal is not None else outcome.error
        if error is not None:
            return crashed(error)
        if self._stopping or outcome.cancelled:
            return Verdict("stopped", "stopped on request")
        return Verdict("completed", "main returned")


def _reply(outcome: Outcome) -> Reply:
    error = outcome.error
    if error is None:
        return Reply("interrupted") if outcome.cancelled else Reply("ok", value=outcome.value)
    if isinstance(error, FunctionNotFound):
        return Reply("function_not_found")
    if isinstance(error, NotJson):
        return Reply("result_not_serialisable", message=message_of(error))
    if not isinstance(error, Exception):
        return Reply("interrupted", message=reason_of(error))
    found = innermost(error)
    return Reply("raised", error_type=type_of(found), message=message_of(found))


def crashed(error: BaseException) -> Verdict:
    """The verdict on an error of the service."""
    found = innermost(error)
    code = 1
    if isinstance(found, SystemExit):
        code = found.code if isinstance(found.code, int) else 0 if found.code is None else 1
    return Verdict("crashed", reason_of(error), traceback_tail(error), code)
