"""Rule `dynamic_code`. Owns: code that is made or found at run time. Never: native code (`native_loading`)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

from solo_trio.hardening.finding import Found, Level, Rule
from solo_trio.hardening.module import Module, Reference
from solo_trio.hardening.rules.mentions import errors, mentions, warnings

_NAMES: Final = {
    **errors("builtins.eval builtins.exec builtins.compile types.CodeType marshal.loads marshal.load"),
    **warnings(
        "builtins.__import__ importlib.import_module importlib.__import__ importlib.reload importlib.util importlib.machinery"
        " importlib.abc imp runpy code codeop zipimport pkgutil.get_loader pkgutil.find_loader types.FunctionType"
        " pickle.loads pickle.load pickle.Unpickler _pickle.loads cloudpickle.loads dill.loads shelve.open"
    ),
}
_FROM_TEXT: Final = frozenset({"builtins.eval", "builtins.exec", "builtins.compile"})
_FROM_NAME: Final = frozenset({"builtins.__import__", "importlib.import_module", "importlib.__import__"})


def _constant(reference: Reference) -> bool:
    call = reference.call
    return call is not None and bool(call.args) and isinstance(call.args[0], ast.Constant)


def _look(module: Module) -> Iterator[Found]:
    def only(reference: Reference) -> bool:
        return not (_constant(reference) and reference.dotted in _FROM_TEXT | _FROM_NAME)

    yield from mentions(module, _NAMES, "{name} runs code that is not in this source", only=only)
    for reference in module.references:
        if _constant(reference) and reference.dotted in _FROM_TEXT:
            level: Level = "warning"
            name = reference.dotted.removeprefix("builtins.")
            yield Found(
                reference.node,
                level,
                f"{name} of a text that is known",
                remedy="Write what it says as code of the module.",
            )


DYNAMIC_CODE: Final = Rule(
    id="dynamic_code",
    levels=("error", "warning"),
    title="Code is made, loaded or unpickled at run time",
    why="What will run cannot be read here, by nobody; if any of it comes from a caller, the caller runs as the service.",
    remedy="Choose among functions that are written down, in a dict by name; read data with json or ast.literal_eval.",
    example="def compute(text):\n    return eval(text)\n",
    better="import ast\n\n\ndef compute(text):\n    return ast.literal_eval(text)\n",
    look=_look,
)
