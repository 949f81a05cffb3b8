"""`solo repair`. Owns: showing what would be lost, asking, telling what was done. Never: what is kept."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from solo_trio.cli.options import DATA
from solo_trio.cli.progress import telling
from solo_trio.cli.showing import note, show_facts, show_json, show_line

if TYPE_CHECKING:
    from solo_trio.bootstrap import RepairPlan

DONE: Final = 0
NOT_DONE: Final = 1
LISTED_MAX: Final = 20
"""So many of a list are shown to a person; --json has all."""


@click.command()
@click.option("--data", type=DATA, help="The data directory; no kernel may use it.  [env: SOLO_DATA; default: ./data]")
@click.option("--yes", is_flag=True, help="Do it, without being asked.")
@click.option(
    "--way",
    type=click.Choice(["log", "checkpoint", "unproven"]),
    help="Which way to take, where there is more than one.  [default: the one that keeps the latest state]",
)
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for programs.")
def repair(data: Path | None, yes: bool, way: str | None, as_json: bool) -> int:
    """Save what can be saved of a damaged data directory.

    Shows what is wrong, what would be kept and what would be lost, and asks; without a terminal it needs --yes. The
    damaged files are kept as they are, in DATA/damaged. What was done is written into the log. A repair that is killed
    leaves the directory as it was, or is gone on with by the next one.
    """
    from functools import partial

    import trio

    from solo_trio.bootstrap import repair_data
    from solo_trio.cli.configuring import settings_of

    directory, settings = settings_of(data)

    def confirm(plan: RepairPlan) -> bool:
        if not as_json:
            _show(plan.view())
        if yes:
            return True
        if as_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
            return False
        return click.confirm("Repair it so?", default=False)

    def told(what: str) -> None:
        if not as_json:
            note(f"{what} ...")

    with telling("repairing", quiet=True):
        done = trio.run(
            partial(repair_data, directory, confirm, told, way=way, key_command=settings.master_key_command)
        )
    if as_json:
        answer: dict[str, Any] = {"repaired": done.repaired, "event_id": done.event_id, "finished": done.finished}
        show_json(answer | {"plan": None if done.plan is None else done.plan.view()})
    elif done.finished is not None:
        show_line(f"the repair that was interrupted is done; the damaged files are in {directory / done.finished}")
    elif done.plan is None:
        show_line("there is nothing to repair")
    elif done.repaired:
        show_line(
            f"repaired; event {done.event_id} tells of it, the damaged files are in {directory / done.plan.damaged}"
        )
        note("next: look at it with: solo verify; then start the kernel: solo serve")
    else:
        note("nothing was changed" if yes or as_json else "nothing was changed; to do it: solo repair --yes")
    return DONE if done.repaired or done.plan is None else NOT_DONE


def _show(plan: dict[str, Any]) -> None:
    events = plan["events"]
    _list("what is wrong", plan["found"])
    kept = f"events 1 to {events['kept_to']}, and what they come to (the state of {plan['state']['at']})"
    if plan["way"] == "checkpoint":
        kept = f"the state after event {events['kept_to']} (of {plan['state']['at']}), from a checkpoint"
    show_facts((("way", plan["way"]), ("kept", kept)))
    show_facts(
        (
            ("lost", _span(events["lost"], "their effects are gone") or ("nothing" if plan["loses_nothing"] else None)),
            ("history", _span(events["unread"], "their effects are kept, what they said is gone")),
            ("state", f"{plan['state']['tenants']} tenants, {plan['state']['secrets']} secrets"),
        )
    )
    _list(
        "services",
        [f"{each['tenant_id']}/{each['service_id']} {each['status']}" for each in plan["state"]["services"]],
    )
    _list("lost events were about", events["lost_about"])
    _list("lost versions of secrets", plan["lost_secrets"])
    _list("lost sources: to be deployed again", plan["lost_sources"])
    _list("worthless tokens: to be made anew with solo token rotate", plan["lost_tokens"])
    _list("other ways", plan["other_ways"])
    _list("to be known", plan["notes"])
    show_line(f"the damaged files will be in {plan['damaged']}")


def _span(span: dict[str, int] | None, what: str) -> str | None:
    if span is None:
        return None
    first, last = span["first"], span["last"]
    named = f"event {first}" if first == last else f"events {first} to {last}, {last - first + 1} in all"
    return f"{named}: {what}"


def _list(title: str, lines: list[str]) -> None:
    if not lines:
        return
    show_line(f"{title}:")
    for line in lines[:LISTED_MAX]:
        show_line(f"  {line}")
    if len(lines) > LISTED_MAX:
        show_line(f"  and {len(lines) - LISTED_MAX} more (--json has all)")


COMMANDS: Final = (repair,)
