"""What an event stream writes, and what one that is not read holds."""

from __future__ import annotations

import gc
import weakref
from typing import Any, cast

from solo_trio.gateways.http.sse import WRITE_BYTES, frames
from solo_trio.kernel.hub import Watch
from solo_trio.model.record import StoredEvent


def stored(id_: int, size: int) -> StoredEvent:
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
    def __init__(self, *pages: list[StoredEvent]) -> None:
        self._pages = list(pages)

    async def next_page(self) -> list[StoredEvent]:
        return self._pages.pop(0) if self._pages else []


async def test_events_are_gathered_and_none_is_lost() -> None:
    pages = [stored(id_, 20_000) for id_ in range(1, 11)], [stored(11, 10)]
    written = [part async for part in frames(cast(Watch, Pages(*pages)))]
    assert written[0] == b": solo\n\n"
    assert written[-1].startswith(b"event: end\n")
    text = b"".join(written)
    assert [int(line[4:]) for line in text.split(b"\n") if line.startswith(b"id: ")] == list(range(1, 12))
    assert len(written) == 2 + 3 + 1, "four of 20 kB in a write, and what is left of a page in its last one"
    assert all(len(part) < WRITE_BYTES + 21_000 for part in written)


async def test_what_was_written_is_let_go() -> None:
    """A client that does not read stops the stream in the middle of a page."""
    alive: list[weakref.ref[Any]] = []

    def page() -> list[StoredEvent]:
        events = [stored(id_, WRITE_BYTES) for id_ in range(20)]
        alive.extend(weakref.ref(event) for event in events)
        return events

    stream = frames(cast(Watch, Pages(page())))
    for written in range(15):
        await anext(stream)
        gc.collect()
        assert sum(ref() is not None for ref in alive) == 20 - written
    await stream.aclose()
