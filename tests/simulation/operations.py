"""What clients do to services and tenants. Owns: random requests, what answers mean to the ledger. Never: checks a log."""

from __future__ import annotations

import hashlib
from typing import Any, Final

from attrs import evolve

from simulation.asking import Reply, ask
from simulation.behaviours import CRASHED, source
from simulation.ledger import ABSENT, Credential, Key, Values, becomes
from simulation.world import World
from solo_trio.kernel.loop import IDEMPOTENCY_SECONDS

TENANTS: Final = ("a", "b", "c")
SERVICES: Final = ("s", "t", "u", "v")
PAUSED: Final = "paused"
RUNS: Final = "runs"
COINCIDING: Final = 0.3
"""The share of requests in whose moment something else happens to what they are about."""
AIMED: Final = 0.85
"""The share of requests about something that is probably there."""


def service_key(tenant_id: str, service_id: str) -> Key:
    return ("service", tenant_id, service_id)


def tenant_key(tenant_id: str) -> Key:
    return ("tenant", tenant_id, "")


class ServiceOperations:
    """Those of one client."""

    def __init__(self, world: World, system: Credential) -> None:
        self.world = world
        self.ledger = world.ledger
        self.chance = world.chance
        self.system = system
        self.revisions: dict[tuple[str, str], int] = {}

    # -- choosing

    def tenant(self) -> str:
        """One that is there, mostly."""
        there = [each for each in TENANTS if self.ledger.entry(tenant_key(each)).sure != ABSENT]
        return self.chance.choice(there if there and self.chance.random() < AIMED else TENANTS)

    def service(self, tenant_id: str) -> str:
        """One that is there, mostly."""
        there = [each for each in SERVICES if self.ledger.entry(service_key(tenant_id, each)).values != {ABSENT}]
        return self.chance.choice(there if there and self.chance.random() < AIMED else SERVICES)

    def credential(self, tenant_id: str, *, whole: bool = True) -> Credential:
        """One for that tenant: the system's, or one that a client holds."""
        held = [each for each in self.ledger.credentials if each.tenant_id == tenant_id and (each.whole or not whole)]
        if self.chance.random() < AIMED:
            held = [each for each in held if not self.ledger.is_dead(each)]
        if not held or self.chance.random() < 0.4:
            return self.system
        return self.chance.choice(held[-6:])

    def key(self) -> str | None:
        """An Idempotency-Key, sometimes."""
        return f"k{len(self.ledger.asked)}" if self.chance.random() < 0.4 else None

    async def again(self, reply: Reply, key: str | None, name: str, credential: Credential, **request: Any) -> Reply:
        """The same request again, if it has a key and its answer was lost (or just so); what came of all of them."""
        written, lost, answered = set(reply.event_ids), False, reply if reply.answered else None
        for _ in range(3):
            if key is None or not (reply.outcome == "unknown" or (reply.answered and self.chance.random() < 0.2)):
                break
            before, reply = reply, await ask(self.world, name, credential, key=key, **request)
            self.compare(name, before, reply)
            written.update(reply.event_ids, self.written_by(before))
            lost |= before.outcome == "unknown"
            answered = reply if reply.answered else answered
        if answered is not None:  # whatever the credential was worth the next time
            reply = answered
        elif lost and reply.outcome == "refused":  # but one before may have been done
            reply = evolve(reply, outcome="unknown")
        return evolve(reply, event_ids=tuple(sorted(written)))

    def written_by(self, reply: Reply) -> list[int]:
        life = self.world.life
        return (
            life.journal.by_request.get(reply.request_id, []) if life is not None and life.journal is not None else []
        )

    def is_forgotten(self, event_id: int) -> bool:
        """A key is good for a day; that one is over where a clock that leapt while the kernel was down was believed."""
        life = self.world.life
        assert life is not None and life.journal is not None
        return life.journal.age_us(event_id) > IDEMPOTENCY_SECONDS * 1_000_000

    def compare(self, name: str, before: Reply, after: Reply) -> None:
        """What a repeated request says to what the first one did."""
        done = self.written_by(before)
        if done and self.is_forgotten(done[0]):
            return
        if done and after.event_ids and name != "delete_service":
            self.world.violate(f"{after.request_id} repeats {before.request_id}, and both were done")
        if done and after.code in ("service_exists", "tenant_exists"):
            self.world.violate(f"{after.request_id} repeats {before.request_id}, which was done: {after.code}")
        if before.answered and after.answered and name != "verify" and _told(before.body) != _told(after.body):
            self.world.violate(f"{after.request_id} repeats {before.request_id}, and is answered otherwise")

    # -- tenants

    async def create_tenant(self) -> None:
        tenant_id, key = self.tenant(), self.key()
        label, since = f"life {len(self.ledger.asked)}", self.ledger.settlements
        with self.ledger.change(tenant_key(tenant_id)) as change:
            body = {"tenant_id": tenant_id}
            reply = await ask(self.world, "create_tenant", self.system, body=body, key=key)
            reply = await self.again(reply, key, "create_tenant", self.system, body=body)
            if reply.answered:
                self.ledger.renewed(tenant_id, since)
                self.ledger.credentials.append(Credential(reply.body["token"], tenant_id, label))
            if reply.code == "tenant_not_found":  # repeated, and removed in between
                reply = Reply("unknown", reply.request_id)
            change.settle(reply.outcome, becomes(label))

    async def remove_tenant(self) -> None:
        tenant_id = self.tenant()
        with self.ledger.removal(tenant_id) as change:
            query = {"grace_ms": self.chance.choice(("0", "500", "5000"))}
            reply = await ask(self.world, "remove_tenant", self.system, route={"tenant_id": tenant_id}, query=query)
            if reply.answered and reply.body.get("unresponsive"):
                reply = Reply("unknown", reply.request_id)
            if reply.code == "tenant_not_found":  # so there is none; what it had is not told
                reply = Reply("refused", reply.request_id)
            change.settle(reply.outcome, becomes(ABSENT))
            if reply.answered:
                change.effect = lambda before: frozenset({ABSENT})

    async def update_tenant(self) -> None:
        body = {"limits": {"max_services": self.chance.choice((2, 10, 100))}}
        await ask(self.world, "update_tenant", self.system, route={"tenant_id": self.tenant()}, body=body)

    # -- services

    async def deploy(self) -> None:
        tenant_id, key = self.tenant(), self.key()
        service_id = self.chance.choice(SERVICES)
        credential = self.credential(tenant_id)
        code, wait, replace = source(self.chance), self.chance.random() < 0.75, self.chance.random() < 0.4
        body: dict[str, Any] = {
            "service_id": service_id,
            "code": code,
            "restart": self.chance.choice(("permanent", "permanent", "transient", "temporary")),
            "restart_limits": self._restart_limits(),
            "secrets": ["k"] if self.chance.random() < 0.3 else [],
        }
        if self.chance.random() < 0.15:
            body["depends_on"] = [self.service(tenant_id)]
        request: dict[str, Any] = {"tenant_id": tenant_id, "body": body}
        request["query"] = {"wait": str(wait).lower(), "replace": str(replace).lower()}
        digest = hashlib.sha256(code.encode()).hexdigest()
        with self.ledger.change(service_key(tenant_id, service_id)) as change:
            reply = await ask(self.world, "deploy", credential, key=key, **request)
            reply = await self.again(reply, key, "deploy", credential, **request)
            done = reply.outcome
            if done == "refused" and reply.event_ids and reply.code != "service_start_failed":
                done = "unknown"
            if reply.answered:
                self.revisions[tenant_id, service_id] = reply.body["revision"]
                if reply.body["digest"] != digest:
                    self.world.violate(f"{reply.request_id} was answered with the digest of something else")
            if reply.status == 202:
                done = "unknown"
            change.settle(done, becomes((digest, RUNS)))

    def _restart_limits(self) -> dict[str, Any]:
        return {"max_restarts": self.chance.choice((0, 1, 2, 5)), "max_seconds": self.chance.choice((1.0, 10.0, 60.0))}

    async def delete_service(self) -> None:
        tenant_id, key = self.tenant(), self.key()
        service_id = self.service(tenant_id)
        credential = self.credential(tenant_id)
        request: dict[str, Any] = {"tenant_id": tenant_id, "route": {"service_id": service_id}}
        query = {"grace_ms": self.chance.choice(("0", "300", "5000"))}
        if self.chance.random() < 0.2:
            query["force"] = "true"
        with self.ledger.change(service_key(tenant_id, service_id)) as change:
            self._coincide(tenant_id, service_id)
            reply = await ask(self.world, "delete_service", credential, query=query, key=key, **request)
            reply = await self.again(reply, key, "delete_service", credential, query=query, **request)
            change.settle(reply.outcome, becomes(ABSENT))
            if reply.answered and not reply.body.get("unresponsive"):
                self._nothing_runs(tenant_id, service_id, "was deleted")

    async def pause_service(self) -> None:
        await self._turn("pause_service", PAUSED)

    async def resume_service(self) -> None:
        await self._turn("resume_service", RUNS)

    async def restart_service(self) -> None:
        tenant_id = self.tenant()
        service_id = self.service(tenant_id)
        with self.ledger.change(service_key(tenant_id, service_id)) as change:
            change.settle("unknown", lambda before: before)
            self._coincide(tenant_id, service_id)
            await ask(
                self.world,
                "restart_service",
                self.credential(tenant_id),
                tenant_id=tenant_id,
                route={"service_id": service_id},
                key=self.key(),
            )

    async def _turn(self, name: str, to: str) -> None:
        tenant_id, key = self.tenant(), self.key()
        service_id = self.service(tenant_id)
        credential = self.credential(tenant_id)
        request: dict[str, Any] = {"tenant_id": tenant_id, "route": {"service_id": service_id}}

        def turned(before: Values | None) -> Values | None:
            return None if before is None else frozenset((each[0], to) for each in before if each != ABSENT)

        with self.ledger.change(service_key(tenant_id, service_id)) as change:
            self._coincide(tenant_id, service_id)
            reply = await ask(self.world, name, credential, key=key, **request)
            reply = await self.again(reply, key, name, credential, **request)
            # A resume that is refused may have been recorded: the service then did not become ready.
            change.settle("unknown" if reply.outcome == "refused" and reply.event_ids else reply.outcome, turned)
            if reply.answered and to == PAUSED and not reply.body.get("unresponsive"):
                self._nothing_runs(tenant_id, service_id, "was paused")

    def _coincide(self, tenant_id: str, service_id: str) -> None:
        """Sometimes what runs crashes in the moment in which something is asked for it."""
        if self.chance.random() < COINCIDING:
            for running in list(self.world.processes.alive.values()):
                if (running.launch.tenant_id, running.launch.service_id) == (tenant_id, service_id):
                    running.end(CRASHED, self.chance.uniform(0.0, 0.04))

    def _nothing_runs(self, tenant_id: str, service_id: str, why: str) -> None:
        """Of the deployment that the answer was about."""
        entry = self.ledger.entry(service_key(tenant_id, service_id))
        if entry.in_flight > 1 or entry.overlapped or self.ledger.removing.get(tenant_id):
            return
        for running in list(self.world.processes.alive.values()):
            if (running.launch.tenant_id, running.launch.service_id) == (tenant_id, service_id):
                self.world.violate(f"{tenant_id}/{service_id} {why}, and generation {running.launch.generation} runs")

    async def update_service(self) -> None:
        tenant_id = self.tenant()
        service_id = self.service(tenant_id)
        revision = self.revisions.get((tenant_id, service_id)) if self.chance.random() < 0.2 else None
        await ask(
            self.world,
            "update_service",
            self.credential(tenant_id),
            tenant_id=tenant_id,
            route={"service_id": service_id},
            body={"restart_limits": self._restart_limits()},
            revision=revision,
        )

    async def call(self) -> None:
        tenant_id = self.tenant()
        function, args = self.chance.choice(
            (
                ("echo", [1]),
                ("slow", [self.chance.uniform(0, 40)]),
                ("secret", ["k"]),
                ("relay", [self.service(tenant_id)]),
                ("raise", []),
            )
        )
        await ask(
            self.world,
            "call",
            self.credential(tenant_id),
            tenant_id=tenant_id,
            route={"service_id": self.service(tenant_id), "function": function},
            body={"args": args},
        )

    async def look(self) -> None:
        """Read, and compare with what was told."""
        tenant_id = self.tenant()
        credential = self.credential(tenant_id)
        reply = await ask(self.world, "list_services", credential, tenant_id=tenant_id)
        if reply.answered:
            shown = {each["service_id"]: each for each in reply.body["services"]}
            for service_id in SERVICES:
                found = shown.get(service_id)
                entry = self.ledger.entry(service_key(tenant_id, service_id))
                if found is None and entry.sure not in (None, ABSENT):
                    self.world.violate(f"{tenant_id}/{service_id} was deployed and is not listed")
                if found is not None and entry.sure == ABSENT and found["status"] != "stopping":
                    self.world.violate(f"{tenant_id}/{service_id} was deleted and is listed")


def _told(body: Any) -> Any:
    """What must be the same in each answer to one request."""
    if not isinstance(body, dict):
        return body
    return {name: value for name, value in body.items() if name not in ("status", "findings", "unresponsive", "reason")}
