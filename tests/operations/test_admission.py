"""Admission on a kernel in memory and a mock clock: rates, places, circuits, what is recorded, what a restart grants."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from attrs import define, evolve
from trio.testing import MockClock

from solo_trio import service
from solo_trio.embedding import Kernel
from solo_trio.errors import Faulted, SoloError
from solo_trio.model import codec
from solo_trio.model.capability import Authority
from solo_trio.model.caveat import Caveats, Rate
from solo_trio.operations.admission import FAILURES_ALL_BURST, FAILURES_BURST
from solo_trio.operations.caller import System
from solo_trio.operations.perform import OPERATIONS, Request, attempt, perform
from solo_trio.operations.perform import admit as admit_request
from solo_trio.operations.settings import EMBEDDED
from solo_trio.policy.circuit import FAILURES, OPEN_S
from solo_trio.policy.shedding import PAIR_S, QUIET_S
from solo_trio.testing import MemoryKernel

UNLIMITED = evolve(EMBEDDED, requests_per_second=0.0)


class Slow:
    """A service with a function that takes its time, and one that fails as told."""

    def __init__(self) -> None:
        self.under_way = 0
        self.crash = trio.Event()

        @service.export
        async def wait(seconds: float) -> float:
            self.under_way += 1
            try:
                await trio.sleep(seconds)
            finally:
                self.under_way -= 1
            return seconds

        @service.export
        async def refuse() -> None:
            raise ValueError("no")

        @service.export
        async def odd() -> object:
            return object()

        async def main(ctx: service.Context) -> None:
            self.crash = trio.Event()
            await self.crash.wait()
            raise RuntimeError("crash")

        self.module = SimpleNamespace(wait=wait, refuse=refuse, odd=odd, main=main)


@define
class Asking:
    """One credential's way through `perform`."""

    system: System
    token: str
    tenant_id: str | None = None

    async def __call__(self, name: str, body: Any = None, **route: str) -> Any:
        request = Request(self.token, self.tenant_id, route=route, body=body, peer="10.0.0.1")
        return (await perform(self.system, OPERATIONS[name], request)).body  # type: ignore[union-attr]

    async def code(self, name: str, body: Any = None, **route: str) -> str:
        """ "ok", or the code of the refusal."""
        try:
            await self(name, body, **route)
        except SoloError as error:
            if error.code in ("rate_limited", "overloaded", "circuit_open"):
                assert isinstance(error, Faulted) and isinstance(error.retry_after_s, int) and error.retry_after_s >= 1
            return error.code
        return "ok"

    async def call(self, function: str, *args: Any, service_id: str = "slow") -> str:
        return await self.code("call", {"args": list(args)}, service_id=service_id, function=function)

    async def codes(self, times: int) -> list[str]:
        return [await self.code("list_services") for _ in range(times)]


async def admin(kernel: Kernel) -> Asking:
    system = kernel.system
    state = system.core.loop.state
    capability = next(each for each in state.capabilities.values() if each.resource == "system")
    return Asking(system, system.keyring.mint(capability.key_id, capability.capability_id).reveal_text())


async def tenant(kernel: Kernel, tenant_id: str = "t1", **limits: Any) -> Asking:
    asking = await admin(kernel)
    known = kernel.system.core.loop.state.tenants.get(tenant_id)
    if known is None:
        body = await asking("create_tenant", {"tenant_id": tenant_id, "limits": limits})
        return Asking(kernel.system, body["token"])
    return Asking(kernel.system, kernel.system.keyring.mint(known.key_id, known.capability_id).reveal_text())


async def recorded(memory: MemoryKernel, *types: str) -> list[tuple[str, str | None, dict[str, Any]]]:
    return [
        (stored.type, stored.subject or stored.tenant_id, codec.public(stored)["payload"])
        async for page in memory.journal.replay()
        for stored in page
        if stored.type in types
    ]


# -- rates


