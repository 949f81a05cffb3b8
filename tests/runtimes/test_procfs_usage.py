"""What /proc says of a process's own memory, descriptors and threads; and what reading that of many costs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from solo_trio.runtimes import procfs

MEBIBYTE = 1 << 20
FORKED = """
import mmap, os, sys, threading
inherited = bytearray(40 << 20)
if os.fork() == 0:
    {child}
    print(os.getpid(), flush=True)
    sys.stdin.read()
    os._exit(0)
os.wait()
"""
"""A parent with 40 MiB, and a child that does something more."""


@contextmanager
def forked(child: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    script = FORKED.format(child="\n    ".join(child.splitlines()))
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline()), process
    finally:
        process.communicate("")


def test_what_was_inherited_does_not_count() -> None:
    with forked("") as (pid, _):
        before = procfs.inherited(pid)
        assert before.rss_bytes > before.own_bytes > 40 * MEBIBYTE
        usage = procfs.usage(pid, before)
        assert usage["memory_bytes"] == 0 and usage["rss_bytes"] > 40 * MEBIBYTE
        assert procfs.usage(pid)["memory_bytes"] > 40 * MEBIBYTE, "nothing is subtracted that nobody named"


def test_what_it_takes_for_itself_and_what_it_shares_counts() -> None:
    sleeping = "sys.stdin.readline()\nmore = bytearray(b'x') * (30 << 20)"
    for take in (sleeping, "sys.stdin.readline()\nmore = mmap.mmap(-1, 30 << 20)\nmore.write(bytes(30 << 20))"):
        child = f"print(os.getpid(), flush=True)\n{take}"
        with forked(child) as (pid, process):
            before = procfs.inherited(pid)
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            process.stdout.readline()
            assert 29 * MEBIBYTE <= procfs.usage(pid, before)["memory_bytes"] <= 64 * MEBIBYTE


def test_descriptors_and_threads_are_counted() -> None:
    child = (
        "[os.dup(0) for _ in range(7)]\nfor _ in range(3): threading.Thread(target=sys.stdin.read, daemon=True).start()"
    )
    with forked("") as (plain, _), forked(child) as (more, _):
        assert procfs.usage(more)["fds"] - procfs.usage(plain)["fds"] == 7
        assert procfs.usage(more)["threads"] - procfs.usage(plain)["threads"] == 3


def test_a_process_that_is_gone_uses_nothing() -> None:
    process = subprocess.Popen(["/bin/true"])
    while os.path.exists(f"/proc/{process.pid}") and procfs.usage(process.pid):
        time.sleep(0)
    assert procfs.usage(process.pid) == {}, "a zombie"
    process.wait()
    assert procfs.usage(process.pid) == {} and procfs.inherited(process.pid) == procfs.Inherited()
    assert procfs.open_fds(process.pid) is None


def test_a_sample_of_a_thousand_costs_a_small_part_of_a_second() -> None:
    """So that the monitor keeps its period: 35 ms on the machine that it was written on."""
    me = os.getpid()
    before = procfs.inherited(me)
    began = time.process_time()
    for _ in range(1_000):
        procfs.usage(me, before)
    assert time.process_time() - began < 0.5
