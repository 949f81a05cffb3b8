"""Rule `introspection_escape`. Owns: ways from one object to everything else. Never: plain reflection (`getattr`, `dir`)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

from solo_trio.hardening.finding import Found, Level, Rule
from solo_trio.hardening.module import Module
from solo_trio.hardening.rules.mentions import errors, mentions, warnings

_NAMES: Final = {
    **errors(
        "gc.get_objects gc.get_referrers gc.get_referents sys._getframe sys._current_frames sys._current_exceptions"
        " sys._getframemodulename sys.settrace sys.setprofile threading.settrace threading.setprofile"
    ),
    **warnings(
        "inspect.currentframe inspect.stack inspect.getouterframes inspect.getinnerframes inspect.trace sys.modules"
    ),
}
_ATTRIBUTES: Final[dict[str, Level]] = {
    **errors("__subclasses__ __globals__ __builtins__ f_globals f_builtins f_locals"),
    **warnings(
        "__code__ __closure__ __mro__ __bases__ __base__ f_back f_code gi_frame gi_code cr_frame cr_code ag_frame ag_code"
    ),
}


def _look(module: Module) -> Iterator[Found]:
    yield from mentions(module, _NAMES, "{name} looks into what is not the service's own")
    for place in module.nodes:
        name = _name(place.node)
        if name in _ATTRIBUTES:
            yield Found(place.node, _ATTRIBUTES[name], f"{name} leads to what is not the service's own")


def _name(node: ast.AST) -> str:
    """Of the attribute, also where it is asked for by a text."""
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Name) and node.id == "__builtins__":
        return node.id
    if (
        isinstance(node, ast.Call)
        and len(node.args) >= 2
        and isinstance(node.func, ast.Name)
        and node.func.id == "getattr"
    ):
        text = node.args[1]
        if isinstance(text, ast.Constant) and isinstance(text.value, str):
            return text.value
    return ""


INTROSPECTION: Final = Rule(
    id="introspection_escape",
    levels=("error", "warning"),
    title="Objects are used as a way to everything else",
    why="It goes around what a module was given: the habit of code that wants out. It finds nothing that would help it here.",
    remedy="Pass what is needed as an argument; for a traceback use the module traceback, for a log ctx.log.exception.",
    example="def kinds():\n    return object.__subclasses__()\n",
    better='KINDS = {"a": int, "b": str}\n\n\ndef kinds():\n    return sorted(KINDS)\n',
    look=_look,
)
