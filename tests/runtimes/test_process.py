"""The process runtime: the contract, and what only real processes can show."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from runtime_contract import IDLE, RuntimeContract, mandate_of
from runtime_rig import BOUND_S, INCARNATION, Rig, cgroup_directories, process_rig

import solo_trio
from solo_trio.errors import Faulted, Rejected
from solo_trio.ports import Running
from solo_trio.runtimes import procfs, wire
from solo_trio.runtimes.ancestry import Ancestor
from solo_trio.runtimes.control import Zygote
from solo_trio.runtimes.host import Link
from solo_trio.runtimes.process import NO_ENVIRONMENT, ProcessRuntime, Sandboxing, take_over
from solo_trio.runtimes.service_process import MESSAGES_AT_ONCE_MAX, ServiceProcess
from solo_trio.runtimes.tenant_lock import lock_path, take_lock


class TestProcessContract(RuntimeContract):
    isolation = "process"
    rig = staticmethod(process_rig)


PING = """
    from solo_trio import service
    @service.export
    async def ping():
        return 1
"""


OPEN = Sandboxing(level=1, without=("namespaces", "seccomp", "landlock", "own_uid"))
"""Services can do what only limits forbid: fork, look at /proc, reach files."""
ALONE = Sandboxing(spares=0)
"""Nothing is forked in advance: descriptors and processes can be counted."""


def zygote_of(rig: Rig, incarnation: str = INCARNATION) -> Zygote:
    assert isinstance(rig.runtime, ProcessRuntime)
    zygote = rig.runtime._tenants[incarnation, NO_ENVIRONMENT].zygote
    assert zygote is not None
    return zygote


def ancestor_of(rig: Rig) -> Ancestor:
    assert isinstance(rig.runtime, ProcessRuntime)
    ancestor = rig.runtime._environments[NO_ENVIRONMENT].ancestor
    assert ancestor is not None
    return ancestor


@contextmanager
def pidfd(pid: int) -> Iterator[int]:
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def reap(*pids: int) -> None:
    """Processes that lost their parent and have ended."""
    for pid in pids:
        os.waitpid(pid, 0)


async def gone(descriptor: int) -> None:
    with trio.fail_after(30):
        await trio.lowlevel.wait_readable(descriptor)


# -- how a process ends


@pytest.mark.parametrize(
    ("body", "reason", "exit_code", "signal_name"),
    [
        ("import os; os._exit(0)", "exited by itself with code 0", 0, None),
        ("import os; os._exit(3)", "exited by itself with code 3", 3, None),
        ("import ctypes; ctypes.string_at(0)", "ended by SIGSEGV", None, "SIGSEGV"),
        ("import os; os.abort()", "ended by SIGABRT", None, "SIGABRT"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended by SIGKILL", None, "SIGKILL"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "ended by SIGTERM", None, "SIGTERM"),
        ("raise SystemExit(5)", "SystemExit: 5", 5, None),
    ],
)
async def test_crashes(tmp_path: Path, body: str, reason: str, exit_code: int | None, signal_name: str | None) -> None:
    async with process_rig(tmp_path) as rig:
        running = await rig.start(f"async def main(ctx):\n    print('before', end='')\n    {body}")
        ending = await rig.ending(running)
        assert (ending.kind, ending.reason) == ("crashed", reason)
        assert (ending.exit_code, ending.signal) == (exit_code, signal_name)


async def test_an_import_that_never_ends_never_becomes_ready(tmp_path: Path) -> None:
    async with process_rig(tmp_path) as rig:
        running = await rig.start("print('importing')\nwhile True: pass")
        await rig.line("importing")
        assert not running.ready.is_set()
        running.request_stop()
        running.kill()
        ending = await rig.ending(running)
        assert (ending.kind, ending.signal) == ("killed", "SIGKILL")
        assert not running.ready.is_set()


async def test_one_that_ignores_everything_is_killed(tmp_path: Path) -> None:
    async with process_rig(tmp_path) as rig:
        running = await rig.ready(
            """
            import signal, trio
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            async def main(ctx):
                with trio.CancelScope(shield=True):
                    try:
                        await trio.sleep_forever()
                    finally:
                        ctx.log.info("never")
            """
        )
        os.kill(running.pid, signal.SIGTERM)  # type: ignore[attr-defined]
        running.request_stop()
        running.kill()
        assert (await rig.ending(running)).kind == "killed"
        assert rig.messages("log") == []


@pytest.mark.parametrize(
    "act",
    [
        "os.write(3, b'GET / HTTP/1.1' + bytes(100))",
        "os.write(3, bytes([255]) * 9)",
        "frame('Ready')",  # a second one
        "frame('Result', id=99, kind='ok', value=1, error_type='', message='')",
        "frame('Hello')",
        "frame('Log', level=1)",
        "frame('Log', level='info', message='x' * 70_000, fields={})",
        "head('Log', 15_000_000)",
        "head('Ended', 33_000)",
        "head('Ask', 2_000_000)",
    ],
)
async def test_breaking_the_protocol_is_a_crash(tmp_path: Path, act: str) -> None:
    async with process_rig(tmp_path) as rig:
        running = await rig.start(RAW + f"    {act}\n    await trio.sleep_forever()")
        ending = await rig.ending(running)
        assert ending.kind == "crashed" and "broke the protocol" in ending.reason and len(ending.reason) < 300


RAW = """
import json, os, trio
from solo_trio.runtimes import wire
def head(name, size):
    put(wire.HEAD.pack(wire.TAGS[getattr(wire, name)], size, 0))
def frame(name, **values):
    data = json.dumps(values, separators=(",", ":")).encode()
    put(wire.HEAD.pack(wire.TAGS[getattr(wire, name)], len(data), 0) + data)
def put(data):
    while data:
        data = data[os.write(3, data):]
async def main(ctx):
"""


@pytest.mark.parametrize("lie", ["stopped", "nonsense"])
async def test_a_last_word_that_is_a_lie(tmp_path: Path, lie: str) -> None:
    async with process_rig(tmp_path) as rig:
        act = f"frame('Ended', kind={lie!r}, reason='trust me', traceback='')"
        running = await rig.start(RAW + f"    {act}\n    os._exit(0)")
        assert (await rig.ending(running)).kind == "crashed"


# -- floods


async def test_what_sends_too_much_is_not_read_for_a_while(tmp_path: Path) -> None:
    async with process_rig(tmp_path) as rig:
        running = await rig.start(
            RAW
            + """
    for _ in range(100):
        frame("Log", level="info", message="x" * 60_000, fields={})
    ctx.log.info("all")
