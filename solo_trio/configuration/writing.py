"""Configuration written down. Owns: the commented file of `solo init`, the documentation's rows. Never: reads either."""

from __future__ import annotations

from typing import Any

from solo_trio.configuration.table import SECTIONS, table


def template() -> str:
    """The file that `solo init` writes: every key with what it is, commented out."""
    lines = [
        "# The configuration of Solo. `solo serve` finds this file in its data directory, by --config FILE or by SOLO_CONFIG.",
        "# Flags go before the environment, the environment before this file, this file before the defaults.",
        "# Every key is here with its default: take the # away from those that you change, then: solo config check FILE",
    ]
    section = ""
    for entry in table().values():
        if entry.section != section:
            section = entry.section
            lines += ["", "", f"# {SECTIONS[section]}", f"[{section}]"]
        allowed = f" ({entry.range})" if entry.range else ""
        shown = entry.default
        if shown is None:
            shown = int(entry.told.high or 0)
        lines += ["", f"# {entry.told.says}{allowed}", f"#{entry.name} = {toml_value(shown)}"]
    return "\n".join(lines) + "\n"


def toml_value(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(toml_value(each) for each in value) + "]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)


def documented_rows() -> list[str]:
    """The rows of the table of keys in the documentation."""
    return [
        f"| `{entry.section}` | `{entry.name}` | {'' if entry.default is None else f'`{toml_value(entry.default)}`'} "
        f"| {entry.range} | `{entry.variable}` | {entry.told.says} |"
        for entry in table().values()
    ]
