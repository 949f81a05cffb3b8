"""What holds for every test. Owns: one printed seed, what a missing tool means, that nothing is left. Never: a test's needs.

- The seed of all Hypothesis tests is chosen for the run and printed at its head; `--hypothesis-seed=N` chooses it.
- A test that lacks something outside this repository skips with a reason that starts with "missing:". Where nothing may be
  missing (`SOLO_TESTS_NOTHING_MISSING=1`, as in CI), that is a failure.
- After the last test no process, mount or control group that the tests made is left.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

NOTHING_MISSING = bool(os.environ.get("SOLO_TESTS_NOTHING_MISSING"))
ROOT = Path(__file__).parents[1]
ZYGOTE = str(ROOT / "solo_trio/runtimes/boot.py")
"""What a zygote is started with: its environment and directory say nothing about the tests."""
MARK = "SOLO_TESTS_RUN"
LEAVING_SECONDS_MAX = 10.0
"""What was killed at the end of the last test may take so long to be gone."""

Report = pytest.TestReport | pytest.CollectReport


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if getattr(config.option, "hypothesis_seed", None) is None:
        config.option.hypothesis_seed = random.SystemRandom().randrange(2**32)


def pytest_report_header(config: pytest.Config) -> str:
    return f"seed: --hypothesis-seed={config.option.hypothesis_seed}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    if exitstatus != pytest.ExitCode.OK:
        terminalreporter.write_line(pytest_report_header(config))  # `-q` shows no head


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Report, Report]:
    return _refuse_missing((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Report, Report]:
    return _refuse_missing((yield))


def _refuse_missing(report: Report) -> Report:
    if NOTHING_MISSING and report.skipped and isinstance(report.longrepr, tuple):
        path, line, reason = report.longrepr
        if reason.removeprefix("Skipped: ").startswith("missing:"):
            report.outcome = "failed"
            report.longrepr = (
                f"{path}:{line}: {reason}, where nothing may be missing (SOLO_TESTS_NOTHING_MISSING is set)"
            )
    return report


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The first fixture to be set up, so the last to be torn down; with xdist once in every worker."""
    directory = str(tmp_path_factory.getbasetemp())
    before = {*_processes(directory), *_mounts(directory), *_control_groups(directory)}
    os.environ[MARK] = mark = f"{os.getpid()}-{time.monotonic_ns()}"
    yield
    deadline = time.monotonic() + LEAVING_SECONDS_MAX
    while True:
        left = {*_processes(directory, mark), *_mounts(directory), *_control_groups(directory)} - before
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    assert not left, "the tests left behind:\n" + "\n".join(sorted(left))


def _processes(directory: str, mark: str | None = None) -> set[str]:
    """Processes of ours: below this one, marked, at work in `directory`, or a zygote whose kernel is gone."""
    parents, lines = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (found := _process(entry)) is not None:
            parents[int(entry.name)], lines[int(entry.name)] = found
    ours = set()
    for pid, line in lines.items():
        above = [pid]
        while (parent := parents.get(above[-1], 0)) > 1 and parent not in above:
            above.append(parent)
        if pid == os.getpid():
            continue
        if os.getpid() in above or (mark is not None and _is_marked(pid, mark)) or _works_in(pid, directory):
            ours.add(f"process {pid}: {line}")
        elif ZYGOTE in line and len(above) == 1:
            ours.add(f"process {pid}, whose kernel is gone: {line}")
    return ours


def _process(entry: Path) -> tuple[int, str] | None:
    """Its parent and its command line; a zombie that is not ours to bury is no process any more."""
    try:
        stat = (entry / "stat").read_text().rpartition(")")[2].split()
        line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return None
    if stat[0] == "Z" and int(stat[1]) != os.getpid():
        return None
    return int(stat[1]), line[:300] or "(zombie)"


def _is_marked(pid: int, mark: str) -> bool:
    try:
        return f"{MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def _works_in(pid: int, directory: str) -> bool:
    """Whether it has its working directory or an open file there: a lock, say."""
    try:
        links = [Path(f"/proc/{pid}/cwd"), *Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return False
    for link in links:
        try:
            if os.readlink(link).startswith(directory + "/"):
                return True
        except OSError:
            continue
    return False


def _mounts(directory: str) -> set[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4] for line in lines]
    return {f"mount {point}" for point in points if point.startswith(directory + "/") or "/solo" in point}


def _control_groups(directory: str) -> set[str]:
    """Those of kernels with data in `directory`: other test runs on this machine have theirs."""
    # Of the walks, this is the one that passes over what vanishes meanwhile.
    groups = {
        Path(at, name) for at, names, _ in os.walk("/sys/fs/cgroup") for name in names if name.startswith("solo-")
    }
    if not groups:
        return set()
    places = (os.fsencode(path) for path in [Path(directory), *Path(directory).rglob("*")] if path.is_dir())
    ours = {f"solo-{hashlib.sha256(place).hexdigest()[:16]}" for place in places}
    return {f"control group {path}" for path in groups if path.name in ours}