"""
        )
        assert isinstance(running, ServiceProcess)
        assert (await rig.ending(running)).kind == "completed"
        assert rig.messages("log") == ["x" * 60_000] * 100 + ["all"]
        assert running.pauses > 0


async def test_what_is_costly_to_parse_counts_for_more(tmp_path: Path) -> None:
    async with process_rig(tmp_path) as rig:
        body = "    for _ in range(8): frame('Log', level='info', message='m', fields={'a': [[]] * 20_000})"
        running = await rig.start(RAW + body)
        assert isinstance(running, ServiceProcess)
        assert (await rig.ending(running)).kind == "completed"
        assert len(rig.messages("log")) == 8 and running.pauses > 0  # of less than half a mebibyte


async def test_a_reasonable_amount_is_read_at_once(tmp_path: Path) -> None:
    async with process_rig(tmp_path) as rig:
        running = await rig.start(RAW + "    for _ in range(100): ctx.log.info('x' * 8000)")
        assert isinstance(running, ServiceProcess)
        assert (await rig.ending(running)).kind == "completed"
        assert len(rig.messages("log")) == 100 and running.pauses == 0


async def test_others_have_their_turn_between_many_small_messages(tmp_path: Path) -> None:
    async with process_rig(tmp_path) as rig:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await trio.lowlevel.checkpoint()

        running = await rig.start(RAW + "    await trio.sleep_forever()")
        assert isinstance(running, ServiceProcess)
        await running.ready.wait()
        sender = wire.Wire("service")
        for message in (wire.Loaded(), wire.Ready()):
            sender.send(message)
        many = 20 * MESSAGES_AT_ONCE_MAX
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            await trio.lowlevel.checkpoint()
            turns = 0
            await running._take_all(b"".join(sender.send(wire.Drop(number)) for number in range(many)))
            nursery.cancel_scope.cancel()
        assert turns >= 19


async def test_asks_in_flight_are_few_and_small(tmp_path: Path) -> None:
    async with process_rig(tmp_path) as rig:

        async def never(*asked: Any) -> Any:
            await trio.sleep_forever()

        rig.outgoing = never
        running = await rig.ready(
            """
            import trio
            from solo_trio import service
            async def ask(ctx, text, codes):
                try:
                    await ctx.call("other", "f", text)
                except service.CallError as error:
                    codes.append(error.code)
            async def main(ctx, task_status):
                global context
                context = ctx
                task_status.started()
                await trio.sleep_forever()
            @service.export
            async def refused(size, many, least):
                codes = []
                async with trio.open_nursery() as nursery:
                    for _ in range(many):
                        nursery.start_soon(ask, context, "x" * size, codes)
                    while len(codes) < least:
                        await trio.sleep(0.001)
                    nursery.cancel_scope.cancel()
                return codes
            """
        )
        assert isinstance(running, ServiceProcess)
        for size, many, refused in (
            (1, 20, ["overloaded"] * 4),
            (1_000_000, 5, ["overloaded"] * 3),
            (2_000_000, 1, ["too_large"]),
        ):
            assert await running.call("refused", [size, many, len(refused)], {}) == refused
            while running._asks:  # noqa: ASYNC110 - bounded by the rig
                await trio.sleep(0.001)
            assert running._asked_bytes == 0
        assert len(rig.asked) == 16 + 2


@pytest.mark.parametrize(("said", "meant"), [("-5", 0.0), ("1e308", 30.0), ("7.5", 7.5), ("10**15", 30.0)])
async def test_the_time_of_an_ask_is_clamped(tmp_path: Path, said: str, meant: float) -> None:
    async with process_rig(tmp_path) as rig:

        async def answer(*asked: Any) -> Any:
            return 1

        rig.outgoing = answer
        body = f"frame('Ask', id=1, call=0, service_id='o', function='f', args=[], kwargs={{}}, timeout_s={said})"
        running = await rig.start(RAW + f"    {body}\n    await trio.sleep_forever()")
        while not rig.asked:  # noqa: ASYNC110 - bounded by the rig
            await trio.sleep(0.001)
        assert rig.asked == [("o", "f", [], {}, meant)] and not running.ended.is_set()


FORGER = (
    RAW.replace("async def main(ctx):", "")
    + """
import itertools
from solo_trio import service
numbers = itertools.count(10_000)
async def main(ctx, task_status):
    global context
    context = ctx
    task_status.started()
    await trio.sleep_forever()
@service.export
async def forge(calls):
    for call in calls:
        frame("Ask", id=next(numbers), call=call, service_id="vault", function=str(call), args=[], kwargs={}, timeout_s=5)
        frame("AskRight", id=next(numbers), call=call, resource="secret:x", permission="read")
@service.export
async def number():
    return service.caller().number
@service.export
async def stay():
    context.log.info("staying", number=service.caller().number)
    await trio.sleep_forever()
