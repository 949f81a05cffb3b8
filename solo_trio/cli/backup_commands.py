"""Commands about backups. Owns: `solo backup`, with or without a server; `solo restore`; where the file goes. Never: a
backup's form."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from solo_trio.cli.options import DATA, FILE, for_system
from solo_trio.cli.progress import counting
from solo_trio.cli.showing import note, show_facts, show_json, show_line
from solo_trio.errors import Faulted, Rejected, SoloError

if TYPE_CHECKING:
    from solo_trio.bootstrap.restoring import Restored
    from solo_trio.cli.session import Place

DATABASE_FILE: Final = "kernel.db"
LOOK_S: Final = 1.0
PIECE_BYTES: Final = 1_048_576
SYSTEM: Final = "the system"


@click.command()
@click.argument("destination", metavar="[DEST]", type=click.Path(path_type=Path), required=False)
@for_system
def backup(place: Place, destination: Path | None) -> None:
    """Write a backup of everything that a kernel needs to go on elsewhere, check it, and say where it is.

    With a server it is written while that goes on, into its directory of backups (DATA/backups), and then moved to DEST, a
    directory or a new file on this machine. Without one the data directory itself is read. The master key is not in it.
    """
    if destination is not None:
        _check_destination(place, destination)
    try:
        with place.system() as client, _following(place):
            made = client.backup()
    except Faulted as error:
        if error.code != "not_reachable" or place.url or (place.data is None and os.environ.get("SOLO_URL")):
            raise
        if not (place.directory() / DATABASE_FILE).exists():
            raise
        made = _offline(place, destination)
    if destination is not None:
        made["path"] = str(_move(Path(made["path"]), destination, made["digest"]))
    if place.json:
        show_json(made)
        return
    show_line(
        f"{made['path']}: {made['bytes']} bytes, the log up to event {made['event_id']}, SHA-256 {made['digest']}"
    )
    for warning in made["warnings"]:
        note(f"warning: {warning}")
    note("keep it apart from this disk, and the master key apart from it: without that it cannot be restored")


def _check_destination(place: Place, destination: Path) -> None:
    if place.url or (place.data is None and os.environ.get("SOLO_URL")):
        raise click.UsageError("a server elsewhere writes its backups where it is (backup_dir): name no DEST")
    try:
        if destination.exists() and not destination.is_dir():
            raise Rejected("file_exists", f"{destination} is there already: name another file, or a directory")
        if not destination.parent.is_dir():
            raise Faulted("backup_failed", f"{destination.parent} is no directory: make it first")
    except OSError as error:
        raise Faulted("backup_failed", f"no file can be made there ({error.strerror}): name another one") from None


def _offline(place: Place, destination: Path | None) -> dict[str, Any]:
    import trio

    from solo_trio.bootstrap import backup_data
    from solo_trio.cli.configuring import settings_of

    data = place.directory()
    _, settings = settings_of(data)
    directory = data / settings.backup_dir
    if destination is not None:
        directory = destination if destination.is_dir() else destination.parent
    with counting("bytes", quiet=place.json) as progress:
        made = trio.run(backup_data, data, directory, progress, settings.master_key_command)
    return {
        "name": made.name,
        "path": made.path,
        "event_id": made.event_id,
        "bytes": made.size_bytes,
        "digest": made.digest,
        "duration_ms": round(made.duration_s * 1_000, 3),
        "warnings": list(made.warnings),
    }


@contextmanager
def _following(place: Place) -> Iterator[None]:
    """While a server writes one: how far it is, at a terminal."""
    if place.json or not sys.stderr.isatty():
        yield
        return
    over = threading.Event()
    with counting("bytes") as progress:

        def look() -> None:
            try:
                with place.system() as client:
                    while not over.wait(LOOK_S):
                        state = client.system().get("backup") or {}
                        if state.get("running"):
                            progress(state["done_bytes"], state["total_bytes"])
            except SoloError:  # the answer itself says what is wrong
                return

        looking = threading.Thread(target=look, daemon=True)
        looking.start()
        try:
            yield
        finally:
            over.set()
            looking.join()


def _move(path: Path, destination: Path, digest: str) -> Path:
    """The file at its destination, durably, and checked if it had to be copied; it is where it was if that fails."""
    target = destination / path.name if destination.is_dir() else destination
    if target.absolute() == path.absolute():
        return target
    try:
        try:
            os.link(path, target)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
                raise
            _copy(path, target, digest)
        _sync(target.parent)
        path.unlink()
    except FileExistsError:
        raise Rejected("file_exists", f"{target} is there already; the backup is {path}") from None
    except OSError as error:
        why = error.strerror or error
        raise Faulted("backup_failed", f"it could not be moved to {target} ({why}); the backup is {path}") from error
    return target


def _copy(path: Path, target: Path, digest: str) -> None:
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with (
            open(path, "rb") as source,
            open(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w+b") as copy,
        ):
            shutil.copyfileobj(source, copy, PIECE_BYTES)
            copy.flush()
            os.fsync(copy.fileno())
            copy.seek(0)
            if hashlib.file_digest(copy, "sha256").hexdigest() != digest:
                raise OSError(errno.EIO, "the copy is not what was copied")
        os.link(part, target)
    finally:
        part.unlink(missing_ok=True)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@click.command()
@click.argument("file", metavar="BACKUP", type=FILE)
@click.option("--data", type=DATA, required=True, help="The directory to restore into: a new one, or an empty one.")
@click.option(
    "--at",
    "event_id",
    type=click.IntRange(1),
    help="Only up to this event; what happened after it is left out, but for revocations.",
)
@click.option(
    "--master-key",
    "key_file",
    type=FILE,
    help="The master key in a file, as master.key was; it is put into the directory.  [env: SOLO_MASTER_KEY, the key itself]",
)
@click.option(
    "--config",
    "config_file",
    type=FILE,
    help="A configuration whose master_key_command prints the master key.  [env: SOLO_CONFIG]",
)
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for programs.")
def restore(
    file: Path,
    data: Path,
    event_id: int | None,
    key_file: Path | None,
    config_file: Path | None,
    as_json: bool,
) -> None:
    """Restore a backup into a new directory, from which `solo serve` then goes on.

    Everything in it is checked first. It needs the master key that the data directory had when the backup was written.
    """
    from solo_trio.bootstrap import restore_backup
    from solo_trio.cli.configuring import configured

    command = configured(config_file, {"data": data}).settings.master_key_command
    with counting("bytes", quiet=as_json) as progress:
        restored = restore_backup(file, data, progress, at=event_id, key_file=key_file, key_command=command)
    if as_json:
        show_json(_view(restored))
    else:
        _show(restored)


def _view(restored: Restored) -> dict[str, Any]:
    begun = restored.begun
    return {
        "data": str(restored.data),
        "event_id": restored.event_id,
        "backup_event_id": restored.backup_event_id,
        "made_at": restored.made_at,
        "log_id": begun.log_id,
        "revoked": begun.revoked,
        "lost_secrets": [
            {"tenant_id": each.tenant_id, "name": each.name, "version": each.version} for each in begun.secrets
        ],
        "lost_tokens": list(begun.rekeyed),
        "lost_sources": list(begun.sources),
        "environments": list(restored.environments),
        "warnings": list(restored.warnings),
    }


def _show(restored: Restored) -> None:
    begun = restored.begun
    of = "" if restored.event_id == restored.backup_event_id else f" of {restored.backup_event_id}"
    show_facts(
        [
            ("restored", restored.data),
            ("events", f"{restored.event_id}{of}"),
            ("written", restored.made_at),
            ("log", begun.log_id),
        ]
    )
    if begun.revoked:
        note(f"{begun.revoked} rights that were revoked since are revoked again")
    for lost in begun.secrets:
        note(f"version {lost.version} of the secret {lost.name} of {lost.tenant_id} was deleted since: it is gone")
    for whose in begun.rekeyed:
        how = "admin.token is written anew" if whose == SYSTEM else f"next: solo token rotate --tenant {whose}"
        note(f"tokens of {whose} were replaced since, and are good for nothing here; {how}")
    for service in begun.sources:
        note(f"the source of {service} was dropped since: deploy it again")
    for name in restored.environments:
        note(f"the environment {name} is not in a backup: solo env add {name}")
    for warning in restored.warnings:
        note(f"warning: {warning}")
    note(
        "if the kernel that was backed up still runs, stop it: both have the same tokens, and would start the same services"
    )
    note(f"  next: solo serve --data {restored.data}")


COMMANDS: Final = (backup, restore)
