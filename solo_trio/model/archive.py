"""A service of several modules: a zip archive. Owns: reading one strictly, within bounds. Never: touches a file.

Who takes an archive in and who loads it use this one reader, so that what was checked is what is loaded. It is strict where
zip files are ambiguous: the directory at the end alone counts, members do not overlap, names are UTF-8 and relative. What an
archive of this size needs of PKWARE's APPNOTE 6.3.10 is read: stored and deflated members; no zip64, encryption or links.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from typing import Final

from attrs import frozen

ARCHIVE_BYTES_MAX: Final = 786_432
"""As base64 this is 1 MiB, what the text of a module may have."""
EXPANDED_BYTES_MAX: Final = 8 * 1_048_576
MEMBERS_MAX: Final = 512
DEPTH_MAX: Final = 16
"""Names in a path."""
PATH_BYTES_MAX: Final = 240
RATIO_MAX: Final = 100
"""Expanded to compressed bytes of a member; program text has 3 to 10, a bomb up to 1032."""
RATIO_FREE_BYTES: Final = 65_536
"""A member that expands to no more may have any ratio."""

_END: Final = struct.Struct("<4s4H2LH")
_CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
_LOCAL: Final = struct.Struct("<4s5H3L2H")
_STORED: Final = 0
_DEFLATED: Final = 8
_ENCRYPTED: Final = 0b0010_0000_0100_0001
_FLAGS: Final = 0b0000_1000_0000_1110
"""How it was deflated, sizes after the data, names in UTF-8: none of it changes what is read."""
_FILE_KINDS: Final = (0, 0o100000, 0o040000)
"""Not said, a plain file, a directory."""
_COMPILED: Final = re.compile(r"\.(so(\.[0-9]+)*|pyd|dll|dylib|pyc|pyo)\Z", re.I)


class ArchiveError(Exception):
    """The archive is not taken: the message says which member, why, and what to do."""


class ArchiveTooLarge(ArchiveError):
    """It is beyond one of the bounds."""


@frozen
class _Member:
    path: str
    method: int
    crc: int
    size: int
    start: int
    end: int


class Archive:
    """The members of an archive, by path. Making one reads its directory; `read` expands one member."""

    def __init__(self, data: bytes) -> None:
        """Raises `ArchiveError`."""
        if len(data) > ARCHIVE_BYTES_MAX:
            raise ArchiveTooLarge(f"the archive has {len(data)} bytes, and may have {ARCHIVE_BYTES_MAX}")
        self._data = data
        self._members: dict[str, _Member] = {}
        self._folders: set[str] = set()
        self._read_directory()
        for path in self._members:
            if path in self._folders:
                raise ArchiveError(f"'{path}' is a file and a directory: make the archive anew")
        self.paths: tuple[str, ...] = tuple(sorted(self._members))
        """Of files; directories are in them."""

    def __contains__(self, path: str) -> bool:
        return path in self._members

    def size(self, path: str) -> int:
        """Expanded bytes of a member."""
        return self._members[path].size

    def read(self, path: str) -> bytes:
        """The expanded bytes of a member. Raises `KeyError`, and `ArchiveError` for one that is damaged."""
        member = self._members[path]
        content = self._data[member.start : member.end]
        if member.method == _DEFLATED:
            content = _inflate(member, content)
        if len(content) != member.size or zlib.crc32(content) != member.crc:
            raise ArchiveError(f"'{path}' is damaged: make the archive anew")
        return content

    def check(self) -> None:
        """Read every member, and find the entry. Raises `ArchiveError`."""
        for path in self.paths:
            self.read(path)
        self.entry()

    def entry(self) -> str:
        """The name of the module that is the service: `service`, or `NAME.service` of the one package that has it."""
        if "service.py" in self._members or "service/__init__.py" in self._members:
            return "service"
        found = [
            package
            for path in self.paths
            for package, _, rest in [path.partition("/")]
            if rest == "service.py" and package.isidentifier()
        ]
        if len(found) == 1:
            return f"{found[0]}.service"
        if found:
            raise ArchiveError(
                f"which module is the service? put a service.py beside the directories {', '.join(found)}"
            )
        raise ArchiveError("it needs a service.py at the top (not in an outer directory), or in its only package")

    def top_level(self) -> list[str]:
        """The names that its modules and packages take from everybody else's."""
        names = {path.partition("/")[0].removesuffix(".py") for path in self.paths if path.endswith(".py")}
        return sorted(name for name in names if name.isidentifier())

    def modules(self) -> Iterator[tuple[str, bytes]]:
        """Path and source of each module."""
        for path in self.paths:
            if path.endswith(".py"):
                yield path, self.read(path)

    # -- the directory at the end

    def _read_directory(self) -> None:
        data = self._data
        end = data.rfind(b"PK\5\6")
        if end < 0 or len(data) - end < _END.size:
            raise ArchiveError(
                "it is no zip archive, or is cut off: make it with `zip -r`, or deploy the directory itself"
            )
        _, disk, first_disk, here, count, size, offset, comment = _END.unpack_from(data, end)
        if end + _END.size + comment != len(data) or disk or first_disk or here != count or offset + size != end:
            raise ArchiveError("its directory is damaged, or something is before or after it: make the archive anew")
        if count > MEMBERS_MAX:
            raise ArchiveTooLarge(f"the archive has {count} members, and may have {MEMBERS_MAX}")
        at, taken, expanded = offset, [], 0
        for _ in range(count):
            if at + _CENTRAL.size > end:
                raise ArchiveError("its directory is damaged: make the archive anew")
            member, offset_of, at = self._read_entry(at, end)
            taken.append((offset_of, member.end))
            expanded += member.size
            if expanded > EXPANDED_BYTES_MAX:
                raise ArchiveTooLarge(f"the archive expands to more than {EXPANDED_BYTES_MAX} bytes")
        if at != end:
            raise ArchiveError("its directory is damaged: make the archive anew")
        last = 0
        for begin, after in sorted(taken):
            if begin < last or after > offset or (last == 0 and begin != 0):
                raise ArchiveError("its members overlap, or are not where they should be: make the archive anew")
            last = after

    def _read_entry(self, at: int, end: int) -> tuple[_Member, int, int]:
        """The member that the entry at `at` is about, where that begins, and where the next entry is."""
        entry = _CENTRAL.unpack_from(self._data, at)
        signature, _, _, flags, method, _, _, crc, packed, size, name_size, extra, comment, disk, _, kind, begin = entry
        following = at + _CENTRAL.size + name_size + extra + comment
        if signature != b"PK\1\2" or disk or following > end:
            raise ArchiveError("its directory is damaged: make the archive anew")
        raw = self._data[at + _CENTRAL.size : at + _CENTRAL.size + name_size]
        path = self._checked_path(raw)
        if flags & _ENCRYPTED:
            raise ArchiveError(f"'{path}' is encrypted: make the archive without a password")
        if flags & ~_FLAGS or method not in (_STORED, _DEFLATED):
            raise ArchiveError(f"'{path}' is packed in a way that is not known here: use deflate")
        if (kind >> 16) & 0o170000 not in _FILE_KINDS:
            raise ArchiveError(f"'{path}' is a link or a device: put a plain file in its place")
        if _COMPILED.search(path):
            raise ArchiveError(
                f"'{path}' is compiled, and only source is taken: compiled packages come with an environment"
            )
        if size > RATIO_FREE_BYTES and size > RATIO_MAX * packed:
            raise ArchiveTooLarge(f"'{path}' expands to {size} bytes, more than {RATIO_MAX} times its packed size")
        start = self._start_of(begin, raw, method)
        member = _Member(path, method, crc, size, start, start + packed)
        self._keep(member)
        return member, begin, following

    def _start_of(self, begin: int, raw: bytes, method: int) -> int:
        if begin + _LOCAL.size > len(self._data):
            raise ArchiveError("its directory is damaged: make the archive anew")
        signature, _, flags, again, _, _, _, _, _, name_size, extra = _LOCAL.unpack_from(self._data, begin)
        start: int = begin + _LOCAL.size + name_size + extra
        same = self._data[begin + _LOCAL.size : begin + _LOCAL.size + name_size] == raw
        if signature != b"PK\3\4" or flags & _ENCRYPTED or again != method or not same:
            raise ArchiveError("its directory and its members disagree: make the archive anew")
        return start

    def _checked_path(self, raw: bytes) -> str:
        try:
            path = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise ArchiveError(f"the name {raw[:60]!a} is not UTF-8: rename that file") from None
        shown = path[:60].encode("ascii", "backslashreplace").decode()
        parts = path.removesuffix("/").split("/")
        if len(raw) > PATH_BYTES_MAX or len(parts) > DEPTH_MAX:
            raise ArchiveTooLarge(
                f"the path '{shown}' is too long: at most {PATH_BYTES_MAX} bytes, and {DEPTH_MAX} names in it"
            )
        if "\\" in path or any(ord(each) < 32 or ord(each) == 127 for each in path):
            raise ArchiveError(f"the name '{shown}' has a backslash or a control character: rename that file")
        if any(part in ("", ".", "..") for part in parts):
            raise ArchiveError(f"the path '{shown}' is not relative and plain: without a leading '/', '.' and '..'")
        return path

    def _keep(self, member: _Member) -> None:
        path = member.path
        if path.endswith("/"):
            if member.size:
                raise ArchiveError(f"'{path}' is a directory with contents of its own: make the archive anew")
            path = path.removesuffix("/")
            if path in self._members:
                raise ArchiveError(f"'{path}' is a file and a directory: make the archive anew")
            self._folders.add(path)
        elif path in self._members:
            raise ArchiveError(f"'{path}' is there twice: make the archive anew")
        else:
            self._members[path] = member
        while "/" in path:
            path = path.rpartition("/")[0]
            self._folders.add(path)


def _inflate(member: _Member, packed: bytes) -> bytes:
    """Never more than one byte beyond what the directory says."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = stream.decompress(packed, member.size + 1)
    except zlib.error:
        raise ArchiveError(f"'{member.path}' is damaged: make the archive anew") from None
    if not stream.eof or stream.unused_data:
        raise ArchiveError(f"'{member.path}' is damaged: make the archive anew")
    return content
