"""What a process did to its files, as strace saw it. Owns: the command, reading its output. Never: what a crash makes of it.

The steps are in the order of the kernel: a system call that was over before another began comes before it. So a mark that the
process wrote after it heard that something is durable comes after the write and the fsync that made it so.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

import pytest
from attrs import frozen

CALLS: Final = (
    "open,openat,creat,write,writev,pwrite64,pwritev,pwritev2,fsync,fdatasync,sync_file_range,ftruncate,truncate,unlink,"
    "unlinkat,rename,renameat,renameat2,link,linkat,mkdir,mkdirat,rmdir,copy_file_range,sendfile"
)
UNKNOWN: Final = frozenset({"sync_file_range", "copy_file_range", "sendfile"})
"""Of the files that are watched nothing here writes with these; if that changes, the reading must."""
STRING_BYTES_MAX: Final = 16_777_216
NOT_DURABLE: Final = ("lock", "reserve", "solo.json", "solo.json.new", "tenants", "logs")
"""What is in a data directory and may be lost: locks, space held back, how to find a running server, logs of services."""

Kind = Literal["create", "write", "truncate", "sync", "sync_directory", "rename", "link", "unlink", "mkdir", "mark"]


@frozen
class Step:
    """One change. `path` is relative to the data directory."""

    kind: Kind
    path: str = ""
    to: str = ""
    offset: int = 0
    data: bytes = b""
    mark: Mapping[str, Any] = MappingProxyType({})
    began: int = -1
    """Of a `sync`: how many steps were done when it began. What came after that it need not have forced out."""


def tracer(*more: str) -> list[str]:
    """The command that traces what follows it; skips where that cannot be done."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("missing: strace")
    usable = subprocess.run([strace, "-f", "-o", "/dev/null", "true"], capture_output=True, check=False)
    if usable.returncode != 0:
        pytest.skip("missing: permission to trace a process")
    return [strace, "-f", "-qq", *more]


def recorder(output: Path) -> list[str]:
    return tracer(
        *("-y", "-xx", "-s", str(STRING_BYTES_MAX), "--seccomp-bpf", "-o", str(output), "-e", f"trace={CALLS}"),
        *("-e", "signal=none"),
    )


_LINE: Final = re.compile(r"^(\d+) +(\w+)\((.*)\) += (-?\d+|\?)(?:<(.*?)>)?(?: .*)?$")
_UNFINISHED: Final = re.compile(r"^(\d+) +(\w+)\((.*) <unfinished \.\.\.>$")
_RESUMED: Final = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>(.*)$")
_ARGUMENT: Final = re.compile(r'"((?:\\x[0-9a-f]{2})*)"|(\d+|AT_FDCWD)<((?:\\x[0-9a-f]{2})*)>(?:\(deleted\))?')


