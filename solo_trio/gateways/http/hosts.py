"""Which names this server answers to. Owns: the check of Host and Origin (DNS rebinding). Never: looks a name up."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Any, Final

from solo_trio.errors import Rejected

_AUTHORITY: Final = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::[0-9]{1,5})?\Z")
_ALLOW: Final = "allow the name at its start: solo serve --allow-host NAME"
_ORIGIN: Final = re.compile(r"https?://(?P<authority>.+)\Z", re.IGNORECASE)


def _host_of(authority: str) -> str | None:
    """The host of `host[:port]`, lower case, without brackets and without one trailing dot; None if malformed."""
    match = _AUTHORITY.match(authority.lower())
    return match["host"].strip("[]").removesuffix(".") if match else None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class HostCheck:
    """Loopback names and addresses, the host that was bound, the address a connection reached, and `allowed`.

    Any port is fine (a forwarded port is normal). An Origin, where present, must pass the same test; "null" does not.
    The address a connection reached is safe to allow: rebinding needs a name.
    """

    def __init__(self, bound: str, allowed: Iterable[str] = ()) -> None:
        self._allowed = frozenset(host.lower().strip("[]").removesuffix(".") for host in (bound, *allowed))

    def check(self, scope: Any) -> None:
        """Raises `Rejected("host_not_allowed")`. A request without a Host (HTTP/1.0 may) is refused too."""
        server = scope.get("server") or ("", 0)
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or not self._known(hosts[0].decode("latin-1"), server[0]):
            raise Rejected("host_not_allowed", f"use the server's own name in Host, or {_ALLOW}")
        for name, value in scope["headers"]:
            if name == b"origin":
                match = _ORIGIN.match(value.decode("latin-1"))
                if match is None or not self._known(match["authority"], server[0]):
                    raise Rejected("host_not_allowed", f"pages of this Origin may not use the server; {_ALLOW}")

    def _known(self, authority: str, reached: str) -> bool:
        host = _host_of(authority)
        return host is not None and (host in self._allowed or host == reached or _is_loopback(host))
