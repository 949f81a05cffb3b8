"""Settings. Owns: the operator's numbers that operations and the kernel go by, and what is told about each. Never: where
they were written down (`configuration` reads the file).

A new setting is one line, and everything else follows from it: its key in the TOML (checked for type and range), the line
that `solo init` writes, its environment variable `SOLO_<NAME>`, its row in `solo config show`:

    max_streams: int = key(1_000, "limits", "How many event streams may be open at once.", low=1, high=100_000)

The kind follows from the default (bool, int, float, str, tuple of str); the unit is the end of the name (`_s`, `_ms`, `_mb`).
Then add the key to the table in docs/configuration.md: a test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Literal

from attrs import NOTHING, Attribute, field, fields, frozen

from solo_trio.kernel.checkpoints import CHECKPOINT_INTERVAL_EVENTS, CHECKPOINT_INTERVAL_S
from solo_trio.kernel.denials import ALERT_DENIALS, ALERT_WINDOW_S, AlertRules
from solo_trio.kernel.pressure import FREE_DISK_MB, LAG_LIMIT_MS, PressureLimits
from solo_trio.model.limits import CEILING, Limits, is_number
from solo_trio.model.secret_requests import SECRETS_PER_TENANT_MAX
from solo_trio.model.service_requests import SERVICES_MAX
from solo_trio.model.system import BOOT_LOOP_S, BOOT_LOOP_STARTS
from solo_trio.model.tenant import SERVICES_PER_TENANT_MAX, TENANTS_MAX
from solo_trio.policy.egress import parse
from solo_trio.policy.retention import Retention

Section = Literal["solo", "limits", "service_limits", "recovery", "retention", "shutdown", "telemetry", "security"]
BACKUP_DIRECTORY: Final = "backups"
RETENTION: Final = Retention()
SPARE_SANDBOXES: Final = 32
"""One has about 3 MiB of its own."""
COUNT_MAX: Final = 1_000_000
"""The highest number of anything that a key can ask for."""
KEEP_EVENTS_MAX: Final = 1_000_000_000
TEXT_CHARACTERS_MAX: Final = 4_096
ITEMS_MAX: Final = 1_000


@frozen
class Key:
    """What is told about one setting."""

    section: Section
    says: str
    """One sentence."""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    variable: str | None = None
    """The environment variable, where it is not `SOLO_<NAME>`."""
    item: Callable[[str], object] | None = None
    """Raises ValueError with a sentence for an item of a list that is none."""
    words: bool = False
    """A list whose variable is written like a command: words with spaces between them, and quotes where needed."""

    def fault(self, value: object, default: object) -> str | None:
        """What `value` must be and is not, or None if it is right; `default` tells the kind."""
        if isinstance(default, bool):
            return None if isinstance(value, bool) else "must be true or false"
        if isinstance(default, int | float):
            whole = isinstance(default, int)
            if is_number(value, whole=whole) and self._within(value):
                return None
            return f"must be {'a whole number' if whole else 'a number'}{self._range()}"
        if isinstance(default, tuple):
            if isinstance(value, list | tuple) and len(value) <= ITEMS_MAX and all(_is_text(each) for each in value):
                return self._item_fault(value)
            return 'must be a list of texts, like ["one", "two"]'
        if not _is_text(value):
            return "must be a text, not empty, without control characters"
        if self.choices and value not in self.choices:
            return f"must be one of {', '.join(self.choices)}"
        return None

    def _item_fault(self, items: Sequence[str]) -> str | None:
        try:
            for each in items:
                if self.item is not None:
                    self.item(each)
        except ValueError as error:
            return f"has a wrong item: {error}"
        return None

    def _within(self, value: Any) -> bool:
        low = float("-inf") if self.low is None else self.low
        high = float("inf") if self.high is None else self.high
        return bool(low <= value <= high and abs(value) != float("inf"))

    def _range(self) -> str:
        if self.low is None or self.high is None:
            return ""
        return f" between {self.low:,.12g} and {self.high:,.12g}".replace(",", "_")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and 0 < len(value) <= TEXT_CHARACTERS_MAX


def key(
    default: Any,
    section: Section,
    says: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    variable: str | None = None,
    item: Callable[[str], object] | None = None,
    words: bool = False,
) -> Any:
    """A field of a class of settings."""
    return field(default=default, metadata={Key: Key(section, says, low, high, choices, variable, item, words)})


def key_of(attribute: Attribute[Any]) -> Key | None:
    """What `key` said about a field; None for a field without a key of its own."""
    found = attribute.metadata.get(Key)
    return found if isinstance(found, Key) else None


@frozen
class Settings:
    """Names and defaults follow the configuration keys; times in the unit of the name."""

    max_tenants: int = key(TENANTS_MAX, "solo", "How many tenants there may be.", low=1, high=COUNT_MAX)
    max_per_tenant: int = key(
        SERVICES_PER_TENANT_MAX, "limits", "How many services one tenant may have.", low=0, high=COUNT_MAX
    )
    max_secrets_per_tenant: int = key(
        SECRETS_PER_TENANT_MAX, "limits", "How many secrets one tenant may have.", low=0, high=100_000
    )
    max_total: int = key(SERVICES_MAX, "limits", "How many services there may be in all.", low=0, high=COUNT_MAX)
    call_timeout_s: float = key(30.0, "limits", "How long a call of a function may take.", low=0.05, high=3_600)
    spare_sandboxes: int = key(
        SPARE_SANDBOXES, "limits", "How many sandboxes may wait in advance; 0 makes none.", low=0, high=1_000
    )
    max_in_flight: int = key(
        1_000,
        "limits",
        "How many requests may be in flight; a few places are kept for system credentials.",
        low=2,
        high=COUNT_MAX,
    )
    max_in_flight_per_tenant: int = key(
        100,
        "limits",
        "How many requests of one tenant may be in flight; it may have a limit of its own.",
        low=1,
        high=COUNT_MAX,
    )
    requests_per_second: float = key(
        1_000.0,
        "limits",
        "How many requests a tenant may send in a second, if it has no limit of its own; 0: as many as it likes.",
        low=0,
        high=COUNT_MAX,
    )
    burst: int = key(2_000, "limits", "How many of them at once, after a quiet time.", low=1, high=COUNT_MAX)
    max_connections: int = key(512, "limits", "How many connections may be open.", low=1, high=COUNT_MAX)
    max_streams: int = key(
        256, "limits", "How many streams may be open; a tenth is kept for system credentials.", low=1, high=COUNT_MAX
    )
    max_streams_per_tenant: int = key(32, "limits", "How many streams one tenant may have open.", low=1, high=COUNT_MAX)
    kernel_memory_mb: int = key(
        0,
        "limits",
        "Memory of the kernel itself; near it deployments are refused. 0: what the machine can give.",
        low=0,
        high=1_048_576,
    )
    free_disk_mb: int = key(
        FREE_DISK_MB,
        "limits",
        "Space to be left free where the data directory is; near it deployments are refused. 0: any.",
        low=0,
        high=1_073_741_824,
    )
    loop_lag_ms: int = key(
        LAG_LIMIT_MS, "limits", "How late the kernel's loop may be; 0 says nothing about it.", low=0, high=3_600_000
    )
    recovery_timeout_ms: int = key(
        30_000, "recovery", "When to say ready at the latest, with whatever runs by then.", low=0, high=3_600_000
    )
    start_paused: bool = key(
        False, "recovery", "Start with every service held back; they are resumed one by one, or all at once."
    )
    boot_loop_starts: int = key(
        BOOT_LOOP_STARTS,
        "recovery",
        "After so many failed starts in a row, start paused; 0 never does.",
        low=0,
        high=1_000,
    )
    boot_loop_s: float = key(
        BOOT_LOOP_S, "recovery", "A kernel that lives so long did not fail to start.", low=1, high=3_600
    )
    checkpoint_interval_events: int = key(
        CHECKPOINT_INTERVAL_EVENTS,
        "recovery",
        "After so many events the state is kept, so that a start reads only those after it.",
        low=1,
        high=1_000_000_000,
    )
    checkpoint_interval_s: float = key(
        CHECKPOINT_INTERVAL_S,
        "recovery",
        "The state is kept so long after an event at the latest.",
        low=1,
        high=31_536_000,
    )
    backup_dir: str = key(
        BACKUP_DIRECTORY,
        "recovery",
        "The directory that backups are written to; relative to the data directory.",
    )
    compact: bool = key(
        True,
        "retention",
        "Move events that need not be kept at hand out of the database into DATA/archive; `solo compact` does it by hand.",
    )
    keep_events: int = key(
        RETENTION.keep_events,
        "retention",
        "So many of the newest events stay in the database, however old they are.",
        low=0,
        high=KEEP_EVENTS_MAX,
    )
    keep_days: float = key(
        RETENTION.keep_days,
        "retention",
        "An event stays in the database for so long, however many there are.",
        low=0,
        high=36_500,
    )
    shutdown_timeout_ms: int = key(
        5_000, "shutdown", "How long a graceful end may take before the rest is cut off.", low=100, high=600_000
    )
    audit_days: int = key(90, "telemetry", "How long the audit of requests is kept.", low=1, high=36_500)
    audit_mb: int = key(
        256, "telemetry", "How much the audit may take; the oldest of it goes first.", low=1, high=1_048_576
    )
    alert_denials: int = key(
        ALERT_DENIALS,
        "security",
        "After so many refused calls of one credential, tenant or nobody within alert_window_s there is an alert; 0: never.",
        low=0,
        high=COUNT_MAX,
    )
    alert_window_s: float = key(
        ALERT_WINDOW_S,
        "security",
        "Refused calls are counted over so long, and one alert is for so long.",
        low=1,
        high=86_400,
    )
    limits: Limits = field(default=CEILING)
    """A ceiling for every service's limits; in the file one key for each of them."""
    sandbox_level: int = key(
        2,
        "security",
        "The least protection that deployed code is run with: 1 limits, 2 filters, 3 namespaces.",
        low=1,
        high=3,
    )
    own_ancestors: bool = key(
        False,
        "security",
        "Each tenant's processes come from a Python started for it alone: other addresses and hash seeds, slower starts.",
    )
    hardening: str = key(
        "warn",
        "security",
        "What becomes of the analyser's findings in a deployment; a tenant may have its own.",
        choices=("off", "warn", "refuse"),
    )
    egress_allowed: tuple[str, ...] = key(
        ("public",),
        "security",
        "What the egress of services may name: hosts, addresses, networks, `*` or `public`; nothing else is granted.",
        item=partial(parse, operator=True),
    )
    rate_limit_per_capability: int = key(
        0,
        "security",
        "How many requests a minute a capability may be used for; 0: as many as its tenant may send.",
        low=0,
        high=COUNT_MAX,
    )
    master_key_command: tuple[str, ...] = key(
        (),
        "security",
        "A command, as a list of words, that prints the master key as 64 hex digits; without one it is in a file.",
        words=True,
    )
    allowed_imports: tuple[str, ...] = key(
        (), "security", "Import paths, and all below them, that an embedding application may deploy as tasks."
    )

    @property
    def retention(self) -> Retention:
        return Retention(self.compact, self.keep_events, self.keep_days)

    @property
    def alerts(self) -> AlertRules:
        return AlertRules(self.alert_denials, self.alert_window_s)

    @property
    def pressure(self) -> PressureLimits:
        return PressureLimits(self.kernel_memory_mb, self.free_disk_mb, self.loop_lag_ms)


EMBEDDED: Final = Settings(boot_loop_starts=0)
"""Of an application that gives none: that it crashed three times is no reason to hold its services back."""


def keys_of(settings: type[Any]) -> dict[str, tuple[Key, Any]]:
    """The keys of a class of settings and their defaults, by name."""
    found = {attribute.name: (key_of(attribute), attribute.default) for attribute in fields(settings)}
    return {
        name: (told, default) for name, (told, default) in found.items() if told is not None and default is not NOTHING
    }
