"""A service's source looked at. Owns: whether it would load as a service; and the analyser's findings. Never: runs it.

Errors are what would not load, or not work; warnings what is probably not meant. Nothing is proved.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from typing import Any, Final

from attrs import evolve, field, frozen

from solo_trio.errors import Rejected
from solo_trio.hardening import FINDINGS_MAX, Finding, Level, analyse
from solo_trio.model.ids import check_function
from solo_trio.model.spec import SOURCE_BYTES_MAX

Function = ast.FunctionDef | ast.AsyncFunctionDef
SERVICE_MODULES: Final = ("solo_trio.service", "solo_trio")
RULE: Final = "service"
"""What the findings here are called by, beside the analyser's rules."""
WHY: Final = "A service is found in its module by @service.export and main, as the module is written."


@frozen
class Report:
    """What was found. `exports` and `main` as far as they can be told from the text."""

    findings: list[Finding] = field(factory=list)
    exports: list[str] = field(factory=list)
    main: bool = False

    @property
    def ok(self) -> bool:
        return all(finding.level != "error" for finding in self.findings)

    def document(self) -> dict[str, Any]:
        findings = [each.document() for each in self.findings]
        return {"ok": self.ok, "findings": findings, "exports": self.exports, "main": self.main}


def check_source(content: bytes) -> Report:
    """What can be told of the bytes of a module."""
    if len(content) > SOURCE_BYTES_MAX:
        return _only(
            None, f"it has {len(content)} bytes, and a service may have {SOURCE_BYTES_MAX}", "Make it shorter."
        )
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return _only(line, f"it is not UTF-8 (at byte {error.start})", "Save it as UTF-8.")
    if not text.strip():
        return _only(None, "it is empty", "Write a module that exports a function or has a main.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the source's own: the interpreter tells them at its start
            tree = ast.parse(text)
            compile(tree, "<service>", "exec", dont_inherit=True)
    except SyntaxError as error:
        refused = _only(error.lineno, f"the syntax is wrong: {error.msg}", "Mend the line that is named.")
        found = [each for each in analyse(content) if each.rule == "syntax"]
        return Report(found) if found else refused  # what only compiling finds: a return outside of a function
    except (ValueError, RecursionError, MemoryError) as error:
        return _only(
            None,
            f"Python cannot read it: {error or 'it is nested too deeply'}",
            "Write it as plain text, nested less deep.",
        )
    report = _Module(tree).report()
    findings = sorted([*report.findings, *analyse(content)], key=lambda each: (each.line or 0, each.column or 0))
    return evolve(report, findings=findings)


def _only(line: int | None, what: str, remedy: str) -> Report:
    return Report([Finding(RULE, "error", line, None, what, WHY, remedy)])


class _Module:
    def __init__(self, tree: ast.Module) -> None:
        self._tree = tree
        self._findings: list[Finding] = []
        self._modules: set[str] = set()
        """Names that the module `service` has here."""
        self._decorators: set[str] = set()
        """Names that `service.export` has here."""

    def report(self) -> Report:
        self._read_imports()
        exports: dict[str, int] = {}
        for function in self._functions(self._tree):
            if self._is_exported(function):
                self._check_export(function, exports)
        main = self._last("main")
        if isinstance(main, Function):
            self._check_main(main)
        elif isinstance(main, ast.ClassDef):
            self._say(main, "error", "main must be an async function", "Write async def main(ctx).")
        self._check_inner()
        if main is None and not exports:
            self._say(
                None,
                "warning",
                "it exports nothing and has no main",
                "Put @service.export above a function, or write a main.",
            )
        return Report(self._findings[:FINDINGS_MAX], sorted(exports), main is not None)

    def _say(self, node: ast.AST | None, level: Level, what: str, remedy: str) -> None:
        line, column = getattr(node, "lineno", None), getattr(node, "col_offset", None)
        place = (line, None if column is None else column + 1)
        self._findings.append(Finding(RULE, level, *place, what, WHY, remedy))

    def _read_imports(self) -> None:
        for node in ast.walk(self._tree):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                for name in node.names:
                    if node.module == "solo_trio" and name.name == "service":
                        self._modules.add(name.asname or name.name)
                    elif node.module == "solo_trio.service" and name.name == "export":
                        self._decorators.add(name.asname or name.name)
            elif isinstance(node, ast.Import):
                for name in node.names:
                    if name.name in SERVICE_MODULES:
                        self._modules.add(name.asname or "solo_trio.service")

    def _functions(self, inside: ast.AST) -> Iterator[Function]:
        """Of the module itself, also below `if` and `try`; not those in classes and functions."""
        for node in ast.iter_child_nodes(inside):
            if isinstance(node, Function):
                yield node
            elif not isinstance(node, ast.ClassDef | ast.Lambda):
                yield from self._functions(node)

    def _last(self, name: str) -> ast.AST | None:
        """What the module's last statement about a name makes of it."""
        found: ast.AST | None = None
        for node in self._tree.body:
            if (isinstance(node, Function | ast.ClassDef) and node.name == name) or (
                isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets)
            ):
                found = node
            elif isinstance(node, ast.If | ast.Try | ast.With):
                found = next((each for each in self._functions(node) if each.name == name), found)
        return found

    def _is_export(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Name):
            return node.id in self._decorators
        return isinstance(node, ast.Attribute) and node.attr == "export" and ast.unparse(node.value) in self._modules

    def _is_exported(self, function: Function) -> bool:
        return any(self._is_export(each) for each in function.decorator_list) or self._is_called(function)

    def _is_called(self, function: Function) -> bool:
        called = [each for each in function.decorator_list if isinstance(each, ast.Call) and self._is_export(each.func)]
        for each in called:
            self._say(each, "error", "@service.export takes no parentheses", "Write it without.")
        return bool(called)

    def _check_export(self, function: Function, known: dict[str, int]) -> None:
        name = function.name
        try:
            check_function(name)
        except Rejected as error:
            self._say(
                function,
                "error",
                f"the function {name!r} cannot be called from outside",
                f"Call it otherwise: {error.detail}.",
            )
        if name in known:
            self._say(
                function,
                "warning",
                f"{name} is exported at line {known[name]} already",
                "Give one of them another name: only this one counts.",
            )
        if name == "main":
            self._say(
                function, "warning", "main is exported", "Take the decorator away: a call would run main a second time."
            )
        if self._yields(function):
            self._say(function, "warning", f"{name} is a generator, and its result is no JSON", "Return a list.")
        if not self._is_export(function.decorator_list[0]) and not isinstance(function.decorator_list[0], ast.Call):
            self._say(function, "warning", f"@service.export is not the outermost decorator of {name}", "Put it first.")
        known[name] = function.lineno

    def _check_main(self, main: Function) -> None:
        if not isinstance(main, ast.AsyncFunctionDef):
            if not main.decorator_list:
                self._say(main, "error", "main must be an async function", "Write async def main(ctx).")
            return
        given = main.args
        plain = [*given.posonlyargs, *given.args]
        required = plain[: len(plain) - len(given.defaults)]
        keywords = [each for each, default in zip(given.kwonlyargs, given.kw_defaults, strict=True) if default is None]
        others = [each for each in [*required[1:], *keywords] if each.arg != "task_status"]
        if (not plain and given.vararg is None) or others or any(each.arg == "task_status" for each in plain[:1]):
            self._say(
                main,
                "error",
                "main must take one argument, ctx, and may take task_status",
                "Write async def main(ctx).",
            )
        if self._yields(main):
            self._say(main, "error", "main must not yield", "Take the yield away: main is awaited, not iterated over.")

    def _check_inner(self) -> None:
        """Exports where nobody finds them."""
        outer = set(self._functions(self._tree))
        for node in ast.walk(self._tree):
            if (
                isinstance(node, Function)
                and node not in outer
                and any(self._is_export(d) for d in node.decorator_list)
            ):
                self._say(
                    node,
                    "warning",
                    f"{node.name} is no function of the module itself, and its export has no effect",
                    "Write it at the top of the module.",
                )
            elif isinstance(node, ast.ClassDef) and any(self._is_export(each) for each in node.decorator_list):
                self._say(
                    node,
                    "warning",
                    f"{node.name} is a class",
                    "Export functions: a call would answer with an object, which is no JSON.",
                )

    def _yields(self, function: Function) -> bool:
        waiting: list[ast.AST] = list(function.body)
        while waiting:
            node = waiting.pop()
            if isinstance(node, ast.Yield | ast.YieldFrom):
                return True
            if not isinstance(node, Function | ast.Lambda | ast.ClassDef):
                waiting += ast.iter_child_nodes(node)
        return False
