"""The Python SDK: `SoloClient` for blocking code, `AsyncSoloClient` for Trio, `find_server` for the one on this machine.

with SoloClient(**find_server("data").options(), tenant="agent_1") as solo:
    print(solo.call("calc", "add", [2, 3]))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from solo_trio.client.blocking import SoloClient as SoloClient
    from solo_trio.client.finding import Found as Found
    from solo_trio.client.finding import find_server as find_server
    from solo_trio.client.narrowing import attenuate as attenuate
    from solo_trio.client.narrowing import inspect as inspect
    from solo_trio.client.packing import pack as pack
    from solo_trio.client.trio_client import AsyncSoloClient as AsyncSoloClient

__all__ = ["AsyncSoloClient", "Found", "SoloClient", "attenuate", "find_server", "inspect", "pack"]

_PLACES = {
    "AsyncSoloClient": "trio_client",
    "Found": "finding",
    "SoloClient": "blocking",
    "attenuate": "narrowing",
    "find_server": "finding",
    "inspect": "narrowing",
    "pack": "packing",
}


def __getattr__(name: str) -> Any:  # PEP 562: the blocking client must not import Trio
    import importlib

    if name in _PLACES:
        return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
