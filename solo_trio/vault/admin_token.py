"""The file with the system's own token. Owns: that it is whole, durable, private and current. Never: makes the token."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from solo_trio.errors import Faulted
from solo_trio.vault.secret import Secret

ADMIN_TOKEN_FILE: Final = "admin.token"
_READ_BYTES_MAX: Final = 16_384


def write_admin_token(data: Path, token: Secret) -> None:
    """Put it into `data`, in the place of another; nothing is done where it is there. Raises `Faulted("data_unwritable")`."""
    path = data / ADMIN_TOKEN_FILE
    whole = path.with_suffix(".new")
    content = token.reveal() + b"\n"
    try:
        if path.is_file() and _content(path) == content:
            return
        descriptor = os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        whole.replace(path)
    except OSError as error:
        raise Faulted("data_unwritable", f"{path} cannot be written: {error.strerror}") from error


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_READ_BYTES_MAX)
