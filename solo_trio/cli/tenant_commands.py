"""The command that removes a tenant. Owns: asking first, what is shown. Never: rules."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from solo_trio.cli.options import DURATION, for_system
from solo_trio.cli.showing import note, show_json, show_line
from solo_trio.cli.system_commands import tenant

if TYPE_CHECKING:
    from solo_trio.cli.session import Place


@tenant.command("remove")
@click.argument("tenant_id", metavar="ID")
@click.option("--grace", type=DURATION, help="How long its services may take to stop by themselves.  [default: 5s]")
@click.option("--yes", is_flag=True, help="Do not ask; needed where nobody can be asked.")
@for_system
def remove_tenant(place: Place, tenant_id: str, grace: int | None, yes: bool) -> int:
    """Stop everything of a tenant and destroy it: services, tokens, secrets, logs. There is no way back.

    Its id can then be used for a new tenant, which has nothing of this one.
    """
    asked = not yes and sys.stdin.isatty() and sys.stderr.isatty()
    if not yes and not asked:
        raise click.UsageError("nobody can be asked here: to remove it and all it has, add --yes")
    with place.system() as client:
        if asked and not _is_sure(tenant_id, client.show_tenant(tenant_id)["services"]):
            note("nothing was removed")
            return 1
        with place.waiting(f"removing {tenant_id}"):
            answer = client.remove_tenant(tenant_id, grace_ms=grace)
    if place.json:
        show_json(answer)
    else:
        show_line(f"{tenant_id} {answer['status']}")
    if answer.get("unresponsive"):
        note(f"something of it does not end; look again with: solo tenant show {tenant_id}")
        return 1
    return 0


def _is_sure(tenant_id: str, services: int) -> bool:
    what = f"its {services} services, its tokens, secrets and logs" if services else "its tokens, secrets and logs"
    note(f"{tenant_id}, {what} are destroyed; there is no way back")
    return click.prompt("to go on, type its id", default="", show_default=False, err=True) == tenant_id
