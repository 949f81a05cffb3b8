"""What time brings. Owns: having expired capabilities forgotten, telling of a leap of the clock. Never: decides."""

from __future__ import annotations

from typing import Final

import trio

from solo_trio.errors import SoloError
from solo_trio.kernel.staging import Submission
from solo_trio.kernel.surroundings import Surroundings
from solo_trio.model.capability_requests import SweepExpired
from solo_trio.model.system import RecordClockJump

SWEEP_INTERVAL_S: Final = 60.0
"""An expired capability is worthless at once; so long it may still be listed."""


async def run(core: Surroundings) -> None:
    while True:
        held_s = core.loop.held_s
        try:
            if bool(held_s) != core.loop.state.system.clock_held:
                await core.loop.report(Submission(RecordClockJump(held_s)))
            while await core.loop.report(Submission(SweepExpired())):
                pass
        except SoloError as error:
            core.telemetry.note("what has expired could not be forgotten", error=str(error))
        await trio.sleep(SWEEP_INTERVAL_S)
