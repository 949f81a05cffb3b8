"""A service with a `main`: it counts in steps of its configuration, and says so in its log.

solo deploy examples/counter.py --id counter --config '{"step": 10, "every_s": 0.5}'
solo logs counter --tail 5
solo call counter value
"""

import trio

from solo_trio import service

total = 0


@service.export
async def value() -> int:
    """What was counted since this process started: its memory is gone after a crash."""
    return total


async def main(ctx: service.Context) -> None:
    global total
    step, every_s = ctx.config.get("step", 1), ctx.config.get("every_s", 1.0)
    while True:
        await trio.sleep(every_s)
        total += step
        ctx.log.info("counted", total=total)
