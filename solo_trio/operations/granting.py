"""Granting network access. Owns: whether what a deployment lists may be granted here. Never: connects."""

from __future__ import annotations

from collections.abc import Sequence

from solo_trio.errors import Rejected
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
