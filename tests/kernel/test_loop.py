"""The loop: durable, believed, told, done; in this order, or not at all."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, ClassVar

import pytest
import trio
from attrs import define, field, frozen
from kernel_rig import GatedJournal, JumpingClock
from trio.testing import MockClock, wait_all_tasks_blocked

from solo_trio.errors import Faulted, JournalFailed, KernelBug, Rejected, SoloError, StorageFull
from solo_trio.kernel import loop as loop_module
from solo_trio.kernel.hub import Hub
from solo_trio.kernel.loop import BATCH_SUBMISSIONS_MAX, QUEUE_SUBMISSIONS_MAX, STORAGE_PROBE_S, Loop
from solo_trio.kernel.staging import Command, Submission
from solo_trio.model import codec
from solo_trio.model.capability import Authority
from solo_trio.model.event import Decision, Now, Proposed
from solo_trio.model.record import Artifact, EventQuery, StoredEvent
from solo_trio.model.service_events import ServiceReady
from solo_trio.model.state import KernelState, fold
from solo_trio.model.system import SystemShutdownComplete, SystemShutdownStarted
from solo_trio.operations.deploying import digest_of
from solo_trio.ports import Clock
from solo_trio.telemetry.diagnostics import Diagnostics
from solo_trio.telemetry.sources import SystemClock


@frozen
class Say:
    """A command that records words; the reply is how many events there are then."""

    RESERVED: ClassVar[bool] = False

    words: tuple[Any, ...]
    attachments: tuple[Artifact, ...] = ()

    def decide(self, state: KernelState, now: Now) -> Decision:
        events = tuple(Proposed(SystemShutdownStarted(word)) for word in self.words)
        return Decision(events, self.attachments, reply=state.last_id + len(events))


@frozen
class Urgent(Say):
    RESERVED: ClassVar[bool] = True


@frozen
class Bad:
    """A command whose decision is whatever `how` makes of the state."""

    RESERVED: ClassVar[bool] = False

    how: Callable[[KernelState], Decision]

    def decide(self, state: KernelState, now: Now) -> Decision:
        return self.how(state)


def say(*words: Any) -> Submission:
    return Submission(Say(words))


@define
class Rig:
    """A loop on a journal that the test holds by the gate, and what came of each submission."""

    journal: GatedJournal
    hub: Hub
    loop: Loop
    nursery: trio.Nursery
    telemetry: Diagnostics
    answers: dict[str, Any] = field(factory=dict)
    touched: list[int] = field(factory=list)

    def submit(self, name: str, submission: Submission | Command) -> trio.CancelScope:
        """Submit in a task of its own; the reply or the error's code comes into `answers`."""
        scope = trio.CancelScope()
        given = submission if isinstance(submission, Submission) else Submission(submission)

        async def ask() -> None:
            with scope:
                try:
                    self.answers[name] = await self.loop.submit(given)
                except SoloError as error:
                    self.answers[name] = error.code

        self.nursery.start_soon(ask)
        return scope

    async def submit_all(self, submissions: dict[str, Submission | Command]) -> None:
        """One after the other, so that their order in the queue is known."""
        for name, submission in submissions.items():
            self.submit(name, submission)
            await wait_all_tasks_blocked()

    async def held(self, submissions: dict[str, Submission | Command]) -> None:
        """Have all of it waiting behind an append that is held up, then let go and wait for the answers."""
        self.journal.hold()
        self.submit("first", say("first"))
        await wait_all_tasks_blocked()
        await self.submit_all(submissions)
        self.journal.gate.set()
        await wait_all_tasks_blocked()

    async def words(self) -> list[str]:
        events = [
            codec.to_record(stored).event
            for page in [await self.journal.read(EventQuery(limit=10**6))]
            for stored in page
        ]
        return [event.reason for event in events if isinstance(event, SystemShutdownStarted)]


@contextlib.asynccontextmanager
async def running(
    monkeypatch: pytest.MonkeyPatch, *, clock: Clock | None = None, journal: GatedJournal | None = None
) -> AsyncIterator[Rig]:
    """Batches are bounded by their size alone, not by the time that deciding takes."""
    monkeypatch.setattr(loop_module, "BATCH_DECIDE_SECONDS_MAX", math.inf)
    journal = GatedJournal() if journal is None else journal
    hub, telemetry = Hub(journal, 0), Diagnostics()
    loop = Loop(journal, clock or SystemClock(), hub, telemetry, KernelState())
    with trio.fail_after(20_000):  # on the mock clock: fails where it would hang
        async with trio.open_nursery() as nursery:
            rig = Rig(journal, hub, loop, nursery, telemetry)
            loop.touched = lambda records: rig.touched.extend(record.stored.id for record in records)
            nursery.start_soon(loop.run)
            yield rig
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    records = [codec.to_record(stored) for stored in await journal.read(EventQuery(limit=10**6))]
    assert [record.stored.id for record in records] == list(range(1, len(records) + 1))
    assert loop.state == fold(records)
    assert rig.touched == [record.stored.id for record in records]


