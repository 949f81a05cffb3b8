"""A syntax tree made ready for rules. Owns: who is inside whom, what names stand for. Never: recurses, or judges.

Names are followed through `import`, `import ... as`, `from ... import ...` and plain assignments; what is bound otherwise
stands for nothing known. Scopes are Python's, except that a name means the same before and after it is bound.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from typing import Final

from attrs import define, field, frozen

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
HOPS_MAX: Final = 16
"""From a name to the name it was assigned from, and so on."""
ATTRIBUTES_MAX: Final = 32
"""In one chain of them; nothing that a rule knows is nearly so long."""
NESTED_CALLS_MAX: Final = 4
"""`getattr(__import__("os"), "system")` needs two."""
BUILTINS: Final = frozenset(vars(builtins))
IMPORTERS: Final = frozenset({"builtins.__import__", "importlib.import_module", "importlib.__import__"})


class TooManyNodes(Exception):
    """There is more than a look may cost."""


@define(eq=False)
class Scope:
    """A function's, a class's, or the module's."""

    outer: Scope | None
    asynchronous: bool = False
    """Whether what is in it runs in the event loop, as the body of an `async def` does."""
    is_class: bool = False
    imported: dict[str, str] = field(factory=dict)
    assigned: dict[str, ast.expr | None] = field(factory=dict)
    """None: bound by something that cannot be followed."""


@frozen(eq=False)
class Node:
    """A node and where it is."""

    node: ast.AST
    scope: Scope
    parent: ast.AST | None


@frozen(eq=False)
class Reference:
    """A mention of something from elsewhere; `call` if it is called right there."""

    node: ast.expr
    dotted: str
    scope: Scope
    call: ast.Call | None


@frozen(eq=False)
class Import:
    node: ast.stmt
    dotted: str
    scope: Scope


