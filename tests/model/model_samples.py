"""One event of each kind, as written in `golden/`. Owns: what each stored sample must be read as. Never: how it is stored."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from attrs import evolve

from solo_trio.model.backup import BackupWritten, LogRestored
from solo_trio.model.capability import Grantor
from solo_trio.model.capability_events import (
    CapabilityExpired,
    CapabilityGranted,
    CapabilityRevoked,
    TokenRotated,
)
from solo_trio.model.caveat import Rate
from solo_trio.model.checkpoint import CheckpointWritten
from solo_trio.model.compaction import LogCompacted
from solo_trio.model.denial import AccessAlert, CapabilityDenied
from solo_trio.model.event import Event
from solo_trio.model.limits import Limits
from solo_trio.model.repair import (
    EventLost,
    InconsistencyFixed,
    LogRepaired,
    LossAccepted,
    LostSecret,
    StateRestored,
    TenantRestored,
)
from solo_trio.model.resources import ResourceViolation, RuntimePressureHigh
from solo_trio.model.secret import SecretAccessDenied, SecretAccessed, SecretRevoked, SecretStored
from solo_trio.model.service_events import (
    ServiceCrashed,
    ServiceDeployed,
    ServiceDeploymentFailed,
    ServiceDeploymentStarted,
    ServiceGivenUp,
    ServiceKilled,
    ServicePaused,
    ServiceReady,
    ServiceRecovered,
    ServiceRecoveryFailed,
    ServiceRestartRequested,
    ServiceResumed,
    ServiceStarted,
    ServiceStopped,
    ServiceUpdated,
)
from solo_trio.model.spec import RestartLimits, ServiceSpec
from solo_trio.model.system import (
    ClockJump,
    SystemPaused,
    SystemResumed,
    SystemSettled,
    SystemShutdownComplete,
    SystemShutdownStarted,
    SystemStarted,
)
from solo_trio.model.tenant import TenantCreated, TenantHardeningChanged, TenantLimits, TenantUpdated
from solo_trio.model.tenant_removal import TenantErased, TenantRemovalStarted, TenantRemoved
from solo_trio.model.use import CircuitClosed, CircuitOpened, LoadShed

GOLDEN: Final = Path(__file__).parent / "golden"
ATTENUATION: Final = "00112233445566778899aabbccddeeff"
DIGEST: Final = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"

SAMPLES: Final[dict[str, Event]] = {
    sample.TYPE: sample
    for sample in (
        AccessAlert("cap_1", 100, 60.0),
        BackupWritten("solo-20260101T000000.000000Z-120.backup", 120, 4_096, DIGEST),
        CapabilityDenied("permission_denied", 3, "deploy"),
        LogRestored("00112233445566778899aabbccddeeff", 100, 120, (LostSecret("acme", "api-key", 2),), (DIGEST,)),
        CapabilityExpired(("cap_1", "cap_2"), (("cap_3", ATTENUATION),)),
        CapabilityGranted(
            "cap_1",
            "key_1",
            "service:calc",
            ("call", "read"),
            "cap_0",
            (ATTENUATION,),
            1_700_000_000_000_000,
            (Rate("cap_1", 0.5, 10.0),),
            {"for": "\u00fc", "of": [1, None]},
        ),
        CapabilityRevoked("cap_1", ATTENUATION, 1_700_000_000_000_000, count=2),
        CircuitClosed(7, 3),
        CircuitOpened(7, 3, failures=5, reason="call_interrupted", open_s=30.0),
        CheckpointWritten(event_id=10_000, size_bytes=4_096),
        ClockJump(86_400.5, accepted=True),
        InconsistencyFixed("rows", "removed", 2, ("secret acme/api-key 2", "key key_1")),
        LogRepaired(
            "checkpoint",
            (125, 126),
            (101, 120),
            "damaged/20260101T000000Z",
            ("event 121 cannot be read",),
            (LostSecret("acme", "api-key", 2),),
            (DIGEST,),
            ("acme", "the system"),
        ),
        LossAccepted(121),
        LogCompacted(oldest_id=90_001, events=90_000, segments=9),
        EventLost(),
        StateRestored("json/1", {"last_id": 120, "last_at_us": 1_700_000_000_000_000, "kernel_time": 1.5}),
        TenantRestored(
            "json/1",
            {"tenant_id": "acme", "incarnation": "a1", "created_at_us": 7, "limits": {}},
            ({"capability_id": "cap_1", "key_id": "key_1"},),
            {"cap_1": ""},
        ),
        LoadShed("ended", refused=120, reason="total"),
        ResourceViolation(7, 3, "memory_mb", 300.5, 256.0, "kill"),
        RuntimePressureHigh("disk", 70_000_000.0, 67_108_864.0, 95.9, "critical"),
        SecretAccessDenied("api-key", "service:calc", count=3),
        SecretAccessed("api-key", 2, "service:calc", generation=3),
        SecretRevoked("api-key"),
        SecretStored("api-key", 2, "b7f0c1d2e3f4a5968778695a4b3c2d1e", "agent"),
        ServiceCrashed(
            7,
            3,
            "raised ValueError: \u201cno\u201d",
            "Traceback:\n  line 1\0",
            -11,
            "SIGSEGV",
            counted=True,
            restart=False,
        ),
        ServiceDeployed(7, 1, version=1, digest=DIGEST),
        ServiceDeploymentFailed(7, 1, "raised on import", "Traceback:\n  line 1"),
        ServiceDeploymentStarted(
            ServiceSpec(
                format="python_zip",
                digest=DIGEST,
                isolation="task",
                restart="transient",
                restart_limits=RestartLimits(3, 12.5),
                limits=Limits(64.0, 150.0, 3_600.0, 8, 128, 32.5, 65_536, 4, 2.5, 0.5),
                config={
                    "every": 1.5,
                    "names": ["a", "\u00fc", None, True],
                    "of": {"big": 2**64 - 1, "small": -(2**63)},
                },
                depends_on=("store", "clock-2"),
                egress=("api.example.com:443", "*.example.org", "10.0.0.0/8:5432", "[2001:db8::1]:443"),
                ephemeral=True,
                environment="science-1",
                secrets=("api-key", "TLS.pem"),
            ),
            DIGEST,
            version=3,
            replaces=7,
            grantor=Grantor("cap_1", (f"id = {ATTENUATION}", "permissions = call,deploy")),
        ),
        ServiceGivenUp(7, 6, "exited with 1", crashes=6, max_restarts=5, max_seconds=60.0),
        ServiceKilled(7, 3, grace_ms=5_000, force=False),
        ServicePaused(7, 3),
        ServiceReady(7, 3),
        ServiceRecovered(7, 3),
        ServiceRecoveryFailed(7, 3, "does not compile", "SyntaxError: line 1"),
        ServiceRestartRequested(7, 3),
        ServiceResumed(7, 3),
        ServiceStarted(7, 3, "recovery"),
        ServiceStopped(7, 3, "stopped"),
        ServiceUpdated(7, 3, "transient", RestartLimits(3, 12.5), Limits(memory_mb=64.0, fds=128), ("*:443",), ("a",)),
        SystemPaused(),
        SystemResumed(),
        SystemSettled(),
        SystemShutdownComplete(killed=2),
        SystemShutdownStarted("SIGTERM"),
        SystemStarted("0.1.0", "3.11.7", clean=False, hold="boot_loop"),
        TokenRotated("cap_2", "key_2", "cap_1", kept=True),
        TenantCreated("key_1", "cap_1", TenantLimits(10, 512.0, 2.5, 20, 8)),
        TenantHardeningChanged("refuse"),
        TenantRemovalStarted(grace_ms=5_000),
        TenantRemoved(),
        TenantErased(1_700_000_000_000_000),
        TenantUpdated(TenantLimits(20, 512.0, 1_000.0, 2_000, 100), Limits(memory_mb=64.0, fds=128)),
    )
}

_intent = SAMPLES["service_deployment_started"]
assert isinstance(_intent, ServiceDeploymentStarted)
_with_the_tenant = evolve(_intent, grantor=None)
_without_secrets = evolve(_with_the_tenant, spec=evolve(_intent.spec, secrets=()))
_of_one_module = evolve(_with_the_tenant, spec=evolve(_without_secrets.spec, format="python_source", environment=None))

OLD_SAMPLES: Final[dict[tuple[str, int], Event]] = {
    ("capability_granted", 1): CapabilityGranted.of_its_own("cap_1", "key_1", "tenant"),
    ("service_deployment_started", 1): evolve(
        _of_one_module, spec=evolve(_of_one_module.spec, depends_on=(), egress=()), version=1, replaces=None
    ),
    ("service_deployment_started", 2): evolve(_of_one_module, spec=evolve(_of_one_module.spec, egress=())),
    ("service_deployment_started", 3): _of_one_module,
    ("service_deployment_started", 4): _without_secrets,
    ("service_deployment_started", 5): _with_the_tenant,
    ("service_updated", 1): ServiceUpdated(
        7, 3, "transient", RestartLimits(3, 12.5), Limits(memory_mb=64.0, fds=128), (), ()
    ),
    ("service_updated", 2): ServiceUpdated(
        7, 3, "transient", RestartLimits(3, 12.5), Limits(memory_mb=64.0, fds=128), ("*:443",), ()
    ),
    ("system_started", 1): SystemStarted("0.1.0", "3.11.7", clean=False, hold=None),
    ("tenant_created", 1): TenantCreated("key_1", "cap_1", TenantLimits(max_services=10)),
    ("tenant_created", 2): TenantCreated("key_1", "cap_1", TenantLimits(10, None, 2.5, 20, 8)),
    ("tenant_updated", 1): TenantUpdated(TenantLimits(max_services=20), Limits(memory_mb=64.0, fds=128)),
    ("tenant_updated", 2): TenantUpdated(TenantLimits(20, None, 1_000.0, 2_000, 100), Limits(memory_mb=64.0, fds=128)),
}
"""What the samples of older versions are read as, where the newest has more to say."""
