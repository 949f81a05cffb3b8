"""One run of the command line. Owns: what becomes of errors, the exit code. Never: a command's work."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

import click

from solo_trio.cli.commands import solo
from solo_trio.cli.texts import printable
from solo_trio.errors import SoloError

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130


def run(arguments: Sequence[str]) -> int:
    """Do what `arguments` say; returns the exit code. Only defects come out as exceptions."""
    try:
        code = solo.main(list(arguments), prog_name="solo", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else DONE
    except SoloError as error:
        return _failed(error)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        return _reader_gone()


def _failed(error: SoloError) -> int:
    sys.stderr.write(f"error: {error.code}: {printable(error.detail)}\n")
    traceback = error.extra.get("traceback")
    if isinstance(traceback, str) and traceback.strip():
        sys.stderr.write(printable(traceback.rstrip(), lines=True) + "\n")
    return FAILED


def _reader_gone() -> int:
    """Whoever read standard output has seen enough; Python would complain once more when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return DONE
