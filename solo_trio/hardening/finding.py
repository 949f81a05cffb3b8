"""What is found, and what a rule is. Owns: the shape of both. Never: looks at code."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, Literal

from attrs import asdict, frozen

if TYPE_CHECKING:
    from solo_trio.hardening.module import Module

Level = Literal["error", "warning", "note"]
"""`error`: it cannot work here, or must not be; `warning`: probably not meant; `note`: worth knowing."""
LEVELS: Final[tuple[Level, ...]] = ("error", "warning", "note")
FINDINGS_MAX: Final = 50
"""Of one source, the worst first; one more says how many were left out."""
SHOWN_CHARACTERS_MAX: Final = 80
"""Of a name in the source, in what is said about it."""


@frozen
class Finding:
    """One thing found. `line` and `column` count from 1, None where it is about the whole source; `file`: of an archive."""

    rule: str
    level: Level
    line: int | None
    column: int | None
    what: str
    why: str
    remedy: str
    file: str | None = None

    def document(self) -> dict[str, Any]:
        return asdict(self)


@frozen
class Found:
    """What a rule says about a node; where it says nothing of its own, the rule's `why` and `remedy` hold."""

    node: ast.AST
    level: Level
    what: str
    why: str = ""
    remedy: str = ""


@frozen
class Rule:
    """One rule: `id` is stable, `levels` are those that it finds, `example` is found and `better` is not."""

    id: str
    levels: tuple[Level, ...]
    title: str
    why: str
    remedy: str
    example: str
    better: str
    look: Callable[[Module], Iterable[Found]]

    def finding(self, found: Found) -> Finding:
        line, column = getattr(found.node, "lineno", None), getattr(found.node, "col_offset", None)
        return Finding(
            self.id,
            found.level,
            line,
            None if column is None else column + 1,
            found.what,
            found.why or self.why,
            found.remedy or self.remedy,
        )


def shown(name: str) -> str:
    """A name from the source as it may be shown: of one line, ASCII, not long."""
    return name[:SHOWN_CHARACTERS_MAX].encode("ascii", "backslashreplace").decode()[: 2 * SHOWN_CHARACTERS_MAX]
