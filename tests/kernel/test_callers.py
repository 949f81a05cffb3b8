"""Whose authority a call has: it goes along from service to service, is never more than any of them, and counts at each use."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from attrs import define, evolve, field

from solo_trio import service
from solo_trio.client import attenuate
from solo_trio.embedding import Kernel
from solo_trio.errors import Rejected, SoloError
from solo_trio.model.mandate import SERVICES_PASSED_MAX, Mandate
from solo_trio.model.spec import ServiceSpec
from solo_trio.operations.caller import Caller, authenticate
from solo_trio.operations.deploying import deploy_spec
from solo_trio.operations.perform import OPERATIONS, Request, perform
from solo_trio.operations.settings import EMBEDDED
from solo_trio.service import CallError
from solo_trio.service.calling import MAIN, answering
from solo_trio.testing import MemoryKernel
from solo_trio.testing.clock import JumpingClock

UNLIMITED = evolve(EMBEDDED, requests_per_second=0)
NAMES = ("a", "b", "c", "d")
Step = Callable[["Link", list[str]], Awaitable[Any]]


@define
class Link:
    """A service that passes calls on, and remembers who made them."""

    ctx: service.Context | None = None
    callers: list[tuple[Any, ...]] = field(factory=list)
    before: Callable[[], Awaitable[None]] | None = None
    """Done before it passes a call on."""

    async def main(self, ctx: service.Context) -> None:
        self.ctx = ctx
        await trio.sleep_forever()

    async def go(self, *path: str) -> str:
        """Call the next of `path`, which goes on; one with "!" before it by itself. Who is not let through is the answer."""
        assert self.ctx is not None
        who = service.caller()
        assert who is self.ctx.caller
        self.callers.append(None if who is None else (who.kind, who.capability_id, who.services))
        if not path:
            return "done"
        target, *rest = path
        call = self.ctx.own.call if target.startswith("!") else self.ctx.call
        try:
            if self.before is not None:
                await self.before()
            return await call(target.removeprefix("!"), "go", *rest)
        except CallError as error:
            return f"{error.code} at {self.ctx.service_id}"

    async def may(self, permission: str, resource: str) -> bool:
        who = service.caller()
        assert who is not None
        return await who.may(permission, resource)

    async def begin(self, *path: str) -> str:
        """As `main` would."""
        assert self.ctx is not None
        self.callers.clear()
        answering(MAIN)
        return await self.go(*path)


for _function in (Link.go, Link.may):
    service.export(_function)


@define
class World:
    kernel: Kernel
    links: dict[str, Link]
    token: str
    incarnation: str

    async def grant(self, *permissions: str, resource: str = "tenant", token: str | None = None, **more: Any) -> str:
        body = {"resource": resource, "permissions": list(permissions), **more}
        return str((await self.ask("create_capability", token, body))["token"])

    async def ask(self, operation: str, token: str | None, body: Any = None, **route: str) -> Any:
        request = Request(token=token or self.token, body=body, route=route)
        return (await perform(self.kernel.system, OPERATIONS[operation], request)).body

    async def go(self, token: str | None, first: str, *path: str) -> str:
        answer = await self.ask("call", token, {"args": list(path)}, service_id=first, function="go")
        return str(answer["result"])


@asynccontextmanager
async def world(deployed_with: dict[str, str] | None = None) -> AsyncIterator[World]:
    """Services a to d; `deployed_with`: the resource that a service may call, if not all of the tenant."""
    links = {name: Link() for name in NAMES}
    async with MemoryKernel(links, clock=JumpingClock(), settings=UNLIMITED).open() as kernel:
        tenant = await kernel.tenant("acme")
        state = kernel.system.core.loop.state.tenants["acme"]
        token = kernel.system.keyring.mint(state.key_id, state.capability_id).reveal_text()
        found = World(kernel, links, token, state.incarnation)
        for name, link in links.items():
            await tenant.deploy(name, link)
        for name, resource in (deployed_with or {}).items():
            await _redeploy(found, name, await found.grant("call", "deploy", resource=resource))
        yield found


async def _redeploy(here: World, name: str, token: str) -> None:
    """The same service, with the rights of `token`."""
    system = here.kernel.system
    caller = Caller(system, authenticate(system, token), "acme", here.incarnation)
    spec = ServiceSpec(entry=f"callable:{name}", digest="", isolation="task", config={"again": 1})
    await deploy_spec(caller, name, spec, b"", replace=True)


async def test_a_shared_service_reaches_nothing_that_its_caller_may_not() -> None:
    async with world() as here:
        weak = await here.grant("call", resource="service:a")
        assert await here.go(weak, "a", "b") == "permission_denied at a"
        assert here.links["b"].callers == [], "it was never called"
        assert await here.go(None, "a", "b") == "done", "the tenant itself may"
        assert await here.go(weak, "a", "!b") == "done", "what the service does by itself, and its author wrote down"


async def test_what_is_refused_on_the_way_is_told_of() -> None:
    """As at a gateway: who tries to use a service as a way round is seen by whoever watches for refusals."""
    async with world() as here:
        weak = await here.grant("call", resource="service:a")
        tenant = await here.kernel.tenant("acme")
        with trio.fail_after(30):
            async with tenant.watch(type="capability_denied") as records:
                for _ in range(3):
                    assert await here.go(weak, "a", "b") == "permission_denied at a"
                payload = (await anext(aiter(records)))["payload"]
        assert (payload["code"], payload["count"]) == ("permission_denied", 3), payload


async def test_a_chain_keeps_narrowing() -> None:
    """Neither does a service in the middle widen what the first caller may, nor the caller what that service may."""
    async with world({"b": "service:b"}) as here:
        everything = await here.grant("call", resource="service:*")
        assert await here.go(everything, "a", "c", "d") == "done"
        assert await here.go(everything, "a", "b", "c") == "permission_denied at b", "b was deployed with less"
        assert await here.go(everything, "a", "b", "!c") == "permission_denied at b"
        one = await here.grant("call", resource="service:*")
        narrowed = attenuate(one, service="a")
        assert await here.go(narrowed, "a", "c") == "permission_denied at a"
        assert await here.go(narrowed, "a", "!c", "d") == "done", "c acts for a, which may"
        assert here.links["d"].callers[-1] == ("service", None, ("a", "c"))


async def test_what_was_passed_on_is_narrowed_by_every_service_on_the_way() -> None:
    """b may nothing but itself; what c does for a call that came through b is therefore nothing either."""
    async with world({"b": "service:c"}) as here:
        everything = await here.grant("call", resource="service:*")
        assert await here.go(everything, "b", "c") == "done"
        assert await here.go(everything, "b", "c", "d") == "permission_denied at c"
        assert await here.go(everything, "c", "d") == "done"
        assert await here.go(everything, "b", "c", "!d") == "done"


async def test_who_is_told() -> None:
    async with world() as here:
        strong = await here.grant("call", resource="service:*")
        capability = authenticate(here.kernel.system, strong).capability_id
        assert await here.go(strong, "a", "b", "c") == "done"
        assert [here.links[name].callers for name in "abc"] == [
            [("credential", capability, ())],
            [("credential", capability, ("a",))],
            [("credential", capability, ("a", "b"))],
        ]
        tenant = await here.kernel.tenant("acme")
        assert await tenant.call("d", "go") == "done"
        assert here.links["d"].callers == [("application", None, ())]
        assert await here.links["a"].begin("b", "c") == "done"
        assert here.links["a"].callers == [None]
        assert here.links["c"].callers[-1] == ("service", None, ("a", "b"))


async def test_what_a_caller_may_is_what_everybody_on_the_way_may() -> None:
    async with world() as here:
        reader = await here.grant("call", "read")
        secrets = await here.grant("read", resource="secret:own")
        for token, permission, resource, may in (
            (reader, "call", "service:b", True),
            (reader, "kill", "service:b", False),
            (reader, "read", "secret:own", False),
            (None, "read", "secret:own", True),
            (None, "read", "system", False),
        ):
            body = {"args": [permission, resource]}
            answer = await here.ask("call", token, body, service_id="a", function="may")
            assert answer["result"] is may, (permission, resource)
        with pytest.raises(Rejected, match="call"):
            await here.ask("call", secrets, {"args": ["read", "secret:own"]}, service_id="a", function="may")
        for permission, resource in (("fly", "tenant"), ("read", "secret:../x"), ("read", "nothing"), ("", "")):
            with pytest.raises(SoloError, match="invalid_"):
                await here.ask("call", None, {"args": [permission, resource]}, service_id="a", function="may")


@pytest.mark.parametrize("how", ["revoked", "expired", "an ancestor is revoked", "rotated"])
async def test_what_a_caller_loses_during_the_call_counts_at_the_next_use(how: str, autojump_clock: Any) -> None:
    async with world() as here:
        parent = await here.grant("call", "grant")
        token = await here.grant("call", token=parent, **({"ttl_s": 5} if how == "expired" else {}))
        assert await here.go(token, "a", "b", "c") == "done"

        async def lose() -> None:
            if how == "expired":
                await trio.sleep(6)
            elif how == "rotated":
                await here.ask("rotate_token", None)
            else:
                await here.ask("revoke_token", None, {"token": token if how == "revoked" else parent})

        here.links["b"].before = lose
        assert await here.go(token, "a", "b", "c") == "permission_denied at b"
        assert len(here.links["c"].callers) == 1
        with pytest.raises(Rejected, match="token"):
            await here.go(token, "a")


async def test_a_service_that_was_replaced_passes_nothing_on_any_more() -> None:
    """What b does for a call of the old a is not done with the rights of the new one."""
    async with world() as here:
        token = await here.grant("call")

        async def replace() -> None:
            await _redeploy(here, "a", here.token)

        here.links["b"].before = replace
        tenant = await here.kernel.tenant("acme")
        assert tenant
        with pytest.raises(SoloError) as caught:
            await here.go(token, "a", "b", "c")
        assert caught.value.code == "call_interrupted"
        assert here.links["c"].callers == []


async def test_another_services_ctx_is_not_a_way_round() -> None:
    """Tasks share a process: what a call of one does through the context of another is refused, not done as that one."""
    async with world() as here:
        weak = await here.grant("call", resource="service:a")
        held = trio.Event()

        async def hold() -> None:
            held.set()
            await trio.sleep_forever()

        async def through() -> None:
            theirs = here.links["b"].ctx
            assert theirs is not None and theirs.caller is None
            with pytest.raises(CallError, match="another service"):
                await theirs.call("c", "go")

        here.links["a"].before, here.links["b"].before = through, hold
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                here.go, None, "b", "d"
            )  # in flight there, with the number that the other has in its place
            await held.wait()
            assert await here.go(weak, "a", "d") == "permission_denied at a"
            nursery.cancel_scope.cancel()
        assert here.links["c"].callers == []


def test_a_call_goes_through_a_bounded_number_of_services() -> None:
    mandate = Mandate.of_service("acme", "s0", 1)
    for number in range(1, SERVICES_PASSED_MAX):
        mandate = mandate.through(f"s{number}", 1)
    assert mandate.through("s5", 1).passed[-1].service_id == "s5", "one that is on the way already is none more"
    assert len(mandate.through("s5", 1).passed) == SERVICES_PASSED_MAX
    with pytest.raises(Rejected):
        mandate.through("one_more", 1)
