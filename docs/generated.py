"""What the documentation takes from the code. Owns: tables of operations, events, commands, settings, limits, changes.
Never: words that the code does not have (pages have those).

A page asks for a part with a line of its own: `<!-- generated: operations -->`. `conf.py` puts it there when the page is
read; nothing generated is committed.
"""

from __future__ import annotations

import re
import tomllib
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import attrs
import click

from solo_trio.cli.commands import solo
from solo_trio.hardening import RULES, Rule
from solo_trio.model import codec  # noqa: F401  (fills KINDS)
from solo_trio.model.event import KINDS
from solo_trio.model.limits import DEFAULT_LIMITS, RANGES, WHOLE, Limits
from solo_trio.operations.perform import OPERATIONS
from solo_trio.operations.table import Operation

DOCS: Final = Path(__file__).parent
ASKED: Final = re.compile(r"^<!-- generated: ([a-z-]+) -->$", re.M)
WHO: Final = {
    "open": "Anybody, without a token.",
    "system": "A system token.",
    "tenant": "A tenant's token; or a system token that names the tenant.",
    "either": "A tenant's token, for that tenant; or a system token, for all tenants or the one that it names.",
}

GROUPS: Final = ("services", "events", "logs", "tenants", "system", "health")
"""In which order the operations are shown, by the first part of their path."""

COMMON_OPTIONS: Final = frozenset({"--data", "--url", "--json", "--tenant", "--ca-cert", "--cert", "--key"})
"""Of commands that ask a server; docs/reference/commands.md has them once."""


def fill(page: str, text: str) -> str:
    """The text of a page with what it asks for."""
    if page == "events":
        text = re.sub(r"^## `(\w+)`\n.*?^Payload: .*?$", _with_payload, text, flags=re.M | re.S)
    if page == "errors/index":
        text += "\n```{toctree}\n:hidden:\n:glob:\n\n*\n```\n"
    return ASKED.sub(lambda match: PARTS[match[1]](), text)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


# -- operations


def meanings() -> dict[str, str]:
    """What each input means: `field`, or `operation.field` where one operation means something of its own; `limits.limit`."""
    text = (DOCS / "reference/inputs.md").read_text()
    return dict(re.findall(r"^\| `([\w.]+)` \| (.+) \|$", text, re.M))


def operations() -> str:
    def place(each: Operation) -> tuple[int, str, str]:
        first = each.path.split("/")[1]
        return (GROUPS.index(first) if first in GROUPS else len(GROUPS), each.path, each.method)

    return "\n".join(_operation(each) for each in sorted(OPERATIONS.values(), key=place))


def _operation(each: Operation) -> str:
    accept = ""
    if each.stream:
        accept = " (WebSocket)" if each.transport == "websocket" else " with `Accept: text/event-stream`"
    lines = [
        f"## `{each.name}`\n",
        f"`{each.method} {each.path}`{accept}\n",
        f"{each.summary}\n",
        f"**Who:** {WHO[each.scope]}\n",
    ]
    if each.mutates:
        lines.append("Takes `Idempotency-Key`.\n")
    known = meanings()
    rows = [
        (f"`{name}`", place, kind, default, known.get(f"{each.name}.{name}", known.get(name, "")))
        for name, place, kind, default in inputs(each)
    ]
    if rows:
        lines.append(table(("input", "in", "type", "default", ""), rows))
    return "\n".join(lines)


def inputs(each: Operation) -> Iterator[tuple[str, str, str, str]]:
    """Name, place, type and default of each input of an operation."""
    hints = get_type_hints(each.input)
    for field in attrs.fields(each.input):
        yield field.name, field.metadata["place"], kind_of(hints[field.name]), default_of(field)


