"""The snippets of a page, and a place to run them. Owns: what a snippet is, terminals, comparing output loosely.

A snippet is a fenced block. What a reader sees is what is run; comments before it say what only the test must know:

    <!-- not run: REASON -->   not run at all (bounded by test_snippets.py)
    <!-- fragment: REASON -->  Python that is only compiled (bounded too)
    <!-- file: NAME -->        not run but saved under this name, for the snippets that follow
    <!-- service: ID -->       as `file: ID.py`, and deployed under this id
    <!-- terminal: NAME -->    in this terminal, where a command may go on running while others work in the first one
    <!-- exit: N -->           the exit code of the last command (0 else)
    <!-- output -->            what the Python snippet before printed
    <!-- before: COMMANDS -->  what the reader is taken to have done before, a line each (`solo serve` in terminal "server")

In `console` blocks a line `$ ...` is a command, `> ...` goes on with it, `^C` is Ctrl-C in this terminal, anything else is
output. In output `...` stands for anything; times, digests, durations and the port are compared loosely.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from attrs import define, field, frozen

ROOT: Final = Path(__file__).parents[2]
LONG_S: Final = 60.0
"""No snippet takes this long; one that would hang fails."""
LEAVING_S: Final = 15.0
END: Final = "--- end of command"
ADDRESS: Final = "127.0.0.1:8080"
NOTES: Final = ("not run", "fragment", "file", "service", "terminal", "exit", "output", "before")

_FENCE: Final = re.compile(r"^( *)(`{3,})([\w+{}-]*)(?: [^`]*)?$")
_NOTE: Final = re.compile(rf"<!-- ({'|'.join(NOTES)})(?:: *(.*?))? *-->", re.S)
_LOOSE: Final = {
    r"^\d+(?= +\d{4}-\d\d-\d\dT)|(?<=revision )\d+|(?<=revision\":)\d+|(?<=etag: \")\d+": r"\d+",
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.,]\d+Z?": r"\d{4}-\d\d-\d\d[T ][0-9:.,]+Z?",
    r"\b[0-9a-f]{12,64}\b": r"[0-9a-f]{12,64}",
    r"\b\d+(?:\.\d+)? (?:ms|s)\b": r"[0-9.e-]+ m?s",
    r'(?<=rss_bytes )\d+|(?<=cpu_s )[\d.]+|(?<="pid": )\d+': r"[0-9.e-]+",
    r"\.\.\.|…": r".*",
    r"\s+": r"[ \t]+",
}
"""What is compared loosely: how it looks where it is expected, and what then is as good."""
_LOOSELY: Final = re.compile("|".join(f"({what})" for what in _LOOSE))


@frozen
class Snippet:
    """One block: its language, its text, the line where it begins, and the notes before it."""

    line: int
    language: str
    text: str
    notes: dict[str, str] = field(factory=dict)


def snippets(text: str) -> Iterator[Snippet]:
    """The blocks of a page, and the `before` notes, in order."""
    lines = text.splitlines()
    notes: dict[str, str] = {}
    number = 0
    while number < len(lines):
        line = lines[number]
        fence = _FENCE.match(line)
        if fence is not None:
            indent, ticks, language = fence.groups()
            end = next(at for at in range(number + 1, len(lines)) if lines[at].strip() == ticks)
            body = textwrap.dedent("\n".join(each.removeprefix(indent) for each in lines[number + 1 : end])) + "\n"
            yield Snippet(number + 1, language, body, notes)
            notes, number = {}, end
        elif line.lstrip().startswith("<!--"):
            end = next(at for at in range(number, len(lines)) if "-->" in lines[at])
            note = _NOTE.search("\n".join(lines[number : end + 1]))
            if note is not None and note[1] == "before":
                yield Snippet(number + 1, "before", note[2].strip() + "\n")
            elif note is not None:
                notes[note[1]] = note[2] or ""
            number = end
        elif line.strip():
            assert not notes, f"line {number + 1}: the note {notes} is not before a block"
        number += 1


def pattern(expected: str) -> re.Pattern[str]:
    """What output must match to be `expected`, loosely."""
    parts = []
    for line in expected.splitlines():
        if line.strip() == "...":
            parts.append(r"(?:.*\n)*?")
            continue
        text, at, loose = line.strip(), 0, ""
        for found in _LOOSELY.finditer(text):
            assert found.lastindex is not None
            loose += re.escape(text[at : found.start()]) + list(_LOOSE.values())[found.lastindex - 1]
            at = found.end()
        parts.append(rf"[ \t]*{loose}{re.escape(text[at:])}[ \t]*\n")
    return re.compile("".join(parts))


@define
class Terminal:
    """A shell whose commands are given one by one, and what they print."""

    directory: Path
    environment: dict[str, str]
    _shell: subprocess.Popen[str] = field(init=False)
    _output: str = ""
    _seen: int = 0
    """So much of the output of a command that still runs was compared already."""
    _running: bool = False
    _said: threading.Condition = field(factory=threading.Condition)
    _reader: threading.Thread = field(init=False)
    _alive: int = field(init=False)
    """Closed when this process ends, however it does: then what runs in the terminal is ended too."""

    def __attrs_post_init__(self) -> None:
        watched, self._alive = os.pipe()
        self._shell = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.directory,
            env=self.environment,
            text=True,
            start_new_session=True,
            pass_fds=[watched],
        )
        os.close(watched)
        assert self._shell.stdin is not None
        self._shell.stdin.write(f"(read -r <&{watched}; kill -TERM 0) >/dev/null 2>&1 & exec {watched}<&-\n")
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._shell.stdout is not None
        for line in self._shell.stdout:
            with self._said:
                self._output += line
                self._said.notify_all()
        with self._said:
            self._said.notify_all()

    def run(self, command: str, expected: str, *, lasting: bool = False, code: int = 0) -> None:
        """Run a command; `lasting`: it need not end, if only it prints what is expected."""
        assert self._shell.stdin is not None
        with self._said:
            free = not self._running or self._said.wait_for(
                lambda: END in self._output, LONG_S
            )  # it may have been killed
            assert free, f"something still runs in this terminal: {command} cannot"
            self._output, self._seen, self._running = "", 0, True
        self._shell.stdin.write(f"{{ {command}\n}} </dev/null; printf '%s %d\\n' '{END}' $?\n")
        self._shell.stdin.flush()
        if lasting:
            self.expect(expected)
        else:
            self._end(command, expected, code)

    def expect(self, expected: str) -> None:
        """Wait until what still runs has printed this too."""
        wanted = pattern(expected)

        def over() -> bool:
            return wanted.match(self._output, self._seen) is not None or END in self._output

        with self._said:
            self._said.wait_for(over, LONG_S)
            match = wanted.match(self._output, self._seen)
            assert match, f"expected:\n{expected}\nbut there came:\n{self._output[self._seen :]}"
            self._seen = match.end()
            self._running = END not in self._output

    def interrupt(self, expected: str) -> None:
        """Ctrl-C, and what is printed then until the command ends."""
        for child in _children(self._shell.pid):
            os.kill(child, signal.SIGINT)
        self._end("^C", expected, None)

    def _end(self, command: str, expected: str, code: int | None) -> None:
        with self._said:
            ended = self._said.wait_for(lambda: END in self._output, LONG_S)
            assert ended, f"it does not end: {command}\n{self._output}"
            self._said.wait_for(lambda: self._output.endswith("\n"), LONG_S)
            printed, _, rest = self._output[self._seen :].rpartition(END)
            self._running = False
        printed += "\n" if printed and not printed.endswith("\n") else ""
        assert code is None or int(rest) == code, f"{command}\nended with {int(rest)}, not {code}:\n{printed}"
        if expected.strip() or code == 0:
            assert pattern(expected).fullmatch(printed), f"{command}\nexpected:\n{expected}\nprinted:\n{printed}"

    def close(self) -> None:
        for child in _children(self._shell.pid):
            _signal(child, signal.SIGTERM)
        assert self._shell.stdin is not None
        self._shell.stdin.close()
        try:
            self._shell.wait(LEAVING_S)
        except subprocess.TimeoutExpired:
            for child in _children(self._shell.pid):
                _signal(child, signal.SIGKILL)
            self._shell.kill()
            self._shell.wait()
        os.close(self._alive)
        self._reader.join(LEAVING_S)
        assert self._shell.stdout is not None
        self._shell.stdout.close()


def _children(pid: int) -> list[int]:
    """The processes that this one started and that live."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(stat[1]) == pid and stat[0] != "Z":
                found.append(int(entry.name))
    return found


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


