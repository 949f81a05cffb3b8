"""What every journal does: one suite for all implementations. The fixture `journal` gives an empty one."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio
import trio.testing
from journal_samples import (
    Closable,
    artifact,
    checkpoint,
    event,
    events,
    idempotency_row,
    key_row,
    replayed,
    secret_row,
)

from solo_trio.errors import Faulted, KernelBug
from solo_trio.journal.checkpoints import CHECKPOINTS_KEPT
from solo_trio.journal.reads import SCAN_BYTES_MAX, SCAN_ROWS_MAX
from solo_trio.model.record import (
    Artifact,
    DropArtifact,
    DropIdempotency,
    DropKey,
    DropKeys,
    DropSecrets,
    EventQuery,
    StoredEvent,
)

ODD = [
    StoredEvent(1, 0, 0.0, None, None, None, "x", 1, b""),
    StoredEvent(2, -5, 1e300, "", "", "", "", 0, b"\x00\xff", 0, ""),
    StoredEvent(3, 2**63 - 1, 0.1, "ä\0ö", "\U0001f600", "s", "t", 2**31, b"{}", 2**62, "c"),
    StoredEvent(4, 7, 7.0, "t", "i", "s", "t", 1, None, None, None),
]
"""Ends of ranges, empty next to absent, text with a zero in it, a payload that was never there."""


class JournalContract:
    async def test_is_empty_at_first(self, journal: Closable) -> None:
        assert await replayed(journal) == []
        assert await journal.read(EventQuery()) == []
        assert await journal.keys() == []
        assert await journal.idempotency(0) == []

    async def test_gives_back_what_was_appended(self, journal: Closable) -> None:
        await journal.append(events(1, 3))
        await journal.append(events(4, 4), reserved=True)
        assert await replayed(journal) == events(1, 4)
        assert await replayed(journal, after=2) == events(3, 4)
        assert await replayed(journal, after=4) == []

    async def test_keeps_every_value_as_it_was(self, journal: Closable) -> None:
        await journal.append(ODD)
        assert await replayed(journal) == ODD
        assert await journal.read(EventQuery()) == ODD

    async def test_replays_in_pages_that_follow_each_other(self, journal: Closable) -> None:
        count = 4_500
        await journal.append(events(1, count))
        pages = [page async for page in journal.replay()]
        assert len(pages) > 1
        assert [item.id for page in pages for item in page] == list(range(1, count + 1))

    async def test_replay_may_be_left_half_way(self, journal: Closable) -> None:
        await journal.append(events(1, 4_500))
        async for page in journal.replay():
            assert page[0].id == 1
            break
        await journal.append([event(4_501)])

    @pytest.mark.parametrize("ids", [[1], [4], [3, 5], [3, 3], [4, 3], [0], [-1]])
    async def test_a_gap_is_a_bug_and_nothing_is_written(self, journal: Closable, ids: list[int]) -> None:
        await journal.append(events(1, 2))
        with pytest.raises(KernelBug):
            await journal.append([event(id_) for id_ in ids], [key_row("k"), artifact(b"source")])
        assert await replayed(journal) == events(1, 2)
        assert await journal.keys() == []
        with pytest.raises(Faulted):
            await journal.artifact(artifact(b"source").digest)
        await journal.append([event(3)])

    async def test_replay_beyond_the_head_is_damage(self, journal: Closable) -> None:
        await journal.append(events(1, 2))
        with pytest.raises(Faulted, match="event 3 is missing") as caught:
            await replayed(journal, after=3)
        assert caught.value.code == "data_damaged"

    async def test_a_cancelled_caller_still_writes_and_hears_of_it(self, journal: Closable) -> None:
        returned = False
        with trio.CancelScope() as scope:
            scope.cancel()
            await journal.append(events(1, 2))
            returned = True
            await trio.lowlevel.checkpoint()
        assert returned and scope.cancelled_caught
        await journal.append([event(3)])
        assert await replayed(journal) == events(1, 3)

    async def test_appends_at_once_are_taken_in_order_of_calling(self, journal: Closable) -> None:
        async with trio.open_nursery() as nursery:
            for id_ in range(1, 41):
                nursery.start_soon(journal.append, [event(id_)])
                # Tasks of one scheduling step run in no order: let each hand its work over before the next.
                await trio.testing.wait_all_tasks_blocked()
        assert await replayed(journal) == events(1, 40)

    async def test_attachments_are_written_with_their_events(self, journal: Closable) -> None:
        source = artifact(b"async def main(): ...")
        await journal.append([event(1)], [source, key_row("b"), key_row("a"), idempotency_row("one", 50)])
        assert await journal.artifact(source.digest) == source
        assert await journal.keys() == [key_row("a"), key_row("b")]
        assert await journal.idempotency(0) == [idempotency_row("one", 50)]

    async def test_attachments_need_no_events(self, journal: Closable) -> None:
        await journal.append([], [key_row("a")])
        await journal.append([])
        assert await journal.keys() == [key_row("a")]
        assert await replayed(journal) == []

    async def test_an_artifact_twice_is_one_and_keys_are_replaced(self, journal: Closable) -> None:
        source = artifact(b"x = 1")
        await journal.append([event(1)], [source, source, key_row("a", b"old"), idempotency_row("k", 5, "aa")])
        await journal.append([event(2)], [source, key_row("a", b"new"), idempotency_row("k", 9, "bb")])
        assert await journal.artifact(source.digest) == source
        assert await journal.keys() == [key_row("a", b"new")]
        assert await journal.idempotency(0) == [idempotency_row("k", 9, "bb")]

    async def test_a_dropped_key_is_gone(self, journal: Closable) -> None:
        await journal.append([event(1)], [key_row("a"), key_row("b")])
        await journal.append([event(2)], [DropKey("a"), DropKey("never there"), key_row("c"), DropKey("c")])
        assert await journal.keys() == [key_row("b")]

    async def test_a_dropped_artifact_is_gone(self, journal: Closable) -> None:
        one, two = artifact(b"one"), artifact(b"two")
        await journal.append([event(1)], [one, two])
        await journal.append([event(2)], [DropArtifact(one.digest), DropArtifact(artifact(b"never there").digest)])
        with pytest.raises(Faulted, match="is missing"):
            await journal.artifact(one.digest)
        assert await journal.artifact(two.digest) == two
        await journal.append([], [one])
        assert await journal.artifact(one.digest) == one

    @pytest.mark.parametrize("there", [False, True])
    async def test_artifacts_are_dropped_and_written_in_the_order_given(self, journal: Closable, there: bool) -> None:
        source, key, row = artifact(b"source"), key_row("a"), idempotency_row("k", 5)
        drop = DropArtifact(source.digest)
        first = [source] if there else []
        await journal.append([event(1)], [*first, drop, key, source, row])
        assert await journal.artifact(source.digest) == source
        await journal.append([event(2)], [source, key_row("b"), drop])
        with pytest.raises(Faulted, match="is missing"):
            await journal.artifact(source.digest)
        await journal.append([event(3)], [drop, source, drop, source])
        assert await journal.artifact(source.digest) == source
        assert await journal.keys() == [key, key_row("b")]
        assert await journal.idempotency(0) == [row]

    async def test_nothing_is_dropped_by_an_append_that_is_refused(self, journal: Closable) -> None:
        source = artifact(b"source")
        await journal.append([event(1)], [source])
        with pytest.raises(KernelBug):
            await journal.append([event(7)], [DropArtifact(source.digest)])
        assert await journal.artifact(source.digest) == source

    async def test_an_artifact_under_a_false_digest_is_a_bug(self, journal: Closable) -> None:
        false = Artifact(artifact(b"one").digest, b"two")
        with pytest.raises(KernelBug):
            await journal.append([event(1)], [false])
        assert await replayed(journal) == []

    async def test_a_missing_artifact_is_damage(self, journal: Closable) -> None:
        with pytest.raises(Faulted) as caught:
            await journal.artifact("0" * 64)
        assert caught.value.code == "data_damaged"

    async def test_gives_back_sealed_secrets_until_they_are_dropped(self, journal: Closable) -> None:
        rows = [
            secret_row("a", 1),
            secret_row("a", 2, sealed=b""),
            secret_row("A", 1),
            secret_row("b", 1),
            secret_row("a", 1, "blau-1", b"x" * 70_000),
        ]
        await journal.append([event(1)], rows)

        async def left() -> list[int]:
            found = []
            for number, row in enumerate(rows):
                try:
                    assert await journal.secret(row.incarnation, row.name, row.version) == row
                except Faulted as error:
                    assert error.code == "data_damaged"
                else:
                    found.append(number)
            return found

        assert await left() == [0, 1, 2, 3, 4]
        await journal.append([event(2)], [DropSecrets("acme-1", "a", 1), DropSecrets("acme-1", "nobody")])
        assert await left() == [1, 2, 3, 4]
        await journal.append([event(3)], [DropSecrets("acme-1", "a"), secret_row("a", 1)])
        assert await left() == [0, 2, 3, 4]
        await journal.append([], [DropSecrets("acme-1")])
        assert await left() == [4]
        await journal.append([event(4)], [DropSecrets("blau-1"), DropSecrets("blau-1")])
        assert await left() == []

    async def test_drops_the_keys_and_requests_of_one_incarnation(self, journal: Closable) -> None:
        mine = [attrs.evolve(key_row(name), incarnation="gone-1") for name in ("k1", "k2")]
        asked = [attrs.evolve(idempotency_row(name, 5), scope="gone-1") for name in ("a", "b")]
        others = key_row("k3"), idempotency_row("a", 5)
        await journal.append([event(1)], [*mine, *asked, *others])
        await journal.append([event(2)], [DropKeys("gone-1"), DropIdempotency("gone-1"), DropKeys("nobody")])
        assert await journal.keys() == [others[0]]
        assert await journal.idempotency(0) == [others[1]]
        await journal.append([], [*mine, asked[0]])
        assert (len(await journal.keys()), len(await journal.idempotency(0))) == (3, 2)

    async def test_old_idempotency_rows_are_forgotten(self, journal: Closable) -> None:
        rows = [idempotency_row("a", 30), idempotency_row("b", 10), idempotency_row("c", 20)]
        await journal.append([event(1)], rows)
        assert [row.at_us for row in await journal.idempotency(0)] == [10, 20, 30]
        assert [row.at_us for row in await journal.idempotency(20)] == [20, 30]
        assert [row.at_us for row in await journal.idempotency(0)] == [20, 30]

    @pytest.mark.parametrize(
        "query",
        [
            EventQuery(),
            EventQuery(limit=0),
            EventQuery(limit=7),
            EventQuery(after=55, limit=1_000),
            EventQuery(after=60),
            EventQuery(after=1_000),
            EventQuery(newest=True, limit=3),
            EventQuery(newest=True, limit=0),
            EventQuery(tenant_id="acme"),
            EventQuery(tenant_id="acme", newest=True, limit=4),
            EventQuery(tenant_id="nobody"),
            EventQuery(incarnation="blau-1"),
            EventQuery(tenant_id="acme", incarnation="blau-1"),
            EventQuery(subject="svc-2", limit=5, after=9),
            EventQuery(tenant_id="crux", subject="svc-0"),
            EventQuery(types=("service_ready",)),
            EventQuery(types=("service_ready", "service_crashed"), tenant_id="acme", newest=True, limit=2),
            EventQuery(types=()),
            EventQuery(types=("'; DROP TABLE events; --",)),
        ],
    )
    async def test_reads_what_the_query_says(self, journal: Closable, query: EventQuery) -> None:
        await journal.append(events(1, 60))
        expected = [
            item
            for item in events(1, 60)
            if item.id > query.after
            and query.tenant_id in (None, item.tenant_id)
            and query.incarnation in (None, item.incarnation)
            and query.subject in (None, item.subject)
            and (query.types is None or item.type in query.types)
        ]
        cut = expected[max(0, len(expected) - query.limit) :] if query.newest else expected[: query.limit]
        assert await journal.read(query) == cut

    @pytest.mark.parametrize("limit", [1, 7, 100])
    async def test_a_scan_says_how_far_it_looked(self, journal: Closable, limit: int) -> None:
        await journal.append(events(1, 60))
        query = EventQuery(tenant_id="acme", types=("service_ready",), limit=limit)
        found: list[StoredEvent] = []
        while True:
            scan = await journal.scan(query)
            assert len(scan.events) <= limit
            assert all(query.after < item.id <= scan.looked_at for item in scan.events)
            found += scan.events
            if scan.complete:
                break
            assert scan.looked_at > query.after
            query = attrs.evolve(query, after=scan.looked_at)
        assert scan.looked_at == 60
        assert found == await journal.read(attrs.evolve(query, after=0, limit=100)) != []

    async def test_a_scan_looks_at_a_bounded_number_of_rows(self, journal: Closable) -> None:
        last = SCAN_ROWS_MAX + 30
        await journal.append(events(1, last))
        rare = EventQuery(incarnation="nobody")
        scan = await journal.scan(rare)
        assert (scan.events, scan.looked_at, scan.complete) == ([], SCAN_ROWS_MAX, False)
        scan = await journal.scan(attrs.evolve(rare, after=scan.looked_at))
        assert (scan.events, scan.looked_at, scan.complete) == ([], last, True)
        # A read looks at everything all the same, from either end.
        for newest in (False, True):
            assert await journal.read(attrs.evolve(rare, newest=newest)) == []
            whole = EventQuery(limit=last, newest=newest)
            assert await journal.read(whole) == events(1, last)
            assert await journal.read(attrs.evolve(whole, limit=last - 3)) == (
                events(4, last) if newest else events(1, last - 3)
            )
            assert await journal.read(attrs.evolve(whole, after=last - 2)) == events(last - 1, last)

    async def test_a_scan_finds_a_bounded_number_of_bytes(self, journal: Closable) -> None:
        large = [attrs.evolve(item, payload=b'"' + b"x" * (SCAN_BYTES_MAX // 3) + b'"') for item in events(1, 10)]
        await journal.append(large)
        query, found = EventQuery(limit=100), list[StoredEvent]()
        for _ in range(4):
            scan = await journal.scan(query)
            assert 1 <= len(scan.events) <= 3
            found += scan.events
            query = attrs.evolve(query, after=scan.looked_at)
        assert scan.complete and found == large
        assert await journal.read(EventQuery(limit=7, newest=True)) == large[3:]

    async def test_a_scan_of_nothing_is_complete(self, journal: Closable) -> None:
        for after in (0, 7):
            scan = await journal.scan(EventQuery(after=after))
            assert (scan.events, scan.looked_at, scan.complete) == ([], after, True)
        with pytest.raises(KernelBug):
            await journal.scan(EventQuery(newest=True))

    async def test_gives_back_the_newest_checkpoints(self, journal: Closable) -> None:
        assert await journal.checkpoint_ids() == []
        await journal.append(events(1, 30))
        bodies = {0: b"", 7: b"\0" * 100_000, 12: b"x", 30: "ä".encode()}
        for event_id, body in bodies.items():
            await journal.write_checkpoint(checkpoint(event_id, body))
        kept = sorted(bodies, reverse=True)[:CHECKPOINTS_KEPT]
        assert await journal.checkpoint_ids() == kept
        for event_id in kept:
            assert await journal.checkpoint(event_id) == checkpoint(event_id, bodies[event_id])
        assert await replayed(journal) == events(1, 30)
        await journal.append([event(31)])
        assert await journal.checkpoint(30) == checkpoint(30, bodies[30])
        assert await replayed(journal, after=30) == [event(31)]

    async def test_a_checkpoint_after_the_same_event_replaces_the_one_before(self, journal: Closable) -> None:
        await journal.append(events(1, 3))
        await journal.write_checkpoint(checkpoint(3, b"old", "old"))
        await journal.write_checkpoint(checkpoint(3, b"new", "new"))
        assert await journal.checkpoint_ids() == [3]
        assert await journal.checkpoint(3) == checkpoint(3, b"new", "new")

    async def test_a_checkpoint_before_anything_happened(self, journal: Closable) -> None:
        await journal.write_checkpoint(checkpoint(0))
        assert await journal.checkpoint(0) == checkpoint(0)

    async def test_a_checkpoint_of_what_is_not_recorded_is_a_bug(self, journal: Closable) -> None:
        await journal.append(events(1, 3))
        with pytest.raises(KernelBug):
            await journal.write_checkpoint(checkpoint(4))
        assert await journal.checkpoint_ids() == []
        await journal.append([event(4)])

    async def test_a_checkpoint_that_is_not_there_cannot_be_used(self, journal: Closable) -> None:
        await journal.append(events(1, 3))
        with pytest.raises(Faulted, match="is missing") as caught:
            await journal.checkpoint(2)
        assert caught.value.code == "data_damaged"

    async def test_a_cancelled_caller_still_writes_its_checkpoint(self, journal: Closable) -> None:
        await journal.append(events(1, 3))
        with trio.CancelScope() as scope:
            scope.cancel()
            await journal.write_checkpoint(checkpoint(3))
            await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        assert await journal.checkpoint_ids() == [3]

    @pytest.mark.parametrize("field", [{"at_us": "now"}, {"kernel_time": float("nan")}, {"at_us": 2**63}])
    async def test_a_record_of_a_wrong_type_never_comes_back_changed(
        self, journal: Closable, field: dict[str, Any]
    ) -> None:
        wrong = attrs.evolve(event(1), **field)
        try:
            await journal.append([wrong])
        except KernelBug:
            assert await replayed(journal) == []
            await journal.append([event(1)])
        else:
            assert await replayed(journal) == [wrong]
