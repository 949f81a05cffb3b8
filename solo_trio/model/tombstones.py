"""Tenants that were removed. Owns: when, so that their certificates open nothing of a later one. Never: what was theirs."""

from __future__ import annotations

from typing import Final

from attrs import field, frozen
from rpds import HashTrieMap

from solo_trio.model.evolving import evolve

TOMBSTONES_MAX: Final = 100_000
"""About 10 MiB. For one more all are forgotten, and every certificate from before counts as a removed tenant's."""


@frozen
class Tombstones:
    at_us: HashTrieMap[str, int] = field(factory=HashTrieMap)
    """When the last tenant of an id was removed."""
    before_us: int = 0

    def add(self, tenant_id: str, at_us: int) -> Tombstones:
        if len(self.at_us) >= TOMBSTONES_MAX and tenant_id not in self.at_us:
            return Tombstones(HashTrieMap(), at_us)
        return evolve(self, at_us=self.at_us.insert(tenant_id, at_us))

    def since_us(self, tenant_id: str) -> int:
        """What was made for a tenant of that id before, was not made for the one that there is; 0: there was no other."""
        return max(self.before_us, self.at_us.get(tenant_id, 0))
