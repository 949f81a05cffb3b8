"""The state as bytes: the same in every process, and nothing is lost, after any history, at any point of it."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_driver import with_service
from model_histories import Move, World, histories
from rpds import HashTrieMap

import solo_trio
from solo_trio.errors import Faulted, Rejected
from solo_trio.model import codec, snapshot
from solo_trio.model.spec import ServiceSpec
from solo_trio.model.state import KernelState, apply, fold

SETTINGS = settings(
    max_examples=100,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
HERE = Path(__file__).parent
ROOT = Path(solo_trio.__file__).parents[1]


def log_of(moves: list[Move]) -> World:
    world = World()
    for move in moves:
        with suppress(Rejected):
            world.play(move)
    return world


def same(one: Any, other: Any) -> bool:
    """Equal, and of equal types all the way down: 1 is no 1.0 here."""
    if type(one) is not type(other):
        return False
    if isinstance(one, HashTrieMap | dict):
        return set(one) == set(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    if attrs.has(type(one)):
        return all(same(getattr(one, field.name), getattr(other, field.name)) for field in attrs.fields(type(one)))
    return bool(one == other)


@SETTINGS
@given(histories, st.data())
def test_any_checkpoint_and_the_tail_behind_it_are_the_full_fold(moves: list[Move], data: st.DataObject) -> None:
    world = log_of(moves)
    records = [codec.to_record(record.stored) for record in world.records]
    at = data.draw(st.integers(0, len(records)), label="events before the checkpoint")
    before = fold(records[:at])
    body = snapshot.encode(before)
    read = snapshot.decode(body)
    assert read == before and same(read, before)
    assert snapshot.encode(read) == body
    assert fold(records[at:], read) == fold(records) == world.state


@SETTINGS
@given(histories)
def test_the_state_that_was_believed_and_the_one_that_was_folded_have_the_same_bytes(moves: list[Move]) -> None:
    world = log_of(moves)
    assert snapshot.encode(world.state) == snapshot.encode(fold(codec.to_record(each.stored) for each in world.records))


def test_the_empty_state() -> None:
    assert snapshot.decode(snapshot.encode(KernelState())) == KernelState()


SCRIPT = """
import sys
sys.path[:0] = sys.argv[1:]
from hypothesis import find, settings
from model_driver import with_service, TENANT
from solo_trio.model import snapshot
from solo_trio.model.spec import ServiceSpec
driver = with_service()
for name in "zyxwvutsrqponm":
    driver.deploy(ServiceSpec(digest=name * 64, config={"b": 1, "a": {"d": [2.5], "c": None}}), f"service-{name}")
for name in "abc":
    driver.do(driver.create_tenant(f"tenant-{name}"))
sys.stdout.buffer.write(snapshot.encode(driver.state))
"""


def test_the_bytes_do_not_depend_on_the_hash_seed() -> None:
    found = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT, str(HERE), str(ROOT)],
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in range(5)
    }
    assert len(found) == 1
    assert len(snapshot.decode(found.pop()).tenants["acme"].services) == 15


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.update(unheard_of=1),
        lambda document: document.update(tenants=7),
        lambda document: document.update(tenants=[["acme"]]),
        lambda document: document["tenants"][0][1].pop("incarnation"),
        lambda document: document["tenants"][0][1]["services"][0][1].update(status="dreaming"),
    ],
)
def test_what_is_not_of_this_form_is_refused(change: Any) -> None:
    document = orjson.loads(snapshot.encode(with_service().state))
    change(document)
    with pytest.raises(Faulted) as caught:
        snapshot.decode(orjson.dumps(document))
    assert caught.value.code == "data_damaged"


@pytest.mark.parametrize("body", [b"", b"\xff", b"null", b"[]"])
def test_what_is_no_state_at_all_is_refused(body: bytes) -> None:
    with pytest.raises(Faulted, match="cannot be decoded"):
        snapshot.decode(body)


def test_one_step_from_a_read_state_is_one_step() -> None:
    driver = with_service()
    records = [codec.to_record(record.stored) for record in driver.records]
    read = snapshot.decode(snapshot.encode(fold(records[:-1])))
    assert apply(read, records[-1]) == driver.state


def test_the_time_does_not_depend_on_what_a_tenant_puts_into_a_configuration() -> None:
    """It is JSON already: no code of ours runs for each value in it, in a checkpoint or in an event."""

    def calls(config: dict[str, Any]) -> tuple[int, int]:
        driver = with_service()
        deployed, *_ = driver.deploy(ServiceSpec(digest="f" * 64, config=config), "other")
        count = 0

        def called(frame: Any, what: str, argument: Any) -> None:
            nonlocal count
            count += 1

        found = []
        for encode in (lambda: snapshot.encode(driver.state), lambda: codec.encode(deployed)):
            encode()  # what is made once for each class is there
            count = 0
            sys.setprofile(called)
            try:
                encode()
            finally:
                sys.setprofile(None)
            found.append(count)
        assert snapshot.decode(snapshot.encode(driver.state)) == driver.state
        return found[0], found[1]

    assert calls({"a": [{} for _ in range(10_000)]}) == calls({})
