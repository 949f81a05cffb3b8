"""The schemas against the checks: what a schema accepts is well formed to the kernel, what it refuses is refused with 400."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import hypothesis
import pytest
import trio
from attrs import field, frozen
from hypothesis import HealthCheck
from hypothesis import strategies as st
from schema_strategies import accepted, near, validator

from solo_trio import service
from solo_trio.errors import Rejected, SoloError
from solo_trio.model.ids import ID_PATTERN
from solo_trio.model.limits import RANGES, Limits
from solo_trio.model.rights import ALL, permissions_of
from solo_trio.operations.perform import OPERATIONS, Request, perform
from solo_trio.operations.schemas import body_schema, parameters, schema_of
from solo_trio.operations.settings import Settings
from solo_trio.operations.table import Operation
from solo_trio.testing import MemoryKernel

WITH_BODY = [name for name, each in OPERATIONS.items() if body_schema(each) is not None]
FORM = {"invalid_field", "unknown_field", "invalid_id", "invalid_json", "tenant_required", "too_large"}
"""What says that a request is not well formed."""
EXAMPLES = 40
BOUND_S = 20.0
GIVEN = {"service_id": "calc", "function": "add", "tenant_id": "t1", "name": "api-key", "capability_id": "0" * 32}


@service.export
async def add(*args: Any, **kwargs: Any) -> str:
    return "added"


CALC = {"add": add}
"""The service that operations find."""


class Sender:
    """Performs operations from Hypothesis' thread, on one kernel in memory; `None`: it was not refused."""

    def __init__(self, perform_one: Callable[..., Any], token: trio.lowlevel.TrioToken) -> None:
        self._perform_one = perform_one
        self._token = token

    def refusal(self, operation: Operation, **parts: Any) -> SoloError | None:
        found: SoloError | None = trio.from_thread.run(self._perform_one, operation, parts, trio_token=self._token)
        return found


def with_kernel(explore: Callable[[Sender], None]) -> None:
    async def main() -> None:
        settings = Settings(max_per_tenant=1, max_tenants=1)  # what is well formed comes to the quota, and does nothing
        async with MemoryKernel({"calc": CALC}, settings).open() as kernel:
            await (await kernel.tenant("t1")).deploy("calc", CALC)
            system = kernel.system
            [admin] = [each for each in system.core.loop.state.capabilities.values() if each.resource == "system"]
            token = system.keyring.mint(admin.key_id, admin.capability_id).reveal_text()

            async def perform_one(operation: Operation, parts: dict[str, Any]) -> SoloError | None:
                route = {each.name: GIVEN[each.name] for each in parameters(operation) if each.place == "path"}
                tenant_id = None if operation.scope in ("system", "open") else "t1"
                parts = {"route": route, "tenant_id": tenant_id} | parts
                try:
                    with trio.fail_after(BOUND_S):
                        await perform(system, operation, Request(token=token, **parts))
                except SoloError as error:
                    return error
                return None

            await trio.to_thread.run_sync(explore, Sender(perform_one, trio.lowlevel.current_trio_token()))

    trio.run(main)


def examples(strategy: st.SearchStrategy[Any], check: Callable[[Any], None], count: int = EXAMPLES) -> None:
    @hypothesis.settings(
        max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True
    )
    @hypothesis.given(strategy)
    def run(value: Any) -> None:
        check(value)

    run()


def of_same_tenant(operation: Operation, body: Any) -> Any:
    """Another tenant is another matter than form."""
    if operation.scope == "system" or not isinstance(body, dict) or "tenant_id" not in body:
        return body
    well_formed = validator(schema_of(str) | {"pattern": f"^{ID_PATTERN}$"}).is_valid(body["tenant_id"])
    return {**body, "tenant_id": "t1"} if well_formed else body


def of_one_right(operation: Operation, body: Any) -> Any:
    """Which permissions a resource has no schema says, nor that something is to be narrowed."""
    if operation.name == "attenuate_capability" and all(
        body[each] is None for each in body.keys() - {"token", "tenant_id"}
    ):
        return body | {"permissions": [ALL]}
    if operation.name not in ("create_capability", "verify_capability"):
        return body
    several = "permissions" in body
    allowed = permissions_of(body["resource"]) | {ALL}
    asked = [each for each in (body["permissions"] if several else [body["permission"]]) if each in allowed] or [ALL]
    return body | ({"permissions": asked} if several else {"permission": asked[0]})


