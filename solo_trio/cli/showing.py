"""Standard output. Owns: JSON; tables on a terminal, aligned text elsewhere. Never: decides what is worth showing."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

from solo_trio.cli.texts import aligned, printable

STYLES: Final = {
    "ready": "green",
    "ok": "green",
    "starting": "yellow",
    "restarting": "yellow",
    "recovering": "yellow",
    "stopping": "yellow",
    "paused": "cyan",
    "given_up": "bold red",
    "failing": "bold red",
    "error": "red",
    "critical": "bold red",
    "warning": "yellow",
}


def show_json(value: Any, *, line: bool = False) -> None:
    """One JSON document, ASCII only; `line`: in one line, written at once."""
    sys.stdout.write(json.dumps(value, indent=None if line else 2) + "\n")
    if line:
        sys.stdout.flush()


def show_line(text: str) -> None:
    sys.stdout.write(printable(text) + "\n")


def show_text(text: str) -> None:
    """Text of several lines."""
    sys.stdout.write(printable(text, lines=True).rstrip("\n") + "\n")


def show_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """`rows` under `header`; None is shown as nothing."""
    cells = [["" if cell is None else printable(str(cell)) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        sys.stdout.write(aligned(header, cells))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    Console().print(table)


def show_facts(facts: Sequence[tuple[str, object]]) -> None:
    """Names and values, one a line."""
    present = [(name, value) for name, value in facts if value is not None]
    width = max((len(name) for name, _ in present), default=0)
    for name, value in present:
        show_line(f"{name.ljust(width)}  {value}".rstrip())


def note(text: str) -> None:
    """Something beside the answer: on standard error."""
    sys.stderr.write(printable(text) + "\n")


def ignore_output() -> None:
    """Whoever read standard output has seen enough; Python would complain once more when it flushes at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
