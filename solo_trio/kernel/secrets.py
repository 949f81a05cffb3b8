"""Secrets at work. Owns: opening what is sealed, handing it to services, saying who had it. Never: shows or keeps a value
beyond the service's life.

That a value is handed out is durable before it is. A refusal is not waited for: it is counted, and told about later.
"""

from __future__ import annotations

from typing import Any

import orjson
import trio

from solo_trio.errors import Faulted, Rejected
from solo_trio.kernel.derivations import DERIVATIONS_MAX, Derivations
from solo_trio.kernel.secret_refusals import Refusals
from solo_trio.kernel.staging import Submission
from solo_trio.kernel.surroundings import Surroundings
from solo_trio.model.ids import check_secret_name
from solo_trio.model.record import KeyRow, SecretRow
from solo_trio.model.secret import SecretVersion
from solo_trio.model.secret_requests import RecordAccess, denied, granted_to, not_found, version_of
from solo_trio.model.service_lookup import demand_of_service
from solo_trio.model.tenant import TenantState, tenant_of
from solo_trio.policy.redaction import Redactor
from solo_trio.vault.sealing import Value, WrongKey
from solo_trio.vault.secret import Secret
from solo_trio.vault.vault import Vault


class Secrets:
    """Without a vault there are none."""

    def __init__(self, core: Surroundings, vault: Vault | None) -> None:
        self._core = core
        self._vault = vault
        self._derivations = Derivations()
        self._threads = trio.CapacityLimiter(DERIVATIONS_MAX)
        self._refusals = Refusals(core)

    # -- sealing and opening

    async def seal(
        self, tenant: TenantState, name: str, value: Value, agent_key: Secret | None
    ) -> tuple[SecretRow, KeyRow | None]:
        """The row to be kept, and the key to be kept with it if that may not be in the journal yet (see `kept`)."""
        vault = self._having_vault()
        key = vault.prepare(tenant.incarnation)
        if agent_key is None:
            return vault.seal(tenant.incarnation, name, value, None), key
        async with self._derivations.turn(tenant.incarnation):
            row = await trio.to_thread.run_sync(
                vault.seal, tenant.incarnation, name, value, agent_key, limiter=self._threads
            )
        return row, key

    def kept(self, tenant: TenantState) -> None:
        """A row that `seal` made is in the journal."""
        self._having_vault().committed(tenant.incarnation)

    async def open(
        self, tenant: TenantState, name: str, version: SecretVersion, agent_key: Secret | None = None
    ) -> Value:
        """The value. Raises `WrongKey`, `Rejected`, `Faulted`."""
        vault = self._having_vault()
        if (version.sealed_by == "agent") != (agent_key is not None):
            raise WrongKey
        try:
            row = await self._core.journal.secret(tenant.incarnation, name, version.version)
        except Faulted:
            now = tenant_of(self._core.loop.state, tenant.tenant_id, tenant.incarnation).secrets.get(name)
            if now is None or now.version(version.version) != version:
                raise not_found(name) from None  # shredded while it was looked for
            raise
        if row.version_id != version.version_id:
            raise Faulted("data_damaged", f"the secret '{name}' is not the one that was set: set it again")
        if agent_key is None:
            return vault.unseal(row, None)
        async with self._derivations.turn(tenant.incarnation):
            return await trio.to_thread.run_sync(vault.unseal, row, agent_key, limiter=self._threads)

    def code_of(self, value: Any) -> str:
        """What tells a JSON value from others, and tells nobody who has not the master key anything about it."""
        return self._having_vault().code_of(orjson.dumps(value, option=orjson.OPT_SORT_KEYS))

    def forget(self, incarnation: str) -> None:
        """The tenant was removed."""
        if self._vault is not None:
            self._vault.forget(incarnation)

    def _having_vault(self) -> Vault:
        if self._vault is None:
            raise Rejected("secret_not_found", "this kernel was made without a vault")
        return self._vault

    # -- refusals

    @property
    def denials(self) -> int:
        """Since the kernel started."""
        return self._refusals.total

    def refused(self, tenant: TenantState, name: str, by: str, service_id: str | None = None) -> None:
        """Count one; never blocks."""
        self._refusals.note(tenant.tenant_id, tenant.incarnation, name, by, service_id)

    async def run(self) -> None:
        """Tell about refusals, until cancelled."""
        await self._refusals.run()

    # -- services

    def of_service(
        self, tenant_id: str, incarnation: str, service_id: str, deployment: int, generation: int, redactor: Redactor
    ) -> ServiceSecrets:
        return ServiceSecrets(self, self._core, tenant_id, incarnation, service_id, deployment, generation, redactor)


class ServiceSecrets:
    """What one generation of a service gets with `ctx.secret`."""

    def __init__(
        self,
        secrets: Secrets,
        core: Surroundings,
        tenant_id: str,
        incarnation: str,
        service_id: str,
        deployment: int,
        generation: int,
        redactor: Redactor,
    ) -> None:
        self._secrets = secrets
        self._core = core
        self._tenant_id = tenant_id
        self._incarnation = incarnation
        self._service_id = service_id
        self._deployment = deployment
        self._generation = generation
        self._redactor = redactor
        self._given: dict[str, tuple[str, Value]] = {}
        """By name: the version's id, and the value."""
        self._asking = trio.Lock()

    async def __call__(self, name: str) -> str | bytes:
        """The newest value. Raises `SoloError`: secret_not_found, secret_access_denied, ..."""
        async with self._asking:  # so that what is asked for twice at once is recorded once
            tenant, version = self._granted(name)
            given = self._given.get(name)
            if given is None or given[0] != version.version_id:
                value = await self._secrets.open(tenant, name, version)
                await self._core.loop.submit(Submission(self._access(name, version), causation_id=self._deployment))
                self._given[name] = given = (version.version_id, value)
                self._redactor.add(name, value.data.reveal())
        value = given[1]
        return value.data.reveal() if value.binary else value.data.reveal_text()

    def _granted(self, name: str) -> tuple[TenantState, SecretVersion]:
        """The version to give, at this moment."""
        tenant = tenant_of(self._core.loop.state, self._tenant_id, self._incarnation)
        check_secret_name(name)
        try:
            granted_to(tenant, self._service_id, self._deployment, name)
            now = self._core.loop.now()
            demand_of_service(
                self._core.loop.state, tenant, self._service_id, self._deployment, f"secret:{name}", "read", now
            )
            version = version_of(tenant, name, None)
            if version.sealed_by == "agent":
                raise denied(f"'{name}' was set with a key of the agent, which alone can reveal it")
        except Rejected as refusal:
            if refusal.code in ("secret_access_denied", "permission_denied"):
                self._secrets.refused(tenant, name, f"service:{self._service_id}", self._service_id)
            self._given.pop(name, None)
            raise
        return tenant, version

    def _access(self, name: str, version: SecretVersion) -> RecordAccess:
        return RecordAccess(
            self._tenant_id,
            self._incarnation,
            name,
            version.version,
            version.version_id,
            f"service:{self._service_id}",
            self._service_id,
            self._deployment,
            self._generation,
        )
