"""Every event there is. Owns: importing the modules that register them. Never: a list kept by hand of their names."""

from solo_trio.model import capability, checkpoint, resources, service_events, system, tenant  # noqa: F401
