"""The first of two services of a pipeline: it cuts text into words, and is ready once its stop words are loaded.

solo deploy examples/pipeline/words.py --id words
solo deploy examples/pipeline/count.py --id count --depends-on words
solo call count top 'the cat and the dog and the bird' --kw n=2
"""

import re

import trio

from solo_trio import service

STOP: set[str] = set()


@service.export
async def words(text: str) -> list[str]:
    """The words of a text, without those that say nothing."""
    return [word for word in re.findall(r"[a-z]+", text.lower()) if word not in STOP]


async def main(ctx: service.Context, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    await trio.sleep(0.1)  # where a real one would load something
    STOP.update(["a", "an", "and", "of", "the"])
    task_status.started()
    await trio.sleep_forever()
