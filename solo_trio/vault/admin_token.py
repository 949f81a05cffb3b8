"""The file with the system's own token. Owns: that it is whole, durable, private and current. Never: makes the token.

A token that is to be the next is put beside it before it is valid: once it is, a rename is all that is left to do, which needs
no space; and the next start does that if this one could not.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from solo_trio.errors import Faulted
from solo_trio.vault.secret import Secret

ADMIN_TOKEN_FILE: Final = "admin.token"
NEXT_SUFFIX: Final = ".new"
_READ_BYTES_MAX: Final = 16_384


def prepare_admin_token(data: Path, token: Secret) -> None:
    """Put what may become the token beside it. Raises `Faulted("data_unwritable")`."""
    path = data / ADMIN_TOKEN_FILE
    try:
        descriptor = os.open(_next(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)
            file.write(_text(token))
            file.flush()
            os.fsync(descriptor)
        _sync(data)
    except OSError as error:
        raise Faulted("data_unwritable", f"{path} cannot be written: {error.strerror}") from error


def put_admin_token(data: Path, token: Secret) -> None:
    """Have it in its place; nothing is done where it is there. Raises `Faulted("data_unwritable")`."""
    path = data / ADMIN_TOKEN_FILE
    try:
        if _content(path) != _text(token):
            if _content(_next(path)) != _text(token):
                prepare_admin_token(data, token)
            _next(path).replace(path)
        else:
            _next(path).unlink(missing_ok=True)
        _sync(data)
    except OSError as error:
        raise Faulted("data_unwritable", f"{path} cannot be written: {error.strerror}") from error


def drop_prepared(data: Path) -> None:
    """What was prepared did not become the token."""
    _next(data / ADMIN_TOKEN_FILE).unlink(missing_ok=True)


def _next(path: Path) -> Path:
    return path.with_suffix(NEXT_SUFFIX)


def _text(token: Secret) -> bytes:
    return token.reveal() + b"\n"


def _content(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(_READ_BYTES_MAX)
    except FileNotFoundError:
        return None


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
