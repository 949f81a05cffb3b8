"""Erasing what removed tenants recorded. Owns: seeing it through, also what the last kernel left. Never: decides whose.

What is to be erased is known durably since `tenant_erased`, and counts as erased since then. First the state is kept anew, so
that a start need not read the whole log when the older checkpoints go; then the journal erases, step by step. Whatever fails is
tried again: nobody waits for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Protocol

import trio

from solo_trio.errors import SoloError
from solo_trio.kernel.checkpoints import Checkpoints
from solo_trio.kernel.hub import Hub
from solo_trio.kernel.loop import Loop, submission_error
from solo_trio.kernel.past import PastStates
from solo_trio.kernel.staging import Submission
from solo_trio.model.record import Erasure
from solo_trio.model.tenant_removal import EraseTenant
from solo_trio.ports import Journal, Telemetry

FRESH_CHECKPOINTS: Final = 2
"""The newest, and one to fall back on."""
STEP_RETRY_S: Final = 0.1
"""Between sweeps that came to nothing, because somebody reads."""
SWEEPS_MAX: Final = 3
"""Tried at once; then again after `ERASE_RETRY_S`. It may be too large until more of it is in the archive."""
ERASE_RETRY_S: Final = 30.0


class Erasable(Protocol):
    """What is erased from."""

    loop: Loop
    hub: Hub
    journal: Journal
    telemetry: Telemetry
    checkpoints: Checkpoints
    past: PastStates


class Erasures:
    """Those of one running kernel."""

    def __init__(self, core: Erasable) -> None:
        self._core = core
        self._turn = trio.Lock()

    async def run(self, after: trio.Event) -> None:
        """What a former kernel left, or could not be done at once; then again and again, until cancelled."""
        await after.wait()
        while True:
            await self.finish(None)
            await trio.sleep(ERASE_RETRY_S)

    async def finish(self, incarnation: str | None) -> bool:
        """Erase what waits for it, of one incarnation or of all; whether that could be done. Raises nothing."""
        async with self._turn:
            return await self._contained(partial(self._finish, incarnation))

    async def _finish(self, incarnation: str | None) -> bool:
        done = True
        for erasure in await self._core.journal.erasures():
            if incarnation in (None, erasure.incarnation):
                # One that cannot be done keeps none of the others waiting.
                done = await self._contained(partial(self._erase, erasure)) and done
        for _ in range(SWEEPS_MAX):
            if await self._core.journal.sweep():
                break
            await trio.sleep(STEP_RETRY_S)
        return done

    async def _contained(self, work: Callable[[], Awaitable[bool]]) -> bool:
        """What it says; False where it fails."""
        try:
            return await work()
        except SoloError as error:
            if not submission_error(error):
                self._core.telemetry.note("events of a removed tenant are erased later", error=str(error))
            return False
        except Exception as error:  # noqa: BLE001 - contained: it is tried again
            self._core.telemetry.bug("erasing", error)
            return False

    async def _recorded(self, erasure: Erasure) -> Erasure:
        """With an event that says so."""
        if erasure.event_id is not None:
            return erasure
        command = EraseTenant(erasure.tenant_id, erasure.incarnation, erasure.removed_at_us)
        event_id = await self._core.loop.report(Submission(command))
        return Erasure(erasure.tenant_id, erasure.incarnation, event_id, erasure.removed_at_us)

    async def _erase(self, erasure: Erasure) -> bool:
        erasure = await self._recorded(erasure)
        assert erasure.event_id is not None
        before = [each for each in await self._core.journal.checkpoint_ids() if each < erasure.event_id]
        for _ in range(FRESH_CHECKPOINTS if before else 0):
            await self._core.checkpoints.write()
        while not await self._core.journal.erase(erasure):
            await trio.lowlevel.checkpoint()  # each step takes its turn with appends
        self._core.hub.erase(erasure.incarnation, erasure.event_id)
        self._core.past.forget()
        return True