"""
)


async def test_a_forged_call_is_worth_nothing(tmp_path: Path) -> None:
    """It may name what is in flight to it, and by that do less than it may by itself; nothing else reaches the kernel."""
    async with process_rig(tmp_path) as rig:

        async def answer(*asked: Any) -> Any:
            return 1

        rig.outgoing = answer
        victim = await rig.ready(FORGER, service_id="victim")
        forger = await rig.ready(FORGER, service_id="forger")
        strong, weak = mandate_of("strong"), mandate_of("weak")
        async with trio.open_nursery() as nursery:
            for _ in range(5):  # numbers of calls that are in flight, to another service
                nursery.start_soon(victim.call, "stay", [], {}, strong)
            await rig.line("staying")
            over = await forger.call("number", [], {}, weak)
            mine = over + 1
            others = [number for number in range(1, 200) if number != mine]
            forged = [*others, over, -1, -mine, 2**31, 2**63 - 1]
            await forger.call("forge", [[*forged, mine, 0]], {}, weak)
            while len(rig.asked) < 2 or not rig.rights:  # noqa: ASYNC110 - bounded by the rig
                await trio.sleep(0.001)
            await forger.call("number", [], {}, weak)  # everything before it was dealt with
            nursery.cancel_scope.cancel()
        reached = sorted(asked[1] for asked in rig.asked)
        assert reached == sorted([str(mine), "0"]), "what it made up reached nobody"
        assert {asked[1]: mandate for asked, mandate in zip(rig.asked, rig.mandates, strict=True)} == {
            str(mine): weak,
            "0": None,
        }
        assert rig.rights == [(weak, "secret:x", "read")]
        assert not forger.ended.is_set()


@pytest.mark.parametrize("call", ["1.5", "None", "'1'", "True", "[1]"])
async def test_a_number_of_a_call_that_is_none_ends_it(tmp_path: Path, call: str) -> None:
    async with process_rig(tmp_path) as rig:
        act = f"frame('AskRight', id=1, call={call}, resource='tenant', permission='read')"
        running = await rig.start(RAW + f"    {act}\n    await trio.sleep_forever()")
        assert "AskRight.call" in (await rig.ending(running)).reason and not rig.rights


async def test_a_service_that_says_too_much_goes_on(tmp_path: Path) -> None:
    async with process_rig(tmp_path) as rig:
        running = await rig.ready(
            """
            from solo_trio import service
            async def main(ctx, task_status):
                ctx.log.info("x" * 100_000, a=1)
                ctx.log.info("fields", text=["y"] * 100_000)
                ctx.log.info(chr(1) * 100_000)
                task_status.started()
                import trio
                await trio.sleep_forever()
            @service.export
            async def big(size):
                return "x" * size
            @service.export
            async def fail():
                raise type("T" * 1_000_000, (Exception,), {})(chr(1) * 1_000_000)
            """
        )
        first, second, third = [(line[2], line[3]) for line in rig.lines if line[0] == "log"]
        assert first == ("x" * 8192, {"a": 1})
        assert second[0] == "fields" and "at most 65536" in second[1]["fields_lost"]
        assert third == (chr(1) * 8192, {})
        with pytest.raises(Faulted) as caught:
            await running.call("big", [wire.RESULT_BYTES_MAX], {})
        assert caught.value.code == "result_not_serialisable"
        assert len(await running.call("big", [1 << 20], {})) == 1 << 20
        with pytest.raises(Faulted) as caught:
            await running.call("fail", [], {})
        assert len(caught.value.detail) < 2_000 and caught.value.extra["error_type"] == "T" * 100


@pytest.mark.parametrize("where", ["import", "main"])
async def test_a_crash_with_very_much_to_say_keeps_its_last_word(tmp_path: Path, where: str) -> None:
    async with process_rig(tmp_path) as rig:
        fail = "raise type('T' * 1_000_000, (Exception,), {})(chr(1) * 1_000_000)"
        indent = "" if where == "import" else "async def main(ctx):\n    "
        ending = await rig.ending(await rig.start(indent + fail))
        assert ending.kind == ("load_failed" if where == "import" else "crashed")
        assert ending.reason.startswith("TTT") and len(ending.reason) < 1_000 and 0 < len(ending.traceback) <= 8_192


def test_log_lines_that_nobody_takes_are_counted_not_waited_for() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        link, kernel = Link(log_wait_s=0.0), wire.Wire("kernel")
        link.attach(theirs)
        for _ in range(1_000):
            theirs.setblocking(True)
            link.log("info", "x" * 100, {})
        ours.setblocking(False)
        got = _read_all(ours, kernel)
        link.log("info", "after", {"a": 1})
        link.log("info", "later", {})
        after, later = _read_all(ours, kernel)
        assert 0 < len(got) < 1_000 and after.fields == {"a": 1, "lines_lost": 1_000 - len(got)} and later.fields == {}


def _read_all(sock: socket.socket, end: wire.Wire) -> list[Any]:
    found: list[Any] = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found += end.receive(sock.recv(65536))
    return found


# -- output


async def test_printing_and_logging(tmp_path: Path) -> None:
    async with process_rig(tmp_path) as rig:
        running = await rig.start(
            """
            import logging, os, sys
            print("at import")
            async def main(ctx):
                print("héllo")
                print("to stderr", file=sys.stderr)
                logging.getLogger("deep.inside").warning("w %d", 1)
                logging.debug("too quiet")
                os.write(1, b"\\xff\\xfe\\n" + b"x" * 20_000 + b"\\n\\nno end")
                os._exit(9)
            """
        )
        assert (await rig.ending(running)).exit_code == 9
        out = rig.messages("stdout")
        assert out[:3] == ["at import", "héllo", "\ufffd\ufffd"]
        assert [len(line) for line in out[3:]] == [8192, 8192, 20_000 - 2 * 8192, 0, 6]
        assert out[-1] == "no end"
        assert ("stderr", "warning", "to stderr", {}) in rig.lines
        assert ("log", "warning", "w 1", {"logger": "deep.inside"}) in rig.lines
        assert len(rig.messages("log")) == 1


async def test_a_flood_does_not_block_the_kernel_or_the_service(tmp_path: Path) -> None:
    async with process_rig(tmp_path) as rig:
        flood = await rig.start(
            """
            import sys
            async def main(ctx):
                for number in range(100_000):
                    print(number)
                sys.stdout.write("y" * 1_000_000)
            """
        )
        quiet = await rig.ready(PING, service_id="quiet")
        assert await quiet.call("ping", [], {}) == 1
        assert (await rig.ending(flood)).kind == "completed"
        out = rig.messages("stdout")
        assert out[:100_000] == [str(number) for number in range(100_000)]
        assert sum(map(len, out[100_000:])) == 1_000_000


# -- what a service finds


async def test_a_bare_process(tmp_path: Path) -> None:
    async with process_rig(tmp_path) as rig:
        running = await rig.start(
            """
            import json, os, resource, signal, sys, threading
            def is_open(number):
                try:
                    os.fstat(number)
                except OSError:
                    return False
                return True
            report = dict(
                fds=[number for number in range(256) if is_open(number)],
                environment=dict(os.environ),
                argv=sys.argv,
                name=__name__,
                threads=threading.active_count(),
                session=os.getsid(0) == os.getpid(),
                core=resource.getrlimit(resource.RLIMIT_CORE),
                nofile=resource.getrlimit(resource.RLIMIT_NOFILE),
                stdin=sys.stdin.read(),
                handlers=[str(signal.getsignal(n)) for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)],
                directory=os.getcwd(),
                files=os.listdir("."),
                root=os.listdir("/"),
            )
            print(json.dumps(report))
            """,
            limits={"fds": 77},
        )
        await running.ready.wait()
        report = json.loads(await _first(rig, "stdout"))
        assert report["fds"] == [0, 1, 2, 3]
        assert report["environment"] == {} and report["argv"] == []
        assert report["name"] == "__service__" and report["threads"] == 1
        assert report["session"] is True and report["stdin"] == ""
        assert report["core"] == [0, 0] and report["nofile"] == [77, 77]
        assert report["handlers"] == [str(signal.SIG_DFL)] * 3
        layers = rig.runtime.layers  # type: ignore[attr-defined]
        if layers.namespaces:
            assert (report["directory"], report["files"]) == ("/scratch", [])
            assert not {"proc", "sys"} & set(report["root"])
        else:
            assert report["directory"] == "/"
        assert isinstance(running, ServiceProcess)
        status = status_of(running.pid)
        assert status["NoNewPrivs"] == ["1"] and status["Seccomp"] == ["2" if layers.seccomp else "0"]
        assert {*status["CapPrm"], *status["CapEff"], *status["CapAmb"]} == {"0" * 16}
        assert (os.getuid() == int(status["Uid"][0])) is not layers.own_uid and len(
            {*status["Uid"], *status["Gid"]}
        ) == 1


def status_of(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: values.split() for name, _, values in (line.partition(":") for line in lines)}


async def test_a_service_carries_nothing_of_the_kernel(tmp_path: Path) -> None:
    async with process_rig(tmp_path) as rig:
        await rig.ready(
            "import sys\nprint(' '.join(sorted(name for name in sys.modules if name.startswith('solo_trio'))))"
        )
        names = (await _first(rig, "stdout")).split()
        assert "solo_trio.service" in names
        assert {name for name in names if name.startswith("solo_trio.model")} == {
            "solo_trio.model",
            "solo_trio.model.archive",
        }
        rooms = {name.split(".")[1] for name in names if "." in name}
        assert rooms == {"service", "runtimes", "model"}
        kernels_end = (
            "process",
            "ancestry",
            "control",
            "pool",
            "sandboxes",
            "spares",
            "service_process",
            "tenant_lock",
        )
        assert not {f"solo_trio.runtimes.{name}" for name in kernels_end} & set(names)


async def _first(rig: Rig, stream: str) -> str:
    while not rig.messages(stream):
        await rig._line.wait()
    return rig.messages(stream)[0]


async def test_siblings_do_not_share_randomness(tmp_path: Path) -> None:
    async with process_rig(tmp_path) as rig:
        source = "import random, trio\nprint(random.random(), trio._core._run._r.random())"
        for number in range(2):
            await rig.ready(source, service_id=f"s{number}")
        while len(rig.messages("stdout")) < 2:
            await rig._line.wait()
        one, two = (line.split() for line in rig.messages("stdout"))
        assert one[0] != two[0] and one[1] != two[1]


@pytest.mark.parametrize(
    ("limits", "body", "expected"),
    [
        ({"memory_mb": 100}, "bytearray(300 << 20)", "MemoryError"),
        ({"disk_mb": 1}, "open('file', 'wb').write(bytes(2 << 20))", "OSError: [Errno 27]"),
        ({"disk_mb": 1}, "[open(str(n), 'wb').write(bytes(1 << 19)) for n in range(3)]", "OSError: [Errno 28]"),
        ({"fds": 20}, "[os.dup(0) for _ in range(30)]", "OSError: [Errno 24]"),
        ({"cpu_seconds": 1}, "\n    while True: pass", "ended by SIGXCPU"),
    ],
)
async def test_limits(tmp_path: Path, limits: dict[str, float], body: str, expected: str) -> None:
    async with process_rig(tmp_path) as rig:
        running = await rig.start(f"import os\nasync def main(ctx):\n    {body}", limits=limits)
        ending = await rig.ending(running)
        assert ending.kind == "crashed" and ending.reason.startswith(expected)


async def test_a_small_service_can_use_threads(tmp_path: Path) -> None:
    async with process_rig(tmp_path) as rig:
        running = await rig.ready(
            "from solo_trio import service\n@service.export\ndef f(): return 1", limits={"memory_mb": 64, "threads": 32}
        )
        assert await running.call("f", [], {}) == 1
        usage = running.usage()
        assert 1 << 20 < usage["rss_bytes"] < 1 << 28 and usage["cpu_s"] >= 0


async def test_what_is_too_large_is_refused_before_the_fork(tmp_path: Path) -> None:
    async with process_rig(tmp_path) as rig:
        with pytest.raises(Rejected) as caught:
            await rig.start("#" * (17 << 20))
        assert caught.value.code == "too_large"
        with pytest.raises(Faulted):
            await rig.start("", entry="callable:it")


# -- zygotes


@pytest.mark.parametrize("which", ["inner", "outer"])
async def test_a_killed_zygote_is_lost_and_a_new_one_starts(tmp_path: Path, which: str) -> None:
    async with process_rig(tmp_path, ALONE) as rig:
        running = [await rig.ready(IDLE, service_id=f"s{number}") for number in range(3)]
        other = await rig.ready(IDLE, incarnation="beef")
        zygote = zygote_of(rig)
        [inner] = procfs.children(zygote.pid)
        pids = [zygote.pid, inner, *procfs.children(inner)]
        assert len(pids) == 5
        os.kill(inner if which == "inner" else zygote.pid, signal.SIGKILL)
        for one in running:
            ending = await rig.ending(one)
            assert ending.kind == "lost", ending
        await zygote.gone.wait()
        assert [pid for pid in pids if procfs.usage(pid)] == []
        again = await rig.ready(IDLE)
        assert zygote_of(rig) is not zygote
        assert not again.ended.is_set() and not other.ended.is_set()


async def test_starts_at_the_same_time_share_a_zygote(tmp_path: Path) -> None:
    async with process_rig(tmp_path, ALONE) as rig:
        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(lambda number=number: rig.ready(IDLE, service_id=f"s{number}"))
        [inner] = procfs.children(zygote_of(rig).pid)
        assert len(procfs.children(inner)) == 200
        assert procfs.children(os.getpid()).count(ancestor_of(rig).pid) == 1
        assert procfs.children(ancestor_of(rig).pid) == [zygote_of(rig).pid]


async def test_what_a_service_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    async with process_rig(tmp_path, OPEN) as rig:
        running = await rig.start(
            """
            import os, time, trio
            async def main(ctx):
                if os.fork() == 0:
                    os.setsid()
                    if os.fork() == 0:
                        ctx.log.info("left", pid=os.getpid())
                        time.sleep(600)
                    os._exit(0)
                await trio.sleep_forever()
            """
        )
        pid = (await rig.line("left"))[3]["pid"]
        with pidfd(pid) as descriptor:
            running.kill()
            await rig.ending(running)
            await gone(descriptor)


async def test_descriptors_do_not_leak(tmp_path: Path) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    async with process_rig(tmp_path, ALONE) as rig:
        first = await rig.ready(IDLE)
        before = count()
        for number in range(50):
            running = await rig.ready(IDLE)
            if number % 2:
                running.kill()
            else:
                running.request_stop()
            await running.ended.wait()
        assert count() == before
        assert not first.ended.is_set()


async def test_starts_that_are_given_up_half_way(tmp_path: Path) -> None:
    async with process_rig(tmp_path, ALONE) as rig:
        await rig.ready(IDLE)
        zygote = zygote_of(rig)
        [inner] = procfs.children(zygote.pid)
        before = len(os.listdir("/proc/self/fd"))
        os.kill(inner, signal.SIGSTOP)
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(rig.start, IDLE)
            await trio.testing.wait_all_tasks_blocked()
            assert len(zygote._requests) == 10
            nursery.cancel_scope.cancel()
        os.kill(inner, signal.SIGCONT)
        running = await rig.ready(IDLE)  # forked after the ten, so their answers have come
        running.kill()
        await running.ended.wait()
        assert len(os.listdir("/proc/self/fd")) == before and not zygote._requests
        # They end by themselves, their sockets being closed.
        while len(procfs.children(inner)) > 1:  # noqa: ASYNC110 - bounded by the rig's fail_after
            await trio.sleep(0.01)


@pytest.mark.parametrize("forked", [False, True])
async def test_what_a_start_had_that_was_given_up_is_free_when_it_has_ended(tmp_path: Path, forked: bool) -> None:
    async with process_rig(tmp_path, ALONE) as rig:
        assert isinstance(rig.runtime, ProcessRuntime)
        await rig.ready(IDLE)
        uids = rig.runtime._uids
        [inner] = procfs.children(zygote_of(rig).pid)
        before = held_of(rig), set(uids._used), procfs.children(inner)
        os.kill(inner, signal.SIGSTOP)
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(rig.start, IDLE)
            await trio.testing.wait_all_tasks_blocked()
            if forked:  # and the answers wait: nothing of Trio runs meanwhile
                os.kill(inner, signal.SIGCONT)
                while len(procfs.children(inner)) < 11:
                    os.sched_yield()
            nursery.cancel_scope.cancel()
        os.kill(inner, signal.SIGCONT)
        while (held_of(rig), uids._used, procfs.children(inner)) != before:
            assert uids._used > before[1] or procfs.children(inner) == before[2], "a uid is free while it is used"
            await trio.sleep(0.01)
        assert not zygote_of(rig).over


def held_of(rig: Rig) -> set[str]:
    """The cgroups that there are for services of the tenant, by number."""
    places = [place / INCARNATION for place in cgroup_directories(rig.runtime)]
    return {group.name for place in places for group in place.iterdir() if group.is_dir()}


@pytest.mark.parametrize("executable", ["/bin/false", "/no/python", ""])
async def test_no_ancestor_no_service(tmp_path: Path, executable: str) -> None:
    async with process_rig(tmp_path) as rig:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "executable", executable)
            for _ in range(2):
                await _refused_start(rig)
        assert os.listdir(tmp_path) == []
        await rig.ready(IDLE)


def own_ancestors(rig: Rig, before: set[int]) -> list[int]:
    """The pids of the ancestors of the rig's zygotes."""
    return [pid for pid in procfs.children(os.getpid()) if pid not in before]


