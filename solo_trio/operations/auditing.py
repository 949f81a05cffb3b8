"""What is recorded of each call. Owns: following one from its credential to its outcome, the entry, counting refusals.
Never: looks into arguments, bodies or answers, makes anybody wait.

`perform` follows every call. A gateway that does more of it than `perform` (reading the body, opening a stream) brings an
`Attempt` of its own, so that what is refused there is recorded too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

import trio
from attrs import define, field

from solo_trio.errors import CODES, SoloError
from solo_trio.kernel.core import Core
from solo_trio.kernel.denials import STATUSES, Denied
from solo_trio.model.audit import SYSTEM_CREDENTIAL, AuditEntry, AuditFinding, AuditPage, AuditQuery, AuditState
from solo_trio.model.capability import Authority
from solo_trio.operations.table import OPERATIONS, Operation
from solo_trio.policy.bucket import Bucket
from solo_trio.ports import Audit

CANCELLED: Final = "cancelled"
FLOOD_ENTRIES_PER_S: Final = 20
"""Of refusals that cost their sender nothing (nobody's, or too many of somebody's). Those above are counted only: otherwise who
has no rights could push everything else out of the audit."""
FLOOD_ENTRIES_BURST: Final = 1_000
_SUBJECTS: Final = ("service_id", "name", "capability_id", "handle", "resource", "tenant_id")
"""Inputs that say on what an operation is. No value, no argument."""
DENIALS: Final = frozenset(code for code, row in CODES.items() if row.status in (401, 403))
"""Never detail, whatever was asked for."""
_ASKED: Final = frozenset({"call", "verify_capability", "attenuate_capability"})
"""Change nothing of the kernel's, although they are no GET."""
_SUBJECT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:*-]{0,127}", re.ASCII)
"""Any id; a token is longer."""


def detail_operations() -> frozenset[str]:
    """What is least missed in the audit: looking, and calling."""
    return frozenset(name for name, each in OPERATIONS.items() if each.method == "GET") | _ASKED


class NoAudit:
    """Implements `ports.Audit` where nothing is kept, as in memory."""

    state = AuditState()

    def record(self, entry: AuditEntry) -> None:
        """Nothing."""

    def skip(self) -> None:
        """Nothing."""

    async def page(self, query: AuditQuery) -> AuditPage:
        await trio.lowlevel.checkpoint()
        return AuditPage()

    async def check(self, newest: int | None = None) -> AuditFinding:
        await trio.lowlevel.checkpoint()
        return AuditFinding(0, 0)


@define
class Auditing:
    """Where entries go, and how many refusals of a flood may."""

    log: Audit = field(factory=NoAudit)
    _flood: Bucket = Bucket(FLOOD_ENTRIES_PER_S, FLOOD_ENTRIES_BURST, FLOOD_ENTRIES_BURST, float("-inf"))

    def record(self, entry: AuditEntry, *, costless: bool) -> None:
        if costless:
            self._flood, allowed = self._flood.take(1.0, trio.current_time())
            if not allowed:
                self.log.skip()
                return
        self.log.record(entry)


@define
class Attempt:
    """One call, from when it arrives until it is answered, or its stream is open: `with Attempt(...) as attempt:`."""

    core: Core
    auditing: Auditing
    operation: Operation
    request_id: str | None = None
    peer: str | None = None
    subject: str | None = None
    status: int = 200
    _authority: Authority | None = None
    _tenant_id: str | None = None
    _incarnation: str | None = None
    _began: float = 0.0

    def who(self, authority: Authority) -> None:
        """Its credential is good."""
        self._authority = authority
        self._tenant_id, self._incarnation = authority.tenant_id, authority.incarnation

    def within(self, tenant_id: str | None, incarnation: str | None) -> None:
        """It acts on that tenant."""
        self._tenant_id, self._incarnation = tenant_id, incarnation

    def about(self, input_of: Callable[[str], Any]) -> None:
        """What it is on, if any of its inputs says so."""
        for name in _SUBJECTS:
            value = input_of(name)
            if isinstance(value, str) and _SUBJECT.fullmatch(value) is not None:
                self.subject = value
                return

    def __enter__(self) -> Attempt:
        self._began = trio.current_time()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        code = None if error is None else _code(error)
        if self.operation.scope == "open" and code is None:
            return  # of what is open to anybody there is nobody to name, and monitors ask every second
        credential = self._credential()
        status = error.status if isinstance(error, SoloError) else self.status
        entry = AuditEntry(
            at_us=self.core.loop.now().at_us,
            operation=self.operation.name,
            outcome=str(status) if code is None else code,
            duration_us=int((trio.current_time() - self._began) * 1_000_000),
            tenant_id=self._tenant_id,
            incarnation=self._incarnation,
            credential=credential,
            subject=self.subject,
            request_id=self.request_id,
            peer=self.peer,
        )
        refused = code is not None and status in STATUSES
        self.auditing.record(entry, costless=code is not None and (credential is None or status == 429))
        if refused and code is not None:
            self.core.denials.note(Denied(code, self.operation.name, self._tenant_id, self._incarnation, credential))

    def _credential(self) -> str | None:
        if self._authority is None:
            return None
        named = self._authority.capability_id
        return SYSTEM_CREDENTIAL if named == self.core.loop.state.system.capability_id else named


def _code(error: BaseException) -> str:
    if isinstance(error, SoloError):
        return error.code
    return CANCELLED if isinstance(error, trio.Cancelled) else "kernel_bug"
