"""The pure pieces: lines, verdicts on processes, JSON values, the fence."""

from __future__ import annotations

import enum
import itertools
import os
import signal
import subprocess
import threading
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from solo_trio import service
from solo_trio.runtimes import judge as judging
from solo_trio.runtimes import procfs, wire
from solo_trio.runtimes.fence import (
    REASON_CHARS_MAX,
    TRACEBACK_CHARS_MAX,
    TRACEBACK_LINES_MAX,
    Outcome,
    fenced,
    reason_of,
    traceback_tail,
)
from solo_trio.runtimes.judge import Evidence, judge
from solo_trio.runtimes.output import LOG_LINE_BYTES_MAX, LineSplitter
from solo_trio.service.module import Module, NotAService
from solo_trio.service.values import NotJson, plain, printable


@given(st.lists(st.binary(max_size=30)), st.lists(st.integers(0, 500)))
def test_lines_do_not_depend_on_the_split(lines: list[bytes], cuts: list[int]) -> None:
    data = b"\n".join(lines)
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    splitter = LineSplitter()
    got = [line for a, b in itertools.pairwise(edges) for line in splitter.feed(data[a:b])] + splitter.finish()
    whole = LineSplitter()
    assert got == whole.feed(data) + whole.finish()
    assert "\n".join(got).count("\n") <= data.count(b"\n")


def test_long_lines_are_cut() -> None:
    splitter = LineSplitter()
    lines = splitter.feed(b"x" * (3 * LOG_LINE_BYTES_MAX + 1)) + splitter.feed(b"y\nshort\n")
    assert [len(line) for line in lines] == [LOG_LINE_BYTES_MAX] * 3 + [2, 5]
    assert splitter.finish() == []


SEGV = signal.SIGSEGV
KILL = signal.SIGKILL
ENDED = {kind: wire.Ended(kind, "why", "tb") for kind in ("completed", "stopped", "crashed")}
FAILED = wire.Failed("why", "tb")


@pytest.mark.parametrize(
    ("status", "word", "killed", "stop", "fault", "kind"),
    [
        (0, ENDED["completed"], False, False, None, "completed"),
        (0, ENDED["completed"], True, True, None, "completed"),
        (0, ENDED["stopped"], False, True, None, "stopped"),
        (0, ENDED["stopped"], False, False, None, "crashed"),
        (256, ENDED["crashed"], False, True, None, "crashed"),
        (256, FAILED, False, False, None, "load_failed"),
        (KILL, FAILED, True, False, None, "load_failed"),
        (SEGV, ENDED["completed"], False, False, None, "crashed"),
        (SEGV, None, False, False, None, "crashed"),
        (SEGV, None, True, False, None, "crashed"),
        (KILL, None, True, True, None, "killed"),
        (KILL, ENDED["stopped"], True, True, None, "killed"),
        (KILL, None, False, True, None, "crashed"),
        (0, None, False, False, None, "crashed"),
        (None, None, False, False, None, "lost"),
        (None, None, True, False, None, "killed"),
        (None, ENDED["completed"], False, False, None, "completed"),
        (KILL, None, True, False, "broke the protocol", "crashed"),
    ],
)
def test_the_verdict_on_a_process(
    status: Any, word: Any, killed: bool, stop: bool, fault: str | None, kind: str
) -> None:
    assert judge(Evidence(status, word, killed, stop, fault)).kind == kind


@pytest.mark.parametrize(
    "word", [wire.Failed("r" * 2_000, "t" * 9_000), wire.Ended("crashed", "r" * 2_000, "line\n" * 9_000)]
)
def test_a_verdict_does_not_grow_with_what_was_said(word: Any) -> None:
    ending = judge(Evidence(256, word, killed=False, stop_requested=False, fault=None))
    assert ending.reason == "r" * judging.REASON_CHARS_MAX
    assert word.traceback.endswith(ending.traceback) and 7_990 < len(ending.traceback) <= judging.TRACEBACK_CHARS_MAX
    assert ending.traceback[:5] in ("ttttt", "line\n")
    assert len(judge(Evidence(256, None, False, False, "f" * 2_000)).reason) == judging.REASON_CHARS_MAX


class Number(enum.IntEnum):
    ONE = 1


