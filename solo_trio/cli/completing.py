"""Completion in a shell. Owns: the scripts, the ids of the services there are. Never: makes a person wait for a server."""

from __future__ import annotations

from typing import Any, Final

import click
from click.shell_completion import get_completion_class

PATIENCE_S: Final = 1.0
IDS_MAX: Final = 500
VARIABLE: Final = "_SOLO_COMPLETE"


def script(shell: str, root: click.Command) -> str:
    """What a shell has to read."""
    kind = get_completion_class(shell)
    assert kind is not None, f"click does not know {shell}"
    complete = kind(root, {}, "solo", VARIABLE)
    return complete.source_template % complete.source_vars() + "\n"


def service_ids(ctx: click.Context, incomplete: str) -> list[str]:
    """Ids of the tenant's services; none if no server says them soon."""
    from solo_trio.client import SoloClient, find_server
    from solo_trio.errors import SoloError

    given: dict[str, Any] = ctx.params
    try:
        found = find_server(given.get("data"), url=given.get("url"))
        tenant = given.get("tenant") or ("default" if found.local else None)
        with SoloClient(**found.options(), tenant=tenant, timeout_s=PATIENCE_S) as client:
            known = client.services(limit=IDS_MAX)["services"]
    except (SoloError, OSError):
        return []
    return [each["service_id"] for each in known if each["service_id"].startswith(incomplete)]
