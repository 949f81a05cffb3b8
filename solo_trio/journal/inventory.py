"""What stands beside the log. Owns: naming all of it at one moment. Never: reads what is in a source or a sealed row."""

from __future__ import annotations

from typing import Final

from solo_trio.journal.library import driver
from solo_trio.model.record import Inventory, KeyRow, NamedRequest, NamedSecret

_KEYS: Final = "SELECT key_id, incarnation, purpose, wrapped FROM keys ORDER BY key_id"
_SECRETS: Final = (
    "SELECT incarnation, name, version, version_id, key_id FROM secrets ORDER BY incarnation, name, version"
)
_REQUESTS: Final = "SELECT scope, key, event_id FROM idempotency ORDER BY event_id"


def inventory(connection: driver.Connection) -> Inventory:
    """All in one read transaction."""
    connection.execute("BEGIN")
    try:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        secrets = connection.execute(_SECRETS) if "secrets" in tables else ()  # not in the first versions of the schema
        return Inventory(
            artifacts=frozenset(digest for (digest,) in connection.execute("SELECT digest FROM artifacts")),
            keys=tuple(KeyRow(*row) for row in connection.execute(_KEYS)),
            secrets=tuple(NamedSecret(*row) for row in secrets),
            requests=tuple(NamedRequest(*row) for row in connection.execute(_REQUESTS)),
        )
    finally:
        connection.execute("COMMIT")
