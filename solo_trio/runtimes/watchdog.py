"""Who hogs the kernel's loop (supervision row 24). Owns: a thread that sees the loop stand and names the code that holds it.
Never: ends anything; Python cannot stop a task that does not yield.

Trusted services are tasks beside the kernel's own: `time.sleep(2)` in one is two seconds in which nobody is answered, no
deadline fires, and nothing in the loop can say why. So the thread looks from outside: is the loop waiting for something to
do? Then all is well, and it is not even woken. Else it is asked for a sign of life; without one for `STALL_S` the thread
reads the frames of Trio's thread, and the task they belong to, up to one that `owners` knows as a service's.

What it cannot see: code that keeps the interpreter's lock all the time (a regular expression, one long `sum`), for then the
thread does not run either.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

import trio
from attrs import frozen

from solo_trio.ports import Launch, Telemetry

PERIOD_S: Final = 0.1
"""How often the thread looks."""
STALL_S: Final = 0.5
"""No sign of life for so long is a stall."""
CONFIRM_S: Final = 0.1
"""Then the same one must hold the loop for so much longer: a loop that is only busy, or a machine that is, names nobody."""
REPEAT_S: Final = 60.0
"""The same owner is told about once in this time, with how often it was not."""
OWNERS_MAX: Final = 1_000
"""Of whom it is remembered when they were told about."""
STACK_FRAMES_MAX: Final = 20

_OWN_CODE: Final = str(Path(__file__).parents[1]) + "/"
_TRIO_CODE: Final = str(Path(trio.__file__).parent) + "/"


@frozen
class Hog:
    """What holds the loop. `launch` None: no service's code."""

    launch: Launch | None
    place: str
    """FILE:LINE in FUNCTION, of the innermost frame that is neither Trio's nor ours."""
    stack: str

    @property
    def owner(self) -> tuple[str, str] | None:
        return None if self.launch is None else (self.launch.incarnation, self.launch.service_id)

    @property
    def name(self) -> str:
        if self.launch is None:
            return "code outside of services"
        return f"service {self.launch.service_id!r} of tenant {self.launch.tenant_id!r}"


@contextmanager
def watchdog(owners: Mapping[trio.lowlevel.Task, Launch], telemetry: Telemetry) -> Iterator[None]:
    """Watch the Trio run that this is entered in, until it is left. Costs a look at a frame every `PERIOD_S`."""
    watch = _Watch(owners, telemetry, trio.lowlevel.current_trio_token(), threading.get_ident())
    thread = threading.Thread(target=watch.run, name="solo watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        watch.end()  # not joined: it may be in the middle of a line to a terminal that blocks


class _Watch:
    def __init__(
        self,
        owners: Mapping[trio.lowlevel.Task, Launch],
        telemetry: Telemetry,
        token: trio.lowlevel.TrioToken,
        thread_id: int,
    ) -> None:
        self._owners = owners
        self._telemetry = telemetry
        self._token = token
        self._thread_id = thread_id
        self._over = threading.Event()
        self._alive = threading.Event()
        self._told: dict[tuple[str, str] | None, tuple[float, int]] = {}
        """When, and how often since then it was not said."""

    def end(self) -> None:
        self._over.set()
        self._alive.set()

    def run(self) -> None:
        while not self._over.wait(PERIOD_S):
            frame = self._frame()
            if frame is None or _waits(frame):
                continue
            del frame
            try:
                self._look()
            except trio.RunFinishedError:
                return

    def _look(self) -> None:
        self._alive.clear()
        since = time.monotonic()
        self._token.run_sync_soon(self._alive.set)
        if self._over.is_set() or self._alive.wait(STALL_S):
            return
        first = self._sample()
        if self._alive.wait(CONFIRM_S):
            return
        second = self._sample()
        if first is None or second is None or first.owner != second.owner:
            return
        missed = self._may_tell(second)
        if missed is not None:
            before = f" ({missed} times more since this was last told)" if missed else ""
            self._telemetry.note(
                f"{second.name} holds the kernel's loop{before}: for {time.monotonic() - since:.1f} s nothing else has run;"
                f" it is at {second.place}. Let it await, or work in a thread (trio.to_thread.run_sync)\n{second.stack}"
            )
        while not self._alive.wait(REPEAT_S):
            self._telemetry.note(f"{second.name} still holds the kernel's loop after {time.monotonic() - since:.0f} s")
        if missed is not None and second.launch is not None and not self._over.is_set():
            held_s = time.monotonic() - since
            self._token.run_sync_soon(_write, second, second.launch, held_s)

    def _may_tell(self, hog: Hog) -> int | None:
        """How often it was not told about since the last time, or None: not now either."""
        at, missed = self._told.get(hog.owner, (-REPEAT_S, 0))
        if time.monotonic() - at < REPEAT_S:
            self._told[hog.owner] = (at, missed + 1)
            return None
        self._told.pop(hog.owner, None)
        while len(self._told) >= OWNERS_MAX:
            del self._told[next(iter(self._told))]
        self._told[hog.owner] = (time.monotonic(), 0)
        return missed

    def _frame(self) -> FrameType | None:
        return sys._current_frames().get(self._thread_id)

    def _sample(self) -> Hog | None:
        frame = self._frame()
        if frame is None or _waits(frame):
            return None
        frames = []
        task: Any = None
        each: FrameType | None = frame
        while each is not None and task is None:
            frames.append((each, each.f_lineno))
            if each.f_code.co_name == "unrolled_run" and each.f_code.co_filename.startswith(_TRIO_CODE):
                task = each.f_locals.get("task")
            each = each.f_back
        theirs = [pair for pair in frames if not pair[0].f_code.co_filename.startswith((_OWN_CODE, _TRIO_CODE))]
        shown, line = (theirs or frames)[0]
        stack = traceback.StackSummary.extract(iter((theirs or frames)[:STACK_FRAMES_MAX]))
        stack.reverse()
        place = f"{shown.f_code.co_filename}:{line} in {shown.f_code.co_name}"
        return Hog(self._owner_of(task), place, "".join(stack.format()).rstrip())

    def _owner_of(self, task: Any) -> Launch | None:
        """Of the task or of the nearest one above it. Contexts would not do: a call runs in its caller's."""
        while isinstance(task, trio.lowlevel.Task):
            launch = self._owners.get(task)
            if launch is not None:
                return launch
            nursery = task.parent_nursery
            task = None if nursery is None else nursery.parent_task
        return None


def _waits(frame: FrameType) -> bool:
    """Whether Trio's thread waits for events: it has nothing to do."""
    code = frame.f_code
    return code.co_name == "get_events" and code.co_filename.startswith(_TRIO_CODE)


def _write(hog: Hog, launch: Launch, held_s: float) -> None:
    """Into the service's own log, once its loop is there again to do it."""
    message = f"held the kernel's loop for {held_s:.1f} s at {hog.place}"
    launch.log("log", "warning", message, {"held_s": round(held_s, 1), "stack": hog.stack})
