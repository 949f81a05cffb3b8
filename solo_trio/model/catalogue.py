"""Every event there is. Owns: importing the modules that register them. Never: a list kept by hand of their names."""

from solo_trio.model import (
    capability_events,
    checkpoint,
    denial,
    resources,
    secret,
    service_events,
    system,
    tenant,
    use,
    tenant_removal,
)  # noqa: F401
