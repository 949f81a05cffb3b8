"""The client for ordinary, blocking code. Owns: sending with `httpx.Client`. Never: what requests and answers look like."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from types import TracebackType
from typing import Any, Generic, ParamSpec, TypeVar

import httpx

from solo_trio.client import asks
from solo_trio.client.answers import read_answer, unreachable
from solo_trio.client.asks import Ask
from solo_trio.client.connecting import ANSWER_TIMEOUT_S, Address, PathLike, Trust, arguments
from solo_trio.client.watching import PATIENCE_S, STREAM_HEADERS, STREAM_TIMEOUT_S, EventStream, LogStream, Onlooker
from solo_trio.errors import Rejected, SoloError

P = ParamSpec("P")
T = TypeVar("T")


class _Method(Generic[P, T]):
    """A function that builds a request, as the method that sends it and returns what was read off the answer."""

    def __init__(self, build: Callable[P, Ask[T]]) -> None:
        self._build = build
        self.__doc__ = build.__doc__

    def __get__(self, client: SoloClient, owner: type[SoloClient]) -> Callable[P, T]:
        build = self._build

        @functools.wraps(build)
        def send(*args: P.args, **kwargs: P.kwargs) -> T:
            return client.send(build(*args, **kwargs))

        return send


class SoloClient:
    """A Solo server, over HTTP. Every method raises `SoloError`; `not_reachable` if there is no answer.

    `tenant` is for a system token: the tenant to act for. A tenant's own token needs none.
    For https: `ca_cert` says whose servers are trusted (a PEM file; None: those that this machine trusts), `cert` and `key` are
    a client certificate, which is a credential with or without a token.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        tenant: str | None = None,
        timeout_s: float = ANSWER_TIMEOUT_S,
        transport: httpx.BaseTransport | None = None,
        ca_cert: PathLike | None = None,
        cert: PathLike | None = None,
        key: PathLike | None = None,
    ) -> None:
        self.url = url
        self.tenant = tenant
        self.timeout_s = timeout_s
        self._reached = False
        self._http = httpx.Client(
            transport=transport, **Address.of(url, token, Trust(ca_cert, cert, key)).options(timeout_s)
        )

    deploy = _Method(asks.deploy)
    services = _Method(asks.services)
    status = _Method(asks.status)
    kill = _Method(asks.kill)
    restart = _Method(asks.restart)
    pause = _Method(asks.pause)
    resume = _Method(asks.resume)
    update = _Method(asks.update)
    versions = _Method(asks.versions)
    explain = _Method(asks.explain)
    call = _Method(asks.call)
    logs = _Method(asks.logs)
    events = _Method(asks.events)
    set_secret = _Method(asks.set_secret)
    secrets = _Method(asks.secrets)
    show_secret = _Method(asks.show_secret)
    reveal_secret = _Method(asks.reveal_secret)
    delete_secret = _Method(asks.delete_secret)
    create_tenant = _Method(asks.create_tenant)
    update_tenant = _Method(asks.update_tenant)
    remove_tenant = _Method(asks.remove_tenant)
    tenants = _Method(asks.tenants)
    show_tenant = _Method(asks.show_tenant)
    health = _Method(asks.health)
    ready = _Method(asks.ready)
    system = _Method(asks.system)
    grant = _Method(asks.grant)
    capabilities = _Method(asks.capabilities)
    show_capability = _Method(asks.show_capability)
    revoke = _Method(asks.revoke)
    revoke_token = _Method(asks.revoke_token)
    verify_token = _Method(asks.verify_token)
    attenuate = _Method(asks.attenuate)
    rotate_token = _Method(asks.rotate_token)
    accept_clock = _Method(asks.accept_clock)
    verify = _Method(asks.verify)
    checkpoint = _Method(asks.checkpoint)
    compact = _Method(asks.compact)
    backup = _Method(asks.backup)
    state = _Method(asks.state)
    audit = _Method(asks.audit)
    openapi = _Method(asks.openapi)
    pause_all = _Method(asks.pause_all)
    resume_all = _Method(asks.resume_all)

    def send(self, ask: Ask[T]) -> T:
        try:
            response = self._http.request(**arguments(ask, self.tenant, self.timeout_s))
        except httpx.HTTPError as error:
            raise unreachable(self.url, error) from error
        self._reached = True
        return read_answer(ask, response.status_code, response.headers, response.content)

    @contextmanager
    def watch(
        self,
        *,
        since_id: int | None = None,
        service_id: str | None = None,
        type: str | None = None,
        patience_s: float = PATIENCE_S,
        onlooker: Onlooker | None = None,
    ) -> Iterator[Iterator[dict[str, Any]]]:
        """Events as they are recorded, after `since_id` or from now on: `with client.watch() as events: for event in events:`.

        A connection that breaks is made again from where it was, so that nothing is missed, until the server is away for
        longer than `patience_s` or refuses; the error's `extra["last_id"]` is then where to go on. `onlooker` is told.
        """
        last_id = self.last_event_id() if since_id is None else since_id
        stream = EventStream(last_id, service_id, type, patience_s, onlooker)
        with closing(self._follow(stream)) as events:
            yield events

    @contextmanager
    def follow_logs(
        self,
        service_id: str | None = None,
        *,
        since: int = 0,
        level: str | None = None,
        patience_s: float = PATIENCE_S,
        onlooker: Onlooker | None = None,
    ) -> Iterator[Iterator[dict[str, Any]]]:
        """Log entries as they are written, after the entry `since`: `with client.follow_logs("calc") as entries:`.

        As `watch` does, it makes a broken connection again from where it was. For the newest first: `logs(tail=...)`.
        """
        stream = LogStream(since, service_id, None, patience_s, onlooker, level=level)
        with closing(self._follow(stream)) as entries:
            yield entries

    def last_event_id(self) -> int:
        """The id of the newest event, which every list of services names; a system token without a tenant asks the system."""
        try:
            return int(self.services(limit=1)["revision"])
        except Rejected as error:
            if error.code != "tenant_required":
                raise
        return int(self.system()["last_event_id"])

    def _follow(self, stream: EventStream) -> Generator[dict[str, Any], None, None]:
        if self._reached:  # it is there, and is waited for from the first connection on
            stream.connected()
        while True:
            failure: SoloError | None = None
            try:
                self._go_to(stream.place())
                yield from self._connection(stream)
            except httpx.HTTPError as error:
                failure = unreachable(self.url, error)
            except SoloError as error:
                failure = error
            time.sleep(stream.broken(failure))

    def _go_to(self, url: str | None) -> None:
        """The server may have come back on another port."""
        if url is not None and url != self.url:
            self.url = url
            self._http.base_url = httpx.URL(Address.of(url, None).url)

    def _connection(self, stream: EventStream) -> Iterator[dict[str, Any]]:
        request = arguments(stream.ask(), self.tenant, STREAM_TIMEOUT_S)
        request["headers"] |= STREAM_HEADERS
        with self._http.stream(**request) as response:
            if response.status_code != 200:
                read_answer(stream.ask(), response.status_code, response.headers, response.read())
                return
            stream.accepted(response.headers.get("Content-Type", ""))
            for data in response.iter_bytes():
                yield from stream.received(data)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> SoloClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
