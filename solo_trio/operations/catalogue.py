"""Every operation there is. Owns: importing the modules that register them. Never: a list kept by hand of their names."""

from solo_trio.operations import (  # noqa: F401
    audit,
    calls,
    capabilities,
    changing,
    compaction,
    deploying,
    events,
    explanations,
    logs,
    openapi,
    secrets,
    services,
    states,
    system,
    tenants,
    tokens,
)
