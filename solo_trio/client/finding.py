"""Finding a server. Owns: what the environment and a data directory say about its place and token. Never: asks it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from attrs import field, frozen

from solo_trio.errors import Faulted, Rejected

STATE_FILE: Final = "solo.json"
TOKEN_FILE: Final = "admin.token"
OWN_CERTIFICATE: Final = "certs/admin.crt"
OWN_KEY: Final = "certs/admin.key"
"""With which commands on the server's machine are let in where nobody is without a certificate."""
DATA_DEFAULT: Final = Path("data")


@frozen
class Found:
    """Where a server is. `token` is None where none is known, `local` where it is the system's own."""

    url: str
    token: str | None = field(default=None, repr=False)
    local: bool = False
    ca_cert: str | None = None
    cert: str | None = None
    key: str | None = None

    def options(self) -> dict[str, Any]:
        """The first arguments of a client."""
        files = {"ca_cert": self.ca_cert, "cert": self.cert, "key": self.key}
        return {"url": self.url, "token": self.token} | {name: path for name, path in files.items() if path is not None}


def find_server(
    data: str | Path | None = None,
    *,
    url: str | None = None,
    ca_cert: str | Path | None = None,
    cert: str | Path | None = None,
    key: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Found:
    """By `url`, by the server that runs on `data`, by `SOLO_URL`, by `SOLO_DATA`, or by ./data; in this order.

    The token is `SOLO_TOKEN`, or for a data directory the system's token in it, unless there is a client certificate: `cert`
    and `key`, or `SOLO_CERT` and `SOLO_KEY`. Servers that are trusted: `ca_cert`, `SOLO_CA_CERT`, or what the data directory
    says. Raises `not_reachable` if no server runs there.
    """
    known = os.environ if environment is None else environment
    token = known.get("SOLO_TOKEN") or None
    if cert is None and key is None:  # a pair: one half of it from elsewhere would not fit
        cert, key = known.get("SOLO_CERT") or None, known.get("SOLO_KEY") or None
    given = {"ca_cert": ca_cert or known.get("SOLO_CA_CERT") or None, "cert": cert, "key": key}
    files: dict[str, Any] = {name: None if path is None else str(path) for name, path in given.items()}
    if url is None and data is None:
        url = known.get("SOLO_URL") or None
    if url is not None:
        return Found(url, token, **files)
    directory = Path(data if data is not None else known.get("SOLO_DATA") or DATA_DEFAULT)
    state = _running_on(directory)
    address = str(state["urls"][0])
    if files["ca_cert"] is None and state.get("ca_cert"):
        files["ca_cert"] = str(state["ca_cert"])
    if token is not None:
        return Found(address, token, **files)
    if files["cert"] is not None:
        return Found(address, **files)
    if state.get("client_required"):
        files |= {"cert": str(directory / OWN_CERTIFICATE), "key": str(directory / OWN_KEY)}
    return Found(address, _admin_token(directory), local=True, **files)


def _running_on(directory: Path) -> dict[str, Any]:
    """What the server there wrote about itself."""
    path = directory / STATE_FILE
    start = f"start one with: solo serve --data {directory}"
    try:
        state = json.loads(path.read_bytes())
        pid, _ = int(state["pid"]), str(state["urls"][0])
    except FileNotFoundError:
        raise Faulted("not_reachable", f"no server runs on the data directory {directory}; {start}") from None
    except OSError as error:
        raise Faulted(
            "not_reachable", f"{path} cannot be read ({error.strerror}); use SOLO_URL and SOLO_TOKEN"
        ) from None
    except (ValueError, KeyError, TypeError, IndexError):
        raise Faulted("not_reachable", f"{path} is not what a server writes; {start}") from None
    if not _lives(pid):  # another process may listen there by now: it must not be sent the token
        raise Faulted("not_reachable", f"the server on {directory} (pid {pid}) is gone; {start}")
    return dict(state)


def _lives(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


def _admin_token(directory: Path) -> str:
    path = directory / TOKEN_FILE
    try:
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Rejected("unauthenticated", f"{path} cannot be read ({error}); set SOLO_TOKEN") from None
