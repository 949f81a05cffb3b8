"""Solo on Trio: a user-level operating system for LLM agents. Exports lazily, so that a zygote imports only what it uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from solo_trio import service as service
    from solo_trio.embedding import Kernel as Kernel
    from solo_trio.embedding import Tenant as Tenant

__version__ = "0.1.0"
__all__ = ["Kernel", "Tenant", "__version__", "service"]


def __getattr__(name: str) -> Any:  # PEP 562
    import importlib

    if name in ("Kernel", "Tenant"):
        return getattr(importlib.import_module("solo_trio.embedding"), name)
    if name == "service":
        return importlib.import_module("solo_trio.service")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
