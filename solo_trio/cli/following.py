"""Following a stream. Owns: what is said when the server goes and comes back, and where to go on. Never: the stream itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from attrs import frozen

from solo_trio.cli.showing import note
from solo_trio.errors import SoloError

if TYPE_CHECKING:
    from solo_trio.cli.session import Place


@frozen
class Told:
    """Tells a person, beside the answer; looks up the server again, which may have another port after its restart."""

    _place: Place

    def gone(self, error: SoloError | None) -> None:
        why = "it ends every connection" if error is None else error.detail
        note(f"server gone, trying again ({why})")

    def back(self) -> None:
        note("server back")

    def place(self) -> str | None:
        return self._place.address()


@contextmanager
def following(command: str) -> Iterator[None]:
    """An error that ends a stream says how to go on; `{id}` in `command` is the last id that was seen."""
    try:
        yield
    except SoloError as error:
        last_id = error.extra.get("last_id")
        if last_id is not None:
            error.extra["next"] = command.replace("{id}", str(last_id))
        raise
