"""Rule `foreign_loop`. Owns: other event loops than Trio's. Never: libraries that work on any (anyio, httpx)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from solo_trio.hardening.finding import Found, Rule
from solo_trio.hardening.module import Module
from solo_trio.hardening.rules.mentions import errors, mentions

_NAMES: Final = errors(
    "uvloop gevent eventlet twisted curio tornado aiohttp aiofiles aiosqlite aioredis asyncpg aiomysql asyncio"
)


def _look(module: Module) -> Iterable[Found]:
    return mentions(module, _NAMES, "{name} is for another event loop")


FOREIGN_LOOP: Final = Rule(
    id="foreign_loop",
    levels=("error",),
    title="Another event loop than Trio is used",
    why="A service runs on Trio: what awaits asyncio's own objects fails there, or stops the loop that everything runs in.",
    remedy="Use Trio (trio.sleep, trio.open_nursery, trio.move_on_after), or libraries that work on it: httpx, anyio.",
    example="import asyncio\n\n\nasync def main(ctx):\n    await asyncio.sleep(1)\n",
    better="import trio\n\n\nasync def main(ctx):\n    await trio.sleep(1)\n",
    look=_look,
)