async def test_a_tenant_of_its_own_rate(autojump_clock: MockClock) -> None:
    async with MemoryKernel(settings=UNLIMITED).open() as kernel:
        one, other = await tenant(kernel, "t1", requests_per_second=2, burst=3), await tenant(kernel, "t2")
        await trio.sleep(60)
        assert await one.codes(5) == ["ok"] * 3 + ["rate_limited"] * 2
        assert await other.codes(50) == ["ok"] * 50
        await trio.sleep(1)
        assert await one.codes(3) == ["ok"] * 2 + ["rate_limited"]
        await (await admin(kernel))("update_tenant", {"limits": {"requests_per_second": 10}}, tenant_id="t1")
        assert await one.code("list_services") == "rate_limited"
        await trio.sleep(0.2)
        assert await one.codes(3) == ["ok"] * 2 + ["rate_limited"]
        await trio.sleep(60)
        assert await one.codes(4) == ["ok"] * 3 + ["rate_limited"], "the burst stays as it was"


async def test_the_rate_of_the_configuration_and_its_end(autojump_clock: MockClock) -> None:
    settings = evolve(EMBEDDED, requests_per_second=1.0, burst=2)
    async with MemoryKernel(settings=settings).open() as kernel:
        one = await tenant(kernel)
        system = await admin(kernel)
        assert await one.code("list_services") == "rate_limited"
        await trio.sleep(1)
        assert await one.codes(2) == ["ok", "rate_limited"]
        as_tenant = evolve(system, tenant_id="t1")
        assert await as_tenant.codes(100) == ["ok"] * 100, "a system credential is in no tenant's bucket"
        assert await one.code("health") == "ok"
        assert await one.code("list_services") == "rate_limited"


async def test_the_wait_that_is_told_is_the_right_one(autojump_clock: MockClock) -> None:
    async with MemoryKernel(settings=UNLIMITED).open() as kernel:
        one = await tenant(kernel, requests_per_second=0.01, burst=1)
        await trio.sleep(200)
        assert await one.code("list_services") == "ok"
        await trio.sleep(7)
        with pytest.raises(Faulted) as refused:
            await one("list_services")
        assert refused.value.retry_after_s == 93
        await trio.sleep(93)
        assert await one.code("list_services") == "ok"


async def test_before_the_body_is_read_it_is_refused_too(autojump_clock: MockClock) -> None:
    async with MemoryKernel(settings=UNLIMITED).open() as kernel:
        one = await tenant(kernel, requests_per_second=1, burst=1)
        await trio.sleep(10)
        operation = OPERATIONS["list_services"]

        def admit() -> None:
            with attempt(kernel.system, operation, {}, None, "10.0.0.1") as followed:
                admit_request(kernel.system, operation, one.token, followed)

        for _ in range(5):
            admit()  # takes nothing
        assert await one.codes(2) == ["ok", "rate_limited"]
        with pytest.raises(Faulted, match="rate_limited"):
            admit()


async def test_every_rate_of_the_chain_counts_for_all_below(autojump_clock: MockClock) -> None:
    async with MemoryKernel(settings=UNLIMITED).open() as kernel:
        await tenant(kernel, requests_per_second=100, burst=100)
        state = kernel.system.core.loop.state.tenants["t1"]
        admission = kernel.system.admission
        parent = Rate("parent", 1.0, 4.0)

        def allowed(*rates: Rate) -> bool:
            authority = Authority(state.capability_id, "t1", state.incarnation, Caveats(rates=rates))
            try:
                with admission.place(authority):
                    return True
            except Faulted as error:
                assert error.code == "rate_limited"
                return False

        await trio.sleep(100)
        one, other = Rate("one", 0.1, 1.0), Rate("other", 0.1, 2.0)
        assert [allowed(parent, one) for _ in range(3)] == [True, False, False]
        assert [allowed(parent, other) for _ in range(3)] == [True, True, False]
        assert [allowed(parent) for _ in range(3)] == [True, False, False], "what was refused was not counted"
        await trio.sleep(4)
        assert [allowed(parent, Rate("parent", 1e6, 1e6)) for _ in range(5)] == [True] * 4 + [False], (
            "a rate of one's own under the parent's id raises nothing"
        )
        await trio.sleep(1)
        assert [allowed(parent, Rate("parent", 1e6, 1e6)) for _ in range(3)] == [True, False, False], "not later either"
        await trio.sleep(20)
        assert [allowed(parent, other) for _ in range(3)] == [True, True, False], "nor takes it anything from it"


async def test_a_rate_for_every_capability(autojump_clock: MockClock) -> None:
    async with MemoryKernel(settings=evolve(UNLIMITED, rate_limit_per_capability=60)).open() as kernel:
        one = await tenant(kernel)
        await trio.sleep(3)
        assert await one.codes(5) == ["ok"] * 3 + ["rate_limited"] * 2
        assert await (await admin(kernel)).code("list_tenants") == "ok"


