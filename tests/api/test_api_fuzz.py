"""Any JSON whatever, to every operation that takes a body: an answer with a code, never a defect."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import trio
from api_rig import Api, Client, running
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st

from solo_trio.errors import CODES
from solo_trio.operations.settings import Settings

EXAMPLES = 60
TEXT = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(
    ["calc", "add", "t1", "permanent", "process"]
)
NUMBERS = st.integers(-(2**64), 2**65) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def records(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """An object with some of the fields, each right or anything; now and then one too many, or no object at all."""
    optional = {name: strategy | JSON for name, strategy in fields.items()}
    return (
        st.fixed_dictionaries({}, optional=optional)
        | st.fixed_dictionaries({}, optional=optional | {"surprise": JSON})
        | JSON
    )


LIMITS = records(memory_mb=NUMBERS, threads=NUMBERS, start_timeout_s=NUMBERS, calls_in_flight=NUMBERS, fds=NUMBERS)
BODIES: dict[str, st.SearchStrategy[Any]] = {
    "/services?wait=false": records(
        service_id=st.from_regex(r"[a-z0-9]{1,3}", fullmatch=True),
        code=st.just("x = 1"),
        restart=st.sampled_from(["permanent", "transient", "temporary"]),
        restart_limits=records(max_restarts=NUMBERS, max_seconds=NUMBERS),
        limits=LIMITS,
        config=st.dictionaries(TEXT, JSON, max_size=3),
        isolation=st.sampled_from(["process", "task", None]),
        tenant_id=st.sampled_from(["t1", "t2"]),
    ),
    "/services/calc/call/add": records(args=st.lists(JSON, max_size=3), kwargs=st.dictionaries(TEXT, JSON, max_size=3)),
    "/tenants": records(
        tenant_id=st.from_regex(r"[a-z0-9]{1,3}", fullmatch=True), limits=records(max_services=NUMBERS)
    ),
}


def fuzz(data: Path, path: str, bodies: st.SearchStrategy[Any]) -> None:
    """Hypothesis in a thread, the kernel in Trio: one kernel for all examples."""

    async def main() -> None:
        async with running(data, Settings(max_per_tenant=3, max_tenants=5, call_timeout_s=30)) as api:
            client = await api.tenant("t1")
            await client.deploy("calc")
            await trio.to_thread.run_sync(explore, send_from_thread(api, client))

    def send_from_thread(api: Api, client: Client) -> Callable[[Any], Any]:
        sender = api.admin if path == "/tenants" else client
        token = trio.lowlevel.current_trio_token()

        async def send(body: Any) -> Any:
            return await sender.post(
                path, content=json.dumps(body, allow_nan=False).encode(), headers={"Content-Type": "application/json"}
            )

        return lambda body: trio.from_thread.run(send, body, trio_token=token)

    def explore(send: Callable[[Any], Any]) -> None:
        @hypothesis.settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @hypothesis.given(bodies)
        def run(body: Any) -> None:
            response = send(body)
            assert response.status_code < 500 or response.json()["code"] in ("call_failed", "result_not_serialisable")
            assert response.is_success or response.json()["code"] in CODES

        run()

    trio.run(main)


@pytest.mark.parametrize("path", BODIES)
def test_any_body(tmp_path: Path, path: str) -> None:
    fuzz(tmp_path / "data", path, BODIES[path])
