"""The master key. Owns: its file, what is derived from it, and wrapping under it. Never: stores a wrapped key.

Losing the master key loses every token and secret: that is what it is for. It lives outside `kernel.db`.
The functions that touch the file block; they run before the kernel does.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import stat
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from solo_trio.errors import Faulted
from solo_trio.vault.secret import Secret

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
"""96 bits, random for each wrapping: far below 2**32 wrappings under one key (NIST SP 800-38D, 8.3)."""
TAG_BYTES: Final = 16
FINGERPRINT_BYTES: Final = 8
MASTER_KEY_VARIABLE: Final = "SOLO_MASTER_KEY"
FILE_MODE: Final = 0o600
COMMAND_S_MAX: Final = 30.0
"""How long a command may take to print the master key."""
_FORMAT: Final = b"\x01"
_HEADER_BYTES: Final = len(_FORMAT) + FINGERPRINT_BYTES
_HEX_KEY: Final = re.compile(r"[0-9a-fA-F]{64}\n?")
_READ_BYTES_MAX: Final = 2 * KEY_BYTES + 2


def associated(*parts: str) -> bytes:
    """Associated data that no other list of parts gives: each is preceded by its length. Bind tenant, id, purpose."""
    encoded = [part.encode() for part in parts]
    return b"".join(len(part).to_bytes(4, "big") + part for part in encoded)


class MasterKey:
    """32 bytes from which everything else is derived; `repr` shows none of them."""

    def __init__(self, key: Secret, *, random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> None:
        if len(key.reveal()) != KEY_BYTES:
            raise ValueError(f"a master key has {KEY_BYTES} bytes")
        self._key = key
        self._random_bytes = random_bytes
        self._aead = AESGCM(self._derive("own", "wrap"))
        self._fingerprint = self._derive("own", "fingerprint")[:FINGERPRINT_BYTES]

    @classmethod
    def load_or_create(
        cls,
        path: Path,
        *,
        command: Sequence[str] = (),
        environ: Mapping[str, str] = os.environ,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> MasterKey:
        """From SOLO_MASTER_KEY (64 hex digits) if it is set, else what `command` says, else from `path`.

        Without a variable and a command the file is created if it is missing.
        A created file and its directory entry are on disk when this returns. Raises `Faulted("data_damaged")` if the
        variable or file is malformed or others may read the file, `Faulted("data_unwritable")` if it cannot be made.
        """
        given = environ.get(MASTER_KEY_VARIABLE)
        if given is not None:
            return cls(_from_hex(given, f"the environment variable {MASTER_KEY_VARIABLE}"), random_bytes=random_bytes)
        if command:
            return cls(run_command(command), random_bytes=random_bytes)
        key = _read(path)
        if key is None:
            _create(path, random_bytes(KEY_BYTES).hex())
            key = _read(path)  # what is there, not what was meant: another process may have been first
        if key is None:
            raise Faulted("data_damaged", f"the master key file {path.name} vanished; stop what removes it")
        return cls(key, random_bytes=random_bytes)

    @classmethod
    def read(cls, path: Path) -> MasterKey:
        """From a file that must be there. Raises `Faulted("data_damaged")`."""
        key = _read(path)
        if key is None:
            raise Faulted("data_damaged", f"the master key file {path} is missing")
        return cls(key)

    @classmethod
    def create(cls, path: Path, given: MasterKey | None = None) -> MasterKey:
        """A new one, or `given`; its file and directory entry are on disk when this returns. Raises `Faulted`."""
        _create(path, (secrets.token_bytes(KEY_BYTES) if given is None else given._key.reveal()).hex())
        return cls.read(path)

    def wraps(self, wrapped: bytes) -> bool:
        """Whether `wrapped` says of itself that it was made by this key."""
        return wrapped.startswith(_FORMAT + self._fingerprint)

    def is_of_another(self, wrapped: bytes) -> bool:
        """Whether `wrapped` says of itself that another master key made it."""
        return len(wrapped) > _HEADER_BYTES and wrapped.startswith(_FORMAT) and not self.wraps(wrapped)

    def derive(self, purpose: str) -> bytes:
        """A 32-byte key for one purpose (HKDF-SHA256, RFC 5869); the same purpose gives the same key for ever."""
        return self._derive("for", purpose)

    def _derive(self, family: str, purpose: str) -> bytes:
        info = f"solo/v1/{family}/{purpose}".encode()
        return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(self._key.reveal())

    def wrap(self, plain: Secret, aad: bytes) -> bytes:
        """Format 1: 0x01, the master key's fingerprint, nonce, AES-256-GCM ciphertext with tag."""
        header = _FORMAT + self._fingerprint
        nonce = self._random_bytes(NONCE_BYTES)
        return header + nonce + self._aead.encrypt(nonce, plain.reveal(), header + aad)

    def unwrap(self, wrapped: bytes, aad: bytes) -> Secret:
        """Raises `Faulted("data_damaged")`: another master key, other `aad`, or changed bytes."""
        header, nonce = wrapped[:_HEADER_BYTES], wrapped[_HEADER_BYTES : _HEADER_BYTES + NONCE_BYTES]
        if len(wrapped) < _HEADER_BYTES + NONCE_BYTES + TAG_BYTES or not header.startswith(_FORMAT):
            raise Faulted("data_damaged", "a stored key has no known format; restore the data directory from a backup")
        if header != _FORMAT + self._fingerprint:
            raise Faulted(
                "data_damaged",
                "the master key is not the one that this data directory was made with; restore it"
                f" (its file, or {MASTER_KEY_VARIABLE}) and start again; if a rotation of it was interrupted,"
                " run the same solo keys rotate once more, with the key from before it",
            )
        try:
            return Secret(self._aead.decrypt(nonce, wrapped[_HEADER_BYTES + NONCE_BYTES :], header + aad))
        except InvalidTag:
            raise Faulted(
                "data_damaged",
                "a stored key was changed, or belongs to another place; restore the data directory from a backup",
            ) from None