async def test_a_restart_grants_no_burst(autojump_clock: MockClock) -> None:
    memory = MemoryKernel(settings=UNLIMITED)
    async with memory.open() as kernel:
        one = await tenant(kernel, requests_per_second=1, burst=50)
        await trio.sleep(100)
        assert (await one.codes(60)).count("ok") == 50
    granted = 0
    for _ in range(20):
        async with memory.open() as kernel:
            one = await tenant(kernel)
            await trio.sleep(0.5)
            granted += (await one.codes(60)).count("ok")
    assert granted <= 20 * 0.5


async def test_guesses_are_told_to_wait_and_hinder_nobody(autojump_clock: MockClock) -> None:
    async with MemoryKernel(settings=UNLIMITED).open() as kernel:
        one = await tenant(kernel)
        wrong = evolve(one, token=one.token[:-3] + "abc")
        codes = [await wrong.code("list_services") for _ in range(int(FAILURES_BURST) + 50)]
        assert codes == ["unauthenticated"] * int(FAILURES_BURST) + ["rate_limited"] * 50
        assert await one.code("list_services") == "ok", "a right credential from there is one"
        admission = kernel.system.admission
        with contextlib.suppress(Faulted):
            for number in range(int(FAILURES_ALL_BURST) + 1):
                admission.guessed(f"2001:db8:{number:x}::1")
            raise AssertionError("addresses are cheap: all together have a limit")
        await trio.sleep(1)
        assert await wrong.code("list_services") == "unauthenticated"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("10.0.0.1", "10.0.0.2", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        (None, "not an address", True),
    ],
)
async def test_who_is_one_guesser(one: str | None, other: str | None, same: bool, autojump_clock: MockClock) -> None:
    async with MemoryKernel(settings=UNLIMITED).open() as kernel:
        admission = kernel.system.admission
        for _ in range(int(FAILURES_BURST)):
            admission.guessed(one)
        with pytest.raises(Faulted) if same else contextlib.nullcontext():
            admission.guessed(other)


# -- places


@contextlib.asynccontextmanager
async def waiting(asking: Asking, count: int, seconds: float) -> AsyncIterator[None]:
    """So many slow calls under way; they are cancelled in the end."""
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(asking.call, "wait", seconds)
        await trio.testing.wait_all_tasks_blocked()
        yield
        nursery.cancel_scope.cancel()


def in_flight(kernel: Kernel) -> int:
    return kernel.system.admission.load.total


async def test_a_tenant_that_has_all_its_places_holds_up_nobody_else(autojump_clock: MockClock) -> None:
    memory = MemoryKernel({"slow": (slow := Slow()).module}, settings=UNLIMITED)
    async with memory.open() as kernel:
        one, other = await tenant(kernel, "t1"), await tenant(kernel, "t2")
        await (await kernel.tenant("t1")).deploy("slow", slow.module, limits={"calls_in_flight": 200})
        async with waiting(one, 100, 20.0):
            assert slow.under_way == in_flight(kernel) == 100
            began = trio.current_time()
            assert await one.codes(20) == ["overloaded"] * 20
            assert await other.codes(100) == ["ok"] * 100
            assert await one.code("health") == "ok"
            assert await (await admin(kernel)).code("list_tenants") == "ok"
            assert trio.current_time() == began, "nobody waited"
            await trio.sleep(21)
            assert in_flight(kernel) == 0
            assert await one.code("list_services") == "ok"
        await trio.sleep(PAIR_S)
    told = await recorded(memory, "load_shed")
    assert told == [
        ("load_shed", "t1", {"phase": "began", "refused": told[0][2]["refused"], "reason": "tenant"}),
        ("load_shed", "t1", {"phase": "ended", "refused": 20, "reason": "tenant"}),
    ]


async def test_a_bound_of_the_tenants_own(autojump_clock: MockClock) -> None:
    async with MemoryKernel({"slow": (slow := Slow()).module}, settings=UNLIMITED).open() as kernel:
        one = await tenant(kernel, "t1", in_flight=3)
        await (await kernel.tenant("t1")).deploy("slow", slow.module)
        async with waiting(one, 5, 20.0):
            assert in_flight(kernel) == 3
            await (await admin(kernel))("update_tenant", {"limits": {"in_flight": 4}}, tenant_id="t1")
            assert await one.code("list_services") == "ok"


