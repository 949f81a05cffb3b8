"""Solo inside a Trio application. Owns: the handles `Kernel`, `Tenant`, `Service`. Never: rules (operations have those).

Leaving `Kernel.open` shuts down gracefully, cancelling it is a crash; either way services stay wanted. Leaving any other
handle does nothing.
"""

from __future__ import annotations

import inspect
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import trio

from solo_trio.bootstrap import running_system
from solo_trio.errors import Faulted, Rejected, SoloError
from solo_trio.model.capability import EMBEDDER
from solo_trio.model.ids import check_id
from solo_trio.model.spec import ServiceSpec
from solo_trio.model.tenant import TenantLimits
from solo_trio.operations import calls, changing, deploying, explanations, services
from solo_trio.operations import secrets as secret_operations
from solo_trio.operations.caller import Caller, System
from solo_trio.operations.events import EventsInput, Records, WatchInput, list_events, watch_events
from solo_trio.operations.inputs import checked
from solo_trio.operations.logs import LogsInput, list_logs
from solo_trio.operations.paging import PAGE_MAX
from solo_trio.operations.settings import EMBEDDED, Settings
from solo_trio.operations.tenants import RemoveTenantInput, create, remove_tenant

if TYPE_CHECKING:
    from solo_trio.gateways.http.tls import Tls, TlsFiles
from solo_trio.vault.sealing import Value
from solo_trio.vault.secret import Secret

RestartType = Literal["permanent", "transient", "temporary"]
_EPHEMERAL: Final = "ephemeral:"
"""Names of callables that no later kernel finds again."""
_numbers: Final = itertools.count(1)