@define
class Place:
    """A directory where a page's snippets run, with `solo`, `python` and the examples; and its terminals."""

    directory: Path
    address: str = field(factory=lambda: f"127.0.0.1:{_free_port()}")
    terminals: dict[str, Terminal] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        programs = self.directory / ".programs"
        programs.mkdir()
        for name, arguments in {"solo": ' -m solo_trio.cli "$@"', "python": ' "$@"', "python3": ' "$@"'}.items():
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec "{sys.executable}"{arguments}\n')
            program.chmod(0o755)
        (self.directory / "examples").symlink_to(ROOT / "examples")

    @property
    def environment(self) -> dict[str, str]:
        known = {name: value for name, value in os.environ.items() if not re.match("SOLO_(?!TESTS_)", name)}
        return known | {
            "PATH": f"{self.directory / '.programs'}:{known['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "SOLO_PORT": self.address.partition(":")[2],
            "LC_ALL": "C.UTF-8",
        }

    def terminal(self, name: str) -> Terminal:
        if name not in self.terminals:
            self.terminals[name] = Terminal(self.directory, self.environment)
        return self.terminals[name]

    def close(self) -> None:
        for terminal in reversed(self.terminals.values()):  # the server is usually the first
            terminal.close()

    # -- blocks

    def before(self, text: str) -> None:
        for command in text.splitlines():
            if command.startswith("solo serve"):
                self.terminal("server").run(command, "...\nready ...\n", lasting=True)
            else:
                self.terminal("").run(self._here(command), "...\n")

    def console(self, snippet: Snippet) -> None:
        name = snippet.notes.get("terminal", "")
        terminal = self.terminal(name)
        steps = list(_steps(self._here(snippet.text)))
        for number, (command, expected) in enumerate(steps):
            code = int(snippet.notes.get("exit", "0")) if number == len(steps) - 1 else 0
            if command is None:
                terminal.expect(expected)
            elif command == "^C":
                terminal.interrupt(expected)
            else:
                terminal.run(command, expected, lasting=bool(name), code=code)

    def python(self, snippet: Snippet) -> str:
        """Run it as a program; what it printed."""
        program = self.directory / f"snippet_{snippet.line}.py"
        program.write_text(self._here(snippet.text))
        done = subprocess.run(
            [sys.executable, program.name],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=LONG_S,
        )
        assert done.returncode == 0, f"line {snippet.line}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def save(self, name: str, text: str) -> None:
        (self.directory / name).write_text(self._here(text))

    def _here(self, text: str) -> str:
        return text.replace(ADDRESS, self.address)


def _steps(text: str) -> Iterator[tuple[str | None, str]]:
    """Commands, each with the output that follows it; output before the first one has no command."""
    command: str | None = None
    output: list[str] = []
    begun = False
    for line in text.splitlines():
        if line.startswith("$ ") or line == "^C":
            if begun:
                yield command, "".join(output)
            command, output, begun = line.removeprefix("$ "), [], True
        elif (line.startswith("> ") or line == ">") and command is not None and not output:
            command += "\n" + line[2:]
        else:
            output.append(line + "\n")
            begun = True
    yield command, "".join(output)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
