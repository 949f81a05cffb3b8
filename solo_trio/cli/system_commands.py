"""Commands about events, tenants and the kernel. Owns: what is asked, what is shown. Never: rules."""

from __future__ import annotations

import json
import sys
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import click

from solo_trio.cli.following import Told, following
from solo_trio.cli.options import LIMIT, for_system, for_tenant, tenant_limits
from solo_trio.cli.showing import note, show_facts, show_json, show_line, show_table
from solo_trio.errors import SoloError

if TYPE_CHECKING:
    from solo_trio.cli.session import Place
    from solo_trio.client import SoloClient

PAGE: Final = 1_000


@click.command()
@click.option(
    "--since", type=click.IntRange(0), help="After this id. Without: from the oldest; to follow, from now on."
)
@click.option("--type", "type_", help="Only this type; several with commas.")
@click.option("--service", "service_id", help="Only of this service.")
@click.option("--limit", type=click.IntRange(1, PAGE), help="At most so many. [100; to follow: no end]")
@click.option("--follow", is_flag=True, help="Go on with what comes, also across restarts of the server.")
@click.option(
    "--all", "everything", is_flag=True, help="Of all tenants and the kernel itself; needs the system's token."
)
@for_tenant
def events(
    place: Place,
    since: int | None,
    type_: str | None,
    service_id: str | None,
    limit: int | None,
    follow: bool,
    everything: bool,
) -> None:
    """Show what happened."""
    if everything and place.tenant is not None:
        raise click.UsageError("give either --tenant or --all")
    with place.connected(everything=everything) as client:
        if follow:
            with (
                following("go on where this ended with: solo events --follow --since {id}, and the same options"),
                client.watch(since_id=since, type=type_, service_id=service_id, onlooker=Told(place)) as stream,
            ):
                for event in islice(stream, limit):
                    _follow_with(place, event)
            return
        answer = client.events(since_id=since, type=type_, service_id=service_id, limit=limit)
    if place.json:
        show_json(answer)
        return
    show_table(
        ("ID", "AT", "TYPE", "TENANT", "SUBJECT", "PAYLOAD"),
        [
            (event["id"], event["at"], event["type"], event["tenant_id"], event["subject"], _payload(event))
            for event in answer["events"]
        ],
    )
    if answer["next"] is not None:
        note(f"there are more, with: --since {answer['next']}")


def _follow_with(place: Place, event: dict[str, Any]) -> None:
    if place.json:
        show_json(event, line=True)
    else:
        show_line(f"{event['id']} {event['at']} {event['type']} {event['subject'] or ''} {_payload(event)}")
        sys.stdout.flush()


PAYLOAD_SHOWN: Final = ("version", "cause", "reason", "exit_code", "signal", "crashes", "restart")


def _payload(event: dict[str, Any]) -> str:
    """What tells most; all of it is in --json."""
    payload = event["payload"] or {}
    shown = [name for name in PAYLOAD_SHOWN if payload.get(name) not in (None, "")]
    return " ".join(
        f"{name}={payload[name] if isinstance(payload[name], str) else json.dumps(payload[name])}" for name in shown
    )


def _limits_of(tenant: dict[str, Any]) -> str:
    """What the tenant itself may have, and the ceiling for each of its services."""
    limits = tenant["limits"] | tenant.get("service_limits", {})
    return json.dumps(limits) if limits else ""


SERVICE_LIMITS: Final = click.option(
    "--service-limit",
    "service_limits",
    type=LIMIT,
    multiple=True,
    help="A ceiling for each of its services, like --service-limit memory_mb=256; any number of times.",
)


HARDENING: Final = click.option(
    "--hardening",
    type=click.Choice(["off", "warn", "refuse"]),
    help="What becomes of the analyser's findings in a deployment; refuse: an error is a refusal.",
)


@click.group()
def tenant() -> None:
    """Create, change, show and remove tenants; needs the system's token."""


