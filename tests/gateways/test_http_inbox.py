"""The queue before an application: full holds the wire back, a disconnect never waits."""

from __future__ import annotations

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from solo_trio.gateways.http.asgi import Inbox

PART = {"type": "http.request", "body": b"x", "more_body": True}
GONE = {"type": "http.disconnect"}


async def test_disconnect_passes_a_full_queue(autojump_clock: MockClock) -> None:
    inbox = Inbox(2)
    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(inbox.put, PART)  # the third waits, as the reader of a connection does
            await wait_all_tasks_blocked()
            assert len(nursery.child_tasks) == 1
            await inbox.put(GONE)
        assert [await inbox.receive() for _ in range(4)] == [PART, PART, GONE, GONE]


async def test_full_waits_for_the_application(autojump_clock: MockClock) -> None:
    inbox = Inbox(1)
    await inbox.put(PART)
    with trio.move_on_after(1) as scope:
        await inbox.put(PART)
    assert scope.cancelled_caught
    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(inbox.put, PART)
            assert await inbox.receive() == PART


async def test_application_that_left_frees_the_wire(autojump_clock: MockClock) -> None:
    inbox = Inbox(1)
    await inbox.put(PART)
    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(inbox.put, PART)
            await wait_all_tasks_blocked()
            inbox.close()
        for message in (PART, GONE, GONE):
            await inbox.put(message)
