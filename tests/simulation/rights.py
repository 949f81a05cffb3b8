"""What clients do with rights and secrets. Owns: random requests, what answers mean to the ledger. Never: checks a log."""

from __future__ import annotations

from typing import Any, Final

import trio

from simulation.asking import ask
from simulation.ledger import ABSENT, VALID, Credential, Key, Values, becomes
from simulation.operations import COINCIDING, ServiceOperations

NAMES: Final = ("k", "l")
RECORDED_S: Final = 5.0
"""After a full disk, until everything is recorded that waited for it: a retry of each second, and a look of 1.5 s."""
PERMISSIONS: Final = (["*"], ["read"], ["read", "deploy", "kill"])


def capability_key(tenant_id: str, capability_id: str) -> Key:
    return ("capability", tenant_id, capability_id)


class RightsOperations(ServiceOperations):
    """Those of one client."""

    # -- capabilities

    async def grant(self) -> None:
        held = self._own_of_a_tenant()
        if held is None:
            return
        tenant_id = held.tenant_id or ""
        resource, permissions = self.chance.choice(
            (("tenant", ["*"]), ("service:*", ["read", "deploy", "kill", "call"]))
        )
        body: dict[str, Any] = {"resource": resource, "permissions": permissions}
        expires = self.chance.random() < 0.15
        if expires:
            body["ttl_s"] = self.chance.choice((5.0, 100.0, 100_000.0))
        key = self.key()
        reply = await ask(self.world, "create_capability", held, body=body, key=key)
        reply = await self.again(reply, key, "create_capability", held, body=body)
        if reply.answered:
            made = Credential(
                reply.body["token"],
                tenant_id,
                held.label,
                (*held.chain, reply.body["id"]),
                whole=resource == "tenant",
                expires=held.expires or expires,
            )
            entry = self.ledger.entry(capability_key(tenant_id, reply.body["id"]))
            if not entry.in_flight:
                entry.values = frozenset({VALID})
            self.ledger.credentials.append(made)

    async def attenuate(self) -> None:
        held = self._own_of_a_tenant()
        if held is None:
            return
        reply = await ask(self.world, "attenuate_capability", held, body={"token": held.token, "permissions": ["*"]})
        if reply.answered:
            tenant_id = held.tenant_id or ""
            entry = self.ledger.entry(capability_key(tenant_id, reply.body["id"]))
            if not entry.in_flight:
                entry.values = frozenset({VALID})
            self.ledger.credentials.append(
                Credential(
                    reply.body["token"],
                    tenant_id,
                    held.label,
                    (*held.chain, reply.body["id"]),
                    expires=held.expires,
                    narrowed=True,
                )
            )

    async def revoke(self) -> None:
        """By its id, or by its token; in the same moment somebody uses it."""
        found = [each for each in self.ledger.credentials[-8:] if each.chain]
        if not found:
            return
        revoked = self.chance.choice(found)
        tenant_id, capability_id = revoked.tenant_id or "", revoked.chain[-1]
        if self.ledger.is_dead(revoked):
            return
        async with trio.open_nursery() as nursery:
            if self.chance.random() < 2 * COINCIDING:
                nursery.start_soon(self._set, tenant_id, self.chance.choice(NAMES), revoked)
            nursery.start_soon(self._revoke, revoked, tenant_id, capability_id)

    async def _revoke(self, revoked: Credential, tenant_id: str, capability_id: str) -> None:
        with self.ledger.change(capability_key(tenant_id, capability_id)) as change:
            if self.chance.random() < 0.6 and not revoked.narrowed:
                route = {"capability_id": capability_id}
                reply = await ask(
                    self.world, "revoke_capability", self.system, tenant_id=tenant_id, route=route, key=self.key()
                )
            else:
                reply = await ask(self.world, "revoke_token", revoked, body={"token": revoked.token}, key=self.key())
            # Whoever says that it is not there: so it is, whatever it was.
            change.settle(reply.outcome, becomes(ABSENT))

    async def use_revoked(self) -> None:
        """Nothing is to be had with what was revoked; `ask` judges."""
        dead = [each for each in self.ledger.credentials if self.ledger.is_dead(each)]
        if dead:
            await ask(self.world, "list_services", self.chance.choice(dead))

    async def use_any(self) -> None:
        """With a credential that somebody may be revoking."""
        if self.ledger.credentials:
            held = self.chance.choice(self.ledger.credentials[-5:])
            request: dict[str, Any] = {"route": {"name": self.chance.choice(NAMES)}, "body": {"value": "any"}}
            if held.whole:
                await self._set(held.tenant_id or "", request["route"]["name"], held)
            else:
                await ask(self.world, "list_services", held)

    def _own_of_a_tenant(self) -> Credential | None:
        held = [each for each in self.ledger.credentials if each.whole and not self.ledger.is_dead(each)]
        return self.chance.choice(held) if held else None

    # -- secrets

    async def set_secret(self) -> None:
        tenant_id = self.tenant()
        await self._set(tenant_id, self.chance.choice(NAMES), self.credential(tenant_id))

    async def _set(self, tenant_id: str, name: str, credential: Credential) -> None:
        value, key = f"value {len(self.ledger.asked)}", self.key()
        request: dict[str, Any] = {"tenant_id": tenant_id, "route": {"name": name}, "body": {"value": value}}
        with self.ledger.change(("secret", tenant_id, name)) as change:
            reply = await ask(self.world, "set_secret", credential, key=key, **request)
            reply = await self.again(reply, key, "set_secret", credential, **request)
            change.settle(reply.outcome, becomes(value))

    async def delete_secret(self) -> None:
        tenant_id, name = self.tenant(), self.chance.choice(NAMES)
        with self.ledger.change(("secret", tenant_id, name)) as change:
            reply = await ask(
                self.world,
                "delete_secret",
                self.credential(tenant_id),
                tenant_id=tenant_id,
                route={"name": name},
                key=self.key(),
            )
            change.settle(reply.outcome, becomes(ABSENT))

    async def reveal_secret(self) -> None:
        tenant_id, name = self.tenant(), self.chance.choice(NAMES)
        entry = self.ledger.entry(("secret", tenant_id, name))
        open_before: Values | None = None if entry.in_flight else entry.values
        reply = await ask(
            self.world, "reveal_secret", self.credential(tenant_id), tenant_id=tenant_id, route={"name": name}
        )
        if entry.in_flight or open_before is None or entry.values != open_before:
            return
        if reply.answered and reply.body["value"] not in open_before:
            self.world.violate(f"{tenant_id}/{name} was revealed as {reply.body['value']}, and may be {open_before}")
        if reply.code == "secret_not_found" and ABSENT not in open_before:
            self.world.violate(f"{tenant_id}/{name} was set and is not found")

    # -- the system

    async def verify(self) -> None:
        reply = await ask(self.world, "verify", self.system)
        life = self.world.life
        fails = life is not None and life.journal is not None and life.journal.failure is not None
        full = self.world.disk.full or trio.current_time() < self.world.full_until + RECORDED_S
        if fails or full:
            return  # the kernel ends; or cannot record that something has ended, which it therefore says to run
        if reply.answered and reply.body["status"] == "failed":
            wrong = [each["detail"] for each in reply.body["checks"] if each["status"] == "failed"]
            self.world.violate(f"a verification failed: {wrong}")

    async def checkpoint(self) -> None:
        await ask(self.world, "checkpoint", self.system)

    async def pause_system(self) -> None:
        await ask(self.world, "pause_system", self.system)

    async def resume_system(self) -> None:
        await ask(self.world, "resume_system", self.system)

    async def accept_clock(self) -> None:
        await ask(self.world, "accept_clock", self.system)

    async def jump_clock(self) -> None:
        self.world.clock.jump(self.chance.choice((-86_400.0, -100.0, 50.0, 250.0, 4_000.0, 1e7)))
        self.world.note("the wall clock jumps")
