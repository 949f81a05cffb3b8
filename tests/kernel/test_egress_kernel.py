"""Network access in a whole kernel: deployed, changed while it runs, kept over a restart, bounded by the operator."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from solo_trio.embedding import Kernel
from solo_trio.errors import SoloError
from solo_trio.operations.settings import EMBEDDED, Settings

BOUND_S = 90.0
SOURCE = """
import trio
from solo_trio import service
held = []

@service.export
async def hold(port):
    held.append(await trio.open_tcp_stream("127.0.0.1", port))
    return len(held)

@service.export
async def read():
    return (await held[-1].receive_some(10)).decode()
"""


async def listen(nursery: trio.Nursery) -> int:
    async def wait(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    [listener] = await nursery.start(partial(trio.serve_tcp, wait, 0, host="127.0.0.1"))
    port: int = listener.socket.getsockname()[1]
    return port


async def refusal(awaited: Any) -> SoloError:
    with pytest.raises(SoloError) as caught:
        await awaited
    return caught.value


async def test_granted_changed_cut_and_kept(tmp_path: Path) -> None:
    with trio.fail_after(BOUND_S):
        async with trio.open_nursery() as nursery:
            port = await listen(nursery)
            entry = f"127.0.0.1:{port}"
            anywhere = Settings(boot_loop_starts=0, egress_allowed=("*",))
            async with Kernel.open(tmp_path / "data", settings=anywhere) as kernel:
                tenant = await kernel.tenant("a")
                await tenant.deploy("svc", source=SOURCE)
                error = await refusal(tenant.call("svc", "hold", port))
                assert error.code == "call_failed" and "PermissionError" in error.detail and "egress" in error.detail
                changed = await tenant.update("svc", egress=[entry.upper(), entry])
                assert changed["spec"]["egress"] == (entry,) and changed["applies_at_next_start"] == []
                assert await tenant.call("svc", "hold", port) == 1  # the same process
                status = await tenant.status("svc")
                assert status["usage"]["egress_connections"] == 1
                await tenant.update("svc", restart="transient")  # says nothing of it
                assert (await tenant.status("svc"))["usage"]["egress_connections"] == 1
                await tenant.update("svc", egress=[])
                assert await tenant.call("svc", "read") == ""
                assert "egress" in (await refusal(tenant.call("svc", "hold", port))).detail
                await tenant.update("svc", egress=[entry])
            async with Kernel.open(tmp_path / "data", settings=anywhere) as kernel:
                tenant = await kernel.tenant("a")
                await kernel.wait_recovered()
                assert await tenant.call("svc", "hold", port) == 1
            async with Kernel.open(tmp_path / "data") as kernel:  # the operator has thought again
                tenant = await kernel.tenant("a")
                await kernel.wait_recovered()
                assert "egress_allowed" in (await refusal(tenant.call("svc", "hold", port))).detail
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("entries", "allowed", "word"),
    [
        (["169.254.169.254:80"], ("*",), "169.254.169.254:80"),
        (["https://example.com"], ("*",), "https://example.com"),
        (["example.com", "10.0.0.5:1"], ("public",), "10.0.0.5:1"),
        (["example.com"], (), "example.com"),
        (["127.0.0.1:8080"], EMBEDDED.egress_allowed, "127.0.0.1:8080"),
        (["10.0.0.0/8:80", "example.com"], EMBEDDED.egress_allowed, "10.0.0.0/8:80"),
        (["[::1]:80"], EMBEDDED.egress_allowed, "[::1]:80"),
        (["[fe80::1]:80"], EMBEDDED.egress_allowed, "[fe80::1]:80"),
    ],
)
async def test_what_is_not_granted(tmp_path: Path, entries: list[str], allowed: tuple[str, ...], word: str) -> None:
    with trio.fail_after(BOUND_S):
        settings = Settings(boot_loop_starts=0, egress_allowed=allowed)
        async with Kernel.open(tmp_path / "data", settings=settings) as kernel:
            tenant = await kernel.tenant("a")
            before = kernel.system.core.loop.state.last_id
            error = await refusal(tenant.deploy("svc", source=SOURCE, egress=entries))
            assert (error.code, error.status) == ("egress_refused", 422) and word in error.detail
            assert (await refusal(tenant.deploy("svc", source=SOURCE, egress=["a.test"] * 65))).code == "invalid_field"
            assert kernel.system.core.loop.state.last_id == before


def test_a_wrong_setting_is_named() -> None:
    from solo_trio.operations.settings import keys_of

    told, default = keys_of(Settings)["egress_allowed"]
    assert default == EMBEDDED.egress_allowed == ("public",)
    assert told.fault(["*", "public", "10.0.0.0/8"], default) is None
    assert "https://x" in (told.fault(["https://x"], default) or "")
