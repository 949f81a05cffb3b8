"""The directory of certificates. Owns: its files, what was issued, what was revoked. Never: X.509 itself.

DATA/certs holds the authority (`ca.crt`, `ca.key`), the server's own pair (`server.*`), a system credential for commands on
this machine (`admin.*`), clients' pairs (`clients/`), `issued.json` and `revoked`. A server that runs reads some of these files
again when they change, and writes none: each is replaced whole, so it never sees half of one.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from attrs import asdict, evolve, frozen

from solo_trio.errors import Faulted, Rejected
from solo_trio.vault import certificates
from solo_trio.vault.certificates import Pair

DIRECTORY: Final = "certs"
CLIENTS: Final = "clients"
AUTHORITY: Final = "ca"
SERVER: Final = "server"
ADMIN: Final = "admin"
OWN_NAMES: Final = (AUTHORITY, SERVER, ADMIN)
LIST_FILE: Final = "issued.json"
REVOKED_FILE: Final = "revoked"
LOCK_FILE: Final = ".lock"
HOSTS: Final = ("localhost", "127.0.0.1", "::1")
ISSUED_MAX: Final = 100_000
FILE_BYTES_MAX: Final = 64 * 1024 * 1024
PEM_BYTES_MAX: Final = 1024 * 1024
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
_SERIAL: Final = re.compile(r"[0-9a-f]{1,40}", re.ASCII)
_REVOKED_SAYS: Final = (
    b"# Serial numbers (hexadecimal) of certificates that are refused, one a line; a server notices.\n"
)


@frozen
class Issued:
    """One certificate that was made here. `tenant_id` None: the server's, or the system's."""

    name: str
    kind: str
    """server, tenant or system."""
    serial: str
    not_before: str
    not_after: str
    certificate: str
    key: str
    tenant_id: str | None = None
    revoked_at: str | None = None
    replaced: bool = False
    """Another one has its name now; this one is good until it expires or is revoked."""

    def status(self, now: datetime) -> str:
        if self.revoked_at is not None:
            return "revoked"
        if datetime.fromisoformat(self.not_after) <= now:
            return "expired"
        return "replaced" if self.replaced else "valid"


class CertificateFiles:
    """DATA/certs. Methods that write hold its lock, so that commands at the same time follow each other."""

    def __init__(self, data: Path, now: datetime | None = None) -> None:
        self.directory = data / DIRECTORY
        self._now = now

    @property
    def now(self) -> datetime:
        return self._now or datetime.now(UTC)

    def _next_second(self) -> datetime:
        """Waits for it. X.509 has whole seconds: a certificate that begins within one could be from before what came before it,
        such as the removal of an earlier tenant of that id, or from after a removal that is yet to come.
        """
        if self._now is not None:
            return self._now
        began = self.now.replace(microsecond=0) + timedelta(seconds=1)
        while (left_s := (began - self.now).total_seconds()) > 0:
            time.sleep(left_s)
        return began

    def path(self, name: str, suffix: str) -> Path:
        return self.directory / f"{name}.{suffix}"

    def authority(self) -> Pair:
        """Raises `Rejected("certificate_unusable")`: there is none, or it is not to be used."""
        certificate, key = self.path(AUTHORITY, "crt"), self.path(AUTHORITY, "key")
        if not certificate.exists() or not key.exists():
            missing = key if certificate.exists() else certificate
            raise Rejected("certificate_unusable", f"there is no {missing}: make an authority with: solo certs init")
        return certificates.read_authority(_read(certificate), _read(key), self.now)

    def init(self, hosts: Sequence[str], days: int, given: tuple[Path, Path] | None) -> list[Issued]:
        """An authority (made, or `given` as certificate and key), the server's pair, and a system credential.

        Raises `Rejected`: file_exists, certificate_unusable, invalid_field; then nothing was written.
        """
        with self._locked():
            if self.path(AUTHORITY, "crt").exists():
                raise Rejected(
                    "file_exists",
                    f"there is an authority in {self.directory}: renew what it signed with solo certs renew, or remove that"
                    " directory to begin anew",
                )
            now = self.now
            if given is None:
                authority = certificates.make_authority(now)
            else:
                authority = certificates.read_authority(_read(given[0]), _read(given[1]), now)
            server = certificates.make_server(authority, _distinct([*HOSTS, *hosts]), days, now)
            admin = certificates.make_client(authority, ADMIN, None, days, now)
            made = [
                self._write_pair(self.directory, SERVER, "server", None, server),
                self._write_pair(self.directory, ADMIN, "system", None, admin),
            ]
            self._save([*self.issued(), *made])
            if not (self.directory / REVOKED_FILE).exists():
                _write(self.directory / REVOKED_FILE, _REVOKED_SAYS, 0o600)
            _write(self.path(AUTHORITY, "key"), authority.key_pem(), 0o600)
            _write(self.path(AUTHORITY, "crt"), authority.certificate_pem(), 0o644)  # last: with it, all is there
            return made

    def issue(self, name: str, tenant_id: str | None, days: int, out: Path | None, *, replace: bool) -> Issued:
        """A client's pair; with `replace` the one of that name is revoked. Raises `Rejected` and `Faulted`."""
        if _NAME.fullmatch(name) is None or name in OWN_NAMES:
            raise Rejected(
                "invalid_field",
                "a certificate's name is 1 to 64 characters of A-Z, a-z, 0-9, '_', '.' and '-', and none of "
                + ", ".join(OWN_NAMES),
            )
        began = self.now if tenant_id is None else self._next_second()
        with self._locked():
            authority = self.authority()
            known = self.issued()
            taken = [each for each in known if each.name == name and each.status(self.now) == "valid"]
            if taken and not replace:
                raise Rejected(
                    "file_exists",
                    f"there is a certificate '{name}', good until {taken[0].not_after}: take another with --name, make a later"
                    f" one with solo certs renew {name}, or revoke it and make this one with --replace",
                )
            directory = out or self.directory / CLIENTS
            mine = {path for each in known if each.name == name for path in (each.certificate, each.key)}
            for path in (directory / f"{name}.crt", directory / f"{name}.key"):
                if path.exists() and str(path.absolute()) not in mine and not replace:
                    raise Rejected(
                        "file_exists", f"{path} is there: name another directory with --out, or add --replace"
                    )
            pair = certificates.make_client(authority, name, tenant_id, days, began)
            if taken:
                known = self._revoke(known, {each.serial for each in taken})
            kind = "system" if tenant_id is None else "tenant"
            made = self._write_pair(directory, name, kind, tenant_id, pair)
            if out is not None:
                _write(out / f"{AUTHORITY}.crt", _read(self.path(AUTHORITY, "crt")), 0o644)
            self._save([*known, made])
            return made

    def renew(self, name: str, days: int, hosts: Sequence[str]) -> Issued:
        """A later certificate and a new key in the place of `name`'s; the earlier one stays good until it expires."""
        began = self.now if name in OWN_NAMES else self._next_second()
        with self._locked():
            authority = self.authority()
            known = self.issued()
            old = next((each for each in reversed(known) if each.name == name), None)
            if old is None:
                raise _not_found(name)
            if old.revoked_at is not None:
                raise Rejected("certificate_unusable", f"'{name}' is revoked: make another with solo certs issue")
            path = Path(old.certificate)
            if old.kind == "server":
                before = certificates.hosts_of(certificates.read_certificate(_read(path))) if path.exists() else HOSTS
                pair = certificates.make_server(authority, _distinct([*before, *hosts]), days, self.now)
            else:
                if hosts:
                    raise Rejected("invalid_field", "--host is for the server's certificate: leave it out")
                pair = certificates.make_client(authority, name, old.tenant_id, days, began)
            made = self._write_pair(path.parent, path.stem, old.kind, old.tenant_id, pair)
            self._save(
                [
                    *(evolve(each, replaced=each.replaced or each.name == name) for each in known),
                    evolve(made, name=name),
                ]
            )
            return evolve(made, name=name)

    def revoke(self, which: str) -> list[Issued]:
        """What has that name or serial number; one of a foreign authority's is only noted. Returns what was revoked."""
        with self._locked():
            known = self.issued()
            serial = which.lower().replace(":", "").lstrip("0")
            found = [
                each for each in known if (each.name == which or each.serial == serial) and each.revoked_at is None
            ]
            gone = [each for each in known if each.name == which or each.serial == serial]
            if gone and not found:
                return []
            if not found and _SERIAL.fullmatch(serial) is None:
                raise _not_found(which)
            if any(each.kind == "server" for each in found):
                raise Rejected(
                    "invalid_field", "revoking is for client certificates; a server's key that leaked: solo certs renew"
                )
            serials = {each.serial for each in found} or {serial}
            known = self._revoke(known, serials)
            self._save(known)
            return [each for each in known if each.serial in serials]

    def issued(self) -> list[Issued]:
        """Raises `Faulted("data_damaged")`."""
        path = self.directory / LIST_FILE
        try:
            listed = json.loads(_read(path, FILE_BYTES_MAX))
            return [Issued(**each) for each in listed["certificates"]]
        except FileNotFoundError:
            return []
        except (ValueError, TypeError, KeyError):
            raise Faulted("data_damaged", f"{path} is not what was written there: restore it, or remove it") from None

    def _revoke(self, known: Sequence[Issued], serials: set[str]) -> list[Issued]:
        """On disk before anything else is: it must hold even if the rest fails."""
        path = self.directory / REVOKED_FILE
        text = _read(path, FILE_BYTES_MAX) if path.exists() else _REVOKED_SAYS
        at = self.now.isoformat(timespec="seconds")
        text = text.rstrip(b"\n") + b"\n" + "".join(f"{each}  # {at}\n" for each in sorted(serials)).encode()
        _write(path, text, 0o600)
        return [evolve(each, revoked_at=at) if each.serial in serials else each for each in known]

    def _write_pair(self, directory: Path, name: str, kind: str, tenant_id: str | None, pair: Pair) -> Issued:
        certificate, key = directory / f"{name}.crt", directory / f"{name}.key"
        _make(directory)
        _write(key, pair.key_pem(), 0o600)
        _write(certificate, pair.certificate_pem(), 0o644)
        dates = pair.certificate.not_valid_before_utc.isoformat(), pair.certificate.not_valid_after_utc.isoformat()
        return Issued(name, kind, pair.serial, *dates, str(certificate.absolute()), str(key.absolute()), tenant_id)

    def _save(self, issued: Sequence[Issued]) -> None:
        if len(issued) > ISSUED_MAX:
            issued = [each for each in issued if each.status(self.now) != "expired"]
        text = json.dumps({"certificates": [asdict(each) for each in issued]}, indent=1)
        _write(self.directory / LIST_FILE, text.encode(), 0o600)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        _make(self.directory)
        path = self.directory / LOCK_FILE
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unwritable(path, error) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def read_revoked(path: Path) -> frozenset[str] | None:
    """The serials in a file of revoked ones; None: there is no such file. Raises `Rejected("certificate_unusable")`."""
    try:
        text = _read(path, FILE_BYTES_MAX).decode("ascii")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise Rejected("certificate_unusable", f"{path} is no list of serial numbers: correct it") from None
    found = set()
    for number, line in enumerate(text.splitlines(), 1):
        serial = line.partition("#")[0].strip().lower().replace(":", "").lstrip("0")
        if serial:
            if _SERIAL.fullmatch(serial) is None:
                raise Rejected(
                    "certificate_unusable", f"{path}:{number}: {line[:50]!a} is no serial number: correct it"
                )
            found.add(serial)
    return frozenset(found)


