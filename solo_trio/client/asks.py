"""Requests of the API as data. Owns: which operation is which request, and what is read off its answer. Never: sends one.

Both clients offer every function of this module as a method of the same name, so a new operation is one function here.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Generic, Literal, TypeVar

from attrs import field, frozen

from solo_trio.errors import Rejected

T = TypeVar("T")
Restart = Literal["permanent", "transient", "temporary"]
Hardening = Literal["off", "warn", "refuse"]
Document = dict[str, Any]
REMOVAL_PATIENCE_S: Final = 30.0
"""Beside its grace: what a tenant has on the disk takes a while to delete."""
_SECRET_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}", re.ASCII)
_SEGMENT: Final = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)


@frozen
class Ask(Generic[T]):
    """One request. `patience_s` is added to the client's time-out: for what may take long by what was asked."""

    method: str
    path: str
    read: Callable[[Document], T]
    query: Mapping[str, Any] = field(factory=dict)
    body: Mapping[str, Any] | None = field(default=None, repr=False)
    tenant: bool = True
    """Whether it is about the client's tenant; otherwise no tenant is named."""
    expected: tuple[int, ...] = ()
    """Statuses of 400 and above that are answers, not errors."""
    idempotency_key: str | None = None
    if_match: int | None = None
    """The revision that the thing must still have, or `revision_mismatch`."""
    patience_s: float = 0.0


def _whole(document: Document) -> Document:
    return document


def _given(**values: Any) -> dict[str, Any]:
    """What was given: None means that the server's default holds."""
    return {name: value for name, value in values.items() if value is not None}


def _service(service_id: str, *more: str) -> str:
    return "/".join(["/services", *(_segment(part) for part in (service_id, *more))])


def _segment(name: str) -> str:
    """An id as part of a path: the server says what an id is, this only that it cannot lead to another route."""
    if _SEGMENT.fullmatch(name) is None:
        raise Rejected("invalid_id", f"{name[:60]!a} cannot be an id: use a-z, 0-9, '_' and '-'")
    return name


def deploy(
    service_id: str,
    code: str | bytes,
    *,
    restart: Restart | None = None,
    restart_limits: Mapping[str, Any] | None = None,
    limits: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    depends_on: Sequence[str] | None = None,
    environment: str | None = None,
    egress: Sequence[str] | None = None,
    secrets: Sequence[str] | None = None,
    replace: bool = False,
    wait: bool = True,
    if_match: int | None = None,
    idempotency_key: str | None = None,
) -> Ask[Document]:
    """Deploy the text of a Python module, or the bytes of a zip archive of several (`pack` makes one of a directory).

    Answered when it runs, or with `wait=False` once that is sure to be tried. `environment`: the operator's name for the
    packages that it needs. `egress`: what it may connect to, like "api.example.com:443". `secrets`: names of those that it gets
    with `ctx.secret`.
    `replace`: in the place of one that is there; the old version comes back if the new one does not become ready.
    `depends_on`: services of the tenant that must be ready before it starts. `if_match`: only if the one that is there still
    has this revision.
    """
    body = _given(
        service_id=service_id,
        code=base64.b64encode(code).decode() if isinstance(code, bytes) else code,
        format="python_zip" if isinstance(code, bytes) else None,
        restart=restart,
        restart_limits=restart_limits,
        limits=limits,
        config=config,
        depends_on=None if depends_on is None else list(depends_on),
        environment=environment,
        egress=None if egress is None else list(egress),
        secrets=None if secrets is None else list(secrets),
    )
    query = _given(wait=None if wait else "false", replace="true" if replace else None)
    return Ask("POST", "/services", _whole, query, body, idempotency_key=idempotency_key, if_match=if_match)


def services(*, status: str | None = None, limit: int | None = None, cursor: str | None = None) -> Ask[Document]:
    """A page of services: `{services, revision, next}`; `next` is the `cursor` of the following page, or None."""
    return Ask("GET", "/services", _whole, _given(status=status, limit=limit, cursor=cursor))


def status(service_id: str) -> Ask[Document]:
    """One service: what is wanted of it, how it is, its last events and crash."""
    return Ask("GET", _service(service_id), _whole)


