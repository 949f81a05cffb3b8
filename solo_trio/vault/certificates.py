"""X.509. Owns: what certificates made here look like, what is read off one. Never: files, or who may do what.

Who a client certificate is for is a URI in its subjectAltName: `solo://tenant/ID` or `solo://system`; its subject says nothing.
All of it satisfies a strict verification (RFC 5280, as Python 3.13 does it by default) and Mozilla's modern profile: P-256,
SHA-256, names in the subjectAltName, key identifiers, key usages, at most 90 days unless more are asked for.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, cast

from attrs import field, frozen
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from solo_trio.errors import Rejected
from solo_trio.model.certificate import Certificate
from solo_trio.model.ids import check_id

AUTHORITY_DAYS: Final = 3_650
LEAF_DAYS: Final = 90
DAYS_MAX: Final = 3_650
SKEW: Final = timedelta(hours=1)
"""A server's certificate begins so long ago: clocks of clients may be late. A client's begins now, because one that was made
before a tenant was removed must not be one of its successor."""
TENANT_URI: Final = "solo://tenant/"
SYSTEM_URI: Final = "solo://system"
URI_SCHEME: Final = "solo:"
HOST_CHARACTERS_MAX: Final = 253
RSA_BITS_MIN: Final = 2_048

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@frozen
class Pair:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: Key = field(repr=False)
    chain: tuple[x509.Certificate, ...] = ()
    """What is sent after it: its authority's certificate, where that is not a root."""

    def certificate_pem(self) -> bytes:
        return b"".join(each.public_bytes(Encoding.PEM) for each in (self.certificate, *self.chain))

    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def serial(self) -> str:
        return serial_of(self.certificate)


def serial_of(certificate: x509.Certificate) -> str:
    return f"{certificate.serial_number:x}"


def make_authority(now: datetime) -> Pair:
    """A new authority of its own, for server and client certificates, which may name no further authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    name = _name(f"Solo authority {serial:x}"[:40])  # two authorities must not be taken for each other
    public = key.public_key()
    began = now.replace(microsecond=0) - SKEW
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(began)
        .not_valid_after(began + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, SHA256())
    )
    return Pair(certificate, key)


def make_server(authority: Pair, hosts: Sequence[str], days: int, now: datetime) -> Pair:
    """A certificate for a server that is reached by these names and addresses. Raises `Rejected("invalid_field")`."""
    names = [_general_name(host) for host in hosts]
    return _issue(authority, hosts[0], names, ExtendedKeyUsageOID.SERVER_AUTH, now - SKEW, days)


def make_client(authority: Pair, name: str, tenant_id: str | None, days: int, now: datetime) -> Pair:
    """A credential for a tenant, or for the system (None)."""
    uri = SYSTEM_URI if tenant_id is None else TENANT_URI + check_id("tenant_id", tenant_id)
    names = [x509.UniformResourceIdentifier(uri)]
    return _issue(authority, name, names, ExtendedKeyUsageOID.CLIENT_AUTH, now, days)


def _issue(
    authority: Pair,
    common_name: str,
    names: Sequence[x509.GeneralName],
    usage: x509.ObjectIdentifier,
    began: datetime,
    days: int,
) -> Pair:
    if not 1 <= days <= DAYS_MAX:
        raise Rejected("invalid_field", f"a certificate is good for 1 to {DAYS_MAX} days")
    key = ec.generate_private_key(ec.SECP256R1())
    public, issuer = key.public_key(), authority.certificate
    began = began.replace(microsecond=0)
    until = min(began + timedelta(days=days), issuer.not_valid_after_utc)
    if until <= began:
        raise Rejected(
            "certificate_unusable", "the authority's certificate has expired: make a new one, and all below it"
        )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name(common_name))
        .issuer_name(issuer.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(began, issuer.not_valid_before_utc))
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(_authority_key_identifier(issuer), critical=False)
        .sign(authority.key, None if isinstance(authority.key, ed25519.Ed25519PrivateKey) else SHA256())
    )
    chain = () if issuer.issuer == issuer.subject else (issuer,)
    return Pair(certificate, key, chain)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        known = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(cast(ec.EllipticCurvePublicKey, issuer.public_key()))
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(known.value)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass
    labels = host.removeprefix("*.").split(".")
    plain = all(label and label.replace("-", "").replace("_", "").isalnum() for label in labels)
    if not host.isascii() or not plain or len(host) > HOST_CHARACTERS_MAX:
        raise Rejected("invalid_field", f"{host[:60]!a} is no host's name: write it without https:// and port")
    return x509.DNSName(host.lower())


def hosts_of(certificate: x509.Certificate) -> list[str]:
    """The names and addresses that a server's certificate is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]


