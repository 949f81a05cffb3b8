"""The description of the API by itself: valid to others' tools, complete, and reachable by anybody."""

from __future__ import annotations

import json
import re

import openapi_spec_validator
import pytest
from jsonschema import Draft202012Validator

from solo_trio.errors import CODES
from solo_trio.operations.openapi import codes_of, document
from solo_trio.operations.perform import OPERATIONS
from solo_trio.operations.schemas import body_schema, parameters
from solo_trio.operations.table import Operation


def described(operation: Operation) -> dict[str, object]:
    found: dict[str, object] = document()["paths"][operation.path][operation.method.lower()]
    return found


def test_it_is_valid_openapi() -> None:
    openapi_spec_validator.validate(json.loads(json.dumps(document())))


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_described(name: str) -> None:
    operation = OPERATIONS[name]
    text = json.dumps(described(operation))
    assert operation.summary in json.loads(text)["summary"] + json.loads(text)["description"]
    known = {(each["name"], each["in"]) for each in json.loads(text)["parameters"]}
    assert {(each.name, each.place) for each in parameters(operation)} <= known
    assert ("requestBody" in json.loads(text)) is (body_schema(operation) is not None)
    assert json.loads(text)["security"] == ([] if operation.scope == "open" else [{"token": []}])


@pytest.mark.parametrize("name", OPERATIONS)
def test_schemas_are_schemas_of_the_draft(name: str) -> None:
    operation = OPERATIONS[name]
    for schema in (body_schema(operation) or {}, *(each.schema for each in parameters(operation))):
        Draft202012Validator.check_schema(schema)
        for pattern in re.findall(r'"pattern": "(.*?)"', json.dumps(schema)):
            assert "(?" not in pattern and "\\Z" not in pattern, "read alike by all kinds of regular expressions"


def test_operation_ids_are_names_of_operations_once_each() -> None:
    found = [each["operationId"] for path in document()["paths"].values() for each in path.values()]
    assert len(set(found)) == len(found) and set(found) <= set(OPERATIONS)
    assert {each for each in OPERATIONS if each not in found} == {
        each.name for each in OPERATIONS.values() if each.stream and each.transport == "http"
    }


@pytest.mark.parametrize("name", OPERATIONS)
def test_codes_are_in_the_table(name: str) -> None:
    assert codes_of(OPERATIONS[name]) <= CODES.keys()


def test_streams_are_said_beside_their_page() -> None:
    for operation in OPERATIONS.values():
        if operation.stream and operation.transport == "http":
            text = json.dumps(described(operation))
            assert "text/event-stream" in text and "Last-Event-ID" in text


def test_a_websocket_is_described_by_the_request_that_opens_it() -> None:
    for operation in OPERATIONS.values():
        if operation.transport == "websocket":
            responses = json.loads(json.dumps(described(operation)))["responses"]
            assert "101" in responses and "2XX" not in responses
