"""The last message of a response is sent whatever happens to its sender, but not for ever."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from solo_trio.gateways.http.finish import FinishSend
from solo_trio.gateways.http.incidents import Incidents

LAST = [
    {"type": "http.response.body", "body": b""},
    {"type": "http.response.body", "body": b"", "more_body": False},
    {"type": "websocket.http.response.body", "body": b""},
    {"type": "websocket.close", "code": 1000},
]


class Wire:
    """Does its end-of-response work in two steps, as Hypercorn does, and is cancelled between them if it can be."""

    def __init__(self, takes_s: float = 0) -> None:
        self.done: list[dict[str, Any]] = []
        self.cuts = 0
        self.incidents = Incidents()
        self._takes_s = takes_s
        self.finish = FinishSend(self.send, request_id="r-1", finish_s=5.0, incidents=self.incidents, cut=self.cut)

    async def send(self, message: dict[str, Any]) -> None:
        await trio.sleep(self._takes_s)
        self.done.append(message)

    def cut(self) -> None:
        self.cuts += 1


@pytest.mark.parametrize("message", LAST)
async def test_finished_although_cancelled(message: dict[str, Any], autojump_clock: MockClock) -> None:
    wire = Wire(takes_s=4.9)
    with trio.CancelScope() as scope:
        scope.cancel()
        await wire.finish(message)
    assert wire.done == [message]
    assert wire.cuts == 0


@pytest.mark.parametrize("message", LAST)
async def test_cut_when_it_takes_too_long(message: dict[str, Any], autojump_clock: MockClock) -> None:
    wire = Wire(takes_s=5.1)
    await wire.finish(message)
    assert trio.current_time() == 5.0
    assert (wire.done, wire.cuts) == ([], 1)
    assert wire.incidents.count == {"finish_cut": 1}


@pytest.mark.parametrize(
    "message", [{"type": "http.response.body", "body": b"a", "more_body": True}, {"type": "websocket.send", "text": ""}]
)
async def test_other_messages_can_be_cancelled(message: dict[str, Any]) -> None:
    wire = Wire()
    with trio.CancelScope() as scope:
        scope.cancel()
        await wire.finish(message)
    assert scope.cancelled_caught
    assert wire.done == []


async def test_the_last_bytes_are_not_under_that_clock(autojump_clock: MockClock) -> None:
    """Writing has limits of its own: a long answer in one message may take longer than its end."""
    wire = Wire()
    await wire.finish({"type": "http.response.body", "body": b"abc"})
    assert wire.done == [
        {"type": "http.response.body", "body": b"abc", "more_body": True},
        {"type": "http.response.body", "body": b""},
    ]