def _distinct(hosts: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(host.lower() for host in hosts))


def _not_found(which: str) -> Rejected:
    return Rejected("certificate_not_found", f"there is no certificate {which[:64]!a}: see which with solo certs list")


def _unwritable(path: Path, error: OSError) -> Faulted:
    return Faulted("data_unwritable", f"{path} cannot be written ({error.strerror}): correct that")


def _make(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(directory, error) from None


def _read(path: Path, bytes_max: int = PEM_BYTES_MAX) -> bytes:
    """Raises FileNotFoundError, `Rejected("certificate_unusable")`."""
    try:
        with path.open("rb") as file:
            content = file.read(bytes_max + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Rejected("certificate_unusable", f"{path} cannot be read ({error.strerror}): correct that") from None
    if len(content) > bytes_max:
        raise Rejected("certificate_unusable", f"{path} is longer than {bytes_max} bytes: correct that")
    return content


def _write(path: Path, content: bytes, mode: int) -> None:
    """Whole and durable, or not at all."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        try:
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
                os.fchmod(file.fileno(), mode)  # whatever the umask
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise _unwritable(path, error) from None


def document(issued: Issued, now: datetime) -> Mapping[str, Any]:
    """As JSON, for programs."""
    return asdict(issued) | {"status": issued.status(now)}
