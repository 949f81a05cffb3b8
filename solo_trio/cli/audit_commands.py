"""Commands about the audit of requests. Owns: `solo audit export`, with or without a server. Never: changes an entry."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

import click

from solo_trio.cli.options import FILE, TIME, for_tenant
from solo_trio.cli.progress import counting
from solo_trio.cli.showing import note
from solo_trio.errors import Faulted, SoloError

if TYPE_CHECKING:
    from solo_trio.cli.session import Place

AUDIT_FILE: Final = "audit.db"
PAGE: Final = 1_000
LINES: Final = 500
"""Written at once."""
Entry = dict[str, Any]
Progress = Callable[[int, int], None]
"""Told the id that was reached, and the last one."""


@click.group()
def audit() -> None:
    """Look at who called what, and what was refused."""


@audit.command()
@click.option(
    "--format", "form", type=click.Choice(["json", "csv"]), default="json", show_default=True, help="What to write."
)
@click.option("--since", type=TIME, help="Only entries from this time on, like 2026-01-31 or 2026-01-31T12:00:00Z.")
@click.option("--until", type=TIME, help="Only entries before this time.")
@click.option("--operation", help="Only of this operation, like deploy.")
@click.option("--outcome", help="Only with this outcome: a status like 201, or an error's code like permission_denied.")
@click.option("--credential", help="Only of this capability's id, or of system.")
@click.option(
    "--out", type=FILE, help="The file to write; it takes its name when it is whole.  [default: standard output]"
)
@for_tenant
def export(place: Place, form: str, out: Path | None, **asked: str | None) -> None:
    """Write the audit as a JSON array or as CSV, oldest first.

    With the system's token and without --tenant: of all. Where no server runs, the data directory itself is read (--data).
    """
    with counting("entries", quiet=place.json) as progress, _opened(out) as file:
        written = _write(file, form, _entries(place, asked, progress))
    if out is not None:
        note(f"wrote {written} entries to {out}")


def _entries(place: Place, asked: dict[str, str | None], progress: Progress) -> Iterator[Entry]:
    try:
        yield from _of_server(place, asked, progress)
    except Faulted as error:
        data = place.directory()
        elsewhere = place.url or (place.data is None and os.environ.get("SOLO_URL"))
        if error.code != "not_reachable" or elsewhere or not (data / AUDIT_FILE).exists() or error.extra.get("begun"):
            raise
        yield from _of_directory(data, place.tenant, asked, progress)


def _of_server(place: Place, asked: dict[str, str | None], progress: Progress) -> Iterator[Entry]:
    with place.connected(everything=place.tenant is None) as client:
        last_id = 0
        with suppress(SoloError):  # of a tenant's token: it is not told how many there are
            last_id = client.system()["audit"]["newest_id"]
        cursor: str | None = None
        while True:
            try:
                page = client.audit(limit=PAGE, cursor=cursor, **asked)
            except Faulted as error:
                error.extra["begun"] = cursor is not None
                raise
            yield from page["entries"]
            cursor = page["next"]
            if cursor is None:
                return
            progress(int(cursor), last_id)


def _of_directory(
    data: Path, tenant_id: str | None, asked: dict[str, str | None], progress: Progress
) -> Iterator[Entry]:
    from solo_trio.bootstrap import read_audit
    from solo_trio.model.audit import AuditQuery
    from solo_trio.model.instant import read_rfc3339

    times = [None if (at := asked[name]) is None else read_rfc3339(at) for name in ("since", "until")]
    query = AuditQuery(
        limit=PAGE,
        since_us=times[0],
        until_us=times[1],
        tenant_id=tenant_id,
        operation=asked["operation"],
        outcome=asked["outcome"],
        credential=asked["credential"],
    )
    return (kept.view() for kept in read_audit(data, query, progress))


def _write(file: TextIO, form: str, entries: Iterator[Entry]) -> int:
    """One after the other: the audit may be larger than what fits into memory."""
    from solo_trio.operations import audit_csv

    written = 0
    first = next(entries, None)  # nothing is written before it is known that there is an answer
    if form == "csv":
        file.write(audit_csv.header())
    for batch in _batches(first, entries):
        if form == "csv":
            file.write(audit_csv.rows(batch))
        else:
            file.write(
                "".join(("[\n" if not written and not n else ",\n") + json.dumps(each) for n, each in enumerate(batch))
            )
        written += len(batch)
    if form == "json":
        file.write("\n]\n" if written else "[]\n")
    return written


def _batches(first: Entry | None, rest: Iterable[Entry]) -> Iterator[list[Entry]]:
    if first is None:
        return
    yield [first]
    iterator = iter(rest)
    while batch := list(islice(iterator, LINES)):
        yield batch


@contextmanager
def _opened(out: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that has its name only once it is whole; nobody else may read it."""
    if out is None:
        yield sys.stdout
        return
    part = out.with_name(f"{out.name}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="utf-8", newline="") as file:
            yield file
        part.replace(out)
    except OSError as error:
        raise Faulted("data_unwritable", f"{out} cannot be written ({error.strerror}): name another file") from None
    finally:
        part.unlink(missing_ok=True)


COMMANDS: Final = (audit,)
