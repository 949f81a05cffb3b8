"""A kernel that grants: `python capabilities_child.py DATA COUNT`. Prints the tenant's token and all that it granted, as JSON.

Grants are asked for through the operation, many at once, each by a right of its own; then it waits to be killed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import trio

from solo_trio import Kernel
from solo_trio.model.capability import Authority
from solo_trio.operations.caller import Caller
from solo_trio.operations.capabilities import CreateCapabilityInput, create_capability

AT_ONCE = 200


async def main(data: Path, count: int) -> None:
    async with Kernel.open(data) as kernel:
        await kernel.tenant("many")
        tenant = kernel.system.core.loop.state.tenants["many"]
        authority = Authority(tenant.capability_id, "many", tenant.incarnation)
        caller = Caller(kernel.system, authority, "many", tenant.incarnation)
        tokens: dict[int, Any] = {}

        async def grant(first: int) -> None:
            for number in range(first, count, AT_ONCE):
                given = CreateCapabilityInput(
                    resource=f"service:s{number}", permissions=["read"], metadata={"number": number}
                )
                tokens[number] = (await create_capability(caller, given)).body["token"]

        began = perf_counter()
        async with trio.open_nursery() as nursery:
            for first in range(AT_ONCE):
                nursery.start_soon(grant, first)
        own = kernel.system.keyring.mint(tenant.key_id, tenant.capability_id).reveal_text()
        said = {"own": own, "tokens": [tokens[number] for number in range(count)], "seconds": perf_counter() - began}
        print(json.dumps(said), flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), int(sys.argv[2]))
