"""Around the application. Owns: request ids, early refusals, what exceptions become. Never: reads a socket.

The application finds the request's id in `scope["state"]["request_id"]`; it is in X-Request-ID of every response.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from solo_trio.errors import KernelBug, Rejected, SoloError
from solo_trio.gateways.http.asgi import ASGIApp, Receive, Scope, Send
from solo_trio.gateways.http.body import BodyBudget, BodyTooSlow, ClientGone, SenderOf, everybody_alike
from solo_trio.gateways.http.finish import FinishSend
from solo_trio.gateways.http.hosts import HostCheck
from solo_trio.gateways.http.incidents import Incidents
from solo_trio.gateways.http.limits import ServerLimits
from solo_trio.gateways.http.problems import as_solo_error, problem_response

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9_.-]{1,64}")
_WEBSOCKET_INTERNAL_ERROR: Final = 1011


class Guard:
    """An ASGI application with a fourth argument: a function that cuts the connection."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: HostCheck,
        limits: ServerLimits,
        incidents: Incidents,
        new_request_id: Callable[[], str],
        sender_of: SenderOf = everybody_alike,
    ) -> None:
        """`sender_of`: whom a request's head names, which decides about room for its body; it must not change anything."""
        self._app = app
        self._hosts = hosts
        self._limits = limits
        self._incidents = incidents
        self._new_request_id = new_request_id
        self._bodies = BodyBudget(limits, sender_of)

    async def __call__(self, scope: Scope, receive: Receive, send: Send, cut: Callable[[], None]) -> None:
        request_id = self._request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        finish = FinishSend(
            send, request_id=request_id, finish_s=self._limits.finish_s, incidents=self._incidents, cut=cut
        )
        failure: BaseExceptionGroup[Exception] | None = None
        try:
            await self._admit_and_run(scope, receive, finish)
        except* Exception as group:  # noqa: BLE001 - a defect of one request is answered, and counted
            failure = group
        if failure is not None:
            await self._answer(failure, scope, finish, request_id, cut)

    def _request_id(self, scope: Scope) -> str:
        for name, value in scope["headers"]:
            if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
                return bytes(value).decode("ascii")
        return self._new_request_id()

    async def _admit_and_run(self, scope: Scope, receive: Receive, finish: FinishSend) -> None:
        self._hosts.check(scope)
        if scope["type"] != "http":
            await self._app(scope, receive, finish)
            return
        body = self._bodies.open(scope)
        gone = False
        try:
            whole = await body.read(receive)
            finish.closing = body.dropped

            async def receive_and_note() -> dict[str, object]:
                nonlocal gone
                message = await whole()
                gone = gone or message["type"] == "http.disconnect"
                return message

            await self._app(scope, receive_and_note, finish)
        finally:
            body.close()
        if not finish.started and not gone:
            raise KernelBug("the application ended without an answer")

    async def _answer(
        self,
        failure: BaseExceptionGroup[Exception],
        scope: Scope,
        finish: FinishSend,
        request_id: str,
        cut: Callable[[], None],
    ) -> None:
        if failure.subgroup((BodyTooSlow, ClientGone)):
            if failure.subgroup(BodyTooSlow):
                self._incidents.add("body_slow")
            cut()
            return
        error = as_solo_error(failure)
        self._note(error, failure)
        if finish.accepted:
            await finish({"type": "websocket.close", "code": _WEBSOCKET_INTERNAL_ERROR, "reason": error.code})
        elif finish.started:
            cut()  # a response that breaks off must not look complete
        else:
            status, headers, body = problem_response(error, request_id)
            prefix = "websocket.http" if scope["type"] == "websocket" else "http"
            finish.closing = True
            await finish({"type": f"{prefix}.response.start", "status": status, "headers": headers})
            await finish({"type": f"{prefix}.response.body", "body": body})

    def _note(self, error: SoloError, failure: BaseException) -> None:
        if isinstance(error, KernelBug):
            self._incidents.add("request_failed", failure)
        elif isinstance(error, Rejected) and error.code == "too_large":
            self._incidents.add("body_too_large")
        elif isinstance(error, Rejected) and error.code == "host_not_allowed":
            self._incidents.add("host_refused")
