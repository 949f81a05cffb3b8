"""A tenant's or the system's own token. Owns: replacing one that was lost or leaked. Never: what was granted."""

from __future__ import annotations

from attrs import frozen

from solo_trio.errors import Rejected, SoloError
from solo_trio.kernel.staging import Repeated
from solo_trio.model.capability import has_all
from solo_trio.model.capability_requests import RotateToken
from solo_trio.operations.caller import SYSTEM_SCOPE, Caller
from solo_trio.operations.table import Answer, body, operation


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
    try:
        reply = await caller.submit(command)
    except SoloError:
        keyring.forget(key.key_id)
        raise
    if isinstance(reply, Repeated):
        keyring.forget(key.key_id)
    state = caller.core.loop.state
    current = state.system.capability_id if caller.tenant_id is None else caller.tenant().capability_id
    capability = state.capabilities[current or ""]
    token = keyring.mint(capability.key_id, capability.capability_id)
    if caller.tenant_id is None:
        await caller.system.keep_admin_token(token)
    return Answer({"tenant_id": caller.tenant_id, "id": capability.capability_id, "token": token.reveal_text()})
