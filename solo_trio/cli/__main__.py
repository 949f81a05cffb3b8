"""`python -m solo_trio.cli`: the command where no `solo` is on the path."""

from __future__ import annotations

from solo_trio.cli import main

main()
