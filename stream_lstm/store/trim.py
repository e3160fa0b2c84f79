"""Letting go of the oldest of a store, so that its file stays within its limit.

What goes is the journal up to a snapshot that is kept, and its results, a little with each
commit; SQLite uses the pages again, so that the file grows no further. The oldest snapshot that is
kept bounds it: from there on everything can be replayed. An event `trimmed` counts the rows of
the journal that are gone.
"""

from __future__ import annotations

import sqlite3

from .outputs import OUTPUTS

POSITIONS = 2_000
"""Rows of the journal that go with one commit: a few milliseconds."""

LOOK_EVERY = 16
"""Commits between two looks at the size."""


def first_pos(connection: sqlite3.Connection) -> int:
    """Return the `pos` of the journal's first row, 1 where there is none."""
    found = connection.execute(
        "SELECT min(pos) FROM (SELECT min(pos) AS pos FROM ticks UNION ALL "
        "SELECT min(pos) FROM labels UNION ALL "
        "SELECT min(pos) FROM events WHERE input = 1)"
    ).fetchone()[0]
    return 1 if found is None else int(found)


def used_bytes(connection: sqlite3.Connection) -> int:
    """Return what the file's pages hold, those that wait to be used again left out."""
    page, pages, free = (
        int(connection.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_size", "page_count", "freelist_count")
    )
    return page * (pages - free)


def trim(connection: sqlite3.Connection, run: int, now_ns: int) -> int:
    """Delete the oldest rows, within a transaction; return how many of the journal went."""
    oldest = connection.execute(
        "SELECT min(pos) FROM snapshots WHERE set_aside IS NULL"
    ).fetchone()[0]
    first = first_pos(connection)
    until = _end(connection, first, oldest or 0)
    if until < first:
        return 0
    reached = connection.execute(
        "SELECT stream, max(n_after) FROM ticks WHERE pos <= ? GROUP BY stream", (until,)
    ).fetchall()
    for table in OUTPUTS:
        connection.executemany(
            f"DELETE FROM {table} WHERE stream = ? AND n <= ? AND pos <= ?",  # noqa: S608 - ours
            [(*one, until) for one in reached],
        )
    for table in ("ticks", "labels"):
        connection.execute(f"DELETE FROM {table} WHERE pos <= ?", (until,))  # noqa: S608
    connection.execute("DELETE FROM events WHERE pos <= ? AND kind <> 'trimmed'", (until,))
    connection.execute(
        "DELETE FROM commits WHERE number < (SELECT max(number) FROM commits WHERE pos <= ?)",
        (until,),
    )
    gone = until - first + 1
    _count(connection, run, now_ns, gone)
    return gone


def _end(connection: sqlite3.Connection, first: int, oldest: int) -> int:
    """Return the last position that goes, which is one with which a transaction ends.

    What one transaction wrote goes together, since it has one checksum. Where the first one left
    is too large for one commit, it alone goes; 0 where nothing can go.
    """
    share = min(first + POSITIONS - 1, oldest)
    for which, most in (("max", share), ("min", oldest)):
        found = connection.execute(
            f"SELECT {which}(pos) FROM commits WHERE pos >= ? AND pos <= ?",  # noqa: S608 - ours
            (first, most),
        ).fetchone()[0]
        if found is not None:
            return int(found)
    return 0


def _count(connection: sqlite3.Connection, run: int, now_ns: int, gone: int) -> None:
    """Add to the one event that says how much is gone."""
    found = connection.execute(
        "UPDATE events SET at_ns = ?, count = count + ? WHERE kind = 'trimmed'", (now_ns, gone)
    )
    if not found.rowcount:
        connection.execute(
            "INSERT INTO events VALUES (0, 0, ?, ?, 0, 'trimmed', '', '', NULL, NULL, ?, "
            "'the file came to its limit, max_gb')",
            (run, now_ns, gone),
        )
