"""One event of each kind, as written in `golden/`. Owns: what each stored sample must be read as. Never: how it is stored."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from solo_trio.model.capability import CapabilityGranted
from solo_trio.model.event import Event
from solo_trio.model.limits import Limits
from solo_trio.model.service_events import (
    ServiceCrashed,
    ServiceDeployed,
    ServiceDeploymentFailed,
    ServiceDeploymentStarted,
    ServiceGivenUp,
    ServiceKilled,
    ServiceReady,
    ServiceRecovered,
    ServiceRecoveryFailed,
    ServiceRestartRequested,
    ServiceStarted,
    ServiceStopped,
)
from solo_trio.model.spec import RestartLimits, ServiceSpec
from solo_trio.model.system import SystemShutdownComplete, SystemShutdownStarted, SystemStarted
from solo_trio.model.tenant import TenantCreated, TenantLimits

GOLDEN: Final = Path(__file__).parent / "golden"
DIGEST: Final = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"

SAMPLES: Final[dict[str, Event]] = {
    sample.TYPE: sample
    for sample in (
        CapabilityGranted("cap_1", "key_1", "tenant", ("*",)),
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
                ephemeral=True,
            ),
            DIGEST,
            version=1,
        ),
        ServiceGivenUp(7, 6, "exited with 1", crashes=6, max_restarts=5, max_seconds=60.0),
        ServiceKilled(7, 3, grace_ms=5_000, force=False),
        ServiceReady(7, 3),
        ServiceRecovered(7, 3),
        ServiceRecoveryFailed(7, 3, "does not compile", "SyntaxError: line 1"),
        ServiceRestartRequested(7, 3),
        ServiceStarted(7, 3, "recovery"),
        ServiceStopped(7, 3, "stopped"),
        SystemShutdownComplete(killed=2),
        SystemShutdownStarted("SIGTERM"),
        SystemStarted("0.1.0", "3.11.7", clean=False),
        TenantCreated("key_1", "cap_1", TenantLimits(max_services=10)),
    )
}
