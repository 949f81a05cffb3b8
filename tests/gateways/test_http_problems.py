"""Problem documents: one form for every code."""

from __future__ import annotations

import json

import pytest

from solo_trio.errors import CODES, Faulted, KernelBug, Rejected, SoloError
from solo_trio.gateways.http.problems import as_solo_error, problem_document, problem_response


@pytest.mark.parametrize("code", CODES)
def test_every_code(code: str) -> None:
    status, headers, body = problem_response(SoloError(code, "do this"), "r-1")
    assert status == CODES[code].status
    assert json.loads(body) == {
        "type": f"/errors/{code}",
        "title": CODES[code].title,
        "status": status,
        "code": code,
        "detail": "do this",
        "request_id": "r-1",
    }
    named = dict(headers)
    assert len(named) == len(headers)
    assert named[b"content-type"] == b"application/problem+json"
    assert named[b"content-length"] == b"%d" % len(body)
    assert (named.get(b"www-authenticate") == b"Bearer") == (status == 401)
    assert b"retry-after" not in named


def test_retry_after() -> None:
    _, headers, _ = problem_response(Faulted("overloaded", "wait", retry_after_s=0), "r-1")
    assert (b"retry-after", b"0") in headers


def test_extra_members_cannot_replace_the_fixed_ones() -> None:
    error = Rejected("invalid_field", "do this", field="name", status=200, request_id="forged")
    document = problem_document(error, "r-1")
    assert document["field"] == "name"
    assert (document["status"], document["request_id"]) == (400, "r-1")


def test_any_text_can_be_said() -> None:
    detail = "\r\n\x1b[31m\0\udc80 \u2028é"
    _, _, body = problem_response(Rejected("invalid_field", detail), "r-1")
    assert body.isascii()
    assert json.loads(body)["detail"] == detail


def test_unknown_errors_say_nothing() -> None:
    rejected = Rejected("not_found", "look elsewhere")
    assert as_solo_error(rejected) is rejected
    assert as_solo_error(ExceptionGroup("", [ExceptionGroup("", [rejected])])) is rejected
    for error in (ValueError("canary"), ExceptionGroup("canary", [rejected, ValueError("canary")])):
        found = as_solo_error(error)
        assert isinstance(found, KernelBug)
        assert "canary" not in found.detail
