"""Long work told about. Owns: that somebody at a terminal sees that it goes on. Never: the work, or standard output."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from solo_trio.cli.texts import printable

PATIENCE_S: Final = 0.3
"""What is done sooner is not told about."""
STEP_S: Final = 0.1
STEPS: Final = "|/-\\"


@contextmanager
def telling(what: str, *, quiet: bool = False) -> Iterator[None]:
    """`what` with something that turns on standard error, if that is a terminal, until the body is left."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    over = threading.Event()
    turning = threading.Thread(target=_turn, args=(printable(what), over), daemon=True)
    turning.start()
    try:
        yield
    finally:
        over.set()
        turning.join()


def _turn(what: str, over: threading.Event) -> None:
    if over.wait(PATIENCE_S):
        return
    step = 0
    while True:
        sys.stderr.write(f"\r{STEPS[step % len(STEPS)]} {what} ...")
        sys.stderr.flush()
        step += 1
        if over.wait(STEP_S):
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            return


@contextmanager
def counting(what: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """What shows on a terminal how far it is: how many were done, and of how many (0: nobody knows)."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(what, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total or None)
