"""Real `solo` processes for tests. Waits are bounded, and for something that is read, never for a while."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from solo_trio.client import SoloClient, find_server

ROOT = Path(__file__).parents[2]
SOLO = [sys.executable, "-c", "from solo_trio.cli import main; main()"]
LONG_S = 60.0
"""No test takes this long; one that would hang fails."""


def environment(**more: str) -> dict[str, str]:
    """This process's, without what would lead a command elsewhere."""
    known = {name: value for name, value in os.environ.items() if not re.match("SOLO_(?!TESTS_)", name)}
    return known | {"PYTHONPATH": str(ROOT)} | more


def solo(
    *arguments: str | Path, text: str | None = None, cwd: Path | None = None, **more: str
) -> subprocess.CompletedProcess[str]:
    """One command, to its end."""
    command = [*SOLO, *map(str, arguments)]
    return subprocess.run(
        command, input=text, capture_output=True, text=True, timeout=LONG_S, env=environment(**more), cwd=cwd
    )


def at_terminal(*arguments: str | Path) -> tuple[int, str]:
    """One command whose standard error is a terminal: how it ended, and what it showed there."""
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [*SOLO, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=theirs,
            env=environment(TERM="xterm"),
            timeout=LONG_S,
            check=False,
        )
        os.close(theirs)
        return done.returncode, os.read(ours, 65_536).decode()
    finally:
        os.close(ours)


class Child:
    """A process whose output is read line by line."""

    def __init__(self, *arguments: str | Path, stdout: int = subprocess.PIPE, **more: str) -> None:
        self.process = subprocess.Popen(
            [*SOLO, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            env=environment(**more),
            start_new_session=True,
            bufsize=0,  # `line` waits for the pipe: what is in a buffer it would not see
        )
        self._lines: list[str] = []
        self._said = threading.Condition()
        self._reader = threading.Thread(target=self._read_errors)
        self._reader.start()

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._said:
                self._lines.append(line.decode())
                self._said.notify_all()

    @property
    def errors(self) -> str:
        """What it has said on standard error so far."""
        return "".join(self._lines)

    def wait_error(self, words: str) -> str:
        """The first line of standard error with `words` in it."""

        def found() -> list[str]:
            return [line for line in self._lines if words in line]

        with self._said:
            assert self._said.wait_for(found, LONG_S), f"it never said {words!r}, but:\n{self.errors}"
            return found()[0]

    def line(self) -> str:
        """The next line of standard output; "" at its end."""
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], LONG_S)
        assert readable, f"nothing on standard output, but:\n{self.errors}"
        return self.process.stdout.readline().decode()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        code = self.process.wait(LONG_S)
        self._reader.join(LONG_S)
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(LONG_S)
        self._reader.join(LONG_S)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


class Server(Child):
    """`with Server(data) as server:` has a `solo serve` that is ready; at the end it is gone."""

    def __init__(
        self,
        data: Path,
        *arguments: str,
        port: int = 0,
        ready: bool = True,
        stdout: int = subprocess.PIPE,
        **more: str,
    ) -> None:
        super().__init__("serve", "--data", data, "--port", str(port), *arguments, stdout=stdout, **more)
        self.data = data
        self._ready = ready
        self.url = ""

    def __enter__(self) -> Server:
        if self._ready:
            self.wait_ready()
        return self

    def wait_ready(self) -> str:
        line = self.line()
        assert line.startswith(("ready http://127.0.0.1:", "ready https://127.0.0.1:")), (
            f"it said {line!r}, and:\n{self.errors}"
        )
        self.url = line.removeprefix("ready ").strip()
        return self.url

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def __exit__(self, *exc: object) -> None:
        self.close()


def used_and_left(data: Path) -> Path:
    """A data directory that a kernel with one tenant and one service has used, and left."""
    with Server(data) as server:
        with SoloClient(**find_server(data, environment={}).options(), tenant="default") as client:
            client.create_tenant("default")
            client.deploy("pids", PIDS)
        server.send(signal.SIGTERM)
        assert server.wait() == 0
    return data


def inside_pid(pid: int) -> int | None:
    """What the process `pid` calls itself, in the innermost of its pid namespaces."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return next(int(line.split()[-1]) for line in lines if line.startswith("NSpid:"))


def wait_gone(*pids: int) -> None:
    """Until none of the processes is there."""
    deadline = time.monotonic() + LONG_S
    while alive := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, f"{alive} are still there"
        time.sleep(0.01)  # a poll, not a guess


STUBBORN = """
import os
import re
import signal

from solo_trio import service

for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)


@service.export
def pid():
    return os.getpid()


async def main(ctx, task_status):
    task_status.started()
    print("pid", os.getpid())
    while True:
        pass
"""
SLOW_START = """
import time

time.sleep(3)
"""
PIDS = """
import os
import re

from solo_trio import service


@service.export
def pid():
    return os.getpid()


@service.export
def echo(*args, **kwargs):
    return [list(args), kwargs]


@service.export
def text():
    return "red \\x1b[31m and \\u202e"


@service.export
def fail():
    raise ValueError("on purpose")


async def main(ctx):
    ctx.log.warning("begun \\x1b[2J", config=ctx.config)
    print("printed")
    import trio
    await trio.sleep_forever()
"""
