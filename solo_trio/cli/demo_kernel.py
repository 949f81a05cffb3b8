"""The kernel of `solo demo`. Owns: `solo serve` as a child process, and that it is gone at the end. Never: what is shown."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Final

READY_S_MAX: Final = 30.0
BEST_THERE_IS: Final = ("SOLO_SANDBOX_LEVEL", "1")
"""The demo's services are its own, so it runs on any machine: at the best level that there is, which it shows."""
EXIT_S_MAX: Final = 15.0
POLL_S: Final = 0.02
ERRORS_SHOWN: Final = 4_000


class Wrong(Exception):
    """Something was not as it should be: the demo has failed."""


class DemoKernel:
    """`with DemoKernel(directory) as kernel:` leaves no process behind, however it is left."""

    def __init__(self, directory: Path) -> None:
        self.data = directory / "data"
        self._errors = directory / "kernel.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> DemoKernel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process is not None:
            self.kill()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def processes(self) -> list[int]:
        """What it has started, and what that has: the ancestor, each tenant's keeper and zygote, services, spare sandboxes."""
        found, waiting = [], [self.pid]
        while waiting:
            children = _children(waiting.pop())
            found += children
            waiting += children
        return sorted(found)

    def start(self) -> str:
        """Start it; returns its URL once it says that it is ready."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SOLO_")}
        environment[BEST_THERE_IS[0]] = BEST_THERE_IS[1]
        command = [sys.executable, "-m", "solo_trio.cli", "serve", "--port", "0", "--data", str(self.data)]
        with open(self._errors, "ab") as errors:
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # a Ctrl-C here is not for the kernel: `__exit__` ends it
            )
        line = self._first_line(self._process)
        if not line.startswith("ready http"):
            raise Wrong(f"the kernel did not become ready within {READY_S_MAX:g} s; it said:\n{self.errors()}")
        return line.removeprefix("ready ").strip()

    def _first_line(self, process: subprocess.Popen[bytes]) -> str:
        assert process.stdout is not None
        deadline = time.monotonic() + READY_S_MAX
        line = b""
        while not line.endswith(b"\n"):
            readable, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                break
            data = os.read(process.stdout.fileno(), 4_096)
            if not data:
                break
            line += data
        return line.decode("utf-8", "replace")

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def terminate(self) -> int:
        """SIGTERM; returns the exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        process, self._process = self._process, None
        assert process is not None
        process.send_signal(number)
        try:
            return process.wait(EXIT_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise Wrong(f"the kernel did not end within {EXIT_S_MAX:g} s of {number.name}") from None
        finally:
            if process.stdout is not None:
                process.stdout.close()

    def errors(self) -> str:
        """The end of what it said on standard error."""
        return self._errors.read_bytes()[-ERRORS_SHOWN:].decode("utf-8", "replace")


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found += map(int, path.read_text().split())
    return found


def wait_gone(pids: list[int], within_s: float) -> float:
    """Until none of the processes is there; returns the seconds it took. Raises `Wrong`."""
    began = time.monotonic()
    while alive := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        if time.monotonic() - began > within_s:
            raise Wrong(f"processes {alive} are still there after {within_s:g} s")
        time.sleep(POLL_S)
    return time.monotonic() - began
