"""Every operation there is. Owns: importing the modules that register them. Never: a list kept by hand of their names."""

from solo_trio.operations import audit, calls, changing, deploying, events, logs, openapi, services, system, tenants  # noqa: F401
