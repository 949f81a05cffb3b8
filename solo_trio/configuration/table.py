"""The table of keys. Owns: every key of the configuration with its section, kind, range and sentence. Never: reads a file.

The keys that the kernel goes by are fields of `Settings`, which say the same of themselves there.
"""

from __future__ import annotations

import functools
import shlex
from typing import Any, Final, Literal

from attrs import fields, frozen

from solo_trio.model.limits import RANGES, WHOLE, Limits
from solo_trio.operations.settings import Key, Section, Settings, key, keys_of

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
SECTIONS: Final[dict[str, str]] = {
    "solo": "Where the kernel serves and keeps its data.",
    "limits": "How much there may be of what.",
    "service_limits": "The most that a service may get, whatever its deployment asks for; without a value there is no ceiling.",
    "recovery": "What a start does.",
    "retention": "How much of the log is at hand; the rest is in the archive.",
    "shutdown": "What an end does.",
    "telemetry": "What is measured and kept about it.",
    "security": "Who may talk to it, and what may run.",
}
REPLACED: Final[dict[str, str]] = {
    "solo.listen_port": "there is one API, HTTP: its port is solo.http_port",
    "telemetry.enabled": "measuring cannot be switched off: it costs next to nothing",
    "telemetry.log_events": "every event is recorded; solo.log_level says how much the kernel tells on standard error",
    "security.require_mtls": "it is called security.tls_client_required, beside security.tls",
    "database.events_db": "all that is kept is in solo.data_dir",
    "database.vault_db": "all that is kept is in solo.data_dir",
    "recovery.recovery_enabled": "every start recovers; `solo serve --start-paused` starts no service",
    "recovery.verify_recovery": "every recovery is checked; the log's hash chain is, too",
    "recovery.token_persistence_enabled": "tokens are always kept",
    "recovery.token_cleanup_interval_ms": "there is nothing to clean up: tokens do not expire",
    "shutdown.log_shutdown_events": "the events of an end are always recorded",
}
"""Keys that older descriptions of Solo have and this one does not, and what to use in their place."""
_LIMIT_SAYS: Final[dict[str, str]] = {
    "memory_mb": "Memory of its processes together.",
    "cpu_percent": "Share of the processors; 100 is one of them.",
    "cpu_seconds": "Processor time of one start.",
    "threads": "Threads and processes.",
    "fds": "Open files and sockets.",
    "disk_mb": "Space for files of its own.",
    "log_bytes_per_s": "What it may log; more is dropped and counted.",
    "calls_in_flight": "Calls of its functions at the same time.",
    "start_timeout_s": "Time to become ready.",
    "stop_timeout_s": "Time to stop by itself.",
}
_UNITS: Final = {
    "_per_s": "a second",
    "_ms": "ms",
    "_s": "s",
    "_seconds": "s",
    "_mb": "MiB",
    "_bytes": "bytes",
    "_percent": "%",
}


@frozen
class Serving:
    """What `solo serve` takes beside `Settings`."""

    data_dir: str = key("./data", "solo", "The data directory; made if it is missing.", variable="SOLO_DATA")
    host: str = key("127.0.0.1", "solo", "The address to listen on.")
    http_port: int = key(
        8080, "solo", "The port to listen on; 0 takes a free one.", low=0, high=65_535, variable="SOLO_PORT"
    )
    log_level: str = key("info", "solo", "What the kernel says on standard error.", choices=LOG_LEVELS)
    allow_hosts: tuple[str, ...] = key(
        (), "security", "Names that browsers and proxies may use for the server.", variable="SOLO_ALLOW_HOST"
    )
    tls: bool = key(
        False,
        "security",
        "Serve HTTPS only, by TLS 1.3, and take certificates of clients as credentials; see solo certs init.",
    )
    tls_certificate: str = key(
        "certs/server.crt",
        "security",
        "The server's certificate (PEM, then its chain); relative to the data directory.",
    )
    tls_key: str = key(
        "certs/server.key", "security", "Its key, without a passphrase, mode 0600; relative to the data directory."
    )
    tls_client_ca: str = key(
        "certs/ca.crt", "security", "Whose certificates of clients are taken (PEM); relative to the data directory."
    )
    tls_client_required: bool = key(
        False, "security", "Nobody connects without a certificate, whatever token there is."
    )
    tls_revoked: str = key(
        "certs/revoked", "security", "Serial numbers of certificates that are refused; relative to the data directory."
    )


@frozen
class Entry:
    """One key of the file."""

    section: Section
    name: str
    told: Key
    default: Any
    """None: nothing unless it is set; `sample` tells the kind."""
    sample: Any
    owner: Literal["settings", "serving", "limits"]

    @property
    def path(self) -> str:
        return f"{self.section}.{self.name}"

    @property
    def variable(self) -> str:
        prefix = "SOLO_LIMIT_" if self.owner == "limits" else "SOLO_"
        return self.told.variable or prefix + self.name.upper()

    @property
    def unit(self) -> str:
        return next((unit for end, unit in _UNITS.items() if self.name.endswith(end)), "")

    @property
    def range(self) -> str:
        """What it may be, for people."""
        if self.told.choices:
            return ", ".join(self.told.choices)
        if self.told.low is None or self.told.high is None:
            return {bool: "true, false", tuple: "texts", str: "text"}.get(type(self.sample), "")
        return f"{self.told.low:.12g} to {self.told.high:.12g} {self.unit}".rstrip()

    def fault(self, value: object) -> str | None:
        return self.told.fault(value, self.sample)

    def typed(self, text: str) -> object:
        """The value that the text of an environment variable means; the text itself where it means none."""
        if isinstance(self.sample, bool):
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(
                text.lower(), text
            )
        if self.told.words:
            try:
                return tuple(shlex.split(text))
            except ValueError:  # a quotation that does not end
                return text
        if isinstance(self.sample, tuple):
            return tuple(part.strip() for part in text.split(","))
        if self.told.choices:
            return text.lower()
        for kind in (int, float):
            if isinstance(self.sample, int | float) and text.isascii() and "_" not in text:
                try:
                    return kind(text)
                except ValueError:
                    continue
        return text


@functools.cache
def table() -> dict[str, Entry]:
    """Every key there is, by `section.name`, in the order of the sections."""
    kernel, serving = keys_of(Settings).items(), keys_of(Serving).items()
    entries = [Entry(told.section, name, told, default, default, "serving") for name, (told, default) in serving]
    entries += [Entry(told.section, name, told, default, default, "settings") for name, (told, default) in kernel]
    for attribute in fields(Limits):
        low, high = RANGES[attribute.name]
        told = Key("service_limits", _LIMIT_SAYS[attribute.name], low, high)
        sample = 0 if attribute.name in WHOLE else 0.0
        entries.append(Entry("service_limits", attribute.name, told, None, sample, "limits"))
    order = list(SECTIONS)
    return {entry.path: entry for entry in sorted(entries, key=lambda entry: order.index(entry.section))}
