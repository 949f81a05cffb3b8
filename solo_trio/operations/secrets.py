"""Operations on secrets. Owns: what may be set and revealed, by which key. Never: says which part of a key was wrong.

A value is wrapped in a `Secret` as soon as it is here, and comes out of it only into the answer of `reveal_secret`. That this
happens is durable before.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final, NoReturn

from attrs import frozen

from solo_trio.errors import Rejected
from solo_trio.kernel.staging import Repeated
from solo_trio.model.codec import rfc3339
from solo_trio.model.ids import check_secret_name
from solo_trio.model.secret import SecretState, SecretStored
from solo_trio.model.secret_requests import RecordAccess, RevokeSecret, Stored, StoreSecret, secret_of, version_of
from solo_trio.model.tenant import TenantState
from solo_trio.operations.caller import Caller
from solo_trio.operations.outcomes import event_of
from solo_trio.operations.paging import PAGE_DEFAULT, check_page
from solo_trio.operations.table import Answer, body, operation, path, query
from solo_trio.vault.sealing import AGENT_KEY_CHARACTERS_MAX, VALUE_BYTES_MAX, Value, WrongKey
from solo_trio.vault.secret import Secret

BASE64: Final = "base64"
EMBEDDING: Final = "embedding"


@frozen
class SetSecretInput:
    name: str = path()
    value: Any = body(secret=True)
    key: str | None = body(None, secret=True)


@operation(
    "PUT", "/secrets/{name}", scope="tenant", input=SetSecretInput, mutates=True, right=("secret:{name}", "write")
)
async def set_secret(caller: Caller, given: SetSecretInput) -> Answer:
    """Set a secret, or a new version of one; with `key` it is sealed under that, and only who has it can reveal it."""
    return await store(caller, given.name, value_of(given.value), agent_key(given.key))


async def store(caller: Caller, name: str, value: Value, key: Secret | None) -> Answer:
    tenant = caller.tenant()
    secrets = caller.core.secrets
    sealed, data_key = await secrets.seal(tenant, check_secret_name(name), value, key)
    command = StoreSecret(
        tenant.tenant_id,
        sealed,
        "tenant" if key is None else "agent",
        data_key,
        caller.revision,
        caller.system.settings.max_secrets_per_tenant,
    )
    reply = await caller.submit(command)
    version = reply.version if isinstance(reply, Stored) else await _version_stored(caller, reply)
    if isinstance(reply, Stored):
        secrets.kept(tenant)
    return Answer({"name": name, "version": version}, 201 if version == 1 else 200, reply.event_id)


async def _version_stored(caller: Caller, reply: Repeated) -> int:
    event = await event_of(caller, reply.event_id)
    assert isinstance(event, SecretStored)
    return event.version


@frozen
class ListSecretsInput:
    limit: int = query(PAGE_DEFAULT)
    cursor: str | None = query(None)


@operation("GET", "/secrets", scope="tenant", input=ListSecretsInput, right=("secret", "read"))
async def list_secrets(caller: Caller, given: ListSecretsInput) -> Answer:
    """List the tenant's secrets by name, never a value."""
    limit = check_page(given.limit)
    if given.cursor is not None:
        check_secret_name(given.cursor)
    secrets = caller.tenant().secrets
    names = [
        each
        for each in sorted(secrets)
        if (given.cursor is None or each > given.cursor) and caller.may(f"secret:{each}", "read")
    ]
    page = [_listed(secrets[each]) for each in names[:limit]]
    return Answer({"secrets": page, "next": names[limit - 1] if len(names) > limit else None})


@frozen
class SecretInput:
    name: str = path()


@operation("GET", "/secrets/{name}", scope="tenant", input=SecretInput, right=("secret:{name}", "read"))
async def show_secret(caller: Caller, given: SecretInput) -> Answer:
    """Show which versions of a secret are kept, never a value."""
    secret = secret_of(caller.tenant(), given.name)
    versions = [
        {"version": each.version, "at": rfc3339(each.at_us), "sealed_by": each.sealed_by} for each in secret.versions
    ]
    return Answer(_listed(secret) | {"versions": versions}, revision=secret.revision)


