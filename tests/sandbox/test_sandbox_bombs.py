"""What would use up the machine, or bring down what it runs on. Each bomb ends or is contained, its ending says why, and a
sibling, another tenant and the kernel answer meanwhile and afterwards. As root, and as an ordinary user.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from sandbox_bombs import ANSWERS_LEAST, BOMBS, COUNTED, LASTING
from sandbox_configurations import run


@pytest.fixture(scope="module", params=["root", "plain"])
def seen(request: pytest.FixtureRequest) -> dict[str, Any]:
    found = run({"user": request.param, "level": 3, "without": [], "bombs": True})
    assert "bombs" in found, found
    bombs: dict[str, Any] = found["bombs"]
    return bombs


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_hurts_nobody_else(name: str, seen: dict[str, Any]) -> None:
    if name in COUNTED and "memory" not in seen[""]["controllers"]:
        pytest.skip(
            "nothing but control groups counts these pages; what a service has is looked at each second, elsewhere"
        )
    found = seen[name]
    assert "broken" not in found, found["broken"]
    assert re.search(BOMBS[name][1], found["text"]), found["text"]
    assert found["after"] == ["pong", "pong"]
    assert found["answers"] >= ANSWERS_LEAST or name not in LASTING
