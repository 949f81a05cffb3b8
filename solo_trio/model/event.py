"""What an event is. Owns: the base class, the stamp, the registry of kinds, decisions. Never: a concrete event."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from attrs import field, frozen

from solo_trio.model.record import Attachment, StoredEvent

if TYPE_CHECKING:
    from solo_trio.model.state import KernelState


@frozen
class Now:
    """The time of a decision: UTC microseconds (never decreasing) and seconds of kernel life (downtime counts zero)."""

    at_us: int
    kernel_time: float


class Event:
    """A past-tense fact. The class is the whole change: its fields are the payload, `apply` is what it means."""

    TYPE: ClassVar[str]
    SCHEMA: ClassVar[int]

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        """The state after this fact; raises `LookupError` if it cannot have happened in `state`."""
        raise NotImplementedError


KINDS: Final[dict[str, type[Event]]] = {}
UPCASTERS: Final[dict[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]]] = {}
"""(type, schema) -> payload of the next schema. Stored bytes are for ever: a change means a new entry here."""

E = TypeVar("E", bound=Event)


def event(type_: str, schema: int = 1) -> Callable[[type[E]], type[E]]:
    """Register a frozen attrs class as the event `type_`, at the newest schema version."""

    def register(cls: type[E]) -> type[E]:
        if type_ in KINDS:
            raise RuntimeError(f"event type {type_} is registered twice")
        cls.TYPE, cls.SCHEMA = type_, schema
        KINDS[type_] = cls
        return cls

    return register


@frozen
class Proposed:
    """An event that a decision wants recorded, and about what."""

    event: Event
    tenant_id: str | None = None
    incarnation: str | None = None
    subject: str | None = None


@frozen
class Decision:
    """What a command comes to: events, what is written in the same transaction, and the caller's answer."""

    events: tuple[Proposed, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    reply: Any = None


@frozen
class Record:
    """A committed event: as stored, and decoded."""

    stored: StoredEvent
    event: Event | None = field(default=None)
    """None once its payload was erased."""
