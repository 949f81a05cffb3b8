"""The examples under what they are for: a watcher whose server is killed. (docs/guides/examples.md runs all of them.)"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from snippets import LONG_S, ROOT, Place

KILLS = 3


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    yield found
    found.close()


@pytest.mark.slow
def test_the_watcher_shows_each_event_once_although_the_server_is_killed(place: Place) -> None:
    command = [sys.executable, ROOT / "examples/watcher.py", f"http://{place.address}", "data/admin.token", "place"]
    place.before("solo serve --data ./data")
    with subprocess.Popen(
        command,
        cwd=place.directory,
        env=place.environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as watcher:
        late = threading.Timer(LONG_S, watcher.kill)
        late.start()
        try:
            assert watcher.stdout is not None
            shown = []
            for number in range(KILLS + 1):
                place.before(f"solo deploy examples/calc.py --id calc{number}")
                while f"service_deployed calc{number}" not in (line := watcher.stdout.readline()):
                    assert line, "the watcher ended"
                    shown.append(line)
                shown.append(line)
                if number < KILLS:
                    os.kill(json.loads((place.directory / "data/solo.json").read_text())["pid"], signal.SIGKILL)
                    place.before("solo serve --data ./data")
        finally:
            late.cancel()
            watcher.kill()
    recorded = subprocess.run(
        [sys.executable, "-m", "solo_trio.cli", "events", "--all", "--since", "0", "--limit", "1000", "--json"],
        cwd=place.directory,
        env=place.environment,
        capture_output=True,
        text=True,
        timeout=LONG_S,
        check=True,
    )
    expected = [
        f"{each['id']} {each['type']} {each['subject'] or '-'}\n" for each in json.loads(recorded.stdout)["events"]
    ]
    assert shown == expected[: len(shown)]
    assert len([line for line in shown if "system_started" in line]) == KILLS + 1


def test_every_example_is_shown_on_the_page_of_examples() -> None:
    page = (ROOT / "docs/guides/examples.md").read_text()
    for path in (ROOT / "examples").rglob("*.py"):
        assert f"python {path.relative_to(ROOT)}" in page or f"deploy {path.relative_to(ROOT)}" in page
