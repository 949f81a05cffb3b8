"""The file of a backup. Owns: its form, packing one, reading one through with every check. Never: where it lies, or the
databases.

A sealed file (`vault.sealed_file`), whose key is wrapped by the master key in its head; in it, compressed by gzip, a tar
archive of the members, and `manifest.json` as the last one, which tells size and SHA-256 of each. `docs/guides/backup.md`
has it for whoever must open one by hand: these bytes are for ever, and a change is a new `FORMAT`.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO, Final, cast

from attrs import frozen

from solo_trio import __version__
from solo_trio.errors import Faulted
from solo_trio.vault.keys import KEY_BYTES, MasterKey, associated
from solo_trio.vault.sealed_file import NotSealed, SealedReader, SealedWriter, read_head, write_head
from solo_trio.vault.secret import Secret

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
MANIFEST_BYTES_MAX: Final = 64 * 1_048_576
MANIFEST_SAYS: Final = {"last_event_id", "chain", "made_at", "environments"}
MEMBERS_MAX: Final = 1_000_000
PIECE_BYTES: Final = 1_048_576
COMPRESSION_LEVEL: Final = 1
"""Most of it is random or short; more effort would be for little."""
_NAME: Final = re.compile(r"(?!\.)[A-Za-z0-9_.-]{1,255}", re.ASCII)
"""Of each part of a member's path."""
_DIRECTORIES_MAX: Final = 4

Progress = Callable[[int], None]
"""Told of so many bytes more that were dealt with. What it raises ends the work."""
Sink = Callable[[str, int], BinaryIO]
"""Where a member of that name and size is to be written."""


@frozen
class Member:
    name: str
    size_bytes: int
    sha256: str


@frozen
class Packed:
    """A file that was written: its size, and the SHA-256 of all of it."""

    size_bytes: int
    digest: str


def new_key(master: MasterKey) -> tuple[Secret, bytes]:
    """A key for one file, and the head that has it wrapped."""
    key = Secret(os.urandom(KEY_BYTES))
    wrapped = master.wrap(key, associated("backup", str(FORMAT)))
    head = {"format": FORMAT, "version": __version__, "key": wrapped.hex()}
    return key, json.dumps(head, sort_keys=True).encode()


def is_safe(name: str) -> bool:
    """Whether a member may be called so: below the directory it is put in, and nothing hidden."""
    parts = name.split("/")
    return len(parts) <= _DIRECTORIES_MAX and all(_NAME.fullmatch(part) for part in parts) and name != MANIFEST


# -- writing


