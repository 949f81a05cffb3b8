"""The API described by itself, as anybody gets it."""

from __future__ import annotations

import json
import re

import httpx
from api_rig import Api

from solo_trio.operations.openapi import document
from solo_trio.operations.perform import OPERATIONS


async def test_the_description_is_open_and_whole(api: Api) -> None:
    nobody = await api.client(None)
    answer = await nobody.get("/openapi.json")
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    assert answer.json() == json.loads(json.dumps(document()))
    assert (await nobody.get("/openapi.json?x=1")).json()["code"] == "unknown_field"


async def test_the_page_shows_every_operation_and_runs_nothing(api: Api) -> None:
    async with httpx.AsyncClient(base_url=api.url, trust_env=False) as client:
        answer = await client.get("/docs")
        assert answer.status_code == 200 and answer.headers["content-type"] == "text/html; charset=utf-8"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert answer.headers["x-request-id"]
        for operation in OPERATIONS.values():
            assert f"{operation.method} {operation.path}" in answer.text
        assert not re.search(r"<script|\son\w+=|https?://(?!json-schema)|javascript:", answer.text)
        assert (await client.post("/docs")).json()["code"] == "method_not_allowed"
