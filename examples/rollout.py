"""Roll a new version of a service out, and back again if it does not pass its check.

    python examples/rollout.py FILE SERVICE FUNCTION [ARG ...]

Deploys FILE in the place of SERVICE (or for the first time), then calls FUNCTION, which must not fail. If it does, the version
before is put back from the kernel's own list of versions. A new version that does not even become ready is never in use: the
kernel itself puts the one before back.

Run it where the server's data directory is (./data, or SOLO_DATA); exit code 0: the new version is in use, 1: it is not.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from solo_trio.client import SoloClient, find_server
from solo_trio.errors import SoloError

TENANT = "default"
KEPT = ("restart", "restart_limits", "limits", "config", "depends_on")


def argument(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def in_use(solo: SoloClient, service_id: str) -> dict[str, Any] | None:
    """What `deploy` takes to have the current version again, or None if there is no such service."""
    try:
        spec = solo.status(service_id)["spec"]
        versions = solo.versions(service_id)["versions"]
    except SoloError as error:
        if error.code in ("service_not_found", "tenant_not_found"):
            return None
        raise
    source = next(each["source"] for each in versions if each["current"])
    return {"code": source} | {name: spec[name] for name in KEPT}


def roll_out(solo: SoloClient, service_id: str, code: str, function: str, args: list[Any]) -> bool:
    before = in_use(solo, service_id)
    new = (before or {}) | {"code": code}  # a replacement that does not name its policy has the default one
    try:
        deployed = solo.deploy(service_id, replace=True, **new)
    except SoloError as error:
        print(f"{service_id}: not deployed: {error.code}: {error.detail}")
        return False
    print(f"{service_id}: version {deployed['version']} is ready")
    try:
        print(f"{function}: {solo.call(service_id, function, args)!r}")
    except SoloError as error:
        print(f"{function}: failed: {error.code}")
        if before is None:
            solo.kill(service_id)
            print(f"{service_id}: deleted; there was no version before")
        else:  # `if_match`: a newer version that somebody else deployed meanwhile is not replaced by our old one
            back = solo.deploy(service_id, replace=True, if_match=deployed["revision"], **before)
            print(f"{service_id}: the version before is back, as version {back['version']}")
        return False
    return True


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    with SoloClient(**find_server().options(), tenant=TENANT) as solo_:
        done = roll_out(
            solo_, sys.argv[2], Path(sys.argv[1]).read_text(), sys.argv[3], [argument(each) for each in sys.argv[4:]]
        )
    sys.exit(0 if done else 1)
