"""Commands about services. Owns: deploy, list, status, kill, call, logs: what is asked, what is shown. Never: rules."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from solo_trio.cli.findings import finding_lines
from solo_trio.cli.following import Told, following
from solo_trio.cli.options import DURATION, JSON_OBJECT, KEYWORD, LIMIT, PROGRAM, RESTART, SERVICE, WINDOW, for_tenant
from solo_trio.cli.showing import note, show_facts, show_json, show_line, show_table, show_text
from solo_trio.cli.texts import argument
from solo_trio.errors import Rejected

if TYPE_CHECKING:
    from solo_trio.cli.session import Place

PAGE: Final = 1_000
ARCHIVE_BEGINS: Final = (b"PK\3\4", b"PK\5\6")
DIGEST_SHOWN: Final = 12
STATUSES: Final = ["starting", "ready", "restarting", "paused", "stopping", "stopped", "given_up"]
LEVELS: Final = ["debug", "info", "warning", "error", "critical"]
_NEGATIVE: Final = re.compile(r"-[0-9][0-9.eE+-]*", re.ASCII)
_HIDDEN: Final = "\0"
"""Put before a negative number while click looks for options; no argument can contain it."""


@click.command()
@click.argument("file", type=PROGRAM)
@click.option("--id", "service_id", required=True, help="The service's id.", shell_complete=SERVICE)
@click.option("--replace", is_flag=True, help="In the place of one that is there; it comes back if this one fails.")
@click.option("--restart", type=RESTART, help="After which ends to restart.")
@click.option("--config", type=JSON_OBJECT, help="What the service finds as ctx.config.")
@click.option("--max-restarts", type=click.IntRange(0), help="More restarts than this ...")
@click.option("--max-seconds", type=WINDOW, help="... within so many seconds give it up.")
@click.option(
    "--limit", "limits", type=LIMIT, multiple=True, help="A limit, like --limit memory_mb=256; any number of times."
)
@click.option(
    "--depends-on",
    metavar="ID",
    multiple=True,
    shell_complete=SERVICE,
    help="A service that must be ready before it starts; any number of times.",
)
@click.option(
    "--egress",
    metavar="HOST[:PORT]",
    multiple=True,
    help="What it may connect to, like api.example.com:443, *.example.org or 10.0.0.5:5432; any number of times.",
)
@click.option(
    "--secret",
    "secrets",
    metavar="NAME",
    multiple=True,
    help="A secret that it gets with ctx.secret; any number of times.",
)
@click.option("--environment", metavar="NAME", help="The packages that it finds: one that solo env list shows.")
@click.option(
    "--if-match", type=click.IntRange(0), metavar="REVISION", help="Replace only what still has this revision."
)
@click.option("--no-wait", is_flag=True, help="Return once the deployment is sure to be tried.")
@for_tenant
def deploy(
    place: Place,
    file: Path,
    service_id: str,
    replace: bool,
    restart: Any,
    config: dict[str, Any] | None,
    max_restarts: int | None,
    max_seconds: float | None,
    limits: tuple[tuple[str, float], ...],
    depends_on: tuple[str, ...],
    egress: tuple[str, ...],
    secrets: tuple[str, ...],
    environment: str | None,
    if_match: int | None,
    no_wait: bool,
) -> None:
    """Deploy FILE, a Python module (- is standard input), and wait until it runs.

    FILE may be a directory or a zip archive with a service.py in it, and further modules and data.
    """
    given = {"max_restarts": max_restarts, "max_seconds": max_seconds}
    restart_limits = {name: value for name, value in given.items() if value is not None}
    code = _source(file)
    with place.in_tenant() as client, place.waiting(f"deploying {service_id}"):
        answer = client.deploy(
            service_id,
            code,
            restart=restart,
            restart_limits=restart_limits or None,
            limits=dict(limits) or None,
            config=config,
            depends_on=depends_on or None,
            egress=egress or None,
            secrets=secrets or None,
            environment=environment,
            replace=replace,
            wait=not no_wait,
            if_match=if_match,
        )
    if place.json:
        show_json(answer)
    else:
        show_line(
            f"{service_id} {answer['status']}: version {answer['version']}, digest {answer['digest'][:DIGEST_SHOWN]}"
        )
        for line in finding_lines(answer.get("findings", []), str(file)):
            note(line)


def _source(file: Path) -> str | bytes:
    """The text of a module, or the bytes of an archive."""
    if file.is_dir():
        from solo_trio.client import pack

        return pack(file)
    with click.open_file(str(file), "rb") as opened:
        content: bytes = opened.read()
    if content.startswith(ARCHIVE_BEGINS):
        return content
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Rejected("invalid_field", f"{file} is not UTF-8 (at byte {error.start}): save it as UTF-8") from None


@click.command("list")
@click.option("--status", type=click.Choice(STATUSES), help="Only these.")
@for_tenant
def list_(place: Place, status: str | None) -> None:
    """List the tenant's services."""
    with place.in_tenant() as client:
        answer = page = client.services(status=status, limit=PAGE)
        while page["next"] is not None:
            page = client.services(status=status, limit=PAGE, cursor=page["next"])
            answer["services"] += page["services"]
        answer["next"] = None
    if place.json:
        show_json(answer)
        return
    show_table(
        ("SERVICE", "STATUS", "VERSION", "RESTARTS", "READY SINCE", "DIGEST"),
        [
            (
                each["service_id"],
                each["status"],
                each["version"],
                each["restarts"],
                each["ready_since"],
                each["digest"][:DIGEST_SHOWN],
            )
            for each in answer["services"]
        ],
    )


