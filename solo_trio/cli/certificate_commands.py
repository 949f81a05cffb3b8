"""Commands about certificates: `solo certs`. Owns: what is asked, what is shown. Never: the files, or X.509."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from solo_trio.cli.options import DATA, FILE, HOST, TENANT
from solo_trio.cli.showing import note, show_json, show_line, show_table
from solo_trio.errors import Rejected

if TYPE_CHECKING:
    from solo_trio.vault.certificate_files import CertificateFiles, Issued

LEAF_DAYS: Final = 90
"""As `vault.certificates` has it, which is not imported for its help."""
DAYS_MAX: Final = 3_650
_DATA = click.option("--data", type=DATA, help="The data directory.  [env: SOLO_DATA; default: ./data]")
_JSON = click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for programs.")
_DAYS = click.option(
    "--days",
    type=click.IntRange(1, DAYS_MAX),
    default=LEAF_DAYS,
    show_default=True,
    help="How long what is made is good for.",
)
_HOSTS = click.option(
    "--host",
    "hosts",
    type=HOST,
    multiple=True,
    help="A further name or address that the server is reached by; any number of times.",
)


@click.group()
def certs() -> None:
    """Make certificates: for the server (solo serve --tls), and for clients instead of tokens.

    They are files in DATA/certs; a server that runs notices what changes there by itself.
    """


@certs.command("init")
@_HOSTS
@click.option("--ca-cert", type=FILE, help="Instead of a new authority: the certificate of one that there is (PEM).")
@click.option("--ca-key", type=FILE, help="Its key (PEM, without a passphrase); a copy goes into DATA/certs.")
@_DAYS
@_DATA
@_JSON
def init(
    hosts: tuple[str, ...], ca_cert: Path | None, ca_key: Path | None, days: int, data: Path | None, as_json: bool
) -> None:
    """Make an authority, a certificate for the server, and one for commands on this machine.

    The server's is for localhost, 127.0.0.1, ::1 and each --host. Keys are readable by their user alone.
    """
    if (ca_cert is None) != (ca_key is None):
        raise click.UsageError("give both --ca-cert and --ca-key, or none of them")
    files = _files(data)
    try:
        made = files.init(hosts, days, None if ca_cert is None or ca_key is None else (ca_cert, ca_key))
    except FileNotFoundError as error:
        raise Rejected("certificate_unusable", f"there is no file {error.filename}: name another") from None
    _show(files, made, as_json)
    if not as_json:
        show_line(f"{files.path('ca', 'crt')}: what clients trust (--ca-cert, SOLO_CA_CERT); next: solo serve --tls")


@certs.command("issue")
@click.option("--tenant", type=TENANT, help="Whose credential it is: this tenant's.")
@click.option("--system", is_flag=True, help="Whose credential it is: the system's, which may everything.")
@click.option("--name", help="What it is called in the list and its files.  [default: the tenant, or system]")
@_DAYS
@click.option("--out", type=DATA, help="Where its files go.  [default: DATA/certs/clients]")
@click.option("--replace", is_flag=True, help="If there is one of that name: revoke that, and make this one.")
@_DATA
@_JSON
def issue(
    tenant: str | None,
    system: bool,
    name: str | None,
    days: int,
    out: Path | None,
    replace: bool,
    data: Path | None,
    as_json: bool,
) -> None:
    """Make a client certificate with its key: NAME.crt and NAME.key.

    Whoever has the key acts as that tenant, until the certificate expires or is revoked. The tenant may be created later.
    """
    if (tenant is None) != system:
        raise click.UsageError("say whose it is: either --tenant ID or --system")
    files = _files(data)
    _show(files, [files.issue(name or tenant or "system", tenant, days, out, replace=replace)], as_json)


@certs.command("list")
@_DATA
@_JSON
def list_(data: Path | None, as_json: bool) -> None:
    """List what was made: whose it is, until when it is good, which are revoked."""
    files = _files(data)
    _show(files, files.issued(), as_json)


@certs.command("renew")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@_HOSTS
@_DAYS
@_DATA
@_JSON
def renew(names: tuple[str, ...], hosts: tuple[str, ...], days: int, data: Path | None, as_json: bool) -> None:
    """Make later certificates, with new keys, in the place of NAME's; without a NAME the server's, and that of commands here.

    Those from before stay good until they expire, so that nobody is cut off.
    """
    from solo_trio.vault.certificate_files import ADMIN, SERVER

    files = _files(data)
    wanted = names or (SERVER, ADMIN)
    made = [files.renew(name, days, hosts if name == SERVER or names else ()) for name in wanted]
    _show(files, made, as_json)


@certs.command("revoke")
@click.argument("which", metavar="NAME|SERIAL")
@_DATA
@_JSON
def revoke(which: str, data: Path | None, as_json: bool) -> None:
    """Refuse what has that NAME or SERIAL from now on; a server that runs notices within seconds, and cuts its connections."""
    files = _files(data)
    gone = files.revoke(which)
    if as_json:
        _show(files, gone, as_json)
    elif gone:
        for each in gone:
            show_line(f"{each.name} ({each.serial}) revoked")
    else:
        show_line(f"{which} revoked; it is not in the list of certificates made here, or was revoked before")


def _files(data: Path | None) -> CertificateFiles:
    from solo_trio.cli.session import Place
    from solo_trio.vault.certificate_files import CertificateFiles

    return CertificateFiles(Place(data, None, json=False).directory())


def _show(files: CertificateFiles, issued: list[Issued], as_json: bool) -> None:
    from solo_trio.vault.certificate_files import document

    if as_json:
        show_json({"certificates": [document(each, files.now) for each in issued]})
        return
    rows = [
        (
            each.name,
            each.tenant_id or each.kind,
            each.status(files.now),
            each.not_after[:16],
            each.serial,
            each.certificate,
        )
        for each in issued
    ]
    show_table(("NAME", "FOR", "STATUS", "GOOD UNTIL (UTC)", "SERIAL", "FILE"), rows)
    if not issued:
        note("nothing was made here yet; begin with: solo certs init")


COMMANDS: Final = (certs,)
