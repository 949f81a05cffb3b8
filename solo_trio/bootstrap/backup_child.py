"""The file that a backup is checked and packed with, in a process of its own. Owns: the steps there. Never: opens a live
database.

Reading a whole log holds up the process it is done in. Run as `python -I -B backup_child.py JSON`, with {"package":
directory of solo_trio, "paths": [...]}: the job comes as one line on standard input, which then stays open, because who
asked may die; what was done so far, and what came of it, goes as lines to standard output.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import threading
import traceback
from typing import Any, Final

NICE: Final = 5
ENOSPC: Final = 28
TELL_BYTES: Final = 262_144
READ_BYTES: Final = 4_096


def _find(package: str, paths: list[str]) -> None:
    sys.path += [path for path in paths if path not in sys.path]
    spec = importlib.util.spec_from_file_location(
        "solo_trio", os.path.join(package, "__init__.py"), submodule_search_locations=[package]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["solo_trio"] = module
    spec.loader.exec_module(module)


def _end_with_standard_input() -> None:
    while os.read(0, READ_BYTES):  # past the buffer: what is in that is the job
        pass
    os._exit(1)


def _say(**what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def _do(job: dict[str, Any]) -> None:
    from pathlib import Path

    from attrs import asdict

    from solo_trio.bootstrap.backup_check import check_copy
    from solo_trio.bootstrap.backup_file import pack
    from solo_trio.errors import SoloError
    from solo_trio.vault.secret import Secret

    done = told = 0

    def progress(more: int) -> None:
        nonlocal done, told
        done += more
        if done - told >= TELL_BYTES:
            told = done
            _say(done=done)

    directory, out = Path(job["directory"]), Path(job["out"])
    try:
        audit_key = None if job["audit_key"] is None else bytes.fromhex(job["audit_key"])
        warnings = check_copy(directory, bytes.fromhex(job["witness_key"]), audit_key, progress)
        key, head = Secret(bytes.fromhex(job["key"])), job["head"].encode()
        packed = pack(out, key, head, directory, job["names"], job["about"], progress)
    except SoloError as error:
        _say(error={"code": error.code, "detail": error.detail})
    except OSError as error:
        full = error.errno == ENOSPC
        _say(error={"code": "storage_full" if full else "backup_failed", "detail": f"{error}: look at the disk"})
    else:
        _say(packed=asdict(packed), warnings=warnings)


def _main() -> None:
    asked = json.loads(sys.argv[1])
    job = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    os.nice(NICE)
    _find(asked["package"], asked["paths"])
    from solo_trio.bootstrap.machine import harden_process

    harden_process()
    try:
        _do(job)
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001 - the process ends with it
        traceback.print_exc()
        os._exit(1)
    os._exit(0)  # a thread still reads


if __name__ == "__main__":
    _main()
