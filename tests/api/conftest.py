from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from api_rig import Api, Client, running


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """A kernel of its own for the test."""
    async with running(tmp_path / "data") as found:
        yield found


@pytest.fixture
async def tenant(api: Api) -> Client:
    """A client with the token of a new tenant `t1`."""
    return await api.tenant("t1")
