"""A tenant's or the system's own token. Owns: replacing one that was lost or leaked. Never: what was granted."""

from __future__ import annotations

import trio
from attrs import frozen

from solo_trio.errors import Rejected, SoloError
from solo_trio.kernel.staging import Repeated
from solo_trio.model.capability import has_all
from solo_trio.model.capability_requests import RotateToken
from solo_trio.operations.caller import SYSTEM_SCOPE, Caller
from solo_trio.operations.table import Answer, body, operation
from solo_trio.vault.secret import Secret


@frozen
class RotateTokenInput:
    keep_granted: bool = body(False)


@operation("POST", "/tokens/rotate", scope="either", input=RotateTokenInput, mutates=True, right="holder")
async def rotate_token(caller: Caller, given: RotateTokenInput) -> Answer:
    """Replace the token of the tenant (or, where none is named, the system's) and the key it is made with.

    The old token is good for nothing once this is answered, nor is what was granted with it, unless `keep_granted`.
    """
    caller.demand("system" if caller.tenant_id is None else "tenant", "*")
    if not has_all(caller.core.loop.state, caller.authority):  # or what was lent would outlive its end
        raise Rejected(
            "permission_denied", "use the token of the tenant itself, or the system's; this one was granted or narrowed"
        )
    keyring = caller.system.keyring
    key = keyring.new_key(caller.incarnation or SYSTEM_SCOPE)
    command = RotateToken(caller.tenant_id, caller.incarnation, keyring.new_id(), key, given.keep_granted)
    with trio.CancelScope(shield=True):  # bounded by the disk; who asked may be gone, the new token must not be
        capability_id, token = await _rotated(caller, command)
    return Answer({"tenant_id": caller.tenant_id, "id": capability_id, "token": token.reveal_text()})


async def _rotated(caller: Caller, command: RotateToken) -> tuple[str, Secret]:
    """The new capability and its token. The system's is beside its place on the disk before the old one is worth nothing."""
    keyring, file = caller.system.keyring, caller.system.token_file
    of_system = caller.tenant_id is None
    if of_system:
        await file.prepare(keyring.mint(command.key.key_id, command.capability_id))
    try:
        reply = await caller.submit(command)
    except SoloError:
        keyring.forget(command.key.key_id)
        if of_system:
            await file.drop()
        raise
    if isinstance(reply, Repeated):
        keyring.forget(command.key.key_id)
    state = caller.core.loop.state
    current = state.system.capability_id if of_system else caller.tenant().capability_id
    capability = state.capabilities[current or ""]
    token = keyring.mint(capability.key_id, capability.capability_id)
    if of_system:
        await file.put(token)
    return capability.capability_id, token
