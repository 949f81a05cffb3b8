"""The table of operations: everything that is generated from it relies on this."""

from __future__ import annotations

import importlib
import pkgutil
import re
from typing import get_type_hints

import attrs
import pytest

import solo_trio.operations
from solo_trio.operations.perform import OPERATIONS
from solo_trio.operations.table import operation


@pytest.mark.parametrize("name", OPERATIONS)
def test_summary_is_one_sentence(name: str) -> None:
    summary = OPERATIONS[name].summary
    assert summary and "\n" not in summary and len(summary) <= 120
    assert summary[0].isupper() and summary.endswith(".")


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_path_and_the_input_agree(name: str) -> None:
    each = OPERATIONS[name]
    placed = {attribute.name: attribute.metadata["place"] for attribute in attrs.fields(each.input)}
    assert set(re.findall(r"\{(\w+)\}", each.path)) == {one for one, place in placed.items() if place == "path"}
    assert set(placed.values()) <= {"path", "query", "body"}
    assert get_type_hints(each.input).keys() >= placed.keys()


@pytest.mark.parametrize("name", OPERATIONS)
def test_method_scope_and_effect_agree(name: str) -> None:
    each = OPERATIONS[name]
    if each.method == "GET":
        assert not each.mutates and "body" not in {one.metadata["place"] for one in attrs.fields(each.input)}
    if each.method in ("PUT", "PATCH", "DELETE"):
        assert each.mutates
    assert not (each.stream and each.mutates)
    assert each.scope != "open" or not each.mutates


def test_no_route_twice_but_for_a_page_and_its_stream() -> None:
    routes = [(each.method, each.path, each.stream) for each in OPERATIONS.values() if each.transport == "http"]
    sockets = [(each.method, each.path) for each in OPERATIONS.values() if each.transport == "websocket"]
    assert len(set(sockets)) == len(sockets) and not set(sockets) & {route[:2] for route in routes}
    assert len(set(routes)) == len(routes)
    for method, path, stream in routes:
        assert not stream or (method, path, False) in routes


def test_the_catalogue_imports_every_module_with_an_operation() -> None:
    known = set(OPERATIONS)
    for module in pkgutil.iter_modules(solo_trio.operations.__path__):
        importlib.import_module(f"solo_trio.operations.{module.name}")
    assert set(OPERATIONS) == known


def test_a_name_is_taken_once() -> None:
    async def health(caller: object, given: object) -> None:
        """Never."""

    with pytest.raises(RuntimeError, match="twice"):
        operation("GET", "/other", scope="open")(health)
