"""Environments: packages that the operator prepared for services. Owns: finding one by name, whether it fits this Python.
Never: makes or changes one (`solo env` does), or imports anything from one.

An environment is a virtual environment in, or linked from, a directory of the data directory. It is read each time a service
is started, so that one that was taken away or made anew is noticed without a restart of the kernel.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from attrs import frozen

from solo_trio.errors import Rejected
from solo_trio.model.ids import check_id

DIRECTORY: Final = "environments"
"""In the data directory."""
ENVIRONMENTS_MAX: Final = 64
CONFIGURATION: Final = "pyvenv.cfg"
CONFIGURATION_BYTES_MAX: Final = 65_536
PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
_VERSION_KEYS: Final = ("version", "version_info")
"""What `venv` writes, and what other tools do."""


@frozen
class Environment:
    """`python` as in "3.13"; `prefix`: the virtual environment itself, not the link to it."""

    name: str
    python: str
    prefix: Path
    site_packages: Path


class Environments:
    """Implements `ports.Environments` on a directory, which need not exist."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def find(self, name: str) -> Environment:
        """Reads files. Raises `Rejected`: invalid_id, environment_not_found, environment_unusable."""
        path = self.directory / check_id("environment", name)
        if not path.is_symlink() and not path.exists():
            raise Rejected(
                "environment_not_found",
                f"there is no environment '{name}'; the operator adds it with: solo env add {name} requirements.txt",
            )
        return read_environment(name, path)

    def check(self, name: str) -> None:
        """See `ports.Environments.check`."""
        self.find(name)

    def names(self) -> list[str]:
        """Of all that there are, whether they can be used or not."""
        if not self.directory.is_dir():
            return []
        return sorted(path.name for path in self.directory.iterdir() if not path.name.startswith("."))


def read_environment(name: str, path: Path) -> Environment:
    """The virtual environment at `path`. Raises `Rejected("environment_unusable")`."""
    try:
        prefix = path.resolve(strict=True)
        with open(prefix / CONFIGURATION, "rb") as file:
            text = file.read(CONFIGURATION_BYTES_MAX).decode("utf-8", "replace")
    except (OSError, RuntimeError):  # RuntimeError: links in a circle, before Python 3.13
        raise _unusable(name, f"{path} is no virtual environment that can be read") from None
    python = _version(text)
    if python != PYTHON:
        raise _unusable(name, f"it is for Python {python or 'of unknown version'}, and the kernel runs on {PYTHON}")
    site_packages = prefix / "lib" / f"python{PYTHON}" / "site-packages"
    if not site_packages.is_dir():
        raise _unusable(name, f"{site_packages} is missing")
    return Environment(name, python, prefix, site_packages)


def _version(text: str) -> str | None:
    """Major and minor of the Python that a pyvenv.cfg names."""
    for line in text.splitlines():
        key, _, value = line.partition("=")
        if key.strip().lower() in _VERSION_KEYS:
            return ".".join(value.strip().split(".")[:2])
    return None


def _unusable(name: str, why: str) -> Rejected:
    return Rejected(
        "environment_unusable", f"the environment '{name}' cannot be used: {why}; the operator makes it anew"
    )