class Module:
    """Everything in a module, in the order of the source."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.imports: list[Import] = []
        self.references: list[Reference] = []
        self.stars: list[str] = []
        """Modules of which everything was imported."""
        self.async_functions: set[str] = set()
        """Names that are nothing but `async def` functions of the module itself."""
        self.waits: set[int] = set()
        """Ids of nodes with a checkpoint in them, as far as the text tells: a place where others may have their turn."""
        self.raises: set[int] = set()
        """... with a `raise`."""
        self.leaves: set[int] = set()
        """... with something that leaves the function, or hands out a value."""
        self.breaks: set[int] = set()
        """... with a `break` that ends a loop around them. None of the four looks into functions and classes."""

    @classmethod
    def read(cls, tree: ast.Module, nodes_max: int) -> Module:
        """Raises `TooManyNodes`."""
        module = cls()
        module._walk(tree, nodes_max)
        module._find_references()
        module._find_contents()
        outermost = [each for each in tree.body if isinstance(each, ast.AsyncFunctionDef)]
        others = {each.name for each in tree.body if isinstance(each, ast.FunctionDef | ast.ClassDef)}
        module.async_functions = {each.name for each in outermost} - others
        return module

    def _walk(self, tree: ast.Module, nodes_max: int) -> None:
        waiting: list[Node] = [Node(tree, Scope(None), None)]
        while waiting:
            place = waiting.pop()
            self.nodes.append(place)
            if len(self.nodes) > nodes_max:
                raise TooManyNodes
            self._bind(place)
            waiting += reversed(list(_inside(place)))

    def _bind(self, place: Node) -> None:
        node, scope = place.node, place.scope
        if isinstance(node, ast.Import):
            for alias in node.names:
                self.imports.append(Import(node, alias.name, scope))
                name = alias.asname or alias.name.partition(".")[0]
                scope.imported[name] = alias.name if alias.asname else name
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            for alias in node.names:
                if alias.name == "*":
                    self.imports.append(Import(node, base, scope))
                    self.stars.append(base)
                else:
                    self.imports.append(Import(node, f"{base}.{alias.name}", scope))
                    scope.imported[alias.asname or alias.name] = f"{base}.{alias.name}"
        elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            scope.assigned[node.targets[0].id] = None if node.targets[0].id in scope.assigned else node.value
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            if not _is_single_target(place):
                scope.assigned[node.id] = None
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            scope.assigned[node.name] = None
        elif isinstance(node, ast.arg):
            scope.assigned[node.arg] = None
        elif isinstance(node, ast.ExceptHandler) and node.name:
            scope.assigned[node.name] = None

    def _find_references(self) -> None:
        inner: set[int] = set()
        """Nodes that belong to a longer reference."""
        for place in self.nodes:
            node = place.node
            if id(node) in inner or not isinstance(node, ast.Name | ast.Attribute | ast.Call):
                continue
            if isinstance(node, ast.Call) and not _is_getattr(node):
                continue
            if not isinstance(node, ast.Call) and isinstance(node.ctx, ast.Store):
                continue
            part: ast.expr = node
            while isinstance(part, ast.Attribute):
                part = part.value
                inner.add(id(part))
            dotted = self.resolve(node, place.scope)
            if dotted is not None:
                called = isinstance(place.parent, ast.Call) and place.parent.func is node
                call = place.parent if called and isinstance(place.parent, ast.Call) else None
                self.references.append(Reference(node, dotted, place.scope, call))

    def _find_contents(self) -> None:
        """From the innermost outwards, so that it takes one pass however deep the tree is."""
        for place in reversed(self.nodes):
            node, inside = place.node, id(place.node)
            awaits = isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith)
            if awaits or (isinstance(node, ast.comprehension) and node.is_async):
                self.waits.add(inside)
            elif isinstance(node, ast.Raise):
                self.raises.add(inside)
                self.leaves.add(inside)
            elif isinstance(node, ast.Return | ast.Yield | ast.YieldFrom):
                self.leaves.add(inside)
            elif isinstance(node, ast.Break):
                self.breaks.add(inside)
            outer = place.parent
            if outer is None or isinstance(outer, Function | ast.ClassDef | ast.arguments):
                continue
            for kind in (self.waits, self.raises, self.leaves, self.breaks):
                ends_here = kind is self.breaks and isinstance(outer, ast.For | ast.AsyncFor | ast.While)
                if inside in kind and not ends_here:
                    kind.add(id(outer))

    def resolve(self, node: ast.expr | None, scope: Scope) -> str | None:
        """The dotted name of what an expression stands for, `builtins.eval` or `os.system`; None if that is unknown."""
        return self._resolve(node, scope, HOPS_MAX, NESTED_CALLS_MAX)

    def _resolve(self, node: ast.expr | None, scope: Scope, hops: int, calls: int) -> str | None:
        attributes: list[str] = []
        while True:
            while isinstance(node, ast.Attribute) and len(attributes) < ATTRIBUTES_MAX:
                attributes.append(node.attr)
                node = node.value
            if not isinstance(node, ast.Name):
                break
            name, found = self._bound(node.id, scope)
            if name is not None:
                return ".".join([name, *reversed(attributes)])
            if found is None or hops == 0:
                return None
            hops -= 1
            node, scope = found
        base = self._called(node, scope, hops, calls) if isinstance(node, ast.Call) and calls else None
        return None if base is None else ".".join([base, *reversed(attributes)])

    def _called(self, call: ast.Call, scope: Scope, hops: int, calls: int) -> str | None:
        """Of a call that only gives a name to something: `__import__("os")`, `getattr(os, "system")`."""
        function = self._resolve(call.func, scope, hops, calls - 1)
        texts = [each.value if isinstance(each, ast.Constant) else None for each in call.args[:2]]
        if function in IMPORTERS and texts and isinstance(texts[0], str):
            return texts[0]
        if function == "builtins.getattr" and len(texts) >= 2 and isinstance(texts[1], str):
            base = self._resolve(call.args[0], scope, hops, calls - 1)
            return None if base is None else f"{base}.{texts[1]}"
        return None

    def _bound(self, name: str, scope: Scope) -> tuple[str | None, tuple[ast.expr, Scope] | None]:
        """What the name was imported as, or else what it was assigned from."""
        at: Scope | None = scope
        while at is not None:
            if at is scope or not at.is_class:
                if name in at.imported:
                    return at.imported[name], None
                if name in at.assigned:
                    value = at.assigned[name]
                    return None, None if value is None else (value, at)
            at = at.outer
        if name in BUILTINS:
            return f"builtins.{name}", None
        return (f"{self.stars[-1]}.{name}" if self.stars else None), None


def _inside(place: Node) -> Iterator[Node]:
    """The nodes right inside of one, each with the scope that it runs in."""
    node, scope = place.node, place.scope
    if isinstance(node, ast.arguments) and isinstance(place.parent, Function):
        return  # what is in it came with the function
    if not isinstance(node, Function | ast.ClassDef):
        for child in ast.iter_child_nodes(node):
            yield Node(child, scope, node)
        return
    is_class = isinstance(node, ast.ClassDef)
    asynchronous = scope.asynchronous if is_class else isinstance(node, ast.AsyncFunctionDef)
    within = Scope(scope, asynchronous, is_class)
    body = node.body if isinstance(node.body, list) else [node.body]
    inner = {id(each) for each in body}
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.arguments):
            yield from _parameters(child, scope, within)
        yield Node(child, within if id(child) in inner else scope, node)


def _parameters(given: ast.arguments, outer: Scope, within: Scope) -> Iterator[Node]:
    """Names belong to the function; defaults are made where it is defined."""
    named = (*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg)
    for each in named:
        if each is not None:
            yield Node(each, within, given)
    for default in (*given.defaults, *given.kw_defaults):
        if default is not None:
            yield Node(default, outer, given)


def _is_single_target(place: Node) -> bool:
    parent = place.parent
    return isinstance(parent, ast.Assign) and len(parent.targets) == 1 and parent.targets[0] is place.node


def _is_getattr(node: ast.Call) -> bool:
    return isinstance(node.func, ast.Name) and node.func.id == "getattr" and len(node.args) >= 2


def names_in(dotted: str, known: frozenset[str]) -> str | None:
    """The shortest beginning of a dotted name that is one of `known`: `subprocess` of `subprocess.run`."""
    at = dotted.find(".")
    while at != -1:
        if dotted[:at] in known:
            return dotted[:at]
        at = dotted.find(".", at + 1)
    return dotted if dotted in known else None
