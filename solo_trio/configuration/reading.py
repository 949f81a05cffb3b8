"""Configuration read. Owns: the file, the environment variables, what counts, where it was said. Never: the keys themselves."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from attrs import evolve, field, frozen

from solo_trio.configuration.table import REPLACED, SECTIONS, Entry, Serving, table
from solo_trio.errors import Rejected
from solo_trio.model.limits import Limits
from solo_trio.operations.settings import EMBEDDED, Settings

FILE_NAME: Final = "solo.toml"
"""A file of this name in the data directory is found without being named."""
FILE_BYTES_MAX: Final = 256 * 1024
FAULTS_SHOWN_MAX: Final = 20
STANDALONE: Final = Settings()


@frozen
class Fault:
    """One thing wrong with what was configured."""

    where: str
    says: str


@frozen
class Given:
    """One value and where it was said."""

    value: Any
    source: str


@frozen
class Configuration:
    """What counts."""

    settings: Settings
    serving: Serving
    sources: Mapping[str, str] = field(factory=dict)
    """For each key whence it is: `default`, `file PATH:LINE`, `environment NAME`, `flag --NAME`."""
    file: Path | None = None

    def value(self, entry: Entry) -> Any:
        owner = {"settings": self.settings, "serving": self.serving, "limits": self.settings.limits}[entry.owner]
        return getattr(owner, entry.name)


def read_settings(file: str | Path) -> Settings:
    """`Settings` of a TOML file, for an application: keys that only `solo serve` uses are checked and left out, and what the
    file does not say is as without a file. Raises `Rejected`."""
    return _built(_settled(*read_file(Path(file))), Path(file), EMBEDDED).settings


def configure(
    *,
    flags: Mapping[str, tuple[str, Any]] | None = None,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Configuration:
    """What counts, given checked `flags` by key as (how it is written, value). Raises `Rejected("invalid_configuration")`.

    The file is `file`, else `SOLO_CONFIG`, else `solo.toml` in the data directory if it is there.
    """
    environment = os.environ if environment is None else environment
    given = {path: Given(value, f"flag {written}") for path, (written, value) in (flags or {}).items()}
    said, faults = _read_environment(environment)
    given = said | given
    if file is None and environment.get("SOLO_CONFIG"):
        file = Path(environment["SOLO_CONFIG"])
    if file is None:
        data = given.get("solo.data_dir", Given(Serving().data_dir, "default")).value
        beside = Path(data) / FILE_NAME
        if _is_file(beside):
            given, faults = _with_file(beside, given, faults)
            if Path(given.get("solo.data_dir", Given(data, "")).value).resolve() != Path(data).resolve():
                says = f"names another data directory than the one it is in: leave it out, or use --config {beside}"
                faults.append(Fault(f"{beside}: solo.data_dir", says))
            return _built(_settled(given, faults), beside)
    else:
        given, faults = _with_file(file, given, faults)
    return _built(_settled(given, faults), file)


def _with_file(file: Path, given: dict[str, Given], faults: list[Fault]) -> tuple[dict[str, Given], list[Fault]]:
    said, wrong = read_file(file)
    return said | given, faults + wrong


def _settled(given: dict[str, Given], faults: list[Fault]) -> dict[str, Given]:
    if not faults:
        return given
    first, more = faults[0], len(faults) - 1
    detail = f"{first.where} {first.says}" + (f" (and {more} more)" if more else "")
    said = [f"{fault.where} {fault.says}" for fault in faults[:FAULTS_SHOWN_MAX]]
    raise Rejected("invalid_configuration", detail, faults=said)


def _built(given: dict[str, Given], file: Path | None, otherwise: Settings = STANDALONE) -> Configuration:
    values: dict[str, dict[str, Any]] = {"settings": {}, "serving": {}, "limits": {}}
    sources = dict.fromkeys(table(), "default")
    for path, each in given.items():
        entry = table()[path]
        values[entry.owner][entry.name] = tuple(each.value) if isinstance(entry.sample, tuple) else each.value
        sources[path] = each.source
    settings = evolve(otherwise, **values["settings"], limits=Limits(**values["limits"]))
    return Configuration(settings, Serving(**values["serving"]), sources, file)


def _read_environment(environment: Mapping[str, str]) -> tuple[dict[str, Given], list[Fault]]:
    given, faults = {}, []
    for path, entry in table().items():
        text = environment.get(entry.variable)
        if text:  # an empty variable says nothing
            value = entry.typed(text)
            fault = entry.fault(value)
            if fault is not None:
                faults.append(Fault(f"the environment variable {entry.variable}", fault))
            given[path] = Given(value, f"environment {entry.variable}")
    return given, faults


def read_file(file: Path) -> tuple[dict[str, Given], list[Fault]]:
    """What a file says, and all that is wrong with it. Raises `Rejected` if it cannot be read or is no TOML."""
    text = _text_of(file)
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Rejected("invalid_configuration", f"{file} is not TOML: {why[:200]}") from None
    given: dict[str, Given] = {}
    faults: list[Fault] = []
    for section, content in document.items():
        where = f"{file}:{_line(text, section, None)}: [{section[:60]}]"
        if not isinstance(content, dict) and section not in SECTIONS:
            where = f"{file}:{_line(text, section, None)}: {section[:60]}"
        if section not in SECTIONS and not any(old.startswith(f"{section}.") for old in REPLACED):
            faults.append(Fault(where, _unknown(section, section, content)))
        elif not isinstance(content, dict):
            faults.append(Fault(where, f"must be a section: write [{section}] on a line, and its keys below"))
        else:
            for name, value in content.items():
                path = f"{section}.{name}"
                source = f"{file}:{_line(text, section, name)}"
                entry = table().get(path)
                fault = _unknown(path, name, value) if entry is None else entry.fault(value)
                if fault is not None:
                    faults.append(Fault(f"{source}: {path[:120]}", fault))
                else:
                    given[path] = Given(value, f"file {source}")
    return given, faults


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # its directory cannot be looked into, or be called so: whoever opens it says so
        return False


def _text_of(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            content = opened.read(FILE_BYTES_MAX + 1)
        if len(content) > FILE_BYTES_MAX:
            raise Rejected("invalid_configuration", f"{file} is longer than {FILE_BYTES_MAX} bytes: shorten it")
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Rejected(
            "invalid_configuration", f"{file} is not UTF-8 (at byte {error.start}): save it as UTF-8"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise Rejected(
            "invalid_configuration", f"{file} cannot be read ({why}): name another, or correct that"
        ) from None


def _unknown(path: str, name: str, value: object) -> str:
    """What to say about a key or section that is not known."""
    if path in REPLACED:
        return f"means nothing here: {REPLACED[path]}"
    elsewhere = [each for each in table() if each.endswith(f".{name}")]
    if elsewhere:
        return f"is not known; there is {elsewhere[0]}"
    known = list(SECTIONS) if path == name and isinstance(value, dict) else list(table())
    near = difflib.get_close_matches(path[:120], known, 1, cutoff=0.5)
    return f"is not known; do you mean {near[0]}?" if near else "is not known; see: solo config show"


def _line(text: str, section: str, name: str | None) -> int:
    """Where a section or key is written, as far as a look at the lines tells."""
    inside = False
    header = re.compile(rf"\s*\[\s*[\"']?{re.escape(section)}[\"']?\s*[\].]")
    wanted = None if name is None else re.compile(rf"\s*[\"']?{re.escape(name)}[\"']?\s*[=.]")
    found = 1
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("["):
            inside = header.match(line) is not None
            if inside:
                found = number
                if wanted is None:
                    break
        elif inside and wanted is not None and wanted.match(line):
            return number
        elif re.match(rf"\s*[\"']?{re.escape(section)}[\"']?\s*[=.]", line) and not inside:
            found = number
    return found