@pytest.mark.parametrize("renamed", [False, True])
async def test_the_lock_is_never_on_a_file_that_was_removed(tmp_path: Path, renamed: bool) -> None:
    path = lock_path(tmp_path, "abc")
    held = await take_lock(path, 1)
    got: list[int] = []

    async def wait() -> None:
        got.append(await take_lock(path, 30))

    with trio.fail_after(BOUND_S):
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            path.unlink()
            if renamed:
                path.write_text("{}")
            os.close(held)
            while not got:  # noqa: ASYNC110 - bounded
                await trio.sleep(0.001)
            assert not _is_free(path)
            assert os.fstat(got[0]).st_ino == path.stat().st_ino
            os.close(got[0])
    os.close(got[1])
    assert len(got) == 2


async def test_a_lock_that_cannot_be_had_leaks_no_descriptor(tmp_path: Path) -> None:
    path = lock_path(tmp_path, "abc")
    held = await take_lock(path, 1)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Faulted) as caught:
        await take_lock(path, 0)
    assert caught.value.code == "services_alive" and len(os.listdir("/proc/self/fd")) == before
    os.close(held)


async def test_a_zygote_that_dies_while_it_boots_with_starts_waiting(tmp_path: Path) -> None:
    async with process_rig(tmp_path, ALONE) as rig:
        await rig.ready(IDLE)
        for attempt in range(20):  # until it is met before it can fork
            incarnation, done = f"beef{attempt}", list[Running | Faulted]()

            async def start(number: int, incarnation: str = incarnation, done: list[Running | Faulted] = done) -> None:
                try:
                    done.append(await rig.start(IDLE, incarnation=incarnation, service_id=f"s{number}"))
                except Faulted as error:
                    done.append(error)

            async with trio.open_nursery() as nursery:
                before = set(procfs.children(ancestor_of(rig).pid))
                for number in range(3):
                    nursery.start_soon(start, number)
                os.kill(await inner_of_a_new_zygote(rig, before), signal.SIGKILL)
            refused = [one for one in done if isinstance(one, Faulted)]
            if len(refused) == 1:
                break
        [error] = refused
        assert error.code == "runtime_unavailable" and len(done) == 3
        # What the keeper has open is the file that a following kernel would look at.
        keeper, path = zygote_of(rig, incarnation).pid, lock_path(tmp_path, incarnation)
        links = [os.readlink(f"/proc/{keeper}/fd/{number}") for number in os.listdir(f"/proc/{keeper}/fd")]
        assert str(path) in links and not _is_free(path)


