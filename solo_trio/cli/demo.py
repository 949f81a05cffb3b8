"""`solo demo`. Owns: the story, step by step, each step verified. Never: anything that a user could not do the same way.

It is a program like any other's: `solo serve` as a process, and the SDK over HTTP.
"""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

import click

from solo_trio import __version__
from solo_trio.cli.demo_kernel import BEST_THERE_IS, DemoKernel, Wrong, wait_gone
from solo_trio.cli.demo_services import CALC, JOIN, WORKER
from solo_trio.cli.texts import printable
from solo_trio.client import SoloClient, find_server
from solo_trio.errors import SoloError

ANSWER_S_MAX: Final = 20.0
GONE_S_MAX: Final = 10.0
RESTART_S_MAX: Final = 15.0
POLL_S: Final = 0.02
TENANTS: Final = ("agent_1", "agent_2")
DEPLOYED: Final[tuple[tuple[str, str, str, dict[str, Any]], ...]] = (
    ("agent_1", "calc", CALC, {}),
    ("agent_1", "worker", WORKER, {"step": 7}),
    ("agent_2", "calc", JOIN, {}),
)
LEVELS: Final = {
    "level 3": (
        "SANDBOX LEVEL 3 OF 3: each service has namespaces, Landlock, a system call filter and limits around it. It can\n"
        "read Python and the system's libraries, no other file of yours, and has no network."
    ),
    "level 2": (
        "SANDBOX LEVEL 2 OF 3: each service has Landlock, a system call filter and limits around it, but no namespaces:\n"
        "this machine refuses them. It can read Python and the system's libraries, no other file of yours, and has no\n"
        "network. What level 3 needs here says `solo doctor`."
    ),
    "level 1": (
        "SANDBOX LEVEL 1 OF 3: NO PROTECTION. This machine gives nothing but limits: a service can read your files and use\n"
        "your network. Solo refuses to run deployed code here unless it is told otherwise, as this demo does for its own\n"
        "services. What is missing says `solo doctor`."
    ),
}
"""Loud: whoever sees the demo should know what protects services on this machine."""

Digests = dict[tuple[str, str], tuple[int, str, int]]
"""By tenant and service: version, digest, restarts."""


