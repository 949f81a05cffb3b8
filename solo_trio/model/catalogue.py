"""Every event there is. Owns: importing the modules that register them. Never: a list kept by hand of their names."""

from solo_trio.model import (  # noqa: F401
    backup,
    capability_events,
    checkpoint,
    compaction,
    denial,
    repair,
    resources,
    secret,
    service_events,
    system,
    tenant,
    tenant_removal,
    use,
)
