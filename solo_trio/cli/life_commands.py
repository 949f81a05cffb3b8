"""Commands about a service's life. Owns: restart, pause, resume, update, versions, top: what is asked, shown. Never: rules."""

from __future__ import annotations

import base64
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from solo_trio.cli.options import LIMIT, RESTART, SERVICE, WINDOW, Seconds, for_tenant
from solo_trio.cli.showing import note, show_json, show_line, show_table, show_text
from solo_trio.errors import Rejected

if TYPE_CHECKING:
    from solo_trio.cli.session import Place

DIGEST_SHOWN: Final = 12
IF_MATCH = click.option(
    "--if-match", type=click.IntRange(0), metavar="REVISION", help="Only if it still has this revision."
)
ALL = click.option("--all", "everything", is_flag=True, help="Every service of every tenant; needs the system's token.")
SERVICE_OR_ALL = click.argument("service_id", metavar="[ID]", required=False, shell_complete=SERVICE)


@click.command()
@click.argument("service_id", metavar="ID", shell_complete=SERVICE)
@IF_MATCH
@for_tenant
def restart(place: Place, service_id: str, if_match: int | None) -> None:
    """Stop a service and start it again, also one that was given up; wait until it runs."""
    with place.in_tenant() as client, place.waiting(f"restarting {service_id}"):
        answer = client.restart(service_id, if_match=if_match)
    _show_life(place, answer)


@click.command()
@SERVICE_OR_ALL
@ALL
@IF_MATCH
@for_tenant
def pause(place: Place, service_id: str | None, everything: bool, if_match: int | None) -> int:
    """End a service's process and keep the service: its calls wait, within bounds, until it is resumed."""
    if _one_or_all(place, service_id, everything=everything, if_match=if_match):
        with place.in_tenant() as client, place.waiting(f"pausing {service_id}"):
            answer = client.pause(str(service_id), if_match=if_match)
        _show_life(place, answer)
        if answer.get("unresponsive"):
            note(f"{service_id} was told to stop and has not yet; look again with: solo status {service_id}")
            return 1
        return 0
    with place.system() as client, place.waiting("pausing everything"):
        answer = client.pause_all()
    _show_hold(place, answer, f"paused: {answer['held']} services are held back; to go on: solo resume --all")
    return 0


@click.command()
@SERVICE_OR_ALL
@ALL
@IF_MATCH
@for_tenant
def resume(place: Place, service_id: str | None, everything: bool, if_match: int | None) -> None:
    """Start a service that is paused, or that a paused start holds back; wait until it runs."""
    if _one_or_all(place, service_id, everything=everything, if_match=if_match):
        with place.in_tenant() as client, place.waiting(f"resuming {service_id}"):
            answer = client.resume(str(service_id), if_match=if_match)
        _show_life(place, answer)
        return
    with place.system() as client, place.waiting("resuming everything"):
        answer = client.resume_all()
    _show_hold(place, answer, f"resumed: {answer['resumed']} services start again; see them with: solo top --all")


def _one_or_all(place: Place, service_id: str | None, *, everything: bool, if_match: int | None) -> bool:
    """Whether it is about one service. Raises `UsageError` unless it is about one or about all."""
    if (service_id is None) != everything:
        raise click.UsageError("give either the ID of a service or --all")
    if everything and (if_match is not None or place.tenant_named):
        raise click.UsageError("--all is about every tenant: leave out --tenant and --if-match")
    return not everything


def _show_life(place: Place, answer: dict[str, Any]) -> None:
    if place.json:
        show_json(answer)
    else:
        show_line(f"{answer['service_id']} {answer['status']}: revision {answer['revision']}")


def _show_hold(place: Place, answer: dict[str, Any], text: str) -> None:
    if place.json:
        show_json(answer)
    else:
        show_line(text)


