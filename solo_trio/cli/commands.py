"""The command `solo` itself. Owns: the list of commands; `serve` and `demo`. Never: does the work (that is imported late)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from solo_trio import __version__
from solo_trio.cli import service_commands, system_commands
from solo_trio.cli.options import DATA, HOST
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
    "--data",
    type=DATA,
    default="./data",
    envvar="SOLO_DATA",
    show_default=True,
    show_envvar=True,
    help="The data directory; made if it is missing.",
)
@click.option("--host", default="127.0.0.1", envvar="SOLO_HOST", show_default=True, show_envvar=True)
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=8080,
    envvar="SOLO_PORT",
    show_default=True,
    show_envvar=True,
    help="0 takes a free one.",
)
@click.option(
    "--allow-host",
    "allowed_hosts",
    type=HOST,
    multiple=True,
    envvar="SOLO_ALLOW_HOST",
    help="A name that browsers and proxies may use for it; any number of times.  [env var: SOLO_ALLOW_HOST, with commas]",
)
@click.option(
    "--log-level",
    type=click.Choice(LEVELS, case_sensitive=False),
    default="info",
    envvar="SOLO_LOG_LEVEL",
    show_default=True,
    show_envvar=True,
    help="What the kernel says on standard error.",
)
@click.option(
    "--recovery-timeout-ms", type=click.IntRange(0, 3_600_000), help="When to say ready at the latest. [30000]"
)
@click.option(
    "--shutdown-timeout-ms", type=click.IntRange(100, 600_000), help="How long a graceful end may take. [5000]"
)
@click.option("--max-per-tenant", type=click.IntRange(0, 1_000_000), help="Services of one tenant.")
@click.option("--max-total", type=click.IntRange(0, 1_000_000), help="Services of all tenants.")
def serve(
    data: Path, host: str, port: int, allowed_hosts: tuple[str, ...], log_level: str, **settings: int | None
) -> None:
    """Run a kernel on a data directory and serve its API.

    Prints `ready URL` once everything that was wanted runs again. SIGTERM or Ctrl-C ends it gracefully, a second one at once.
    """
    from solo_trio.cli.serving import serve_until_told

    given = {name: value for name, value in settings.items() if value is not None}
    serve_until_told(data, host, port, allowed_hosts, log_level, given)


@solo.command()
def demo() -> int:
    """Show the whole story, step by step, in a temporary directory.

    Serve, deploy and call, crash a service, kill -9 the kernel, start it again: everything is back.
    """
    from solo_trio.cli.demo import run_demo

    return run_demo()


for command in (*service_commands.COMMANDS, *system_commands.COMMANDS):
    solo.add_command(command)