def pack(
    out: Path,
    key: Secret,
    head: bytes,
    directory: Path,
    names: Sequence[str],
    about: dict[str, Any],
    progress: Progress,
) -> Packed:
    """Write the files `names` of `directory` to the new file `out`, force it to the disk, read it back and compare.

    `about`: what the manifest says beside. Raises OSError, `Faulted("backup_failed")`, and what `progress` raises.
    """
    assert all(map(is_safe, names)), names
    with open(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        digests = _Digesting(file)
        members = _write(digests, key, head, directory, names, about, progress)
        file.flush()
        os.fsync(file.fileno())
        # What is read back shall come from the disk, as far as that can be asked for.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    _read_back(out, key, digests, members, progress)
    return Packed(digests.size_bytes, digests.hexdigest())


class _Digesting:
    """A file that is hashed as it is written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size_bytes = 0
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self.size_bytes += len(data)
        return self.file.write(data)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def _write(
    out: _Digesting,
    key: Secret,
    head: bytes,
    directory: Path,
    names: Sequence[str],
    about: dict[str, Any],
    progress: Progress,
) -> list[Member]:
    members: list[Member] = []
    bound = write_head(cast(BinaryIO, out), head)
    with (
        SealedWriter(cast(BinaryIO, out), key, bound) as sealed,
        gzip.GzipFile(filename="", fileobj=sealed, mode="wb", compresslevel=COMPRESSION_LEVEL, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT, bufsize=PIECE_BYTES) as tar,
    ):
        for name in names:
            with open(directory / name, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                read = _Reading(file, progress)
                tar.addfile(_info(name, size), cast(IO[bytes], read))
                members.append(Member(name, size, read.hexdigest()))
        listed = [{"name": each.name, "size_bytes": each.size_bytes, "sha256": each.sha256} for each in members]
        manifest = json.dumps(about | {"format": FORMAT, "members": listed}, indent=1).encode()
        tar.addfile(_info(MANIFEST, len(manifest)), io.BytesIO(manifest))
    return members


def _info(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    return info


class _Reading:
    """A file that is hashed as it is read."""

    def __init__(self, file: BinaryIO, progress: Progress) -> None:
        self._file = file
        self._progress = progress
        self._hash = hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._hash.update(data)
        self._progress(len(data))
        return data

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def _read_back(path: Path, key: Secret, written: _Digesting, members: list[Member], progress: Progress) -> None:
    read = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(PIECE_BYTES):
            read.update(piece)
    if read.hexdigest() != written.hexdigest():
        raise Faulted("backup_failed", f"{path.name} is not what was written to it: check the disk")
    with open(path, "rb") as file:
        _, bound = read_head(file)
        manifest = read_members(file, key, bound, None, progress)
    if members_of(manifest) != members:
        raise Faulted("backup_failed", f"{path.name} does not hold what was put into it: check the memory and the disk")


# -- reading


@frozen
class Opened:
    """A backup whose key is known; nothing of its content was looked at."""

    path: Path
    key: Secret
    version: str
    """Of the program that wrote it."""
    bound: bytes
    begins_at: int

    def read(self, sink: Sink | None, progress: Progress) -> dict[str, Any]:
        """All of it, checked; members are written to what `sink` gives, if anything. Returns the manifest.

        Raises `Faulted("backup_damaged")`, at the latest when everything was read: until then nothing may be believed.
        """
        try:
            with open(self.path, "rb") as file:
                file.seek(self.begins_at)
                return read_members(file, self.key, self.bound, sink, progress)
        except NotSealed as error:
            raise _damaged(self.path, str(error)) from None

    @property
    def size_bytes(self) -> int:
        return self.path.stat().st_size


def open_backup(path: Path, master: Callable[[], MasterKey]) -> Opened:
    """Raises `Faulted`: backup_damaged, data_newer, master_key_wrong, and what `master` raises."""
    try:
        with open(path, "rb") as file:
            text, bound = read_head(file)
            begins_at = file.tell()
    except OSError as error:
        raise Faulted("backup_failed", f"{path} cannot be read ({error.strerror}): name a backup") from None
    except NotSealed as error:
        raise _damaged(path, str(error)) from None
    try:
        head = json.loads(text)
        format_, version, wrapped = int(head["format"]), str(head["version"]), bytes.fromhex(head["key"])
    except (ValueError, KeyError, TypeError):
        raise _damaged(path, "its head cannot be read") from None
    if format_ > FORMAT:
        raise Faulted("data_newer", f"{path} was written by version {version}: install that, or a newer one")
    found = master()
    if not found.wraps(wrapped):
        raise Faulted("master_key_wrong", f"{path} was written with another master key than the one that was given")
    try:
        key = found.unwrap(wrapped, associated("backup", str(format_)))
    except Faulted:
        raise _damaged(path, "its head was changed") from None
    return Opened(path, key, version, bound, begins_at)


def _damaged(path: Path, what: str) -> Faulted:
    return Faulted("backup_damaged", f"{path}: {what}; take another copy of it, or an older backup")


def read_members(file: BinaryIO, key: Secret, bound: bytes, sink: Sink | None, progress: Progress) -> dict[str, Any]:
    """What follows the head. Raises `NotSealed`."""
    sealed = SealedReader(file, key, bound)
    found: list[Member] = []
    manifest: dict[str, Any] | None = None
    try:
        with gzip.GzipFile(fileobj=io.BufferedReader(sealed, PIECE_BYTES), mode="rb") as packed:
            with tarfile.open(fileobj=packed, mode="r|", bufsize=PIECE_BYTES) as tar:
                for info in tar:
                    content = tar.extractfile(info)
                    if manifest is not None or content is None or not info.isreg() or len(found) >= MEMBERS_MAX:
                        raise NotSealed(f"it holds {info.name!r}, which no backup does")
                    if info.name == MANIFEST and info.size <= MANIFEST_BYTES_MAX:
                        manifest = json.loads(content.read())
                    elif is_safe(info.name):
                        found.append(_take(info, content, sink, progress))
                    else:
                        raise NotSealed(f"it holds {info.name!r}, which no backup does")
            while packed.read(PIECE_BYTES):  # to the seal of its end
                pass
        while sealed.read(PIECE_BYTES):
            pass
        if manifest is None or members_of(manifest) != found or not manifest.keys() >= MANIFEST_SAYS:
            raise NotSealed("what it holds is not what its manifest says")
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError, KeyError, TypeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk, not of the form
        raise NotSealed(f"its form is not that of a backup ({error})") from error
    return manifest


def _take(info: tarfile.TarInfo, content: IO[bytes], sink: Sink | None, progress: Progress) -> Member:
    hashed = hashlib.sha256()
    out = None if sink is None else sink(info.name, info.size)
    try:
        while piece := content.read(PIECE_BYTES):
            hashed.update(piece)
            if out is not None:
                out.write(piece)
            progress(len(piece))
        if out is not None:
            out.flush()
            os.fsync(out.fileno())
    finally:
        if out is not None:
            out.close()
    return Member(info.name, info.size, hashed.hexdigest())


def members_of(manifest: dict[str, Any]) -> list[Member]:
    """Raises KeyError, TypeError or ValueError."""
    return [Member(str(each["name"]), int(each["size_bytes"]), str(each["sha256"])) for each in manifest["members"]]
