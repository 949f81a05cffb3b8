"""Refusals as events: coalesced by tenant, code and second, bounded in number and memory; on the mock clock."""

from __future__ import annotations

import pytest
import trio
from kernel_rig import history, opened
from trio.testing import MockClock

from solo_trio.embedding import Kernel
from solo_trio.kernel import denials
from solo_trio.kernel.denials import ALERT_DENIALS, Denied
from solo_trio.model.denial import AccessAlert, CapabilityDenied
from solo_trio.operations.settings import Settings
from solo_trio.testing import MemoryKernel


async def told(memory: MemoryKernel) -> list[tuple[str | None, str, int]]:
    found = []
    for record in await history(memory, None, "capability_denied"):
        assert isinstance(record.event, CapabilityDenied)
        found.append((record.stored.tenant_id, record.event.code, record.event.count))
    return found


async def alerts(memory: MemoryKernel) -> list[tuple[str | None, str | None, int]]:
    found = []
    for record in await history(memory, None, "access_alert"):
        assert isinstance(record.event, AccessAlert)
        found.append((record.stored.tenant_id, record.event.credential, record.event.denials))
    return found


async def of(kernel: Kernel, tenant_id: str, code: str = "permission_denied", credential: str | None = "cap") -> Denied:
    tenant = await kernel.tenant(tenant_id)
    return Denied(code, "deploy", tenant_id, tenant._caller.incarnation, credential)


async def test_those_of_a_second_are_one_event(autojump_clock: MockClock) -> None:
    memory = MemoryKernel()
    async with opened(memory) as kernel:
        one, two = await of(kernel, "t1"), await of(kernel, "t2")
        note = kernel.system.core.denials.note
        for _ in range(5):
            note(one)
            note(two)
            note(Denied("unauthenticated", "call"))
        note(await of(kernel, "t1", "rate_limited"))
        assert await told(memory) == [], "nothing is written while somebody is refused"
        await trio.sleep(denials.PERIOD_S + 0.1)
        first = [
            ("t1", "permission_denied", 5),
            ("t2", "permission_denied", 5),
            (None, "unauthenticated", 5),
            ("t1", "rate_limited", 1),
        ]
        assert await told(memory) == first
        await trio.sleep(100)
        note(one)
        await trio.sleep(denials.PERIOD_S + 0.1)
        assert await told(memory) == [*first, ("t1", "permission_denied", 1)]


async def test_there_are_so_many_events_a_minute_and_every_refusal_is_counted(autojump_clock: MockClock) -> None:
    memory = MemoryKernel(settings=Settings(alert_denials=0))
    seconds, codes = 120, ("permission_denied", "tenant_mismatch", "rate_limited", "unauthenticated")
    async with opened(memory) as kernel:
        tenants = [await of(kernel, f"t{number}", code) for number in range(5) for code in codes]
        for _ in range(seconds):
            for each in tenants:
                kernel.system.core.denials.note(each)
            await trio.sleep(1)
        found = await told(memory)
        bound = denials.EVENTS_BURST + denials.EVENTS_PER_MINUTE_MAX * seconds // 60
        assert bound - 5 <= len(found) <= bound
        assert {tenant for tenant, _, _ in found} == {f"t{number}" for number in range(5)}, "each has its turn"
        await trio.sleep(len(tenants) + 5)
        assert sum(count for _, _, count in await told(memory)) == seconds * len(tenants)
        assert kernel.system.core.denials.uncounted == 0


async def test_what_is_remembered_is_bounded(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denials, "GROUPS_MAX", 3)
    monkeypatch.setattr(denials, "WINDOWS_MAX", 3)
    memory = MemoryKernel()
    async with opened(memory) as kernel:
        counter = kernel.system.core.denials
        for number in range(10):
            counter.note(Denied(f"code_{number}", "call", "t1", f"life{number}", f"cap{number}"))
        assert len(counter._groups) == 3 and len(counter._windows) <= 3
        assert (counter.total, counter.uncounted) == (10, 7)


async def test_alerts(autojump_clock: MockClock) -> None:
    memory = MemoryKernel()
    async with opened(memory) as kernel:
        note = kernel.system.core.denials.note
        one = await of(kernel, "t1")
        for _ in range(ALERT_DENIALS - 1):
            note(one)
            note(await of(kernel, "t2", credential=f"cap{_ % 7}"))
        await trio.sleep(2)
        assert await alerts(memory) == []
        note(one)
        for _ in range(ALERT_DENIALS):
            note(one)
        note(await of(kernel, "t2", credential="another"))
        for _ in range(ALERT_DENIALS * 3):
            note(Denied("unauthenticated", "call"))
        await trio.sleep(2)
        expected = [("t1", "cap", ALERT_DENIALS), ("t2", None, ALERT_DENIALS), (None, None, ALERT_DENIALS)]
        assert await alerts(memory) == expected
        await trio.sleep(denials.ALERT_WINDOW_S * 2)
        for _ in range(ALERT_DENIALS):
            note(one)
        await trio.sleep(2)
        assert await alerts(memory) == [*expected, expected[0]], "once for each window"


async def test_of_a_tenant_that_is_gone_nothing_is_recorded(autojump_clock: MockClock) -> None:
    memory = MemoryKernel()
    async with opened(memory) as kernel:
        kernel.system.core.denials.note(Denied("permission_denied", "call", "t1", "another life", "cap"))
        await trio.sleep(3)
        assert await told(memory) == []
