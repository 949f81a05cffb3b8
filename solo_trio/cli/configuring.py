"""Configuration in the command line. Owns: flags as keys, making the data directory, what `config` finds. Never: the keys."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click
from attrs import frozen

from solo_trio.configuration import FILE_NAME, Configuration, Serving, configure, read_file, table, template
from solo_trio.errors import Faulted, Rejected
from solo_trio.operations.settings import Settings

FLAGS: Final = {"data": "data_dir", "port": "http_port", "allow_host": "allow_hosts"}
"""Flags whose key has another name."""
FOR_OTHERS: Final = 0o077
SECRETS: Final = ("SOLO_TOKEN", "SOLO_MASTER_KEY")


def configured(file: Path | None, flags: Mapping[str, Any]) -> Configuration:
    """What counts, of flags (None, False and empty: not given), environment and file. Raises `Rejected`."""
    paths = {entry.name: path for path, entry in table().items()}
    given: dict[str, tuple[str, Any]] = {}
    for name, value in flags.items():
        if value is not None and value is not False and value != ():
            path, flag = paths[FLAGS.get(name, name)], f"--{name.replace('_', '-')}"
            fault = None if isinstance(value, Path) else table()[path].fault(value)  # a path may be any: it is tried
            if fault is not None:
                raise click.BadParameter(f"it {fault}", param_hint=f"'{flag}'")
            given[path] = (flag, str(value) if isinstance(value, Path) else value)
    return configure(flags=given, file=file)


def settings_of(data: Path | None) -> tuple[Path, Settings]:
    """The data directory that a command without a server is about, and what its configuration says."""
    found = configured(None, {"data": data})
    return Path(found.serving.data_dir), found.settings


def of_the_client() -> dict[str, str]:
    """What the environment tells commands about a server; of a secret only that it is there."""
    found = {
        name: os.environ.get(name, "")
        for name in ("SOLO_URL", "SOLO_TENANT", "SOLO_CA_CERT", "SOLO_CERT", "SOLO_KEY", *SECRETS)
    }
    if "@" in found["SOLO_URL"]:
        found["SOLO_URL"] = "***@" + found["SOLO_URL"].rpartition("@")[2]
    return {name: "(set)" if name in SECRETS else text for name, text in found.items() if text}


def faults_of(file: Path) -> list[str]:
    """All that is wrong with a file."""
    try:
        _, faults = read_file(file)
    except Rejected as error:
        return [error.detail]
    return [f"{fault.where} {fault.says}" for fault in faults]


def data_of(file: Path) -> Path | None:
    """The data directory that a file names."""
    given, _ = read_file(file)
    named = given.get("solo.data_dir")
    return None if named is None else Path(named.value)


@frozen
class Made:
    """A data directory."""

    path: Path
    readable_by_others: bool


def make_directory(directory: Path | None) -> Made:
    """The data directory, made for its user alone if it is missing; one that is there stays as it is."""
    path = directory or Path(os.environ.get("SOLO_DATA") or Serving().data_dir)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise Faulted("data_unwritable", f"{path} cannot be made ({why}): name another directory") from None
    return Made(path, bool(mode & FOR_OTHERS))


def write_template(directory: Path, *, force: bool) -> Path:
    """The commented configuration in a data directory. Raises `Rejected` if there is one, unless `force`."""
    path = directory / FILE_NAME
    new = path.with_suffix(".toml.new")
    try:
        if os.path.lexists(path) and not force:
            raise Rejected("file_exists", f"{path} is there already: edit it, or write over it with --force")
        new.unlink(missing_ok=True)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(template())
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        raise Faulted("data_unwritable", f"{path} cannot be written ({error.strerror}): correct that") from None
    return path
