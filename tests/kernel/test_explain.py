"""Explanations of a running kernel: what is read for one, and what is said of each way a service can be."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from attrs import evolve
from kernel_rig import Actor, SlowActor, crash_after, crash_at, crashing, opened, recorded
from trio.testing import MockClock

from solo_trio.errors import Rejected, SoloError
from solo_trio.operations import explanations
from solo_trio.operations.settings import EMBEDDED
from solo_trio.testing import MemoryKernel


async def never(number: int) -> None:
    await trio.sleep_forever()


def texts(answer: dict[str, Any]) -> list[str]:
    return [step["text"] for step in answer["steps"]]


async def test_given_up_and_restarted_by_hand(autojump_clock: MockClock) -> None:
    memory = MemoryKernel({"wild": Actor(crash_after(0.01)), "calm": Actor()})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("wild", memory.callables["wild"], max_restarts=2)
        await recorded(kernel, "wild", "service_given_up")
        answer = await tenant.explain("wild")
        assert answer["status"] == "given_up" and answer["complete"]
        assert answer["summary"].startswith(
            "wild does not run: it was given up, because it crashed more than twice within 60 s"
        )
        assert "ValueError: crash 3" in answer["summary"]
        assert texts(answer)[-1] == "it was given up: 3 crashes within 60 s, and 2 are allowed"
        assert any("solo restart wild" in each for each in answer["next"])
        assert [step["number"] for step in answer["steps"]] == list(range(1, len(answer["steps"]) + 1))
        with pytest.raises(Rejected) as refusal:
            await tenant.explain("nobody")
        assert refusal.value.code == "service_not_found"
        with pytest.raises(Rejected):
            await tenant.explain("../x")


async def test_backoff_and_being_ready(autojump_clock: MockClock) -> None:
    memory = MemoryKernel({"wild": Actor(crash_at(1.0)), "slow": SlowActor(never)})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("wild", memory.callables["wild"])
        assert (await tenant.explain("wild"))["summary"] == "wild runs: version 1 is ready"
        await recorded(kernel, "wild", "service_crashed")
        answer = await tenant.explain("wild")
        assert answer["status"] == "restarting"
        assert answer["summary"] == "wild does not run: it crashed: ValueError: crash 1"
        assert (
            answer["next"][0]
            == "it is started again 50 ms to 100 ms after its crash, when there is a place to start in"
        )
        await recorded(kernel, "wild", "service_ready", count=2)
        answer = await tenant.explain("wild")
        assert "its last 1 crash may still count" in answer["next"][0]


async def test_paused_held_and_what_is_waited_for(autojump_clock: MockClock) -> None:
    memory = MemoryKernel({"base": Actor(), "top": Actor()})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("base", memory.callables["base"])
        await tenant.deploy("top", memory.callables["top"], depends_on=["base"])
        await tenant.pause("base")
        assert (await tenant.explain("base"))["summary"] == "base does not run: somebody paused it"
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await recorded(kernel, None, "system_started", count=2)
        answer = await tenant.explain("top")
        assert answer["summary"] == "top does not run yet: it waits for base"
        assert answer["next"][0] == "base is paused; nothing makes it ready by itself: solo explain base"
    memory.settings = evolve(EMBEDDED, start_paused=True)
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        answer = await tenant.explain("top")
        assert answer["summary"] == "top does not run: it is held back, because somebody paused the kernel as a whole"
        assert texts(answer)[-1] == "the kernel was started, and held every service back, as it was asked to"
        assert (await tenant.explain("base"))["summary"] == "base does not run: somebody paused it"


async def test_recovered_and_gone(autojump_clock: MockClock) -> None:
    memory = MemoryKernel({"calm": Actor(), "fleeting": Actor()})
    async with crashing(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("calm", memory.callables["calm"])
        await tenant.deploy("fleeting", memory.callables["fleeting"], ephemeral=True)
    async with opened(memory) as kernel:
        await kernel.wait_recovered()
        tenant = await kernel.tenant("acme")
        answer = await tenant.explain("calm")
        assert texts(answer)[2] == "the kernel was started, after one that had not shut down in order"
        assert texts(answer)[3].startswith("it was started again after a start of the kernel, and became ready after")
        answer = await tenant.explain("fleeting")
        assert answer["status"] == "gone" and "was not to outlive the kernel" in answer["summary"]
        await tenant.kill("calm")
        answer = await tenant.explain("calm")
        assert answer["status"] == "gone" and answer["summary"].endswith("somebody asked to stop and forget it")
        assert [step["type"] for step in answer["steps"]][-2:] == ["service_killed", "service_stopped"]
        assert len(answer["steps"]) == 6, "all of it, from its deployment on"
        await tenant.deploy("calm", memory.callables["calm"])
        assert len((await tenant.explain("calm"))["steps"]) == 2, "another deployment is another story"


async def test_an_attempt_to_replace_it_that_failed(autojump_clock: MockClock) -> None:
    memory = MemoryKernel({"calm": Actor(), "bad": SlowActor(never)})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("calm", memory.callables["calm"])
        with pytest.raises(SoloError):
            await tenant.deploy(
                "calm", memory.callables["bad"], replace=True, limits={"start_timeout_s": 1, "stop_timeout_s": 1}
            )
        await recorded(kernel, "calm", "service_ready", count=2)
        answer = await tenant.explain("calm")
        assert answer["summary"] == "calm runs: version 1 is ready"
        assert answer["next"][0].startswith("the last attempt to replace it failed (event ")
        assert "did not become ready within 1 s; what was there before was put back" in answer["next"][0]
        assert texts(answer)[-1].startswith("what was there before was put back and started again, and became ready")
        with pytest.raises(SoloError):
            await tenant.deploy("new", memory.callables["bad"], limits={"start_timeout_s": 1, "stop_timeout_s": 1})
        answer = await tenant.explain("new")
        assert answer["status"] == "gone"
        assert (
            answer["summary"]
            == "new does not exist: its only deployment failed, because: did not become ready within 1 s"
        )


async def test_a_long_one_is_read_in_part(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explanations, "EVENTS_MAX", 20)
    memory = MemoryKernel({"wild": Actor(crash_after(30.0))})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("wild", memory.callables["wild"])
        await recorded(kernel, "wild", "service_crashed", count=30)
        answer = await tenant.explain("wild")
        assert not answer["complete"] and len(answer["steps"]) <= 40
        assert texts(answer)[0].startswith("acme asked for wild version 1")
        [left] = [step for step in answer["steps"] if "not told here" in step["text"]]
        assert left["id"] - left["first_id"] > 40
        memory.journal.oldest_id = left["id"]  # moved to the archive
        assert not (await tenant.explain("wild"))["complete"]
        for oldest_id in (left["id"] - 5, left["id"] + 5):
            memory.journal.oldest_id = oldest_id
            answer = await tenant.explain("wild")
            assert not answer["complete"] and answer["steps"], "how it began is not at hand"
            assert not any("asked for wild" in each or "not told here" in each for each in texts(answer))
        await tenant.kill("wild")
        answer = await tenant.explain("wild")
        assert answer["status"] == "gone" and not answer["complete"]
        memory.journal.oldest_id = 1
