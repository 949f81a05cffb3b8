"""One request of a client. Owns: sending it, what came of it, what follows for any request at once. Never: what is asked."""

from __future__ import annotations

from typing import Any, Final

import trio
from attrs import frozen

from simulation.ledger import NOTHING_WRITTEN, Asked, Credential
from simulation.world import HANG_S, World
from solo_trio.errors import SoloError
from solo_trio.operations.perform import OPERATIONS, Request, perform

IMPATIENT: Final = 0.04
"""The share of requests whose client goes away before the answer."""
LOST: Final = frozenset({"kernel_stopped", "shutting_down", "journal_failed"})
"""Nobody can say whether it was done."""


@frozen
class Reply:
    """`outcome`: answered, refused (nothing came of it, or it is told what), unknown."""

    outcome: str
    request_id: str
    code: str = ""
    status: int = 0
    body: Any = None
    event_ids: tuple[int, ...] = ()
    """What the log has of it, as the kernel told."""

    @property
    def answered(self) -> bool:
        return self.outcome == "answered"


async def ask(
    world: World,
    name: str,
    credential: Credential,
    *,
    tenant_id: str | None = None,
    route: dict[str, str] | None = None,
    query: dict[str, str] | None = None,
    body: Any = None,
    key: str | None = None,
    revision: int | None = None,
) -> Reply:
    """Ask whatever kernel is up, or the next one that is."""
    life = await world.wait_up()
    assert life.system is not None
    request_id = f"r{len(world.ledger.asked)}"
    asked = world.ledger.asked[request_id] = Asked(name, credential.chain, key)
    dead, good = world.ledger.is_dead(credential), world.ledger.is_good(credential)
    request = Request(
        token=credential.token,
        tenant_id=tenant_id if credential.tenant_id is None else None,
        route=route or {},
        query=query or {},
        body=body,
        idempotency_key=key,
        if_match=None if revision is None else str(revision),
        request_id=request_id,
    )
    world.note(f"{request_id} asks {name} {tenant_id} {route} {query} {key}")
    answer, error = None, None
    world.sent(keyed=key is not None)
    impatient = world.chance.random() < IMPATIENT and not world.calm
    with trio.CancelScope() as scope:
        life.connections[scope] = None
        scope.deadline = trio.current_time() + (world.chance.expovariate(2.0) if impatient else HANG_S)
        try:
            answer = await perform(life.system, OPERATIONS[name], request)
        except SoloError as raised:
            error = raised
        except Exception as raised:  # noqa: BLE001 - a gateway would answer 500; here it is a finding
            if not life.dead:
                world.violate(f"{request_id} {name} raised {type(raised).__name__}: {raised}")
        finally:
            del life.connections[scope]
    if life.dead or scope.cancelled_caught or (answer is None and error is None):
        if scope.cancelled_caught and not life.dead and not impatient:
            world.violate(f"{request_id} {name} was not answered in {HANG_S} s")
        return _over(world, asked, Reply("unknown", request_id))
    assert life.journal is not None
    ids = tuple(life.journal.by_request.get(request_id, ()))
    if error is not None:
        # A grant whose tenant is removed in the next moment was written, and is not found: as if there were no tenant.
        overtaken = (name, error.code) == ("create_capability", "capability_not_found")
        reply = Reply(
            "unknown" if error.code in LOST else "refused",
            request_id,
            "tenant_not_found" if overtaken else error.code,
            error.status,
            event_ids=ids,
        )
        if error.code == "kernel_bug":
            world.violate(f"{request_id} {name}: {error.detail}")
        if reply.outcome == "refused":
            world.told(f"{request_id} was refused")
            if ids and reply.code in NOTHING_WRITTEN:
                world.violate(f"{request_id} {name} was refused with {error.code} and wrote events {ids}")
            if good and error.code == "unauthenticated" and world.ledger.is_good(credential):
                world.violate(f"{request_id} {name}: a good token was refused")
        return _over(world, asked, reply)
    assert answer is not None
    world.told(f"{request_id} was answered")
    world.acknowledged += 1
    if dead:
        world.violate(f"{request_id} {name} was answered, made with a credential that had been revoked")
    return _over(
        world,
        asked,
        Reply("answered", request_id, "", getattr(answer, "status", 200), getattr(answer, "body", None), ids),
    )


def _over(world: World, asked: Asked, reply: Reply) -> Reply:
    asked.outcome, asked.code = reply.outcome, reply.code
    world.note(f"{reply.request_id} {reply.outcome} {reply.code} {reply.status} {reply.event_ids}")
    return reply
