"""Rule `unseen_task`. Owns: tasks and threads that no visible nursery waits for. Never: other event loops (`foreign_loop`)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

from solo_trio.hardening.finding import Found, Rule
from solo_trio.hardening.module import Module, names_in
from solo_trio.hardening.rules.mentions import errors, mentions, warnings

_NAMES: Final = {
    **errors("trio.lowlevel.spawn_system_task trio.hazmat.spawn_system_task trio.lowlevel.start_guest_run"),
    **errors("trio.lowlevel.start_thread_soon"),
    **warnings("threading.Thread threading.Timer _thread.start_new_thread concurrent.futures.ThreadPoolExecutor"),
    **warnings("concurrent.futures.thread"),
}
_NURSERIES: Final = frozenset({"trio.open_nursery", "anyio.create_task_group"})
_THREADS: Final = "Call it with await trio.to_thread.run_sync(...), from a task in a nursery."
_REMEDIES: Final = {name: _THREADS for name, level in _NAMES.items() if level == "warning"}
_ENTERING: Final = frozenset({"enter_async_context"})


def _look(module: Module) -> Iterator[Found]:
    yield from mentions(
        module,
        _NAMES,
        "{name} starts what no nursery waits for",
        remedies=_REMEDIES,
    )
    entered = _entered(module)
    for reference in module.references:
        if reference.call is not None and names_in(reference.dotted, _NURSERIES) and id(reference.call) not in entered:
            yield Found(reference.node, "error", f"{reference.dotted} is not opened by async with")
        elif reference.call is not None and reference.dotted == "trio.run" and reference.scope.asynchronous:
            yield Found(
                reference.node,
                "error",
                "trio.run inside of Trio",
                why="Trio runs already, and refuses to run twice in a thread.",
                remedy="Await the function, or start it in a nursery.",
            )


def _entered(module: Module) -> set[int]:
    """Ids of calls whose result is entered where it is made."""
    found: set[int] = set()
    for place in module.nodes:
        node = place.node
        if isinstance(node, ast.AsyncWith):
            found.update(id(item.context_expr) for item in node.items)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _ENTERING:
            found.update(id(each) for each in node.args)
    return found


UNSEEN_TASK: Final = Rule(
    id="unseen_task",
    levels=("error", "warning"),
    title="A task or thread is started outside a nursery",
    why="Nobody waits for it: its errors go nowhere, a stop does not reach it, and it may outlive what it works on.",
    remedy="async with trio.open_nursery() as nursery: nursery.start_soon(function, ...), in the function that lives as long.",
    example="import trio\n\n\nasync def main(ctx):\n    trio.lowlevel.spawn_system_task(trio.sleep, 60)\n",
    better=(
        "import trio\n\n\nasync def main(ctx):\n    async with trio.open_nursery() as nursery:\n"
        "        nursery.start_soon(trio.sleep, 60)\n"
    ),
    look=_look,
)
