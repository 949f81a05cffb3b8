"""Commands about capabilities and tokens. Owns: what is asked, what is shown. Never: rules."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from solo_trio.cli import texts
from solo_trio.cli.options import Typed, for_system, for_tenant
from solo_trio.cli.showing import note, show_facts, show_json, show_line, show_table
from solo_trio.errors import Faulted

if TYPE_CHECKING:
    from solo_trio.cli.session import Place

TOKEN_CHARACTERS_MAX: Final = 8_192
ID_CHARACTERS: Final = 32
TTL = Typed("duration", texts.duration_ms)
RATE = Typed("n/burst", texts.rate)
_PERMISSIONS = click.option("--permission", "permissions", multiple=True, help="What it allows; any number of times.")
_TTL = click.option("--ttl", type=TTL, help="How long it is good, such as 90s, 15m or 12h.  [default: no end]")
_RATE = click.option("--rate", type=RATE, help="Requests a second, and after a slash how many at once: 5/10.")


@click.group("cap")
def cap() -> None:
    """Capabilities: hand on less than you have, and take it back."""


@cap.command("grant")
@click.argument("resource")
@_PERMISSIONS
@_TTL
@_RATE
@for_tenant
def grant(
    place: Place, resource: str, permissions: tuple[str, ...], ttl: int | None, rate: tuple[float, float] | None
) -> None:
    """Grant a right to RESOURCE (such as service:calc) and print its token, which is not shown again.

    \b
    service:ID, service:*   deploy read call swap kill
    secret:NAME, secret:*   read write
    events logs registry    read write
    capability              grant
    tenant                  all of these; '*' stands for every permission
    """
    if not permissions:
        raise click.UsageError("say what it allows, with --permission")
    limit = None if rate is None else {"requests_per_second": rate[0], "burst": rate[1]}
    with place.in_tenant() as client:
        answer = client.grant(resource, list(permissions), ttl_s=None if ttl is None else ttl / 1_000, rate_limit=limit)
    if place.json:
        show_json(answer)
        return
    show_line(answer["token"])
    note(f"id {answer['id']}, good until {answer['expires_at'] or 'it is revoked'}")


@cap.command("attenuate")
@click.argument("token")
@click.option("--resource", help="Only this.")
@click.option("--service", help="Only what is about this service.")
@_PERMISSIONS
@_TTL
@_RATE
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for programs.")
def attenuate(
    token: str,
    resource: str | None,
    service: str | None,
    permissions: tuple[str, ...],
    ttl: int | None,
    rate: tuple[float, float] | None,
    as_json: bool,
) -> None:
    """Narrow TOKEN (- reads it from standard input) and print the new one; no server is asked."""
    from solo_trio.client import attenuate as narrow
    from solo_trio.client import inspect

    narrowed = narrow(
        _token(token),
        permissions=permissions or None,
        resource=resource,
        service=service,
        ttl_s=None if ttl is None else ttl / 1_000,
        rate_limit=rate,
    )
    if as_json:
        show_json({"token": narrowed, "id": inspect(narrowed)["attenuation_ids"][-1]})
    else:
        show_line(narrowed)


@cap.command("inspect")
@click.argument("token")
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for programs.")
def inspect(token: str, as_json: bool) -> None:
    """Show what TOKEN (- reads it from standard input) says of itself; whether it is good, `solo cap verify` tells."""
    from solo_trio.client import inspect as read

    found = read(_token(token))
    if as_json:
        show_json(found)
        return
    show_facts([("capability", found["capability_id"]), ("key", found["key_id"])])
    for each in found["caveats"]:
        show_line(f"  {each}")


@cap.command("verify")
@click.argument("token")
@click.argument("resource")
@click.argument("permission")
@for_tenant
def verify(place: Place, token: str, resource: str, permission: str) -> int:
    """Ask whether TOKEN (- reads it from standard input) allows PERMISSION of RESOURCE now; exit 1 if not."""
    with place.in_tenant() as client:
        answer = client.verify_token(_token(token), resource, permission)
    if place.json:
        show_json(answer)
    else:
        show_line(answer["reason"])
    return 0 if answer["allowed"] else 1


@cap.command("revoke")
@click.argument("what", metavar="ID|TOKEN")
@for_tenant
def revoke(place: Place, what: str) -> None:
    """Revoke a capability by its id, with all that descend from it; or by a token (- reads it from standard input).

    A token that was narrowed loses its last attenuation only: what it was made of stays good.
    """
    with place.in_tenant() as client:
        by_id = len(what) == ID_CHARACTERS and set(what) <= set("0123456789abcdef")
        answer = client.revoke(what) if by_id else client.revoke_token(_token(what))
    if place.json:
        show_json(answer)
    else:
        show_line(f"{answer['id']} revoked")


@cap.command("list")
@click.option("--limit", type=click.IntRange(1, 1_000), help="At most so many.  [default: 100]")
@click.option("--cursor", help="Go on after this id.")
@for_tenant
def list_capabilities(place: Place, limit: int | None, cursor: str | None) -> None:
    """List the capabilities that you may revoke."""
    with place.in_tenant() as client:
        answer = client.capabilities(limit=limit, cursor=cursor)
    if place.json:
        show_json(answer)
        return
    show_table(
        ("ID", "RESOURCE", "PERMISSIONS", "EXPIRES", "GRANTED WITH"),
        [
            (each["id"], each["resource"], ",".join(each["permissions"]), each["expires_at"], each["parent"])
            for each in answer["capabilities"]
        ],
    )
    if answer["next"] is not None:
        note(f"there are more, with: --cursor {answer['next']}")


@click.group("token")
def token() -> None:
    """The token of a tenant, or of the system."""


@token.command("rotate")
@click.option("--tenant", "tenant_id", help="Of this tenant.  [default: the system's, in DATA/admin.token]")
@click.option("--keep-granted", is_flag=True, help="What was granted with the old one stays: it was lost, not stolen.")
@for_system
def rotate(place: Place, tenant_id: str | None, keep_granted: bool) -> None:
    """Replace a token that was lost or has leaked, with a server or without one; the old one is good for nothing then.

    A tenant's new token is printed; the system's is put into DATA/admin.token.
    """
    answer = _rotated(place, tenant_id, keep_granted)
    if place.json:
        show_json(answer)
    elif tenant_id is None:
        show_line("rotated: the new token is in admin.token of the data directory")
    else:
        show_line(answer["token"])


def _rotated(place: Place, tenant_id: str | None, keep: bool) -> dict[str, Any]:
    try:
        with place.system() as client:
            client.tenant = tenant_id
            return client.rotate_token(keep_granted=keep)
    except Faulted as error:
        if error.code != "not_reachable" or place.url or (place.data is None and os.environ.get("SOLO_URL")):
            raise
    import trio

    from solo_trio.bootstrap import rotate_token
    from solo_trio.cli.configuring import settings_of

    async def offline() -> str:
        data, settings = settings_of(place.directory())
        return (await rotate_token(data, tenant_id, keep=keep, key_command=settings.master_key_command)).reveal_text()

    return {"tenant_id": tenant_id, "token": trio.run(offline)}


def _token(text: str) -> str:
    """As given, or from standard input: what is on a command line, others on the machine can read."""
    if text != "-":
        note("note: a token that stands on a command line can be read by others; standard input is not: give - instead")
        return text
    return sys.stdin.read(TOKEN_CHARACTERS_MAX + 2).strip()


COMMANDS: Final = (cap, token)