class Kernel:
    """A running kernel. Get one with `Kernel.open`."""

    def __init__(self, system: System, callables: Mapping[str, object]) -> None:
        self.system = system
        self._callables = callables

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        data: str | Path,
        *,
        callables: Mapping[str, object] | None = None,
        settings: Settings | None = None,
    ) -> AsyncIterator[Kernel]:
        """Open the data directory `data` (made if missing) and recover what is wanted on it.

        `callables`: trusted functions or modules that may run as tasks, found again by name after a restart.
        Raises `Faulted`: data_in_use, data_unwritable, data_newer, data_damaged, services_alive.
        """
        named = dict(callables or {})
        async with running_system(Path(data), settings or EMBEDDED, callables=named) as system:
            yield cls(system, named)

    async def tenant(self, tenant_id: str) -> Tenant:
        """The tenant of that id, created if there is none."""
        state = await create(Caller(self.system, EMBEDDER), tenant_id, TenantLimits(), get=True)
        return Tenant(Caller(self.system, EMBEDDER, state.tenant_id, state.incarnation), self._callables)

    async def remove_tenant(self, tenant_id: str, *, grace_s: float = 5.0) -> None:
        """Stop everything of a tenant and destroy its keys and data; returns when nothing of it is left.

        `grace_s`: what its services have to stop by themselves. Raises `Rejected("tenant_not_found")`, and
        `Faulted("runtime_unavailable")` if a task of it does not end: it is waited for further, in the background.
        """
        given = checked(RemoveTenantInput, tenant_id=tenant_id, grace_ms=round(grace_s * 1_000))
        answer = (await remove_tenant(Caller(self.system, EMBEDDER), given)).body
        if answer.get("unresponsive"):
            raise Faulted("runtime_unavailable", f"a service of '{tenant_id}' does not end: its removal goes on")

    async def wait_recovered(self) -> None:
        """Until every wanted service is ready or has failed (or `recovery_timeout_ms` is over)."""
        await self.system.core.recovery.done.wait()

    async def serve(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 8080,
        allowed_hosts: Sequence[str] = (),
        tls: TlsFiles | None = None,
        task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve the HTTP API until the kernel closes; `started` with its URL. Start it in a nursery of yours.

        `allowed_hosts`: names that browsers and proxies may use for it, besides loopback, `host` and its address.
        `tls`: serve HTTPS only, with these files, which may be replaced while it runs. Raises `Rejected`.
        """
        from solo_trio.gateways.http.serving import serve_http  # heavy: only who serves pays for it

        secured = None if tls is None else await _open_tls(tls)
        await serve_http(
            self.system, host=host, port=port, allowed_hosts=allowed_hosts, tls=secured, task_status=task_status
        )


async def _open_tls(files: TlsFiles) -> Tls:
    from solo_trio.gateways.http.tls import Tls

    return await trio.to_thread.run_sync(Tls, files, logging.getLogger("solo").warning)


class Tenant:
    """One tenant of a running kernel."""

    def __init__(self, caller: Caller, callables: Mapping[str, object]) -> None:
        self._caller = caller
        self._callables = callables

    @property
    def tenant_id(self) -> str:
        assert self._caller.tenant_id is not None
        return self._caller.tenant_id

    async def deploy(
        self,
        service_id: str,
        target: Callable[..., Any] | str | object | None = None,
        *,
        source: str | bytes | None = None,
        environment: str | None = None,
        egress: Sequence[str] = (),
        secrets: Sequence[str] = (),
        restart: RestartType = "permanent",
        max_restarts: int = 5,
        max_seconds: float = 60.0,
        limits: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        depends_on: Sequence[str] = (),
        replace: bool = False,
        ephemeral: bool = False,
    ) -> dict[str, Any]:
        """Deploy a trusted callable (or import path) as a task, or `source` as a process of its own; returns when ready.

        `source`: the text of a module, or the bytes of a zip archive of several. `environment`: the packages that it finds.
        `egress`: what it may connect to, like "api.example.com:443"; a task is trusted, and may connect to anything.
        `secrets`: names of those that it gets with `ctx.secret`.
        A callable must be one of `Kernel.open(callables=...)`, so that it is found after a restart, or `ephemeral`.
        An equal specification that runs already is left alone. `replace`: another one that is there is stopped for it,
        and put back if this one fails. `depends_on`: services that must be ready before it starts. Raises `SoloError`.
        """
        entry = "source"
        if (target is None) == (source is None):
            raise Rejected("invalid_field", "give either a callable (or import path) or source=")
        if source is not None and not isinstance(source, str | bytes):
            raise Rejected("invalid_field", "source must be the text of a Python module, or the bytes of an archive")
        code = target if isinstance(target, str) else source if isinstance(source, str) else None
        given = checked(
            deploying.DeployInput,
            service_id=check_id("service_id", service_id),
            code="-" if code is None else code,
            restart=restart,
            restart_limits={"max_restarts": max_restarts, "max_seconds": max_seconds},
            limits={} if limits is None else limits,
            config={} if config is None else config,
            depends_on=list(depends_on),
            environment=environment,
            egress=list(egress),
            secrets=list(secrets),
        )
        if not given.code.strip() or source == b"":
            what = "source" if target is None else "the import path"
            raise Rejected("invalid_field", f"{what} must not be empty")
        if isinstance(target, str):
            entry = f"import:{target}"
        elif target is not None:
            entry = f"callable:{self._name_of(target, service_id, ephemeral=ephemeral)}"
        text = source if isinstance(source, bytes) else b"" if source is None else given.code.encode()
        spec = ServiceSpec(
            format="python_zip" if isinstance(source, bytes) else "python_source",
            entry=entry,
            digest=deploying.digest_of(text) if source is not None else "",
            isolation="process" if source is not None else "task",
            restart=given.restart,
            restart_limits=given.restart_limits,
            limits=given.limits,
            config=given.config,
            depends_on=tuple(given.depends_on),
            ephemeral=bool(ephemeral),
            environment=given.environment,
            egress=tuple(given.egress),
            secrets=tuple(given.secrets),
        )
        before = self._caller.core.loop.state.service(self.tenant_id, given.service_id)
        try:
            answer = await deploying.deploy_spec(
                self._caller, given.service_id, spec, text, idempotent=True, replace=bool(replace)
            )
        except SoloError:
            self._forget_callable(entry)
            raise
        if before is not None:
            self._forget_callable(before.spec.entry)
        return answer.body

    def _name_of(self, target: object, service_id: str, *, ephemeral: bool) -> str:
        for name, known in self._callables.items():
            if known is target and (ephemeral or not name.startswith(_EPHEMERAL)):
                return name
        if not ephemeral:
            name = getattr(target, "__name__", type(target).__name__)
            raise Rejected(
                "invalid_field",
                f"open the kernel with callables={{'{name}': {name}}} so that it is found again after a restart,"
                " or deploy it with ephemeral=True",
            )
        if not callable(target) and not inspect.ismodule(target):
            raise Rejected("invalid_field", "deploy a function, or a module with `main` and exports")
        # The number of the start keeps it from meaning something else in a later one.
        starts = self._caller.core.loop.state.system.starts
        name = f"{_EPHEMERAL}{starts}:{next(_numbers)}"
        self._callables[name] = target  # type: ignore[index]  # Kernel.open made it a dict
        return name

    def _forget_callable(self, entry: str) -> None:
        """Let go of an ephemeral callable that no service has any more."""
        name = entry.removeprefix("callable:")
        if not name.startswith(_EPHEMERAL):
            return
        for _, service in self._caller.core.loop.state.services():
            previous = service.previous
            if entry in (service.spec.entry, previous.spec.entry if previous is not None else None):
                return
        self._callables.pop(name, None)  # type: ignore[attr-defined]

    async def call(self, service_id: str, function: str, *args: Any, **kwargs: Any) -> Any:
        """Call an exported function; arguments and result are JSON-able. Raises `SoloError`."""
        given = checked(calls.CallInput, service_id=service_id, function=function, args=args, kwargs=kwargs)
        return (await calls.call(self._caller, given)).body["result"]

    async def services(self) -> list[dict[str, Any]]:
        answer = await services.list_services(self._caller, services.ListInput(limit=PAGE_MAX))
        return list(answer.body["services"])

    async def status(self, service_id: str) -> dict[str, Any]:
        given = checked(services.ServiceInput, service_id=service_id)
        return (await services.service_status(self._caller, given)).body

    async def restart(self, service_id: str) -> dict[str, Any]:
        """Restart by hand, also one that was given up; returns when it is ready."""
        given = checked(services.ServiceInput, service_id=service_id)
        return (await changing.restart_service(self._caller, given)).body

    async def pause(self, service_id: str) -> dict[str, Any]:
        """End its process and keep the service; returns when nothing of it runs."""
        given = checked(services.ServiceInput, service_id=service_id)
        return (await changing.pause_service(self._caller, given)).body

    async def resume(self, service_id: str) -> dict[str, Any]:
        """Start a paused service again; returns when it is ready."""
        given = checked(services.ServiceInput, service_id=service_id)
        return (await changing.resume_service(self._caller, given)).body

    async def update(
        self,
        service_id: str,
        *,
        restart: RestartType | None = None,
        max_restarts: int | None = None,
        max_seconds: float | None = None,
        limits: Mapping[str, Any] | None = None,
        egress: Sequence[str] | None = None,
        secrets: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Change policy, limits, network access and secrets of a service while it runs; None leaves a value as it is."""
        given = checked(
            changing.UpdateInput,
            service_id=service_id,
            restart=restart,
            restart_limits={"max_restarts": max_restarts, "max_seconds": max_seconds},
            limits={} if limits is None else limits,
            egress=None if egress is None else list(egress),
            secrets=None if secrets is None else list(secrets),
        )
        return (await changing.update_service(self._caller, given)).body

    async def versions(self, service_id: str) -> list[dict[str, Any]]:
        """The newest versions of a service, with their source."""
        given = checked(services.ServiceInput, service_id=service_id)
        return list((await services.service_versions(self._caller, given)).body["versions"])

    async def explain(self, service_id: str) -> dict[str, Any]:
        """How a service came to be as it is, in words, also one that is gone; what comes next, and what can be done."""
        given = checked(services.ServiceInput, service_id=service_id)
        return (await explanations.explain_service(self._caller, given)).body

    async def set_secret(self, name: str, value: str | bytes, *, key: str | None = None) -> int:
        """Set a secret, or a new version of one; the answer is the version.

        `key`: a passphrase, or 32 bytes as hex or base64. It is kept nowhere: without it nobody can open the secret.
        """
        if not isinstance(value, str | bytes):
            raise Rejected("invalid_field", "value must be text or bytes")
        given = checked(secret_operations.SetSecretInput, name=name, value="", key=key)
        content = secret_operations.checked_value(Value(Secret(value), binary=isinstance(value, bytes)))
        answer = await secret_operations.store(
            self._caller, given.name, content, secret_operations.agent_key(given.key)
        )
        return int(answer.body["version"])

    async def secrets(self) -> list[dict[str, Any]]:
        """Names and versions, never values."""
        given = checked(secret_operations.ListSecretsInput, limit=PAGE_MAX)
        return list((await secret_operations.list_secrets(self._caller, given)).body["secrets"])

    async def reveal_secret(self, name: str, *, key: str | None = None, version: int | None = None) -> str | bytes:
        """The value: text, or bytes if it was set as such. That it was revealed is recorded."""
        given = checked(secret_operations.RevealSecretInput, name=name, key=key, version=version)
        key_ = secret_operations.agent_key(given.key)
        value = await secret_operations.reveal(self._caller, given.name, key_, given.version)
        return value.data.reveal() if value.binary else value.data.reveal_text()

    async def delete_secret(self, name: str) -> None:
        """Shred every version."""
        given = checked(secret_operations.SecretInput, name=name)
        await secret_operations.delete_secret(self._caller, given)

    async def kill(self, service_id: str, *, grace_ms: int | None = None, force: bool = False) -> dict[str, Any]:
        """Stop a service and forget it; returns when it no longer runs."""
        given = checked(changing.DeleteInput, service_id=service_id, grace_ms=grace_ms, force=force)
        before = self._caller.core.loop.state.service(self.tenant_id, service_id)
        answer = await changing.delete_service(self._caller, given)
        if before is not None:
            self._forget_callable(before.spec.entry)
        return answer.body

    async def events(self, *, since_id: int = 0, limit: int = 100) -> list[dict[str, Any]]:
        answer = await list_events(self._caller, checked(EventsInput, since_id=since_id, limit=limit))
        return list(answer.body["events"])

    @asynccontextmanager
    async def watch(
        self, *, since_id: int | None = None, service_id: str | None = None, type: str | None = None
    ) -> AsyncIterator[Records]:
        """Follow the tenant's events, after `since_id` or from now on: `async with tenant.watch(since_id=0) as records:`.

        `async for record in records` gives each event once, in order, as the dict that `events` and the HTTP API give, and
        ends when the kernel closes. `type` may name several, with commas. Raises `Rejected`.
        """
        given = checked(WatchInput, since_id=since_id, service_id=service_id, type=type)
        yield Records((await watch_events(self._caller, given)).watch)

    async def logs(self, service_id: str, *, tail: int = 100) -> Sequence[dict[str, Any]]:
        given = checked(LogsInput, service_id=service_id, tail=tail)
        return list((await list_logs(self._caller, given)).body["logs"])
