"""Rule `missing_await`. Owns: async functions that are called and not awaited. Never: follows a coroutine around."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

from solo_trio.hardening.finding import Found, Rule, shown
from solo_trio.hardening.module import Module

_OF_TRIO: Final = (
    "sleep",
    "sleep_forever",
    "sleep_until",
    "open_file",
    "open_tcp_stream",
    "aclose_forcefully",
    "serve_tcp",
)
_ASYNC: Final = frozenset(
    (*(f"trio.{each}" for each in _OF_TRIO), "trio.to_thread.run_sync", "trio.lowlevel.checkpoint")
)
_OF_CTX: Final = frozenset({"call"})


def _look(module: Module) -> Iterator[Found]:
    for place in module.nodes:
        node = place.node
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            name = _of_a_call(module, node.value, place.scope.asynchronous)
            if name is None and isinstance(node.value.func, ast.Name | ast.Attribute):
                dotted = module.resolve(node.value.func, place.scope)
                name = dotted if dotted in _ASYNC else None
            if name is not None:
                yield Found(node, "error", f"{shown(name)} is called and not awaited")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "start_soon":
            first = node.args[0] if node.args else None
            name = _of_a_call(module, first, True) if isinstance(first, ast.Call) else None
            if name is not None:
                yield Found(
                    node,
                    "error",
                    f"start_soon is given the result of {shown(name)}, not the function",
                    remedy=f"Write start_soon({shown(name)}, ...), with its arguments after it.",
                )


def _of_a_call(module: Module, call: ast.Call, asynchronous: bool) -> str | None:
    """The async function that is called, if it is one."""
    function = call.func
    if isinstance(function, ast.Name) and function.id in module.async_functions:
        return function.id
    of_ctx = isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id == "ctx"
    if of_ctx and asynchronous and isinstance(function, ast.Attribute) and function.attr in _OF_CTX:
        return f"ctx.{function.attr}"
    return None


MISSING_AWAIT: Final = Rule(
    id="missing_await",
    levels=("error",),
    title="An async function is called and not awaited",
    why="The call only makes a coroutine: nothing of the function runs.",
    remedy="Write await in front of the call.",
    example="import trio\n\n\nasync def main(ctx):\n    trio.sleep(1)\n",
    better="import trio\n\n\nasync def main(ctx):\n    await trio.sleep(1)\n",
    look=_look,
)