async def inner_of_a_new_zygote(rig: Rig, before: set[int]) -> int:
    """As soon as there is one."""
    while True:
        for keeper in set(procfs.children(ancestor_of(rig).pid)) - before:
            for inner in procfs.children(keeper):
                return inner
        await trio.sleep(0.001)


async def test_a_stopped_zygote_is_killed_when_it_does_not_answer(tmp_path: Path) -> None:
    async with process_rig(tmp_path, ALONE) as rig:
        bystander = await rig.ready(IDLE, service_id="bystander")
        zygote = zygote_of(rig)
        [inner] = procfs.children(zygote.pid)
        os.kill(inner, signal.SIGSTOP)  # as any of its services could, were they not confined
        zygote.fork_s_max = 0.05
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(_refused_start, rig)
        assert (await rig.ending(bystander)).kind == "lost"
        again = await rig.ready(IDLE)  # of a new one, without the short bound
        assert zygote_of(rig) is not zygote and zygote.gone.is_set() and not again.ended.is_set()
        assert not zygote._requests


async def _refused_start(rig: Rig, incarnation: str = INCARNATION) -> None:
    with pytest.raises(Faulted) as caught:
        await rig.start(IDLE, incarnation=incarnation)
    assert caught.value.code == "runtime_unavailable"


