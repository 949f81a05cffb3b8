"""Options that commands share. Owns: their words, and how typed text becomes values. Never: what is done with them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from solo_trio.cli import texts

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


DURATION = Typed("duration", texts.duration_ms)
JSON_OBJECT = Typed("json", texts.json_object)
KEYWORD = Typed("name=json", texts.keyword)

_PLACE = (
    click.option(
        "--data",
        type=click.Path(path_type=Path),
        help="Data directory of the server on this machine. [env: SOLO_DATA; default: ./data]",
    ),
    click.option("--url", help="The server, if it is elsewhere; its token is in SOLO_TOKEN. [env: SOLO_URL]"),
    click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for programs."),
)
_TENANT = click.option(
    "--tenant", envvar="SOLO_TENANT", help="The tenant, for a system token. [env: SOLO_TENANT; default: default]"
)


def for_system(function: Callable[..., R]) -> Callable[..., R]:
    """Give a command the options that say where the server is, as a `Place`."""

    @functools.wraps(function)
    def command(data: Path | None, url: str | None, as_json: bool, **given: Any) -> R:
        from solo_trio.cli.session import Place  # it imports httpx

        return function(Place(data, url, as_json, given.pop("tenant", None)), **given)

    for option in reversed(_PLACE):
        option(command)
    return command


def for_tenant(function: Callable[..., R]) -> Callable[..., R]:
    """As `for_system`, and which tenant."""
    return for_system(_TENANT(function))
