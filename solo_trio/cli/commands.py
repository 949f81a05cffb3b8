"""The commands and their options. Owns: words, defaults, help. Never: does the work (the functions called import it late)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from solo_trio import __version__

CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"]}
LEVELS = ["debug", "info", "warning", "error"]


@click.group(context_settings=CONTEXT)
@click.version_option(__version__, prog_name="solo")
def solo() -> None:
    """Solo: deploy, supervise and recover small Python services."""


@solo.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
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
    "--log-level",
    type=click.Choice(LEVELS, case_sensitive=False),
    default="info",
    envvar="SOLO_LOG_LEVEL",
    show_default=True,
    show_envvar=True,
    help="What the kernel says on standard error.",
)
@click.option("--recovery-timeout-ms", type=click.IntRange(0), help="When to say ready at the latest.")
@click.option("--shutdown-timeout-ms", type=click.IntRange(100), help="How long a graceful end may take.")
@click.option("--max-per-tenant", type=click.IntRange(0), help="Services of one tenant.")
@click.option("--max-total", type=click.IntRange(0), help="Services of all tenants.")
def serve(data: Path, host: str, port: int, log_level: str, **settings: int | None) -> int:
    """Run a kernel on a data directory and serve its API.

    Prints `ready URL` once everything that was wanted runs again. SIGTERM or Ctrl-C ends it gracefully, a second one at once.
    """
    from solo_trio.cli.serving import serve_until_told

    given = {name: value for name, value in settings.items() if value is not None}
    return serve_until_told(data, host, port, log_level, given)
