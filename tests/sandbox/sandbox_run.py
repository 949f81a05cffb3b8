"""Runs the probes in one configuration and prints what came of each. Owns: the user, the surroundings. Never: judges.

    python sandbox_run.py '{"user": "root" or "plain", "level": 3, "without": []}'

As root it works in a mount namespace of its own, so that a probe that gets through changes nothing outside, and so that an
ordinary user finds a Python that lies in a directory of root's: there that directory is covered by one that shows it.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]  # run with -I

import attrs  # noqa: E402
import trio  # noqa: E402
from sandbox_bombs import set_off  # noqa: E402

from solo_trio.errors import SoloError  # noqa: E402
from solo_trio.ports import Launch  # noqa: E402
from solo_trio.runtimes.process import ProcessRuntime, Sandboxing  # noqa: E402
from solo_trio.runtimes.sandbox import numbers, policy, root, system  # noqa: E402

PLAIN_UID = 61_234
"""Nobody's."""
BOUND_S = 60.0
PROBES = Path(__file__).with_name("sandbox_probes.py")
SECRET = "a secret of the kernel's own environment"
SHOWN = ("/usr/share/ca-certificates", "/etc/ssl", "/usr/share/zoneinfo")
"""Of what services see, what can be covered for a while: with a file that only root may read, and a hidden directory."""


UNFILTERED = {335, 336} if numbers.here() is numbers.X86_64 else set()
"""uretprobe and uprobe, which no filter sees. Called from anywhere but the kernel's own trampoline they end the caller."""


def reveal(paths: list[str]) -> None:
    """Let everybody pass to these, in this mount namespace."""
    closed: dict[str, list[str]] = {}
    for path in dict.fromkeys(os.path.realpath(each) for each in paths):
        for above in reversed(Path(path).parents):
            if not stat.S_IMODE(above.stat().st_mode) & 0o001:
                closed.setdefault(str(above), []).append(path)
                break
    for above, inside in closed.items():
        sources = {path: os.open(path, os.O_PATH) for path in inside}
        system.mount("tmpfs", above, "tmpfs", 0, "mode=755")
        for path, source in sources.items():
            os.makedirs(path, exist_ok=True)
            system.mount(f"/proc/self/fd/{source}", path, None, system.MS_BIND | system.MS_REC)
            os.close(source)


def surroundings(base: str) -> dict[str, str]:
    """What there is to get at."""
    for name in ("data", "data/locks", "data/empty", "shown", "shown/hidden"):
        os.mkdir(f"{base}/{name}")
    for name in ("data/solo.db", "data/master.key", "data/spare", "shown/private.pem"):
        with open(f"{base}/{name}", "wb") as file:
            file.write(b"secret")
        os.chmod(f"{base}/{name}", 0o600)
    Path(f"{base}/shown/hidden/file").write_text("hidden")
    os.chmod(f"{base}/data", 0o700)
    return {"data": f"{base}/data", "empty": f"{base}/data/empty", "base": base}


def enter(user: str) -> int:
    """Run this file anew as that user in those surroundings; its exit code."""
    base = tempfile.mkdtemp(prefix="solo-sandbox-", dir="/tmp")
    os.chmod(base, 0o755)
    try:
        pid = os.fork()
        if pid == 0:
            _enter(user, base)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        shutil.rmtree(base)


def _enter(user: str, base: str) -> NoReturn:
    given = surroundings(base)
    given["private"] = given["hidden"] = f"{base}/nothing"
    if os.geteuid() == 0:
        try:
            system.unshare(system.CLONE_NEWNS)
            system.mount(None, "/", None, system.MS_REC | system.MS_PRIVATE)
        except PermissionError as error:
            print(json.dumps({"missing": f"mount namespaces ({error})"}), flush=True)
            os._exit(0)
        reveal([sys.prefix, sys.base_prefix, str(ROOT), os.path.dirname(os.path.dirname(trio.__file__))])
        where = next((each for each in SHOWN if os.path.isdir(each)), None)
        if where is not None:
            system.mount(f"{base}/shown", where, None, system.MS_BIND)
            given |= {"private": f"{where}/private.pem", "hidden": f"{where}/hidden"}
        for name in ("mounted", "mounted_too"):
            os.mkdir(f"{base}/{name}")
            system.mount("tmpfs", f"{base}/{name}", "tmpfs", 0)
        os.setgroups([0, 1])  # as people have more than one
        if user == "plain":
            for path, names, files in os.walk(f"{base}/data"):
                for each in (path, *(f"{path}/{name}" for name in [*names, *files])):
                    os.chown(each, PLAIN_UID, PLAIN_UID)
            os.chown(base, PLAIN_UID, PLAIN_UID)
            os.setgroups([])
            os.setresgid(PLAIN_UID, PLAIN_UID, PLAIN_UID)
            os.setresuid(PLAIN_UID, PLAIN_UID, PLAIN_UID)
    environment = {"SOLO_PROBE_SECRET": SECRET, **{k: v for k, v in os.environ.items() if k.startswith("SOLO_TESTS")}}
    # Executed anew: after a change of the user a process may not write its own uid_map.
    os.execve(sys.executable, [sys.executable, "-I", "-B", __file__, sys.argv[1], json.dumps(given)], environment)


