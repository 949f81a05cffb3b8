"""What `code` is, by its `format`. Owns: the bytes that are kept of it, whether they can be a service, what is shown of them.
Never: runs any of it.
"""

from __future__ import annotations

import base64
import binascii
import sys
from functools import partial
from typing import Any, Final

import trio

from solo_trio.errors import Rejected
from solo_trio.model.archive import Archive, ArchiveError, ArchiveTooLarge
from solo_trio.model.spec import SOURCE_BYTES_MAX, Format

_OWN: Final = frozenset({"solo_trio", "trio"})
NAMES_SHOWN: Final = 5


def source_of(format: Format, code: str) -> bytes:
    """What is kept of `code`: the text, or the archive that it is the base64 of. Raises `Rejected`."""
    if format == "python_source":
        if not code.strip():
            raise Rejected("invalid_field", "code must be the text of a Python module")
        return code.encode()
    if len(code) > SOURCE_BYTES_MAX:
        raise Rejected("too_large", f"code may have {SOURCE_BYTES_MAX} characters; it has {len(code)}")
    try:
        return binascii.a2b_base64("".join(code.split()), strict_mode=True)
    except ValueError as error:
        raise Rejected("archive_refused", f"code must be a zip archive in base64: {error}") from None


async def check_source(format: Format, source: bytes) -> None:
    """Whether it can be a service, as far as can be told without running it. Raises `Rejected`."""
    if len(source) > SOURCE_BYTES_MAX:
        raise Rejected("too_large", f"code may have {SOURCE_BYTES_MAX} bytes; it has {len(source)}")
    if format == "python_zip":
        await trio.to_thread.run_sync(partial(_check_archive, source))  # up to 8 MiB are expanded


def _check_archive(source: bytes) -> None:
    try:
        archive = Archive(source)
        archive.check()
    except ArchiveTooLarge as error:
        raise Rejected("too_large", str(error)) from None
    except ArchiveError as error:
        raise Rejected("archive_refused", str(error)) from None
    hiding = [name for name in archive.top_level() if name in _OWN or name in sys.stdlib_module_names]
    if hiding:
        names = ", ".join(hiding[:NAMES_SHOWN])
        raise Rejected("archive_refused", f"rename these modules, whose names Python or Solo itself uses: {names}")


def source_view(format: Format, source: bytes | None) -> dict[str, Any]:
    """How a version's source is shown: `source` can be deployed again as `code`."""
    if source is None:
        return {"format": None, "source": None, "files": None}
    if format == "python_source":
        return {"format": format, "source": source.decode(), "files": None}
    archive = Archive(source)
    files = [{"path": path, "size_bytes": archive.size(path)} for path in archive.paths]
    return {"format": format, "source": base64.b64encode(source).decode(), "files": files}