@click.command()
@click.argument("service_id", metavar="ID", shell_complete=SERVICE)
@for_tenant
def status(place: Place, service_id: str) -> None:
    """Show one service: how it is, its last events and crash."""
    with place.in_tenant() as client:
        answer = client.status(service_id)
    if place.json:
        show_json(answer)
        return
    spec, crash = answer["spec"], answer["last_crash"]
    limits = spec["restart_limits"]
    show_facts(
        [
            ("service", answer["service_id"]),
            ("tenant", answer["tenant_id"]),
            ("status", answer["status"]),
            ("version", f"{answer['version']} ({answer['digest']})"),
            ("revision", answer["revision"]),
            ("restarts", answer["restarts"]),
            ("restart", f"{spec['restart']}, at most {limits['max_restarts']} in {limits['max_seconds']:g} s"),
            ("uptime", f"{answer['uptime_s']:.1f} s" if answer["ready_since"] else None),
            ("isolation", answer["isolation"]),
            ("usage", _pairs(answer["usage"])),
            ("circuit", answer["circuit"] if answer.get("circuit") not in (None, "closed") else None),
            ("held", "yes: it starts with solo resume" if answer.get("held") else None),
            ("depends on", ", ".join(spec.get("depends_on") or ()) or None),
            ("waiting for", ", ".join(answer.get("waiting_for") or ()) or None),
            ("egress", ", ".join(spec.get("egress") or ()) or None),
            ("environment", spec.get("environment")),
            ("config", json.dumps(spec["config"]) if spec["config"] else None),
        ]
    )
    if crash is not None:
        show_line("")
        show_line(f"last crash at {crash['at']}: {crash['reason']}")
        if crash["traceback"]:
            show_text(crash["traceback"])
    show_line("")
    show_table(
        ("EVENT", "AT", "TYPE"), [(event["id"], event["at"], event["type"]) for event in reversed(answer["events"])]
    )


def _pairs(values: dict[str, Any]) -> str | None:
    return ", ".join(f"{name} {value:.10g}" for name, value in values.items()) or None


@click.command()
@click.argument("service_id", metavar="ID", shell_complete=SERVICE)
@click.option("--force", is_flag=True, help="Kill it at once.")
@click.option("--grace", type=DURATION, help="How long it may take to stop by itself, like 500ms, 5s, 1m.")
@for_tenant
def kill(place: Place, service_id: str, force: bool, grace: int | None) -> int:
    """Stop a service and forget it."""
    with place.in_tenant() as client, place.waiting(f"stopping {service_id}"):
        answer = client.kill(service_id, grace_ms=grace, force=force)
    if place.json:
        show_json(answer)
    else:
        show_line(f"{service_id} {answer['status']}")
    if answer.get("unresponsive"):
        note(f"{service_id} was told to stop and has not yet; look again with: solo status {service_id}")
        return 1
    return 0


class _WithNumbers(click.Command):
    """A command whose arguments may be negative numbers, which are no options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [_HIDDEN + each if _NEGATIVE.fullmatch(each) else each for each in args])


@click.command(cls=_WithNumbers)
@click.argument("service_id", metavar="ID", shell_complete=SERVICE)
@click.argument("function")
@click.argument("arguments", metavar="[ARG]...", nargs=-1)
@click.option("--kw", "keywords", type=KEYWORD, multiple=True, help="A keyword argument, like --kw n=5.")
@for_tenant
def call(
    place: Place, service_id: str, function: str, arguments: tuple[str, ...], keywords: tuple[tuple[str, Any], ...]
) -> None:
    """Call a FUNCTION that a service exports. An ARG is JSON, or else text."""
    args = [argument(each.removeprefix(_HIDDEN)) for each in arguments]
    with place.in_tenant() as client:
        result = client.call(service_id, function, args, dict(keywords))
    if place.json:
        show_json({"result": result})
    elif isinstance(result, str):
        show_text(result)
    else:
        show_line(json.dumps(result, ensure_ascii=False))


@click.command()
@click.argument("service_id", metavar="ID", shell_complete=SERVICE)
@click.option("--tail", type=click.IntRange(1, PAGE), default=100, show_default=True, help="The newest so many lines.")
@click.option("--level", type=click.Choice(LEVELS), help="Only of this level and above.")
@click.option("--follow", is_flag=True, help="Go on with what comes, also across restarts of the server.")
@for_tenant
def logs(place: Place, service_id: str, tail: int, level: str | None, follow: bool) -> None:
    """Show what a service wrote and logged, also after its end."""
    with place.in_tenant() as client:
        answer = client.logs(service_id, tail=tail, level=level)
        if not answer["logs"]:
            client.status(service_id)  # says so if there is no such service
        if place.json and not follow:
            show_json(answer)
            return
        for entry in answer["logs"]:
            _log_line(place, entry)
        if follow:
            last_id = answer["logs"][-1]["id"] if answer["logs"] else 0
            with (
                following(f"look again with: solo logs {service_id} --follow; the last entry shown has the id {{id}}"),
                client.follow_logs(service_id, since=last_id, level=level, onlooker=Told(place)) as entries,
            ):
                for entry in entries:
                    _log_line(place, entry)


def _log_line(place: Place, entry: dict[str, Any]) -> None:
    if place.json:
        show_json(entry, line=True)
        return
    fields = "".join(f" {name}={json.dumps(value)}" for name, value in entry["fields"].items())
    show_line(f"{entry['at']} {entry['level']:<7} {entry['message']}{fields}")
    sys.stdout.flush()


COMMANDS: Final = (deploy, list_, status, kill, call, logs)
