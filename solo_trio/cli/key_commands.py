"""Commands about the master key: `solo keys`. Owns: what is asked, what is told. Never: reads or shows a key."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from solo_trio.cli.options import DATA, FILE
from solo_trio.cli.showing import note, show_json, show_line


@click.group()
def keys() -> None:
    """Look after the master key, which everything secret is sealed under."""


@keys.command("rotate")
@click.option("--data", type=DATA, help="The data directory; no kernel may use it.  [env: SOLO_DATA; default: ./data]")
@click.option(
    "--new-key-file",
    type=FILE,
    help="A file (0600) with the new key as 64 hex digits; needed where the old one is not in the directory.",
)
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for programs.")
def rotate(data: Path | None, new_key_file: Path | None, as_json: bool) -> None:
    """Put another master key in the place of the one of a data directory.

    Tokens and secrets stay what they are: the keys that they are made with are wrapped anew. Interrupted at any moment, the
    directory opens with the old key or with the new one. A backup from before needs the old key: keep it as long as that.
    """
    from solo_trio.bootstrap import rotate_master_key
    from solo_trio.cli.configuring import settings_of

    directory, settings = settings_of(data)
    count = rotate_master_key(directory, new_key_file, settings.master_key_command)
    if as_json:
        show_json({"keys": count})
    else:
        show_line(f"{count} keys are under the new master key")
        note("next: keep the old one as long as backups from before are kept; start the kernel: solo serve")


COMMANDS: Final = (keys,)