class Text(str):
    pass


def test_plain_values() -> None:
    value = plain({"a": (1, [Number.ONE, Text("x"), None, True, 1.5])})
    assert value == {"a": [1, [1, "x", None, True, 1.5]]}
    assert type(value["a"][1][0]) is int and type(value["a"][1][1]) is str and value["a"][1][3] is True


BAD = [float("nan"), [float("-inf")], b"x", {1}, object(), {1: 1}, 2**64, -(2**63) - 1, "\ud800", {"\ud800": 1}]


@pytest.mark.parametrize("bad", BAD)
def test_values_that_are_not_json(bad: Any) -> None:
    with pytest.raises(NotJson):
        plain(bad)


def test_a_value_inside_itself_is_not_json() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(NotJson, match="deeper"):
        plain(loop)


def test_printable_never_raises() -> None:
    class Bad:
        def __repr__(self) -> str:
            raise ValueError

    assert printable({"a": Bad(), "b": 1}) == {"a": "<repr raised ValueError>", "b": 1}


def test_export_refuses_what_cannot_be_called() -> None:
    with pytest.raises(TypeError):
        service.export(3)  # type: ignore[type-var]
    with pytest.raises(NotAService):
        Module.from_object(3)


async def test_the_fence_lets_an_outer_cancellation_through_at_the_next_checkpoint() -> None:
    async def body() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("clean-up")

    with trio.CancelScope() as outer:
        outer.cancel()
        outcome = await fenced(trio.CancelScope(), body)
        assert isinstance(outcome.error, ValueError)
        with pytest.raises(trio.Cancelled):
            await trio.lowlevel.checkpoint()


async def test_the_fence_tells_a_cancellation_from_a_fake() -> None:
    with trio.CancelScope() as outer:
        outer.cancel()
        assert await fenced(trio.CancelScope(), trio.sleep_forever) == Outcome(cancelled=True)
    inner = trio.CancelScope()
    inner.cancel()
    assert await fenced(inner, trio.sleep_forever) == Outcome(cancelled=True)

    async def fake() -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as error:
                kept = error
        raise BaseExceptionGroup("fake", [kept])

    outcome = await fenced(trio.CancelScope(), fake)
    assert isinstance(outcome.error, RuntimeError)


async def test_the_fence_around_mixed_groups() -> None:
    async def worker(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            raise SystemExit(1)

    async def body() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(worker)
            nursery.start_soon(trio.sleep_forever)
            scope.cancel()

    scope = trio.CancelScope()
    outcome = await fenced(scope, body)
    assert reason_of(outcome.error) == "SystemExit: 1"


def test_reports_are_bounded() -> None:
    def deep(number: int) -> None:
        if number:
            deep(number - 1)
        raise ValueError("\ud800 long " + "x" * 100_000)

    try:
        deep(200)
    except ValueError as error:
        tail = traceback_tail(error)
        assert len(tail) <= TRACEBACK_CHARS_MAX and tail.count("\n") <= TRACEBACK_LINES_MAX
        assert len(reason_of(error)) <= REASON_CHARS_MAX + 100
        (tail + reason_of(error)).encode()


def test_procfs() -> None:
    me = os.getpid()
    assert me in procfs.children(os.getppid()) or procfs.children(os.getppid()) == []
    assert procfs.start_time(me) is not None and procfs.usage(me)["rss_bytes"] > 0
    assert procfs.start_time(2**22 + 1) is None and procfs.usage(2**22 + 1) == {} and procfs.children(2**22 + 1) == []


def test_children_of_any_thread_are_found() -> None:
    child = None
    started, done = threading.Event(), threading.Event()

    def other() -> None:
        nonlocal child
        child = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE)
        started.set()
        done.wait(30)

    thread = threading.Thread(target=other)
    thread.start()
    try:
        assert started.wait(30) and child is not None
        assert child.pid in procfs.children(os.getpid()) and child.pid in procfs.descendants(os.getppid())
    finally:
        done.set()
        thread.join()
        if child is not None:
            child.communicate()


def test_the_size_of_a_process_is_a_whole_number_of_bytes() -> None:
    assert type(procfs.usage(os.getpid())["rss_bytes"]) is int