async def test_a_stopped_keeper_is_killed_at_close(tmp_path: Path) -> None:
    async with process_rig(tmp_path) as rig:
        await rig.ready(IDLE)
        zygote = zygote_of(rig)
        os.kill(zygote.pid, signal.SIGSTOP)
        await rig.runtime.close(trio.current_time())  # over to force at once
        assert zygote.gone.is_set()


@pytest.mark.parametrize("what", ["ancestor", "zygote"])
@pytest.mark.parametrize("then", ["close", "force", "start"])
async def test_a_start_that_was_given_up(tmp_path: Path, what: str, then: str) -> None:
    async with process_rig(tmp_path) as rig:
        before = set(procfs.children(os.getpid()))
        if what == "zygote":
            await rig.ready(IDLE, incarnation="beef")
        async with trio.open_nursery() as nursery:
            keepers = set(procfs.children(ancestor_of(rig).pid)) if what == "zygote" else set()
            nursery.start_soon(rig.start, IDLE)
            if what == "zygote":
                await inner_of_a_new_zygote(rig, keepers)
            else:
                while not own_ancestors(rig, before):  # noqa: ASYNC110 - bounded by the rig
                    await trio.sleep(0.001)
            nursery.cancel_scope.cancel()
        if then == "start":
            await rig.ready(IDLE)
            while own_ancestors(rig, before) != [ancestor_of(rig).pid]:  # noqa: ASYNC110 - bounded by the rig
                await trio.sleep(0.001)
        else:
            below = [pid for pid in procfs.descendants(os.getpid()) if pid not in before]
            await rig.runtime.close(trio.current_time() + (10 if then == "close" else 0))
            assert [pid for pid in below if procfs.usage(pid)] == [] == os.listdir(tmp_path)


# -- the ancestor


async def test_a_killed_ancestor_takes_nothing_with_it(tmp_path: Path) -> None:
    async with process_rig(tmp_path, ALONE) as rig:
        running = await rig.ready(PING)
        ancestor, zygote = ancestor_of(rig), zygote_of(rig)
        os.kill(ancestor.pid, signal.SIGKILL)
        await ancestor.gone.wait()
        assert await running.call("ping", [], {}) == 1
        await rig.ready(IDLE, service_id="sibling")  # of the same zygote
        assert zygote_of(rig) is zygote
        other = await rig.ready(PING, incarnation="beef")
        assert ancestor_of(rig) is not ancestor and await other.call("ping", [], {}) == 1
        await rig.runtime.close(trio.current_time() + 10)
        reap(zygote.pid)  # nobody else's child any more


async def test_a_stopped_ancestor_is_replaced_when_it_does_not_answer(tmp_path: Path) -> None:
    async with process_rig(tmp_path, ALONE) as rig:
        running = await rig.ready(PING)
        ancestor, zygote = ancestor_of(rig), zygote_of(rig)
        os.kill(ancestor.pid, signal.SIGSTOP)
        ancestor.fork_s_max = 0.05
        with pytest.raises(Faulted, match="did not answer within"):
            await rig.start(IDLE, incarnation="beef")
        assert os.listdir(tmp_path) == [f"{INCARNATION}.lock"] and not ancestor._requests.keys() - {2}
        await rig.ready(IDLE, incarnation="beef")
        assert ancestor_of(rig) is not ancestor and ancestor.gone.is_set()
        assert await running.call("ping", [], {}) == 1 and not zygote.over
        await rig.runtime.close(trio.current_time() + 10)
        reap(zygote.pid)


async def test_a_start_that_is_given_up_while_its_keeper_is_forked(tmp_path: Path) -> None:
    async with process_rig(tmp_path, ALONE) as rig:
        await rig.ready(IDLE)
        os.kill(ancestor_of(rig).pid, signal.SIGSTOP)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: rig.start(IDLE, incarnation="beef"))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            await _blocked()
            assert not _is_free(lock_path(tmp_path, "beef"))
            os.kill(ancestor_of(rig).pid, signal.SIGCONT)
        keeper = zygote_of(rig, "beef").pid  # which is known, and is waited for
        await rig.runtime.close(trio.current_time() + 10)
        assert not procfs.usage(keeper)


async def _blocked() -> None:
    with trio.CancelScope(shield=True):
        await trio.testing.wait_all_tasks_blocked()


@pytest.mark.parametrize("starting", [False, True])
async def test_a_stopped_ancestor_is_killed_at_close(tmp_path: Path, starting: bool) -> None:
    async with process_rig(tmp_path, ALONE) as rig:
        await rig.ready(IDLE)
        ancestor, zygote = ancestor_of(rig), zygote_of(rig)
        orphans = {zygote.pid, *procfs.children(zygote.pid)}
        os.kill(ancestor.pid, signal.SIGSTOP)
        async with trio.open_nursery() as nursery:
            if starting:
                nursery.start_soon(lambda: _refused_start(rig, incarnation="beef"))
                await trio.testing.wait_all_tasks_blocked()
            await rig.runtime.close(trio.current_time() + (0 if starting else 10))
            assert ancestor.gone.is_set() and zygote.gone.is_set()
        reap(*orphans & set(procfs.children(os.getpid())))  # their parent was stopped: it could not


async def test_nothing_is_founded_after_close(tmp_path: Path) -> None:
    async with process_rig(tmp_path) as rig:
        assert isinstance(rig.runtime, ProcessRuntime)
        assert (await rig.runtime.probe()).level >= 1
        await rig.runtime.close(trio.current_time() + 10)
        with pytest.raises(Faulted, match="closed"):
            await rig.runtime.probe()


async def test_a_level_that_is_not_there_starts_nothing(tmp_path: Path) -> None:
    for own in (False, True):
        lacking = Sandboxing(level=2, without=("seccomp",), own_ancestors=own)
        async with process_rig(tmp_path, lacking) as rig:
            with pytest.raises(Faulted, match=r"security\.sandbox_level") as caught:
                await rig.start(IDLE)
            assert caught.value.code == "sandbox_unavailable" and "seccomp" in caught.value.detail
            assert os.listdir(tmp_path) == []


async def test_ancestors_of_their_own(tmp_path: Path) -> None:
    """Nothing is shared between tenants: not the layout of addresses, not the seed of hashes."""
    async with process_rig(tmp_path, Sandboxing(own_ancestors=True, spares=0)) as rig:
        source = "print(hash('x'), id(object))"
        for number in range(2):
            await rig.ready(source, service_id=f"s{number}", incarnation=f"beef{number}")
            await rig.ready(source, service_id=f"t{number}", incarnation=f"beef{number}")
        while len(rig.messages("stdout")) < 4:
            await rig._line.wait()
        assert len(set(rig.messages("stdout"))) == 2
        keepers = [zygote_of(rig, f"beef{number}").pid for number in range(2)]
        await rig.runtime.close(trio.current_time() + 10)
        reap(*keepers)  # their ancestors have gone before