async def test_what_waits_is_committed_together(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as rig:
        await rig.held({f"s{number}": say(f"s{number}") for number in range(200)})
        assert [len(each) for each in rig.journal.appends] == [1, 200]
        assert [rig.answers[f"s{number}"] for number in range(200)] == list(range(2, 202))
        assert await rig.words() == ["first", *(f"s{number}" for number in range(200))]


async def test_a_batch_is_bounded(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    more = 2 * BATCH_SUBMISSIONS_MAX + 7
    async with running(monkeypatch) as rig:
        rig.journal.hold()
        rig.submit("first", say("first"))
        await wait_all_tasks_blocked()
        for number in range(more):
            rig.submit(f"s{number}", say("word"))
        await wait_all_tasks_blocked()
        assert rig.loop.queued == more
        rig.journal.gate.set()
    assert [len(each) for each in rig.journal.appends] == [1, BATCH_SUBMISSIONS_MAX, BATCH_SUBMISSIONS_MAX, 7]


async def test_a_batch_is_bounded_in_bytes_of_attachments(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "BATCH_BYTES_MAX", 1_000)
    contents = [bytes([number]) * 400 for number in range(6)]
    async with running(monkeypatch) as rig:
        await rig.held(
            {
                f"s{number}": Say(("word",), (Artifact(digest_of(content), content),))
                for number, content in enumerate(contents)
            }
        )
        for content in contents:
            assert (await rig.journal.artifact(digest_of(content))).content == content
    assert [len(each) for each in rig.journal.appends] == [1, 3, 3]


async def test_nothing_is_believed_told_or_answered_before_it_is_durable(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(monkeypatch) as rig:
        seen: list[int] = []

        @rig.nursery.start_soon
        async def watching() -> None:
            watch = rig.hub.watch(EventQuery())
            while page := await watch.next_page():
                seen.extend(stored.id for stored in page)

        rig.journal.hold()
        rig.submit("one", say("one", "two"))
        await trio.sleep(1_000)
        assert rig.journal.waiting == 1
        assert (rig.answers, seen, rig.touched, rig.loop.state, rig.hub.last_id) == ({}, [], [], KernelState(), 0)
        rig.journal.gate.set()
        await wait_all_tasks_blocked()
        assert (rig.answers, seen, rig.touched, rig.loop.state.last_id) == ({"one": 2}, [1, 2], [1, 2], 2)


async def test_the_order_is_believed_told_done_and_only_then_the_caller_goes_on(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(monkeypatch) as rig:
        order: list[str] = []
        touched = rig.loop.touched

        def note(records: Sequence[Any]) -> None:
            order.append(f"done {rig.loop.state.last_id} {rig.hub.last_id}")
            touched(records)

        rig.loop.touched = note
        assert await rig.loop.submit(say("one", "two")) == 2
        order.append(f"answered {rig.loop.state.last_id}")
        assert order == ["done 2 2", "answered 2"]


async def test_a_defect_in_one_decision_is_contained(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(state: KernelState) -> Decision:
        raise ZeroDivisionError("a defect")

    def recursion(state: KernelState) -> Decision:
        return recursion(state)

    def cannot_be_applied(state: KernelState) -> Decision:
        half = Proposed(SystemShutdownStarted("half of it"))
        return Decision((half, Proposed(ServiceReady(5, 1), "nobody", "inc", "web")))

    def cannot_be_encoded(state: KernelState) -> Decision:
        return Decision((Proposed(SystemShutdownStarted("half of it")), Proposed(SystemShutdownStarted(object()))))  # type: ignore[arg-type]

    def cannot_be_read_back(state: KernelState) -> Decision:
        return Decision((Proposed(SystemShutdownComplete("many")),))  # type: ignore[arg-type]

    bad = [defect, recursion, cannot_be_applied, cannot_be_encoded, cannot_be_read_back]
    submissions: dict[str, Submission | Command] = {}
    for how in bad:
        submissions |= {f"before {how.__name__}": say("good"), how.__name__: Bad(how)}
    submissions["last"] = say("good")
    async with running(monkeypatch) as rig:
        await rig.held(submissions)
        assert [rig.answers[how.__name__] for how in bad] == ["kernel_bug"] * len(bad)
        good = [answer for name, answer in rig.answers.items() if name.startswith(("before", "last"))]
        assert sorted(good) == [2, 3, 4, 5, 6, 7]
        assert [len(each) for each in rig.journal.appends] == [1, 6]
        assert await rig.words() == ["first"] + ["good"] * 6
        assert rig.telemetry.bug_count == len(bad)
        assert await rig.loop.submit(say("after")) == 8


async def test_a_refusal_writes_nothing(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(state: KernelState) -> Decision:
        raise Rejected("service_not_found", "no")

    async with running(monkeypatch) as rig:
        rig.submit("refused", Bad(refuse))
        rig.submit("nothing", Bad(lambda state: Decision(reply="as it is")))
        rig.submit("unknown", Submission(Say(("word",)), Authority("gone", "acme", "inc")))
        await wait_all_tasks_blocked()
        assert rig.answers == {"refused": "service_not_found", "nothing": "as it is", "unknown": "unauthenticated"}
        assert rig.journal.appends == [] and rig.loop.state == KernelState()
        assert rig.telemetry.bug_count == 0


async def test_a_cancelled_caller_does_not_cancel_the_append(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(monkeypatch) as rig:
        rig.journal.hold()
        first = rig.submit("first", say("first"))
        await wait_all_tasks_blocked()
        second = rig.submit("second", say("second"))
        await wait_all_tasks_blocked()
        first.cancel()
        second.cancel()
        await wait_all_tasks_blocked()
        rig.journal.gate.set()
        await wait_all_tasks_blocked()
        assert rig.answers == {}
        assert await rig.words() == ["first", "second"]
        assert await rig.loop.submit(say("third")) == 3


class Disk:
    """How full the disk is: full for all, for all but the reserved, or not."""

    def __init__(self, journal: GatedJournal) -> None:
        self.full = self.reserve_used = False
        journal.failures.append(self.check)

    def check(self, events: Sequence[StoredEvent], reserved: bool) -> Exception | None:
        return StorageFull() if self.full and not (reserved and not self.reserve_used) else None


async def test_a_full_disk_refuses_all_but_the_reserved(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(monkeypatch) as rig:
        disk = Disk(rig.journal)
        rig.journal.hold()
        rig.submit("first", say("first"))
        await wait_all_tasks_blocked()

        def refuse(state: KernelState) -> Decision:
            raise Rejected("service_not_found", "no")

        await rig.submit_all(
            {
                "a": say("a1", "a2"),
                "kill": Urgent(("kill",)),
                "refused": Bad(refuse),
                "b": say("b"),
                "stop": Urgent(("stop",)),
            }
        )
        rig.journal.failures.append(lambda events, reserved: setattr(disk, "full", True))  # after the first append
        rig.journal.gate.set()
        await wait_all_tasks_blocked()
        # decided again alone: the ids go on from what is believed, not from the draft that was dropped
        assert rig.answers == {
            "first": 1,
            "a": "storage_full",
            "b": "storage_full",
            "kill": 2,
            "refused": "service_not_found",
            "stop": 3,
        }
        assert await rig.words() == ["first", "kill", "stop"]
        assert rig.loop.storage_full and rig.telemetry.bug_count == 0


async def test_a_full_disk_is_over_when_something_ordinary_was_written(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(monkeypatch) as rig:
        disk = Disk(rig.journal)
        await rig.loop.submit(say("before"))
        disk.full = True
        for _ in range(3):
            with pytest.raises(StorageFull) as caught:
                await rig.loop.submit(say("lost"))
            assert caught.value.status == 503 and caught.value.retry_after_s == 5
            assert rig.loop.storage_full and rig.loop.state.last_id == 1
        assert await rig.loop.submit(Submission(Urgent(("kill",)))) == 2
        assert rig.loop.storage_full  # written on the reserve: the disk is as full as before
        disk.reserve_used = True
        with pytest.raises(StorageFull):
            await rig.loop.submit(Submission(Urgent(("kill",))))
        assert rig.loop.state.last_id == 2
        disk.full = False
        assert await rig.loop.submit(say("after")) == 3
        assert not rig.loop.storage_full
        assert await rig.words() == ["before", "kill", "after"]


async def test_a_full_disk_is_looked_at_again_without_being_asked(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(monkeypatch) as rig:
        disk = Disk(rig.journal)
        disk.full = True
        with pytest.raises(StorageFull):
            await rig.loop.submit(say("lost"))
        await trio.sleep(100)
        assert rig.loop.storage_full
        disk.full = False
        await trio.sleep(STORAGE_PROBE_S + 0.1)
        assert not rig.loop.storage_full
        assert await rig.words() == [] and await rig.loop.submit(say("first")) == 1


async def test_reading_goes_on_while_the_disk_is_full(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(monkeypatch) as rig:
        await rig.loop.submit(say("before"))
        Disk(rig.journal).full = True
        with pytest.raises(StorageFull):
            await rig.loop.submit(say("lost"))
        assert await rig.loop.submit(Submission(Bad(lambda state: Decision(reply=state.last_id)))) == 1


@pytest.mark.parametrize("error", [JournalFailed("fsync failed"), KernelBug("rows"), OSError("surprise")])
async def test_a_failed_append_ends_the_loop_and_everybody_is_told(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(loop_module, "BATCH_SUBMISSIONS_MAX", 3)
    journal, answers = GatedJournal(), dict[str, str]()
    loop = Loop(journal, SystemClock(), Hub(journal, 0), Diagnostics(), KernelState())
    journal.failures.append(lambda events, reserved: error)
    journal.hold()

    async def ask(name: str, submit: Callable[[Submission], Any]) -> None:
        with pytest.raises(SoloError) as caught:
            await submit(say(name))
        answers[name] = caught.value.code

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(ask, f"s{number}", loop.submit if number % 2 else loop.report)
        await wait_all_tasks_blocked()
        journal.gate.set()
        with pytest.raises(type(error)):
            await loop.run()
        nursery.start_soon(ask, "later", loop.submit)
        nursery.start_soon(ask, "later report", loop.report)
    assert answers.pop("later") == answers.pop("later report") == "kernel_stopped"
    code = error.code if isinstance(error, SoloError) else "kernel_stopped"
    assert set(answers.values()) == {code} and len(answers) == 10
    assert loop.state == KernelState() and journal.appends == []


async def test_a_defect_after_the_commit_ends_the_loop(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = GatedJournal()
    loop = Loop(journal, SystemClock(), Hub(journal, 0), Diagnostics(), KernelState())

    def defect(records: Sequence[Any]) -> None:
        raise ZeroDivisionError

    loop.touched = defect
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def ask() -> None:
            assert await loop.submit(say("one")) == 1  # it was durable, so it was answered
            with pytest.raises(Faulted) as caught:
                await loop.submit(say("two"))
            assert caught.value.code == "kernel_stopped"

        with pytest.raises(ZeroDivisionError):
            await loop.run()


async def test_a_full_queue_refuses_the_outside_and_holds_the_inside(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(monkeypatch) as rig:
        rig.journal.hold()
        rig.submit("first", say("first"))
        await wait_all_tasks_blocked()
        for number in range(QUEUE_SUBMISSIONS_MAX):
            rig.submit(f"s{number}", say("word"))
        await wait_all_tasks_blocked()
        with pytest.raises(Faulted) as caught:
            await rig.loop.submit(say("too many"))
        assert (caught.value.code, caught.value.status, caught.value.retry_after_s) == ("overloaded", 503, 1)
        reported: list[int] = []

        @rig.nursery.start_soon
        async def reporting() -> None:
            reported.append(await rig.loop.report(say("inside")))

        await wait_all_tasks_blocked()
        assert reported == []
        rig.journal.gate.set()
        await wait_all_tasks_blocked()
        assert reported == [QUEUE_SUBMISSIONS_MAX + 2]
        assert len(rig.answers) == QUEUE_SUBMISSIONS_MAX + 1 and "overloaded" not in rig.answers.values()


async def test_refusing_the_outside_still_serves_the_inside(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(monkeypatch) as rig:
        rig.loop.refuse_outside()
        with pytest.raises(Faulted) as caught:
            await rig.loop.submit(say("outside"))
        assert caught.value.code == "shutting_down"
        assert await rig.loop.report(say("inside")) == 1


JUMPS: dict[str, Callable[[int], int]] = {
    "backwards": lambda reading: 1_700_000_000_000_000 - reading * 3_600_000_000,
    "to and fro": lambda reading: 1_700_000_000_000_000 + (-1) ** reading * reading * 86_400_000_000,
    "stuck": lambda reading: 1_700_000_000_000_000,
    "before 1970": lambda reading: 0,
}


@pytest.mark.parametrize("name", JUMPS)
async def test_times_never_decrease_whatever_the_wall_clock_does(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    async with running(monkeypatch, clock=JumpingClock(JUMPS[name])) as rig:
        for number in range(50):
            await trio.sleep(0.5)
            await rig.loop.submit(say(f"s{number}"))
        events = await rig.journal.read(EventQuery())
        assert [event.at_us for event in events] == sorted(event.at_us for event in events)
        assert [event.kernel_time for event in events] == pytest.approx([0.5 * number for number in range(1, 51)])


async def test_causes_are_recorded(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as rig:
        await rig.loop.submit(Submission(Say(("one", "two", "three")), correlation_id="request-7"))
        await rig.loop.submit(Submission(Say(("four", "five")), causation_id=2))
        events = await rig.journal.read(EventQuery())
    assert [event.causation_id for event in events] == [None, 1, 1, 2, 4]
    assert [event.correlation_id for event in events] == ["request-7"] * 3 + [None] * 2