@pytest.mark.parametrize("name", WITH_BODY)
def test_what_a_schema_accepts_is_well_formed(name: str) -> None:
    operation = OPERATIONS[name]
    schema = body_schema(operation)
    assert schema is not None

    def explore(sender: Sender) -> None:
        def check(body: Any) -> None:
            body = of_one_right(operation, of_same_tenant(operation, body))
            assert validator(schema).is_valid(body)
            refused = sender.refusal(operation, body=body)
            assert refused is None or refused.code not in FORM, (body, refused)

        examples(accepted(schema), check)

    with_kernel(explore)


@pytest.mark.parametrize("name", WITH_BODY)
def test_what_a_schema_refuses_is_refused(name: str) -> None:
    operation = OPERATIONS[name]
    schema = body_schema(operation)
    assert schema is not None
    count = 0

    def explore(sender: Sender) -> None:
        def check(body: Any) -> None:
            nonlocal count
            body = of_same_tenant(operation, body)
            if body is None or validator(schema).is_valid(body):
                return
            count += 1
            refused = sender.refusal(operation, body=body)
            assert isinstance(refused, Rejected) and refused.status == 400, (body, refused)

        examples(near(schema), check, 2 * EXAMPLES)

    with_kernel(explore)
    assert count > EXAMPLES / 2, "most of what is tried is wrong"


@pytest.mark.parametrize("name", [name for name, each in OPERATIONS.items() if parameters(each)])
def test_parameters(name: str) -> None:
    operation = OPERATIONS[name]
    bodies = {"deploy": {"service_id": "fresh", "code": "x = 1"}, "set_secret": {"value": "x"}}
    body = bodies.get(name)

    def explore(sender: Sender) -> None:
        for one in parameters(operation):
            if one.name == "type" or one.schema.get("format") == "date-time":
                continue  # a list in one text; a day of the calendar, which no pattern says

            def check(value: Any, one: Any = one) -> None:
                text = {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)
                parts = {"query": {one.name: text}} if one.place == "query" else {"route": GIVEN | {one.name: text}}
                refused = sender.refusal(operation, body=body, **parts)
                well_formed = validator(one.schema).is_valid(value)
                assert (refused is not None and refused.code in FORM) is not well_formed, (one, value, refused)

            values = accepted(one.schema)
            kind = one.schema.get("type")
            if kind == "integer":
                values |= st.integers(-(2**70), 2**70) | st.integers(-3, 3) | st.integers(995, 1005)
            elif kind == "string":
                values |= st.text(st.characters(codec="utf-8"), max_size=70)
            examples(values, check, 25)

    with_kernel(explore)


def test_limits_have_their_ranges() -> None:
    schema = schema_of(Limits)
    assert schema["properties"].keys() == RANGES.keys()
    for name, (low, high) in RANGES.items():
        check = validator({"type": "object", "properties": {name: schema["properties"][name]}})
        for good in (low, high, None):
            assert check.is_valid({name: good})
        for bad in (low - 1, high + 1, True, str(low), float("inf"), []):
            assert not check.is_valid({name: bad})


def test_shapes() -> None:
    @frozen
    class Inner:
        size: int
        name: str = "x"

    @frozen
    class Outer:
        """Says what it is.

        And more.
        """

        kind: Literal["a", "b"] | None
        inner: Inner | None = None
        many: list[str] = field(factory=list)
        table: dict[str, int] = field(factory=dict)

    Outer.__annotations__ |= {"inner": Inner | None, "kind": Literal["a", "b"] | None, "many": list[str]}
    Inner.__annotations__ |= {"size": int}
    schema = schema_of(Outer)
    assert schema["description"] == "Says what it is." and schema["required"] == ["kind"]
    assert schema["additionalProperties"] is False
    check = validator(schema)
    assert check.is_valid({"kind": None, "inner": {"size": 1}, "many": ["a"], "table": {"a": 1}})
    for bad in (
        {},
        {"kind": "c"},
        {"kind": "a", "inner": {}},
        {"kind": "a", "many": [1]},
        {"kind": "a", "table": {"a": ""}},
    ):
        assert not check.is_valid(bad), bad
    assert schema["properties"]["inner"]["anyOf"][0]["properties"]["name"]["default"] == "x"


def test_a_type_that_json_has_not_is_an_error() -> None:
    with pytest.raises(TypeError, match="bytes"):
        schema_of(bytes)
