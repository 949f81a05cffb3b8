"""Environments on disk. Owns: making one with `venv` and pip, linking one, taking one away; all or nothing. Never: asks a
server, or is asked by one.

One that is being made, or taken away, has a name that begins with a dot, which no environment has, and is locked by whoever
works on it. What a killed command left there, the next one removes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

from solo_trio.bootstrap import ENVIRONMENTS_MAX, Environments, read_environment
from solo_trio.cli.progress import telling
from solo_trio.errors import Faulted, Rejected
from solo_trio.model.ids import check_id

DIRECTORY_MODE: Final = 0o755
TOLD_LINES: Final = 20
"""Of what pip said, when it failed and nobody saw it."""
_ENDING: Final = (signal.SIGTERM, signal.SIGHUP)


def make(environments: Environments, name: str, requirements: Path, pip_args: Sequence[str], *, quiet: bool) -> None:
    """Make the environment `name` with what `requirements` names. `pip_args`: for `pip install`, as they are.

    Raises `Rejected` (file_exists, environment_unusable, quota_exceeded) and `Faulted("data_unwritable")`; whatever the
    reason, and also when interrupted, nothing is left of it.
    """
    _check_new(environments, name)
    if not requirements.is_file():
        raise Rejected("invalid_field", f"there is no file {requirements}: name a requirements file, or use --path")
    with _interruptible(), _aside(environments.directory, name) as place:
        try:
            with telling(f"making {name}", quiet=quiet):
                venv.EnvBuilder(symlinks=True, with_pip=True).create(place)
        except (OSError, subprocess.CalledProcessError) as error:
            raise Rejected(
                "environment_unusable",
                f"Python's own venv cannot make one here ({error}); Debian and Ubuntu have it in the package python3-venv",
            ) from error
        _install(place, requirements, pip_args, quiet=quiet)
        for script in (place / "bin").iterdir():  # they name the directory that it was made in
            if not script.name.startswith("python"):
                script.unlink()
        read_environment(name, place)
        try:
            place.rename(environments.directory / name)
        except OSError:  # somebody was faster
            _check_new(environments, name)
            raise


def link(environments: Environments, name: str, prefix: Path) -> None:
    """Let `name` be the virtual environment at `prefix`, which stays where it is. Raises as `make` does."""
    _check_new(environments, name)
    found = read_environment(name, prefix)
    _prepare(environments.directory)
    sweep(environments.directory)
    try:
        (environments.directory / name).symlink_to(found.prefix)
    except FileExistsError:
        raise _exists(name) from None


def remove(environments: Environments, name: str) -> None:
    """Take it away: at once for who looks for it. One that was linked is left alone, only the link goes."""
    path = environments.directory / check_id("environment", name)
    if not path.is_symlink() and not path.exists():
        raise Rejected("environment_not_found", f"there is no environment '{name}'")
    gone = environments.directory / f".{name}.{os.getpid()}.gone"
    try:
        if path.is_symlink():
            path.unlink()
        else:
            path.rename(gone)
    except OSError as error:
        raise Faulted("data_unwritable", f"{path} cannot be removed ({error.strerror}): correct it") from error
    shutil.rmtree(gone, ignore_errors=True)
    sweep(environments.directory)


def sweep(directory: Path) -> None:
    """Remove what commands left that were killed."""
    for path in directory.glob(".*"):
        if path.is_dir() and not path.is_symlink():
            with _lock(path) as mine:
                if mine:
                    shutil.rmtree(path, ignore_errors=True)


def _check_new(environments: Environments, name: str) -> None:
    path = environments.directory / check_id("environment", name)
    if path.is_symlink() or path.exists():
        raise _exists(name)
    if len(environments.names()) >= ENVIRONMENTS_MAX:
        raise Rejected("quota_exceeded", f"there may be {ENVIRONMENTS_MAX} environments; remove one first")


def _exists(name: str) -> Rejected:
    return Rejected(
        "file_exists", f"there is an environment '{name}': take another name, or first solo env remove {name}"
    )


def _prepare(directory: Path) -> None:
    try:
        directory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        directory.mkdir(exist_ok=True, mode=DIRECTORY_MODE)
    except OSError as error:
        raise Faulted("data_unwritable", f"{directory} cannot be made ({error.strerror}): correct it") from error


@contextmanager
def _aside(directory: Path, name: str) -> Iterator[Path]:
    """A locked directory that is removed at the end, unless it was given another name."""
    _prepare(directory)
    sweep(directory)
    place = directory / f".{name}.{os.getpid()}"
    try:
        place.mkdir(mode=DIRECTORY_MODE)
    except OSError as error:
        raise Faulted("data_unwritable", f"{place} cannot be made ({error.strerror}): correct it") from error
    try:
        with _lock(place):
            yield place
    finally:
        if place.exists():
            shutil.rmtree(place, ignore_errors=True)


@contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Hold a directory's lock if nobody else does; it ends with the process that holds it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


@contextmanager
def _interruptible() -> Iterator[None]:
    """A signal that would end the process ends the work first, so that nothing of it is left."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before: dict[int, Any] = {number: signal.signal(number, interrupt) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _install(place: Path, requirements: Path, pip_args: Sequence[str], *, quiet: bool) -> None:
    """What pip says is the progress: on standard error, with its bars if that is a terminal."""
    command = [str(place / "bin" / "python"), "-I", "-m", "pip", "install"]
    command += ["--disable-pip-version-check", "--no-input", "--no-warn-script-location"]
    command += ["--requirement", str(requirements), *pip_args]
    output = subprocess.PIPE if quiet else sys.stderr.fileno()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
    ) as pip:
        try:
            said, _ = pip.communicate()
        except BaseException:  # it and all that it started are to be gone before their directory is
            os.killpg(pip.pid, signal.SIGKILL)
            raise
    if pip.returncode:
        if said:
            sys.stderr.write("\n".join(said.decode(errors="replace").splitlines()[-TOLD_LINES:]) + "\n")
        raise Rejected(
            "environment_unusable", "pip could not install the packages: what it says is above; nothing is left"
        )
