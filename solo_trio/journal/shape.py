"""What the tables look like. Owns: whether they are the ones that the migrations made, and can be opened. Never: reads a row.

SQLite's own check looks into tables that hold something. That an index of an empty table cannot be opened, or that a
column has another name since a bit was flipped, would be found by the first append that needs it.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from contextlib import closing
from functools import cache
from typing import Final

from attrs import frozen

from solo_trio.journal import schema
from solo_trio.journal.library import damaged, driver

Shape = frozenset[tuple[object, ...]]
"""Rows about tables, columns and indexes; each begins with the table and the name it is about."""

_OBJECTS: Final = "SELECT tbl_name, name, type FROM sqlite_schema"
_COLUMNS: Final = """
    SELECT object.tbl_name, object.name, x.* FROM sqlite_schema object JOIN pragma_table_xinfo(object.name) x
    WHERE object.type = 'table'
"""
_INDEXED: Final = """
    SELECT object.tbl_name, object.name, list."unique", list.partial, x.seqno, x.name, x."desc", x.coll
    FROM sqlite_schema object JOIN pragma_index_list(object.tbl_name) list ON list.name = object.name
    JOIN pragma_index_xinfo(object.name) x WHERE object.type = 'index'
"""
_SHARED_ROOTS: Final = """
    SELECT min(name), max(name) FROM sqlite_schema WHERE rootpage > 0 GROUP BY rootpage HAVING count(*) > 1
"""
_DISPENSABLE: Final = "checkpoints"
"""Whether this can be opened is seen where it is read: that it cannot is told, and the whole log is replayed."""


def check(connection: driver.Connection) -> None:
    """Raises `Faulted`, or what SQLite says about a table or an index that cannot be opened.

    Tables beside ours are nobody's business here: statistics, or what a foreign tool has copied.
    """
    made = _made(schema.version(connection))
    found = _shape(connection, made.tables)
    ours = {name for _, name, *_ in made.shape}
    for table, name, *_ in sorted(made.shape ^ found, key=repr):
        if name in ours:
            raise damaged(f"{schema.DATABASE_FILE}: {name} is not as it was made")
        raise damaged(f"{schema.DATABASE_FILE}: Solo did not make {name}, which is on {table}; if you did, drop it")
    for table in sorted(_made(len(schema.MIGRATIONS)).tables - made.tables):
        if connection.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (table,)).fetchone():
            raise damaged(f"{schema.DATABASE_FILE}: its schema version is not that of its tables ({table})")
    for one, other in connection.execute(_SHARED_ROOTS):
        raise damaged(f"{schema.DATABASE_FILE}: {one} and {other} are in the same place")
    for way in made.ways_in:
        connection.execute(way).fetchone()


@frozen
class _Made:
    """What the migrations make, up to a version. `ways_in`: a statement for each table and index, which opens it."""

    tables: frozenset[str]
    shape: Shape
    ways_in: tuple[str, ...]


@cache
def _made(version: int) -> _Made:
    with closing(driver.connect(":memory:", isolation_level=None)) as example:
        schema.migrate(example, version)
        objects = example.execute(_OBJECTS).fetchall()
        tables = frozenset(table for table, *_ in objects)
        return _Made(tables, _shape(example, tables), tuple(_ways_in(objects)))


def _ways_in(objects: Iterable[tuple[str, str, str]]) -> Iterator[str]:
    for table, name, type_ in objects:
        if table != _DISPENSABLE:
            way = f'INDEXED BY "{name}"' if type_ == "index" else "NOT INDEXED"
            yield f'SELECT 1 FROM "{table}" {way} LIMIT 1'  # noqa: S608


def _shape(connection: driver.Connection, tables: Container[str]) -> Shape:
    return frozenset(
        row for query in (_OBJECTS, _COLUMNS, _INDEXED) for row in connection.execute(query) if row[0] in tables
    )
