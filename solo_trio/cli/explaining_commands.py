"""`solo explain`. Owns: how an explanation is shown. Never: its words (the server has them)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from solo_trio.cli.options import SERVICE, for_tenant
from solo_trio.cli.showing import show_json, show_line

if TYPE_CHECKING:
    from solo_trio.cli.session import Place

SECONDS_OF_TIME: Final = len("2026-01-31T12:00:00")


@click.command()
@click.argument("service_id", metavar="ID", shell_complete=SERVICE)
@for_tenant
def explain(place: Place, service_id: str) -> None:
    """Say how a service came to be as it is, also one that is gone: step by step, what comes next, what can be done.

    Times are in UTC.
    """
    with place.in_tenant() as client:
        answer = client.explain(service_id)
    if place.json:
        show_json(answer)
        return
    show_line(f"{answer['summary']}.")
    show_line("")
    width = len(str(len(answer["steps"])))
    for step in answer["steps"]:
        show_line(f"{step['number']:>{width}}. {_time(step)}  {_events(step)}: {step['text']}")
    if not answer["complete"]:
        show_line(f"Not every event since its deployment is told here: solo events --service {service_id} shows them.")
    show_line("")
    for each in answer["next"]:
        show_line(f"- {each}")


def _time(step: dict[str, Any]) -> str:
    return str(step["at"])[:SECONDS_OF_TIME].replace("T", " ")


def _events(step: dict[str, Any]) -> str:
    if step["first_id"] == step["id"]:
        return f"event {step['id']}"
    return f"events {step['first_id']} to {step['id']}"


COMMANDS: Final = (explain,)
