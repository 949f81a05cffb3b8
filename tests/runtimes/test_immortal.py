"""Objects of the ancestor are not counted any more, where Python has such objects; what services make is, as ever."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from runtime_rig import process_rig

from solo_trio.runtimes.immortal import KNOWN

HAS = sys.version_info[:2] in KNOWN
ALONE = """
import gc, sys, weakref
from solo_trio.runtimes.immortal import immortalise

class Thing: pass
def function(): return [function, "a" * 3]

number = 10**6
assert immortalise() is HAS
for thing in (Thing, function, function.__code__, sys.modules, gc):
    before = sys.getrefcount(thing)
    kept = [thing] * 1_000
    assert (sys.getrefcount(thing) == before) is HAS, thing
    del kept
for _ in range(1_000):
    function(), Thing()
made = Thing()
made.itself = made
seen = weakref.ref(made)
del made
gc.collect()
assert seen() is None
gc.freeze()
gc.unfreeze()
gc.collect()
print("well")
"""


def test_what_is_there_is_not_counted_and_what_comes_is() -> None:
    made = subprocess.run(
        [sys.executable, "-c", ALONE.replace("HAS", str(HAS))], capture_output=True, text=True, check=False
    )
    assert (made.returncode, made.stdout) == (0, "well\n"), made.stderr


async def test_services_do_not_count_what_they_share(tmp_path: Path) -> None:
    async with process_rig(tmp_path) as rig:
        running = await rig.start(
            """
            import gc, sys, weakref
            import trio
            from solo_trio import service
            class Own: pass
            @service.export
            def counted():
                own = Own()
                own.itself, seen = own, weakref.ref(own)
                del own
                gc.collect()
                return [sys.getrefcount(trio.run) > 1 << 31, sys.getrefcount(Own) > 1 << 31, seen() is None]
            """
        )
        assert await running.call("counted", [], {}) == [HAS, False, True]