@tenant.command("create")
@click.argument("tenant_id", metavar="ID")
@tenant_limits
@SERVICE_LIMITS
@HARDENING
@for_system
def create_tenant(
    place: Place,
    tenant_id: str,
    limits: dict[str, Any] | None,
    service_limits: tuple[tuple[str, float], ...],
    hardening: Any,
) -> None:
    """Create a tenant and show its token, this once."""
    with place.system() as client:
        answer = client.create_tenant(
            tenant_id, limits=limits, service_limits=dict(service_limits) or None, hardening=hardening
        )
    if place.json:
        show_json(answer)
        return
    show_line(answer["token"])
    note(f"tenant {tenant_id} created; its token is above, keep it: it is not shown again")


@tenant.command("update")
@click.argument("tenant_id", metavar="ID")
@tenant_limits
@SERVICE_LIMITS
@HARDENING
@for_system
def update_tenant(
    place: Place,
    tenant_id: str,
    limits: dict[str, Any] | None,
    service_limits: tuple[tuple[str, float], ...],
    hardening: Any,
) -> None:
    """Change what a tenant may have, at once also for what runs; what is not named stays as it is."""
    if limits is None and not service_limits and hardening is None:
        raise click.UsageError(
            "say what to change: --max-services, --max-memory-mb, --requests-per-second, --burst, --in-flight,"
            " --service-limit NAME=NUMBER or --hardening"
        )
    with place.system() as client:
        answer = client.update_tenant(
            tenant_id, limits=limits, service_limits=dict(service_limits) or None, hardening=hardening
        )
    if place.json:
        show_json(answer)
        return
    show_line(f"{tenant_id} updated: {_limits_of(answer)}".rstrip(": "))
    if hardening is not None:
        note(f"findings of the analyser from now on: {hardening}")


@tenant.command("list")
@for_system
def list_tenants(place: Place) -> None:
    """List the tenants."""
    with place.system() as client:
        answer = page = client.tenants(limit=PAGE)
        while page["next"] is not None:
            page = client.tenants(limit=PAGE, cursor=page["next"])
            answer["tenants"] += page["tenants"]
        answer["next"] = None
    if place.json:
        show_json(answer)
        return
    show_table(
        ("TENANT", "CREATED", "SERVICES", "LIMITS"),
        [
            (
                each["tenant_id"],
                each["created_at"],
                each["services"],
                _limits_of(each),
            )
            for each in answer["tenants"]
        ],
    )


@tenant.command("show")
@click.argument("tenant_id", metavar="ID")
@for_system
def show_tenant(place: Place, tenant_id: str) -> None:
    """Show one tenant and how many services it has in each state."""
    with place.system() as client:
        answer = client.show_tenant(tenant_id)
    if place.json:
        show_json(answer)
        return
    counts = [(name, count) for name, count in answer["counts"].items() if count]
    show_facts(
        [
            ("tenant", answer["tenant_id"]),
            ("status", answer.get("status")),
            ("created", answer["created_at"]),
            ("services", answer["services"]),
            ("limits", _limits_of(answer) or None),
            ("hardening", answer.get("hardening")),
            *counts,
        ]
    )


def held_back(client: SoloClient) -> dict[str, Any]:
    """Why services are held back, and how many; nothing if the token is not the system's."""
    try:
        system = client.system()
    except SoloError:  # whatever it is, the answer itself is more important
        return {}
    return {name: system[name] for name in ("paused_because", "held") if name in system}


@click.command()
@for_system
def health(place: Place) -> int:
    """Say whether the kernel does its work; exit 1 if it does not."""
    with place.system() as client:
        answer = client.health()
        answer["ready"] = client.ready()
        answer["url"] = client.url
        answer |= held_back(client)
    held, why = answer.get("held"), answer.get("paused_because")
    if place.json:
        show_json(answer)
    else:
        state = "ready" if answer["ready"] else "recovering"
        facts: list[tuple[str, object]] = [("url", answer["url"]), ("status", answer["status"]), ("recovery", state)]
        facts += [
            ("paused because", why),
            ("held", f"{held} services: they start with solo resume --all" if held else None),
        ]
        show_facts([*facts, *answer["components"].items()])
    return 0 if answer["status"] == "ok" else 1


COMMANDS: Final = (events, tenant, health)
