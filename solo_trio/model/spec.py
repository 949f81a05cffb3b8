"""A service's specification. Owns: what a deployment asks for, as data. Never: its source (that is an artifact)."""

from __future__ import annotations

from typing import Any, Final, Literal, get_args

from attrs import field, frozen

from solo_trio.errors import Rejected
from solo_trio.model.ids import check_id, check_secret_name
from solo_trio.model.limits import Limits, is_number
from solo_trio.policy.egress import ENTRIES_MAX, service_list
from solo_trio.policy.restart import RestartType

SOURCE_BYTES_MAX: Final = 1_048_576
DEPENDENCIES_MAX: Final = 32
SECRETS_MAX: Final = 32
"""That one service may have."""
RESTARTS_MAX: Final = 1_000
RESTART_SECONDS_MAX: Final = 86_400.0

Format = Literal["python_source", "python_zip"]
"""The text of a module, or an archive of several (`model.archive`)."""
Isolation = Literal["process", "task"]


@frozen
class RestartLimits:
    """At most `max_restarts` restarts in `max_seconds` of kernel time; one more gives up."""

    max_restarts: int = 5
    max_seconds: float = 60.0


@frozen
class ServiceSpec:
    """Everything that is wanted of a service. Two equal specifications deploy the same thing.

    `entry`: "source" (the artifact of `digest`), "callable:NAME" or "import:PATH" (embedding only, `digest` of "").
    """

    format: Format = "python_source"
    entry: str = "source"
    digest: str = ""
    isolation: Isolation = "process"
    restart: RestartType = "permanent"
    restart_limits: RestartLimits = field(factory=RestartLimits)
    limits: Limits = field(factory=Limits)
    config: dict[str, Any] = field(factory=dict)
    depends_on: tuple[str, ...] = ()
    """Services of the same tenant that must be ready before this one is started."""
    ephemeral: bool = False
    """Not recovered after a restart of the kernel: its callable cannot be found again."""
    egress: tuple[str, ...] = ()
    """What it may connect to, in the spelling of `policy.egress.canonical`; nothing, unless something is listed."""
    environment: str | None = None
    """The packages that it finds beside the kernel's own: one of those that the operator prepared, by name."""
    secrets: tuple[str, ...] = ()
    """Names of the tenant's secrets that it may have."""

    def check(self) -> ServiceSpec:
        """Return self, or raise `Rejected("invalid_field")`."""
        for name, words in (("format", Format), ("isolation", Isolation), ("restart", RestartType)):
            if getattr(self, name) not in get_args(words):
                raise Rejected("invalid_field", f"{name} must be one of: {', '.join(get_args(words))}")
        restarts, seconds = self.restart_limits.max_restarts, self.restart_limits.max_seconds
        if not (is_number(restarts, whole=True) and 0 <= restarts <= RESTARTS_MAX):
            raise Rejected(
                "invalid_field", f"restart_limits.max_restarts must be a whole number between 0 and {RESTARTS_MAX}"
            )
        if not (is_number(seconds) and 0 < seconds <= RESTART_SECONDS_MAX):
            raise Rejected(
                "invalid_field", f"restart_limits.max_seconds must be above 0 and at most {RESTART_SECONDS_MAX:g}"
            )
        self.limits.check()
        if len(self.depends_on) > DEPENDENCIES_MAX or len(set(self.depends_on)) < len(self.depends_on):
            raise Rejected("invalid_field", f"depends_on must name at most {DEPENDENCIES_MAX} services, each once")
        for each in self.depends_on:
            check_id("depends_on", each)
        if len(self.secrets) > SECRETS_MAX or len(set(self.secrets)) < len(self.secrets):
            raise Rejected("invalid_field", f"secrets must name at most {SECRETS_MAX} secrets, each once")
        for each in self.secrets:
            check_secret_name(each)
        if self.environment is not None:
            check_id("environment", self.environment)
        if self.entry != "source" and (self.environment is not None or self.format != "python_source"):
            raise Rejected("invalid_field", "a callable or import path has no format and no environment of its own")
        if len(self.egress) > ENTRIES_MAX:
            raise Rejected("invalid_field", f"egress may have {ENTRIES_MAX} entries; use a wildcard or a network")
        try:
            service_list(self.egress)
        except ValueError as error:
            raise Rejected("egress_refused", f"in egress, {error}") from None
        return self