def run_demo() -> int:
    """Tell the story; 0, or 1 with what was wrong. Leaves no process and no file."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="solo-demo-", ignore_cleanup_errors=True) as directory,
            DemoKernel(Path(directory)) as kernel,
        ):
            return _told(kernel)
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _told(kernel: DemoKernel) -> int:
    story = _Story(kernel)
    try:
        story.tell()
    except (Wrong, SoloError) as error:
        click.echo(click.style(f"  WRONG: {printable(str(error), lines=True)}", fg="red", bold=True))
        click.echo(f"  The kernel said:\n{printable(kernel.errors(), lines=True)}", err=True)
        return 1
    return 0


class _Story:
    def __init__(self, kernel: DemoKernel) -> None:
        self._kernel = kernel
        self._began = time.monotonic()
        self._steps = 0
        self._tokens: dict[str, str] = {}
        self._clients: dict[str, SoloClient] = {}
        self._seen: list[dict[str, Any]] = []
        self._copies: dict[tuple[str, str], str] = {}
        self._services: Digests = {}

    # -- telling

    def _step(self, title: str) -> None:
        self._steps += 1
        click.echo("\n" + click.style(f"{self._steps}. {title}", bold=True))

    def _say(self, text: str) -> None:
        click.echo("   " + printable(text))

    def _check(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise Wrong(otherwise)

    # -- the story

    def tell(self) -> None:
        click.echo(click.style(f"Solo {__version__}: a kernel, its services, a crash, and everything back.", bold=True))
        with self._connected("Start a kernel on an empty data directory"):
            self._tell_the_level()
            self._create_tenants()
            self._deploy()
            self._call()
            self._look_across()
            self._crash_a_service()
            self._remember()
        self._kill_the_kernel()
        with self._connected("Start the kernel again on the same data directory"):
            self._everything_is_back()
            self._resume_events()
        self._end()
        took = time.monotonic() - self._began
        click.echo(
            "\n" + click.style(f"All of it held, in {took:.1f} s. Nothing is left running.", fg="green", bold=True)
        )

    @contextmanager
    def _connected(self, title: str) -> Iterator[None]:
        """Start the kernel, and connect: as the system, and as each tenant that there is."""
        self._step(title)
        began = time.monotonic()
        url = self._kernel.start()
        self._say(f"$ {'='.join(BEST_THERE_IS)} solo serve --data {self._kernel.data} --port 0")
        self._say(f"ready {url}  (process {self._kernel.pid}, after {time.monotonic() - began:.2f} s)")
        found = find_server(self._kernel.data, environment={})
        self._check(found.url == url, f"solo.json names {found.url}, not {url}")
        with ExitStack() as stack:
            self._clients = {"system": stack.enter_context(SoloClient(url, found.token, timeout_s=ANSWER_S_MAX))}
            for tenant, token in self._tokens.items():
                self._clients[tenant] = stack.enter_context(SoloClient(url, token, timeout_s=ANSWER_S_MAX))
            self._stack = stack
            yield

    def _tell_the_level(self) -> None:
        began = time.monotonic()
        while (level := self._clients["system"].health()["components"]["sandbox"]) == "unknown":
            self._check(time.monotonic() - began < ANSWER_S_MAX, "the kernel does not say what protects services here")
            time.sleep(POLL_S)
        self._check(level in LEVELS, f"{level!r} is no level of the sandbox")
        click.echo(click.style(LEVELS[level], fg="green" if level == "level 3" else "yellow", bold=True))

    def _create_tenants(self) -> None:
        self._step("Create two tenants")
        system = self._clients["system"]
        for tenant in TENANTS:
            token = str(system.create_tenant(tenant)["token"])
            self._tokens[tenant] = token
            self._clients[tenant] = self._stack.enter_context(SoloClient(system.url, token, timeout_s=ANSWER_S_MAX))
            self._say(f"{tenant}: has a token of its own, {token[:12]}...")

    def _deploy(self) -> None:
        self._step("Deploy services: Python modules, as text, each into a process and a sandbox of its own")
        for tenant, service_id, source, config in DEPLOYED:
            began = time.monotonic()
            answer = self._clients[tenant].deploy(service_id, source, config=config)
            copy = self._copy(tenant, service_id)
            self._say(
                f"{tenant}/{service_id}: {answer['status']}, version {answer['version']}, digest {answer['digest'][:12]},"
                f" copy {copy}, after {time.monotonic() - began:.2f} s"
            )

    def _call(self) -> None:
        self._step("Call them")
        for tenant, arguments, expected in (("agent_1", [2, 3], 5), ("agent_2", ["2", "3"], "23")):
            result = self._clients[tenant].call("calc", "add", arguments)
            self._say(f"{tenant}: calc.add({', '.join(map(repr, arguments))}) = {result!r}")
            self._check(result == expected, f"it should be {expected!r}")
        self._say(f"agent_1: worker.progress() = {self._clients['agent_1'].call('worker', 'progress')}")

    def _look_across(self) -> None:
        self._step("Look for another tenant's service: it does not exist")
        try:
            self._clients["agent_2"].call("worker", "progress")
        except SoloError as error:
            self._say(f"agent_2: worker.progress() -> {error.status} {error.code}")
            self._check(error.code == "service_not_found", "it should be service_not_found")
        else:
            raise Wrong("agent_2 could call agent_1's service")

    def _crash_a_service(self) -> None:
        self._step("Crash one of them, and see it restarted")
        client, since = self._clients["agent_1"], self._clients["system"].system()["last_event_id"]
        before, other = self._copies["agent_1", "worker"], self._copies["agent_1", "calc"]
        try:
            client.call("worker", "fall")
        except SoloError as error:
            self._say(f"worker.fall() -> {error.status} {error.code}: copy {before} got a segmentation fault")
            self._check(error.code == "call_interrupted", "it should be call_interrupted")
        began = time.monotonic()
        while not (ready := client.events(since_id=since, service_id="worker", type="service_ready")["events"]):
            self._check(time.monotonic() - began < RESTART_S_MAX, f"it was not restarted within {RESTART_S_MAX:g} s")
            time.sleep(POLL_S)
        for event in client.events(since_id=since, service_id="worker")["events"]:
            self._say(f"event {event['id']}  {event['at']}  {event['type']}  {_reason(event)}")
            if event["id"] == ready[0]["id"]:
                break
        after, restarts = self._copy("agent_1", "worker"), client.status("worker")["restarts"]
        self._say(f"worker: copy {after} now, restarts {restarts}, progress {client.call('worker', 'progress')}")
        self._check(after != before and restarts == 1, "it should be one restart, in a new process")
        self._check(self._copy("agent_1", "calc") == other, "calc should not have been touched")
        self._say(f"calc: copy {other} still, untouched")

    def _remember(self) -> None:
        """What there is before the kernel is killed: services, and every event so far over a stream."""
        self._services = self._versions()
        self._seen = self._stream(0)

    def _kill_the_kernel(self) -> None:
        self._step("kill -9 the kernel")
        pid, pids = self._kernel.pid, self._kernel.processes()
        self._check(len(pids) >= len(DEPLOYED), f"it should have at least {len(DEPLOYED)} processes, not {len(pids)}")
        self._kernel.kill()
        self._say(f"$ kill -9 {pid}")
        took = wait_gone(pids, GONE_S_MAX)
        self._say(f"its processes {', '.join(map(str, pids))} are gone {took:.2f} s later: no orphan is left")

    def _everything_is_back(self) -> None:
        self._say("everything that was wanted runs again:")
        old, back = dict(self._copies), self._versions()
        for (tenant, service_id), (version, digest, restarts) in back.items():
            copy = self._copy(tenant, service_id)
            self._say(
                f"{tenant}/{service_id}: ready, version {version}, digest {digest[:12]}, restarts {restarts}, copy {copy}"
            )
            self._check(copy != old[tenant, service_id], "it should be a new process")
        self._check(back == self._services, f"it should be as before: {self._services}")
        self._say(f"agent_1: calc.add(2, 3) = {self._clients['agent_1'].call('calc', 'add', [2, 3])!r}")
        self._say(f"agent_2: calc.add('2', '3') = {self._clients['agent_2'].call('calc', 'add', ['2', '3'])!r}")

    def _resume_events(self) -> None:
        last = int(self._seen[-1]["id"])
        self._step(f"Follow the events on, from {last}, the last one seen before the kill")
        resumed = self._stream(last)
        for event in resumed:
            where = f"{event['tenant_id']}/{event['subject']}" if event["subject"] else "kernel"
            self._say(f"event {event['id']}  {event['type']}  {where}  {_reason(event)}")
        whole = [*self._seen, *resumed]
        ids = [event["id"] for event in whole]
        self._check(ids == list(range(1, len(ids) + 1)), f"ids should be 1, 2, 3 ... without gap or repetition: {ids}")
        logged = self._clients["system"].events(since_id=0, limit=1_000)["events"][: len(whole)]
        self._check(logged == whole, "the log should hold what was seen, unchanged")
        self._say(f"{len(self._seen)} before and {len(resumed)} after: {len(ids)} events, none missed, none twice")

    def _end(self) -> None:
        self._step("End it gracefully")
        pids, began = [self._kernel.pid, *self._kernel.processes()], time.monotonic()
        code = self._kernel.terminate()
        self._say(f"$ kill -TERM {pids[0]}  -> exit {code} after {time.monotonic() - began:.2f} s")
        self._check(code == 0, "it should be 0")
        wait_gone(pids, GONE_S_MAX)
        self._check(not (self._kernel.data / "solo.json").exists(), "solo.json should be gone")

    # -- looking

    def _copy(self, tenant: str, service_id: str) -> str:
        """Which process it is: each has drawn a word when it began."""
        copy = str(self._clients[tenant].call(service_id, "which"))
        self._copies[tenant, service_id] = copy
        return copy

    def _versions(self) -> Digests:
        found: Digests = {}
        for tenant in TENANTS:
            for each in self._clients[tenant].services()["services"]:
                self._check(each["status"] == "ready", f"{tenant}/{each['service_id']} is {each['status']}, not ready")
                found[tenant, each["service_id"]] = (each["version"], each["digest"], each["restarts"])
        self._check(len(found) == len(DEPLOYED), f"there should be {len(DEPLOYED)} services, not {len(found)}")
        return found

    def _stream(self, since_id: int) -> list[dict[str, Any]]:
        """Every event after `since_id` up to the newest, over a stream as a watcher would read it."""
        system = self._clients["system"]
        newest = int(system.system()["last_event_id"])
        events: list[dict[str, Any]] = []
        with system.watch(since_id=since_id) as stream:
            while since_id < newest:
                events.append(next(stream))
                since_id = int(events[-1]["id"])
        return events


def _reason(event: dict[str, Any]) -> str:
    payload = event["payload"] or {}
    return " ".join(f"{name}={payload[name]}" for name in ("cause", "reason") if payload.get(name))
