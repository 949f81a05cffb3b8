"""The file the ancestor of all zygotes is started with. Owns: making the kernel's own packages importable. Never: searches for
another Solo.

Run as `python -I -B boot.py JSON`, with {"package": directory of solo_trio, "paths": [...], "control": descriptor, "sandbox":
{...}}. The package is loaded from where the kernel has it, whatever else is installed; `paths` are where its dependencies came
from, used last.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import sys
import traceback
from typing import Any


def _boot(package: str, paths: list[str], control: int, sandbox: dict[str, Any]) -> None:
    sys.path += [path for path in paths if path not in sys.path]
    spec = importlib.util.spec_from_file_location(
        "solo_trio", os.path.join(package, "__init__.py"), submodule_search_locations=[package]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["solo_trio"] = module
    spec.loader.exec_module(module)

    from solo_trio.runtimes.ancestor import serve

    serve(control, sandbox, package, paths)


def _main() -> None:
    settings = json.loads(sys.argv[1])
    try:
        _boot(**settings)
    except BaseException:  # noqa: BLE001 - the kernel has no other way to learn why
        report = json.dumps({"failed": traceback.format_exc()[-4000:]}).encode()
        socket.socket(fileno=settings["control"]).send(report)
        os._exit(1)


if __name__ == "__main__":
    _main()
