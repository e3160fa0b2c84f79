"""A whole store from a damaged one: the part that is kept, and what is lost with the rest.

All rows that can be read are copied into a new file. The checksums of its transactions say which
of them are as they were written: each damage ends a segment, and the next one begins behind it. A
segment is of use where a session can reach its end: from the journal's start, or from a snapshot
in it whose row and state are whole. Everything outside of the chosen segment goes, as the oldest
rows of a store do that comes to its limit, and a last transaction says so.

Before the new file gets its name, a session is brought to its end, which proves that a start will
succeed, and the state is stored as a snapshot.

What can still be read of a damaged store, copied row by row into a new one.

SQLite stops at a page that it cannot read, though the pages behind it may be good. Reading
continues at the first key behind the damage that can be read. The damaged file is opened for
reading alone. Rows that do not fit their table are left out; whether the others are those that
were written is for the checksums of the chain to say.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from ..core import snapshot
from ..core.session import Session
from ..core.table import N
from ..errors import StoreError
from .chain import HELD, Row, Seal, Segment, checksum_of, seal_as_is, segments, sums_of
from .journal import last_pos, last_snapshot
from .reading import Resumed, SnapshotRow, resume, snapshot_state, snapshots
from .schema import OUTPUTS, UNREADABLE, VERSION, check_version, held_weights, open_reader, runtime
from .units import delete_snapshot, insert_snapshot
from .verify import places

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


Keep: TypeAlias = Literal["newest", "longest"]
"""The part that reaches furthest, or the one with the most inputs."""

UNKNOWN_RUN = (0, -1, "unknown", 0, "", "{}", "{}")
"""What stands for a run whose row is damaged; nothing is compared with that of position -1."""

COUNTED = ("ticks", "labels", *OUTPUTS)


class Part(NamedTuple):
    """A segment of use, and the snapshots in it, of which there may be none."""

    segment: Segment
    snapshots: tuple[int, ...]

    @property
    def inputs(self) -> int:
        """Inputs of the journal that it has."""
        return self.segment.last.pos - self.segment.before.pos


class KeptPart(msgspec.Struct, frozen=True):
    """What a part has: inputs `first` to `last` of the journal, transactions and snapshots."""

    first: int
    last: int
    transactions: int
    snapshots: list[int]


class LostPart(msgspec.Struct):
    """What is not in the part that is kept.

    `transactions` and `inputs` are exact. The counts of rows are of those that could be read:
    where `unreadable` names their table, there were more. `by_stream` has those of each stream
    that lost some.
    """

    transactions: int
    inputs: int
    inputs_behind: int
    rows: dict[str, int]
    by_stream: dict[str, dict[str, int]]
    snapshots: list[int]


class Recovered(msgspec.Struct):
    """What became of a damaged store.

    `end` is the last input of the damaged one; `elements` are those of the state that a start
    continues from, after input `kept.last`; `other` is what the other choice would keep, None
    where it is the same. `rebuilt` are tables whose rows were computed again, and `inexact` the
    streams for which that had to do without the beginning of the journal.
    """

    what: str
    keep: Keep
    kept: KeptPart
    end: int
    elements: int
    lost: LostPart
    other: KeptPart | None
    unreadable: dict[str, str]
    rebuilt: list[str]
    inexact: list[str]


class StoreRecovery:
    """The recovery of one store.

    connection: of the new store, with what `salvage` read. salvaged: what that returned. session:
    makes a fresh one of the store's setup. store: the name of the damaged one, for messages.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        salvaged: Salvaged,
        session: Callable[[], Session],
        store: str,
    ) -> None:
        self._connection, self._salvaged, self._make = connection, salvaged, session
        self._store = store
        self._segments = segments(connection)
        self._evidence = _Evidence(connection)
        self._usable = self._usable_snapshots()
        self._first = self._first_pos()
        self._end = max(
            self._evidence.newest.pos, last_pos(connection), *(r.pos for r in self._usable), 0
        )
        self._by_stream = _by_stream(connection)

    def run(self, what: str, keep: Keep) -> Recovered:
        """Cut the store to the part that is kept, and end it with a transaction that says so.

        what: the damage. Raises StoreError where no part is of use, and StreamLSTMError where a
        part does not lead to the predictions that are stored.
        """
        parts = self._parts(keep)
        reasons = [] if parts else ["no snapshot is whole, and the journal's start is damaged"]
        for part in parts:
            others = self._parts("longest" if keep == "newest" else "newest")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                found = self._take(part, what, keep)
                self._connection.execute("COMMIT")
                other = [_kept(one) for one in others[:1] if one.segment != part.segment]
                return msgspec.structs.replace(found, other=other[0] if other else None)
            except StoreError as error:
                reasons.append(str(error))
                self._connection.execute("ROLLBACK")
        raise StoreError(
            f"nothing in {self._store} can be continued from ({what}; {'; '.join(reasons)}). Put "
            "back a copy, or start a new store"
        )

    # ---- what can be kept -------------------------------------------------------------

    def _usable_snapshots(self) -> list[SnapshotRow]:
        """Return the snapshots whose states are whole and whose rows are proven."""
        proven = {row[0]: row for row in self._evidence.snapshots(self._salvaged.snapshots)}
        return [row for row in snapshots(self._connection) if row.snapshot in proven]

    def _first_pos(self) -> int:
        """Return the first input of the damaged store, as far as that can be read."""
        first = self._evidence.first
        return 1 if first is None or first.number <= 1 else first.pos + 1

    def _parts(self, keep: Keep) -> list[Part]:
        """Return the parts of use, the one to keep first."""
        found = [part for one in self._segments if (part := self._part(one)) is not None]
        within = {number for part in found for number in part.snapshots}
        for row in self._usable:
            if row.snapshot not in within:  # its own transaction is damaged, but not its state
                alone = Seal(1, row.pos)
                found.append(Part(Segment(alone, alone), (row.snapshot,)))
        if keep == "newest":
            return sorted(found, key=lambda part: (-part.segment.last.pos, -part.inputs))
        return sorted(found, key=lambda part: (-part.inputs, -part.segment.last.pos))

    def _part(self, segment: Segment) -> Part | None:
        """Return what is of use of a segment: a session must reach its end without a hole."""
        before, last = segment
        within = [row for row in self._usable if before.pos <= row.pos <= last.pos]
        starts = [row.pos for row in within] + [0] * (before.pos == 0)
        if not starts:
            return None
        end = max((self._reach(segment, start) for start in starts), key=lambda seal: seal.number)
        kept = tuple(row.snapshot for row in within if row.pos <= end.pos)
        return Part(Segment(before, end), kept) if end.pos and (kept or not before.pos) else None

    def _reach(self, segment: Segment, start: int) -> Seal:
        """Return the last transaction that can be reached from a position: holes end the way."""
        before, last = segment
        hole = self._connection.execute(
            "SELECT min(pos) FROM events WHERE input = 1 AND kind = 'hole' AND pos > ? "
            "AND pos <= ?",
            (start, last.pos),
        ).fetchone()[0]
        if hole is None:
            return last
        found = self._connection.execute(
            "SELECT * FROM commits WHERE number BETWEEN ? AND ? AND pos < ? ORDER BY number DESC "
            "LIMIT 1",
            (before.number, last.number, hole),
        ).fetchone()
        return before if found is None else Seal(*found)

    # ---- keeping it -------------------------------------------------------------------

    def _take(self, part: Part, what: str, keep: Keep) -> Recovered:
        connection, (before, last) = self._connection, part.segment
        all_streams = connection.execute(HELD["streams"]).fetchall()
        self._cut(part)
        now = time.time_ns()
        runs = self._keep_runs(last)
        run = max(runs, default=0) + 1
        events = self._events(part, run, now, what)
        seal_as_is(connection, last, last.pos, events)
        session = self._make()
        resumed = resume(connection, session, self._store)
        found = places(connection, before, last, self._evidence.newest, session)
        connection.execute("DELETE FROM streams")
        marks = ", ".join("?" * 9)
        connection.executemany(f"INSERT INTO streams VALUES ({marks})", found.rows)  # noqa: S608
        self._enter(session, run, last.pos, now)
        for number in resumed.set_aside:
            delete_snapshot(connection, number)
        if resumed.snapshot is None or resumed.inputs:
            _save(connection, session, run, last.pos, now)
        seal_as_is(connection, last, last.pos, events)
        rebuilt = ["streams"] if set(map(tuple, found.rows)) != set(all_streams) else []
        rebuilt += ["runs"] if UNKNOWN_RUN[1] in self._run_positions() else []
        return Recovered(
            what=what,
            keep=keep,
            kept=_kept(part),
            end=self._end,
            elements=_elements(session),
            lost=self._lost(part, resumed),
            other=None,
            unreadable=self._salvaged.unreadable,
            rebuilt=rebuilt,
            inexact=found.inexact,
        )

    def _cut(self, part: Part) -> None:
        """Delete what is not in a part."""
        execute, (before, last) = self._connection.execute, part.segment
        for table in COUNTED:
            execute(f"DELETE FROM {table} WHERE pos <= ? OR pos > ?", (before.pos, last.pos))  # noqa: S608
        bounds = before.event, last.event
        if before == last:  # a snapshot alone
            execute("DELETE FROM events")
            execute("DELETE FROM commits")
            execute("INSERT INTO commits VALUES (?, ?, ?, ?, ?)", before)
        else:
            execute("DELETE FROM events WHERE event <= ? OR event > ?", bounds)
            numbers = before.number, last.number
            execute("DELETE FROM commits WHERE number < ? OR number > ?", numbers)
        for row in snapshots(self._connection):
            if row.snapshot not in part.snapshots:
                delete_snapshot(self._connection, row.snapshot)

    def _keep_runs(self, last: Seal) -> set[int]:
        """Keep the runs that are proven, and enter those that rows name; return their numbers."""
        execute = self._connection.execute
        proven = self._evidence.runs(execute(HELD["runs"]).fetchall())
        kept = {row[0] for row in proven if row[2] <= last.pos}
        for (run,) in execute("SELECT run FROM runs").fetchall():
            if run not in kept:
                execute("DELETE FROM runs WHERE run = ?", (run,))
        for table in ("ticks", "labels", "events", "snapshots"):
            for (run,) in execute(f"SELECT DISTINCT run FROM {table}").fetchall():  # noqa: S608
                if run not in kept:
                    execute(
                        "INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (run, *UNKNOWN_RUN)
                    )
                    kept.add(run)
        return kept

    def _events(self, part: Part, run: int, now: int, what: str) -> list[Row]:
        """Insert what says that something is missing; return the rows that have a checksum."""
        before, last = part.segment
        made: list[Row] = []

        def event(number: int, pos: int, is_input: int, kind: str, count: int, why: str) -> Row:
            row = (number, pos, run, now, is_input, kind, "", "", None, None, count, why)
            marks = ", ".join("?" * len(row))
            self._connection.execute(f"INSERT INTO events VALUES ({marks})", row)  # noqa: S608
            return row

        alone = not part.inputs  # a journal without a row would be that of a new store
        if before.number:
            event(0, 0, 0, "trimmed", before.pos - alone, "what came before a damage, or with it")
        number = last.event + 1
        if alone:
            made.append(event(number, last.pos, 1, "hole", 1, "it was damaged"))
            number += 1
        made.append(event(number, last.pos, 0, "recovered", 1, what[:500]))
        return made

    def _enter(self, session: Session, run: int, pos: int, now: int) -> None:
        """Enter the recovery as a run, with the weights that it led to."""
        about = runtime() | {"weights": held_weights(session)}
        configuration = self._connection.execute(
            "SELECT value FROM setup WHERE name = 'configuration'"
        ).fetchone()[0]
        row = (run, now, pos, "recover", os.getpid(), about["stream_lstm"])
        texts = msgspec.json.encode(about).decode(), configuration
        self._connection.execute(
            "INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, *texts)
        )

    # ---- what it was ------------------------------------------------------------------

    def _run_positions(self) -> set[int]:
        return {pos for (pos,) in self._connection.execute("SELECT pos FROM runs")}

    def _lost(self, part: Part, resumed: Resumed) -> LostPart:
        before, last = part.segment
        first, newest = self._evidence.first or Seal(), self._evidence.newest
        all_of_them = newest.number - max(first.number - 1, 0)
        kept = 0 if before == last else last.number - before.number
        left = _by_stream(self._connection)
        lost = {stream: counts - left[stream] for stream, counts in self._by_stream.items()}
        behind = self._end - last.pos
        good = set(part.snapshots) - set(resumed.set_aside)
        return LostPart(
            transactions=max(all_of_them - kept, 0),
            inputs=behind + max(before.pos - (self._first - 1), 0),
            inputs_behind=behind,
            rows={table: sum(one[table] for one in lost.values()) for table in COUNTED},
            by_stream={stream: dict(counts) for stream, counts in lost.items() if counts},
            snapshots=[row[0] for row in self._salvaged.snapshots if row[0] not in good],
        )


