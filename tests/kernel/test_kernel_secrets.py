"""Secrets in a kernel: that a value is handed out is durable first, grants count at the moment, refusals are not waited for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from attrs import define

from solo_trio import service
from solo_trio.embedding import Kernel, Tenant
from solo_trio.errors import Rejected, SoloError, StorageFull
from solo_trio.journal.memory import MemoryJournal
from solo_trio.kernel.derivations import DERIVATIONS_MAX, DERIVATIONS_TENANT_MAX
from solo_trio.kernel.secret_refusals import (
    EVENTS_BURST,
    EVENTS_PER_MINUTE_MAX,
    TENANT_ASKERS_MAX,
    TENANT_EVENTS_BURST,
    TENANT_EVENTS_PER_MINUTE_MAX,
)
from solo_trio.model.record import Attachment, SecretRow, StoredEvent
from solo_trio.service import CallError
from solo_trio.testing import MemoryKernel

RAW = "0f" * 32


@define
class Holder:
    """A service that asks for what it is told to."""

    ctx: service.Context | None = None

    async def main(self, ctx: service.Context) -> None:
        self.ctx = ctx
        await trio.sleep_forever()

    async def has(self, name: str) -> str | bytes:
        assert self.ctx is not None
        return await self.ctx.secret(name)


class Watched(MemoryJournal):
    """A journal that can be full, or slow, and that says what was appended."""

    def __init__(self) -> None:
        super().__init__()
        self.full = False
        self.open = trio.Event()
        self.open.set()
        self.appended: list[str] = []
        self.lost_keys = 0

    async def append(
        self, events: Sequence[StoredEvent], attachments: Sequence[Attachment] = (), *, reserved: bool = False
    ) -> None:
        if self.full and not reserved:
            raise StorageFull
        with trio.CancelScope(shield=True):
            await self.open.wait()
        await super().append(events, attachments, reserved=reserved)
        self.appended += [each.type for each in events]

    def swap(self, one: tuple[str, str, int], other: tuple[str, str, int]) -> None:
        """What somebody who can write to the file could do."""
        rows = self._secrets
        a, b = rows[one], rows[other]
        rows[one] = SecretRow(*one, b.version_id, b.key_id, b.sealed)
        rows[other] = SecretRow(*other, a.version_id, a.key_id, a.sealed)

    def swap_sealed(self, one: tuple[str, str, int], other: tuple[str, str, int]) -> None:
        rows = self._secrets
        a, b = rows[one], rows[other]
        rows[one] = SecretRow(*one, a.version_id, a.key_id, b.sealed)
        rows[other] = SecretRow(*other, b.version_id, b.key_id, a.sealed)


@define
class World:
    kernel: Kernel
    tenant: Tenant
    holder: Holder
    journal: Watched
    main: Any

    async def deployed(self, *secrets: str) -> Holder:
        await self.tenant.deploy("holder", self.main, secrets=secrets, replace=True)
        return self.holder

    async def told(self) -> list[dict[str, Any]]:
        return [each for each in await self.tenant.events(limit=1000) if each["type"].startswith("secret_")]


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    holder = Holder()
    journal = Watched()
    main = holder.main  # the same object each time it is named
    async with MemoryKernel({"holder": main}, journal=journal).open() as kernel:
        yield World(kernel, await kernel.tenant("acme"), holder, journal, main)


async def denied(holder: Holder, name: str, code: str) -> None:
    with pytest.raises(CallError) as caught:
        await holder.has(name)
    assert caught.value.code == code


async def test_nothing_is_handed_out_before_that_is_durable(autojump_clock: trio.testing.MockClock) -> None:
    async with world() as found:
        await found.tenant.set_secret("api", "hush")
        holder = await found.deployed("api")
        had: list[Any] = []

        async def by_service() -> None:
            had.append(await holder.has("api"))

        async def by_agent() -> None:
            had.append(await found.tenant.reveal_secret("api"))

        found.journal.open = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(by_service)
            nursery.start_soon(by_agent)
            await trio.sleep(3_600)
            assert had == [] and "secret_accessed" not in found.journal.appended
            found.journal.open.set()
        assert had == ["hush", "hush"]
        assert found.journal.appended.count("secret_accessed") == 2


async def test_what_cannot_be_recorded_is_not_handed_out(autojump_clock: trio.testing.MockClock) -> None:
    async with world() as found:
        await found.tenant.set_secret("api", "hush")
        holder = await found.deployed("api")
        found.journal.full = True
        await denied(holder, "api", "storage_full")
        with pytest.raises(StorageFull):
            await found.tenant.reveal_secret("api")
        await found.tenant.delete_secret("api")  # which frees space
        found.journal.full = False
        await denied(holder, "api", "secret_not_found")


async def test_one_record_for_each_generation_and_version(autojump_clock: trio.testing.MockClock) -> None:
    async with world() as found:
        await found.tenant.set_secret("api", "one")
        holder = await found.deployed("api")
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(holder.has, "api")
        await found.tenant.set_secret("api", "two")
        assert await holder.has("api") == "two"
        await found.tenant.restart("holder")
        assert await holder.has("api") == "two"
        told = [each["payload"] for each in await found.told() if each["type"] == "secret_accessed"]
        assert [(each["version"], each["generation"]) for each in told] == [(1, 1), (2, 1), (2, 2)]


async def test_grants_count_at_the_moment(autojump_clock: trio.testing.MockClock) -> None:
    async with world() as found:
        await found.tenant.set_secret("api", "hush")
        holder = await found.deployed()
        await denied(holder, "api", "secret_access_denied")
        await found.tenant.update("holder", secrets=["api"])
        assert await holder.has("api") == "hush"
        await found.tenant.update("holder", secrets=[])
        await denied(holder, "api", "secret_access_denied")
        old = holder.ctx
        await found.deployed("api")
        assert old is not None and old is not holder.ctx
        with pytest.raises(CallError) as caught:
            await old.secret("api")  # of a deployment that is no more
        assert caught.value.code == "secret_access_denied"


async def test_refusals_are_told_together_and_never_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    async with world() as found:
        await found.tenant.set_secret("mine", "hush", key=RAW)
        holder = await found.deployed("mine")
        found.journal.open = trio.Event()
        for _ in range(100):
            await denied(holder, "mine", "secret_access_denied")
            await denied(holder, "other", "secret_access_denied")
        found.journal.open.set()
        await trio.sleep(5)
        told = [each for each in await found.told() if each["type"] == "secret_access_denied"]
        assert [each["payload"] for each in told] == [{"name": "mine", "by": "service:holder", "count": 200}]
        assert found.kernel.system.core.secrets.denials == 200


async def test_the_names_that_are_asked_for_do_not_decide_how_much_is_told(
    autojump_clock: trio.testing.MockClock,
) -> None:
    minutes = 3
    async with world() as found:
        holder = await found.deployed()
        quiet = await found.kernel.tenant("blau")
        state = found.kernel.system.core.loop.state.tenants["blau"]
        for number in range(minutes * 60):
            for more in range(10):
                await denied(holder, f"n{number}-{more}", "secret_access_denied")
            if number == 100:
                found.kernel.system.core.secrets.refused(state, "api", "capability:cap")
            await trio.sleep(1)
        await trio.sleep(30)
        counts = [each["payload"]["count"] for each in await found.told() if each["type"] == "secret_access_denied"]
        assert sum(counts) == minutes * 600, "none is lost"
        bound = TENANT_EVENTS_BURST + TENANT_EVENTS_PER_MINUTE_MAX * (minutes + 1)
        assert bound // 2 <= len(counts) <= bound
        other = [each for each in await quiet.events(limit=1000) if each["type"] == "secret_access_denied"]
        assert [each["payload"]["count"] for each in other] == [1]


async def test_refusals_of_many_are_bounded_together(autojump_clock: trio.testing.MockClock) -> None:
    minutes, tenants = 2, 20
    async with world() as found:
        refused = found.kernel.system.core.secrets.refused
        for number in range(tenants):
            await found.kernel.tenant(f"t{number}")
        states = found.kernel.system.core.loop.state.tenants
        for _ in range(minutes * 60):
            for number in range(tenants):
                for asker in range(TENANT_ASKERS_MAX + 5):
                    refused(states[f"t{number}"], "api", f"capability:{asker}")
            await trio.sleep(1)
        events = found.journal.appended.count("secret_access_denied")
        bound = EVENTS_BURST + EVENTS_PER_MINUTE_MAX * minutes
        assert bound - 5 <= events <= bound
        for number in range(tenants):
            told = await (await found.kernel.tenant(f"t{number}")).events(limit=1000)
            assert [each["type"] for each in told].count("secret_access_denied") >= 5, "each has its turn"


async def test_a_row_in_the_place_of_another_is_not_taken(autojump_clock: trio.testing.MockClock) -> None:
    async with world() as found:
        other = await found.kernel.tenant("blau")
        states = found.kernel.system.core.loop.state.tenants
        mine, theirs = states["acme"].incarnation, states["blau"].incarnation
        for value in ("one", "two"):
            await found.tenant.set_secret("api", value)
        await found.tenant.set_secret("other", "three")
        await other.set_secret("api", "four")
        places = [(mine, "api", 1), (mine, "api", 2), (mine, "other", 1), (theirs, "api", 1)]
        for index, one in enumerate(places):
            for another in places[index + 1 :]:
                for swap in (found.journal.swap, found.journal.swap_sealed):
                    swap(one, another)
                    for tenant, (incarnation, name, version) in ((found.tenant, one), (other, another)):
                        if (incarnation == theirs) == (tenant is other):
                            with pytest.raises(SoloError) as caught:
                                await tenant.reveal_secret(name, version=version)
                            assert caught.value.code == "data_damaged"
                    swap(one, another)
        assert await found.tenant.reveal_secret("api", version=1) == "one"
        assert await other.reveal_secret("api") == "four"


async def test_secrets_are_there_after_a_restart(autojump_clock: trio.testing.MockClock) -> None:
    memory = MemoryKernel()
    async with memory.open() as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.set_secret("api", "one")
        await tenant.set_secret("api", b"\xff\x00")
        await tenant.set_secret("mine", "hush", key="a passphrase")
    async with memory.open() as kernel:
        tenant = await kernel.tenant("acme")
        assert [(each["name"], each["version"]) for each in await tenant.secrets()] == [("api", 2), ("mine", 1)]
        assert await tenant.reveal_secret("api") == b"\xff\x00"
        assert await tenant.reveal_secret("api", version=1) == "one"
        assert await tenant.reveal_secret("mine", key="a passphrase") == "hush"


async def test_a_key_that_was_not_written_the_first_time_is_written_the_second() -> None:
    """The first secret of a tenant is refused on a full disk; the next one brings its key along."""
    journal = Watched()
    memory = MemoryKernel(journal=journal)
    async with memory.open() as kernel:
        tenant = await kernel.tenant("acme")
        journal.full = True
        with pytest.raises(StorageFull):
            await tenant.set_secret("api", "one")
        journal.full = False
        await tenant.set_secret("api", "two")
    async with memory.open() as kernel:
        assert await (await kernel.tenant("acme")).reveal_secret("api") == "two"


async def test_a_removed_tenants_secrets_cannot_be_opened(autojump_clock: trio.testing.MockClock) -> None:
    async with world() as found:
        await found.tenant.set_secret("api", "hush")
        assert [row.purpose for row in await found.journal.keys()].count("secret") == 1
        assert found.journal._secrets
        await found.kernel.remove_tenant("acme")
        assert [row.purpose for row in await found.journal.keys()].count("secret") == 0
        assert not found.journal._secrets
        again = await found.kernel.tenant("acme")
        assert await again.secrets() == []
        with pytest.raises(Rejected) as caught:
            await again.reveal_secret("api")
        assert caught.value.code == "secret_not_found"


async def test_only_so_many_of_a_tenant_wait_for_a_passphrase() -> None:
    async with world() as found:
        other = await found.kernel.tenant("blau")
        await found.tenant.set_secret("mine", "hush", key="a passphrase")
        codes: list[str] = []
        order: list[str] = []

        async def guess() -> None:
            with pytest.raises(SoloError) as caught:
                await found.tenant.reveal_secret("mine", key="wrong")
            codes.append(caught.value.code)
            order.append("acme")

        async def set_one() -> None:
            await other.set_secret("theirs", "hush", key="another passphrase")
            order.append("blau")

        async with trio.open_nursery() as nursery:
            for _ in range(DERIVATIONS_TENANT_MAX + 5):
                nursery.start_soon(guess)
            await trio.testing.wait_all_tasks_blocked()
            assert codes == ["overloaded"] * 5
            order.clear()
            nursery.start_soon(set_one)
        assert codes[5:] == ["secret_access_denied"] * DERIVATIONS_TENANT_MAX
        assert "blau" in order[: DERIVATIONS_MAX + 2], "it waits for those at work, not for those that wait"


async def test_what_is_no_value(autojump_clock: trio.testing.MockClock) -> None:
    async with world() as found:
        for value, code in (
            (7, "invalid_field"),
            (None, "invalid_field"),
            ("", "invalid_field"),
            (b"x" * 65_537, "too_large"),
        ):
            with pytest.raises(Rejected) as caught:
                await found.tenant.set_secret("api", value)  # type: ignore[arg-type]
            assert caught.value.code == code
        for name in ("", "a b", "a/b", "\u00fc", "a" * 129, "a\n"):
            with pytest.raises(Rejected) as caught:
                await found.tenant.set_secret(name, "hush")
            assert caught.value.code == "invalid_id"
        assert await found.tenant.secrets() == []