# -- sandboxes in advance


async def test_sandboxes_made_in_advance_are_used_and_end_with_their_zygote(tmp_path: Path) -> None:
    async with process_rig(tmp_path) as rig:
        first = await rig.ready(PING)
        [inner] = procfs.children(zygote_of(rig).pid)
        waiting = await _waiting(rig, 1)
        second = await rig.ready(PING, service_id="second")
        assert isinstance(first, ServiceProcess) and isinstance(second, ServiceProcess)
        assert second.pid == waiting[0]
        waiting = await _waiting(rig, 2)
        assert set(procfs.children(inner)) == {first.pid, second.pid, *waiting}
        os.kill(inner, signal.SIGKILL)
        assert [(await rig.ending(one)).kind for one in (first, second)] == ["lost", "lost"]
        again = await rig.ready(PING)  # none of those that died with it
        assert await again.call("ping", [], {}) == 1


async def _waiting(rig: Rig, many: int) -> list[int]:
    """The pids of the sandboxes that nobody uses, once there are so many."""
    assert isinstance(rig.runtime, ProcessRuntime)
    while True:
        shelves = rig.runtime._spares._pool._shelves.values()
        pids = [each.spawned.pid for shelf in shelves for each in shelf.waiting]
        if len(pids) == many and not rig.runtime._forks.borrowed_tokens:  # type: ignore[union-attr]
            return pids
        await trio.sleep(0.001)


# -- no descriptors left


async def test_a_start_without_descriptors_is_refused(tmp_path: Path) -> None:
    async with process_rig(tmp_path, ALONE) as rig:
        first = await rig.ready(IDLE)
        before = len(os.listdir("/proc/self/fd"))
        # A socket pair, two pipes, the cgroups; then its pidfd, and one to ask that for its pid.
        for left in range(6 + len(cgroup_directories(rig.runtime)) + 2):
            with full_table(left):
                await _refused_start(rig)
            await trio.testing.wait_all_tasks_blocked()
        for left in range(4):  # the lock, a socket pair, its pidfd
            with full_table(left):
                await _refused_start(rig, "beef")
            # What was forked half-way has ended; without a descriptor nobody could see that.
            assert left < 1 or os.listdir(tmp_path) == [f"{INCARNATION}.lock"]
        assert not first.ended.is_set() and not zygote_of(rig).over and not ancestor_of(rig).over
        again = await rig.ready(IDLE)
        again.kill()
        await again.ended.wait()
        assert len(os.listdir("/proc/self/fd")) == before


async def test_no_ancestor_without_descriptors(tmp_path: Path) -> None:
    async with process_rig(tmp_path) as rig:
        assert isinstance(rig.runtime, ProcessRuntime)
        rig.runtime._prepare()
        for left in range(5):  # a socket pair, /dev/null, a pipe to hear of the exec
            with full_table(left):
                await _refused_start(rig)
        await rig.ready(IDLE)


@pytest.mark.parametrize("more", [0, 1])
async def test_a_pidfd_that_does_not_arrive_refuses_that_start_only(tmp_path: Path, more: int) -> None:
    async with process_rig(tmp_path, ALONE) as rig:
        first = await rig.ready(IDLE)
        taken = 6 + len(cgroup_directories(rig.runtime))  # by its socket pair, its pipes, its cgroups
        with full_table(taken + more), pytest.raises(Faulted, match="no descriptor is left for its pidfd"):
            await rig.start(IDLE)
        assert not first.ended.is_set() and not zygote_of(rig).over
        await rig.ready(IDLE)


async def test_a_zygote_without_descriptors_refuses(tmp_path: Path) -> None:
    async with process_rig(tmp_path, ALONE) as rig:
        first = await rig.ready(IDLE)
        [inner] = procfs.children(zygote_of(rig).pid)
        # Those that are sent, and one to look at its threads; then the pidfd.
        with few_descriptors(inner, 4 + len(cgroup_directories(rig.runtime))) as limits:
            for _ in limits:
                await _refused_start(rig)
        assert not first.ended.is_set() and not zygote_of(rig).over
        await rig.ready(IDLE)


async def test_an_ancestor_without_descriptors_refuses(tmp_path: Path) -> None:
    async with process_rig(tmp_path, ALONE) as rig:
        first = await rig.ready(IDLE)
        with few_descriptors(ancestor_of(rig).pid, 3) as limits:  # two that are sent, and the pidfd
            for _ in limits:
                await _refused_start(rig, "beef")
                assert os.listdir(tmp_path) == [f"{INCARNATION}.lock"]
        assert not first.ended.is_set() and not ancestor_of(rig).over
        await rig.ready(IDLE, incarnation="beef")


@contextmanager
def few_descriptors(pid: int, most: int) -> Iterator[Iterator[int]]:
    """Yields what sets its limit so that 0, 1 ... of its descriptors are free, below `most`."""
    used = set(map(int, os.listdir(f"/proc/{pid}/fd")))
    free = [number for number in range(64) if number not in used]
    hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]

    def limits() -> Iterator[int]:
        for left in range(most):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (free[left], hard))
            yield left

    yield limits()
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def full_table(left: int) -> Iterator[None]:
    """All descriptors of this process but `left` are in use."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(map(int, os.listdir("/proc/self/fd"))) + 64
    taken = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        for _ in range(left):
            os.close(taken.pop())
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


AUTO_REAPED = """
import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
sys.path.append(sys.argv[1])
import trio
from pathlib import Path
from solo_trio.ports import Launch
from solo_trio.runtimes.process import ProcessRuntime

async def main():
    runtime = ProcessRuntime(Path(sys.argv[2]))
    async with trio.open_nursery() as nursery:
        for how in ("killed", "closed"):
            source = "async def main(ctx): pass"
            launch = Launch("t", "c0de", "s", 1, 1, "source", source, {}, {}, log=lambda *line: None, outgoing=None)
            running = await runtime.start(launch, nursery)
            await running.ended.wait()
            if how == "killed":
                zygote = runtime._tenants["c0de", ""].zygote
                os.kill(zygote.pid, signal.SIGKILL)
                await zygote.gone.wait()
        await runtime.close(trio.current_time() + 20)
    print(sorted(os.listdir(sys.argv[2])))

