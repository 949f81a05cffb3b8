"""What a stream writes, and what one that is not read holds."""

from __future__ import annotations

import gc
import itertools
import json
import weakref
from contextlib import aclosing
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from solo_trio.gateways.http import encoded
from solo_trio.gateways.http.encoded import Encodings, text_frame
from solo_trio.gateways.http.limits import StreamLimits
from solo_trio.gateways.http.sockets import WatchFrames
from solo_trio.gateways.http.sse import EventFrames
from solo_trio.gateways.http.streams import TURN_S_MAX, TURNS_MEASURED, OpenStreams, Telling
from solo_trio.journal.memory import MemoryJournal
from solo_trio.kernel.hub import Compacted, Hub
from solo_trio.model.event import Record
from solo_trio.model.record import EventQuery, StoredEvent

LIMITS = StreamLimits(slow_s=2.0, keep_alive_s=15.0, bookmark_s=5.0)


def stored(id_: int, size: int = 10) -> StoredEvent:
    return StoredEvent(
        id=id_,
        at_us=id_,
        kernel_time=float(id_),
        tenant_id="t1",
        incarnation="t1-1",
        subject="s",
        type="service_ready",
        schema=1,
        payload=b'{"a": "' + b"x" * size + b'"}',
    )


class Pages:
    """Given pages (an exception is raised), then quiet until told to end."""

    def __init__(self, *pages: Any) -> None:
        self.pages = list(pages)
        self.cursor = 0
        self.ends = trio.Event()
        self.over = False

    @property
    def closing(self) -> bool:
        return self.ends.is_set()

    async def wait(self) -> None:
        if not self.pages:
            await self.ends.wait()

    async def take(self) -> list[StoredEvent]:
        page = self.pages.pop(0) if self.pages else []
        if isinstance(page, Exception):
            raise page
        if page:
            self.cursor = page[-1].id
        self.over = not page
        return page  # type: ignore[no-any-return]


def encodings() -> Encodings:
    return Encodings(Hub(MemoryJournal(), 0))


def telling(source: Any, dialect: type = EventFrames, limits: StreamLimits = LIMITS) -> Telling:
    quiet_s = limits.keep_alive_s if dialect is EventFrames else limits.bookmark_s
    return Telling(source, dialect(encodings(), quiet_s), OpenStreams(limits))


def texts(data: bytes) -> list[Any]:
    """The JSON of whole text frames from a server."""
    found = []
    while data:
        assert data[0] == 0x81 and not data[1] & 0x80, "final, text, not masked"
        head, size = 2, data[1]
        if size > 125:
            width = {126: 2, 127: 8}[size]
            head, size = 2 + width, int.from_bytes(data[2 : 2 + width], "big")
        found.append(json.loads(data[head : head + size]))
        data = data[head + size :]
    return found


async def test_a_page_is_one_write_and_what_was_written_is_let_go(autojump_clock: MockClock) -> None:
    alive: list[weakref.ref[Any]] = []

    def page(first: int) -> list[StoredEvent]:
        events = [stored(id_, 1_000) for id_ in range(first, first + 10)]
        alive.extend(weakref.ref(event) for event in events)
        return events

    source = Pages(page(1), page(11), [])
    async with aclosing(telling(source).writes()) as writes:
        assert await anext(writes) == b": solo\n\n"
        seen = []
        for left in (10, 0):
            data = await anext(writes)
            seen += [int(line[4:]) for line in data.split(b"\n") if line.startswith(b"id: ")]
            gc.collect()
            assert sum(ref() is not None for ref in alive) == left, "a client that does not read holds bytes only"
        assert seen == list(range(1, 21))
        source.ends.set()
        assert await anext(writes) == b'event: end\ndata: {"reason": "shutdown"}\n\n'
        with pytest.raises(StopAsyncIteration):
            await anext(writes)


