"""Certificates of every kind, right and wrong, made once for a test."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from attrs import evolve, frozen
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from solo_trio.gateways.http.tls import Tls, TlsFiles
from solo_trio.vault.certificate_files import CertificateFiles
from solo_trio.vault.certificates import Pair, make_authority


@frozen
class Authority:
    """DATA/certs of a test, and what a client needs of it."""

    data: Path

    @classmethod
    def make(cls, data: Path, now: datetime | None = None) -> Authority:
        CertificateFiles(data, now).init([], 90, None)
        return cls(data)

    @property
    def files(self) -> CertificateFiles:
        return CertificateFiles(self.data)

    @property
    def tls(self) -> TlsFiles:
        certs = self.data / "certs"
        return TlsFiles(
            certificate=certs / "server.crt",
            key=certs / "server.key",
            client_ca=certs / "ca.crt",
            revoked=certs / "revoked",
            check_s=0.05,
        )

    def server(self, **changes: Any) -> Tls:
        return Tls(evolve(self.tls, **changes))

    def issue(self, tenant_id: str | None, *, name: str | None = None, now: datetime | None = None) -> tuple[str, str]:
        """A client's certificate and key, as files."""
        files = CertificateFiles(self.data, now)
        made = files.issue(name or tenant_id or "system", tenant_id, 30, None, replace=True)
        return made.certificate, made.key

    def client(self, pair: tuple[str, str] | None = None, trusted: Path | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=trusted or self.data / "certs" / "ca.crt")
        if pair is not None:
            context.load_cert_chain(*pair)
        return context

    def odd(self, *uris: str, **changes: Any) -> tuple[str, str]:
        """A client certificate with these URIs, and whatever else is wrong with it (see `odd_pair`)."""
        pair = odd_pair(self.files.authority(), *uris, **changes)
        return write(self.data / f"{pair.serial}.pem", pair)


def odd_pair(
    authority: Pair,
    *uris: str,
    usage: Any = ExtendedKeyUsageOID.CLIENT_AUTH,
    begins: timedelta = timedelta(minutes=-5),
    lasts: timedelta = timedelta(days=1),
    subject: str = "odd",
    itself: bool = False,
) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    issuer = name if itself else authority.certificate.subject
    signer = key if itself else authority.key
    began = datetime.now(UTC) + begins
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(began)
        .not_valid_after(began + lasts)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),  # type: ignore[arg-type]
            critical=False,
        )
    )
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
    builder = builder.add_extension(x509.SubjectAlternativeName([*names, x509.DNSName("odd.test")]), critical=False)
    return Pair(builder.sign(signer, SHA256()), key)  # type: ignore[arg-type]


def write(path: Path, pair: Pair) -> tuple[str, str]:
    path.write_bytes(pair.key_pem() + pair.certificate_pem())
    path.chmod(0o600)
    return str(path), str(path)


def foreign(path: Path, *uris: str) -> tuple[str, str]:
    """A client certificate of an authority that nobody here knows."""
    return write(path, odd_pair(make_authority(datetime.now(UTC)), *uris))
