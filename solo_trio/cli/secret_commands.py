"""Commands about secrets: `solo secrets`. Owns: where a value and a key come from, what is shown. Never: keeps a value."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from solo_trio.cli.options import SOURCE, for_tenant
from solo_trio.cli.showing import note, show_json, show_line, show_table
from solo_trio.cli.texts import printable
from solo_trio.errors import Rejected

if TYPE_CHECKING:
    from solo_trio.cli.session import Place

PAGE: Final = 1_000
VALUE_BYTES_MAX: Final = 65_536
STANDARD_INPUT: Final = "-"
_KEY = click.option(
    "--key-file",
    type=SOURCE,
    help="A file with a key of your own: a passphrase, or 32 bytes as hex or base64. Without it nobody can open the secret.",
)


@click.group()
def secrets() -> None:
    """Keep secrets for services and agents: sealed, by name, in versions."""


@secrets.command("set")
@click.argument("name")
@click.argument("value", required=False)
@click.option("--file", "file", type=SOURCE, help="Take the value from a file, as it is.")
@_KEY
@for_tenant
def set_(place: Place, name: str, value: str | None, file: Path | None, key_file: Path | None) -> None:
    """Set the secret NAME, or a new version of it.

    Without VALUE (or with -) the value is read from standard input, without echo on a terminal; one newline at its end is left
    out. What stands on a command line can be read by other users of the machine.
    """
    if file is not None and value is not None:
        raise click.UsageError("give either VALUE or --file")
    key = _key_of(key_file)
    content = _value(name, value, file)
    with place.in_tenant() as client, place.waiting(f"setting {name}"):
        answer = client.set_secret(name, content, key=key)
    if place.json:
        show_json(answer)
    else:
        show_line(f"{name}: version {answer['version']}")


def _value(name: str, given: str | None, file: Path | None) -> str | bytes:
    """Text where it is text, else bytes."""
    if file is not None:
        with click.open_file(str(file), "rb") as opened:
            return _text(opened.read(VALUE_BYTES_MAX + 1))
    if given is not None and given != STANDARD_INPUT:
        note(
            "note: what stands on a command line can be read by others; standard input is not: solo secrets set NAME -"
        )
        return given
    if given is None and sys.stdin.isatty():
        prompted: str = click.prompt(f"value of {printable(name)}", hide_input=True, err=True)
        return prompted
    content = sys.stdin.buffer.read(VALUE_BYTES_MAX + 2)
    return _text(content.removesuffix(b"\n"))


def _text(content: bytes) -> str | bytes:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content


def _key_of(file: Path | None) -> str | None:
    if file is None:
        return None
    with click.open_file(str(file), "rb") as opened:
        content: bytes = opened.read(VALUE_BYTES_MAX)
    try:
        return content.decode().removesuffix("\n")
    except UnicodeDecodeError:
        raise Rejected(
            "invalid_field", "the key file must be text: a passphrase, or 32 bytes as hex or base64"
        ) from None


@secrets.command("get")
@click.argument("name")
@click.option("--version", type=click.IntRange(1), help="Another version than the newest.")
@_KEY
@for_tenant
def get(place: Place, name: str, version: int | None, key_file: Path | None) -> None:
    """Reveal the secret NAME: its value as it is, with a newline only on a terminal. That is recorded."""
    with place.in_tenant() as client:
        value = client.reveal_secret(name, key=_key_of(key_file), version=version)
    if place.json:
        shown: Any = value if isinstance(value, str) else {"base64": base64.b64encode(value).decode()}
        show_json({"value": shown})
    elif sys.stdout.isatty():
        show_line(value if isinstance(value, str) else repr(value)[2:-1])
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(value.encode() if isinstance(value, str) else value)


@secrets.command("list")
@for_tenant
def list_(place: Place) -> None:
    """List the secrets: names and versions, never values."""
    with place.in_tenant() as client:
        page = client.secrets(limit=PAGE)
        found = page["secrets"]
        while page["next"]:
            page = client.secrets(limit=PAGE, cursor=page["next"])
            found += page["secrets"]
    if place.json:
        show_json({"secrets": found})
    else:
        show_table(
            ("SECRET", "VERSION", "SET", "SEALED BY"),
            [(each["name"], each["version"], each["at"], each["sealed_by"]) for each in found],
        )


@secrets.command("delete")
@click.argument("name")
@for_tenant
def delete(place: Place, name: str) -> None:
    """Shred every version of the secret NAME; services that had it get it no more."""
    with place.in_tenant() as client:
        answer = client.delete_secret(name)
    if place.json:
        show_json(answer)
    else:
        show_line(f"{name} {answer['status']}")


COMMANDS: Final = (secrets,)
