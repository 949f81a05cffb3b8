"""The analyser's findings as people read them. Owns: one line for each. Never: what is found, or where it is shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any


def finding_lines(findings: Sequence[Any], file: str = "") -> Iterator[str]:
    """`error: FILE:LINE:COLUMN: what (rule): remedy`; `file` where a finding names none of its own."""
    for each in findings:
        if isinstance(each, dict):
            place = where(each, file)
            said = f"{each.get('what')} ({each.get('rule')}): {each.get('remedy')}"
            yield f"{each.get('level')}: {place}: {said}" if place else f"{each.get('level')}: {said}"


def where(finding: dict[str, Any], file: str = "") -> str:
    parts = (finding.get("file") or file, finding.get("line"), finding.get("column"))
    return ":".join(str(each) for each in parts if each)
