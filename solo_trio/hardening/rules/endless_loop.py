"""Rule `endless_loop`. Owns: loops that never let go. Never: loops that end by their data."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

from solo_trio.hardening.finding import Found, Level, Rule
from solo_trio.hardening.module import Module, Scope

_FOR_EVER: Final = frozenset({"itertools.count", "itertools.cycle"})


def _look(module: Module) -> Iterator[Found]:
    for place in module.nodes:
        node = place.node
        if not isinstance(node, ast.While | ast.For) or not _endless(module, node, place.scope):
            continue
        if any(id(each) in module.waits for each in node.body) or (
            isinstance(node, ast.While) and id(node.test) in module.waits
        ):
            continue
        ends = _ends(module, node)
        if place.scope.asynchronous:
            level: Level = "warning" if ends else "error"
            yield Found(node, level, "an endless loop awaits nothing" + (" until it is left" if ends else ""))
        elif not ends:
            yield Found(
                node,
                "warning",
                "an endless loop that nothing leaves",
                why="A thread cannot be stopped from outside: the service ends only by being killed.",
                remedy="Leave it when there is nothing more to do, or make it an async function that awaits trio.sleep.",
            )


def _ends(module: Module, loop: ast.While | ast.For) -> bool:
    return any(id(each) in module.leaves or id(each) in module.breaks for each in loop.body)


def _endless(module: Module, loop: ast.While | ast.For, scope: Scope) -> bool:
    if isinstance(loop, ast.While):
        return isinstance(loop.test, ast.Constant) and bool(loop.test.value)
    if not isinstance(loop.iter, ast.Call):
        return False
    function = module.resolve(loop.iter.func, scope)
    endless_repeat = function == "itertools.repeat" and len(loop.iter.args) == 1 and not loop.iter.keywords
    return function in _FOR_EVER or endless_repeat


ENDLESS_LOOP: Final = Rule(
    id="endless_loop",
    levels=("error", "warning"),
    title="A loop never lets go",
    why="Without an await nothing else of the service has its turn: no call is answered, and a stop waits for the kill.",
    remedy="Await in each round: what the loop waits for, or trio.sleep, or at least trio.lowlevel.checkpoint().",
    example="async def main(ctx):\n    count = 0\n    while True:\n        count += 1\n",
    better=(
        "import trio\n\n\nasync def main(ctx):\n    count = 0\n    while True:\n"
        "        count += 1\n        await trio.sleep(1)\n"
    ),
    look=_look,
)
