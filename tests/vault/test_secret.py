"""A Secret cannot be shown, copied out or changed by accident."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import traceback
from collections.abc import Callable

import attrs
import orjson
import pytest

from solo_trio.vault.secret import SHOWN, Secret

CANARY = "canary-7d1f"


@attrs.frozen
class Holder:
    name: str
    secret: Secret


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        lambda secret: f"{secret}",
        lambda secret: f"{secret!r:>40}",
        lambda secret: f"{secret:s}",
        lambda secret: "%s %r %a" % (secret, secret, secret),  # noqa: UP031 - the old way is tested too
        lambda secret: repr([secret, {"a": secret}]),
        lambda secret: repr(Holder("a", secret)),
        lambda secret: repr(attrs.asdict(Holder("a", secret))),
        lambda secret: str(ValueError("no", secret)),
        lambda secret: logging.Formatter().format(logging.LogRecord("a", 1, "", 1, "%s", (secret,), None)),
    ],
)
def test_shows_nothing(show: Callable[[Secret], str]) -> None:
    shown = show(Secret(CANARY))
    assert SHOWN in shown
    assert CANARY not in shown


@pytest.mark.parametrize(
    "leak",
    [
        json.dumps,
        orjson.dumps,
        lambda secret: orjson.dumps(Holder("a", secret)),
        *[lambda secret, protocol=protocol: pickle.dumps(secret, protocol) for protocol in range(6)],
        copy.copy,
        copy.deepcopy,
        bytes,
        iter,
        vars,
        hash,
        lambda secret: setattr(secret, "_value", b""),
        lambda secret: setattr(secret, "other", b""),
        lambda secret: delattr(secret, "_value"),
    ],
)
def test_refuses_to_leave(leak: Callable[[Secret], object]) -> None:
    secret = Secret(CANARY)
    with pytest.raises((TypeError, AttributeError)) as caught:
        leak(secret)
    assert CANARY not in str(caught.value)
    assert secret.reveal() == CANARY.encode()


def test_is_not_in_a_traceback_with_locals() -> None:
    def fail(secret: Secret) -> None:
        raise ValueError("no")

    try:
        fail(Secret(CANARY))
    except ValueError as error:
        shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert SHOWN in shown
    assert CANARY not in shown


def test_equality_and_reveal() -> None:
    assert Secret("a") == Secret(b"a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert Secret("é").reveal_text() == "é"
