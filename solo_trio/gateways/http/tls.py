"""The server's TLS. Owns: its context, noticing new files, which certificates are refused. Never: reads a socket.

TLS 1.3 and nothing else; every handshake is a whole one (no tickets), so a certificate is verified each time it is used. Files
are looked at every few seconds: new connections get what is new, old ones live on, save those whose certificate was revoked or
has expired, or was let in by another authority than the one of now. What cannot be used is not taken: the last good files stay,
and the operator is told.
"""

from __future__ import annotations

import math
import os
import ssl
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import trio
from attrs import evolve, frozen

from solo_trio.errors import Rejected
from solo_trio.model.certificate import Certificate
from solo_trio.vault.certificate_files import read_revoked
from solo_trio.vault.certificates import credential_of, read_certificate

CURVE: Final = "prime256v1"
"""For the key exchange: the one that every TLS 1.3 implementation has (RFC 8446, 9.1). Python before 3.15 can name only one,
and OpenSSL's own list is longer than the modern profile's."""
GROUPS: Final = "X25519:P-256:P-384"
FOR_OTHERS: Final = stat.S_IROTH | stat.S_IWOTH
EXPIRY_TOLD_S: Final = 14 * 86_400.0
"""So long before a server's certificate expires its operator is told, once a day."""
EXPIRY_TOLD_EACH_S: Final = 86_400.0

Tell = Callable[[str], None]


@frozen
class TlsFiles:
    """Where a server's TLS is. `client_ca` None: nobody is asked for a certificate."""

    certificate: Path
    key: Path
    client_ca: Path | None = None
    client_required: bool = False
    """Who has no certificate is not let in, whatever token it has."""
    revoked: Path | None = None
    check_s: float = 2.0
    """Between two looks at the files."""

    def paths(self) -> list[Path]:
        return [path for path in (self.certificate, self.key, self.client_ca, self.revoked) if path is not None]


class Tls:
    """Made with files that can be used; raises `Rejected("certificate_unusable")` otherwise."""

    def __init__(self, files: TlsFiles, tell: Tell | None = None) -> None:
        self.files = files
        self._tell: Tell = tell or (lambda text: None)
        self._stamps = self._look()
        self._told_at = -math.inf
        self._failing = ""
        self._told_failing = False
        self._listed = False
        """There was a list of revoked certificates: that it is gone does not make them good."""
        self._authority: bytes | None = None
        self.authority_number = 0
        """Another one with each authority of clients; what was verified under an earlier one is not verified."""
        self._read()

    def _read(self) -> None:
        """Everything or nothing."""
        files = self.files
        authority = None if files.client_ca is None or not files.client_ca.exists() else files.client_ca.read_bytes()
        context = make_context(files)
        revoked = None if files.revoked is None else read_revoked(files.revoked)
        if revoked is None and self._listed:
            raise Rejected(
                "certificate_unusable",
                f"{files.revoked} is gone, and with it what was revoked: put it back (an empty one, if that is meant)",
            )
        expires = read_certificate(files.certificate.read_bytes()).not_valid_after_utc
        self.context, self._revoked, self._expires = context, revoked or frozenset[str](), expires
        self._listed = revoked is not None
        if authority != self._authority:  # after the context: whoever has that number has that context, or a newer one
            self._authority = authority
            self.authority_number += 1

    def credential(self, der: bytes) -> Certificate:
        """What a verified certificate says."""
        return credential_of(der)

    def now(self, certificate: Certificate) -> Certificate:
        """The same with what is known of it by now."""
        return evolve(certificate, revoked=certificate.serial in self._revoked)

    def refuses(self, certificate: Certificate) -> bool:
        """Whether a connection that was opened with it is to end."""
        return self.now(certificate).revoked or certificate.not_after_us <= datetime.now(UTC).timestamp() * 1e6

    async def keep_current(self, looked: Callable[[], None]) -> None:
        """Until cancelled; `looked` is called after each look."""
        while True:
            await trio.sleep(self.files.check_s)
            await trio.to_thread.run_sync(self._check)
            self._tell_expiry()
            looked()

    def _check(self) -> None:
        stamps = self._look()
        if stamps == self._stamps and not self._failing:
            return
        try:
            self._read()
        except (Rejected, OSError) as error:
            failing = error.detail if isinstance(error, Rejected) else str(error)
            # Two files are replaced one after the other: what does not fit together is told only if it stays so.
            if failing == self._failing and stamps == self._stamps and not self._told_failing:
                self._tell(f"the new certificates cannot be used, those from before stay: {failing}")
                self._told_failing = True
            elif failing != self._failing or stamps != self._stamps:
                self._told_failing = False
            self._failing = failing
        else:
            self._tell(f"certificates were read again; the server's is good until {self._expires:%Y-%m-%d %H:%M} UTC")
            self._failing = ""
        self._stamps = stamps

    def _look(self) -> list[tuple[int, int, int] | None]:
        found: list[tuple[int, int, int] | None] = []
        for path in self.files.paths():
            try:
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, status.st_ino))
            except OSError:
                found.append(None)
        return found

    def _tell_expiry(self) -> None:
        left_s = (self._expires - datetime.now(UTC)).total_seconds()
        if left_s < EXPIRY_TOLD_S and trio.current_time() - self._told_at >= EXPIRY_TOLD_EACH_S:
            self._told_at = trio.current_time()
            how = "has expired: nobody can connect" if left_s <= 0 else f"expires in {left_s / 86_400:.0f} days"
            self._tell(f"the server's certificate {how}; make another with solo certs renew, a restart is not needed")


def make_context(files: TlsFiles) -> ssl.SSLContext:
    """TLS 1.3 as Mozilla's modern profile has it. Raises `Rejected("certificate_unusable")`; blocks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0  # a resumed session would not look at the client's certificate again
    context.set_alpn_protocols(["http/1.1"])
    if (set_groups := getattr(context, "set_groups", None)) is not None:  # Python 3.15
        set_groups(GROUPS)
    else:
        context.set_ecdh_curve(CURVE)
    _check_key(files.key)
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_passphrase)
    except (OSError, ValueError) as error:
        raise _unusable(f"{files.certificate} with {files.key}", error) from None
    if files.client_ca is not None:
        try:
            context.load_verify_locations(files.client_ca)
        except (OSError, ValueError) as error:
            raise _unusable(str(files.client_ca), error) from None
        context.verify_mode = ssl.CERT_REQUIRED if files.client_required else ssl.CERT_OPTIONAL
        context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    elif files.client_required:
        raise Rejected(
            "certificate_unusable", "certificates of clients are required, but no authority of theirs is named"
        )
    return context


def _no_passphrase() -> bytes:
    """OpenSSL would ask on the terminal."""
    raise ValueError("the key has a passphrase: give one without")


def _check_key(path: Path) -> None:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise _unusable(str(path), error) from None
    if mode & FOR_OTHERS:
        raise Rejected("certificate_unusable", f"everybody can read the key {path}: chmod 600 it, or replace it")


def _unusable(what: str, error: Exception) -> Rejected:
    if isinstance(error, FileNotFoundError):
        why = "it is missing; solo certs init makes an authority, a certificate and a key"
    elif isinstance(error, ssl.SSLError):
        mismatch = "MISMATCH" in str(error)
        why = (
            "the key belongs to another certificate"
            if mismatch
            else f"it is no PEM of what it should be ({error.reason})"
        )
    else:
        why = (isinstance(error, OSError) and error.strerror) or str(error)
    return Rejected("certificate_unusable", f"{what} cannot be used: {why}")
