"""The command `solo` itself. Owns: the list of commands; `serve` and `demo`. Never: does the work (that is imported late)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from solo_trio import __version__
from solo_trio.cli import (
    audit_commands,
    backup_commands,
    capability_commands,
    certificate_commands,
    environment_commands,
    explaining_commands,
    key_commands,
    life_commands,
    local_commands,
    offline_commands,
    repair_commands,
    secret_commands,
    service_commands,
    state_commands,
    system_commands,
    tenant_commands,  # noqa: F401  (adds to `tenant`)
)
from solo_trio.cli.options import DATA, FILE, HOST
from solo_trio.cli.showing import ignore_output

CONTEXT: Final[dict[str, Any]] = {"help_option_names": ["-h", "--help"]}
INTERRUPTED: Final = 130
LEVELS: Final = ["debug", "info", "warning", "error"]


class _Solo(click.Group):
    """Ends of a command that click would comment on."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise click.exceptions.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            ignore_output()
            raise click.exceptions.Exit(0) from None


@click.group(cls=_Solo, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="solo")
def solo() -> None:
    """Solo: deploy, supervise and recover small Python services.

    Exit codes: 0 done, 1 refused or failed, 2 wrong usage.
    """


@solo.command()
@click.option(
    "--config",
    "config_file",
    type=FILE,
    help="The configuration, as `solo init` writes it.  [env: SOLO_CONFIG; default: DATA/solo.toml, if it is there]",
)
@click.option("--data", type=DATA, help="The data directory; made if it is missing.  [env: SOLO_DATA; default: ./data]")
@click.option("--host", help="The address to listen on.  [env: SOLO_HOST; default: 127.0.0.1]")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    help="The port to listen on; 0 takes a free one.  [env: SOLO_PORT; default: 8080]",
)
@click.option(
    "--allow-host",
    type=HOST,
    multiple=True,
    help="A name that browsers and proxies may use for it; any number of times.  [env: SOLO_ALLOW_HOST, with commas]",
)
@click.option("--tls", is_flag=True, help="Serve HTTPS only; solo certs init makes what it needs.  [env: SOLO_TLS]")
@click.option(
    "--tls-client-required",
    is_flag=True,
    help="With --tls: nobody connects without a client certificate.  [env: SOLO_TLS_CLIENT_REQUIRED]",
)
@click.option(
    "--log-level",
    type=click.Choice(LEVELS, case_sensitive=False),
    help="What the kernel says on standard error.  [env: SOLO_LOG_LEVEL; default: info]",
)
@click.option(
    "--start-paused", is_flag=True, help="Hold every service back; then: solo resume ID, or solo resume --all."
)
@click.option(
    "--recovery-timeout-ms",
    type=click.IntRange(0, 3_600_000),
    help="When to say ready at the latest.  [default: 30000]",
)
@click.option(
    "--shutdown-timeout-ms",
    type=click.IntRange(100, 600_000),
    help="How long a graceful end may take.  [default: 5000]",
)
@click.option("--max-per-tenant", type=click.IntRange(0, 1_000_000), help="Services of one tenant.  [default: 100]")
@click.option("--max-total", type=click.IntRange(0, 1_000_000), help="Services of all tenants.  [default: 1000]")
@click.option(
    "--plan", is_flag=True, help="Start nothing and change nothing: say what a start would do; exit 1 if it would fail."
)
@click.option("--json", "as_json", is_flag=True, help="With --plan: as JSON, for programs.")
def serve(config_file: Path | None, plan: bool, as_json: bool, **flags: Any) -> int:
    """Run a kernel on a data directory and serve its API.

    Prints `ready URL` once everything that was wanted runs again. SIGTERM or Ctrl-C ends it gracefully, a second one at once.
    Every other key of the configuration has an environment variable: solo config show.
    """
    from solo_trio.cli.configuring import configured

    if as_json and not plan:
        raise click.UsageError("--json goes with --plan")
    if plan:
        from solo_trio.cli.start_plan import show_plan

        return show_plan(configured(config_file, flags), as_json=as_json)
    from solo_trio.cli.serving import serve_until_told

    return serve_until_told(configured(config_file, flags))


@solo.command()
def demo() -> int:
    """Show the whole story, step by step, in a temporary directory.

    Serve, deploy and call, crash a service, kill -9 the kernel, start it again: everything is back.
    """
    from solo_trio.cli.demo import run_demo

    return run_demo()


for command in (
    *service_commands.COMMANDS,
    *life_commands.COMMANDS,
    *system_commands.COMMANDS,
    *local_commands.COMMANDS,
    *offline_commands.COMMANDS,
    *repair_commands.COMMANDS,
    *backup_commands.COMMANDS,
    *state_commands.COMMANDS,
    *explaining_commands.COMMANDS,
    *audit_commands.COMMANDS,
    *capability_commands.COMMANDS,
    *secret_commands.COMMANDS,
    *key_commands.COMMANDS,
    *environment_commands.COMMANDS,
    *certificate_commands.COMMANDS,
):
    solo.add_command(command)
