"""A loaded service. Owns: finding exports and `main`, and calling them. Never: knows which process it is in."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping
from types import ModuleType
from typing import Any, Final, TypeVar

import trio

from solo_trio.service.context import Context
from solo_trio.service.values import plain

SYNC_CALLS_MAX: Final = 32
"""Threads of one service that run plain (not async) exports at the same time; further calls wait."""

_MARK: Final = "__solo_export__"
F = TypeVar("F", bound=Callable[..., Any])


class NotAService(Exception):
    """There is nothing to run: the message says what is missing."""


class FunctionNotFound(Exception):
    """No export has that name."""


def export(function: F) -> F:
    """Make a function of the module callable from outside, under the name it has in the module.

    An `async` function runs in the service's event loop, any other in a thread.
    """
    if not callable(function):
        raise TypeError("@service.export takes a function; write it without parentheses")
    setattr(function, _MARK, True)
    return function


class Module:
    """The exports and the `main` of one service."""

    def __init__(self, exports: Mapping[str, Callable[..., Any]], main: Callable[..., Awaitable[None]] | None) -> None:
        self.exports = dict(exports)
        self._main = main
        self._wants_status = main is not None and _check_main(main)
        self._threads: trio.CapacityLimiter | None = None

    @classmethod
    def from_namespace(cls, names: Mapping[str, Any]) -> Module:
        """The module that `names` (its globals) describe. Raises `NotAService` if `main` is no async function."""
        exports = {name: value for name, value in names.items() if callable(value) and _is_export(value)}
        return cls(exports, names.get("main"))

    @classmethod
    def from_object(cls, thing: object) -> Module:
        """An async callable is `main` itself; anything else (module, mapping, object) is looked at by its names."""
        if _is_async(thing) and callable(thing):
            return cls({}, thing)
        if isinstance(thing, Mapping):
            found = cls.from_namespace(thing)
        elif isinstance(thing, ModuleType):
            found = cls.from_namespace(vars(thing))
        else:
            found = cls.from_namespace({name: getattr(thing, name) for name in dir(thing) if not name.startswith("__")})
        if not found.exports and found._main is None:
            raise NotAService(f"{type(thing).__name__} is no async function and has neither exports nor an async main")
        return found

    async def run(self, ctx: Context, ready: Callable[[], None]) -> None:
        """Live as long as `main` does, or for ever without one. Calls `ready` once, before or during `main`."""
        if self._main is None:
            ready()
            await trio.sleep_forever()
        elif self._wants_status:
            status = _TaskStatus(ready)
            await self._main(ctx, task_status=status)
            if not status.called:
                raise RuntimeError("main returned without calling task_status.started()")
        else:
            ready()
            await self._main(ctx)

    async def call(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Call an export. Raises `FunctionNotFound`, `NotJson` for its result, or whatever it raises."""
        function = self.exports.get(name)
        if function is None:
            raise FunctionNotFound(name)
        if _is_async(function):
            return plain(await function(*args, **kwargs))
        if self._threads is None:
            self._threads = trio.CapacityLimiter(SYNC_CALLS_MAX)
        # Abandoned on cancellation: a function that blocks must not hold up a stop (the thread ends with the process).
        bound = functools.partial(function, *args, **kwargs)
        return plain(await trio.to_thread.run_sync(bound, abandon_on_cancel=True, limiter=self._threads))


class _TaskStatus:
    """Trio's `task_status`, as far as `main` may use it."""

    def __init__(self, ready: Callable[[], None]) -> None:
        self._ready = ready
        self.called = False

    def started(self, value: object = None) -> None:
        if self.called:
            raise RuntimeError("called 'started' twice on the same task status")
        self.called = True
        self._ready()


def _is_export(value: Any) -> bool:
    return getattr(value, _MARK, None) is True  # `is True`: a mock answers yes to every attribute


def _is_async(value: Any) -> bool:
    if inspect.isclass(value):
        return False
    return inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(getattr(value, "__call__", None))  # noqa: B004


def _check_main(main: Any) -> bool:
    """Whether `main` takes `task_status`."""
    if not _is_async(main):
        raise NotAService("main must be an async function: async def main(ctx)")
    parameters = inspect.signature(main).parameters
    wants_status = "task_status" in parameters
    try:
        if wants_status:
            inspect.signature(main).bind(None, task_status=None)
        else:
            inspect.signature(main).bind(None)
    except TypeError:
        raise NotAService("main must take one argument, ctx, and may take task_status: async def main(ctx)") from None
    return wants_status