def _listed(secret: SecretState) -> dict[str, Any]:
    newest = secret.newest
    return {
        "name": secret.name,
        "version": newest.version,
        "at": rfc3339(newest.at_us),
        "sealed_by": newest.sealed_by,
        "revision": secret.revision,
    }


@frozen
class RevealSecretInput:
    name: str = path()
    key: str | None = body(None, secret=True)
    version: int | None = body(None)


@operation("POST", "/secrets/{name}/reveal", scope="tenant", input=RevealSecretInput, right=("secret:{name}", "read"))
async def reveal_secret(caller: Caller, given: RevealSecretInput) -> Answer:
    """Reveal the value of a secret, or of one version; that is recorded first."""
    value = await reveal(caller, given.name, agent_key(given.key), given.version)
    if not value.binary:
        return Answer({"value": value.data.reveal_text()})
    return Answer({"value": {BASE64: base64.b64encode(value.data.reveal()).decode()}})


async def reveal(caller: Caller, name: str, key: Secret | None, number: int | None) -> Value:
    tenant = caller.tenant()
    version = version_of(tenant, name, number)
    by = EMBEDDING if caller.authority.capability_id is None else f"capability:{caller.authority.capability_id}"
    try:
        value = await caller.core.secrets.open(tenant, name, version, key)
    except WrongKey:
        _refuse(caller, tenant, name, by)
    await caller.submit(
        RecordAccess(tenant.tenant_id, tenant.incarnation, name, version.version, version.version_id, by)
    )
    return value


def _refuse(caller: Caller, tenant: TenantState, name: str, by: str) -> NoReturn:
    caller.core.secrets.refused(tenant, name, by)
    raise Rejected(
        "secret_access_denied", "send the key that the secret was set with, or none if it was set without"
    ) from None


@operation(
    "DELETE", "/secrets/{name}", scope="tenant", input=SecretInput, mutates=True, right=("secret:{name}", "write")
)
async def delete_secret(caller: Caller, given: SecretInput) -> Answer:
    """Shred all versions of a secret; services that had it get it no more."""
    tenant = caller.tenant()
    await caller.submit(RevokeSecret(tenant.tenant_id, check_secret_name(given.name), caller.revision))
    return Answer({"name": given.name, "status": "revoked"})


def value_of(given: Any) -> Value:
    """A text, or `{"base64": ...}`. Raises `Rejected`: invalid_field, too_large; never with a part of it."""
    if isinstance(given, str):
        value = Value(Secret(given))
    elif isinstance(given, dict) and list(given) == [BASE64] and isinstance(given[BASE64], str):
        try:
            value = Value(Secret(base64.b64decode(given[BASE64], validate=True)), binary=True)
        except (binascii.Error, ValueError):
            raise Rejected("invalid_field", 'value must be a text, or {"base64": ...} with valid base64') from None
    else:
        raise Rejected("invalid_field", 'value must be a text, or {"base64": ...} for bytes')
    return checked_value(value)


def checked_value(value: Value) -> Value:
    size = len(value.data.reveal())
    if not size:
        raise Rejected("invalid_field", "value must not be empty; delete the secret if it is not wanted any more")
    if size > VALUE_BYTES_MAX:
        raise Rejected("too_large", f"a secret may have {VALUE_BYTES_MAX} bytes")
    return value


def agent_key(given: str | None) -> Secret | None:
    if given is None:
        return None
    if not 1 <= len(given) <= AGENT_KEY_CHARACTERS_MAX:
        raise Rejected("invalid_field", f"key must have 1 to {AGENT_KEY_CHARACTERS_MAX} characters")
    return Secret(given)
