"""The gates and the benchmarks by name. Owns: how each is called. Never: in which order CI calls them (`.ci/run`).

Sessions run in the environment that nox itself is installed in (`pip install -e '.[test]'`): nothing is installed twice.
`nox -s tests_other -p 3.13` makes an environment for another Python and runs the tests there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2"
nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "floors", "docs", "tests"]

PYTHONS = ["3.11", "3.12", "3.13", "3.14"]


def _module(session: nox.Session, *command: str) -> None:
    session.run(sys.executable, "-m", *command, external=True)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: rules and format. `nox -s lint -- --fix` mends what it can."""
    fix = "--fix" in session.posargs
    _module(session, "ruff", "check", *(["--fix"] if fix else []), ".")
    _module(session, "ruff", "format", *([] if fix else ["--check"]), ".")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict, on the package."""
    _module(session, "mypy", *session.posargs)


@nox.session
def floors(session: nox.Session) -> None:
    """The rooms import only downward (`[tool.importlinter]` in pyproject.toml)."""
    # The module has no entry of its own for `-m`; the console script may not be on the PATH.
    lint_imports = "from importlinter.cli import lint_imports_command as lint; lint()"
    session.run(sys.executable, "-c", lint_imports, "--no-cache", "--no-logo", *session.posargs, external=True)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, into docs/_build/html; a warning is an error. Arguments after `--` are Sphinx's."""
    _module(session, "sphinx", "-W", "--keep-going", "-q", *session.posargs, "docs", "docs/_build/html")


@nox.session
def tests(session: nox.Session) -> None:
    """All tests, with this Python. Arguments after `--` are pytest's."""
    _module(session, "pytest", *session.posargs)


@nox.session(python=PYTHONS, venv_backend="virtualenv")
def tests_other(session: nox.Session) -> None:
    """All tests, in an environment of their own, with the Python that `-p` names."""
    session.install("-e", ".[test]")
    session.run("pytest", *session.posargs)


@nox.session(venv_backend="virtualenv")
def sslyze(session: nox.Session) -> None:
    """A server with TLS against Mozilla's modern profile. The scanner has an environment of its own: it pins other versions."""
    session.install("sslyze")
    scanner = {"SOLO_TESTS_SSLYZE": str(Path(session.bin) / "python")}
    session.run(sys.executable, "-m", "pytest", "tests/e2e/test_e2e_sslyze.py", external=True, env=scanner)


@nox.session(name="crash-states")
def crash_states(session: nox.Session) -> None:
    """Every state that a crash can leave of a recorded run. Arguments: see `nox -s crash-states -- --help`; root, strace."""
    session.run(sys.executable, "tests/faults/crash_states.py", *session.posargs, external=True)


@nox.session(name="failing-calls")
def failing_calls(session: nox.Session) -> None:
    """Every write and fsync of a run fails in turn. Arguments: see `nox -s failing-calls -- --help`; root, strace."""
    session.run(sys.executable, "tests/faults/fault_injecting.py", *session.posargs, external=True)


@nox.session(name="kill-storm")
def kill_storm(session: nox.Session) -> None:
    """SIGKILLs under load. Arguments: see `nox -s kill-storm -- --help`."""
    session.run(sys.executable, "tests/faults/fault_storm.py", *session.posargs, external=True)


@nox.session
def bench(session: nox.Session) -> None:
    """Three figures, each beside the machine's floor in the same run. Arguments: see `nox -s bench -- --help`."""
    here = {"PYTHONPATH": str(Path(__file__).parent)}
    session.run(sys.executable, "tests/bench", *session.posargs, external=True, env=here)


@nox.session
def simulate(session: nox.Session) -> None:
    """The kernel simulated, one run for each seed. Arguments after `--`: `--seeds 1000 --start 0`, `--hours 72`, `--help`."""
    root = Path(__file__).parent
    here = {"PYTHONPATH": f"{root / 'tests'}:{root}"}
    session.run(sys.executable, "-m", "simulation", *session.posargs, external=True, env=here)
