"""The configuration: every key, wrong in every way; what counts over what; the file that `init` writes; the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from attrs import evolve, fields
from click import BadParameter

from solo_trio.cli.commands import solo
from solo_trio.cli.configuring import configured
from solo_trio.configuration import (
    REPLACED,
    SECTIONS,
    Entry,
    configure,
    documented_rows,
    read_file,
    read_settings,
    table,
    template,
    toml_value,
)
from solo_trio.errors import Rejected
from solo_trio.model.limits import Limits
from solo_trio.operations.settings import EMBEDDED, Settings, key_of

DOCS = Path(__file__).parents[2] / "docs"
ENTRIES = list(table().values())
NAMES = [entry.path for entry in ENTRIES]


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "solo.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def faults(path: Path) -> list[str]:
    with pytest.raises(Rejected) as caught:
        configure(file=path, environment={})
    assert caught.value.code == "invalid_configuration"
    return [str(each) for each in caught.value.extra.get("faults", [caught.value.detail])]


def fault(path: Path) -> str:
    (only,) = faults(path)
    return only


def another(entry: Entry) -> object:
    """A right value that is not the default."""
    if isinstance(entry.sample, bool):
        return not entry.sample
    if isinstance(entry.sample, tuple):
        return ("one", "two")
    if entry.told.choices:
        return next(each for each in entry.told.choices if each != entry.default)
    if isinstance(entry.sample, int | float):
        assert entry.told.low is not None and entry.told.high is not None, f"{entry.path} needs a range"
        return next(each for each in (entry.told.low, entry.told.high) if each != entry.default)
    return "/elsewhere"


def wrong(entry: Entry) -> list[str]:
    """Values, as TOML writes them, that it cannot have."""
    everyone = ["1979-05-27", "{a = 1}", "[[]]", "nan" if not isinstance(entry.sample, bool) else '""']
    if isinstance(entry.sample, bool):
        return [*everyone, "0", '"true"']
    if isinstance(entry.sample, tuple):
        return [*everyone, '"one"', "[1]", '["a\\u0007"]', '[""]']
    if isinstance(entry.sample, str):
        return [*everyone, "1", '""', '"a\\u0007b"', "[]"]
    more = [] if isinstance(entry.sample, float) else ["1.5"]
    return [
        *everyone,
        *more,
        "inf",
        '"1"',
        "true",
        str(int(entry.told.low or 0) - 1),
        str(int(entry.told.high or 0) + 1),
    ]


@pytest.mark.parametrize("entry", ENTRIES, ids=NAMES)
def test_every_key_is_read_from_file_and_environment(entry: Entry, tmp_path: Path) -> None:
    value = another(entry)
    path = written(tmp_path, f"[{entry.section}]\n\n{entry.name} = {toml_value(value)}\n")
    given = configure(file=path, environment={})
    assert given.value(entry) == value
    assert given.sources[entry.path] == f"file {path}:3"
    assert [name for name, source in given.sources.items() if source != "default"] == [entry.path]
    separator = " " if entry.told.words else ","
    text = separator.join(value) if isinstance(value, tuple) else toml_value(value).strip('"')
    given = configure(environment={entry.variable: text, "SOLO_CONFIG": str(tmp_path / "solo.toml")})
    assert given.value(entry) == value
    assert given.sources[entry.path] == f"environment {entry.variable}"


@pytest.mark.parametrize("entry", ENTRIES, ids=NAMES)
def test_every_key_refuses_what_it_cannot_be(entry: Entry, tmp_path: Path) -> None:
    for text in wrong(entry):
        said = fault(written(tmp_path, f"[{entry.section}]\n{entry.name} = {text}\n"))
        assert said.startswith(f"{tmp_path / 'solo.toml'}:2: {entry.path} must be "), (text, said)


@pytest.mark.parametrize(
    "entry", [each for each in ENTRIES if not isinstance(each.sample, str | tuple)], ids=lambda e: e.path
)
@pytest.mark.parametrize("text", ["x", "1_0", "١", " ", "9" * 400, "nan", "\ud800"])
def test_every_variable_refuses_what_it_cannot_be(entry: Entry, text: str) -> None:
    with pytest.raises(Rejected) as caught:
        configure(environment={entry.variable: text})
    assert caught.value.code == "invalid_configuration"
    assert caught.value.detail.startswith(f"the environment variable {entry.variable} must be ")


def test_every_setting_has_a_key() -> None:
    assert [each.name for each in fields(Settings) if key_of(each) is None] == ["limits"]
    assert {entry.section for entry in ENTRIES} <= set(SECTIONS)
    assert [entry.path for entry in ENTRIES if not entry.told.says.endswith(".")] == []
    assert [entry.path for entry in ENTRIES if entry.default is not None and entry.fault(entry.default)] == []
    assert len({entry.variable for entry in ENTRIES}) == len(ENTRIES)


def test_flags_have_the_ranges_of_their_keys() -> None:
    by_name = {entry.name: entry for entry in ENTRIES}
    checked = 0
    for parameter in solo.commands["serve"].params:
        low, high = getattr(parameter.type, "min", None), getattr(parameter.type, "max", None)
        if low is not None:
            entry = by_name[{"port": "http_port"}.get(str(parameter.name), str(parameter.name))]
            assert (low, high) == (entry.told.low, entry.told.high), entry.path
            checked += 1
    assert checked >= 5


def test_what_counts_over_what(tmp_path: Path) -> None:
    path = written(tmp_path, "[limits]\nmax_total = 1\nmax_per_tenant = 2\ncall_timeout_s = 3\n")
    variables = {"SOLO_MAX_TOTAL": "4", "SOLO_MAX_PER_TENANT": "5", "SOLO_CONFIG": str(path), "SOLO_MAX_TENANTS": ""}
    given = configure(flags={"limits.max_total": ("--max-total", 6)}, environment=variables)
    settings = given.settings
    assert (settings.max_total, settings.max_per_tenant, settings.call_timeout_s) == (6, 5, 3)
    assert settings.max_tenants == Settings().max_tenants
    assert given.sources["limits.max_total"] == "flag --max-total"
    assert given.sources["limits.max_per_tenant"] == "environment SOLO_MAX_PER_TENANT"
    assert given.sources["limits.call_timeout_s"] == f"file {path}:4"
    assert given.sources["solo.max_tenants"] == "default"
    assert given.file == path


def test_the_file_in_the_data_directory_is_found(tmp_path: Path) -> None:
    path = written(tmp_path, "[limits]\nmax_total = 7\n")
    given = configure(environment={"SOLO_DATA": str(tmp_path)})
    assert (given.settings.max_total, given.file) == (7, path)
    other = tmp_path / "other.toml"
    other.write_text("[limits]\nmax_total = 8\n")
    assert configure(environment={"SOLO_DATA": str(tmp_path)}, file=other).settings.max_total == 8
    flags = {"solo.data_dir": ("--data", str(tmp_path))}
    assert configure(environment={"SOLO_CONFIG": str(other)}, flags=flags).settings.max_total == 8
    path.write_text(f'[solo]\ndata_dir = "{tmp_path}"\n')
    assert configure(environment={}, flags=flags).file == path
    path.write_text('[solo]\ndata_dir = "/elsewhere"\n')
    assert configure(environment={}, flags=flags).serving.data_dir == str(tmp_path)  # the flag counts
    assert configure(environment={"SOLO_CONFIG": str(path)}).serving.data_dir == "/elsewhere"


def test_the_file_in_the_default_data_directory_names_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/solo.toml").write_text('[solo]\ndata_dir = "./data"\n')
    assert configure(environment={}).file == Path("data/solo.toml")
    (tmp_path / "data/solo.toml").write_text('[solo]\ndata_dir = "other"\n')
    with pytest.raises(Rejected, match="names another data directory than the one it is in"):
        configure(environment={})


def test_what_is_not_known_is_named_with_what_is_near(tmp_path: Path) -> None:
    text = "[limits]\nmax_totl = 1\nhttp_port = 1\n\n[limit]\nmax_total = 1\n\n[zzz]\n\n[security]\nqqqq = 1\n"
    said = [each.removeprefix(f"{tmp_path / 'solo.toml'}:") for each in faults(written(tmp_path, text))]
    assert said == [
        "2: limits.max_totl is not known; do you mean limits.max_total?",
        "3: limits.http_port is not known; there is solo.http_port",
        "5: [limit] is not known; do you mean limits?",
        "8: [zzz] is not known; see: solo config show",
        "11: security.qqqq is not known; do you mean security.tls?",
    ]
    assert fault(written(tmp_path, "max_total = 1\n")).endswith(":1: max_total is not known; there is limits.max_total")
    assert fault(written(tmp_path, "bogus_key = 3\n")).endswith(":1: bogus_key is not known; see: solo config show")
    assert fault(written(tmp_path, "limits = 1\n")).endswith(
        "[limits] must be a section: write [limits] on a line, and its keys below"
    )


@pytest.mark.parametrize("path", sorted(REPLACED))
def test_keys_of_other_descriptions_say_what_replaces_them(path: str, tmp_path: Path) -> None:
    section, name = path.split(".")
    assert path not in table()
    assert f"means nothing here: {REPLACED[path]}" in fault(written(tmp_path, f"[{section}]\n{name} = true\n"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[", "is not TOML"),
        (b"a = 1\na = 2\n", "is not TOML"),
        (b"\xff", "is not UTF-8"),
        (b"\xef\xbb\xbf[solo]\n", "is not TOML"),
        (b"[solo]\n\x00", "is not TOML"),
        (b"#" * 300_000, "is longer than"),
        (b"a = " + b"[" * 20_000, "is not TOML"),
        (b'"\\u001b[2J" = 1\n', "is not known"),
        (b"[solo]\n" + b"k" * 100_000 + b" = 1\n", "is not known"),
    ],
)
def test_files_that_are_no_configuration(content: bytes, words: str, tmp_path: Path) -> None:
    said = fault(written(tmp_path, content))
    assert words in said
    assert len(said) < 800


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path, Path("nu\0ll"), tmp_path / ("x" * 300)):
        assert "cannot be read" in fault(path)


def test_many_faults_are_told_of_in_bounds(tmp_path: Path) -> None:
    text = "[limits]\n" + "".join(f"unknown{number} = 1\n" for number in range(500))
    assert len(faults(written(tmp_path, text))) == 20


def test_settings_for_an_application(tmp_path: Path) -> None:
    path = written(tmp_path, "[solo]\nhttp_port = 1\n\n[service_limits]\nmemory_mb = 64\nthreads = 8\n")
    assert read_settings(path) == evolve(EMBEDDED, limits=Limits(memory_mb=64, threads=8))
    assert read_settings(written(tmp_path, "[recovery]\nboot_loop_starts = 5\n")).boot_loop_starts == 5
    with pytest.raises(Rejected, match=r"solo\.http_port must be a whole number between 0 and 65_535"):
        read_settings(written(tmp_path, "[solo]\nhttp_port = 65536\n"))


def test_the_written_file_says_nothing_until_the_marks_are_taken_away(tmp_path: Path) -> None:
    text = template()
    assert read_file(written(tmp_path, text)) == ({}, [])
    given, wrong_ = read_file(written(tmp_path, re.sub(r"^#(?=\w+ = )", "", text, flags=re.M)))
    assert wrong_ == []
    assert set(given) == set(NAMES)
    assert {
        path: tuple(each.value) if isinstance(each.value, list) else each.value
        for path, each in given.items()
        if table()[path].default is not None
    } == {entry.path: entry.default for entry in ENTRIES if entry.default is not None}


def test_every_key_is_documented_and_no_other() -> None:
    text = (DOCS / "configuration.md").read_text()
    shown = re.findall(r"^\| `\w+` \| `\w+` \|.*\|$", text.split("## Keys\n")[1].split("\n## ")[0], re.M)
    assert shown == documented_rows()
    replaced = text.split("## Keys of other descriptions\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (.*) \|$", replaced, re.M)
    assert {f"{section}.{name}": says for section, name, says in rows} == REPLACED


def test_a_flag_may_say_nought() -> None:
    given = configured(None, {"port": 0, "host": None, "start_paused": False, "allow_host": ()})
    assert {path: source for path, source in given.sources.items() if source.startswith("flag")} == {
        "solo.http_port": "flag --port"
    }
    assert given.serving.http_port == 0
    assert configured(None, {"start_paused": True}).settings.start_paused is True
    for flags in ({"host": ""}, {"host": "a\x1b"}):
        with pytest.raises(BadParameter, match="must be a text"):
            configured(None, flags)