async def test_shared_fairly_with_places_for_the_system(autojump_clock: MockClock) -> None:
    settings = evolve(UNLIMITED, max_in_flight=30, max_tenants=10)
    memory = MemoryKernel({"slow": (slow := Slow()).module}, settings=settings)
    async with memory.open() as kernel, contextlib.AsyncExitStack() as stack:
        for number in range(4):
            one = await tenant(kernel, f"t{number}")
            await (await kernel.tenant(f"t{number}")).deploy("slow", slow.module)
            await stack.enter_async_context(waiting(one, 30, 1_000.0))
            counts = [
                kernel.system.admission.load.of(each.incarnation)
                for each in kernel.system.core.loop.state.tenants.values()
            ]
            assert min(counts) >= 1 and sum(counts) <= 27
        assert await (await admin(kernel)).code("list_tenants") == "ok"
        shown = (await (await admin(kernel))("show_system"))["use"]
        assert (
            shown["in_flight"] == sum(counts) + 1 and shown["max_in_flight"] == 30 and shown["tenants_in_flight"] == 4
        )
        await trio.sleep(2)
        told = await recorded(memory, "load_shed")
        assert {who for _, who, _ in told} == {"t0", "t1", "t2", "t3"}
        await trio.sleep(QUIET_S + 1)


async def test_whatever_happens_to_a_request_its_place_is_given_back(autojump_clock: MockClock) -> None:
    async with MemoryKernel({"slow": (slow := Slow()).module}, settings=UNLIMITED).open() as kernel:
        one = await tenant(kernel)
        await (await kernel.tenant("t1")).deploy("slow", slow.module)
        assert await one.call("refuse") == "call_failed"
        assert await one.call("absent") == "function_not_found"
        assert await one.code("list_services", {"unknown": 1}) == "unknown_field"
        assert await one.code("list_tenants") == "permission_denied"
        assert await evolve(one, tenant_id="t9").code("list_services") == "tenant_mismatch"
        async with waiting(one, 10, 100.0):
            assert in_flight(kernel) == 10
        request = Request(one.token)
        await perform(kernel.system, OPERATIONS["watch_events"], request)
        assert in_flight(kernel) == 0, "a stream has a place only until it is open"


async def test_mass_refusal_records_two_events(autojump_clock: MockClock) -> None:
    memory = MemoryKernel({"slow": (slow := Slow()).module}, settings=UNLIMITED)
    async with memory.open() as kernel:
        one = await tenant(kernel, "t1", in_flight=1)
        await (await kernel.tenant("t1")).deploy("slow", slow.module)
        async with waiting(one, 1, 1_000.0):
            last_id = kernel.system.core.loop.state.last_id
            for _ in range(10):
                assert await one.codes(200) == ["overloaded"] * 200
                await trio.sleep(1)
            assert kernel.system.core.loop.state.last_id == last_id + 1
            await trio.sleep(60)
            assert kernel.system.admission.view()["shedding"] == 0
    [_, ended] = await recorded(memory, "load_shed")
    assert ended[2] == {"phase": "ended", "refused": 2_000, "reason": "tenant"}


@pytest.mark.parametrize("how", ["closed", "killed"])
@pytest.mark.parametrize("whose", ["t1", None])
async def test_what_was_going_on_when_the_kernel_ended_is_over_with_the_next(
    how: str, whose: str | None, autojump_clock: MockClock
) -> None:
    memory = MemoryKernel(settings=UNLIMITED)
    with trio.CancelScope() as life:
        async with memory.open() as kernel:
            await tenant(kernel, "t1", in_flight=1)
            state = kernel.system.core.loop.state.tenants["t1"]
            authority = Authority(state.capability_id, "t1", state.incarnation)
            if whose is None:
                authority = Authority(kernel.system.core.loop.state.system.capability_id)
            admission = kernel.system.admission
            with contextlib.ExitStack() as places:
                while True:
                    try:
                        places.enter_context(admission.place(authority))
                    except Faulted:
                        break
            await trio.sleep(2)
            if how == "killed":
                life.cancel()
                await trio.sleep_forever()
    reason = "total" if whose is None else "tenant"
    began = ("load_shed", whose, {"phase": "began", "refused": 1, "reason": reason})
    assert await recorded(memory, "load_shed") == [began]
    for _ in range(2):
        async with memory.open():
            await trio.sleep(1)
        found = await recorded(memory, "load_shed")
        assert found == [began, ("load_shed", whose, {"phase": "ended", "refused": 1, "reason": reason})], "told once"


