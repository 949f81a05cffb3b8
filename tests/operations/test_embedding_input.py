"""What an embedding application gives is held to the rules of HTTP: refused with a sentence, never another exception."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from solo_trio import Kernel
from solo_trio.embedding import Tenant
from solo_trio.errors import Rejected
from solo_trio.operations.inputs import plain_json
from solo_trio.operations.strict_json import DEPTH_MAX, parse

SOURCE = "x = 1"


async def export(ctx: Any) -> None:
    await trio.sleep_forever()


@pytest.fixture
async def tenant(tmp_path: Path) -> AsyncIterator[Tenant]:
    async with Kernel.open(tmp_path / "data") as kernel:
        yield await kernel.tenant("t1")
        assert not kernel.system.core.telemetry.bugs


def nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    return value


CYCLE: list[Any] = []
CYCLE += [CYCLE, CYCLE]
WRONG_DEPLOYS: list[dict[str, Any]] = [
    {"source": ""},
    {"source": " \n"},
    {"source": b""},
    {"source": bytearray(b"x = 1")},
    {"source": SOURCE, "environment": 5},
    {"source": 5},
    {"source": "x = '\ud800'"},
    {"target": ""},
    {"target": "a\udfff"},
    {"target": "a.b", "source": SOURCE},
    {},
    {"source": SOURCE, "restart": "sometimes"},
    {"source": SOURCE, "restart": None},
    {"source": SOURCE, "max_restarts": "5"},
    {"source": SOURCE, "max_restarts": True},
    {"source": SOURCE, "max_restarts": 1.5},
    {"source": SOURCE, "max_restarts": -1},
    {"source": SOURCE, "max_restarts": 10**400},
    {"source": SOURCE, "max_seconds": "a"},
    {"source": SOURCE, "max_seconds": None},
    {"source": SOURCE, "max_seconds": math.nan},
    {"source": SOURCE, "max_seconds": 10**400},
    {"source": SOURCE, "max_seconds": 0},
    {"source": SOURCE, "limits": "a"},
    {"source": SOURCE, "limits": {"memory_mb": math.inf}},
    {"source": SOURCE, "limits": {"memory_mb": object()}},
    {"source": SOURCE, "limits": {5: 5}},
    {"source": SOURCE, "config": "a"},
    {"source": SOURCE, "config": []},
    {"source": SOURCE, "config": {"a": math.nan}},
    {"source": SOURCE, "config": {"a": [(-math.inf,)]}},
    {"source": SOURCE, "config": {"a": 2**63}},
    {"source": SOURCE, "config": {"a": object()}},
    {"source": SOURCE, "config": {"a": {1, 2}}},
    {"source": SOURCE, "config": {"a": b"a"}},
    {"source": SOURCE, "config": {1: "a"}},
    {"source": SOURCE, "config": {"a": "\ud800"}},
    {"source": SOURCE, "config": {"\udfff": 1}},
    {"source": SOURCE, "config": {"a": nested(DEPTH_MAX)}},
    {"source": SOURCE, "config": {"a": CYCLE}},
]


async def test_wrong_deployments(tenant: Tenant) -> None:
    before = await tenant.events()
    for wrong in WRONG_DEPLOYS:
        with pytest.raises(Rejected) as caught:
            await tenant.deploy("s", **wrong)
        assert caught.value.code == "invalid_field", wrong
        assert len(caught.value.detail.split()) >= 3
        caught.value.detail.encode()
    with pytest.raises(Rejected, match="unknown_field"):
        await tenant.deploy("s", source=SOURCE, limits={"colour": 1})
    for service_id in ("S", "", 5, None, "\ud800"):
        with pytest.raises(Rejected, match="invalid_id"):
            await tenant.deploy(service_id, source=SOURCE)  # type: ignore[arg-type]
    with pytest.raises(Rejected, match="invalid_field"):
        await tenant.deploy("s", export, ephemeral=True, config={"a": math.nan})
    assert await tenant.events() == before, "nothing was written"


async def test_other_wrong_arguments(tenant: Tenant) -> None:
    for args, kwargs in (((object(),), {}), ((math.nan,), {}), (("\ud800",), {}), ((), {"a": {1}}), ((CYCLE,), {})):
        with pytest.raises(Rejected, match="invalid_field"):
            await tenant.call("s", "f", *args, **kwargs)
    wrong: Any
    for wrong in ("a", math.nan, object(), 1.5):
        for asked in (
            tenant.events(since_id=wrong),
            tenant.events(limit=wrong),
            tenant.logs("s", tail=wrong),
            tenant.kill("s", grace_ms=wrong),
            tenant.kill("s", force=wrong),
        ):
            with pytest.raises(Rejected, match="invalid_field"):
                await asked
    for asked in (tenant.call(5, "f"), tenant.status(b""), tenant.restart([]), tenant.kill(None)):  # type: ignore[arg-type]
        with pytest.raises(Rejected, match="invalid_field"):
            await asked


async def test_what_is_right_is_taken(tenant: Tenant) -> None:
    config = {"a": (1, 2.5, None, True), "b": {"c": "ä"}, "deep": nested(DEPTH_MAX - 2)}
    limits = {"start_timeout_s": 30}
    view = await tenant.deploy("s", export, ephemeral=True, max_seconds=60, config=config, limits=limits)
    again = await tenant.deploy("s", export, ephemeral=True, max_seconds=60.0, config=config, limits=limits)
    assert view["version"] == again["version"] == 1
    spec = (await tenant.status("s"))["spec"]
    assert spec["config"] == {"a": [1, 2.5, None, True], "b": {"c": "ä"}, "deep": nested(DEPTH_MAX - 2)}
    assert spec["restart_limits"] == {"max_restarts": 5, "max_seconds": 60.0}


def test_it_is_as_deep_as_over_http() -> None:
    assert plain_json("config", nested(DEPTH_MAX - 1)) == nested(DEPTH_MAX - 1)
    parse(b'{"config": ' + b"[" * (DEPTH_MAX - 1) + b"]" * (DEPTH_MAX - 1) + b"}")
    with pytest.raises(Rejected):
        plain_json("config", nested(DEPTH_MAX))
