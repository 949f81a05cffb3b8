from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing
from journal_contract import JournalContract
from journal_samples import event, events, replayed

from solo_trio.journal.memory import MemoryJournal


@pytest.fixture
async def journal() -> AsyncIterator[MemoryJournal]:
    journal = MemoryJournal()
    yield journal
    await journal.close()


class TestMemoryJournal(JournalContract):
    pass


async def test_uses_no_time_and_no_thread(autojump_clock: trio.testing.MockClock) -> None:
    """The clock jumps whenever only a thread could go on, so a thread would let the time run out."""
    journal = MemoryJournal()
    with trio.fail_after(1):
        await journal.append(events(1, 100))
        assert len(await replayed(journal)) == 100
    assert trio.current_time() == pytest.approx(trio.current_time())


async def test_the_same_object_is_a_restart() -> None:
    journal = MemoryJournal()
    await journal.append([event(1)])
    await journal.close()
    assert await replayed(journal) == [event(1)]