async def test_a_tenant_that_is_gone_is_not_told_about(autojump_clock: MockClock) -> None:
    memory = MemoryKernel(settings=UNLIMITED)
    async with memory.open() as kernel:
        await tenant(kernel, "t1", in_flight=1)
        state = kernel.system.core.loop.state.tenants["t1"]
        authority = Authority(state.capability_id, "t1", state.incarnation)
        admission = kernel.system.admission
        with admission.place(authority), pytest.raises(Faulted), admission.place(authority):
            pass
        await (await admin(kernel))("remove_tenant", tenant_id="t1")
        await trio.sleep(60)
        assert admission.view()["shedding"] == 0 and admission.load.total == 0
    assert await recorded(memory, "load_shed") in ([], [("load_shed", "t1", None)]), "what there was is erased with it"


# -- circuits


async def deployed(kernel: Kernel, module: object, **more: Any) -> None:
    await (await kernel.tenant("t1")).deploy("slow", module, **more)


async def circuit(one: Asking, service_id: str = "slow") -> str:
    return str((await one("service_status", service_id=service_id))["circuit"])


async def test_a_service_that_does_not_answer_is_held_off_then_tried(autojump_clock: MockClock) -> None:
    memory = MemoryKernel({"slow": (slow := Slow()).module}, settings=evolve(UNLIMITED, call_timeout_s=2.0))
    async with memory.open() as kernel:
        one = await tenant(kernel)
        await deployed(kernel, slow.module)
        assert await circuit(one) == "closed"
        for _ in range(FAILURES):
            assert await one.call("wait", 5) == "call_timeout"
        assert await circuit(one) == "open"
        began = trio.current_time()
        assert [await one.call("wait", 0) for _ in range(5)] == ["circuit_open"] * 5
        assert trio.current_time() == began
        with pytest.raises(Faulted) as refused:
            await one("call", {"args": [0]}, service_id="slow", function="wait")
        assert refused.value.retry_after_s == math.ceil(OPEN_S) and refused.value.code == "circuit_open"
        await trio.sleep(OPEN_S)
        assert await circuit(one) == "half_open"
        assert await one.call("wait", 5) == "call_timeout"
        assert await circuit(one) == "open"
        await trio.sleep(OPEN_S)
        assert [await one.call("wait", 0) for _ in range(2)] == ["ok"] * 2
        assert await circuit(one) == "closed"
        await trio.sleep(2)
        view = (await (await admin(kernel))("show_system"))["use"]["circuits"]
        assert view == {"open": 0, "half_open": 0, "refused": 6}
    opened = {"deployment": 7, "generation": 1, "open_s": OPEN_S, "reason": "call_timeout"}
    told = await recorded(memory, "circuit_opened", "circuit_closed")
    for _, _, payload in told:
        opened["deployment"] = payload["deployment"]
    assert told == [
        ("circuit_opened", "slow", opened | {"failures": FAILURES}),
        ("circuit_opened", "slow", opened | {"failures": 1}),
        ("circuit_closed", "slow", {"deployment": opened["deployment"], "generation": 1}),
    ]


async def test_what_is_no_failure_opens_nothing(autojump_clock: MockClock) -> None:
    memory = MemoryKernel({"slow": (slow := Slow()).module}, settings=evolve(UNLIMITED, call_timeout_s=0.5))
    async with memory.open() as kernel:
        one = await tenant(kernel)
        await deployed(kernel, slow.module)
        for function, code in (
            ("refuse", "call_failed"),
            ("absent", "function_not_found"),
            ("odd", "result_not_serialisable"),
            ("wait", "call_timeout"),  # by an impatient caller
        ):
            args = [9] if function == "wait" else []
            found = {await one.call(function, *args) for _ in range(3 * FAILURES)}
            assert found <= {code, "ok"}, found
        for _ in range(3 * FAILURES):  # callers that leave
            with trio.move_on_after(0.1):
                await one.call("wait", 9)
        assert await circuit(one) == "closed"
    assert await recorded(memory, "circuit_opened") == []