async def test_frames_of_every_size(autojump_clock: MockClock) -> None:
    events = [stored(number, size) for number, size in enumerate((0, 10, 60, 300, 65_000, 66_000, 200_000), start=1)]
    data = WatchFrames(encodings(), 1.0).items(events)
    assert [text["event"]["id"] for text in texts(data)] == [1, 2, 3, 4, 5, 6, 7]
    for size in (0, 125, 126, 65_535, 65_536):
        assert texts(text_frame(json.dumps("x" * max(0, size - 2)).encode()))


async def test_signs_of_life(autojump_clock: MockClock) -> None:
    source = Pages([stored(7)])
    async with aclosing(telling(source, WatchFrames).writes()) as writes:
        assert texts(await anext(writes))[0]["event"]["id"] == 7
        began = trio.current_time()
        for number in (1, 2, 3):
            assert texts(await anext(writes)) == [{"bookmark": 7}]
            assert trio.current_time() - began == pytest.approx(5.0 * number, abs=0.1)
        source.ends.set()
        assert texts(await anext(writes)) == [{"end": {"reason": "shutdown"}}]
    async with aclosing(telling(Pages()).writes()) as writes:
        assert await anext(writes) == b": solo\n\n"
        began = trio.current_time()
        assert await anext(writes) == b": keep-alive\n\n"
        assert trio.current_time() - began == pytest.approx(15.0, abs=0.1)


async def test_a_busy_socket_gets_bookmarks_too(autojump_clock: MockClock) -> None:
    source = Pages(*([stored(id_)] for id_ in range(1, 101)))
    kinds = []
    async with aclosing(telling(source, WatchFrames).writes()) as writes:
        while source.pages:
            data = await anext(writes)
            kinds += [(next(iter(text)), trio.current_time()) for text in texts(data)]
            await trio.sleep(0.3)
    marks = [at for kind, at in kinds if kind == "bookmark"]
    assert len(marks) >= 5 and all(4.9 < later - sooner < 5.5 for sooner, later in itertools.pairwise(marks))


@pytest.mark.parametrize("dialect", [EventFrames, WatchFrames])
async def test_a_gap_is_told(autojump_clock: MockClock, dialect: type) -> None:
    async with aclosing(telling(Pages(Compacted(41), [stored(41)]), dialect).writes()) as writes:
        data = await anext(writes) if dialect is WatchFrames else [await anext(writes), await anext(writes)][1]
        if dialect is WatchFrames:
            assert texts(data) == [{"compacted": {"oldest_id": 41}}]
        else:
            assert data == b'event: compacted\ndata: {"oldest_id": 41}\n\n'
        assert b'"id":41' in await anext(writes)


@pytest.mark.parametrize("dialect", [EventFrames, WatchFrames])
async def test_who_reads_too_slowly_is_told_where_to_resume(autojump_clock: MockClock, dialect: type) -> None:
    source = Pages([stored(3)], [stored(4)], [stored(5)])
    told = telling(source, dialect)
    async with aclosing(told.writes()) as writes:
        if dialect is EventFrames:
            await anext(writes)
        await anext(writes)
        await trio.sleep(1.9)
        await anext(writes)
        await trio.sleep(2.1)  # the write of 4 took so long; 5 was not taken
        last = await anext(writes)
        assert told.reason == "too_slow"
        if dialect is WatchFrames:
            assert texts(last) == [{"end": {"reason": "too_slow", "resume": 4}}]
        else:
            assert last == b'event: end\ndata: {"reason": "too_slow", "resume": 4}\n\n'
        with pytest.raises(StopAsyncIteration):
            await anext(writes)
    assert len(source.pages) == 1


