"""A command's connection. Owns: which server, which tenant, creating `default`. Never: what is then asked."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from attrs import frozen

from solo_trio.errors import Rejected

if TYPE_CHECKING:
    from solo_trio.client import Found, SoloClient

DEFAULT_TENANT: Final = "default"
OPTIONAL_OF_HTTPX: Final = ("trio", "anyio", "rich", "pygments")
"""httpx imports these where they are installed, and takes twice as long; the blocking client uses none of them."""


@frozen
class Place:
    """What a command was told about its server, and how it shall answer."""

    data: Path | None
    url: str | None
    json: bool
    tenant: str | None = None
    tenant_named: bool = False
    """By a flag, not by the environment."""
    ca_cert: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def waiting(self, what: str) -> AbstractContextManager[object]:
        """While an answer is waited for: tells a person at a terminal so."""
        from solo_trio.cli.progress import telling

        return telling(what, quiet=self.json)

    @contextmanager
    def system(self) -> Iterator[SoloClient]:
        """A client that names no tenant."""
        with _client(self._found()) as client:
            yield client

    @contextmanager
    def in_tenant(self) -> Iterator[SoloClient]:
        """A client for the tenant that was named, the token's own, or with a system token `default`, made on first use."""
        found = self._found()
        tenant = self.tenant or (DEFAULT_TENANT if found.local else None)
        with _client(found, tenant) as client:
            _settle(client)
            yield client

    @contextmanager
    def connected(self, *, everything: bool) -> Iterator[SoloClient]:
        """`system` where everything is asked for, else `in_tenant`."""
        if everything:
            with self.system() as client:
                yield client
        else:
            with self.in_tenant() as client:
                yield client

    def directory(self) -> Path:
        """The data directory on this machine that is meant where no server is named."""
        return self.data or self._configured() or Path(os.environ.get("SOLO_DATA") or "./data")

    def address(self) -> str:
        """The server's URL as it is now: one on this machine may have come back on another port. Raises `not_reachable`."""
        return self._found().url

    def _found(self) -> Found:
        from solo_trio.client import find_server

        data = self.data or self._configured()
        return find_server(data, url=self.url, ca_cert=self.ca_cert, cert=self.cert, key=self.key)

    def _configured(self) -> Path | None:
        """The data directory that the file of `SOLO_CONFIG` names, where nothing nearer names a server."""
        file = os.environ.get("SOLO_CONFIG")
        if not file or self.url or os.environ.get("SOLO_URL") or os.environ.get("SOLO_DATA"):
            return None
        from solo_trio.cli.configuring import data_of

        return data_of(Path(file))


def _client(found: Found, tenant: str | None = None) -> SoloClient:
    if "httpx" not in sys.modules:
        _import_httpx_alone()
    from solo_trio.client import SoloClient

    return SoloClient(**found.options(), tenant=tenant)


def _import_httpx_alone() -> None:
    hidden = [name for name in OPTIONAL_OF_HTTPX if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: an import of it fails
    try:
        import httpcore  # noqa: F401
        import httpx  # noqa: F401
    finally:
        for name in hidden:
            del sys.modules[name]


def _settle(client: SoloClient) -> None:
    """Find out which tenant it is. Any other refusal is for the command itself to meet."""
    try:
        client.services(limit=1)
    except Rejected as error:
        if error.code == "tenant_required":
            client.tenant = DEFAULT_TENANT
            _settle(client)
        elif error.code == "tenant_not_found" and client.tenant == DEFAULT_TENANT:
            _create_default(client)


def _create_default(client: SoloClient) -> None:
    try:
        client.create_tenant(DEFAULT_TENANT)
    except Rejected as error:
        if error.code != "tenant_exists":
            raise
