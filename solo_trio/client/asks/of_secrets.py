"""Asks about secrets. Owns: how their names and values travel. Never: keeps a value."""

from __future__ import annotations

import base64
import re
from typing import Final

from solo_trio.client.asks.request import Ask, Document, present, whole
from solo_trio.errors import Rejected

_SECRET_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}", re.ASCII)


def set_secret(
    name: str,
    value: str | bytes,
    *,
    key: str | None = None,
    if_match: int | None = None,
    idempotency_key: str | None = None,
) -> Ask[Document]:
    """Set a secret, or a new version of one: `{name, version}`.

    `key`: a passphrase, or 32 bytes as hex or base64. It is kept nowhere: without it nobody can open the secret.
    """
    given = value if isinstance(value, str) else {"base64": base64.b64encode(value).decode()}
    body = present(value=given, key=key)
    return Ask("PUT", _secret(name), whole, body=body, idempotency_key=idempotency_key, if_match=if_match)


def secrets(*, limit: int | None = None, cursor: str | None = None) -> Ask[Document]:
    """A page of secrets, never their values: `{secrets: [{name, version, at, sealed_by, revision}], next}`."""
    return Ask("GET", "/secrets", whole, present(limit=limit, cursor=cursor))


def show_secret(name: str) -> Ask[Document]:
    """One secret, and which versions of it are kept."""
    return Ask("GET", _secret(name), whole)


def reveal_secret(name: str, *, key: str | None = None, version: int | None = None) -> Ask[str | bytes]:
    """The value of a secret: text, or bytes if it was set as such. That it was revealed is recorded."""
    return Ask("POST", f"{_secret(name)}/reveal", _value, body=present(key=key, version=version))


def delete_secret(name: str, *, if_match: int | None = None, idempotency_key: str | None = None) -> Ask[Document]:
    """Shred every version of a secret."""
    return Ask("DELETE", _secret(name), whole, idempotency_key=idempotency_key, if_match=if_match)


def _secret(name: str) -> str:
    if _SECRET_NAME.fullmatch(name) is None:
        raise Rejected("invalid_id", f"{name[:60]!a} cannot be a secret's name: use A-Z, a-z, 0-9, '_', '.' and '-'")
    return "/secrets/" + (name if name.strip(".") else name.replace(".", "%2E"))


def _value(document: Document) -> str | bytes:
    value = document["value"]
    return value if isinstance(value, str) else base64.b64decode(value["base64"])
