"""Rule `swallowed_cancel`. Owns: handlers that keep a cancellation to themselves. Never: handlers of other errors."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

from solo_trio.hardening.finding import Found, Rule
from solo_trio.hardening.module import Module, Scope

_CANCELLED: Final = frozenset({"trio.Cancelled", "builtins.BaseException", "builtins.BaseExceptionGroup"})
_SUPPRESS: Final = frozenset({"contextlib.suppress"})


def _look(module: Module) -> Iterator[Found]:
    for place in module.nodes:
        if not place.scope.asynchronous:
            continue
        if isinstance(place.node, ast.Try | ast.TryStar):
            yield from _of_try(module, place.node, place.scope)
        elif isinstance(place.node, ast.With):
            yield from _of_with(module, place.node, place.scope)


def _waits(module: Module, body: list[ast.stmt]) -> bool:
    return any(id(each) in module.waits for each in body)


def _of_try(module: Module, node: ast.Try | ast.TryStar, scope: Scope) -> Iterator[Found]:
    if not _waits(module, node.body):
        return
    for handler in node.handlers:
        caught = _caught(module, handler, scope)
        if caught is None:
            continue
        if any(id(each) in module.raises for each in handler.body):
            return  # a cancellation goes on from here, and never comes to a later handler
        yield Found(handler, "error", f"{caught} around an await, which does not raise again")
    if any(isinstance(each, ast.Return | ast.Break | ast.Continue) for each in node.finalbody):
        yield Found(
            node.finalbody[-1], "error", "the finally around an await is left without going on with the exception"
        )


def _caught(module: Module, handler: ast.ExceptHandler, scope: Scope) -> str | None:
    """How the handler catches a cancellation, if it does."""
    if handler.type is None:
        return "a bare except"
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    for kind in kinds:
        name = module.resolve(kind, scope)
        if name in _CANCELLED and name is not None:
            return f"except {name.removeprefix('builtins.')}"
    return None


def _of_with(module: Module, node: ast.With, scope: Scope) -> Iterator[Found]:
    if not _waits(module, node.body):
        return
    for item in node.items:
        call = item.context_expr
        if isinstance(call, ast.Call) and module.resolve(call.func, scope) in _SUPPRESS:
            for kind in call.args:
                name = module.resolve(kind, scope)
                if name in _CANCELLED and name is not None:
                    yield Found(call, "error", f"suppress({name.removeprefix('builtins.')}) around an await")


SWALLOWED_CANCEL: Final = Rule(
    id="swallowed_cancel",
    levels=("error",),
    title="A cancellation is swallowed",
    why="A stop and a time-out arrive at an await as trio.Cancelled. Whoever keeps it goes on, and can only be killed.",
    remedy="Write except Exception, which does not catch it; or end the handler with raise.",
    example=(
        "import trio\n\n\nasync def main(ctx):\n    while True:\n        try:\n            await trio.sleep(1)\n"
        "        except:\n            ctx.log.exception('went wrong')\n"
    ),
    better=(
        "import trio\n\n\nasync def main(ctx):\n    while True:\n        try:\n            await trio.sleep(1)\n"
        "        except Exception:\n            ctx.log.exception('went wrong')\n"
    ),
    look=_look,
)
