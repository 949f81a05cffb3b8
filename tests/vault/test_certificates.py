"""DATA/certs: what is made, that every file fits together, what is refused and leaves nothing behind."""

from __future__ import annotations

import ssl
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from solo_trio.errors import Faulted, Rejected, SoloError
from solo_trio.vault.certificate_files import CertificateFiles, read_revoked
from solo_trio.vault.certificates import (
    Key,
    Pair,
    credential_of,
    hosts_of,
    make_authority,
    make_client,
    make_server,
    read_authority,
    read_certificate,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def files(data: Path, *hosts: str) -> CertificateFiles:
    found = CertificateFiles(data)
    found.init(hosts, 90, None)
    return found


def refused(code: str, words: str = "") -> pytest.RaisesExc[SoloError]:
    return pytest.RaisesExc(SoloError, check=lambda error: error.code == code and words in error.detail)


def shake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> bytes | None:
    """A handshake in memory; the client's certificate as the server verified it."""
    a, b = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [server.wrap_bio(a, b, server_side=True), client.wrap_bio(b, a, server_hostname=name)]
    for _ in range(6):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ends[0].getpeercert(binary_form=True)


def strict(purpose: ssl.Purpose, authority: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(purpose, cafile=str(authority))
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # as Python 3.13 does by default
    context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1", "solo.example.test", "10.0.0.7"])
def test_both_ends_verify_strictly(tmp_path: Path, name: str) -> None:
    found = files(tmp_path, "solo.example.test", "10.0.0.7")
    made = found.issue("a1", "a1", 30, None, replace=False)
    server = strict(ssl.Purpose.CLIENT_AUTH, found.path("ca", "crt"))
    server.load_cert_chain(found.path("server", "crt"), found.path("server", "key"))
    client = strict(ssl.Purpose.SERVER_AUTH, found.path("ca", "crt"))
    client.load_cert_chain(made.certificate, made.key)
    der = shake(server, client, name)
    assert der is not None
    said = credential_of(der)
    assert (said.names, said.tenant_id, said.serial) == ("tenant", "a1", made.serial)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(server, client, "elsewhere.test")


def test_files_and_their_modes(tmp_path: Path) -> None:
    found = files(tmp_path)
    made = found.issue("a1", "a1", 30, tmp_path / "out", replace=False)
    for path in tmp_path.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        if path.is_dir():
            assert mode == 0o700, path
        elif path.suffix == ".crt":
            assert mode == 0o644, path
        else:
            assert mode == 0o600, path
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a1.crt", "a1.key", "ca.crt"}
    assert Path(made.certificate) == tmp_path / "out" / "a1.crt"
    for path in tmp_path.rglob("*.key"):
        assert b"ENCRYPTED" not in path.read_bytes() and b"PRIVATE KEY" in path.read_bytes()
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.suffix != ".key":
            assert b"PRIVATE" not in path.read_bytes()


def test_a_certificate_says_only_what_it_must(tmp_path: Path) -> None:
    found = files(tmp_path)
    authority = found.authority().certificate
    found.issue("a1", "a1", 30, None, replace=False)
    for name, ca in {"ca.crt": True, "server.crt": False, "admin.crt": False, "clients/a1.crt": False}.items():
        each = read_certificate((found.directory / name).read_bytes())
        extensions = each.extensions
        constraints = extensions.get_extension_for_class(x509.BasicConstraints)
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        assert (
            constraints.critical and constraints.value.ca is ca and constraints.value.path_length == (0 if ca else None)
        )
        assert (usage.key_cert_sign, usage.digital_signature, usage.key_agreement) == (ca, not ca, False)
        assert isinstance(each.public_key(), ec.EllipticCurvePublicKey)
        assert each.not_valid_after_utc - each.not_valid_before_utc <= timedelta(days=3_650 if ca else 90)
        assert each.serial_number.bit_length() > 100
        each.verify_directly_issued_by(authority)
    assert hosts_of(read_certificate(found.path("server", "crt").read_bytes())) == ["localhost", "127.0.0.1", "::1"]


def test_nothing_is_written_over(tmp_path: Path) -> None:
    found = files(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with refused("file_exists", "solo certs renew"):
        found.init([], 90, None)
    found.issue("a1", "a1", 30, None, replace=False)
    with refused("file_exists", "--replace"):
        found.issue("a1", "a1", 30, None, replace=False)
    with refused("file_exists", "--name"):
        found.issue("a1", "other", 30, tmp_path / "elsewhere", replace=False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a2.key").write_text("somebody's")
    with refused("file_exists", "a2.key"):
        found.issue("a2", "a2", 30, tmp_path / "mine", replace=False)
    assert (tmp_path / "mine" / "a2.key").read_text() == "somebody's"
    for name in ("ca", "server", "admin", "../up", ".hidden", "a/b", "a\0b", "", "x" * 65, "é"):
        with refused("invalid_field"):
            found.issue(name, "a1", 30, None, replace=True)
    for tenant_id in ("A", "", "../a", "a" * 64, "é", "a\n"):
        with refused("invalid_id"):
            found.issue("x", tenant_id, 30, None, replace=False)
    for days in (0, -1, 3_651):
        with refused("invalid_field"):
            found.issue("x", "x", days, None, replace=False)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {path: after[path] for path in before if path.name != "issued.json"} == {
        path: text for path, text in before.items() if path.name != "issued.json"
    }
    assert [each.name for each in found.issued()] == ["server", "admin", "a1"]


def test_replaced_is_revoked_renewed_is_not(tmp_path: Path) -> None:
    found = files(tmp_path)
    one = found.issue("a1", "a1", 30, None, replace=False)
    two = found.issue("a1", "a1", 30, None, replace=True)
    assert read_revoked(found.directory / "revoked") == {one.serial}
    three = found.renew("a1", 60, ())
    assert read_revoked(found.directory / "revoked") == {one.serial}
    assert len({one.serial, two.serial, three.serial}) == 3
    assert Path(three.certificate) == Path(one.certificate)
    assert [each.status(found.now) for each in found.issued() if each.name == "a1"] == ["revoked", "replaced", "valid"]
    gone = found.revoke("a1")
    assert {each.serial for each in gone} == {two.serial, three.serial}
    assert read_revoked(found.directory / "revoked") == {one.serial, two.serial, three.serial}
    assert found.revoke("a1") == []
    with refused("certificate_unusable", "revoked"):
        found.renew("a1", 30, ())
    found.issue("a1", "a1", 30, None, replace=False)


def test_revoking_by_serial_and_what_cannot_be(tmp_path: Path) -> None:
    found = files(tmp_path)
    made = found.issue("a1", "a1", 30, None, replace=False)
    assert [
        each.name for each in found.revoke(":".join(made.serial[at : at + 2] for at in range(0, 40, 2)).upper())
    ] == ["a1"]
    assert found.revoke("0AB1") == []  # of another authority
    assert read_revoked(found.directory / "revoked") == {made.serial, "ab1"}
    for which in ("nothing", "", "a1'; --", "g" * 10, "f" * 41):
        with refused("certificate_not_found"):
            found.revoke(which)
    with refused("invalid_field", "certs renew"):
        found.revoke("server")
    with refused("certificate_not_found"):
        found.renew("nothing", 30, ())
    with refused("invalid_field", "--host"):
        found.renew("admin", 30, ("x.test",))


def test_the_servers_names_are_kept_and_added_to(tmp_path: Path) -> None:
    found = files(tmp_path, "one.test")
    found.renew("server", 90, ("two.test", "ONE.test"))
    assert hosts_of(read_certificate(found.path("server", "crt").read_bytes())) == [
        *("localhost", "one.test", "two.test"),
        *("127.0.0.1", "::1"),
    ]
    for host in ("https://x", "a b", "", "x" * 300, "a..b", "é.test", "a\n"):
        with refused("invalid_field"):
            found.renew("server", 90, (host,))


GIVEN: dict[str, Key] = {
    "P-256": ec.generate_private_key(ec.SECP256R1()),
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
    "RSA": rsa.generate_private_key(65_537, 2_048),
}


def company(key: Key, *, ca: bool = True, signs: bool = True, days: int = 400, usage: bool = True) -> bytes:
    """The certificate of an authority that somebody had before."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Company")])
    began = datetime.now(UTC) - timedelta(days=200)
    public = key.public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(7)
        .not_valid_before(began)
        .not_valid_after(began + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )
    if usage:
        flags = dict.fromkeys(
            (
                "content_commitment",
                "key_encipherment",
                "data_encipherment",
                "key_agreement",
                "encipher_only",
                "decipher_only",
            ),
            False,
        )
        kinds = x509.KeyUsage(digital_signature=True, key_cert_sign=signs, crl_sign=signs, **flags)
        builder = builder.add_extension(kinds, critical=True)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.PEM)


@pytest.mark.parametrize("kind", GIVEN)
def test_a_given_authority(tmp_path: Path, kind: str) -> None:
    key = GIVEN[kind]
    (tmp_path / "c.crt").write_bytes(company(key))
    (tmp_path / "c.key").write_bytes(Pair(read_certificate(company(key)), key).key_pem())
    found = CertificateFiles(tmp_path / "data")
    found.init([], 90, (tmp_path / "c.crt", tmp_path / "c.key"))
    made = found.issue("a1", "a1", 3_650, None, replace=False)
    assert (
        datetime.fromisoformat(made.not_after) == found.authority().certificate.not_valid_after_utc
    )  # no later than it
    server = strict(ssl.Purpose.CLIENT_AUTH, found.path("ca", "crt"))
    server.load_cert_chain(found.path("server", "crt"), found.path("server", "key"))
    client = strict(ssl.Purpose.SERVER_AUTH, found.path("ca", "crt"))
    client.load_cert_chain(made.certificate, made.key)
    assert shake(server, client, "localhost") is not None
    assert (found.path("ca", "key").stat().st_mode & 0o777) == 0o600


def test_a_given_authority_that_is_none(tmp_path: Path) -> None:
    key, other = GIVEN["P-256"], GIVEN["P-384"]
    right = Pair(read_certificate(company(key)), key)
    wrong = {
        "basic constraints": (company(key, ca=False, signs=False), right.key_pem()),
        "does not allow": (company(key, signs=False), right.key_pem()),
        "no key usage": (company(key, usage=False), right.key_pem()),
        "expired": (company(key, days=100), right.key_pem()),
        "another certificate": (company(other), right.key_pem()),
        "no PEM file of a certificate": (b"rubbish", right.key_pem()),
        "no PEM file of a private key": (company(key), b"rubbish"),
    }
    for words, (certificate, secret) in wrong.items():
        (tmp_path / "c.crt").write_bytes(certificate)
        (tmp_path / "c.key").write_bytes(secret)
        found = CertificateFiles(tmp_path / "data")
        with refused("certificate_unusable", words):
            found.init([], 90, (tmp_path / "c.crt", tmp_path / "c.key"))
        assert not found.path("ca", "crt").exists() and not found.path("server", "key").exists(), words
    with refused("certificate_unusable", "RSA"):
        short = rsa.generate_private_key(65_537, 1_024)
        read_authority(company(short), Pair(right.certificate, short).key_pem(), NOW)


def test_damaged_files_are_said(tmp_path: Path) -> None:
    found = files(tmp_path)
    for text in ("", "[]", '{"certificates": [{}]}', '{"certificates": 5}', "\xff"):
        (found.directory / "issued.json").write_text(text, "latin-1")
        with pytest.raises(Faulted) as caught:
            found.issued()
        assert caught.value.code == "data_damaged"
    (found.directory / "issued.json").unlink()
    assert found.issued() == []
    found.path("ca", "key").unlink()
    with refused("certificate_unusable", "ca.key"):
        found.issue("a1", "a1", 30, None, replace=False)


def test_commands_at_the_same_time_follow_each_other(tmp_path: Path) -> None:
    found = files(tmp_path)
    names = [f"t{number}" for number in range(8)]
    made: list[str] = []
    lost: list[str] = []

    def issue(name: str) -> None:
        try:
            made.append(CertificateFiles(tmp_path).issue(name, name, 30, None, replace=False).name)
        except Rejected:
            lost.append(name)

    threads = [threading.Thread(target=issue, args=(name,)) for name in names * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == sorted(lost) == names
    assert sorted(each.name for each in found.issued()) == sorted([*names, "server", "admin"])


def test_a_certificate_begins_after_what_came_before_it_and_before_what_comes_after(tmp_path: Path) -> None:
    """Although its dates are whole seconds: a tenant's removal is told from a certificate by the microsecond."""
    found = files(tmp_path)
    began = datetime.now(UTC)
    made = found.issue("a1", "a1", 30, None, replace=False)
    between = datetime.now(UTC)
    assert began <= datetime.fromisoformat(made.not_before) <= between
    later = found.renew("a1", 30, ())
    assert between <= datetime.fromisoformat(later.not_before) <= datetime.now(UTC)


def test_revoked_files(tmp_path: Path) -> None:
    path = tmp_path / "revoked"
    assert read_revoked(path) is None
    path.write_text("# nothing\n\n  00AB:CD  # a1\nff\n")
    assert read_revoked(path) == {"abcd", "ff"}
    for text in ("zz\n", "ab cd\n", "-1\n", "f" * 41 + "\n"):
        path.write_text(text)
        with refused("certificate_unusable", f"{path}:1"):
            read_revoked(path)
    path.write_bytes(b"\xff\xfe")
    with refused("certificate_unusable"):
        read_revoked(path)


AUTHORITY = make_authority(NOW)
CLIENT = make_client(AUTHORITY, "a1", "a1", 30, NOW).certificate.public_bytes(Encoding.DER)


@given(st.data())
def test_no_bytes_are_a_traceback(data: st.DataObject) -> None:
    """What the handshake verified is read once more by another parser: it may not agree, and never raises."""
    at = data.draw(st.integers(0, len(CLIENT) - 1))
    changed = CLIENT[:at] + data.draw(st.binary(max_size=4)) + CLIENT[at + data.draw(st.integers(0, 4)) :]
    found = credential_of(changed)
    assert found.names in ("nobody", "tenant", "system", "unclear")
    assert (found.tenant_id is not None) == (found.names == "tenant")


@given(st.binary(max_size=200))
def test_rubbish_is_unclear(der: bytes) -> None:
    assert credential_of(der).names == "unclear"


def test_the_keys_do_not_print_themselves() -> None:
    pair = make_server(AUTHORITY, ["localhost"], 90, NOW)
    assert "key" not in repr(pair).replace("SubjectKey", "").lower().split("certificate=")[0]
    assert str(pair.key_pem()) not in repr(pair)
