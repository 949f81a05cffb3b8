"""`python tests/bench [FIGURE ...]`. Owns: which figures, where, the profile. Never: asserts a time.

No test: pytest does not collect it. It takes some minutes and wants an otherwise quiet machine; the ratios bear some noise.
"""

from __future__ import annotations

import argparse
import cProfile
import platform
import pstats
import shutil
import sys
import tempfile
from pathlib import Path

import admission
import audited
import backups
import capabilities
import deploys
import durable
import longlog
import many
import sandboxed
import trio
import watching

from solo_trio.journal.library import driver

FIGURES = {
    "admission": admission.measure,
    "append": durable.measure,
    "audit": audited.measure,
    "backup": backups.measure,
    "capabilities": capabilities.measure,
    "deploy": deploys.measure,
    "many": many.measure,
    "sandbox": sandboxed.measure,
    "watch": watching.measure,
    "longlog": longlog.measure,
}
PROFILE_LINES = 30


def main() -> None:
    parser = argparse.ArgumentParser(prog="nox -s bench --", description="Figures beside the machine's floor.")
    parser.add_argument("figures", nargs="*", metavar="|".join(FIGURES), help="which (all)")
    parser.add_argument("--events", type=int, default=longlog.EVENTS, help="of `longlog` (%(default)s: two minutes)")
    parser.add_argument("--directory", type=Path, help="where to write: the disk that is measured (the temporary one)")
    parser.add_argument(
        "--profile",
        action="store_true",
        help="show where the time of this process goes; slows it down, so believe no ratio. For the processes of "
        "`many`, and for threads: py-spy record --subprocesses -- python tests/bench many",
    )
    given = parser.parse_args()
    chosen = given.figures or list(FIGURES)
    if unknown := set(chosen) - set(FIGURES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    print(f"Python {platform.python_version()}, SQLite {driver.sqlite_version}, {platform.platform()}")
    for name in chosen:
        directory = Path(tempfile.mkdtemp(prefix="solo_bench_", dir=given.directory))
        profile = cProfile.Profile()
        try:
            if given.profile:
                profile.enable()
            more = (given.events,) if name == "longlog" else ()
            trio.run(FIGURES[name], directory, *more)
        finally:
            profile.disable()
            shutil.rmtree(directory)
        if given.profile:
            pstats.Stats(profile, stream=sys.stdout).sort_stats("tottime").print_stats(PROFILE_LINES)


if __name__ == "__main__":
    main()
