"""`tenant.watch`: the events of one tenant, inside the process that embeds the kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from solo_trio import Kernel
from solo_trio.errors import Rejected

BOUND_S = 60.0


async def idle(ctx: Any) -> None:
    await trio.sleep_forever()


async def test_from_the_beginning_then_live_then_the_end(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    ended = trio.Event()
    with trio.fail_after(BOUND_S):
        async with trio.open_nursery() as nursery:
            async with Kernel.open(tmp_path / "data", callables={"idle": idle}) as kernel:
                tenant, other = await kernel.tenant("t1"), await kernel.tenant("t2")
                await tenant.deploy("old", idle)

                async def follow(task_status: trio.TaskStatus[None]) -> None:
                    async with tenant.watch(since_id=0) as records:
                        task_status.started()
                        async for record in records:
                            seen.append(record)
                    ended.set()

                await nursery.start(follow)
                await other.deploy("elsewhere", idle)
                await tenant.deploy("new", idle)
                listed = await tenant.events(limit=1_000)
            await ended.wait()  # the kernel is closed, which ends it
    assert seen[: len(listed)] == listed, "the same dicts as everywhere"
    assert {event["tenant_id"] for event in seen} == {"t1"}
    assert [event["id"] for event in seen] == sorted({event["id"] for event in seen})


async def test_from_now_filtered_and_left_early(tmp_path: Path) -> None:
    with trio.fail_after(BOUND_S):
        async with Kernel.open(tmp_path / "data", callables={"idle": idle}) as kernel:
            tenant = await kernel.tenant("t1")
            await tenant.deploy("old", idle)
            async with tenant.watch(service_id="new", type="service_ready,service_deployed") as records:
                await tenant.deploy("other", idle)
                await tenant.deploy("new", idle)
                found = [await anext(records), await anext(records)]
                assert [(event["subject"], event["type"]) for event in found] == [
                    ("new", "service_ready"),
                    ("new", "service_deployed"),
                ]
                with trio.move_on_after(0) as scope:
                    await anext(records)
                assert scope.cancelled_caught
                await tenant.kill("new")
                await tenant.deploy("new", idle)
                assert (await anext(records))["type"] == "service_ready", "cancelling took nothing away"
            for wrong in ({"since_id": -1}, {"since_id": "1"}, {"type": "nonsense"}, {"service_id": "../x"}):
                with pytest.raises(Rejected):
                    async with tenant.watch(**wrong):  # type: ignore[arg-type]
                        raise AssertionError("entered")
