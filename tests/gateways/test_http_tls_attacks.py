"""Every attack on the wire again, through TLS: the server behind it is the same, its sockets are not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import test_http_strict
import test_http_wire_attacks
from tls_rig import Authority
from wire_client import over_tls

PLAIN = {"test_accepts_again_after_running_out_of_files", "test_stock_hypercorn_does_not_survive"}
"""They make sockets of their own, to what is the same with and without TLS."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def through_tls(authority: Authority) -> Iterator[None]:
    token = over_tls.set((authority.server(check_s=60.0), authority.client()))
    yield
    over_tls.reset(token)


for _module in (test_http_wire_attacks, test_http_strict):
    for _name, _test in vars(_module).items():
        if _name.startswith("test_") and _name not in PLAIN:
            globals()[_name] = _test
