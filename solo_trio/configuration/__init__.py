"""Configuration. Owns: the TOML file and the environment variables as `Settings`, the table of all keys, what was said where.
Never: a rule about what a number does.

Flags go before the environment, the environment before the file, the file before the defaults. An application that embeds a
kernel reads a file with `Kernel.open(..., settings=read_settings("solo.toml"))`.
"""

from __future__ import annotations

from solo_trio.configuration.reading import (
    FILE_NAME,
    Configuration,
    Fault,
    Given,
    configure,
    read_file,
    read_settings,
)
from solo_trio.configuration.table import LOG_LEVELS, REPLACED, SECTIONS, Entry, Serving, table
from solo_trio.configuration.writing import documented_rows, template, toml_value

__all__ = [
    "FILE_NAME",
    "LOG_LEVELS",
    "REPLACED",
    "SECTIONS",
    "Configuration",
    "Entry",
    "Fault",
    "Given",
    "Serving",
    "configure",
    "documented_rows",
    "read_file",
    "read_settings",
    "table",
    "template",
    "toml_value",
]
