"""Asks about services. Owns: deploying, looking at, changing, calling them. Never: sends a request."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from solo_trio.client.asks.request import Ask, Document, present, segment, whole

Restart = Literal["permanent", "transient", "temporary"]


def _service(service_id: str, *more: str) -> str:
    return "/".join(["/services", *(segment(part) for part in (service_id, *more))])


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
    body = present(
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
    query = present(wait=None if wait else "false", replace="true" if replace else None)
    return Ask("POST", "/services", whole, query, body, idempotency_key=idempotency_key, if_match=if_match)


def services(*, status: str | None = None, limit: int | None = None, cursor: str | None = None) -> Ask[Document]:
    """A page of services: `{services, revision, next}`; `next` is the `cursor` of the following page, or None."""
    return Ask("GET", "/services", whole, present(status=status, limit=limit, cursor=cursor))


def status(service_id: str) -> Ask[Document]:
    """One service: what is wanted of it, how it is, its last events and crash."""
    return Ask("GET", _service(service_id), whole)


def kill(
    service_id: str, *, grace_ms: int | None = None, force: bool = False, idempotency_key: str | None = None
) -> Ask[Document]:
    """Stop a service and forget it; answered when it no longer runs (or says `unresponsive`)."""
    query = present(grace_ms=grace_ms, force="true" if force else None)
    patience_s = (grace_ms or 0) / 1_000
    return Ask("DELETE", _service(service_id), whole, query, idempotency_key=idempotency_key, patience_s=patience_s)


def restart(service_id: str, *, if_match: int | None = None, idempotency_key: str | None = None) -> Ask[Document]:
    """Restart by hand, also one that was given up; answered when it is ready."""
    path = _service(service_id, "restart")
    return Ask("POST", path, whole, idempotency_key=idempotency_key, if_match=if_match)


def pause(service_id: str, *, if_match: int | None = None, idempotency_key: str | None = None) -> Ask[Document]:
    """End its process and keep it wanted: calls wait for `resume`, within bounds; answered when it no longer runs."""
    path = _service(service_id, "pause")
    return Ask("POST", path, whole, idempotency_key=idempotency_key, if_match=if_match)


def resume(service_id: str, *, if_match: int | None = None, idempotency_key: str | None = None) -> Ask[Document]:
    """Start a paused service, or one that a paused start holds back; answered when it is ready."""
    path = _service(service_id, "resume")
    return Ask("POST", path, whole, idempotency_key=idempotency_key, if_match=if_match)


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
    body = present(
        restart=restart,
        restart_limits=restart_limits,
        limits=limits,
        egress=None if egress is None else list(egress),
        secrets=None if secrets is None else list(secrets),
    )
    return Ask("PATCH", _service(service_id), whole, body=body, idempotency_key=idempotency_key, if_match=if_match)


def versions(service_id: str) -> Ask[Document]:
    """Its versions, with their source: `{versions: [{version, digest, at, current, format, source, files}]}`.

    Of an archive `source` is its base64, and `files` lists what is in it: `{path, size_bytes}`.
    """
    return Ask("GET", _service(service_id, "versions"), whole)


def explain(service_id: str) -> Ask[Document]:
    """How it came to be as it is, in words, also of one that is gone: `{service_id, status, summary, steps, next, complete}`.

    A step is `{number, id, first_id, at, type, text, causation_id, correlation_id}`; `next` says what comes and what helps.
    """
    return Ask("GET", _service(service_id, "explain"), whole)


def call(service_id: str, function: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Ask[Any]:
    """The result of an exported function; arguments and result are JSON."""
    body = {"args": list(args), "kwargs": dict(kwargs or {})}
    return Ask("POST", _service(service_id, "call", function), lambda document: document["result"], body=body)
