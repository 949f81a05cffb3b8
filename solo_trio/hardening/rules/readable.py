"""Rules `syntax` and `too_large`. Owns: what is said of a text that no other rule can look at. Never: parses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from solo_trio.hardening.finding import Found, Rule
from solo_trio.hardening.module import Module


def _look(module: Module) -> Iterable[Found]:
    """What was parsed is readable: `analysing` says these two."""
    return ()


SYNTAX: Final = Rule(
    id="syntax",
    levels=("error",),
    title="The text is no Python",
    why="A module that Python cannot read cannot be loaded; the service would not start.",
    remedy="Mend the line that is named; it is read as the Python that the server runs on.",
    example="def f(:\n    return 1\n",
    better="def f():\n    return 1\n",
    look=_look,
)

TOO_LARGE: Final = Rule(
    id="too_large",
    levels=("error", "note"),
    title="The text is too large to be looked at, or has too many findings",
    why="What was not looked at, nobody can say anything about.",
    remedy="Split it into several services, or move data out of the source; mend what is shown and look again.",
    example="DATA = [\n" + "    1,\n" * 40_000 + "]\n",
    better="DATA = [1] * 40_000\n",
    look=_look,
)
