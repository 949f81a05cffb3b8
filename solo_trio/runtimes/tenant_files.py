"""What a data directory has of each tenant. Owns: whose a file is, deleting a tenant's. Never: knows which tenants there are.

A file or directory of a tenant is named by its incarnation, the lock of an environment by that and `NAME_CHARACTERS` more. What
has another kind of name is nobody's: it is told of, and left alone.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import trio

from solo_trio.runtimes.process import NAME_CHARACTERS

_NAME: Final = re.compile(rf"[0-9a-f]{{32}}([0-9a-f]{{{NAME_CHARACTERS}}})?")


class TenantFiles:
    """Implements `ports.TenantFiles` on these directories of `data`, which need not exist."""

    def __init__(self, data: Path, directories: Sequence[str]) -> None:
        self._data = data
        self._directories = [data / name for name in directories]

    def leftovers(self, incarnations: frozenset[str]) -> list[str]:
        """See `ports.TenantFiles`."""
        return sorted(str(path.relative_to(self._data)) for path in self._all() if not _owners(path) & incarnations)

    async def sweep(self, incarnations: frozenset[str]) -> None:
        """See `ports.TenantFiles`."""
        await self._delete(lambda path: _NAME.fullmatch(path.stem) is not None and not _owners(path) & incarnations)

    async def remove(self, names: Sequence[str], incarnations: frozenset[str]) -> list[str]:
        """See `ports.TenantFiles`."""
        wanted = {
            name
            for name in set(names) & set(self.leftovers(incarnations))
            if _NAME.fullmatch(Path(name).stem) is not None
        }
        await self._delete(lambda path: str(path.relative_to(self._data)) in wanted)
        return sorted(wanted)

    async def erase(self, incarnation: str) -> None:
        """See `ports.TenantFiles`."""
        await self._delete(lambda path: incarnation in _owners(path))

    def _all(self) -> Iterator[Path]:
        for directory in self._directories:
            yield from directory.glob("*")

    async def _delete(self, wanted: Callable[[Path], bool]) -> None:
        await trio.to_thread.run_sync(self._delete_now, wanted)
        await trio.lowlevel.checkpoint()  # the thread was waited for even if this was cancelled

    def _delete_now(self, wanted: Callable[[Path], bool]) -> None:
        failed: OSError | None = None
        for path in [each for each in self._all() if wanted(each)]:
            try:
                _remove(path)
            except OSError as error:  # the others all the same
                failed = error
        if failed is not None:
            raise failed


def _owners(path: Path) -> frozenset[str]:
    """The incarnations that it may be of, by its name."""
    return frozenset((path.stem, path.stem[:-NAME_CHARACTERS]))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