def _plain(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


class Reading:
    """The steps of one trace."""

    def __init__(self, data: Path, marks: Path) -> None:
        self._data = os.fsencode(data) + b"/"
        self._root = os.fsencode(data)
        self._marks = os.fsencode(marks)
        self.steps: list[Step] = []
        self._sizes: dict[str, int] = {}
        self._positions: dict[tuple[str, str], int] = {}
        self._half_mark = b""

    def read(self, trace: Iterable[str]) -> list[Step]:
        waiting: dict[str, tuple[str, str, int]] = {}
        for raw in trace:
            line = raw.rstrip("\n")
            if unfinished := _UNFINISHED.match(line):
                pid, call, start = unfinished.groups()
                waiting[pid] = call, start, len(self.steps)
                continue
            began = len(self.steps)
            if resumed := _RESUMED.match(line):
                pid, _, rest = resumed.groups()
                if pid not in waiting:
                    continue
                call, start, began = waiting.pop(pid)
                line = f"{pid} {call}({start}{rest}"
            whole = _LINE.match(line)
            if whole is None or whole[4] in ("?", "-1") or whole[4].startswith("-"):
                continue
            self._take(whole[2], whole[3], int(whole[4]), began, whole[5] or "")
        return self.steps

    def _name(self, path: bytes, at: bytes | None = None) -> str | None:
        """Relative to the data directory; None for what is elsewhere, or may be lost."""
        if not path.startswith(b"/"):
            path = (at or b"") + b"/" + path
        if not path.startswith(self._data):
            return None
        name = os.fsdecode(path[len(self._data) :])
        if name.split("/")[0] in NOT_DURABLE or name.endswith("-shm"):
            return None
        return name

    def _take(self, call: str, rest: str, result: int, began: int, opened: str) -> None:
        found = _ARGUMENT.findall(rest)
        texts = [_plain(text) for text, number, _ in found if not number]
        files = [(number, _plain(path)) for _, number, path in found if number]
        if call in ("open", "openat", "creat"):
            self._open(rest, texts[0], str(result), _plain(opened), creat=call == "creat")
        elif call in ("write", "writev", "pwrite64", "pwritev", "pwritev2"):
            self._write(call, rest, files[0], b"".join(texts), result)
        elif call in ("fsync", "fdatasync"):
            path = files[0][1]
            if path == self._root:
                self.steps.append(Step("sync_directory", "", began=began))
            elif (name := self._name(path)) is not None:
                kind: Kind = "sync" if name in self._sizes else "sync_directory"
                self.steps.append(Step(kind, name, began=began))
        elif call in ("ftruncate", "truncate"):
            name = self._name(files[0][1] if files else texts[0])
            if name is not None:
                size = int(rest.rpartition(", ")[2])
                self._truncate(name, size)
        elif call in ("unlink", "unlinkat", "rmdir"):
            name = self._name(texts[0], files[0][1] if files else None)
            if name is not None:
                self.steps.append(Step("unlink", name))
                self._sizes.pop(name, None)
        elif call in ("mkdir", "mkdirat"):
            name = self._name(texts[0], files[0][1] if files else None)
            if name is not None:
                self.steps.append(Step("mkdir", name))
        elif call.startswith(("rename", "link")):
            self._rename(call, texts, files)
        elif call in UNKNOWN:
            assert all(self._name(path) is None for _, path in files), f"{call} on a file that is watched"

    def _open(self, rest: str, asked: bytes, number: str, path: bytes, *, creat: bool) -> None:
        name = self._name(path)
        if name is None:
            return
        self._positions[name, number] = 0
        if ("O_CREAT" in rest or creat) and name not in self._sizes:
            self._sizes[name] = 0
            self.steps.append(Step("create", name))
        elif ("O_TRUNC" in rest or creat) and self._sizes.get(name):
            self._truncate(name, 0)
        if "O_APPEND" in rest:
            self._positions[name, number] = self._sizes.get(name, 0)

    def _truncate(self, name: str, size: int) -> None:
        self._sizes[name] = size
        self.steps.append(Step("truncate", name, offset=size))

    def _write(self, call: str, rest: str, file: tuple[str, bytes], data: bytes, result: int) -> None:
        number, path = file
        data = data[:result]
        if path == self._marks:
            *whole, self._half_mark = (self._half_mark + data).split(b"\n")
            self.steps += [Step("mark", mark=json.loads(each)) for each in whole]
            return
        name = self._name(path)
        if name is None:
            return
        assert len(data) == result, "the trace holds less than was written"
        if call.startswith("pwrite"):
            offset = int(rest.rpartition(", ")[2])
        else:
            offset = self._positions.get((name, number), 0)
            self._positions[name, number] = offset + result
        self._sizes[name] = max(self._sizes.get(name, 0), offset + result)
        self.steps.append(Step("write", name, offset=offset, data=data))

    def _rename(self, call: str, texts: list[bytes], files: list[tuple[str, bytes]]) -> None:
        places = [path for _, path in files] + [None, None]
        before, after = self._name(texts[0], places[0]), self._name(texts[1], places[1])
        if before is None and after is None:
            return
        assert before is not None and after is not None, "a file came from elsewhere, or went there"
        self.steps.append(Step("rename" if call.startswith("rename") else "link", before, to=after))
        self._sizes[after] = self._sizes.get(before, 0)
        if call.startswith("rename"):
            self._sizes.pop(before, None)


def read_trace(output: Path, data: Path, marks: Path) -> list[Step]:
    def lines() -> Iterator[str]:
        with output.open(errors="replace") as file:
            yield from file

    return Reading(data, marks).read(lines())
