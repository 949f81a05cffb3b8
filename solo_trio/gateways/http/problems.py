"""Problem documents (RFC 9457). Owns: how a `SoloError` looks over HTTP. Never: decides which error it is."""

from __future__ import annotations

import json
from typing import Any, Final

from solo_trio.errors import CODES, Faulted, KernelBug, SoloError

CONTENT_TYPE: Final = b"application/problem+json"
TYPE_PREFIX: Final = "/errors/"
"""`type` is a relative URL: the page of the code, on the same server."""

Headers = list[tuple[bytes, bytes]]


def problem_document(error: SoloError, request_id: str) -> dict[str, Any]:
    """The members: `error.extra`, then the fixed six, which `extra` cannot replace."""
    wait = (
        {"retry_after_s": error.retry_after_s} if isinstance(error, Faulted) and error.retry_after_s is not None else {}
    )
    return {
        **error.extra,
        **wait,
        "type": TYPE_PREFIX + error.code,
        "title": error.title,
        "status": error.status,
        "code": error.code,
        "detail": error.detail,
        "request_id": request_id,
    }


def problem_response(error: SoloError, request_id: str) -> tuple[int, Headers, bytes]:
    """Status, headers (lower-case names, without X-Request-ID: the server adds it to everything) and body."""
    body = json.dumps(problem_document(error, request_id), allow_nan=False).encode()
    headers = [
        (b"content-type", CONTENT_TYPE),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
    ]
    if isinstance(error, Faulted) and error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after_s))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.status == 426:
        headers += [(b"upgrade", b"websocket"), (b"connection", b"upgrade")]
    return error.status, headers, body


def error_page(code: str) -> str:
    """What `type` leads to: plain text about one code, the same for every occurrence."""
    row = CODES[code]
    if row.status == 500:
        what = "This is the server's doing: look into its log under the request_id, and report it if it is a defect."
    elif row.status in (429, 502, 503, 504):
        what = "The same request may succeed later: wait (Retry-After says how long, where it is sent), then send it again."
    else:
        what = "The same request fails again: change it as `detail` says."
    title = f"{row.title} (status {row.status})."
    return f"{code}\n\n{title}\n\n{what}\nThe `detail` of the answer says what was wrong, and what to do.\n"


def as_solo_error(error: BaseException) -> SoloError:
    """The `SoloError` in `error` (looked for inside groups too), else a `KernelBug` that tells nothing about it."""
    if isinstance(error, SoloError):
        return error
    if isinstance(error, BaseExceptionGroup):
        found = [as_solo_error(each) for each in error.exceptions]
        known = [each for each in found if not isinstance(each, KernelBug)]
        if len(known) == len(found):
            return known[0]
    return KernelBug("this is a defect of the server; report it together with the request_id")
