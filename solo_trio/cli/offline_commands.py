"""Commands about the data itself. Owns: `solo verify`, with or without a server; `solo checkpoint`. Never: how it is done."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from solo_trio.cli.options import for_system
from solo_trio.cli.progress import counting
from solo_trio.cli.showing import note, show_json, show_line, show_table
from solo_trio.cli.system_commands import held_back
from solo_trio.errors import Faulted

if TYPE_CHECKING:
    from solo_trio.cli.session import Place

SOUND: Final = 0
WRONG: Final = 1
DATABASE_FILE: Final = "kernel.db"
REPAIR_MARK_FILE: Final = "kernel.repair"
RESTORE_MARK_FILE: Final = "kernel.restoring"
KEEP_EVENTS_MAX: Final = 1_000_000_000
COUNTS_SHOWN: Final = ("events", "tenants", "total", "wanted", "running", "given_up")
WHY_HELD: Final = {"asked": "it was asked for", "boot_loop": "the kernel ended again and again after its start"}


@click.command()
@for_system
@click.option("--fix", is_flag=True, help="Mend what can be mended without losing anything, and say so in the log.")
@click.option("--accept-loss", is_flag=True, help="No more warnings of what a repair could not save.")
def verify(place: Place, fix: bool, accept_loss: bool) -> int:
    """Check that everything is as it should be; exit 1 if it is not.

    With a server: what is wanted is compared with what runs, and the whole log and every source are read. Without one the
    data directory itself is checked: its files, the whole log, the checkpoints and every source. Nothing is changed, save with
    --fix what is safe: a checkpoint is written as the log says, what nothing names is removed, supervisors look again.
    """
    report, system = _verified(place, fix=fix, accept_loss=accept_loss)
    if place.json:
        show_json(report)
    else:
        _show(report, system)
    return WRONG if report["status"] == "failed" else SOUND


def _verified(place: Place, *, fix: bool, accept_loss: bool) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The report, and what a server says of held services; None: there is no server."""
    try:
        with place.system() as client, place.waiting("reading the whole log"):
            return client.verify(fix=fix, accept_loss=accept_loss), held_back(client)
    except Faulted as error:
        if error.code != "not_reachable" or place.url or (place.data is None and os.environ.get("SOLO_URL")):
            raise
        data = place.directory()
        if not any((data / name).exists() for name in (DATABASE_FILE, REPAIR_MARK_FILE, RESTORE_MARK_FILE)):
            raise
    return _verified_offline(data, quiet=place.json, fix=fix, accept_loss=accept_loss), None


def _verified_offline(data: Path, *, quiet: bool, fix: bool, accept_loss: bool) -> dict[str, Any]:
    import trio

    from solo_trio.bootstrap import verify_data
    from solo_trio.cli.configuring import settings_of

    _, settings = settings_of(data)
    with counting("events", quiet=quiet) as progress:
        work = partial(verify_data, data, progress, settings.master_key_command, fix=fix, accept_loss=accept_loss)
        return trio.run(work).view()


def _show(report: dict[str, Any], system: dict[str, Any] | None) -> None:
    show_table(
        ("CHECK", "STATUS", "DETAIL"), [(each["name"], each["status"], each["detail"]) for each in report["checks"]]
    )
    known = {name: count for name, count in report["counts"].items() if system is not None or name != "running"}
    counts = ", ".join(f"{name} {known[name]}" for name in COUNTS_SHOWN if name in known)
    if system is not None and system.get("held"):
        why = WHY_HELD.get(str(system["paused_because"]), "each by itself")
        show_line(f"{system['held']} services are held back ({why}): start them with solo resume --all")
    show_line(f"{report['status']}: {counts}; {report['duration_s']:.3g} s")
    for each in report.get("fixed", ()):
        note(f"  fixed: {each}")
    for each in report["recommendations"]:
        note(f"  next: {each}")


@click.command()
@for_system
def checkpoint(place: Place) -> None:
    """Keep the state now, so that the next start reads only the events after it."""
    with place.system() as client, place.waiting("keeping the state"):
        answer = client.checkpoint()
    if place.json:
        show_json(answer)
    else:
        show_line(
            f"the state after event {answer['event_id']}: {answer['bytes']} bytes in {answer['duration_ms']:g} ms"
        )


@click.command()
@click.option(
    "--keep-events",
    type=click.IntRange(0, KEEP_EVENTS_MAX),
    help="Keep so many of the newest in the database, however young the others are. [as configured]",
)
@for_system
def compact(place: Place, keep_events: int | None) -> None:
    """Move old events out of the database into the archive.

    They stay part of the log: solo verify checks them, and a start reads them if it must. Only
    solo events no longer shows them.
    """
    with place.system() as client, place.waiting("moving old events into the archive"):
        answer = client.compact(keep_events=keep_events)
    if place.json:
        show_json(answer)
        return
    show_line(
        f"{answer['events']} events moved into {answer['segments']} segments ({answer['bytes']} bytes) in "
        f"{answer['duration_ms']:g} ms; the oldest at hand is {answer['oldest_id']}"
    )
    if answer["held_by"] is not None:
        note(f"no more were moved: {answer['detail']}")


COMMANDS: Final = (verify, checkpoint, compact)
