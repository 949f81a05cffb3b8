"""Granting network access and secrets. Owns: whether what a deployment lists may be granted here. Never: connects, reveals."""

from __future__ import annotations

from collections.abc import Sequence

from solo_trio.errors import Rejected
from solo_trio.model.ids import check_secret_name
from solo_trio.operations.caller import Caller
from solo_trio.policy.egress import ENTRIES_MAX, canonical, refused


def granted(caller: Caller, entries: Sequence[str]) -> tuple[str, ...]:
    """The entries as they are recorded. Raises `Rejected`: invalid_field, egress_refused."""
    if len(entries) > ENTRIES_MAX:
        raise Rejected("invalid_field", f"egress may have {ENTRIES_MAX} entries; use a wildcard or a network")
    try:
        found = canonical(entries)
    except ValueError as error:
        raise Rejected("egress_refused", f"in egress, {error}") from None
    beyond = refused(found, caller.core.egress_allowed)
    if beyond:
        raise Rejected(
            "egress_refused",
            f"leave out {', '.join(beyond)}, or ask the operator: the setting egress_allowed does not cover it (link-local"
            " addresses, and those where clouds answer a machine about itself, must be listed there as addresses)",
        )
    return found


def check_secrets(caller: Caller, names: Sequence[str]) -> None:
    """Raise `Rejected("permission_denied")` unless the caller could read them all itself."""
    for each in names:
        caller.demand(f"secret:{check_secret_name(each)}", "read")
