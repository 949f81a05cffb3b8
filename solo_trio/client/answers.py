"""Answers read. Owns: from a response to a value or a `SoloError`, the same for both clients. Never: receives one."""

from __future__ import annotations

import json
import ssl
from typing import Any, Final, TypeVar

import httpx

from solo_trio.client.asks import Ask
from solo_trio.errors import CODES, Faulted, JournalFailed, KernelBug, Rejected, SoloError, StorageFull

T = TypeVar("T")
CAUSES_MAX: Final = 16
"""Of one exception, one below the other."""
_FIXED: Final = {"type", "title", "status", "code", "detail", "request_id"}


def read_answer(ask: Ask[T], status: int, headers: httpx.Headers, content: bytes) -> T:
    """What was asked for. Raises the `SoloError` that the server sent, or `not_reachable` if it is no Solo server."""
    document = _document(content)
    if document is not None and (status < 400 or (status in ask.expected and "code" not in document)):
        try:
            return ask.read(document)
        except (KeyError, TypeError):
            document = None
    raise _error(status, headers, document)


def _document(content: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(content)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _error(status: int, headers: httpx.Headers, document: dict[str, Any] | None) -> SoloError:
    """The error of a problem document, of the kind it had on the server."""
    if document is None or not isinstance(document.get("code"), str):
        return Faulted("not_reachable", f"what answered ({status}) is not a Solo server: check its URL")
    code, detail = document["code"], str(document.get("detail", ""))
    extra = {name: value for name, value in document.items() if name not in _FIXED}
    extra["request_id"] = document.get("request_id")
    retry = headers.get("Retry-After", "")
    retry_after_s = int(retry) if retry.isdecimal() else None
    if code not in CODES:
        return Faulted("not_reachable", f"the server refused with {code!r}, which this version does not know: {detail}")
    error: SoloError
    if code == "kernel_bug":
        error = KernelBug(detail)
    elif code == "storage_full":
        error = StorageFull(detail)
    elif code == "journal_failed":
        error = JournalFailed(detail)
    elif status >= 500 or code == "rate_limited":
        error = Faulted(code, detail, retry_after_s=retry_after_s)
    else:
        error = Rejected(code, detail)
    error.extra.update(extra)
    return error


def _refusal(error: BaseException | None) -> str | None:
    """What TLS ended with, and what to do; None if it was something else."""
    for _ in range(CAUSES_MAX):
        if error is None or isinstance(error, ssl.SSLError):
            break
        error = error.__cause__ or error.__context__
    if not isinstance(error, ssl.SSLError):
        return None
    reason = str(error.reason or error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message}): name its authority with --ca-cert or SOLO_CA_CERT"
    if "CERTIFICATE_REQUIRED" in reason:
        return (
            "it lets nobody in without a client certificate: name one with --cert and --key, or SOLO_CERT and SOLO_KEY"
        )
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason or "DECRYPT" in reason):
        return f"it does not accept the client certificate ({reason.lower()}): use another, or have it renewed"
    if "WRONG_VERSION_NUMBER" in reason or "RECORD" in reason or "HTTP_REQUEST" in reason:
        return "it does not speak TLS there: use http:// in its URL, or start it with --tls"
    return f"TLS failed ({reason.lower()}); check the server, and its URL"


def unreachable(url: str, error: Exception) -> Faulted:
    """What a failed connection means to the caller."""
    refusal = _refusal(error)
    if refusal is not None:
        return Faulted("not_reachable", f"{url}: {refusal}")
    if isinstance(error, httpx.ConnectError):
        why = "nothing listens there"
    elif isinstance(error, httpx.TimeoutException):
        why = "no answer in time"
    else:
        why = f"the connection broke ({type(error).__name__})"
    return Faulted("not_reachable", f"{url}: {why}; check that the server runs, and its URL")
