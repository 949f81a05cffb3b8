"""The file that a long source is analysed with, in a process of its own. Owns: its limits. Never: runs the source.

Run as `python -I -B findings_child.py JSON`, with {"package": directory of solo_trio, "paths": [...], "format": ...}: the
source comes in on standard input, the findings go out on standard output, as JSON.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import sys
from typing import Final

CPU_S_MAX: Final = 15
MEMORY_BYTES_MAX: Final = 536_870_912


def _look(package: str, paths: list[str], format: str) -> None:
    sys.path += [path for path in paths if path not in sys.path]
    spec = importlib.util.spec_from_file_location(
        "solo_trio", os.path.join(package, "__init__.py"), submodule_search_locations=[package]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["solo_trio"] = module
    spec.loader.exec_module(module)

    from solo_trio.hardening import analyse, analyse_modules
    from solo_trio.model.archive import Archive, ArchiveError

    source = sys.stdin.buffer.read()
    if format == "python_source":
        findings = analyse(source)
    else:
        try:
            archive = Archive(source)
            findings = analyse_modules((path, archive.read(path)) for path in archive.paths if path.endswith(".py"))
        except ArchiveError:
            findings = []  # a deployment of it is refused, and says why
    sys.stdout.write(json.dumps([each.document() for each in findings]))


def _main() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S_MAX, CPU_S_MAX))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(10)
    _look(**json.loads(sys.argv[1]))


if __name__ == "__main__":
    _main()
