"""One run of the command line. Owns: what becomes of errors, the exit code. Never: a command's work."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import Final

import click

from solo_trio.cli.commands import INTERRUPTED, solo
from solo_trio.cli.findings import finding_lines
from solo_trio.cli.showing import ignore_output
from solo_trio.cli.texts import printable, shortened
from solo_trio.errors import SoloError

DONE: Final = 0
FAILED: Final = 1


NEXT: Final = {
    "service_not_found": "list them with: solo list, another tenant's with: solo list --tenant TENANT",
    "tenant_not_found": "list them with: solo tenant list",
    "unauthenticated": "set SOLO_TOKEN, or use the system's own token with --data DIRECTORY",
    "function_not_found": "look for @service.export in its source",
    "call_failed": "look at its log with: solo logs {id}",
    "service_start_failed": "correct the source, then deploy it again",
    "service_not_running": "see why with: solo status {id}; then solo resume {id} if it is paused, else solo restart {id}; "
    "with another source: solo deploy FILE --id {id} --replace",
    "service_exists": "put this in its place with: solo deploy FILE --id {id} --replace, or take another id",
    "archive_refused": "solo deploy takes a directory, too, and packs it itself",
    "environment_not_found": "there are, on the server's machine: solo env list",
    "environment_unusable": "look at it, on the server's machine: solo env list",
    "service_required": "see which with: solo list; stop those first",
    "service_stopping": "look again with: solo status {id}",
    "dependency_not_found": "deploy what it depends on first; there are: solo list",
    "dependency_not_running": "see how they are with: solo list",
    "wrong_status": "see how it is with: solo status {id}; then solo resume {id} if it is paused, solo restart {id} if "
    "it was given up",
    "revision_mismatch": "somebody changed it meanwhile: look at it with: solo status {id}, then decide again",
    "quota_exceeded": "stop what is not needed: solo kill ID, or ask the operator for more",
    "permission_denied": "use a token that allows it: the system's own is found with --data DIRECTORY",
    "tenant_mismatch": "leave out --tenant and SOLO_TENANT: the token says which tenant",
    "overloaded": "try again in a moment",
    "storage_full": "free disk space; it recovers by itself",
    "invalid_configuration": "see every key with: solo config show; all that is wrong with a file: solo config check FILE",
    "data_damaged": "see all that is wrong with: solo verify; what can be saved, with: solo repair; both with --data DIRECTORY",
    "data_in_use": "find it with: solo health --data DIRECTORY; or name another directory",
    "data_unwritable": "see what this machine offers with: solo doctor --data DIRECTORY",
    "sandbox_unavailable": "see what is missing and how to allow it with: solo doctor",
    "runtime_unavailable": "see what this machine offers with: solo doctor",
    "journal_failed": "mend the disk, then start the kernel again: nothing acknowledged is lost",
}
"""What to do about an error, in terms of commands; `{id}` is the service's."""
TOKEN_REFUSED: Final = (
    "the token in SOLO_TOKEN is not valid here: correct it, or unset it to use the data directory's own"
)


def run(arguments: Sequence[str]) -> int:
    """Do what `arguments` say; returns the exit code. Only defects come out as exceptions."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # whatever the locale's encoding lacks
    try:
        code = solo.main(list(arguments), prog_name="solo", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else DONE
    except SoloError as error:
        return _failed(error)
    except click.ClickException as error:
        return _misused(error)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        ignore_output()
        return DONE


def _misused(error: click.ClickException) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return error.exit_code
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is not None:
        sys.stderr.write(f"{context.get_usage()}\nTry '{context.command_path} --help' for help.\n\n")
    sys.stderr.write(f"Error: {shortened(printable(error.format_message()))}\n")
    return error.exit_code


def _failed(error: SoloError) -> int:
    sys.stderr.write(f"error: {error.code}: {shortened(printable(error.detail))}\n")
    advice = NEXT.get(error.code)
    if error.code == "unauthenticated" and os.environ.get("SOLO_TOKEN"):
        advice = TOKEN_REFUSED
    advice = error.extra.get("next", advice)
    if isinstance(advice, str):
        advice = advice.replace("{id}", str(error.extra.get("service_id", "ID")))
        sys.stderr.write(f"  next: {shortened(printable(advice))}\n")
    findings = error.extra.get("findings")
    if isinstance(findings, list):
        for line in finding_lines(findings):
            sys.stderr.write(f"  {shortened(printable(line))}\n")
    traceback = error.extra.get("traceback")
    if isinstance(traceback, str) and traceback.strip():
        sys.stderr.write(printable(traceback.rstrip(), lines=True) + "\n")
    return FAILED
