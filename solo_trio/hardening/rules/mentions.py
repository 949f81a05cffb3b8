"""Rules about a name being used at all. Owns: finding the uses of known names. Never: says what is wrong with one."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping

from solo_trio.hardening.finding import Found, Level, shown
from solo_trio.hardening.module import Module, Reference, names_in


def mentions(
    module: Module,
    known: Mapping[str, Level],
    what: str,
    *,
    only: Callable[[Reference], bool] = lambda reference: True,
    remedies: Mapping[str, str] | None = None,
) -> Iterator[Found]:
    """Each use of one of `known` or of what is in it; an import of one that is then not used is found too.

    `what` says it of a `{name}`. A use for which `only` is false is none.
    """
    names = frozenset(known)
    used: set[str] = set()

    def found(node: ast.AST, dotted: str, name: str) -> Found:
        remedy = (remedies or {}).get(name, "")
        return Found(node, known[name], what.format(name=shown(dotted.removeprefix("builtins."))), remedy=remedy)

    for reference in module.references:
        name = names_in(reference.dotted, names)
        if name is not None:
            used.add(name)
            if only(reference):
                yield found(reference.node, reference.dotted, name)
    for each in module.imports:
        name = names_in(each.dotted, names)
        if name is not None and name not in used:
            used.add(name)
            yield found(each.node, each.dotted, name)


def errors(names: str) -> dict[str, Level]:
    """Names separated by blanks, each of them an error."""
    return dict.fromkeys(names.split(), "error")


def warnings(names: str) -> dict[str, Level]:
    return dict.fromkeys(names.split(), "warning")
