"""Runs `sandbox_run.py`, once for each configuration. Owns: skipping where that is not possible. Never: judges."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

RUN_S_MAX = 300.0
RUN = Path(__file__).with_name("sandbox_run.py")


@functools.cache
def _run(wanted: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-I", "-B", RUN, wanted], capture_output=True, text=True, timeout=RUN_S_MAX, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def run(configuration: dict[str, Any], probes: tuple[str, ...] = (), killing: tuple[str, ...] = ()) -> dict[str, Any]:
    if configuration["user"] == "root" and os.geteuid() != 0:
        pytest.skip("missing: root")
    found = _run(json.dumps({**configuration, "probes": probes, "killing": killing}))
    if "missing" in found:
        pytest.skip(f"missing: {found['missing']}")
    given = found["layers"]["missing"]
    if configuration["level"] == 3 and "namespaces" in given and "namespaces" not in configuration["without"]:
        pytest.skip(f"missing: namespaces for this user ({given['namespaces']})")
    return found