def run_command(command: Sequence[str]) -> Secret:
    """The key that a command prints: 64 hex digits. What it prints on standard error is the operator's to read.

    Raises `Faulted("data_damaged")`.
    """
    name = f"the master key command {command[0]}"
    try:
        process = subprocess.Popen(
            list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
        )
    except OSError as error:
        raise Faulted("data_damaged", f"{name} cannot be run ({error.strerror}): correct master_key_command") from None
    timer = threading.Timer(COMMAND_S_MAX, _end, (process,))
    timer.start()
    try:
        assert process.stdout is not None
        with process.stdout as output:
            printed = output.read(_READ_BYTES_MAX)
            if len(printed) == _READ_BYTES_MAX:
                _end(process)
        code = process.wait()
    finally:
        timer.cancel()
        timer.join()
        if process.poll() is None:
            _end(process)
            process.wait()
    if code != 0:
        raise Faulted(
            "data_damaged", f"{name} ended with {code}, or took longer than {COMMAND_S_MAX:g} s: run it by hand"
        )
    return _from_hex(printed.decode("latin-1"), f"what {name} prints")


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _from_hex(text: str, where: str) -> Secret:
    if not _HEX_KEY.fullmatch(text):
        raise Faulted("data_damaged", f"{where} must hold a master key of 64 hex digits; restore it from your backup")
    return Secret(bytes.fromhex(text))


def _read(path: Path) -> Secret | None:
    """None if there is no such file. A symbolic link is followed: its target's permissions count."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Faulted("data_damaged", f"the master key file {path.name} cannot be read: {error.strerror}") from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise Faulted("data_damaged", f"the master key file {path.name} is not a regular file; replace it")
        if status.st_mode & 0o077:
            raise Faulted(
                "data_damaged", f"others may use the master key file {path.name}; chmod 600 it, or replace the key"
            )
        content = os.read(fd, _READ_BYTES_MAX)
    finally:
        os.close(fd)
    return _from_hex(content.decode("latin-1"), f"the master key file {path.name}")


def _create(path: Path, text: str) -> None:
    """Whole and durable, or not at all; never over an existing file (hence a link and not a rename)."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
            try:
                with open(fd, "w") as file:
                    os.fchmod(fd, FILE_MODE)  # whatever the umask
                    file.write(text + "\n")
                    file.flush()
                    os.fsync(fd)
                try:
                    os.link(temporary, path)
                except FileExistsError:
                    return
            finally:
                os.unlink(temporary)
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise Faulted("data_unwritable", f"the master key file {path} cannot be made: {error.strerror}") from error
