"""The process that checks and packs a backup. Owns: running it, what it says, that it ends with who asked. Never: what it
does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import attr
import trio
from attrs import frozen

import solo_trio
from solo_trio.bootstrap import backup_child
from solo_trio.bootstrap.backup_file import Packed
from solo_trio.errors import Faulted, StorageFull
from solo_trio.vault.secret import Secret

READ_BYTES: Final = 65_536
LINE_BYTES_MAX: Final = 1_048_576


@frozen
class Job:
    """The members `names` of `directory`, to be checked and packed into `out`; `about` goes into the manifest."""

    directory: Path
    out: Path
    witness_key: Secret
    audit_key: Secret | None
    key: Secret
    head: bytes
    names: Sequence[str]
    about: dict[str, Any]

    def line(self) -> bytes:
        told = {
            "directory": str(self.directory),
            "out": str(self.out),
            "witness_key": self.witness_key.reveal().hex(),
            "audit_key": None if self.audit_key is None else self.audit_key.reveal().hex(),
            "key": self.key.reveal().hex(),
            "head": self.head.decode(),
            "names": list(self.names),
            "about": self.about,
        }
        return json.dumps(told).encode() + b"\n"


async def check_and_pack(job: Job, progress: Callable[[int], None]) -> tuple[Packed, list[str]]:
    """What was packed, and what is to be said of it. `progress` is told how many bytes are done; it may raise.

    Raises `StorageFull`, `Faulted` (backup_failed, data_damaged). The process is gone when this is left.
    """
    try:
        process = await trio.lowlevel.open_process(
            _command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={},
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise Faulted("backup_failed", f"no process can be started to check it ({error.strerror})") from None
    try:
        answer = await _answer(process, job, progress)
    finally:
        with trio.CancelScope(shield=True):
            if process.poll() is None:
                process.kill()
            await process.wait()
            for stream in (process.stdin, process.stdout):
                assert stream is not None
                await stream.aclose()
    refused = answer.get("error")
    if refused is not None:
        raise StorageFull(refused["detail"]) if refused["code"] == "storage_full" else Faulted(**refused)
    return Packed(**answer["packed"]), list(answer["warnings"])


def _command() -> list[str]:
    """As a zygote is started: the kernel's own package, and its dependencies from where they are, whatever is installed."""
    package = os.path.dirname(os.path.abspath(solo_trio.__file__))
    asked = {"package": package, "paths": [os.path.dirname(os.path.dirname(os.path.abspath(attr.__file__)))]}
    return [sys.executable, "-I", "-B", os.path.abspath(backup_child.__file__), json.dumps(asked)]


async def _answer(process: trio.Process, job: Job, progress: Callable[[int], None]) -> dict[str, Any]:
    """The last line that it says."""
    assert process.stdin is not None and process.stdout is not None
    waiting = b""
    try:
        await process.stdin.send_all(job.line())
        while True:
            more = await process.stdout.receive_some(READ_BYTES)
            waiting += more
            *lines, waiting = waiting.split(b"\n")
            for line in lines:
                said: dict[str, Any] = json.loads(line)
                if "done" not in said:
                    return said
                progress(said["done"])
            if not more or len(waiting) > LINE_BYTES_MAX:
                break
    except trio.BrokenResourceError:
        pass
    raise Faulted(
        "backup_failed",
        f"the process that checks the backup ended ({await process.wait()}): look at the machine's memory",
    )
