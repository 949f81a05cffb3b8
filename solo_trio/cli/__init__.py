"""The command `solo`. Owns: the entry point. Never: imports what only one of the commands needs."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line of this process, and exit: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted."""
    try:
        from solo_trio.cli.running import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while it still imports
        code = 130
    sys.exit(code)
