"""Commands about the data itself. Owns: `solo verify`, with or without a server; `solo checkpoint`. Never: mends anything."""

from __future__ import annotations

import os
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
COUNTS_SHOWN: Final = ("events", "tenants", "total", "wanted", "running", "given_up")
WHY_HELD: Final = {"asked": "it was asked for", "boot_loop": "the kernel ended again and again after its start"}


@click.command()
@for_system
def verify(place: Place) -> int:
    """Check that everything is as it should be; exit 1 if it is not.

    With a server: what is wanted is compared with what runs, and the whole log and every source are read. Without one the
    data directory itself is checked: its files, the whole log, the checkpoints and every source. Nothing is changed.
    """
    report, system = _verified(place)
    if place.json:
        show_json(report)
    else:
        _show(report, system)
    return WRONG if report["status"] == "failed" else SOUND


def _verified(place: Place) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The report, and what a server says of held services; None: there is no server."""
    try:
        with place.system() as client, place.waiting("reading the whole log"):
            return client.verify(), held_back(client)
    except Faulted as error:
        if error.code != "not_reachable" or place.url or (place.data is None and os.environ.get("SOLO_URL")):
            raise
        data = place.directory()
        if not (data / DATABASE_FILE).exists():
            raise
    return _verified_offline(data, quiet=place.json), None


def _verified_offline(data: Path, *, quiet: bool) -> dict[str, Any]:
    import trio

    from solo_trio.bootstrap import verify_data
    from solo_trio.cli.configuring import settings_of

    _, settings = settings_of(data)
    with counting("events", quiet=quiet) as progress:
        return trio.run(verify_data, data, progress, settings.master_key_command).view()


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


COMMANDS: Final = (verify, checkpoint)
