from __future__ import annotations

from collections.abc import Iterator

import pytest
from cli_rig import PIDS, Server

from solo_trio.client import SoloClient, find_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for the tests of a module, with the service `pids` of the tenant `default`."""
    with Server(tmp_path_factory.mktemp("cli") / "data") as running:
        with SoloClient(**find_server(running.data, environment={}).options(), tenant="default") as client:
            client.create_tenant("default")
            client.deploy("pids", PIDS, config={"a": 1})
        yield running