trio.run(main)
"""


def test_an_application_that_ignores_sigchld(tmp_path: Path) -> None:
    root = str(Path(solo_trio.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-I", "-c", AUTO_REAPED, root, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        env={},
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


async def test_an_incarnation_that_is_no_file_name(tmp_path: Path) -> None:
    async with process_rig(tmp_path) as rig:
        for bad in ("../x", "", "A", "a/b"):
            with pytest.raises(ValueError, match="hex"):
                await rig.start(IDLE, incarnation=bad)


async def test_nothing_starts_after_close(tmp_path: Path) -> None:
    async with process_rig(tmp_path) as rig:
        await rig.ready(IDLE)
        await rig.runtime.close(trio.current_time() + 10)
        with pytest.raises(Faulted) as caught:
            await rig.start(IDLE)
        assert caught.value.code == "runtime_unavailable"


def test_a_run_that_ends_without_close_leaves_nothing(tmp_path: Path) -> None:
    before = set(procfs.children(os.getpid()))

    async def main() -> None:
        runtime = ProcessRuntime(tmp_path)
        async with trio.open_nursery() as nursery:
            await Rig(runtime, nursery, lambda source: ("source", source)).ready(IDLE)
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert set(procfs.children(os.getpid())) <= before
    assert list(tmp_path.iterdir()) == []


# -- the kernel dies


VICTIM = """
import json, os, sys
sys.path.append(sys.argv[1])  # found through the kernel's path only
import trio
from pathlib import Path
from solo_trio.ports import Launch
from solo_trio.runtimes.process import ProcessRuntime, Sandboxing

SOURCE = '''
async def main(ctx, task_status):
    import trio
    if "lock" in ctx.config:
        import fcntl
        file = open(ctx.config["lock"], "w")
        fcntl.flock(file, fcntl.LOCK_EX)
    task_status.started()
    if ctx.service_id == "s0":
        import time
        time.sleep(600)  # hears nothing any more, also not that the kernel is gone
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()
'''

async def main():
    without = tuple(json.loads(sys.argv[3]))
    runtime = ProcessRuntime(Path(sys.argv[2]), Sandboxing(level=1, without=without))
    async with trio.open_nursery() as nursery:
        running = []
        for number, path in enumerate(sys.argv[4:]):
            config = {"lock": path} if without else {}
            launch = Launch("t", "c0de", f"s{number}", 1, 1, "source", SOURCE, config, {},
                            log=lambda *line: None, outgoing=None)
            running.append(await runtime.start(launch, nursery))
        for one in running:
            await one.ready.wait()
        while not any(shelf.waiting for shelf in runtime._spares._pool._shelves.values()):
            await trio.sleep(0.001)
        keeper = runtime._tenants["c0de", ""].zygote.pid
        places = [str(place / "c0de") for place in runtime._cgroups._hierarchies.places]
        ancestor = runtime._environments[""].ancestor.pid
        services = [one.pid for one in running]
        print(json.dumps({"services": services, "keeper": keeper, "ancestor": ancestor, "groups": places}), flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


def _is_free(path: Path) -> bool:
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@pytest.mark.parametrize("without", [OPEN.without, ()], ids=["open", "confined"])
@pytest.mark.parametrize("how", ["kernel", "kernel_and_stopped_zygote", "kernel_and_ancestor"])
async def test_a_killed_kernel_leaves_nothing(tmp_path: Path, how: str, without: tuple[str, ...]) -> None:
    locks = tmp_path / "locks"
    files = [tmp_path / f"service{number}" for number in range(4)]  # which services lock, where they can reach them
    root = Path(solo_trio.__file__).parents[1]
    victim = subprocess.Popen(  # noqa: ASYNC220 - to be killed, not waited for by Trio
        [sys.executable, "-I", "-c", VICTIM, str(root), str(locks), json.dumps(without), *map(str, files)],
        stdout=subprocess.PIPE,
        env={},
    )
    try:
        assert victim.stdout is not None
        with trio.fail_after(BOUND_S):
            line = await trio.to_thread.run_sync(victim.stdout.readline)
            found = json.loads(line)
            [inner] = procfs.children(found["keeper"])
            services = [os.pidfd_open(pid) for pid in found["services"]]
            below = set(procfs.descendants(victim.pid))  # with those that were made in advance
            assert below > {inner, found["keeper"], found["ancestor"], *found["services"]}
            fds = [*services, *(os.pidfd_open(pid) for pid in below)]
            try:
                record = json.loads(lock_path(locks, "c0de").read_text())
                assert record == {
                    "pid": found["keeper"],
                    "start": procfs.start_time(found["keeper"]),
                    "pgid": os.getpgid(found["keeper"]),
                }
                assert not _is_free(lock_path(locks, "c0de")) and not any(map(has_ended, fds))
                assert not without or not any(_is_free(path) for path in files)
                if how == "kernel_and_stopped_zygote":
                    os.kill(inner, signal.SIGSTOP)
                if how == "kernel_and_ancestor":
                    os.kill(found["ancestor"], signal.SIGKILL)
                victim.kill()
                if how == "kernel_and_stopped_zygote":
                    await take_over(locks, 0.2)
                else:
                    descriptor = await take_lock(lock_path(locks, "c0de"), 30)
                    assert all(map(has_ended, services))  # at once: they are gone already
                    os.close(descriptor)
                    await take_over(locks, 10)
                assert all(map(has_ended, services)) and (not without or all(_is_free(path) for path in files))
                for descriptor in fds:
                    await gone(descriptor)
                assert os.listdir(locks) == []
                if how == "kernel_and_stopped_zygote":  # its keeper was killed: the kernel that follows removes them
                    follower = ProcessRuntime(locks)
                    await follower.probe()
                    await follower.close(trio.current_time() + 10)
                assert not any(map(os.path.exists, found["groups"]))
            finally:
                for descriptor in fds:
                    os.close(descriptor)
    finally:
        victim.kill()
        victim.communicate()


def has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


async def test_take_over_refuses_when_a_lock_stays_held(tmp_path: Path) -> None:
    held = await take_lock(lock_path(tmp_path, "abc"), 1)  # by this process, which the file does not name
    os.pwrite(held, json.dumps({"pid": os.getpid(), "start": 1, "pgid": 1}).encode(), 0)  # nor by this start time
    (tmp_path / "dead.lock").write_text("{}")
    with pytest.raises(Faulted) as caught:
        await take_over(tmp_path, 0.05)
    assert caught.value.code == "services_alive" and "abc.lock" in caught.value.detail
    assert os.listdir(tmp_path) == ["abc.lock"]
    os.close(held)
    await take_over(tmp_path, 1)
    assert os.listdir(tmp_path) == []
    await take_over(tmp_path / "none", 1)
