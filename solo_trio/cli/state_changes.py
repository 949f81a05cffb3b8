"""Two states compared. Owns: what is different, in words. Never: where they come from."""

from __future__ import annotations

import json
from typing import Any, Final

from solo_trio.cli.texts import shortened

NAMES: Final = {"tenants": "tenant", "services": "service", "capabilities": "capability", "secrets": "secret"}
_VALUE_SHOWN: Final = 80
_QUIET: Final = frozenset({"revision", "ready_since"})
"""They change with everything else that does, and say nothing to a person."""

Document = dict[str, Any]


def changes(earlier: Document, later: Document) -> list[str]:
    """What is in `later` and was not in `earlier`, what is gone, what is another: a line each, in the order of kinds."""
    lines = [f"kernel: {each}" for each in _different(earlier["system"], later["system"])]
    for kind, name in NAMES.items():
        before, after = ({_key(each): each for each in found[kind]} for found in (earlier, later))
        for key in sorted({*before, *after}):
            what = f"{name} {'/'.join(key)}"
            if key not in before:
                lines.append(f"{what}: new{_status(after[key])}")
            elif key not in after:
                lines.append(f"{what}: gone{_status(before[key], 'was ')}")
            else:
                lines += [f"{what}: {each}" for each in _different(before[key], after[key])]
    return lines


def _key(entry: Document) -> tuple[str, ...]:
    own = entry.get("service_id") or entry.get("name") or entry.get("id")
    return tuple(str(each) for each in (entry["tenant_id"] or "system", own) if each is not None)


def _status(entry: Document, was: str = "") -> str:
    return f" ({was}{entry['status']})" if "status" in entry else ""


def _different(before: Any, after: Any, name: str = "") -> list[str]:
    if before == after:
        return []
    if isinstance(before, dict) and isinstance(after, dict):
        found = []
        for each in sorted({*before, *after} - (_QUIET if not name else frozenset())):
            found += _different(before.get(each), after.get(each), f"{name}.{each}" if name else each)
        return found
    return [f"{name} {_shown(before)} -> {_shown(after)}"]


def _shown(value: Any) -> str:
    return shortened(value if isinstance(value, str) else json.dumps(value), _VALUE_SHOWN)
