"""How the documentation is built (`nox -s docs`). Owns: Sphinx's settings, putting generated parts in place. Never: words."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.inspect import stringify_signature

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS)]

import generated  # noqa: E402  (lies beside this file)

import solo_trio  # noqa: E402
from solo_trio.client import asks  # noqa: E402

project = "Solo"
author = "The Solo maintainers"
project_copyright = author
version = release = solo_trio.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
nitpicky = False
default_role = "code"
"""Docstrings write `name`, as this documentation does."""

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"Solo {version}"
html_static_path = ["_static"]
html_show_sphinx = False
smartquotes = False
html_theme_options = {"navigation_with_keys": True}
suppress_warnings = ["myst.xref_ambiguous"]
"""A page may have the heading of a command and of an operation of the same name; links name the page."""


def _fill(app: Sphinx, page: str, source: list[str]) -> None:
    source[0] = generated.fill(page, source[0])


def _signature(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, arguments: str | None, returns: str | None
) -> tuple[str, str] | None:
    """Of the clients' methods: they are made from functions without `self`, which return the request that is sent."""
    _, _, method = name.removeprefix("solo_trio.client.").rpartition("Client.")
    build = vars(asks).get(method)
    if what != "method" or not name.startswith("solo_trio.client.") or build is None:
        return None
    signature = inspect.signature(build)
    returned = str(signature.return_annotation).removeprefix("Ask[").removesuffix("]")
    shown = stringify_signature(signature.replace(return_annotation=signature.empty))
    return shown, returned.replace("Document", "dict[str, Any]")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", _fill)
    app.connect("autodoc-process-signature", _signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