def denied_numbers() -> list[int]:
    architecture = numbers.here()
    if architecture is None:
        return []
    rules = policy.rules(own_files=True, pid=1)
    named = {architecture.numbers.get(name) for name in (*rules.allowed, *rules.checked)}
    return [each for each in range(512) if each not in named | UNFILTERED]


def status_of(pid: int) -> dict[str, str]:
    return dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())


def inner_pid(pid: int) -> int:
    """As it is called in its own pid namespace."""
    return int(status_of(pid)["NSpid"].split()[-1])


async def probe(wanted: dict[str, Any], given: dict[str, str]) -> dict[str, Any]:
    sandboxing = Sandboxing(
        level=wanted["level"],
        hidden=(Path(given["data"]), Path(given["hidden"])),
        without=tuple(wanted["without"]),
        spares=wanted.get("spares", 0),
    )
    runtime = ProcessRuntime(Path(given["data"]) / "locks", sandboxing)
    lines: list[str] = []
    said: dict[str, Any] = {"lines": lines}
    with trio.fail_after(BOUND_S):
        async with trio.open_nursery() as nursery:
            try:
                said |= await within(runtime, nursery, wanted, given, lines)
            except SoloError as error:
                said |= {"refused": error.code, "detail": error.detail}
            finally:
                if runtime.layers is not None:
                    said["layers"] = attrs.asdict(runtime.layers) | {"level": runtime.layers.level}
                with trio.CancelScope(shield=True):
                    await runtime.close(trio.current_time() + 5)
    return said


async def within(
    runtime: ProcessRuntime, nursery: trio.Nursery, wanted: dict[str, Any], given: dict[str, str], lines: list[str]
) -> dict[str, Any]:
    source = PROBES.read_text()

    async def start(name: str, config: dict[str, Any]) -> Any:
        launch = Launch(
            tenant_id="tenant",
            incarnation="5010",
            service_id=name,
            version=1,
            generation=1,
            entry="source",
            source=source,
            config=config,
            limits={"threads": 16, "memory_mb": 256},
            log=lambda *line: lines.append(str(line)[:2000]),
            outgoing=None,  # type: ignore[arg-type]
        )
        running = await runtime.start(launch, nursery)
        async with trio.open_nursery() as waiting:

            async def give_up() -> None:
                await running.ended.wait()
                waiting.cancel_scope.cancel()

            waiting.start_soon(give_up)
            await running.ready.wait()
            waiting.cancel_scope.cancel()
        if not running.ready.is_set():
            raise RuntimeError(f"{name}: {running.ending} {lines}")
        return running

    database = os.open(f"{given['data']}/solo.db", os.O_RDWR)
    base = given["base"]
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams,
    ):
        unix.bind(f"{base}/socket")
        abstract.bind(f"\0{base}")
        datagrams.bind(f"{base}/datagrams")
        for path in (f"{base}/socket", f"{base}/datagrams"):
            os.chmod(path, 0o777)
        for listening in (unix, abstract):
            listening.listen()
        config: dict[str, Any] = {
            **given,
            "scratch": root.SCRATCH,
            "sibling_pid": 1,
            "kernel_pid": os.getpid(),
            "database_fd": database,
            "port": tcp.getsockname()[1],
            "socket": f"{base}/socket",
            "datagrams": f"{base}/datagrams",
            "abstract": base,
            "mounted": f"{base}/mounted",
            "mounted_too": f"{base}/mounted_too",
            "python": sys.executable,
            "secret_reversed": SECRET[::-1],
            "filtered": False,
            "denied_numbers": [],
        }
        sibling = await start("sibling", config)
        assert runtime.layers is not None
        config |= {"sibling_pid": inner_pid(sibling.pid), "filtered": runtime.layers.seccomp}
        if runtime.layers.seccomp:
            config["denied_numbers"] = denied_numbers()
        prober = await start("prober", config)
        status = status_of(prober.pid)
        outcomes = dict.fromkeys(wanted["probes"], "it was not run")
        for name in wanted["probes"]:
            try:
                outcomes |= await prober.call("run", [[name]], {})
            except SoloError as error:
                await prober.ended.wait()
                outcomes[name] = f"broken: {error.code} {prober.ending}"
                prober = await start("prober", config)
        killed = {}
        for function in wanted.get("killing", []):
            victim = await start(function.replace("_", "-"), config)
            try:
                killed[function] = f"through: {await victim.call(function, [], {})}"
            except SoloError:
                await victim.ended.wait()
                killed[function] = victim.ending.signal
        await sibling.call("run", [[]], {})
    os.close(database)
    return {"outcomes": outcomes, "killed": killed, "status": {name: text.strip() for name, text in status.items()}}


async def bombs(wanted: dict[str, Any], given: dict[str, str]) -> dict[str, Any]:
    directory = Path(given["data"]) / "locks"
    runtime = ProcessRuntime(directory, Sandboxing(without=tuple(wanted["without"])))
    layers = await runtime.probe()
    await runtime.close(trio.current_time() + 5)
    said: dict[str, Any] = {"layers": attrs.asdict(layers)}
    if layers.level >= wanted["level"]:
        said["bombs"] = await set_off(directory, wanted["level"], tuple(wanted["without"]))
    return said


def main() -> None:
    wanted = json.loads(sys.argv[1])
    if len(sys.argv) == 2:
        sys.exit(enter(wanted["user"]))
    print(json.dumps(trio.run(bombs if wanted.get("bombs") else probe, wanted, json.loads(sys.argv[2]))))


if __name__ == "__main__":
    main()
