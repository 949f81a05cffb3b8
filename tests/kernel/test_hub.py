"""The hub: every watcher sees every record once, in order, however slow it is and however often it comes back."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_rig import Actor, GatedJournal, check_log, opened
from trio.testing import MockClock, wait_all_tasks_blocked

from solo_trio.journal.memory import MemoryJournal
from solo_trio.kernel import hub as hub_module
from solo_trio.kernel.hub import PAGE_RECORDS_MAX, RING_RECORDS_MAX, Compacted, Hub, Watch
from solo_trio.model.event import Record
from solo_trio.model.record import EventQuery, StoredEvent
from solo_trio.testing import MemoryKernel

TYPES = ("service_started", "service_ready", "service_crashed")


def record(id_: int, size: int = 2) -> Record:
    """Tenant, subject and type follow from the id."""
    tenant = ("acme", "blau", None)[id_ % 3]
    return Record(
        StoredEvent(
            id=id_,
            at_us=id_,
            kernel_time=float(id_),
            tenant_id=tenant,
            incarnation=None if tenant is None else f"{tenant}-{id_ % 2}",
            subject=f"s{id_ % 5}",
            type=TYPES[id_ % 7 % 3],
            schema=1,
            payload=b"x" * size,
        )
    )


class Log:
    """A journal and a hub, filled as the loop does it: durable first, then told."""

    def __init__(self, already: int = 0) -> None:
        self.journal = MemoryJournal()
        self.journal._events.extend(record(id_).stored for id_ in range(1, already + 1))
        self.hub = Hub(self.journal, already)
        self.last_id = already

    async def append(self, count: int = 1, size: int = 2) -> Sequence[Record]:
        records = [record(self.last_id + 1 + number, size) for number in range(count)]
        await self.journal.append([each.stored for each in records])
        self.last_id += count
        return records

    async def publish(self, count: int = 1, size: int = 2) -> None:
        self.hub.publish(await self.append(count, size))


async def ids_until_closed(watch: Watch, seen: list[int]) -> None:
    while page := await watch.next_page():
        seen.extend(stored.id for stored in page)


def expected(query: EventQuery, last_id: int) -> list[int]:
    """By the query's words, not by the hub's code."""
    found = []
    for id_ in range(query.after + 1, last_id + 1):
        stored = record(id_).stored
        wanted = {"tenant_id": query.tenant_id, "incarnation": query.incarnation, "subject": query.subject}
        if all(value in (None, getattr(stored, name)) for name, value in wanted.items()) and (
            query.types is None or stored.type in query.types
        ):
            found.append(id_)
    return found


async def test_a_watcher_sees_every_record_once_in_order(autojump_clock: MockClock) -> None:
    log, seen = Log(), list[int]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ids_until_closed, log.hub.watch(EventQuery()), seen)
        for count in (1, 2, 700, 1, 3):
            await log.publish(count)
            await trio.sleep(1)
        log.hub.close()
    assert seen == list(range(1, 708))


async def test_a_stalled_watcher_goes_on_from_the_journal_across_the_edge_of_the_ring(
    autojump_clock: MockClock,
) -> None:
    log = Log()
    await log.publish(10)
    watch, seen = log.hub.watch(EventQuery()), list[int]()
    seen.extend(stored.id for stored in await watch.next_page())
    for _ in range(20):
        await log.publish(RING_RECORDS_MAX // 10)
    assert log.hub._ring[0].id > 11  # what it has not seen is partly gone from the ring
    await log.publish(5)
    log.hub.close()
    await ids_until_closed(watch, seen)
    assert seen == list(range(1, log.last_id + 1)) and log.last_id > RING_RECORDS_MAX


async def test_the_ring_is_bounded_in_records_and_in_bytes(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log()
    await log.publish(RING_RECORDS_MAX + 100)
    assert len(log.hub._ring) == RING_RECORDS_MAX
    monkeypatch.setattr(hub_module, "RING_BYTES_MAX", 1_000)
    await log.publish(3, size=400)
    assert [stored.id for stored in log.hub._ring] == [log.last_id - 1, log.last_id]
    await log.publish(1, size=5_000)
    assert [stored.id for stored in log.hub._ring] == [log.last_id]  # the newest is kept, whatever its size
    seen: list[int] = []
    log.hub.close()
    await ids_until_closed(log.hub.watch(EventQuery()), seen)
    assert seen == list(range(1, log.last_id + 1))


async def test_what_was_there_before_the_kernel_started_comes_first(autojump_clock: MockClock) -> None:
    log, seen = Log(already=600), list[int]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ids_until_closed, log.hub.watch(EventQuery(after=5, limit=7)), seen)
        await wait_all_tasks_blocked()
        await log.publish(3)
        await wait_all_tasks_blocked()
        log.hub.close()
    assert seen == list(range(6, 604))


async def test_a_filter_that_finds_nothing_advances_the_cursor(autojump_clock: MockClock) -> None:
    log = Log(already=1_000)
    watch, seen = log.hub.watch(EventQuery(subject="nobody")), list[int]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ids_until_closed, watch, seen)
        await wait_all_tasks_blocked()
        assert watch.cursor == 1_000
        await log.publish(2 * RING_RECORDS_MAX)
        await wait_all_tasks_blocked()
        assert watch.cursor == log.last_id
        log.hub.close()
    assert seen == []


async def test_closing_ends_a_watcher_after_the_last_record(autojump_clock: MockClock) -> None:
    log = Log(already=RING_RECORDS_MAX)
    watch, seen = log.hub.watch(EventQuery()), list[int]()
    await log.publish(3 * PAGE_RECORDS_MAX)
    log.hub.close()
    await ids_until_closed(watch, seen)
    assert seen == list(range(1, log.last_id + 1))
    assert await watch.next_page() == []
    with trio.fail_after(1):
        assert await log.hub.watch(EventQuery(after=log.last_id)).next_page() == []


async def test_a_cursor_ahead_of_the_log_waits_for_it(autojump_clock: MockClock) -> None:
    log, seen = Log(already=3), list[int]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ids_until_closed, log.hub.watch(EventQuery(after=10)), seen)
        for _ in range(12):
            await log.publish()
            await wait_all_tasks_blocked()
        log.hub.close()
    assert seen == [11, 12, 13, 14, 15]


async def test_what_is_durable_but_not_yet_told_is_seen_once(autojump_clock: MockClock) -> None:
    log = Log(already=10)
    watch, seen = log.hub.watch(EventQuery()), list[int]()
    records = await log.append(3)
    seen.extend(stored.id for stored in await watch.next_page())  # from the journal, which is ahead of the hub
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ids_until_closed, watch, seen)
        await wait_all_tasks_blocked()
        log.hub.publish(records)
        await log.publish(2)
        log.hub.close()
    assert seen == list(range(1, 16))


async def test_a_follower_gets_what_is_recorded_about_its_service_from_then_on(autojump_clock: MockClock) -> None:
    log = Log()
    await log.publish(30)
    with log.hub.follow("acme", "s3") as follow, log.hub.follow("acme", "s3") as other:
        await log.publish(60)
        wanted = [
            id_ for id_ in range(31, 91) if id_ % 3 == 2 or (id_ % 3 == 0 and id_ % 5 == 3)
        ]  # or the kernel's own
        for each in (follow, other):
            assert [(await each.next()).stored.id for _ in wanted] == wanted
            with trio.move_on_after(5) as scope:
                await each.next()
            assert scope.cancelled_caught
    assert log.hub._follows == {}


queries = st.builds(
    EventQuery,
    after=st.integers(0, 40),
    limit=st.integers(1, 9),
    tenant_id=st.sampled_from([None, "acme", "blau", "nobody"]),
    incarnation=st.sampled_from([None, None, "acme-0", "blau-1"]),
    subject=st.sampled_from([None, None, "s1", "s4"]),
    types=st.sampled_from([None, None, ("service_ready",), TYPES[:2], ()]),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 12)),
        st.tuples(st.just("append"), st.integers(1, 4)),  # durable now, told with the next publication
        st.tuples(st.just("read"), st.integers(0, 2)),
        st.tuples(st.just("reconnect"), st.integers(0, 2)),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(already=st.integers(0, 30), ring=st.integers(1, 16), asked=st.tuples(queries, queries, queries), plan=steps)
def test_no_interleaving_loses_or_repeats_a_record(
    already: int, ring: int, asked: tuple[EventQuery, ...], plan: list[tuple[str, int]]
) -> None:
    async def main() -> None:
        log = Log(already)
        watches, seen = [log.hub.watch(query) for query in asked], [list[int]() for _ in asked]
        untold: list[Record] = []

        async def read(index: int) -> bool:
            with trio.move_on_after(1):  # on the mock clock: until there is nothing to do but wait
                page = await watches[index].next_page()
                assert len(page) <= asked[index].limit
                seen[index].extend(stored.id for stored in page)
                return bool(page)
            return False

        for what, number in plan:
            if what == "append":
                untold.extend(await log.append(number))
            elif what == "publish":
                untold.extend(await log.append(number))
                log.hub.publish(untold)
                untold.clear()
            elif what == "read":
                await read(number)
            else:  # a client comes back with the last id it saw, or where it began
                last = seen[number][-1] if seen[number] else asked[number].after
                watches[number] = log.hub.watch(EventQuery(**{**_fields(asked[number]), "after": last}))
        log.hub.publish(untold)
        log.hub.close()
        for index, query in enumerate(asked):
            while await read(index):
                pass
            assert seen[index] == expected(query, log.last_id)

    before, hub_module.RING_RECORDS_MAX = hub_module.RING_RECORDS_MAX, ring  # type: ignore[misc]
    try:
        trio.run(main, clock=MockClock(autojump_threshold=0))
    finally:
        hub_module.RING_RECORDS_MAX = before  # type: ignore[misc]


def _fields(query: EventQuery) -> dict[str, Any]:
    return {name: getattr(query, name) for name in EventQuery.__slots__ if not name.startswith("__")}


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), ring=st.integers(1, 64))
def test_readers_that_reconnect_at_random_see_each_record_exactly_once(seed: int, ring: int) -> None:
    """As over SSE: a connection dies anywhere, also between a page and its delivery; the last id delivered counts."""

    async def main() -> None:
        luck, log = random.Random(seed), Log(already=20)
        delivered: list[list[int]] = [[] for _ in range(4)]

        async def reader(seen: list[int], luck: random.Random) -> None:
            over = False
            while not over:
                with trio.move_on_after(luck.choice([0, 0.05, 0.4, 3])):
                    watch = log.hub.watch(EventQuery(after=seen[-1] if seen else 0, limit=luck.randint(1, 30)))
                    while page := await watch.next_page():
                        for stored in page:
                            if luck.random() < 0.3:
                                await trio.sleep(
                                    luck.choice([0, 0.01, 0.3])
                                )  # a slow client; it may be gone after that
                            seen.append(stored.id)
                    over = True
                await trio.sleep(luck.choice([0, 0.1]))

        async with trio.open_nursery() as nursery:
            for seen in delivered:
                nursery.start_soon(reader, seen, random.Random(luck.random()))
            for _ in range(60):
                await log.publish(luck.choice([1, 1, 2, 30]))
                await trio.sleep(luck.choice([0, 0.01, 0.5]))
            log.hub.close()
        assert delivered == [list(range(1, log.last_id + 1))] * 4

    before, hub_module.RING_RECORDS_MAX = hub_module.RING_RECORDS_MAX, ring  # type: ignore[misc]
    try:
        trio.run(main, clock=MockClock(autojump_threshold=0))
    finally:
        hub_module.RING_RECORDS_MAX = before  # type: ignore[misc]


async def test_a_watcher_of_a_kernel_sees_all_of_its_log_but_nothing_that_is_not_durable(
    autojump_clock: MockClock,
) -> None:
    journal, actor, seen = GatedJournal(), Actor(), list[int]()
    memory = MemoryKernel({"it": actor}, journal=journal)
    async with trio.open_nursery() as nursery, opened(memory) as kernel:
        nursery.start_soon(ids_until_closed, kernel.system.core.hub.watch(EventQuery()), seen)
        tenant = await kernel.tenant("acme")
        await wait_all_tasks_blocked()
        journal.hold()
        before = list(seen)
        nursery.start_soon(tenant.deploy, "web", actor)
        await trio.sleep(100)
        assert seen == before and await tenant.services() == [] and actor.began == []
        journal.gate.set()
        await trio.sleep(1)
        assert (await tenant.status("web"))["status"] == "ready"
    assert seen == list(range(1, len(seen) + 1)) and len(seen) >= len(before) + 4
    await check_log(memory)


async def test_what_was_pruned_is_told_once_and_passed_over(autojump_clock: MockClock) -> None:
    log = Log(already=500)
    log.journal.oldest_id = 201
    watch, seen = log.hub.watch(EventQuery(after=3, tenant_id="acme")), list[int]()
    with pytest.raises(Compacted) as told:
        await watch.next_page()
    assert told.value.oldest_id == 201 and watch.cursor == 200
    log.journal.oldest_id = 400  # while it is watched, faster than it is read
    with pytest.raises(Compacted) as told:
        await watch.next_page()
    assert told.value.oldest_id == 400
    log.hub.close()
    await ids_until_closed(watch, seen)
    assert seen == expected(EventQuery(after=399, tenant_id="acme"), 500)
    whole = log.hub.watch(EventQuery(after=399))
    assert (await whole.next_page())[0].id == 400, "what comes next is there: nothing is missing"


@pytest.mark.parametrize("from_ring", [True, False])
async def test_a_page_has_at_least_one_record_and_else_few_bytes(autojump_clock: MockClock, from_ring: bool) -> None:
    log = Log()
    await log.publish(100, size=400)
    if not from_ring:
        log.hub._ring.clear()
    log.hub.close()
    watch, seen = log.hub.watch(EventQuery(limit=32), bytes_max=1_000), list[int]()
    while page := await watch.next_page():
        assert len(page) <= 3 and watch.cursor == page[-1].id
        seen.extend(stored.id for stored in page)
    assert seen == list(range(1, 101))
    watch = log.hub.watch(EventQuery(), bytes_max=1)
    assert [stored.id for stored in await watch.next_page()] == [1]
