"""How a client reaches its server. Owns: headers, time-outs, what must be well formed before anything is sent. Never: sends."""

from __future__ import annotations

import ipaddress
import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import httpx
from attrs import field, frozen

from solo_trio.client.asks import Ask
from solo_trio.errors import Rejected

CONNECT_TIMEOUT_S: Final = 5.0
ANSWER_TIMEOUT_S: Final = 120.0
"""For an answer to begin: a start may queue behind others."""
STREAM_TIMEOUT_S: Final = 45.0
"""A stream that was silent for three keep-alives is dead."""
CONNECTIONS_MAX: Final = 100
TENANT_CHARACTERS_MAX: Final = 63
QUERY_CHARACTERS_MAX: Final = 4_096
"""Of one value; no operation takes a longer one."""


PathLike = str | Path


@frozen
class Trust:
    """For TLS: whose servers are trusted (None: those that this machine trusts), and a client certificate with its key."""

    ca_cert: PathLike | None = None
    cert: PathLike | None = None
    key: PathLike | None = None
    """None: it is in the file of the certificate."""

    def context(self) -> ssl.SSLContext | bool:
        """What httpx takes as `verify`. Raises `Rejected("certificate_unusable")`."""
        if self.cert is None and self.key is not None:
            raise Rejected("certificate_unusable", "a key was named, but no certificate: name both, --cert and --key")
        if self.ca_cert is None and self.cert is None:
            return True
        named = self.ca_cert
        try:
            context = ssl.create_default_context(cafile=None if named is None else str(named))
            if named is not None:  # an authority that was named is trusted, also if another one made it
                context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            if self.cert is not None:
                named = self.key if self.key is not None else self.cert
                context.load_cert_chain(str(self.cert), None if self.key is None else str(self.key), _no_passphrase)
        except (OSError, ValueError) as error:
            if isinstance(error, ssl.SSLError):
                why = (
                    "the key belongs to another certificate" if "MISMATCH" in str(error) else "it is no PEM file of one"
                )
            else:
                why = (isinstance(error, OSError) and error.strerror) or str(error)
            raise Rejected("certificate_unusable", f"{named} cannot be used ({why}): name another file") from None
        return context


def _no_passphrase() -> bytes:
    """OpenSSL would ask on the terminal."""
    raise ValueError("the key has a passphrase; it must have none")


@frozen
class Address:
    """A checked URL and what is sent with every request to it."""

    url: str
    headers: Mapping[str, str]
    trust: Trust = field(factory=Trust)

    @classmethod
    def of(cls, url: str, token: str | None, trust: Trust | None = None) -> Address:
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, UnicodeEncodeError) as error:
            raise Rejected("invalid_field", f"the server's URL is malformed: {error}") from None
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise Rejected("invalid_field", "the server's URL must be like http://127.0.0.1:8080")
        headers = {"User-Agent": "solo", "Accept": "application/json"}
        if token is not None:
            if not token.isascii() or not token.isprintable() or " " in token:
                raise Rejected("unauthenticated", "the token is malformed: it must be one word of ASCII characters")
            headers["Authorization"] = f"Bearer {token}"
        return cls(url.rstrip("/"), headers, trust or Trust())

    def options(self, timeout_s: float) -> dict[str, Any]:
        """Arguments of either httpx client. A server on this machine is never asked through a proxy."""
        url = httpx.URL(self.url)
        local = _is_local(url.host)
        return {
            "base_url": self.url,
            "headers": dict(self.headers),
            "timeout": httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S),
            "limits": httpx.Limits(max_connections=CONNECTIONS_MAX),
            "trust_env": not local,
            # Without TLS nothing is verified, and reading all authorities would take the most time.
            "verify": self.trust.context() if url.scheme == "https" else not local,
        }


def _is_local(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return address.is_loopback or address.is_unspecified


def arguments(ask: Ask[Any], tenant: str | None, timeout_s: float) -> dict[str, Any]:
    """Arguments of `httpx.Client.request` (and its async twin) for `ask`."""
    headers = {}
    if ask.tenant and tenant is not None:
        if not tenant.isascii() or not tenant.isprintable() or len(tenant) > TENANT_CHARACTERS_MAX:
            raise Rejected("invalid_id", "the tenant's id must be ASCII, and at most 63 characters")
        headers["X-Tenant-ID"] = tenant
    if ask.idempotency_key is not None:
        headers["Idempotency-Key"] = ask.idempotency_key
    if ask.if_match is not None:
        headers["If-Match"] = str(ask.if_match)
    return {
        "method": ask.method,
        "url": ask.path,
        "params": _query(ask.query),
        "content": None if ask.body is None else _content(ask.body),
        "headers": headers if ask.body is None else headers | {"Content-Type": "application/json"},
        "timeout": httpx.Timeout(timeout_s + ask.patience_s, connect=CONNECT_TIMEOUT_S),
    }


def _query(given: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in given.items():
        if isinstance(value, str) and (len(value) > QUERY_CHARACTERS_MAX or not _is_unicode(value)):
            raise Rejected("invalid_field", f"{name} is too long, or is no text that can be sent: correct it")
    return dict(given)


def _content(body: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(dict(body), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        why = "it contains half a character (a lone surrogate)"
        raise Rejected("invalid_json", f"JSON cannot say this: {why}") from None
    except ValueError as error:
        raise Rejected("invalid_json", f"JSON cannot say this: {error}") from None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
