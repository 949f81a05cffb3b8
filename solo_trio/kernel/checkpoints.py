"""Checkpoints. Owns: when the state is kept, and which kept state a start goes on from. Never: how one is stored or proved.

A checkpoint only saves time: whatever happens to one (a full disk, damage, another version of the program), the log has all of
it. So nothing here stops the kernel: a checkpoint that fails is noted and tried again, one that cannot be used is noted and
left out. The state is immutable: it is encoded in a thread while the kernel goes on.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
from collections.abc import Callable, Sequence
from functools import partial
from importlib.resources.abc import Traversable
from typing import Final, Protocol, TypeVar

import orjson
import trio
from attrs import frozen

from solo_trio.errors import Faulted, SoloError
from solo_trio.kernel.loop import submission_error
from solo_trio.kernel.staging import Submission
from solo_trio.kernel.surroundings import Surroundings
from solo_trio.model import snapshot
from solo_trio.model.checkpoint import CheckpointWritten, RecordCheckpoint
from solo_trio.model.event import Record
from solo_trio.model.record import Checkpoint
from solo_trio.model.state import KernelState
from solo_trio.ports import Telemetry

CHECKPOINT_INTERVAL_EVENTS: Final = 10_000
"""Some tenths of a second of replay."""
CHECKPOINT_INTERVAL_S: Final = 900.0
CHECKPOINT_RETRY_S: Final = 60.0
INLINE_SERVICES_MAX: Final = 64
INLINE_BYTES_MAX: Final = 65_536
"""A state that is small by both is encoded in some milliseconds: a thread would cost more than it spares."""
INLINE_NUMBERS_BYTES: Final = 20
"""About what one number of a list takes in a body."""
SHUTDOWN_MARGIN_S: Final = 0.1
"""Of the time of a shutdown, what is left for recording its end."""

REDUCER_ROOMS: Final = ("model", "policy")
_SOURCES: Final = (".py", ".pyc")

T = TypeVar("T")


@functools.cache
def reducer_version() -> str:
    """A hash of the sources that a state follows from: another one may fold the same events to another state."""
    found = hashlib.sha256()
    for room in REDUCER_ROOMS:
        _add(found, importlib.resources.files("solo_trio") / room, room)
    return found.hexdigest()


def _add(found: hashlib._Hash, directory: Traversable, path: str) -> None:
    for entry in sorted(directory.iterdir(), key=lambda each: each.name):
        name = f"{path}/{entry.name}"
        if entry.is_dir() and entry.name != "__pycache__":
            _add(found, entry, name)
        elif entry.name.endswith(_SOURCES):
            content = entry.read_bytes()
            found.update(f"{name} {len(content)}\n".encode() + content)


@frozen
class CheckpointRules:
    """After how many events a checkpoint is due, or how long after the first event that none covers."""

    interval_events: int = CHECKPOINT_INTERVAL_EVENTS
    interval_s: float = CHECKPOINT_INTERVAL_S


@frozen
class Written:
    event_id: int
    size_bytes: int
    duration_s: float


class Kept(Protocol):
    """A log, as far as its checkpoints go."""

    async def checkpoint_ids(self) -> list[int]: ...

    async def checkpoint(self, event_id: int) -> Checkpoint: ...


async def newest_usable(
    journal: Kept, telemetry: Telemetry, reducer: str, *, up_to: int | None = None
) -> KernelState | None:
    """The newest kept state that this program can go on from, not after event `up_to`; those that it cannot are noted."""
    for event_id in await journal.checkpoint_ids():
        if up_to is not None and event_id > up_to:
            continue
        try:
            kept = await journal.checkpoint(event_id)
            if (kept.reducer, kept.format) != (reducer, snapshot.FORMAT):
                telemetry.note("a checkpoint of another version of this program is not used", event=event_id)
                continue
            state = await maybe_in_thread(partial(snapshot.decode, kept.body), len(kept.body) > INLINE_BYTES_MAX)
            if state.last_id != event_id:
                raise Faulted("data_damaged", f"it holds the state after event {state.last_id}")
        except Faulted as fault:
            if fault.code != "data_damaged":
                raise
            telemetry.note("a checkpoint cannot be used", event=event_id, error=fault.detail)
        else:
            return state
    return None


def is_small(state: KernelState) -> bool:
    """Whether it is encoded in no time. What a tenant says the size of is looked at only until that is known."""
    services = sum(len(tenant.services) for tenant in state.tenants.values())
    if services + len(state.tenants) + len(state.capabilities) > INLINE_SERVICES_MAX:
        return False
    room = INLINE_BYTES_MAX
    for _, service in state.services():
        for each in filter(None, (service, service.previous)):
            room -= len(orjson.dumps(each.spec.config)) + INLINE_NUMBERS_BYTES * len(each.window)
            room -= 0 if each.last_crash is None else len(each.last_crash.traceback)
            if room < 0:
                return False
    return True


async def encoded(state: KernelState) -> bytes:
    """The body of a checkpoint of `state`, made without holding up the kernel."""
    return await maybe_in_thread(partial(snapshot.encode, state), not is_small(state))


async def maybe_in_thread(work: Callable[[], T], large: bool) -> T:
    """Do what only reads, in a thread if there is much of it."""
    if not large:
        await trio.lowlevel.checkpoint()
        return work()
    # It changes nothing: whoever no longer waits leaves it to end by itself.
    return await trio.to_thread.run_sync(work, abandon_on_cancel=True)


class Checkpoints:
    """Those of one running kernel. `uncovered`: how many events the start had to read."""

    def __init__(self, core: Surroundings, rules: CheckpointRules, reducer: str, *, uncovered: int) -> None:
        self._core = core
        self._rules = rules
        self._reducer = reducer
        self._uncovered = uncovered
        self._changed = trio.Event()
        self._turn = trio.Lock()

    def appended(self, records: Sequence[Record]) -> None:
        """Count them; those that say that a checkpoint was written do not call for the next one."""
        count = sum(not isinstance(record.event, CheckpointWritten) for record in records)
        if count:
            self._uncovered += count
            self._changed.set()

    async def run(self, after: trio.Event) -> None:
        """Write one whenever it is due, until cancelled; not before `after`: a start has other things to do."""
        await after.wait()
        while True:
            await self._wait_until_due()
            if not await self._try():
                await trio.sleep(CHECKPOINT_RETRY_S)

    async def _wait_until_due(self) -> None:
        while not self._uncovered:
            await self._next_change()
        with trio.move_on_after(self._rules.interval_s):
            while self._uncovered < self._rules.interval_events:
                await self._next_change()

    async def _next_change(self) -> None:
        self._changed = trio.Event()
        await self._changed.wait()

    async def _try(self) -> bool:
        try:
            await self.write()
        except SoloError as error:
            if not submission_error(error):  # that the kernel ends is said elsewhere
                self._core.telemetry.note("a checkpoint could not be written; it is tried again", error=str(error))
            return False
        except Exception as error:  # noqa: BLE001 - contained: without checkpoints a start takes longer, no more
            self._core.telemetry.bug("writing a checkpoint", error)
            return False
        return True

    async def write(self) -> Written:
        """Keep the state as it is now. Raises `StorageFull` or `JournalFailed`; one is written at a time."""
        async with self._turn:
            began = trio.current_time()
            state, covered = self._core.loop.state, self._uncovered
            body = await encoded(state)
            at_us = self._core.loop.now().at_us
            await self._core.journal.write_checkpoint(
                Checkpoint(state.last_id, at_us, self._reducer, snapshot.FORMAT, body)
            )
            self._uncovered -= covered
            written = Written(state.last_id, len(body), trio.current_time() - began)
            await self._core.loop.report(Submission(RecordCheckpoint(written.event_id, written.size_bytes)))
            return written

    async def write_last(self, deadline: float) -> None:
        """At a shutdown, if there is time until `deadline`."""
        with trio.move_on_at(deadline - SHUTDOWN_MARGIN_S) as scope:
            await self._try()
        if scope.cancelled_caught:
            self._core.telemetry.note("no time was left for a checkpoint; the next start reads more events")
