"""Commands about this machine. Owns: init, config, check, doctor, completion: what is asked, what is shown. Never: the work."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from solo_trio.cli.options import DATA, FILE, SOURCE
from solo_trio.cli.showing import note, show_facts, show_json, show_line, show_table

JSON = click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for programs.")
SHELLS: Final = ["bash", "zsh", "fish"]


@click.command()
@click.argument("directory", metavar="[DIR]", type=DATA, required=False)
@click.option("--force", is_flag=True, help="Write over the one that is there.")
@JSON
def init(directory: Path | None, force: bool, as_json: bool) -> None:
    """Make a data directory DIR, with a configuration in it that explains every key.

    DIR is SOLO_DATA or ./data, if you name none. Nothing is set: everything in the file is commented out.
    """
    from solo_trio.cli.configuring import make_directory, write_template

    made = make_directory(directory)
    path = write_template(made.path, force=force)
    if as_json:
        show_json({"data": str(made.path), "config": str(path)})
        return
    show_line(f"wrote {path}")
    if made.readable_by_others:
        note(f"other users can look into {made.path}, where tokens will be: chmod 700 {made.path}")
    note(f"  next: solo serve --data {made.path}")


@click.group()
def config() -> None:
    """Show what is configured, and check a configuration."""


@config.command("show")
@click.option("--config", "file", type=FILE, help="The configuration.  [env: SOLO_CONFIG; default: DATA/solo.toml]")
@click.option("--data", type=DATA, help="The data directory.  [env: SOLO_DATA; default: ./data]")
@JSON
def config_show(file: Path | None, data: Path | None, as_json: bool) -> None:
    """Show every key with the value that `solo serve` would use, and where it is said."""
    from solo_trio.cli.configuring import configured, of_the_client
    from solo_trio.configuration import table, toml_value

    found = configured(file, {"data": data})
    client = of_the_client()
    values = {path: (found.value(entry), found.sources[path]) for path, entry in table().items()}
    if as_json:
        shown = {path: {"value": value, "source": source} for path, (value, source) in values.items()}
        show_json({"file": None if found.file is None else str(found.file), "values": shown, "client": client})
        return
    show_table(
        ("KEY", "VALUE", "FROM"),
        [(path, "" if value is None else toml_value(value), source) for path, (value, source) in values.items()],
    )
    show_line("")
    show_facts([("file", found.file or "none"), *client.items()])


@config.command("check")
@click.argument("file", metavar="[FILE]", type=FILE, required=False)
@click.option("--data", type=DATA, help="Instead of FILE: the solo.toml in this data directory.")
@JSON
def config_check(file: Path | None, data: Path | None, as_json: bool) -> int:
    """Say all that is wrong with a configuration; exit 1 if anything is."""
    from solo_trio.cli.configuring import faults_of
    from solo_trio.configuration import FILE_NAME

    if (file is None) == (data is None):
        raise click.UsageError("give either a FILE or --data DIRECTORY")
    file = data / FILE_NAME if data is not None else file
    assert file is not None
    faults = faults_of(file)
    if as_json:
        show_json({"file": str(file), "ok": not faults, "faults": faults})
    elif faults:
        for fault in faults:
            note(f"error: invalid_configuration: {fault}")
    else:
        show_line(f"{file} is right")
    return 1 if faults else 0


@click.command()
@click.argument("file", type=SOURCE)
@JSON
def check(file: Path, as_json: bool) -> int:
    """Look for mistakes in FILE, a service's module (- is standard input), without running it; exit 1 if there are errors.

    A deployment finds the same, and tells or refuses it as the tenant's hardening says. This is advice: what it does not find
    may be wrong all the same, and the sandbox is the boundary.
    """
    from solo_trio.cli.checking import check_source
    from solo_trio.cli.findings import where

    with click.open_file(str(file), "rb") as opened:
        report = check_source(opened.read())
    if as_json:
        show_json({"file": str(file), **report.document()})
        return 0 if report.ok else 1
    if report.findings:
        rows = [
            (where(each.document(), str(file)), each.level, each.rule, each.what, each.remedy)
            for each in report.findings
        ]
        show_table(("WHERE", "LEVEL", "RULE", "FOUND", "WHAT TO DO"), rows)
    if report.ok:
        exports = ", ".join(report.exports) or "nothing"
        show_line(
            f"{file}: no errors found; exports {exports}; main: {'yes' if report.main else 'no'} (advice, not proof)"
        )
    return 0 if report.ok else 1


@click.command()
@click.option("--data", type=DATA, help="The data directory to look at.  [env: SOLO_DATA; default: ./data]")
@JSON
def doctor(data: Path | None, as_json: bool) -> int:
    """Look at what this machine offers to Solo: ok, warn or fail, and what to do about it; exit 1 if something fails."""
    from solo_trio.cli.doctor import examine

    found = examine(data)
    failed = any(each.status == "fail" for each in found)
    if as_json:
        show_json({"ok": not failed, "checks": [each.document() for each in found]})
    else:
        rows = [(each.name, each.status, each.says, each.advice) for each in found]
        show_table(("WHAT", "STATUS", "FOUND", "WHAT TO DO"), rows)
    return 1 if failed else 0


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print what a SHELL needs to complete commands, options and the ids of services.

    For bash, into ~/.bashrc: eval "$(solo completion bash)"; for zsh the same into ~/.zshrc;
    for fish: solo completion fish > ~/.config/fish/completions/solo.fish
    """
    from solo_trio.cli.completing import script

    click.echo(script(shell, _root()), nl=False)


def _root() -> Any:
    return click.get_current_context().find_root().command


COMMANDS: Final = (init, config, check, doctor, completion)