def kill(
    service_id: str, *, grace_ms: int | None = None, force: bool = False, idempotency_key: str | None = None
) -> Ask[Document]:
    """Stop a service and forget it; answered when it no longer runs (or says `unresponsive`)."""
    query = _given(grace_ms=grace_ms, force="true" if force else None)
    patience_s = (grace_ms or 0) / 1_000
    return Ask("DELETE", _service(service_id), _whole, query, idempotency_key=idempotency_key, patience_s=patience_s)


def restart(service_id: str, *, if_match: int | None = None, idempotency_key: str | None = None) -> Ask[Document]:
    """Restart by hand, also one that was given up; answered when it is ready."""
    path = _service(service_id, "restart")
    return Ask("POST", path, _whole, idempotency_key=idempotency_key, if_match=if_match)


def pause(service_id: str, *, if_match: int | None = None, idempotency_key: str | None = None) -> Ask[Document]:
    """End its process and keep it wanted: calls wait for `resume`, within bounds; answered when it no longer runs."""
    path = _service(service_id, "pause")
    return Ask("POST", path, _whole, idempotency_key=idempotency_key, if_match=if_match)


def resume(service_id: str, *, if_match: int | None = None, idempotency_key: str | None = None) -> Ask[Document]:
    """Start a paused service, or one that a paused start holds back; answered when it is ready."""
    path = _service(service_id, "resume")
    return Ask("POST", path, _whole, idempotency_key=idempotency_key, if_match=if_match)


def update(
    service_id: str,
    *,
    restart: Restart | None = None,
    restart_limits: Mapping[str, Any] | None = None,
    limits: Mapping[str, Any] | None = None,
    egress: Sequence[str] | None = None,
    secrets: Sequence[str] | None = None,
    if_match: int | None = None,
    idempotency_key: str | None = None,
) -> Ask[Document]:
    """Change policy, limits, network access, secrets while it runs: `{service_id, revision, spec, applies_at_next_start}`.

    The last one is the limits that count from its next start on. `egress`: all that it may connect to from now on;
    `secrets`: all that it gets.
    """
    body = _given(
        restart=restart,
        restart_limits=restart_limits,
        limits=limits,
        egress=None if egress is None else list(egress),
        secrets=None if secrets is None else list(secrets),
    )
    return Ask("PATCH", _service(service_id), _whole, body=body, idempotency_key=idempotency_key, if_match=if_match)


def versions(service_id: str) -> Ask[Document]:
    """Its versions, with their source: `{versions: [{version, digest, at, current, format, source, files}]}`.

    Of an archive `source` is its base64, and `files` lists what is in it: `{path, size_bytes}`.
    """
    return Ask("GET", _service(service_id, "versions"), _whole)


def explain(service_id: str) -> Ask[Document]:
    """How it came to be as it is, in words, also of one that is gone: `{service_id, status, summary, steps, next, complete}`.

    A step is `{number, id, first_id, at, type, text, causation_id, correlation_id}`; `next` says what comes and what helps.
    """
    return Ask("GET", _service(service_id, "explain"), _whole)


