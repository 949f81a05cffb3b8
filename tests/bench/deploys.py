"""Deploying. Owns: seconds until a deployment is acknowledged (its intent durable) and until it is ready.

The floors are a fresh interpreter that does nothing (fork, exec, wait) and a bare fork and wait.
"""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

import trio
from figures import heading, spread
from floors import fork, fork_and_exec

from solo_trio.embedding import Kernel
from solo_trio.model.capability import EMBEDDER
from solo_trio.model.service_events import ServiceDeployed
from solo_trio.model.spec import ServiceSpec
from solo_trio.operations.caller import Caller, System
from solo_trio.operations.deploying import deploy_spec, digest_of
from solo_trio.operations.outcomes import DEPLOY_OUTCOMES, outcome
from solo_trio.operations.settings import Settings
from solo_trio.service import Context

WARM = 100
COLD = 15
TASKS = 200
FLOOR_EVERY = 5
"""Deployments between two samples of the floors."""
SOURCE = b"""
from solo_trio import service

@service.export
async def add(a, b):
    return a + b
"""
SETTINGS = Settings(max_tenants=1_000, max_per_tenant=1_000, max_total=5_000)


class Floors:
    """Sampled in between, while nothing is being deployed: what disturbs the machine disturbs both."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {"exec": [], "fork": []}

    def pass_by(self, number: int) -> None:
        if number % FLOOR_EVERY == 0:
            self.sample()

    def sample(self) -> None:
        self.seconds["exec"] += fork_and_exec(1)
        self.seconds["fork"] += fork(5)


async def idle(ctx: Context) -> None:
    await trio.sleep_forever()


PROCESS = ServiceSpec(digest=digest_of(SOURCE))
TASK = ServiceSpec(entry="callable:idle", digest="", isolation="task")


async def deploy(
    system: System, tenant_id: str, incarnation: str, service_id: str, spec: ServiceSpec
) -> tuple[float, float]:
    """Seconds until acknowledged, and until ready."""
    caller = Caller(system, EMBEDDER, tenant_id, incarnation)
    source = SOURCE if spec.isolation == "process" else b""
    with system.core.hub.follow(tenant_id, service_id) as follow:
        began = perf_counter()
        answer = await deploy_spec(caller, service_id, spec, source, wait=False)
        acknowledged = perf_counter() - began
        assert answer.revision is not None
        record = await outcome(
            caller,
            follow,
            service_id,
            DEPLOY_OUTCOMES,
            deployment=answer.revision,
            after=answer.revision,
            look_back=False,
        )
        ready = perf_counter() - began
    assert isinstance(record.event, ServiceDeployed), record
    return acknowledged, ready


async def incarnation_of(kernel: Kernel, tenant_id: str) -> str:
    await kernel.tenant(tenant_id)
    return kernel.system.core.loop.state.tenants[tenant_id].incarnation


async def measure(directory: Path) -> None:
    floors = Floors()
    cold, warm, tasks = [], [], []
    async with Kernel.open(directory / "deploys", callables={"idle": idle}, settings=SETTINGS) as kernel:
        for number in range(COLD):
            tenant_id = f"cold{number}"
            incarnation = await incarnation_of(kernel, tenant_id)
            floors.pass_by(number)
            cold.append(await deploy(kernel.system, tenant_id, incarnation, "first", PROCESS))
        incarnation = await incarnation_of(kernel, "warm")
        await deploy(kernel.system, "warm", incarnation, "first", PROCESS)
        for number in range(WARM):
            floors.pass_by(number)
            warm.append(await deploy(kernel.system, "warm", incarnation, f"s{number}", PROCESS))
        incarnation = await incarnation_of(kernel, "tasks")
        for number in range(TASKS):
            floors.pass_by(number)
            tasks.append(await deploy(kernel.system, "tasks", incarnation, f"t{number}", TASK))
    floors.sample()

    heading("deploy, one after the other (floors: exec = fork, exec `python -c pass`, wait; fork = bare fork and wait)")
    for name, found in (
        ("process, the tenant's first", cold),
        ("process, warm tenant", warm),
        ("task", tasks),
    ):
        spread(f"{name}: acknowledged", [each[0] for each in found], floors.seconds)
        spread(f"{name}: ready", [each[1] for each in found], floors.seconds)
    for name, values in floors.seconds.items():
        spread(f"(floor) {name}", values, {"fork": floors.seconds["fork"]})
