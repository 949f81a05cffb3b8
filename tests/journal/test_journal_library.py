from __future__ import annotations

import errno
import importlib.util

import pytest

from solo_trio.journal.library import driver, means, warning_for


def test_sqlite_utils_and_we_use_one_library() -> None:
    from sqlite_utils import Database

    expected = "pysqlite3" if importlib.util.find_spec("pysqlite3") else "sqlite3"
    assert driver.__name__.split(".")[0] == expected
    db = Database(memory=True)
    assert isinstance(db.conn, driver.Connection)
    db.close()


@pytest.mark.parametrize(
    ("version", "warned"),
    [((3, 6, 23), False), ((3, 7, 0), True), ((3, 40, 1), True), ((3, 51, 2), True), ((3, 51, 3), False)],
)
def test_versions_with_the_flaw_are_warned_of(version: tuple[int, int, int], warned: bool) -> None:
    assert (warning_for(version) is not None) is warned


def test_errors_are_sorted() -> None:
    assert means(OSError(errno.ENOSPC, "")) == means(OSError(errno.EDQUOT, "")) == "full"
    assert means(OSError(errno.EROFS, "")) == "unwritable"
    assert means(OSError(errno.EIO, "")) == means(ValueError()) == "other"
    connection = driver.connect(":memory:")
    connection.execute("PRAGMA page_size = 512")
    connection.execute("PRAGMA max_page_count = 2")
    connection.execute("CREATE TABLE t (a)")
    with pytest.raises(driver.OperationalError) as caught:
        connection.execute("INSERT INTO t VALUES (zeroblob(4000))")
    connection.close()
    assert means(caught.value) == "full"
