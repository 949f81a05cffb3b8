"""From text to findings. Owns: parsing within bounds, running every rule, the order and number of findings. Never: a rule."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable
from typing import Final

from attrs import evolve

from solo_trio.hardening.finding import FINDINGS_MAX, LEVELS, Finding, Found, Rule, shown
from solo_trio.hardening.module import Module, TooManyNodes
from solo_trio.hardening.rules import RULES
from solo_trio.hardening.rules.readable import SYNTAX, TOO_LARGE

ANALYSED_BYTES_MAX: Final = 131_072
"""A tree takes a thousand times the memory of its source, and some seconds for so much of it."""
NODES_MAX: Final = 150_000
MODULES_BYTES_MAX: Final = 262_144
"""Of all modules of an archive together."""


def analyse(source: str | bytes, *, rules: Iterable[Rule] = RULES) -> list[Finding]:
    """What the rules find in the text of a module, by line. Never raises, whatever the text is.

    It may take seconds and hundreds of MiB for the largest that is looked at: `ANALYSED_BYTES_MAX`.
    """
    length = len(source) if isinstance(source, bytes) else len(source.encode("utf-8", "surrogatepass"))
    if length > ANALYSED_BYTES_MAX:
        return [_whole(TOO_LARGE, f"it has {length} bytes, of which {ANALYSED_BYTES_MAX} would be looked at")]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the source, which whoever runs it is told
            tree = ast.parse(source)
    except SyntaxError as error:
        where = ast.Pass(lineno=error.lineno or 1, col_offset=max(0, (error.offset or 1) - 1))
        return [SYNTAX.finding(Found(where, "error", f"the syntax is wrong: {error.msg}"))]
    except (ValueError, RecursionError, MemoryError):  # a null byte, a lone surrogate; nested too deeply
        return [_whole(SYNTAX, "Python cannot read it: it is nested too deeply, or holds what is no text")]
    return analyse_tree(tree, rules=rules)


def analyse_tree(tree: ast.Module, *, rules: Iterable[Rule] = RULES) -> list[Finding]:
    """The same of a syntax tree, however deep."""
    try:
        module = Module.read(tree, NODES_MAX)
    except TooManyNodes:
        return [_whole(TOO_LARGE, f"it has more than {NODES_MAX} parts (names, numbers, calls ...)")]
    found: list[Finding] = []
    for rule in rules:
        found += dict.fromkeys(rule.finding(each) for each in rule.look(module))
    return _bounded(found)


def analyse_modules(modules: Iterable[tuple[str, bytes]]) -> list[Finding]:
    """What is found in the modules of an archive, each with its path, as long as they are not too many bytes."""
    found: list[Finding] = []
    looked_at = 0
    for path, source in modules:
        looked_at += len(source)
        if looked_at > MODULES_BYTES_MAX:
            rest = _whole(TOO_LARGE, f"from here on it is not looked at: {MODULES_BYTES_MAX} bytes are")
            return _bounded([*found, evolve(rest, file=shown(path))])
        found += (evolve(each, file=shown(path)) for each in analyse(source))
    return _bounded(found)


def not_analysed(why: str) -> list[Finding]:
    """The one finding about a source that nobody could look at."""
    return [_whole(TOO_LARGE, f"it could not be looked at: {why}")]


def _whole(rule: Rule, what: str) -> Finding:
    return rule.finding(Found(ast.Pass(), "error", what))


def _bounded(found: list[Finding]) -> list[Finding]:
    """The worst, by line."""
    worst = sorted(found, key=lambda each: LEVELS.index(each.level))
    kept = sorted(worst[:FINDINGS_MAX], key=lambda each: (each.file or "", each.line or 0, each.column or 0, each.rule))
    left = len(found) - len(kept)
    if left:
        last = TOO_LARGE.finding(Found(ast.Pass(), "note", f"{left} more were found, and left out"))
        kept.append(last)
    return kept
