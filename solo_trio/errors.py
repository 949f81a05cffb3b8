"""The whole error tree. Owns: the three kinds of failure and the published table of codes. Never: decides which one.

`Rejected` is the caller's fault (nothing was written), `Faulted` is the world's (may be retried), `KernelBug` is ours.
A code is stable for ever; its status and title live in `CODES`, its page in `docs/errors/`.
"""

from __future__ import annotations

from typing import Any, Final

from attrs import frozen


@frozen
class Code:
    """One row of the published table: the HTTP status and a title that never varies."""

    status: int
    title: str


CODES: Final[dict[str, Code]] = {
    "invalid_json": Code(400, "The body is not acceptable JSON"),
    "invalid_field": Code(400, "A field has a wrong value"),
    "unknown_field": Code(400, "A field is not known"),
    "invalid_id": Code(400, "An id has a wrong form"),
    "invalid_header": Code(400, "A header has a wrong value"),
    "tenant_required": Code(400, "The request must name a tenant"),
    "tls_required": Code(400, "The port speaks only HTTPS"),
    "unauthenticated": Code(401, "No valid credential"),
    "permission_denied": Code(403, "The credential does not allow this"),
    "secret_access_denied": Code(403, "The secret is not given out for this"),
    "tenant_mismatch": Code(403, "The request names another tenant than its credential"),
    "host_not_allowed": Code(403, "The Host or Origin header is not one of this server's"),
    "not_found": Code(404, "No such route"),
    "service_not_found": Code(404, "No such service"),
    "tenant_not_found": Code(404, "No such tenant"),
    "certificate_not_found": Code(404, "No such certificate"),
    "secret_not_found": Code(404, "No such secret"),
    "event_not_found": Code(404, "No such event"),
    "capability_not_found": Code(404, "No such capability"),
    "function_not_found": Code(404, "The service exports no such function"),
    "method_not_allowed": Code(405, "The route does not take this method"),
    "service_exists": Code(409, "The service exists already"),
    "service_stopping": Code(409, "The service is still being stopped"),
    "service_required": Code(409, "Other services depend on the service"),
    "dependency_not_running": Code(409, "A service that this one depends on does not run"),
    "environment_in_use": Code(409, "Services use the environment"),
    "wrong_status": Code(409, "The service's status does not allow this"),
    "service_deleted": Code(409, "The service was deleted before it became ready"),
    "tenant_exists": Code(409, "The tenant exists already"),
    "idempotency_conflict": Code(409, "The Idempotency-Key was used for a different request"),
    "revision_mismatch": Code(412, "The revision is not the current one"),
    "too_large": Code(413, "The request is too large"),
    "token_invalid": Code(422, "The token in the request is not valid"),
    "archive_refused": Code(422, "The archive cannot be a service"),
    "environment_not_found": Code(422, "No such environment"),
    "environment_unusable": Code(422, "The environment cannot be used"),
    "dependency_cycle": Code(422, "Services depend on each other in a circle"),
    "dependency_not_found": Code(422, "A service that this one depends on does not exist"),
    "egress_refused": Code(422, "The network access is not allowed"),
    "code_refused": Code(422, "The code is refused for what was found in it"),
    "service_start_failed": Code(422, "The service did not become ready"),
    "upgrade_required": Code(426, "The route takes only a WebSocket"),
    "quota_exceeded": Code(429, "A quota is used up"),
    "rate_limited": Code(429, "Too many requests in a time"),
    "kernel_bug": Code(500, "A defect in the kernel"),
    "call_failed": Code(502, "The function raised"),
    "call_interrupted": Code(502, "The service ended during the call"),
    "result_not_serialisable": Code(502, "The function's result is not JSON"),
    "service_not_running": Code(503, "The service is not running"),
    "overloaded": Code(503, "Too much work is waiting"),
    "circuit_open": Code(503, "The service failed too often to be called now"),
    "storage_full": Code(503, "The disk is full"),
    "backup_failed": Code(503, "The backup could not be written"),
    "shutting_down": Code(503, "The kernel is shutting down"),
    "kernel_stopped": Code(503, "The kernel has stopped"),
    "call_timeout": Code(504, "The call took too long"),
    # The rest never reaches HTTP: a kernel that refuses to start says one of these and exits 1.
    "data_in_use": Code(500, "Another kernel uses the data directory"),
    "data_unwritable": Code(500, "The data directory cannot be written"),
    "backup_damaged": Code(500, "The backup is damaged"),
    "master_key_wrong": Code(500, "The master key is missing, or another one"),
    "data_newer": Code(500, "The data directory was written by a newer version"),
    "data_damaged": Code(500, "The data directory is damaged"),
    "services_alive": Code(500, "Processes of the previous kernel could not be ended"),
    "certificate_unusable": Code(500, "A certificate or key cannot be used"),
    "invalid_configuration": Code(500, "The configuration is wrong"),
    "file_exists": Code(500, "The file exists already"),
    "address_unusable": Code(500, "The address cannot be listened on"),
    "journal_failed": Code(500, "The journal can no longer be written"),
    "runtime_unavailable": Code(503, "The runtime cannot start services here"),
    "sandbox_unavailable": Code(503, "Code is not run with so little protection"),
    "not_reachable": Code(503, "The server cannot be reached"),
}


class SoloError(Exception):
    """The root: a stable `code`, and a `detail` sentence that says what to do."""

    def __init__(self, code: str, detail: str, **extra: Any) -> None:
        super().__init__(f"{code}: {detail}")
        if code not in CODES:
            raise KeyError(f"error code {code!r} is not in the table")
        self.code = code
        self.detail = detail
        self.extra = extra
        """Further members of the problem document, JSON-able."""

    @property
    def status(self) -> int:
        return CODES[self.code].status

    @property
    def title(self) -> str:
        return CODES[self.code].title


class Rejected(SoloError):
    """The caller's fault: nothing durable was written, and the same request fails again."""


class Faulted(SoloError):
    """The world's fault: the same request may succeed later."""

    def __init__(self, code: str, detail: str, *, retry_after_s: int | None = None, **extra: Any) -> None:
        super().__init__(code, detail, **extra)
        self.retry_after_s = retry_after_s


class KernelBug(SoloError):
    """Our fault: a defect, contained to one command if nothing was committed."""

    def __init__(self, detail: str) -> None:
        super().__init__("kernel_bug", detail)


class StorageFull(Faulted):
    """No space for the append; nothing of it was written."""

    def __init__(self, detail: str = "free disk space; the kernel takes new work again by itself") -> None:
        super().__init__("storage_full", detail, retry_after_s=5)


class JournalFailed(Faulted):
    """An append or fsync failed in a way that cannot be retried as success: the kernel must stop."""

    def __init__(self, detail: str) -> None:
        super().__init__("journal_failed", detail)