def read_authority(certificate_pem: bytes, key_pem: bytes, now: datetime) -> Pair:
    """An authority's certificate and key. Raises `Rejected("certificate_unusable")` with what is wrong with them."""
    pair = read_pair(certificate_pem, key_pem)
    certificate = pair.certificate
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        constraints = None
    if constraints is None or not constraints.ca:
        raise _unusable("it is not an authority's (its basic constraints do not say CA)")
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        raise _unusable("it has no key usage, which strict clients insist on") from None
    if not usage.key_cert_sign:
        raise _unusable("its key usage does not allow to sign certificates")
    if certificate.not_valid_after_utc <= now:
        raise _unusable(f"it has expired, on {certificate.not_valid_after_utc:%Y-%m-%d}")
    if isinstance(pair.key, rsa.RSAPrivateKey) and pair.key.key_size < RSA_BITS_MIN:
        raise _unusable(f"its RSA key is shorter than {RSA_BITS_MIN} bits")
    return pair


def read_pair(certificate_pem: bytes, key_pem: bytes) -> Pair:
    """Raises `Rejected("certificate_unusable")`."""
    certificate = read_certificate(certificate_pem)
    try:
        key = load_pem_private_key(key_pem, password=None)
    except TypeError:
        raise _unusable(
            "its key is encrypted: give one without a passphrase, in a file that only its user can read"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise _unusable("its key is no PEM file of a private key") from None
    if not isinstance(key, Key):
        raise _unusable("its key is of a kind that is not used here: take ECDSA, Ed25519 or RSA")
    if _public_bytes(key.public_key()) != _public_bytes(certificate.public_key()):
        raise _unusable("its key belongs to another certificate")
    return Pair(certificate, key)


def _public_bytes(key: object) -> bytes:
    return cast(rsa.RSAPublicKey, key).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def read_certificate(pem: bytes) -> x509.Certificate:
    """The first of a PEM file. Raises `Rejected("certificate_unusable")`."""
    try:
        return x509.load_pem_x509_certificate(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise _unusable("it is no PEM file of a certificate") from None


def _unusable(why: str) -> Rejected:
    return Rejected("certificate_unusable", f"the certificate cannot be used: {why}")


def credential_of(der: bytes) -> Certificate:
    """What a verified client certificate says about who it is for. One that cannot be read is `unclear`, which is refused."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        serial = serial_of(certificate)
        uris = _solo_uris(certificate)
        dates = _us(certificate.not_valid_before_utc), _us(certificate.not_valid_after_utc)
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return Certificate("", "unclear")
    if not uris:
        return Certificate(serial, "nobody", None, *dates)
    if uris == [SYSTEM_URI]:
        return Certificate(serial, "system", None, *dates)
    if len(uris) == 1 and uris[0].startswith(TENANT_URI):
        try:
            return Certificate(serial, "tenant", check_id("tenant_id", uris[0].removeprefix(TENANT_URI)), *dates)
        except Rejected:
            pass
    return Certificate(serial, "unclear", None, *dates)


def _solo_uris(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return [uri for uri in uris if uri.lower().startswith(URI_SCHEME)]


def _us(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