def call(service_id: str, function: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Ask[Any]:
    """The result of an exported function; arguments and result are JSON."""
    body = {"args": list(args), "kwargs": dict(kwargs or {})}
    return Ask("POST", _service(service_id, "call", function), lambda document: document["result"], body=body)


def logs(
    service_id: str | None = None,
    *,
    level: str | None = None,
    tail: int | None = None,
    since: int | None = None,
    limit: int | None = None,
) -> Ask[Document]:
    """Log entries, oldest first: `{logs, next}`; `tail` asks for the newest so many, `since` for those after an id."""
    query = _given(service_id=service_id, level=level, tail=tail, since=since, limit=limit)
    return Ask("GET", "/logs", _whole, query)


def events(
    *, since_id: int | None = None, service_id: str | None = None, type: str | None = None, limit: int | None = None
) -> Ask[Document]:
    """A page of events, oldest first: `{events, next}`; `since_id` is exclusive, `type` may name several with commas."""
    return Ask("GET", "/events", _whole, _given(since_id=since_id, service_id=service_id, type=type, limit=limit))


def set_secret(
    name: str,
    value: str | bytes,
    *,
    key: str | None = None,
    if_match: int | None = None,
    idempotency_key: str | None = None,
) -> Ask[Document]:
    """Set a secret, or a new version of one: `{name, version}`.

    `key`: a passphrase, or 32 bytes as hex or base64. It is kept nowhere: without it nobody can open the secret.
    """
    given = value if isinstance(value, str) else {"base64": base64.b64encode(value).decode()}
    body = _given(value=given, key=key)
    return Ask("PUT", _secret(name), _whole, body=body, idempotency_key=idempotency_key, if_match=if_match)


def secrets(*, limit: int | None = None, cursor: str | None = None) -> Ask[Document]:
    """A page of secrets, never their values: `{secrets: [{name, version, at, sealed_by, revision}], next}`."""
    return Ask("GET", "/secrets", _whole, _given(limit=limit, cursor=cursor))


def show_secret(name: str) -> Ask[Document]:
    """One secret, and which versions of it are kept."""
    return Ask("GET", _secret(name), _whole)


def reveal_secret(name: str, *, key: str | None = None, version: int | None = None) -> Ask[str | bytes]:
    """The value of a secret: text, or bytes if it was set as such. That it was revealed is recorded."""
    return Ask("POST", f"{_secret(name)}/reveal", _value, body=_given(key=key, version=version))


def delete_secret(name: str, *, if_match: int | None = None, idempotency_key: str | None = None) -> Ask[Document]:
    """Shred every version of a secret."""
    return Ask("DELETE", _secret(name), _whole, idempotency_key=idempotency_key, if_match=if_match)


def _secret(name: str) -> str:
    if _SECRET_NAME.fullmatch(name) is None:
        raise Rejected("invalid_id", f"{name[:60]!a} cannot be a secret's name: use A-Z, a-z, 0-9, '_', '.' and '-'")
    return "/secrets/" + (name if name.strip(".") else name.replace(".", "%2E"))


def _value(document: Document) -> str | bytes:
    value = document["value"]
    return value if isinstance(value, str) else base64.b64decode(value["base64"])


def create_tenant(
    tenant_id: str,
    *,
    limits: Mapping[str, Any] | None = None,
    service_limits: Mapping[str, Any] | None = None,
    hardening: Hardening | None = None,
    idempotency_key: str | None = None,
) -> Ask[Document]:
    """Create a tenant; the answer holds its `token`, which is not shown again. System credentials only."""
    body = _given(tenant_id=tenant_id, limits=limits, service_limits=service_limits, hardening=hardening)
    return Ask("POST", "/tenants", _whole, body=body, tenant=False, idempotency_key=idempotency_key)


def update_tenant(
    tenant_id: str,
    *,
    limits: Mapping[str, Any] | None = None,
    service_limits: Mapping[str, Any] | None = None,
    hardening: Hardening | None = None,
    idempotency_key: str | None = None,
) -> Ask[Document]:
    """Change what a tenant may have; `service_limits` is a ceiling for each of its services, `hardening` says what becomes of
    the analyser's findings in its deployments. System credentials only."""
    body = _given(limits=limits, service_limits=service_limits, hardening=hardening)
    path = f"/tenants/{_segment(tenant_id)}"
    return Ask("PATCH", path, _whole, body=body, tenant=False, idempotency_key=idempotency_key)


def remove_tenant(tenant_id: str, *, grace_ms: int | None = None, idempotency_key: str | None = None) -> Ask[Document]:
    """Stop everything of a tenant, destroy its keys and data: `{tenant_id, status}`; answered when nothing of it is left (or
    says `unresponsive`). `grace_ms`: what its services have to stop by themselves. System credentials only."""
    return Ask(
        "DELETE",
        f"/tenants/{_segment(tenant_id)}",
        _whole,
        _given(grace_ms=grace_ms),
        tenant=False,
        idempotency_key=idempotency_key,
        patience_s=REMOVAL_PATIENCE_S + (grace_ms or 0) / 1_000,
    )


def tenants(*, limit: int | None = None, cursor: str | None = None) -> Ask[Document]:
    """A page of tenants: `{tenants, next}`. System credentials only."""
    return Ask("GET", "/tenants", _whole, _given(limit=limit, cursor=cursor), tenant=False)


def show_tenant(tenant_id: str) -> Ask[Document]:
    """One tenant, with how many services it has in each state. System credentials only."""
    return Ask("GET", f"/tenants/{_segment(tenant_id)}", _whole, tenant=False)


def health() -> Ask[Document]:
    """Whether the kernel does its work: `{status, components}`; `status` is `ok` or `failing`."""
    return Ask("GET", "/health", _whole, tenant=False, expected=(503,))


def ready() -> Ask[bool]:
    """Whether recovery is over."""
    return Ask(
        "GET", "/health/ready", lambda document: bool(document["status"] == "ready"), tenant=False, expected=(503,)
    )


def grant(
    resource: str,
    permissions: Sequence[str],
    *,
    ttl_s: float | None = None,
    rate_limit: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    idempotency_key: str | None = None,
) -> Ask[Document]:
    """Grant a right that the client's token has, such as ("service:calc", ["call"]): `{id, token, expires_at, ...}`.

    The `token` is not shown again. `rate_limit`: `{requests_per_second, burst}`.
    """
    body = _given(
        resource=resource, permissions=list(permissions), ttl_s=ttl_s, rate_limit=rate_limit, metadata=metadata
    )
    return Ask("POST", "/capabilities", _whole, body=body, idempotency_key=idempotency_key)


def capabilities(*, limit: int | None = None, cursor: str | None = None) -> Ask[Document]:
    """A page of the capabilities that the client may revoke: `{capabilities, next}`; never a token."""
    return Ask("GET", "/capabilities", _whole, _given(limit=limit, cursor=cursor))


def show_capability(capability_id: str) -> Ask[Document]:
    """One capability."""
    return Ask("GET", f"/capabilities/{_segment(capability_id)}", _whole)


def revoke(capability_id: str, *, idempotency_key: str | None = None) -> Ask[Document]:
    """Revoke a capability and all that descend from it: `{id, revoked}`."""
    return Ask("DELETE", f"/capabilities/{_segment(capability_id)}", _whole, idempotency_key=idempotency_key)


def revoke_token(token: str, *, idempotency_key: str | None = None) -> Ask[Document]:
    """Revoke what a token stands for: its last attenuation by itself, or its capability if it was never narrowed."""
    return Ask("POST", "/capabilities/revoke", _whole, body={"token": token}, idempotency_key=idempotency_key)


def verify_token(token: str, resource: str, permission: str) -> Ask[Document]:
    """Whether a token allows something now: `{allowed, reason}`."""
    body = {"token": token, "resource": resource, "permission": permission}
    return Ask("POST", "/capabilities/verify", _whole, body=body)


def attenuate(
    token: str,
    *,
    permissions: Sequence[str] | None = None,
    resource: str | None = None,
    service: str | None = None,
    ttl_s: float | None = None,
    rate_limit: Mapping[str, Any] | None = None,
) -> Ask[Document]:
    """Have the server narrow a token: `{id, token, expires_at}`; `solo_trio.client.attenuate` does it without one."""
    body = _given(
        token=token,
        permissions=None if permissions is None else list(permissions),
        resource=resource,
        service=service,
        ttl_s=ttl_s,
        rate_limit=rate_limit,
    )
    return Ask("POST", "/capabilities/attenuate", _whole, body=body)


def rotate_token(*, keep_granted: bool = False, idempotency_key: str | None = None) -> Ask[Document]:
    """Replace the token of the client's tenant, or without one the system's: `{id, token}`.

    The old one is good for nothing from then on, nor, unless `keep_granted`, is what was granted with it.
    """
    body = {"keep_granted": keep_granted}
    return Ask("POST", "/tokens/rotate", _whole, body=body, idempotency_key=idempotency_key)


def accept_clock(*, idempotency_key: str | None = None) -> Ask[Document]:
    """Have the kernel believe the machine's clock although it leapt ahead. System credentials only."""
    return Ask("POST", "/system/accept-clock", _whole, tenant=False, idempotency_key=idempotency_key)


def system() -> Ask[Document]:
    """The kernel itself: version, start, services in each state, its last recovery. System credentials only."""
    return Ask("GET", "/system", _whole, tenant=False)


STATE_PATIENCE_S: Final = 300.0
"""Of a state that is far from a kept one, so many events are read."""


def state(
    *, at: int | None = None, tenant_id: str | None = None, limit: int | None = None, cursor: str | None = None
) -> Ask[Document]:
    """A page of what the events up to `at` come to: `{event_id, at, counts, tenants, services, capabilities, secrets, next}`.

    `at` is inclusive; without it the newest event counts. `next` is the `cursor` of the following page, whose lists are to be
    added to these. Never a key, nor a value of a secret. System credentials only.
    """
    query = _given(at=at, tenant_id=tenant_id, limit=limit, cursor=cursor)
    return Ask("GET", "/system/state", _whole, query, tenant=False, patience_s=STATE_PATIENCE_S)


def openapi() -> Ask[Document]:
    """The API described as OpenAPI."""
    return Ask("GET", "/openapi.json", _whole, tenant=False)


def pause_all(*, idempotency_key: str | None = None) -> Ask[Document]:
    """End every service of every tenant and hold it back: `{paused, held}`. System credentials only."""
    return Ask("POST", "/system/pause", _whole, tenant=False, idempotency_key=idempotency_key)


def resume_all(*, idempotency_key: str | None = None) -> Ask[Document]:
    """Start what is held back: `{paused, held, resumed}`. What was paused by itself stays so. System credentials only."""
    return Ask("POST", "/system/resume", _whole, tenant=False, idempotency_key=idempotency_key)


VERIFY_PATIENCE_S: Final = 3_600.0
"""A long log takes minutes to be read."""


def verify(*, fix: bool = False, accept_loss: bool = False) -> Ask[Document]:
    """Verify everything: what runs, the whole log, every source; the answer is the report. System credentials only.

    `fix`: mend what can be mended safely first. `accept_loss`: no more warnings of what a repair could not save.
    """
    body = {name: True for name, asked in (("fix", fix), ("accept_loss", accept_loss)) if asked}
    return Ask("POST", "/system/verify", _whole, tenant=False, body=body or None, patience_s=VERIFY_PATIENCE_S)


def backup() -> Ask[Document]:
    """Have the server write and check a backup: `{name, path, event_id, bytes, digest, ...}`. System credentials only."""
    return Ask("POST", "/system/backup", _whole, tenant=False, patience_s=VERIFY_PATIENCE_S)


def compact(*, keep_events: int | None = None) -> Ask[Document]:
    """Move old events into the archive, all but the newest `keep_events`. System credentials only.

    `{oldest_id, events, segments, bytes, duration_ms, held_by, detail}`.
    """
    body = None if keep_events is None else {"keep_events": keep_events}
    return Ask("POST", "/system/compact", _whole, tenant=False, body=body, patience_s=VERIFY_PATIENCE_S)


def checkpoint() -> Ask[Document]:
    """Keep the state now: `{event_id, bytes, duration_ms}`. System credentials only."""
    return Ask("POST", "/system/checkpoint", _whole, tenant=False)


def audit(
    *,
    since: str | None = None,
    until: str | None = None,
    operation: str | None = None,
    outcome: str | None = None,
    credential: str | None = None,
    limit: int | None = None,
    cursor: str | None = None,
) -> Ask[Document]:
    """A page of who called what, oldest first: `{entries, next}`; `next` is the `cursor` of the following page, or None.

    `since` and `until` are times like "2026-01-31T12:00:00Z"; `outcome` is a status ("201") or an error's code. Of the client's
    tenant, or with a system token and no tenant, of all.
    """
    query = _given(
        since=since,
        until=until,
        operation=operation,
        outcome=outcome,
        credential=credential,
        limit=limit,
        cursor=cursor,
    )
    return Ask("GET", "/audit", _whole, query)
