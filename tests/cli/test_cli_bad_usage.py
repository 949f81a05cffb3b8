"""Every command of the tree, used wrongly in every way: 1 or 2, one sentence, no traceback, nothing that steers a terminal."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
from cli_rig import LONG_S, PIDS, SOLO, Server, environment

from solo_trio.cli.commands import solo
from solo_trio.cli.running import run
from solo_trio.operations.settings import KEEP_EVENTS_MAX

COMMAND_S = 20
"""No command takes this long to refuse anything."""
LINE_CHARACTERS_MAX = 1_500
HOSTILE = {
    "empty": "",
    "huge": "x" * 100_000,
    "control": "a\x1b[2J\rb",
    "lines": "a\nb",
    "surrogate": "a\udcff",
    "direction": "a\u202eb",
    "markup": "[bold]%s{0}",
    "path": "../../etc/passwd",
    "digits": "٣",
    "dash": "--",
}
NUMBERS = ["x", "1e999", "-1", "9" * 400, "nan", "inf", "1,5", ""]
OWN_PROCESS = ("serve",)
"""Its process is hardened, and has signals of its own."""
MAY_SUCCEED = {
    ("call", "arguments"),
    ("deploy", "depends_on"),
    ("backup", "destination"),
    ("init", "directory"),
    ("config show", "data"),
    ("doctor", "data"),
    ("env list", "data"),
    ("certs init", "data"),
    ("certs list", "data"),
    ("audit export", "credential"),
    ("audit export", "out"),
    ("secrets set", "value"),
}
"""Free text, and paths that are tried."""
RIGHT = {
    "service_id": "pids",
    "function": "echo",
    "tenant_id": "somebody",
    "shell": "bash",
    "directory": "made",
    "file": "service.py",
}
"""An argument that is right, by its name."""


def tree(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if isinstance(command, click.Group):
        for name, each in sorted(command.commands.items()):
            yield from tree(each, (*path, name))
    else:
        yield path, command


COMMANDS = {" ".join(path): command for path, command in tree(solo)}
INSIDE = sorted(name for name in COMMANDS if name not in OWN_PROCESS)


def right(command: click.Command, *, but: click.Parameter | None = None) -> list[str]:
    """What the command needs to be used rightly, without the parameter `but`."""
    words = []
    for parameter in command.params:
        if parameter is not but and parameter.required:
            value = RIGHT.get(str(parameter.name), "pids")
            words += [value] if isinstance(parameter, click.Argument) else [parameter.opts[0], value]
    return words


def takes_number(parameter: click.Parameter) -> bool:
    return isinstance(parameter.type, click.types.IntParamType | click.types.FloatParamType)


def wrong_uses(command: click.Command) -> Iterator[tuple[str, list[str], click.Parameter | None]]:
    """What it is, the words after the command, and which parameter it is about."""
    yield "unknown option", [*right(command), "--no-such-option"], None
    yield "unknown option with a control character", [*right(command), "--no\x1b[2J"], None
    yield "unknown short option", [*right(command), "-Z"], None
    arguments = [each for each in command.params if isinstance(each, click.Argument)]
    if all(each.nargs == 1 for each in arguments):
        yield "an argument too many", [*right(command), *["more"] * (len(arguments) + 1)], None
    for parameter in command.params:
        if parameter.required:
            yield f"no {parameter.name}", right(command, but=parameter), None
        if isinstance(parameter, click.Option):
            if parameter.is_flag:
                yield f"a value for {parameter.name}", [*right(command), f"{parameter.opts[0]}=x"], None
                continue
            yield f"nothing after {parameter.name}", [*right(command, but=parameter), parameter.opts[0]], None
        for kind, value in HOSTILE.items():
            if (kind == "dash" and isinstance(parameter, click.Argument)) or (
                kind == "digits" and takes_number(parameter)
            ):
                continue  # the first ends the options, the second is a number in Python
            yield f"{parameter.name}: {kind}", _with(command, parameter, value), parameter
        if takes_number(parameter):
            for value in NUMBERS:
                yield f"{parameter.name}: {value[:10]}", _with(command, parameter, value), None


def _with(command: click.Command, parameter: click.Parameter, value: str) -> list[str]:
    if isinstance(parameter, click.Option):
        return [*right(command, but=parameter), f"{parameter.opts[0]}={value}"]
    words = []
    for each in command.params:
        if each is parameter:
            words.append(value)
        elif each.required:
            given = RIGHT.get(str(each.name), "pids")
            words += [given] if isinstance(each, click.Argument) else [each.opts[0], given]
    return words


def judge(what: str, code: int, out: str, err: str, *, may_succeed: bool) -> None:
    assert code in ((0, 1, 2) if may_succeed else (1, 2)), (what, code, out[:300], err[:300])
    assert "Traceback" not in err, (what, err[-2_000:])
    said = out + err
    assert re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", said) is None, (what, said[:500])
    if code == 0:
        return
    if code == 1 and not err:
        return  # it found something, and says so on standard output
    assert re.search(r"^(Error: |error: [a-z_]+: )\S", err, re.M), (what, err[:500])
    assert max(len(line) for line in err.splitlines()) <= LINE_CHARACTERS_MAX, (what, len(err))
    assert len(err.splitlines()) <= 12, (what, err[:500])


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Fails when the body takes longer."""

    def late(number: int, frame: object) -> None:
        raise AssertionError(f"it took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", INSIDE)
