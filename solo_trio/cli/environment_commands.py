"""Commands about environments: `solo env`. Owns: what is asked, what is shown. Never: the work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from solo_trio.cli.options import DATA, FILE
from solo_trio.cli.showing import note, show_json, show_line, show_table
from solo_trio.errors import Faulted, Rejected

if TYPE_CHECKING:
    from solo_trio.bootstrap import Environments

PAGE: Final = 1_000
USERS_SHOWN: Final = 5
_DATA = click.option("--data", type=DATA, help="The data directory.  [env: SOLO_DATA; default: ./data]")
_JSON = click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for programs.")


@click.group()
def env() -> None:
    """Prepare packages for services: environments that they are deployed on by name.

    They are files on the server's machine; a server that runs notices what is added or removed by itself.
    """


@env.command("add")
@click.argument("name")
@click.argument("requirements", type=FILE, required=False)
@click.argument("pip_args", metavar="[-- PIP_ARG...]", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--path", type=DATA, help="Instead of making one: a virtual environment that there is, and that stays there."
)
@_DATA
@_JSON
def add(
    name: str,
    requirements: Path | None,
    pip_args: tuple[str, ...],
    path: Path | None,
    data: Path | None,
    as_json: bool,
) -> None:
    """Make the environment NAME with the packages of a file of REQUIREMENTS, as pip knows it.

    All or nothing: an interrupted or failed one leaves nothing. What follows -- is for `pip install`, like
    `-- --no-index --find-links wheels`; pip's own variables (PIP_INDEX_URL ...) count too.
    """
    from solo_trio.cli.environments import link, make

    if (requirements is None) == (path is None):
        raise click.UsageError("give either a file of REQUIREMENTS or --path DIR")
    if path is not None and pip_args:
        raise click.UsageError("--path installs nothing: leave out what follows --")
    environments = _environments(data)
    if path is not None:
        link(environments, name, path)
    else:
        assert requirements is not None
        make(environments, name, requirements, pip_args, quiet=as_json)
    _tell_unreachable(environments, name)
    if as_json:
        show_json(_document(environments, name))
    else:
        show_line(f"{name} ready: deploy on it with solo deploy FILE --id ID --environment {name}")


@env.command("list")
@_DATA
@_JSON
def list_(data: Path | None, as_json: bool) -> None:
    """List the environments, what is in them, and what is wrong with those that cannot be used."""
    environments = _environments(data)
    found = [_document(environments, name) for name in environments.names()]
    if as_json:
        show_json({"environments": found})
        return
    show_table(
        ("ENVIRONMENT", "PYTHON", "PACKAGES", "PATH", "PROBLEM"),
        [(each["name"], each["python"], len(each["packages"]), each["path"], each["problem"]) for each in found],
    )


@env.command("remove")
@click.argument("name")
@_DATA
@_JSON
def remove(name: str, data: Path | None, as_json: bool) -> None:
    """Remove the environment NAME; refused while services of a server that runs use it."""
    from solo_trio.cli import environments as work

    environments = _environments(data)
    if name in environments.names():
        users = sorted(_users(environments.directory.parent, name))
        if users:
            more = f" and {len(users) - USERS_SHOWN} more" if len(users) > USERS_SHOWN else ""
            raise Rejected(
                "environment_in_use",
                f"delete first the services that use '{name}': {', '.join(users[:USERS_SHOWN])}{more} (as tenant/service)",
            )
    work.remove(environments, name)
    if as_json:
        show_json({"name": name, "status": "removed"})
    else:
        show_line(f"{name} removed")


def _tell_unreachable(environments: Environments, name: str) -> None:
    """As root without namespaces, services have a user id of their own, and read nothing below a directory that is closed."""
    import os

    from solo_trio.bootstrap import unreachable
    from solo_trio.cli.machine import sandbox

    if os.geteuid() != 0 or not unreachable([str(environments.find(name).site_packages)]):
        return
    try:
        found = sandbox()
    except OSError:  # solo doctor says so
        return
    if found["own_uid"] and not found["namespaces"]:
        note(
            f"warning: services cannot read {environments.find(name).prefix}: here they have a user id of their own. "
            f"Make a virtual environment where everybody can read it, then: solo env remove {name}; "
            f"solo env add {name} --path DIRECTORY"
        )


def _environments(data: Path | None) -> Environments:
    from solo_trio.bootstrap import environments_of
    from solo_trio.cli.session import Place

    return environments_of(Place(data, None, json=False).directory())


def _document(environments: Environments, name: str) -> dict[str, Any]:
    from importlib.metadata import distributions

    try:
        found = environments.find(name)
    except Rejected as error:
        path = str(environments.directory / name)
        return {"name": name, "python": None, "path": path, "packages": [], "problem": error.detail}
    packages = {f"{each.name}=={each.version}" for each in distributions(path=[str(found.site_packages)])}
    return {
        "name": name,
        "python": found.python,
        "path": str(found.prefix),
        "packages": sorted(packages, key=str.lower),
        "problem": None,
    }


def _users(data: Path, name: str) -> Iterator[str]:
    """`tenant/service` of each service on the environment, if a server runs on the data directory."""
    from solo_trio.client import SoloClient, find_server

    try:
        found = find_server(data)
    except Faulted as error:
        if error.code != "not_reachable":
            raise
        return
    with SoloClient(**found.options()) as system:
        for tenant in _pages(system.tenants, "tenants"):
            with SoloClient(**found.options(), tenant=tenant["tenant_id"]) as client:
                for service in _pages(client.services, "services"):
                    if service["environment"] == name:
                        yield f"{service['tenant_id']}/{service['service_id']}"


def _pages(ask: Callable[..., dict[str, Any]], what: str) -> Iterator[dict[str, Any]]:
    cursor = None
    while True:
        page = ask(limit=PAGE, cursor=cursor)
        yield from page[what]
        cursor = page["next"]
        if cursor is None:
            return


COMMANDS: Final = (env,)
