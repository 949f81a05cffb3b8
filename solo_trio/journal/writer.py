"""The writer's thread. Owns: one thread that does one piece of work after another. Never: knows what the work is.

Work that was handed over is done whatever becomes of the caller, and the caller hears how it ended: waiting for it is
shielded, so that "cancelled" never stands for "perhaps written".
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Final, Generic, TypeVar

import trio

from solo_trio.errors import KernelBug

WRITER_QUEUE_JOBS_MAX: Final = 16

T = TypeVar("T")


class _Job(Generic[T]):
    def __init__(self, work: Callable[[], T], after: Callable[[], None] | None) -> None:
        self.work = work
        self.after = after
        self.ended = trio.Event()
        self._result: T
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._result = self.work()
        except BaseException as error:  # noqa: BLE001  # not swallowed: `result` raises it in the task that asked
            self._error = error

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._result


class Writer:
    """Made in a Trio task; `close` joins the thread."""

    def __init__(self, name: str) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._door = trio.StrictFIFOLock()
        self._slots = trio.Semaphore(WRITER_QUEUE_JOBS_MAX)
        self._jobs: queue.SimpleQueue[_Job[object] | None] = queue.SimpleQueue()
        self._closed = False
        # A daemon, because a kernel that died without closing must not hang at the exit of its process.
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    async def run(self, work: Callable[[], T], after: Callable[[], None] | None = None) -> T:
        """Do `work` in the thread, in order of calling; then, behind the caller's back, `after`, which never raises."""
        with trio.CancelScope(shield=True):
            # Two slots that become free at once wake two tasks in either order; the door keeps the order of calling.
            async with self._door:
                await self._slots.acquire()
            try:
                if self._closed:
                    raise KernelBug("the journal was used after it was closed")
                job = _Job(work, after)
                self._jobs.put(job)  # type: ignore[arg-type]  # invariant only in name: a job is read by its maker
                await job.ended.wait()
            finally:
                self._slots.release()
        return job.result()

    async def close(self) -> None:
        """Let what was handed over finish, then end the thread. Idempotent."""
        self._closed = True
        self._jobs.put(None)
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._thread.join)

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run()
            try:
                self._token.run_sync_soon(job.ended.set)
            except trio.RunFinishedError:
                return  # The kernel is gone; what was committed is found at its next start.
            if job.after is not None:
                job.after()
            del job
