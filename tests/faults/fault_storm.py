"""SIGKILL, again and again, while many clients are served. Owns: killing, starting again, comparing with what was acknowledged.

    python tests/faults/fault_storm.py --kills 1000 --servers 100

Most kills hit a process that is kernel, HTTP server and clients in one, forked from one that has everything imported; the
`--servers` of them hit a real `solo serve`. Each is killed after a random number of acknowledgements and a random time more.
"""

from __future__ import annotations

import argparse
import os
import random
import select
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Final

import httpx
import trio
from attrs import define, field

HERE: Final = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1]), str(HERE.parent / "e2e")]

from crash_states import memory  # noqa: E402
from e2e_served import served  # noqa: E402
from fault_opening import Book, Opener  # noqa: E402
from fault_trace import Step  # noqa: E402
from fault_workload import Clients, Marks, live  # noqa: E402

KILLS_PER_DIRECTORY: Final = 25
"""Then a new one is begun: what is recovered at each start would grow for ever."""
ACKNOWLEDGED_MAX: Final = 20
BUDGET: Final = 100_000
MOMENT_S_MAX: Final = 0.05
LIFE_S_MAX: Final = 120.0


@define
class Storm:
    """What came of some kills."""

    kills: int = 0
    acknowledged: int = 0
    wrong: list[str] = field(factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        counted = f"{self.kills} SIGKILLs, {self.acknowledged} acknowledgements"
        return f"{counted}, {self.seconds:.0f} s: {len(self.wrong)} violations"


def storm(directory: Path, kills: int, seed: int, *, servers: bool) -> Storm:
    """Kill that often; `servers`: a real `solo serve`."""
    total, began = Storm(), time.monotonic()
    chance = random.Random(seed)
    os.environ["SOLO_BOOT_LOOP_STARTS"] = "0"  # so many kills in a row are no reason to hold services back here
    place, opener = directory, Opener(directory / "opened")
    for kill in range(kills):
        life = kill % KILLS_PER_DIRECTORY
        if life == 0:
            place = directory / f"{'served' if servers else 'forked'}-{kill}"
            place.mkdir(parents=True)
        enough = chance.randrange(ACKNOWLEDGED_MAX)
        moment = chance.uniform(0, MOMENT_S_MAX)
        before = _marks(place)
        if servers:
            trio.run(_kill_server, place, chance.randrange(2**32), life, enough, moment)
        else:
            _kill_forked(place, chance.randrange(2**32), life, enough, moment, total)
        book = Book()
        for mark in Marks.read(place / "marks"):
            book.take(Step("mark", mark=mark))
        found = opener.open_there(place / "data")
        for each in [found] if isinstance(found, str) else book.lacks(found):
            total.wrong.append(f"kill {kill} (seed {seed}): {each}")
        if not isinstance(found, str):
            _settle(place, book, found.facts)
        total.kills += 1
        total.acknowledged += _marks(place) - before
        if total.wrong:
            break
    total.seconds = time.monotonic() - began
    return total


def _settle(place: Path, book: Book, facts: dict[str, object]) -> None:
    """What was asked and not answered is known from now on: it is there, or it is not. But what a service was asked may be
    an intent that the next start carries out: nobody asks anything of that one again."""
    marks = Marks(place / "marks")
    if settled := {name: facts.get(name) for name in book.open if not name.startswith("service/")}:
        marks.write({"ack": settled, "last": 0})
    marks.close()


def _marks(place: Path) -> int:
    path = place / "marks"
    return path.read_bytes().count(b'"ack"') if path.exists() else 0


def _kill_forked(place: Path, seed: int, life: int, enough: int, moment: float, total: Storm) -> None:
    until = _marks(place) + enough
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            with (place / "stderr").open("wb") as file:
                os.dup2(file.fileno(), 2)
            trio.run(lambda: live(place / "data", Marks(place / "marks"), BUDGET, seed, life, kill=False))
        except BaseException:  # noqa: BLE001 - told, and then this process is over
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(1)
    watched = os.pidfd_open(pid)
    deadline = time.monotonic() + LIFE_S_MAX
    while _marks(place) < until and not _ended(watched, 0.01):
        assert time.monotonic() < deadline, "too little was acknowledged"
    _ended(watched, moment)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.close(watched)
    if not os.WIFSIGNALED(status):
        total.wrong.append(f"the kernel ended by itself: {(place / 'stderr').read_text()[-3_000:]}")


def _ended(watched: int, seconds: float) -> bool:
    return bool(select.select([watched], [], [], seconds)[0])


async def _kill_server(place: Path, seed: int, life: int, enough: int, moment: float) -> None:
    marks = Marks(place / "marks")
    try:
        async with served(place / "data") as server:
            marks.write({"ack": {"token": (place / "data" / "admin.token").read_text()}, "last": 0})
            until = marks.acknowledged + enough
            clients = Clients(lambda: 0, marks, random.Random(seed), BUDGET, life)
            with trio.fail_after(LIFE_S_MAX):
                async with trio.open_nursery() as nursery:

                    async def kill() -> None:
                        while marks.acknowledged < until:
                            await trio.lowlevel.checkpoint()
                        await trio.sleep(moment)
                        server.kill()
                        await server.process.wait()
                        nursery.cancel_scope.cancel()

                    nursery.start_soon(kill)
                    try:
                        await clients.run(server.url, server.token)
                    except* (httpx.TransportError, ValueError):  # cut off in the middle of an answer
                        await trio.sleep_forever()
    finally:
        marks.close()


def main() -> int:
    parser = argparse.ArgumentParser(description="SIGKILLs under load.")
    parser.add_argument("--kills", type=int, default=1_000)
    parser.add_argument("--servers", type=int, default=100, help="so many of them hit a real `solo serve`")
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    with memory() as directory:
        found = [
            storm(Path(directory), given.kills - given.servers, seed, servers=False),
            storm(Path(directory), given.servers, seed, servers=True),
        ]
        for what, each in zip(("kernels", "servers"), found, strict=True):
            print(f"{what}: {each}", *each.wrong, sep="\n", flush=True)
    return int(any(each.wrong for each in found))


if __name__ == "__main__":
    sys.exit(main())
