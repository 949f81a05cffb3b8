"""`GET /docs`. Owns: the description of the API as a page to read. Never: a script, or anything from another server."""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import json
from typing import Any, Final

from solo_trio.operations.openapi import document

_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "code,pre{font:14px/1.4 ui-monospace,monospace}pre{background:#f4f4f4;padding:.75rem;overflow:auto}"
    "summary{cursor:pointer;padding:.4rem 0}details{border-bottom:1px solid #ddd}td,th{text-align:left;padding:.1rem .8rem"
    " .1rem 0;vertical-align:top}@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}pre{background:#262626}}"
)
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
HEADERS: Final = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@functools.cache
def docs_page() -> str:
    """The whole page: made once, of the same document that `/openapi.json` is."""
    described = document()
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>Solo {_text(described['info']['version'])}</title><style>{_STYLE}</style>",
        f"<h1>Solo {_text(described['info']['version'])}</h1><p>{_text(described['info']['summary'])} The same for programs:"
        " <a href='/openapi.json'>/openapi.json</a>.</p>",
    ]
    groups: dict[str, list[str]] = {}
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            groups.setdefault(operation["tags"][0], []).append(_operation(method, path, operation))
    for tag in sorted(groups):
        parts += [f"<h2>{_text(tag.capitalize())}</h2>", *groups[tag]]
    return "\n".join(parts)


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{_text(one['name'])}</code><td>{_text(one['in'])}{', required' if one['required'] else ''}"
        f"<td><code>{_text(_short(one['schema']))}</code><td>{_text(one.get('description', ''))}"
        for one in operation["parameters"]
    )
    body = ""
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        body = f"<h4>Body</h4><pre>{_text(json.dumps(schema, indent=2))}</pre>"
    errors = "".join(
        f"<tr><td>{_text(status)}<td>{_text(answer['description'])}"
        for status, answer in operation["responses"].items()
        if status.isdigit() and status >= "400"
    )
    return (
        f"<details id='{_text(operation['operationId'])}'><summary><code>{_text(method.upper())} {_text(path)}</code>"
        f" {_text(operation['summary'])}</summary><p>{_text(operation['description'])}</p>"
        f"<table>{rows}</table>{body}<h4>Errors</h4><table>{errors}</table></details>"
    )


def _short(schema: dict[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in schema.items() if name != "description")


def _text(text: str) -> str:
    return html.escape(text, quote=True)