def kind_of(hint: Any) -> str:
    """A type as one says it."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " ".join(f"`{each}`" for each in args)
    if origin in (Union, types.UnionType):
        return ", ".join(kind_of(each) for each in args if each is not type(None))
    if origin in (list, tuple):
        inner = [each for each in args if each not in (Any, ...)]
        return "list of " + kind_of(inner[0]) if inner else "list"
    if origin is dict:
        return "object"
    if attrs.has(hint):
        return "object: " + " ".join(f"`{field.name}`" for field in attrs.fields(hint))
    return {str: "text", int: "whole number", float: "number", bool: "`true` or `false`", Any: "any"}.get(
        hint, str(hint)
    )


def default_of(field: attrs.Attribute[Any]) -> str:
    default = field.default
    if default is attrs.NOTHING:
        return "required"
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]  # it is a class
        return "`{}`" if default.factory is not list else "`[]`"
    if default is None:
        return ""
    return f"`{shown(default)}`"


def shown(value: object) -> str:
    """A value as JSON and TOML write it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(f'"{each}"' for each in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


# -- events


def _with_payload(section: re.Match[str]) -> str:
    event = KINDS.get(section[1])
    if event is None or not attrs.fields(event):
        return section[0]
    hints = get_type_hints(event)
    rows = [
        (f"`{field.name}`", kind_of(hints[field.name]), "or null" if type(None) in get_args(hints[field.name]) else "")
        for field in attrs.fields(event)
    ]
    return re.sub(r"^Payload: .*$", lambda _: table(("payload", "type", ""), rows), section[0], flags=re.M)


# -- commands


def commands() -> str:
    return "\n".join(_command(path, each) for path, each in all_commands())


def all_commands() -> Iterator[tuple[str, click.Command]]:
    """Every command with how it is typed, groups before what is in them."""

    def walk(path: str, each: click.Command) -> Iterator[tuple[str, click.Command]]:
        yield path, each
        if isinstance(each, click.Group):
            for name in sorted(each.commands):
                yield from walk(f"{path} {name}", each.commands[name])

    for name in sorted(solo.commands):
        yield from walk(f"solo {name}", solo.commands[name])


def _command(path: str, each: click.Command) -> str:
    lines = [f"## `{path}`\n", f"{paragraphs(each.help or '')}\n"]
    if isinstance(each, click.Group):
        return "\n".join(lines)
    context = click.Context(each, info_name=path)
    lines.append(f"```text\n{each.get_usage(context).removeprefix('Usage: ')}\n```\n")
    options = [option for option in each.params if isinstance(option, click.Option) and not option.hidden]
    asks_a_server = any("--url" in option.opts for option in options)
    rows = []
    for option in options:
        if not (asks_a_server and COMMON_OPTIONS.intersection(option.opts)):
            record = option.get_help_record(context)
            assert record is not None
            rows.append((f"`{record[0]}`", record[1]))
    if rows:
        lines.append(table(("option", ""), rows))
    if asks_a_server:
        tenant = " `--tenant`" if any("--tenant" in option.opts for option in options) else ""
        lines.append(f"[Common options](#common-options): `--data` `--url` `--json`{tenant}\n")
    return "\n".join(lines)


def paragraphs(text: str) -> str:
    """A docstring as click shows it: without what follows a form feed."""
    return "\n".join(line.strip() for line in text.split("\f")[0].strip().splitlines()).replace("\b\n", "")


# -- limits


def limits() -> str:
    known = meanings()
    rows = []
    for field in attrs.fields(Limits):
        low, high = RANGES[field.name]
        default = getattr(DEFAULT_LIMITS, field.name)
        whole = " (whole)" if field.name in WHOLE else ""
        rows.append(
            (
                f"`{field.name}`",
                f"{number(low)} to {number(high)}{whole}",
                number(default),
                known[f"limits.{field.name}"],
            )
        )
    return table(("limit", "range", "default", ""), rows)


def number(value: float | None) -> str:
    return "none" if value is None else f"{value:,.10g}"


# -- rules of the analyser

EXAMPLE_LINES_MAX: Final = 20


def rules() -> str:
    return "\n".join(_rule(each) for each in RULES)


def _rule(each: Rule) -> str:
    levels = " or ".join(each.levels)
    lines = [f"## `{each.id}`\n", f"{each.title} ({levels}).\n", f"**Why:** {each.why}\n"]
    lines.append(f"**What to do:** {each.remedy}\n")
    if each.example.count("\n") <= EXAMPLE_LINES_MAX:
        lines.append(f"Found:\n\n```python\n{each.example}```\n")
        lines.append(f"Better:\n\n```python\n{each.better}```\n")
    return "\n".join(lines)


# -- changes


def changes() -> str:
    """The fragments of changes that are not yet in a release, by kind."""
    root = DOCS.parent
    kinds = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["towncrier"]["type"]
    lines = []
    for kind in kinds:
        found = sorted((root / "changes").glob(f"*.{kind['directory']}*.md"))
        if found:
            lines.append(f"### {kind['name']}\n")
        for path in found:
            lines.append("- " + path.read_text().strip().replace("\n", "\n  ") + "\n")
    return "\n".join(lines)


PARTS: Final[dict[str, Callable[[], str]]] = {
    "operations": operations,
    "commands": commands,
    "limits": limits,
    "rules": rules,
    "changes": changes,
}
