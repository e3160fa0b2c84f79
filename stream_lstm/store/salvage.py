"""What can still be read of a damaged store, copied row by row into a new one.

SQLite stops at a page that it cannot read, though the pages behind it may be good. Reading
continues at the first key behind the damage that can be read. The damaged file is opened for
reading alone. Rows that do not fit their table are left out; whether the others are those that
were written is for the checksums of the chain to say.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

from ..errors import StoreError
from .chain import HELD, Row
from .outputs import OUTPUTS
from .reading import snapshot_state
from .saving import insert_snapshot
from .schema import UNREADABLE, VERSION, check_version, open_reader

KEYS = {"setup": "rowid", "runs": "run", "streams": "rowid", "commits": "number", "ticks": "pos",
        "labels": "pos", "events": "event"}  # fmt: skip
"""Tables that are read by a number, with its name. Those of outputs have two keys, and snapshots
have large states."""

INSERTED = 500
"""Rows inserted at a time."""

LARGEST = 2**60
"""No key is larger: a search for readable ones ends here."""

Progress: TypeAlias = Callable[[int, int], object]
"""Takes the tables that are copied, and of how many."""


class Salvaged(NamedTuple):
    """What is not a row of the new store: `unreadable` says of which tables not all could be read.

    `snapshots` are the rows of `HELD` of all snapshots, with those whose state is damaged.
    """

    unreadable: dict[str, str]
    snapshots: list[Row]


def open_damaged(path: Path, *, lenient: bool = True) -> sqlite3.Connection:
    """Open a store that may be damaged, for reading alone.

    A file without a log has no writer: then SQLite needs no files beside it. lenient: also open a
    file that is cut off, or that has a table whose definition is damaged.

    Raises StoreError where SQLite cannot read anything, and for another kind of file.
    """
    path = path.resolve()
    log = path.with_name(path.name + "-wal")
    how = "mode=ro" if log.exists() else "mode=ro&immutable=1"

    def prepare(connection: sqlite3.Connection) -> None:
        if lenient:
            connection.execute("PRAGMA writable_schema = ON")
        connection.execute("BEGIN")
        check_version(connection, path, oldest=VERSION)
        # No cell is larger than the file; a damaged length would ask for gigabytes.
        size = path.stat().st_size + (log.stat().st_size if log.exists() else 0)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(size, 2**20))

    return open_reader(path, how, prepare)


def salvage(
    source: sqlite3.Connection, target: sqlite3.Connection, report: Progress = lambda *_: None
) -> Salvaged:
    """Copy what can be read from a connection of `open_damaged` into the tables of a new store.

    Raises what SQLite raises where the new store cannot be written.
    """
    source.text_factory = _text
    copy = _Copy(source, target)
    for done, (table, key) in enumerate(KEYS.items()):
        report(done, len(KEYS) + len(OUTPUTS) + 1)
        copy.table(table, key)
    for done, table in enumerate(OUTPUTS, len(KEYS)):
        report(done, len(KEYS) + len(OUTPUTS) + 1)
        copy.outputs(table)
    return Salvaged(copy.unreadable, copy.snapshots())


def _text(data: bytes) -> str:
    """Return text, also where it is not UTF-8: such a row can be read, and not inserted."""
    return data.decode("utf-8", "surrogateescape")


class _Copy:
    def __init__(self, source: sqlite3.Connection, target: sqlite3.Connection) -> None:
        self._source, self._target = source, target
        self.unreadable: dict[str, str] = {}

    def table(self, table: str, key: str) -> None:
        columns = self._columns(table)
        if columns:
            rows = self._rows(table, f"SELECT {key}, {', '.join(columns)} FROM {table}", key)  # noqa: S608
            self._insert(table, columns, (row[1:] for row in rows))

    def outputs(self, table: str) -> None:
        """Copy a table of outputs, whose keys are the stream and then the element."""
        columns = self._columns(table)
        if not columns:
            return
        select = f"SELECT n, {', '.join(columns)} FROM {table}"  # noqa: S608
        try:
            every = self._read(f"{select} ORDER BY stream, n")
            self._insert(table, columns, (row[1:] for row in every))
            return
        except _UnreadableError as error:
            self.unreadable[table] = str(error)
        streams = self._target.execute("SELECT DISTINCT stream FROM ticks").fetchall()
        for (stream,) in streams:
            rows = self._rows(table, select, "n", "stream = ? AND ", (stream,))
            self._insert(table, columns, (row[1:] for row in rows))

    def snapshots(self) -> list[Row]:
        """Copy the snapshots that are whole; return what is checked of each, whole or not."""
        held = HELD["snapshots"].replace("SELECT ", "SELECT snapshot, ")
        rows = [row[1:] for row in self._rows("snapshots", held, "snapshot")]
        for number, *about, aside in rows:
            if aside is not None:
                continue
            try:
                state = snapshot_state(self._source, number)
            except _DAMAGED as error:
                self.unreadable[f"snapshot {number}"] = str(error)
                continue
            try:
                insert_snapshot(self._target, (number, *about, None), state)
            except _BAD_ROW as error:
                self.unreadable[f"snapshot {number}"] = str(error)
        return rows

    def _columns(self, table: str) -> list[str]:
        """Return the columns that a table has in both files; none where its definition is lost."""
        described = f"PRAGMA table_info({table})"
        ours = [row[1] for row in self._target.execute(described)]
        try:
            theirs = [row[1] for row in self._read(described)]
        except _UnreadableError:
            theirs = []
        found = [name for name in ours if name in theirs]
        if not found:
            self.unreadable[table] = "its definition cannot be read"
        return found

    def _read(self, query: str, values: Row = ()) -> Iterator[Row]:
        """Yield the rows of a query; raises _UnreadableError where the damage is."""
        try:
            yield from self._source.execute(query, values)
        except sqlite3.Error as error:
            raise _UnreadableError(str(error)) from None

    def _rows(
        self, table: str, select: str, key: str, where: str = "", values: Row = ()
    ) -> Iterator[Row]:
        """Yield the rows that can be read, in the order of a whole number that comes first."""
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
        marks = ", ".join("?" * len(columns))
        into = f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608
        group: list[Row] = []
        for row in rows:
            group.append(row)
            if len(group) == INSERTED:
                self._insert_group(table, into, group)
                group = []
        self._insert_group(table, into, group)

    def _insert_group(self, table: str, into: str, group: list[Row]) -> None:
        try:
            self._target.executemany(into, group)
            return
        except _BAD_ROW as error:
            self.unreadable.setdefault(table, str(error))
        for row in group:
            try:
                self._target.execute(into, row)
            except _BAD_ROW:
                continue


class _UnreadableError(Exception):
    """The damaged store cannot be read here; errors of the new one pass by."""


_DAMAGED: tuple[type[Exception], ...] = (StoreError, *UNREADABLE)

_BAD_ROW = (sqlite3.IntegrityError, UnicodeError, OverflowError)
"""What inserting raises for a row that does not fit its table."""