async def test_an_exception_is_an_answer(autojump_clock: MockClock) -> None:
    memory = MemoryKernel({"slow": (slow := Slow()).module}, settings=evolve(UNLIMITED, call_timeout_s=2.0))
    async with memory.open() as kernel:
        one = await tenant(kernel)
        await deployed(kernel, slow.module)
        for function in ("refuse", "absent", "odd"):
            for _ in range(FAILURES - 1):
                assert await one.call("wait", 5) == "call_timeout"
            await one.call(function)
            assert await circuit(one) == "closed"
        for _ in range(FAILURES):
            await one.call("wait", 5)
        await trio.sleep(OPEN_S)
        assert [await one.call("refuse") for _ in range(2)] == ["call_failed"] * 2
        assert await circuit(one) == "closed", "it was there, and worked"


async def test_a_crash_is_one_failure_however_many_calls_it_interrupts(autojump_clock: MockClock) -> None:
    memory = MemoryKernel({"slow": (slow := Slow()).module}, settings=UNLIMITED)
    async with memory.open() as kernel:
        one = await tenant(kernel)
        await deployed(kernel, slow.module, max_restarts=100)
        for number in range(1, FAILURES + 1):
            codes: list[str] = []

            async def call(codes: list[str]) -> None:
                codes.append(await one.call("wait", 20))

            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(call, codes)
                await trio.sleep(15)  # it may have to be started again first
                slow.crash.set()
            assert codes == ["call_interrupted"] * 20
            assert await circuit(one) == ("closed" if number < FAILURES else "open")
        await trio.sleep(40)


async def test_stopping_on_purpose_is_no_failure_and_begins_afresh(autojump_clock: MockClock) -> None:
    memory = MemoryKernel({"slow": (slow := Slow()).module}, settings=evolve(UNLIMITED, call_timeout_s=60.0))
    async with memory.open() as kernel:
        one = await tenant(kernel)
        await deployed(kernel, slow.module)
        codes: list[str] = []

        async def call() -> None:
            codes.append(await one.call("wait", 50))

        for verb in ("restart_service", "pause_service"):
            async with trio.open_nursery() as nursery:
                for _ in range(2 * FAILURES):
                    nursery.start_soon(call)
                await trio.testing.wait_all_tasks_blocked()
                await one(verb, service_id="slow")
            assert await circuit(one) == "closed"
        assert set(codes) <= {"call_interrupted", "service_not_running", "ok"} and "call_interrupted" in codes
        await one("resume_service", service_id="slow")
        assert await one.call("wait", 0) == "ok"


async def test_a_restart_by_hand_closes_it(autojump_clock: MockClock) -> None:
    memory = MemoryKernel({"slow": (slow := Slow()).module}, settings=evolve(UNLIMITED, call_timeout_s=2.0))
    async with memory.open() as kernel:
        one = await tenant(kernel)
        await deployed(kernel, slow.module)
        for _ in range(FAILURES):
            await one.call("wait", 5)
        assert await one.call("wait", 0) == "circuit_open"
        await one("restart_service", service_id="slow")
        assert await circuit(one) == "closed" and await one.call("wait", 0) == "ok"


async def test_after_a_start_of_the_kernel_it_is_half_open(autojump_clock: MockClock) -> None:
    memory = MemoryKernel({"slow": (slow := Slow()).module}, settings=evolve(UNLIMITED, call_timeout_s=2.0))
    async with memory.open() as kernel:
        await tenant(kernel)
        await deployed(kernel, slow.module)
    async with memory.open() as kernel:
        await kernel.wait_recovered()
        one = await tenant(kernel)
        assert await circuit(one) == "half_open"
        async with waiting(one, 50, 1.5):  # nobody is held off meanwhile
            assert slow.under_way == 50
            await trio.sleep(1.6)
        assert await circuit(one) == "closed"
    async with memory.open() as kernel:
        await kernel.wait_recovered()
        one = await tenant(kernel)
        assert await one.call("wait", 5) == "call_timeout"
        assert await circuit(one) == "open"
        await deployed(kernel, slow.module, config={"other": 1}, replace=True)
        assert await circuit(one) == "closed"
        await trio.sleep(2)
    told = [each[0] for each in await recorded(memory, "circuit_opened", "circuit_closed")]
    assert told in ([], ["circuit_opened"]), "that it closed is no news where nothing was open"


