"""A scanner's view of a server with TLS: Mozilla's modern profile. `nox -s sslyze` runs it: sslyze wants other versions of what
is used here, so it is in an environment of its own, whose Python `SOLO_TESTS_SSLYZE` names."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
from pathlib import Path

import pytest
from e2e_served import COMMAND, PATIENCE_S

SCANNER = os.environ.get("SOLO_TESTS_SSLYZE", "")
ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(not SCANNER, reason="there is no sslyze: nox -s sslyze")
def test_the_modern_profile(tmp_path: Path) -> None:
    known = {name: value for name, value in os.environ.items() if not name.startswith("SOLO_")}
    environment = known | {"PYTHONPATH": str(ROOT)}
    made = [*COMMAND, "certs", "init", "--data", str(tmp_path)]
    subprocess.run(made, check=True, capture_output=True, timeout=PATIENCE_S, env=environment)
    serve = [*COMMAND, "serve", "--data", str(tmp_path), "--port", "0", "--tls"]
    with subprocess.Popen(
        serve, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, bufsize=0
    ) as server:
        try:
            assert server.stdout is not None
            assert select.select([server.stdout], [], [], PATIENCE_S)[0], "it never said ready"
            ready = re.fullmatch(r"ready https://127\.0\.0\.1:(\d+)\n", server.stdout.readline().decode())
            assert ready is not None
            scan = [SCANNER, "-m", "sslyze", "--mozilla_config", "modern", f"localhost:{ready[1]}"]
            scan += ["--certinfo_ca_file", str(tmp_path / "certs" / "ca.crt")]
            found = subprocess.run(scan, capture_output=True, text=True, timeout=3 * PATIENCE_S, env=known).stdout
        finally:
            server.send_signal(signal.SIGTERM)
            assert server.wait(PATIENCE_S) == 0
    assert f"localhost:{ready[1]}: OK - Compliant." in found, found[-4_000:]
    assert "Client Renegotiation DoS Attack:   OK" in found and "Compression disabled" in found