class _Evidence:
    """What the commits say of tables whose rows change.

    Whether a commit is intact or not: a sum of 64 bits that is equal to it proves the rows.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.first: Seal | None = None
        self.newest = Seal()
        self._totals: dict[str, set[int]] = {"snapshots": set(), "runs": set()}
        self._entered: set[int] = set()
        seals = map(Seal._make, connection.execute("SELECT * FROM commits ORDER BY number"))
        for before, seal in pairwise(_with_start(seals)):
            self.first = self.first or seal
            self.newest = seal
            was, now = sums_of(before), sums_of(seal)
            for table, totals in self._totals.items():
                totals.update({now[table]} if table in now else ())
            if was and now:
                self._entered.add((now["runs"] - was["runs"]) % 2**64)

    def snapshots(self, rows: list[Row]) -> list[Row]:
        """Return the most rows that were all that there were after some transaction."""
        found: list[Row] = []
        sums = [_checksum(row) for row in rows]
        for low in range(len(rows)):
            for high in range(low + len(found) + 1, len(rows) + 1):
                if sum(sums[low:high]) % 2**64 in self._totals["snapshots"]:
                    found = rows[low:high]
        return found

    def runs(self, rows: list[Row]) -> list[Row]:
        """Return the rows that are proven: by the sum of all up to one, or one by itself."""
        total, proven = 0, 0
        for k, row in enumerate(rows, 1):
            total = (total + _checksum(row)) % 2**64
            if total in self._totals["runs"]:
                proven = k
        return rows[:proven] + [row for row in rows[proven:] if _checksum(row) in self._entered]


def _with_start(seals: Iterator[Seal]) -> Iterator[Seal]:
    yield Seal()
    yield from seals


def _checksum(row: Row) -> int:
    """Return the checksum of a row that may hold bytes that are no text."""
    try:
        return checksum_of(row)
    except UnicodeError:
        return -1


def _kept(part: Part) -> KeptPart:
    before, last = part.segment
    transactions = 0 if before == last else last.number - before.number
    return KeptPart(before.pos + 1, last.pos, transactions, list(part.snapshots))


def _save(connection: sqlite3.Connection, session: Session, run: int, pos: int, now: int) -> None:
    """Store the state as a snapshot, so that the next start need not replay the journal."""
    state = snapshot.take(session)
    about = snapshot.fingerprint(session.config, session.columns, session.members)
    digest = hashlib.sha256(state).hexdigest()
    where = last_snapshot(connection) + 1, run, pos, now
    row = (*where, _elements(session), snapshot.VERSION, about, digest, None)
    insert_snapshot(connection, row, state)


def _by_stream(connection: sqlite3.Connection) -> dict[str, Counter[str]]:
    """Return how many rows each stream has in each table of inputs and outputs; ticks by one."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for table in COUNTED:
        one = "count" if table == "ticks" else "1"
        query = f"SELECT stream, sum({one}) FROM {table} GROUP BY stream"  # noqa: S608 - ours
        for stream, count in connection.execute(query):
            found[stream][table] = int(count)
    return found


def _elements(session: Session) -> int:
    """Return the elements of all streams."""
    return int(session.table.ints[: len(session.table), N].sum())
