"""`solo state`. Owns: what the log came to at an event, with or without a server; the words for it. Never: folds anything."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from solo_trio.cli.options import TENANT, for_system
from solo_trio.cli.showing import note, show_facts, show_json, show_line, show_table
from solo_trio.cli.state_changes import changes
from solo_trio.errors import Faulted, SoloError

if TYPE_CHECKING:
    from solo_trio.cli.session import Place
    from solo_trio.client import SoloClient

DATABASE_FILE: Final = "kernel.db"
PAGE: Final = 1_000
LISTS: Final = ("tenants", "services", "capabilities", "secrets")
EVENT: Final = click.IntRange(0, 2**63 - 1)


@click.command()
@click.option(
    "--at", type=EVENT, metavar="EVENT", help="With this event as the last one; 0: before the first. [newest]"
)
@click.option("--diff", "since", type=EVENT, metavar="EVENT", help="What is different from the state at that event.")
@click.option("--tenant", "tenant_id", type=TENANT, help="Only what is of this tenant.")
@for_system
def state(place: Place, at: int | None, since: int | None, tenant_id: str | None) -> None:
    """Show what the log comes to: every tenant, service, capability and secret, now or after an earlier event.

    With a server it is asked; without one the data directory is read, and not a byte in it is changed. No key, no value of a
    secret and no source is shown.
    """
    if since is None:
        found = _at(place, at, tenant_id)
        if place.json:
            show_json(found)
        else:
            _show(found)
        return
    earlier, later = _sides(place, since, at, tenant_id)
    found_changes = changes(earlier, later)
    if place.json:
        show_json({"from": earlier["event_id"], "to": later["event_id"], "changes": found_changes})
        return
    for each in found_changes:
        show_line(each)
    if not found_changes:
        note(f"nothing is different at event {later['event_id']} from what was at event {earlier['event_id']}")


def _sides(place: Place, since: int, at: int | None, tenant_id: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both, of which one may be without the tenant: it was not made yet, or is gone."""
    found: list[dict[str, Any]] = []
    lacking: SoloError | None = None
    for event_id in (since, at):
        try:
            found.append(_at(place, event_id, tenant_id))
        except SoloError as error:
            if error.code != "tenant_not_found" or lacking is not None:
                raise
            lacking = error
            found.append(_at(place, event_id, None) | {name: [] for name in LISTS})
    return found[0], found[1]


def _at(place: Place, at: int | None, tenant_id: str | None) -> dict[str, Any]:
    try:
        with place.system() as client, place.waiting("reading the log"):
            return _whole(client, at, tenant_id)
    except Faulted as error:
        if error.code != "not_reachable" or place.url or (place.data is None and os.environ.get("SOLO_URL")):
            raise
        data = place.directory()
        if not (data / DATABASE_FILE).exists():
            raise
    with place.waiting("reading the log"):
        return _offline(data, at, tenant_id)


def _whole(client: SoloClient, at: int | None, tenant_id: str | None) -> dict[str, Any]:
    """All pages as one."""
    found = page = client.state(at=at, tenant_id=tenant_id, limit=PAGE)
    while page["next"] is not None:
        page = client.state(tenant_id=tenant_id, limit=PAGE, cursor=page["next"])
        for name in LISTS:
            found[name] += page[name]
    found["next"] = None
    return found


def _offline(data: Path, at: int | None, tenant_id: str | None) -> dict[str, Any]:
    import trio

    from solo_trio.bootstrap import look_back
    from solo_trio.cli.configuring import settings_of

    _, settings = settings_of(data)
    return trio.run(look_back, data, at, tenant_id, settings.master_key_command)


def _show(found: dict[str, Any]) -> None:
    system = found["system"]
    show_facts(
        [
            ("event", f"{found['event_id']} of {found['last_event_id']}"),
            ("oldest kept", found["oldest_event_id"] if found["oldest_event_id"] > 1 else None),
            ("at", found["at"]),
            ("kernel time", f"{found['kernel_time_s']:.3f} s"),
            ("starts", system["starts"]),
            ("held back", system["hold"]),
            ("clock", "not believed: it leapt ahead" if system["clock_held"] else None),
            ("capabilities", found["counts"]["capabilities"]),
        ]
    )
    for header, rows in (
        (("TENANT", "STATUS", "CREATED", "SERVICES"), _rows(found["tenants"], "status", "created_at", "services")),
        (
            ("TENANT", "SERVICE", "WANTED", "STATUS", "VERSION", "RESTARTS", "DIGEST"),
            [
                (*row, each["digest"][:12])
                for row, each in zip(
                    _rows(found["services"], "service_id", "wanted", "status", "version", "restarts"),
                    found["services"],
                    strict=True,
                )
            ],
        ),
        (
            ("TENANT", "SECRET", "VERSIONS"),
            [
                (each["tenant_id"], each["name"], " ".join(str(one["version"]) for one in each["versions"]))
                for each in found["secrets"]
            ],
        ),
    ):
        if rows:
            show_line("")
            show_table(header, rows)


def _rows(entries: list[dict[str, Any]], *names: str) -> list[tuple[object, ...]]:
    return [(each["tenant_id"], *(each[name] for name in names)) for each in entries]


COMMANDS: Final = (state,)
