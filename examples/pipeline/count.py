"""The second service of a pipeline: it counts what the first one, `words`, finds. Deploy it with `--depends-on words`."""

from collections import Counter

import trio

from solo_trio import service

own: service.Context
RETRIES = 3


@service.export
async def top(text: str, n: int = 3) -> dict[str, int]:
    """The `n` most frequent words of a text."""
    for attempt in range(RETRIES + 1):
        try:
            found = await own.call("words", "words", text)
        except service.CallError as error:  # it may have crashed this moment: it is started again meanwhile
            if error.code != "call_interrupted" or attempt == RETRIES:
                raise
            own.log.warning("once more", code=error.code)
        else:
            return dict(Counter(found).most_common(n))
    raise AssertionError("unreachable")


async def main(ctx: service.Context) -> None:
    global own
    own = ctx
    await trio.sleep_forever()