async def test_what_opened_before_a_crash_of_the_kernel_is_told_to_close(autojump_clock: MockClock) -> None:
    memory = MemoryKernel({"slow": (slow := Slow()).module}, settings=evolve(UNLIMITED, call_timeout_s=2.0))
    async with memory.open() as kernel:
        one = await tenant(kernel)
        await deployed(kernel, slow.module)
        for _ in range(FAILURES):
            await one.call("wait", 5)
        await trio.sleep(2)
    async with memory.open() as kernel:
        await kernel.wait_recovered()
        one = await tenant(kernel)
        assert [await one.call("wait", 0) for _ in range(3)] == ["ok"] * 3
        await trio.sleep(2)
    assert [each[0] for each in await recorded(memory, "circuit_opened", "circuit_closed")] == [
        "circuit_opened",
        "circuit_closed",
    ]


async def test_calls_between_services_go_through_the_same_circuit(autojump_clock: MockClock) -> None:
    slow, found = Slow(), []

    async def caller(ctx: service.Context) -> None:
        for _ in range(FAILURES + 1):
            with trio.move_on_after(2.0) as scope:
                try:
                    await ctx.call("slow", "wait", 50)
                except service.CallError as error:
                    found.append(error.code)
            if scope.cancelled_caught:
                found.append("call_timeout")
        await trio.sleep_forever()

    memory = MemoryKernel({"slow": slow.module, "caller": caller}, settings=evolve(UNLIMITED, call_timeout_s=2.0))
    async with memory.open() as kernel:
        one = await tenant(kernel)
        await deployed(kernel, slow.module)
        await (await kernel.tenant("t1")).deploy("caller", caller)
        await trio.sleep(2 * FAILURES + 1)
        assert await one.call("wait", 0) == "circuit_open"
        assert found == ["call_timeout"] * FAILURES + ["circuit_open"]


async def test_an_impatient_service_opens_no_circuit_for_the_patient(autojump_clock: MockClock) -> None:
    """Whoever sees the deadline first, the caller or the kernel."""
    slow, gave_up = Slow(), 0

    async def impatient(ctx: service.Context) -> None:
        nonlocal gave_up
        for wait_s in [1.05, 5.0, 29.0] * FAILURES:
            with trio.move_on_after(wait_s):
                with contextlib.suppress(service.CallError):
                    await ctx.call("slow", "wait", 50)
            gave_up += 1
        await trio.sleep_forever()

    memory = MemoryKernel({"slow": slow.module, "impatient": impatient}, settings=UNLIMITED)
    async with memory.open() as kernel:
        one = await tenant(kernel)
        await deployed(kernel, slow.module)
        await (await kernel.tenant("t1")).deploy("impatient", impatient)
        await trio.sleep(40 * FAILURES)
        assert gave_up == 3 * FAILURES
        assert await one.call("wait", 20) == "ok"
        assert await circuit(one) == "closed"


async def test_circuits_of_services_that_are_gone_are_forgotten(autojump_clock: MockClock) -> None:
    memory = MemoryKernel({"slow": (slow := Slow()).module}, settings=evolve(UNLIMITED, call_timeout_s=2.0))
    async with memory.open() as kernel:
        one = await tenant(kernel)
        for number in range(40):
            await (await kernel.tenant("t1")).deploy(f"s{number}", slow.module)
            assert await one.call("wait", 5, service_id=f"s{number}") == "call_timeout"
            await one("delete_service", service_id=f"s{number}")
        circuits = kernel.system.admission.circuits
        assert len(circuits._kept) == 40
        circuits.forget(spare=10)
        assert len(circuits._kept) == 0


async def test_a_journal_that_takes_nothing_harms_no_request(autojump_clock: MockClock) -> None:
    """What there is to tell is told by a task of its own; if that fails, it is noted, and nothing else."""
    memory = MemoryKernel({"slow": (slow := Slow()).module}, settings=UNLIMITED)
    async with memory.open() as kernel:
        one = await tenant(kernel, "t1", in_flight=1)
        await (await kernel.tenant("t1")).deploy("slow", slow.module)

        async def full(*_: Any, **__: Any) -> None:
            raise Faulted("storage_full", "free disk space", retry_after_s=5)

        kernel.system.core.loop.report = full  # type: ignore[method-assign]
        async with waiting(one, 1, 100.0):
            assert await one.codes(3) == ["overloaded"] * 3
            await trio.sleep(3)
            assert await one.codes(3) == ["overloaded"] * 3
        del kernel.system.core.loop.report
