"""`solo serve --plan`. Owns: whether a start would succeed, and how its plan is shown. Never: starts or changes anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import trio

from solo_trio.bootstrap import plan_start
from solo_trio.cli.serving import check_listening, tls_files
from solo_trio.cli.showing import show_json, show_line
from solo_trio.configuration import Configuration, Serving
from solo_trio.errors import SoloError
from solo_trio.gateways.http.tls import Tls

WOULD: Final = 0
WOULD_NOT: Final = 1
HELD: Final = {
    "asked": "paused, as it is asked to",
    "boot_loop": "paused, because it ended again and again soon after its start",
}
OUTCOMES: Final = {
    "ready": "is expected to become ready",
    "given_up": "would be given up",
    "failed": "would be forgotten: its deployment fails",
    "retried": "would be tried again and again",
    "stopped": "would stay stopped",
}

Document = dict[str, Any]


def show_plan(configuration: Configuration, *, as_json: bool) -> int:
    """What `solo serve` would do here; 0 if it would start."""
    plan = trio.run(_plan, configuration)
    if as_json:
        show_json(plan)
    else:
        for line in lines_of(plan):
            show_line(line)
    return WOULD if plan["would_start"] else WOULD_NOT


async def _plan(configuration: Configuration) -> Document:
    serving = configuration.serving
    plan = await plan_start(Path(serving.data_dir), configuration.settings)
    for error in [each async for each in _refusals(serving)]:
        plan["would_start"] = False
        plan["problems"].append({"code": error.code, "detail": error.detail})
    return plan


async def _refusals(serving: Serving) -> Any:
    """What a start would be refused for before it looks at its data."""
    try:
        await check_listening(serving.host, serving.http_port)
    except SoloError as error:
        yield error
    try:
        files = tls_files(Path(serving.data_dir), serving)
        if files is not None:
            await trio.to_thread.run_sync(Tls, files)
    except SoloError as error:
        yield error


def lines_of(plan: Document) -> list[str]:
    """The plan for people."""
    lines = [f"solo serve {'would start' if plan['would_start'] else 'would not start'} on {plan['data']}"]
    lines += [f"problem: {each['code']}: {each['detail']}" for each in plan["problems"]]
    lines += [f"note: {each}" for each in plan["notes"]]
    if plan["first_start"]:
        lines.append("nothing of a kernel is there: it would be the first start")
    if "last_event_id" in plan:
        lines += _log_lines(plan)
        lines += _service_lines(plan)
    return lines


def _log_lines(plan: Document) -> list[str]:
    begin = "the beginning" if plan["checkpoint"] is None else f"the state kept after event {plan['checkpoint']}"
    lines = [
        f"log: {plan['last_event_id']} events; from {begin} on, {plan['replayed']} are folded ({plan['replay_s']} s)"
    ]
    if not plan["shut_down_in_order"]:
        lines.append("the kernel before did not shut down in order")
    if plan["still_alive"]:
        lines.append(
            f"processes of the kernel before are still there, of {len(plan['still_alive'])} tenants: they are ended first"
        )
    boot = plan["boot_loop"]
    if boot["short_lives"]:
        lines.append(f"{boot['short_lives']} short lives in a row; from {boot['starts_allowed']} on a start is paused")
    if plan["hold"] is not None:
        lines.append(f"it starts {HELD[plan['hold']]}: every service is held back until solo resume")
    if plan["clock"]["held"]:
        lines.append(f"the clock is {plan['clock']['ahead_s']:g} s ahead of the log, and would not be believed")
    return lines


def _service_lines(plan: Document) -> list[str]:
    lines = []
    for each in plan["start"]:
        after = f", after {', '.join(each['after'])}" if each["after"] else ""
        why = "" if each["obstacle"] is None else f": {each['obstacle']}"
        what = f"start {_name(each)} ({each['cause']}{after})"
        lines.append(f"{each['round']}. {what}: {OUTCOMES[each['outcome']]}{why}")
    lines += [f"wait: {_name(each)} for {', '.join(each['missing'])}" for each in plan["waiting"]]
    lines += [f"finish stopping and forget: {_name(each)}" for each in plan["finish_stopping"]]
    lines += [f"forget the deployment of {_name(each)}: {each['why']}" for each in plan["forget_deployments"]]
    lines += [f"forget, as it was ephemeral: {_name(each)}" for each in plan["forget_ephemeral"]]
    lines += [f"finish removing the tenant {each}" for each in plan["finish_removing"]]
    lines += [f"leave {each['status']}: {_name(each)}: {each['why']}" for each in plan["left_as_they_are"]]
    return lines


def _name(each: Document) -> str:
    return f"{each['tenant_id']}/{each['service_id']}"