def test_wrong_use_is_refused_in_one_sentence(
    name: str,
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for each in [each for each in os.environ if each.startswith("SOLO_") and not each.startswith("SOLO_TESTS_")]:
        monkeypatch.delenv(each)
    monkeypatch.setenv("SOLO_DATA", str(server.data))
    place = tmp_path / "not" / "above"  # `../..` leads nowhere else
    place.mkdir(parents=True)
    monkeypatch.chdir(place)
    (place / "service.py").write_text(PIDS)
    for what, words, parameter in wrong_uses(COMMANDS[name]):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))  # some commands read it
        with at_most(COMMAND_S):
            code = run([*name.split(), *words])
        said = capsys.readouterr()
        for made in set(place.iterdir()) - {place / "service.py"}:  # or the next use finds it
            shutil.rmtree(made) if made.is_dir() else made.unlink()
        may_succeed = parameter is not None and ((name, parameter.name) in MAY_SUCCEED)
        judge(f"{name}: {what}", code, said.out, said.err, may_succeed=may_succeed)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_wrong_use_of_a_process_of_its_own(name: str, tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(PIDS)
    command = COMMANDS[name]
    uses = [[*right(command), "--no-such-option"], [*right(command), "--no\udcff\x1b"]]
    for words in uses:
        ran = subprocess.run(
            [*SOLO, *name.split(), *words], capture_output=True, timeout=LONG_S, env=environment(), cwd=tmp_path
        )
        judge(f"{name} {words}", ran.returncode, ran.stdout.decode(), ran.stderr.decode(), may_succeed=False)
        assert ran.returncode == 2
    assert [each.name for each in tmp_path.iterdir()] == ["service.py"]


def test_serve_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    """At an address that is not this machine's, so that nothing is served if it is not refused for the word."""
    elsewhere = ["--host", "203.0.113.1", "--port", "0"]
    uses = [(what, words) for what, words, _ in wrong_uses(COMMANDS["serve"]) if not what.startswith("data: ")]
    few = [
        each for each in uses if not any(kind in each[0] for kind in ("direction", "markup", "path", "digits", "lines"))
    ]
    for what, words in few:
        ran = subprocess.run(
            [*SOLO, "serve", *([] if what.startswith("host") else elsewhere[:2]), *elsewhere[2:], *words],
            capture_output=True,
            timeout=LONG_S,
            env=environment(),
            cwd=tmp_path,
        )
        judge(f"serve: {what}", ran.returncode, ran.stdout.decode(), ran.stderr.decode(), may_succeed=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words", [[], ["nothing"], ["no\x1b[2J"], ["--nothing"], ["x" * 100_000], [""], ["tenant", "no\u202e"]]
)
def test_commands_that_are_none(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code = run(words)
    said = capsys.readouterr()
    assert code == 2
    if words:
        judge(str(words)[:50], code, said.out, said.err, may_succeed=False)


def test_the_most_that_is_kept_is_what_the_kernel_takes() -> None:
    [option] = [each for each in COMMANDS["compact"].params if each.name == "keep_events"]
    assert isinstance(option.type, click.IntRange) and option.type.max == KEEP_EVENTS_MAX
