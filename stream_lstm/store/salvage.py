"""The readable rows of a damaged store, copied into a new one.

SQLite stops at a page that it cannot read, though the pages behind it may be intact. Reading
continues at the first readable key behind the damage. The damaged file is opened read-only. Rows
that do not fit their table are left out; the checksums of the chain decide about the others.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from .schema import DAMAGED, OUTPUTS, VERSION, Progress, Row, check_version, open_reader
from .units import insert_snapshot, snapshot_state

KEYS = {"setup": "rowid", "runs": "run", "streams": "rowid", "commits": "number", "ticks": "pos",
        "labels": "pos", "events": "event"}  # fmt: skip
"""Tables with one numeric key. Those of outputs have two keys, and snapshots have large states."""

INSERTED = 500
"""Rows inserted at a time."""

LARGEST = 2**60
"""No key is larger: the search for readable rows ends here."""

_BAD_ROW = (sqlite3.IntegrityError, UnicodeError, OverflowError)
"""What inserting raises for a row that does not fit its table."""


class _UnreadableError(Exception):
    """The damaged store cannot be read here; errors of the new store are not caught with it."""


class Salvaged(NamedTuple):
    """What a salvage could not copy.

    `unreadable` maps tables that could not be read in full to the error. `snapshots` are the rows
    of all snapshots, including those with a damaged state.
    """

    unreadable: dict[str, str]
    snapshots: list[Row]


def open_damaged(path: Path, *, lenient: bool = True) -> sqlite3.Connection:
    """Open a store that may be damaged, read-only.

    A file without a log has no writer: then SQLite needs no files beside it. lenient: also open a
    file that is cut off, or that has a damaged table definition.

    Raises StoreError where SQLite cannot read anything, and for another kind of file.
    """
    path = path.resolve()
    log = path.with_name(path.name + "-wal")
    options = "mode=ro" if log.exists() else "mode=ro&immutable=1"

    def prepare(connection: sqlite3.Connection) -> None:
        if lenient:
            connection.execute("PRAGMA writable_schema = ON")
        connection.execute("BEGIN")
        check_version(connection, path, oldest=VERSION)
        # No cell is larger than the file; a damaged length would allocate gigabytes.
        size = path.stat().st_size + (log.stat().st_size if log.exists() else 0)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(size, 2**20))

    return open_reader(path, options, prepare)


def salvage(
    source: sqlite3.Connection, target: sqlite3.Connection, report: Progress = lambda *_: None
) -> Salvaged:
    """Copy the readable rows from a connection of `open_damaged` into a new store's tables.

    report takes the tables copied and their total. Raises what SQLite raises where the new store
    cannot be written.
    """
    # text that is not UTF-8 can be read then, but not inserted
    source.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
    copy = _Copy(source, target)
    total = len(KEYS) + len(OUTPUTS) + 1
    for done, (table, key) in enumerate(KEYS.items()):
        report(done, total)
        copy.table(table, key)
    for done, table in enumerate(OUTPUTS, len(KEYS)):
        report(done, total)
        copy.outputs(table)
    return Salvaged(copy.unreadable, copy.snapshots())


class _Copy:
    def __init__(self, source: sqlite3.Connection, target: sqlite3.Connection) -> None:
        self._source, self._target = source, target
        self.unreadable: dict[str, str] = {}

    def table(self, table: str, key: str) -> None:
        columns = self._columns(table)
        if columns:
            rows = self._rows(table, f"SELECT {key}, {', '.join(columns)} FROM {table}", key)  # noqa: S608
            self._insert(table, columns, rows)

    def outputs(self, table: str) -> None:
        """Copy a table of outputs, whose key is the stream and then the element."""
        columns = self._columns(table)
        if not columns:
            return
        select = f"SELECT n, {', '.join(columns)} FROM {table}"  # noqa: S608
        try:
            self._insert(table, columns, self._read(f"{select} ORDER BY stream, n"))
            return
        except _UnreadableError as error:
            self.unreadable[table] = str(error)
        for stream in self._target.execute("SELECT DISTINCT stream FROM ticks").fetchall():
            rows = self._rows(table, select, "n", "stream = ? AND ", stream)
            self._insert(table, columns, rows)

    def snapshots(self) -> list[Row]:
        """Copy the intact snapshots; return the rows of all."""
        select = "SELECT snapshot, * FROM snapshots"
        rows = [row[1:] for row in self._rows("snapshots", select, "snapshot")]
        for row in rows:
            number, *_, set_aside = row
            if set_aside is None:
                try:
                    insert_snapshot(self._target, row, snapshot_state(self._source, number))
                except DAMAGED as error:
                    self.unreadable[f"snapshot {number}"] = str(error)
        return rows

    def _columns(self, table: str) -> list[str]:
        """Return the columns that a table has in both files; none without its definition."""
        definition = f"PRAGMA table_info({table})"
        ours = [row[1] for row in self._target.execute(definition)]
        try:
            theirs = [row[1] for row in self._read(definition)]
        except _UnreadableError:
            theirs = []
        found = [name for name in ours if name in theirs]
        if not found:
            self.unreadable[table] = "its definition cannot be read"
        return found

    def _read(self, query: str, values: Row = ()) -> Iterator[Row]:
        """Yield the rows of a query; raises _UnreadableError at a damage."""
        try:
            yield from self._source.execute(query, values)
        except sqlite3.Error as error:
            raise _UnreadableError(str(error)) from None

    def _rows(
        self, table: str, select: str, key: str, where: str = "", values: Row = ()
    ) -> Iterator[Row]:
        """Yield the readable rows in the order of their key, an integer that comes first."""
        query = f"{select} WHERE {where}{key} > ? ORDER BY {key}"
        after = -1
        while after < LARGEST:
            try:
                for row in self._read(query, (*values, after)):
                    after = row[0]
                    yield row
                return
            except _UnreadableError as error:
                self.unreadable.setdefault(table, str(error))
            after = self._behind(f"{query} LIMIT 1", values, after)

    def _behind(self, query: str, values: Row, after: int) -> int:
        """Return the first key behind a damage from which a row can be read."""

        def can_read(key: int) -> bool:
            try:
                self._source.execute(query, (*values, key)).fetchone()
                return True
            except sqlite3.Error:
                return False

        step = 1
        while after + step < LARGEST and not can_read(after + step):
            step *= 2
        low, high = after + step // 2, after + step
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if can_read(middle) else (middle, high)
        return high

    def _insert(self, table: str, columns: list[str], rows: Iterator[Row]) -> None:
        """Insert rows without their first cell, the key."""
        marks = ", ".join("?" * len(columns))
        into = f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608
        while group := [row[1:] for row in islice(rows, INSERTED)]:
            try:
                self._target.executemany(into, group)
                continue
            except _BAD_ROW as error:
                self.unreadable.setdefault(table, str(error))
            for row in group:
                with contextlib.suppress(*_BAD_ROW):
                    self._target.execute(into, row)
