"""Options that commands share. Owns: their words, and how typed text becomes values. Never: what is done with them."""

from __future__ import annotations

import errno
import functools
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from click.shell_completion import CompletionItem

from solo_trio.cli import texts
from solo_trio.errors import SoloError

R = TypeVar("R")


class Typed(click.ParamType[Any]):
    """A parameter read by a function that raises ValueError."""

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._read(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _check_path(type_: click.ParamType[Any], value: Any, param: click.Parameter | None, ctx: Any) -> None:
    """Refuse what no file can be called."""
    try:
        os.stat(value)
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) or error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            why = "no file can be called so" if isinstance(error, ValueError) else error.strerror
            type_.fail(f"{texts.printable(str(value))!r}: {why}", param, ctx)


class Directory(click.Path):
    """A directory's path; none at all (an empty variable in a shell) is not the one where the command runs."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("name a directory: it is empty", param, ctx)
        _check_path(self, value, param, ctx)
        return super().convert(value, param, ctx)


class Hosts(click.ParamType[Any]):
    """A host's name; in an environment variable several, with commas."""

    name = "name"
    envvar_list_splitter = ","

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        host = str(value).strip()
        if _HOST.fullmatch(host) is None:
            self.fail(f"{texts.printable(host)!r} is no host's name: write it without http:// and port", param, ctx)
        return host


class File(click.Path):
    """A path that may name nothing: whoever opens it says so. An empty one is nothing at all."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("name a file: it is empty", param, ctx)
        _check_path(self, value, param, ctx)
        return super().convert(value, param, ctx)


class Seconds(click.FloatRange):
    """A number of seconds; what is no number is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{value} is no number of seconds", param, ctx)
        return seconds


class LimitName(click.ParamType[Any]):
    """`NAME=NUMBER`. Which names and numbers there may be, the server says."""

    name = "name=number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return texts.limit(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from solo_trio.model.limits import RANGES

        return [CompletionItem(f"{name}=") for name in RANGES if name.startswith(incomplete)]


_HOST: Final = re.compile(r"[A-Za-z0-9_.-]+|\[?[0-9A-Fa-f:.]+\]?", re.ASCII)
DATA = Directory(path_type=Path)
FILE = File(path_type=Path, dir_okay=False)
PEM = File(path_type=Path, exists=True, dir_okay=False)
SOURCE = File(path_type=Path, exists=True, dir_okay=False, allow_dash=True)
PROGRAM = File(path_type=Path, exists=True, allow_dash=True)
HOST = Hosts()
LIMIT = LimitName()
TENANT = Typed("tenant", texts.named)
WINDOW = Seconds(0, min_open=True)
RESTART = click.Choice(["permanent", "transient", "temporary"])
TIME = Typed("time", texts.time_utc)
DURATION = Typed("duration", texts.duration_ms)
JSON_OBJECT = Typed("json", texts.json_object)
KEYWORD = Typed("name=json", texts.keyword)


def SERVICE(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Completes the ids of the services there are."""
    from solo_trio.cli.completing import service_ids

    return service_ids(ctx, incomplete)


_PLACE = (
    click.option(
        "--data",
        type=DATA,
        help="Data directory of the server on this machine. [env: SOLO_DATA; default: ./data]",
    ),
    click.option("--url", help="The server, if it is elsewhere; its token is in SOLO_TOKEN. [env: SOLO_URL]"),
    click.option("--ca-cert", type=PEM, help="Whose servers are trusted, for https (PEM). [env: SOLO_CA_CERT]"),
    click.option("--cert", type=PEM, help="A client certificate, instead of a token (PEM). [env: SOLO_CERT]"),
    click.option("--key", type=PEM, help="Its key. [env: SOLO_KEY; default: in the same file]"),
    click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for programs."),
)
_TENANT = click.option(
    "--tenant",
    type=TENANT,
    envvar="SOLO_TENANT",
    help="The tenant, for a system token. [env: SOLO_TENANT; default: default]",
)


def for_system(function: Callable[..., R]) -> Callable[..., R]:
    """Give a command the options that say where the server is, as a `Place`."""

    @functools.wraps(function)
    def command(
        data: Path | None,
        url: str | None,
        ca_cert: Path | None,
        cert: Path | None,
        key: Path | None,
        as_json: bool,
        **given: Any,
    ) -> R:
        from solo_trio.cli.session import Place  # it imports httpx

        tenant = given.pop("tenant", None)
        try:
            place = Place(data, url, as_json, tenant, _tenant_is_named(), ca_cert=ca_cert, cert=cert, key=key)
            return function(place, **given)
        except SoloError as error:
            if "service_id" in given:  # for the advice
                error.extra.setdefault("service_id", given["service_id"])
            raise

    for option in reversed(_PLACE):
        option(command)
    return command


def _tenant_is_named() -> bool:
    source = click.get_current_context().get_parameter_source("tenant")
    return source is click.core.ParameterSource.COMMANDLINE


def for_tenant(function: Callable[..., R]) -> Callable[..., R]:
    """As `for_system`, and which tenant."""
    return for_system(_TENANT(function))


_TENANT_LIMITS: Final = (
    click.option("--max-services", type=click.IntRange(0), help="How many services it may have."),
    click.option(
        "--max-memory-mb", type=click.FloatRange(16), help="How much memory all its services may use together."
    ),
    click.option(
        "--requests-per-second", type=click.FloatRange(0.001), help="How many requests it may send in the long run."
    ),
    click.option("--burst", type=click.IntRange(1), help="How many of them at once, after a quiet time."),
    click.option("--in-flight", type=click.IntRange(1), help="How many of its requests may be in flight."),
)


def tenant_limits(command: Callable[..., None]) -> Callable[..., None]:
    """Options for what a tenant itself may have; the command gets those that were given as `limits`."""

    @functools.wraps(command)
    def collected(
        *args: Any,
        max_services: int | None,
        max_memory_mb: float | None,
        requests_per_second: float | None,
        burst: int | None,
        in_flight: int | None,
        **more: Any,
    ) -> None:
        asked = {
            "max_services": max_services,
            "max_memory_mb": max_memory_mb,
            "requests_per_second": requests_per_second,
            "burst": burst,
            "in_flight": in_flight,
        }
        limits = {name: value for name, value in asked.items() if value is not None}
        command(*args, limits=limits or None, **more)

    for option in reversed(_TENANT_LIMITS):
        option(collected)
    return collected
