"""A directory as an archive. Owns: what of a directory belongs to a service, and the same bytes for the same files.
Never: decides what the server takes.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from solo_trio.errors import Rejected

FILES_MAX: Final = 512
EXPANDED_BYTES_MAX: Final = 8 * 1_048_576
"""What the server takes at most: so a home directory that was named by mistake is not packed to its end."""
_WHEN: Final = (1980, 1, 1, 0, 0, 0)
_MODE: Final = 0o100644 << 16
_UNIX: Final = 3
_OF_A_VENV: Final = "pyvenv.cfg"


def pack(directory: str | Path) -> bytes:
    """The files of a directory as the zip archive that `deploy` takes; the same files give the same bytes.

    Left out: what begins with a dot, `__pycache__`, `*.pyc`, and virtual environments. Raises `Rejected`.
    """
    root, expanded = Path(directory), 0
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for count, path in enumerate(_files(root), start=1):
            content = path.read_bytes()
            expanded += len(content)
            if count > FILES_MAX or expanded > EXPANDED_BYTES_MAX:
                raise Rejected(
                    "too_large", f"a service has at most {FILES_MAX} files, {EXPANDED_BYTES_MAX} bytes; {root} has more"
                )
            member = zipfile.ZipInfo(path.relative_to(root).as_posix(), _WHEN)
            member.create_system, member.external_attr, member.compress_type = _UNIX, _MODE, zipfile.ZIP_DEFLATED
            archive.writestr(member, content, compresslevel=9)
    return buffer.getvalue()


def _files(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.iterdir(), key=lambda each: each.name):
        if path.name.startswith(".") or path.name == "__pycache__" or path.suffix == ".pyc":
            continue
        if path.is_symlink():
            raise Rejected("archive_refused", f"{path} is a symbolic link: put the file in its place")
        if path.is_dir():
            if not (path / _OF_A_VENV).exists():
                yield from _files(path)
        elif path.is_file():
            yield path
        else:
            raise Rejected("archive_refused", f"{path} is no plain file: leave it out")
