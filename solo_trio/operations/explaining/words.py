"""A sentence for each kind of event. Owns: the table of them. Never: puts events together (`story` does that).

`tests/model/test_model_explaining.py` holds that no kind is missing, and that every golden sample has its words.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from solo_trio.model import catalogue  # noqa: F401  (fills KINDS)
from solo_trio.model import service_events as services
from solo_trio.model.backup import BackupWritten, LogRestored
from solo_trio.model.capability_events import CapabilityExpired, CapabilityGranted, CapabilityRevoked, TokenRotated
from solo_trio.model.checkpoint import CheckpointWritten
from solo_trio.model.compaction import LogCompacted
from solo_trio.model.denial import AccessAlert, CapabilityDenied
from solo_trio.model.event import Event, Record
from solo_trio.model.instant import rfc3339
from solo_trio.model.record import StoredEvent
from solo_trio.model.repair import (
    EventLost,
    InconsistencyFixed,
    LogRepaired,
    LossAccepted,
    StateRestored,
    TenantRestored,
)
from solo_trio.model.resources import ResourceViolation, RuntimePressureHigh
from solo_trio.model.secret import SecretAccessDenied, SecretAccessed, SecretRevoked, SecretStored
from solo_trio.model.system import (
    ClockJump,
    SystemPaused,
    SystemResumed,
    SystemSettled,
    SystemShutdownComplete,
    SystemShutdownStarted,
    SystemStarted,
)
from solo_trio.model.tenant import TenantCreated, TenantHardeningChanged, TenantUpdated
from solo_trio.model.tenant_removal import TenantErased, TenantRemovalStarted, TenantRemoved
from solo_trio.model.use import CircuitClosed, CircuitOpened, LoadShed
from solo_trio.operations.explaining.phrases import counted, listed, plain, reason, seconds, sha, times
from solo_trio.policy.together import RESOURCE as TOGETHER

E = TypeVar("E", bound=Event)
Words = Callable[[Any, StoredEvent], str]

WORDS: Final[dict[type[Event], Words]] = {}
"""What each kind of event says by itself."""
ERASED: Final = "what it said was erased"


def words_of(record: Record) -> str:
    """What one event says, in one line that is harmless on a terminal, whatever words of services are in it."""
    if record.event is None:
        return ERASED
    return plain(WORDS[type(record.event)](record.event, record.stored))


def _words(kind: type[E]) -> Callable[[Callable[[E, StoredEvent], str]], Callable[[E, StoredEvent], str]]:
    def register(function: Callable[[E, StoredEvent], str]) -> Callable[[E, StoredEvent], str]:
        WORDS[kind] = function
        return function

    return register


# -- services


@_words(services.ServiceDeploymentStarted)
def _deployment_started(event: services.ServiceDeploymentStarted, stamp: StoredEvent) -> str:
    said = f"{stamp.tenant_id} asked for {stamp.subject} version {event.version} ({sha(event.digest)})"
    if event.replaces is not None:
        said += f", in the place of deployment {event.replaces}"
    if event.spec.depends_on:
        said += f"; it depends on {listed(event.spec.depends_on)}"
    if event.grantor is not None:
        said += f"; with the capability {event.grantor.capability_id}, and it may do no more than that"
    return said


CAUSES: Final = {
    "deploy": "it was started",
    "restart": "it was started again after a crash",
    "recovery": "it was started again after a start of the kernel",
    "manual": "it was started again because somebody asked for it",
    "resume": "it was started again when it was resumed",
}


@_words(services.ServiceStarted)
def _started(event: services.ServiceStarted, stamp: StoredEvent) -> str:
    return CAUSES[event.cause]


@_words(services.ServiceReady)
def _ready(event: services.ServiceReady, stamp: StoredEvent) -> str:
    return "it became ready"


@_words(services.ServiceDeployed)
def _deployed(event: services.ServiceDeployed, stamp: StoredEvent) -> str:
    return f"version {event.version} was deployed"


@_words(services.ServiceDeploymentFailed)
def _deployment_failed(event: services.ServiceDeploymentFailed, stamp: StoredEvent) -> str:
    return f"the deployment failed: {reason(event.reason)}"


@_words(services.ServiceRecovered)
def _recovered(event: services.ServiceRecovered, stamp: StoredEvent) -> str:
    return "it runs again after the start of the kernel"


@_words(services.ServiceRecoveryFailed)
def _recovery_failed(event: services.ServiceRecoveryFailed, stamp: StoredEvent) -> str:
    return f"after a start of the kernel it could not be loaded any more, and was given up: {reason(event.reason)}"


@_words(services.ServiceCrashed)
def _crashed(event: services.ServiceCrashed, stamp: StoredEvent) -> str:
    how = f" by {plain(event.signal)}" if event.signal and event.signal not in event.reason else ""
    said = f"it crashed{how}: {reason(event.reason)}"
    return said if event.restart else f"{said}; it is not started again"


@_words(services.ServiceGivenUp)
def _given_up(event: services.ServiceGivenUp, stamp: StoredEvent) -> str:
    return (
        f"it was given up: {counted(event.crashes, 'crash', 'crashes')} within {seconds(event.max_seconds)}, "
        f"and {event.max_restarts} are allowed"
    )


@_words(services.ServiceRestartRequested)
def _restart_requested(event: services.ServiceRestartRequested, stamp: StoredEvent) -> str:
    return "somebody asked for a restart: what ran was ended, and its crashes no longer count"


@_words(services.ServiceUpdated)
def _updated(event: services.ServiceUpdated, stamp: StoredEvent) -> str:
    limits = event.restart_limits
    return (
        f"it was changed: restart {event.restart}, {times(limits.max_restarts) if limits.max_restarts else 'never'} in "
        f"{seconds(limits.max_seconds)}, {counted(len(event.limits.given()), 'limit')}, "
        f"{counted(len(event.egress), 'egress entry', 'egress entries')}, {counted(len(event.secrets), 'secret')}"
    )


@_words(services.ServicePaused)
def _paused(event: services.ServicePaused, stamp: StoredEvent) -> str:
    return "somebody paused it: its process was ended"


@_words(services.ServiceResumed)
def _resumed(event: services.ServiceResumed, stamp: StoredEvent) -> str:
    return "somebody resumed it"


@_words(services.ServiceKilled)
def _killed(event: services.ServiceKilled, stamp: StoredEvent) -> str:
    patience = "at once" if event.force else f"within {seconds(event.grace_ms / 1_000)}"
    return f"somebody asked to stop and forget it, {patience}"


ENDS: Final = {
    "stopped": "it stopped by itself",
    "killed": "it was killed",
    "crashed": "it crashed while it was stopped",
    "completed": "it came to its end",
    "lost": "it was lost: the world around it failed",
    "not_running": "nothing of it ran",
    "kernel_restarted": "nothing of it ran any more: the kernel had been started again meanwhile",
}


@_words(services.ServiceStopped)
def _stopped(event: services.ServiceStopped, stamp: StoredEvent) -> str:
    return ENDS.get(event.reason, f"it stopped ({plain(event.reason)})")


# -- what is noticed about services


@_words(ResourceViolation)
def _violation(event: ResourceViolation, stamp: StoredEvent) -> str:
    done = {"warn": "near its limit", "kill": "so it was killed", "throttle": "so it was slowed down"}[event.action]
    if event.resource == TOGETHER:
        return f"its tenant's services used {event.value:g} of {event.limit:g} {TOGETHER} together, it the most: {done}"
    return f"it used {event.value:g} of {event.limit:g} {event.resource}: {done}"


@_words(CircuitOpened)
def _circuit_opened(event: CircuitOpened, stamp: StoredEvent) -> str:
    return (
        f"{counted(event.failures, 'call')} in a row failed ({reason(event.reason)}): "
        f"for {seconds(event.open_s)} no more were let through"
    )


@_words(CircuitClosed)
def _circuit_closed(event: CircuitClosed, stamp: StoredEvent) -> str:
    return "it answered again: its calls are let through"


@_words(SecretAccessed)
def _secret_accessed(event: SecretAccessed, stamp: StoredEvent) -> str:
    return f"version {event.version} of the secret {plain(event.name)} was handed out to {plain(event.by)}"


@_words(SecretAccessDenied)
def _secret_denied(event: SecretAccessDenied, stamp: StoredEvent) -> str:
    return f"the secret {plain(event.name)} was asked for {times(event.count)} by {plain(event.by)}, and not given"


@_words(SecretStored)
def _secret_stored(event: SecretStored, stamp: StoredEvent) -> str:
    return f"version {event.version} of the secret {plain(event.name)} was stored"


@_words(SecretRevoked)
def _secret_revoked(event: SecretRevoked, stamp: StoredEvent) -> str:
    return f"the secret {plain(event.name)} was shredded"


# -- the kernel


@_words(SystemStarted)
def _system_started(event: SystemStarted, stamp: StoredEvent) -> str:
    said = "the kernel was started" + ("" if event.clean else ", after one that had not shut down in order")
    why = {"asked": "as it was asked to", "boot_loop": "because it had ended again and again after its start"}
    return said if event.hold is None else f"{said}, and held every service back, {why[event.hold]}"


@_words(SystemSettled)
def _system_settled(event: SystemSettled, stamp: StoredEvent) -> str:
    return "the kernel has lived long enough to count as sound"


@_words(SystemPaused)
def _system_paused(event: SystemPaused, stamp: StoredEvent) -> str:
    return "somebody paused the kernel: every service was ended and held back"


@_words(SystemResumed)
def _system_resumed(event: SystemResumed, stamp: StoredEvent) -> str:
    return "somebody resumed the kernel: what was held back may run"


@_words(SystemShutdownStarted)
def _shutdown_started(event: SystemShutdownStarted, stamp: StoredEvent) -> str:
    return f"the kernel began to shut down ({plain(event.reason)})"


@_words(SystemShutdownComplete)
def _shutdown_complete(event: SystemShutdownComplete, stamp: StoredEvent) -> str:
    killed = f"; {counted(event.killed, 'service')} had to be killed" if event.killed else ""
    return f"the kernel had shut down in order{killed}"


@_words(ClockJump)
def _clock_jump(event: ClockJump, stamp: StoredEvent) -> str:
    if event.accepted:
        return f"somebody said that the clock is right, which had leapt ahead by {seconds(event.ahead_s)}"
    if event.ahead_s <= 0:
        return "the clock was set right again"
    return f"the clock leapt ahead by {seconds(event.ahead_s)}, and is not believed"


@_words(CheckpointWritten)
def _checkpoint(event: CheckpointWritten, stamp: StoredEvent) -> str:
    return f"the state after event {event.event_id} was kept ({event.size_bytes} bytes)"


@_words(RuntimePressureHigh)
def _pressure(event: RuntimePressureHigh, stamp: StoredEvent) -> str:
    return f"the kernel is short of {plain(event.resource)}: {event.value:g} of {event.limit:g} ({event.level})"


@_words(LoadShed)
def _shed(event: LoadShed, stamp: StoredEvent) -> str:
    if event.phase == "began":
        return "too many requests were in flight: some began to be refused"
    return f"requests are no longer refused for their number; {event.refused} were"


# -- the log itself


@_words(BackupWritten)
def _backup_written(event: BackupWritten, stamp: StoredEvent) -> str:
    return f"a backup up to event {event.event_id} was written: {plain(event.name)} ({event.size_bytes} bytes)"


@_words(LogRestored)
def _log_restored(event: LogRestored, stamp: StoredEvent) -> str:
    dropped = event.backup_event_id - event.event_id
    left = f"; {counted(dropped, 'event')} of it after that were left out" if dropped else ""
    return f"the log was restored from a backup, as of event {event.event_id}{left}"


@_words(LogRepaired)
def _log_repaired(event: LogRepaired, stamp: StoredEvent) -> str:
    if event.lost is None:
        return "the operator repaired the data directory; no event was lost"
    return f"the operator repaired the data directory; events {event.lost[0]} to {event.lost[1]} could not all be saved"


@_words(EventLost)
def _event_lost(event: EventLost, stamp: StoredEvent) -> str:
    return "here was an event that a repair could not save"


@_words(LossAccepted)
def _loss_accepted(event: LossAccepted, stamp: StoredEvent) -> str:
    return f"somebody accepted what repairs up to event {event.event_id} could not save"


@_words(StateRestored)
def _state_restored(event: StateRestored, stamp: StoredEvent) -> str:
    return "what the log could not tell any more was taken from a checkpoint by a repair"


@_words(LogCompacted)
def _compacted(event: LogCompacted, stamp: StoredEvent) -> str:
    return f"{counted(event.events, 'event')} before event {event.oldest_id} were moved into the archive"


@_words(TenantRestored)
def _tenant_restored(event: TenantRestored, stamp: StoredEvent) -> str:
    return f"what {stamp.tenant_id} was, and the log could not tell any more, was taken from a checkpoint by a repair"


@_words(InconsistencyFixed)
def _fixed(event: InconsistencyFixed, stamp: StoredEvent) -> str:
    return f"a verification mended what its check {plain(event.check)} had found: {event.action} {times(event.count)}"


# -- tenants and their credentials


@_words(TenantCreated)
def _tenant_created(event: TenantCreated, stamp: StoredEvent) -> str:
    return f"the tenant {stamp.tenant_id} was created"


@_words(TenantUpdated)
def _tenant_updated(event: TenantUpdated, stamp: StoredEvent) -> str:
    return f"the operator changed what {stamp.tenant_id} and its services may have"


@_words(TenantHardeningChanged)
def _tenant_hardening(event: TenantHardeningChanged, stamp: StoredEvent) -> str:
    return f"findings of the analyser in deployments of {stamp.tenant_id}: {event.hardening} from then on"


@_words(TenantRemovalStarted)
def _removal_started(event: TenantRemovalStarted, stamp: StoredEvent) -> str:
    return f"somebody asked to remove {stamp.tenant_id}: every service of it is stopped"


@_words(TenantRemoved)
def _tenant_removed(event: TenantRemoved, stamp: StoredEvent) -> str:
    return f"nothing of {stamp.tenant_id} was left"


@_words(TenantErased)
def _tenant_erased(event: TenantErased, stamp: StoredEvent) -> str:
    return f"what the events of {stamp.tenant_id} said was erased"


@_words(CapabilityGranted)
def _granted(event: CapabilityGranted, stamp: StoredEvent) -> str:
    until = "" if event.expires_at_us is None else f", until {rfc3339(event.expires_at_us)}"
    return f"the capability {event.capability_id} was granted: {listed(event.permissions)} of {plain(event.resource)}{until}"


@_words(CapabilityRevoked)
def _revoked(event: CapabilityRevoked, stamp: StoredEvent) -> str:
    what = f"the capability {event.capability_id}"
    if event.attenuation_id is not None:
        what = f"an attenuation of {what}"
    return f"{what} was revoked, and what descends from it: {event.count} in all"


@_words(CapabilityExpired)
def _expired(event: CapabilityExpired, stamp: StoredEvent) -> str:
    number = len(event.capability_ids) + len(event.attenuations)
    return f"the time of {counted(number, 'capability', 'capabilities')} was over"


@_words(TokenRotated)
def _rotated(event: TokenRotated, stamp: StoredEvent) -> str:
    whose = "the system" if stamp.tenant_id is None else stamp.tenant_id
    left = "stayed good" if event.kept else "is good for nothing, too"
    return f"{whose} got another token; what had been granted with the old one {left}"


@_words(CapabilityDenied)
def _denied(event: CapabilityDenied, stamp: StoredEvent) -> str:
    return f"{counted(event.count, 'call')} refused ({plain(event.code)}), the last of {plain(event.operation)}"


@_words(AccessAlert)
def _alert(event: AccessAlert, stamp: StoredEvent) -> str:
    who = "" if event.credential is None else f" of {plain(event.credential)}"
    return (
        f"{counted(event.denials, 'call')}{who} refused within {seconds(event.window_s)}: somebody may be trying doors"
    )