@click.command()
@click.argument("service_id", metavar="ID", shell_complete=SERVICE)
@click.option("--restart", type=RESTART, help="After which ends to restart.")
@click.option("--max-restarts", type=click.IntRange(0), help="More restarts than this ...")
@click.option("--max-seconds", type=WINDOW, help="... within so many seconds give it up.")
@click.option(
    "--limit", "limits", type=LIMIT, multiple=True, help="A limit, like --limit memory_mb=256; any number of times."
)
@click.option(
    "--egress",
    metavar="HOST[:PORT]",
    multiple=True,
    help="All that it may connect to from now on; any number of times.",
)
@click.option("--no-egress", is_flag=True, help="It may connect to nothing.")
@IF_MATCH
@for_tenant
def update(
    place: Place,
    service_id: str,
    restart: Any,
    max_restarts: int | None,
    max_seconds: float | None,
    limits: tuple[tuple[str, float], ...],
    egress: tuple[str, ...],
    no_egress: bool,
    if_match: int | None,
) -> None:
    """Change a service's restart policy, limits and network access while it runs."""
    given = {"max_restarts": max_restarts, "max_seconds": max_seconds}
    restart_limits = {name: value for name, value in given.items() if value is not None}
    if egress and no_egress:
        raise click.UsageError("say either --egress or --no-egress")
    if restart is None and not restart_limits and not limits and not egress and not no_egress:
        raise click.UsageError(
            "say what to change: --restart, --max-restarts, --max-seconds, --limit NAME=NUMBER, --egress or --no-egress"
        )
    with place.in_tenant() as client:
        answer = client.update(
            service_id,
            restart=restart,
            restart_limits=restart_limits or None,
            limits=dict(limits) or None,
            egress=egress if egress or no_egress else None,
            if_match=if_match,
        )
    if place.json:
        show_json(answer)
        return
    show_line(f"{service_id} updated: revision {answer['revision']}")
    later = answer.get("applies_at_next_start")
    if later:
        note(f"{', '.join(later)} from its next start on; to start it now: solo restart {service_id}")


@click.command()
@click.argument("service_id", metavar="ID", shell_complete=SERVICE)
@click.option("--source", type=click.IntRange(1), metavar="N", help="Print the source of version N.")
@for_tenant
def versions(place: Place, service_id: str, source: int | None) -> None:
    """List a service's versions, or print the source of one."""
    with place.in_tenant() as client:
        answer = client.versions(service_id)
    if source is not None:
        _show_source(place, service_id, source, answer["versions"])
        return
    if place.json:
        show_json(answer)
        return
    header: tuple[str, ...] = ("VERSION", "CURRENT", "AT", "DIGEST")
    if any(each["files"] for each in answer["versions"]):
        header = (*header, "FILES")
    show_table(
        header,
        [
            (
                each["version"],
                "yes" if each["current"] else None,
                each["at"],
                (each["digest"] or "")[:DIGEST_SHOWN],
                *([len(each["files"]) if each["files"] else None] if "FILES" in header else ()),
            )
            for each in answer["versions"]
        ],
    )


def _show_archive(version: dict[str, Any]) -> None:
    """The archive itself for a file or `solo deploy -`; at a terminal, what is in it."""
    if not sys.stdout.isatty():
        sys.stdout.flush()
        sys.stdout.buffer.write(base64.b64decode(version["source"]))
        return
    show_table(("BYTES", "FILE"), [(each["size_bytes"], each["path"]) for each in version["files"]])
    note("this is an archive: > FILE.zip writes it to a file")


def _show_source(place: Place, service_id: str, number: int, known: list[dict[str, Any]]) -> None:
    found = next((each for each in known if each["version"] == number), None)
    if found is None:
        numbers = ", ".join(str(each["version"]) for each in known)
        raise Rejected("invalid_field", f"{service_id} has no version {number}: there is {numbers}")
    if place.json:
        show_json(found)
    elif found["source"] is None:
        raise Rejected("invalid_field", f"version {number} of {service_id} is not deployed from text: it has no source")
    elif found["format"] == "python_zip":
        _show_archive(found)
    else:
        show_text(found["source"])


@click.command()
@click.option("--all", "everything", is_flag=True, help="Of all tenants; needs the system's token.")
@click.option("--once", is_flag=True, help="Show it once. [where standard output is no terminal]")
@click.option("--interval", type=Seconds(0.5, 60), default=2.0, show_default=True, help="Seconds between two looks.")
@for_tenant
def top(place: Place, everything: bool, once: bool, interval: float) -> None:
    """Show what services do and use, again and again; q or Ctrl-C leaves."""
    from solo_trio.cli import top as watching

    if everything and place.tenant_named:
        raise click.UsageError("give either --tenant or --all")
    with place.connected(everything=everything) as client:
        if place.json or once or not (sys.stdout.isatty() and sys.stdin.isatty()):
            watching.show_once(client, everything=everything, as_json=place.json)
        else:
            watching.show_live(client, everything=everything, interval_s=interval)


COMMANDS: Final = (restart, pause, resume, update, versions, top)