async def test_what_comes_within_the_pace_is_told_together(autojump_clock: MockClock) -> None:
    """One write a second; the first thing after a quiet time is told at once."""
    journal = MemoryJournal()
    hub, streams = Hub(journal, 0), OpenStreams(StreamLimits(pace_s=1.0))
    source = hub.watch(EventQuery())
    writes_at: list[float] = []
    seen: list[int] = []

    async def publish() -> None:
        for id_ in range(1, 101):
            await journal.append([stored(id_)])
            hub.publish([Record(stored(id_))])
            await trio.sleep(0.1)
        hub.close()

    async with (
        trio.open_nursery() as nursery,
        aclosing(Telling(source, EventFrames(Encodings(hub), 15.0), streams).writes()) as writes,
    ):
        await trio.sleep(10)
        nursery.start_soon(publish)
        async for data in writes:
            writes_at.append(trio.current_time())
            seen += [int(line[4:]) for line in data.split(b"\n") if line.startswith(b"id: ")]
    assert seen == list(range(1, 101))
    assert 10 <= len(writes_at) <= 14
    assert writes_at[1] < 11.1


async def test_streams_take_turns_as_far_apart_as_their_share_allows(autojump_clock: MockClock) -> None:
    """A turn that takes 0.2 ms, and half of the processor: two hundred and fifty streams have ten turns a second."""
    used = itertools.count()
    streams = OpenStreams(StreamLimits(share=0.5), lambda: next(used) * 0.0002 * TURNS_MEASURED)
    told: list[list[float]] = [[] for _ in range(250)]

    async def follow(mine: list[float]) -> None:
        while True:
            await trio.sleep_until(streams.turn_at())
            mine.append(trio.current_time())

    began = trio.current_time()
    with trio.move_on_after(3):
        async with trio.open_nursery() as nursery:
            for mine in told:
                nursery.start_soon(follow, mine)
    late = [[at for at in mine if at > began + 1] for mine in told]
    assert {len(mine) for mine in late} <= {19, 20, 21}
    turns = sorted(at for mine in late for at in mine)
    assert all(later - sooner == pytest.approx(0.0004, rel=0.1) for sooner, later in itertools.pairwise(turns))
    busy = OpenStreams(StreamLimits(), lambda: next(used) * 1e6)
    for _ in range(TURNS_MEASURED):
        await trio.sleep_until(busy.turn_at())
    assert busy.turn_s == TURN_S_MAX, "however busy the kernel is, streams go on"


async def test_a_record_is_encoded_once_for_all(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(MemoryJournal(), 0)
    hub.last_id = 2_000
    shared = Encodings(hub)
    dialects = [EventFrames(shared, 1.0), WatchFrames(shared, 1.0)]
    for id_ in range(1_900, 2_001):
        for dialect in dialects * 5:
            assert b'"id":%d' % id_ in dialect.items([stored(id_)])
    assert shared.made == 101
    for _ in range(3):
        dialects[0].items([stored(5)])
    assert shared.made == 104, "old ones are not kept: nobody else is there"
    monkeypatch.setattr(encoded, "KEPT_BYTES_MAX", 10_000)
    for id_ in range(1_000, 1_101):
        dialects[0].items([stored(id_, 1_000)])
    assert shared._kept_bytes <= 10_000
    hub.last_id = 10_000
    monkeypatch.setattr(encoded, "KEPT_RECORDS_MAX", 10)
    for id_ in range(9_000, 10_001):
        dialects[0].items([stored(id_)])
    assert len(shared._kept) <= 10


@pytest.mark.parametrize("when", ["before", "in its turn", "in its pace"])
async def test_who_ends_waits_neither_for_pace_nor_for_a_turn(autojump_clock: MockClock, when: str) -> None:
    limits = StreamLimits(pace_s=100.0 if when == "in its pace" else 0.01, share=1.0 if when == "in its pace" else 1e-6)
    source = Pages([stored(1)])
    streams = OpenStreams(limits)
    streams.turn_at()  # somebody else's: the next one is far away
    written: list[bytes] = []

    async def tell() -> None:
        async for data in Telling(source, EventFrames(encodings(), 1_000.0), streams).writes():
            written.append(data)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            if when == "before":
                source.ends.set()
            nursery.start_soon(tell)
            await trio.sleep(1)
            assert when == "before" or len(written) == 1
            source.ends.set()
    assert [data[:4] for data in written] == [b": so", b"id: ", b"even"]
