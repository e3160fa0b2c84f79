"""The writing of units into the tables of a store, a transaction for each batch of them.

Ticks of one stream that continue each other within a batch become one row: where blocks are cut
changes nothing.

Letting go of the oldest of a store, so that its file stays within its limit.

What goes is the journal up to a snapshot that is kept, and its results, a little with each
commit; SQLite uses the pages again, so that the file grows no further. The oldest snapshot that is
kept bounds it: from there on everything can be replayed. An event `trimmed` counts the rows of
the journal that are gone.
"""

from __future__ import annotations

import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import msgspec
import numpy as np

from ..errors import GoneError
from ..events import End, Expiry, Gap, Label, Rollback, Run, SessionStart, Ticks
from ..records import Batch
from .chain import HELD, Chain, checksum_of
from .schema import INTO, OUTPUTS, damaged, row_of, rows_of
from .units import (
    Hole,
    JournalPosition,
    Note,
    Result,
    Saved,
    Saving,
    Settle,
    Step,
    Unit,
    count_of,
    delete_snapshot,
)

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


MAX_ROW_TICKS = 65_536
"""Ticks of one row at most: what a reader must hold at once."""

KEPT = 3
"""Snapshots kept, the newest."""

Row = Sequence[Any]


TABLES = ("ticks", "labels", *INTO.values(), "events")
"""Tables that a batch brings rows of, with their columns where these follow from a record."""

GROUPS = (64, 8, 1)
"""Rows of one statement: the interpreter's lock is let go of once for each, and not for each row,
which would have this thread wait for the other one as often."""


class Journal:
    """The writing end of a store.

    connection: of `schema.connect`. run: the number of this run. max_bytes: of the file, which is
    trimmed beyond that; 0 leaves it. clock: nanoseconds since 1970.
    Attributes: `pos` of the last row; `positions` of the streams; `trimmed`, the journal's rows
    that went.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        run: int,
        *,
        max_bytes: int = 0,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.connection = connection
        self.pos = last_pos(connection)
        self.positions = read_positions(connection)
        self.chain = Chain(connection)
        self.trimmed = 0
        self._run, self._max_bytes, self._clock = run, max_bytes, clock
        self._commits, self._too_large = 0, False
        self._savings: list[Saving] = []
        self._number = last_snapshot(connection)

    def reopen(self, connection: sqlite3.Connection) -> bool:
        """Go on with another connection; return whether the last batch is there after all.

        An error at the very end of a commit does not say whether it was one. Raises GoneError
        where what was committed is missing.
        """
        before, now = self.pos, last_pos(connection)
        if now < before:
            raise GoneError(f"the file has lost inputs {now + 1:,} to {before:,} of its journal")
        self.connection = connection
        self.pos, self.positions = now, read_positions(connection)
        self.chain = Chain(connection)
        known = {number for (number,) in connection.execute("SELECT snapshot FROM snapshots")}
        self._savings = [saving for saving in self._savings if saving.number not in known]
        self._number = max(self._number, *known, 0)
        return now != before

    @property
    def saving(self) -> int:
        """How many snapshots are not whole yet, for which `write` has to be called again."""
        return len(self._savings)

    def write(self, units: Iterable[Unit]) -> None:
        """Write a batch in one transaction; nothing of it is there where SQLite raises.

        A snapshot is written in slices, the first with this call and the others with the next
        ones. That of a hole is written whole, in transactions of their own before the hole's.
        """
        event = self.chain.last.event
        batch = _Batch(self._run, self.pos, self.positions, self._clock(), event)
        for unit in units:
            batch.add(unit)
        batch.flush()
        begun = [self._begin(batch, k) for k in range(len(batch.saved))]
        if batch.has_hole:
            self._store_pieces([*self._savings, *begun])
        self._commit(batch, begun)

    def _begin(self, batch: _Batch, k: int) -> Saving:
        saved, pos = batch.saved[k]
        return Saving(saved, self._number + 1 + k, self._run, pos, self._clock())

    def _store_pieces(self, savings: list[Saving]) -> None:
        """Write all slices but the last of snapshots, in transactions of their own."""
        for saving in savings:
            while not saving.is_last:
                with self.connection:
                    self.connection.execute("BEGIN IMMEDIATE")
                    saving.write(self.connection)
                saving.stored()

    def _commit(self, batch: _Batch, begun: list[Saving]) -> None:
        execute = self.connection.execute
        trimmed, too_large = 0, self._must_trim()
        savings = [*self._savings, *begun]
        # behind a hole nothing can be resumed before its snapshot is whole
        slices = savings if batch.has_hole else savings[:1]
        streams = {
            stream: (stream, *msgspec.structs.astuple(position), batch.pos)
            for stream, position in batch.touched.items()
        }
        sums = {stream: checksum_of(row) for stream, row in streams.items()}
        known = self.chain.streams
        held = {
            "streams": sum(total - known.get(stream, 0) for stream, total in sums.items()),
            "snapshots": 0,
        }
        execute("BEGIN IMMEDIATE")
        try:
            for table, rows in batch.rows.items():
                self._insert(table, rows)
            for saving in slices:
                saving.write(self.connection)
                if saving.is_last:
                    held["snapshots"] += self._snapshot(saving.row())
            self._insert("streams", list(streams.values()), "INSERT OR REPLACE")
            seal = self.chain.last
            if not batch.is_empty or any(saving.is_last for saving in slices):
                seal = self.chain.seal(self.connection, batch.named(), batch.pos, held)
            if too_large:
                trimmed = trim(self.connection, self._run, self._clock())
            execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:
                execute("ROLLBACK")
            raise
        self.pos, self.chain.last = batch.pos, seal
        self._number += len(begun)
        whole = [saving for saving in slices if saving.is_last]
        self._savings = [saving for saving in savings if saving not in whole]
        for saving in slices:
            saving.stored()
        self.positions.update(batch.touched)
        known.update(sums)
        self.trimmed += trimmed

    def _must_trim(self) -> bool:
        """Return whether the file is larger than it may be, as it was seen a few commits ago."""
        self._commits += 1
        if self._max_bytes and (self._too_large or self._commits % LOOK_EVERY == 1):
            self._too_large = used_bytes(self.connection) > self._max_bytes
        return self._too_large

    def _insert(self, table: str, rows: list[Row], how: str = "INSERT") -> None:
        done = 0
        for size in GROUPS:
            while len(rows) - done >= size:
                group = rows[done : done + size]
                one = f"({', '.join('?' * len(group[0]))})"
                sql = f"{how} INTO {table} VALUES {', '.join([one] * size)}"
                self.connection.execute(sql, list(chain.from_iterable(group)))
                done += size

    def _snapshot(self, row: Row) -> int:
        """Keep a snapshot and drop the oldest; return by how much their sum of checksums grew."""
        execute = self.connection.execute
        execute("INSERT INTO snapshots VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        grown = checksum_of(row)
        oldest = (
            "WHERE snapshot <= (SELECT snapshot FROM snapshots "
            "WHERE set_aside IS NULL ORDER BY snapshot DESC LIMIT 1 OFFSET ?)"
        )
        gone = execute(f"{HELD['snapshots']} {oldest}", (KEPT,)).fetchall()
        for number, *_ in gone:
            delete_snapshot(self.connection, number)
        return grown - sum(map(checksum_of, gone))


def last_snapshot(connection: sqlite3.Connection) -> int:
    """Return the number of the last snapshot, 0 where there is none."""
    found = connection.execute("SELECT coalesce(max(snapshot), 0) FROM snapshots")
    return int(found.fetchone()[0])


def last_pos(connection: sqlite3.Connection) -> int:
    """Return the `pos` of the journal's last row, 0 where there is none.

    Raises StoreError where it is no number: an index may be a page of another table.
    """
    found = connection.execute(
        "SELECT max(coalesce((SELECT max(pos) FROM ticks), 0), "
        "coalesce((SELECT max(pos) FROM labels), 0), "
        "coalesce((SELECT max(pos) FROM events WHERE input = 1), 0))"
    )
    (pos,) = found.fetchone()
    if not isinstance(pos, int):
        file = connection.execute("PRAGMA database_list").fetchone()[2]
        raise damaged(file, f"the last position of its journal is {pos!r}")
    return pos


def read_positions(connection: sqlite3.Connection) -> dict[str, JournalPosition]:
    """Return where each stream stands."""
    rows = connection.execute(
        "SELECT stream, session, next_seq, n, ticks, labels, times_crc, fields_crc FROM streams"
    )
    return {stream: JournalPosition(*rest) for stream, *rest in rows}


class _Batch:
    """Units as rows of tables, `touched` being the positions that they change."""

    def __init__(
        self, run: int, pos: int, positions: dict[str, JournalPosition], now: int, event: int
    ) -> None:
        self.pos, self._number = pos, event
        self.rows: dict[str, list[Row]] = {table: [] for table in TABLES}
        self.saved: list[tuple[Saved, int]] = []
        self.has_hole = False
        self.touched: dict[str, JournalPosition] = {}
        self._run, self._known, self._now = run, positions, now
        self._parts: list[Ticks | Run] = []
        self._count = self._made = 0

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing but snapshots."""
        return not self.touched and not any(self.rows.values())

    def named(self) -> dict[str, list[Row]]:
        """Return the rows by the name of their table alone."""
        return {table.partition(" ")[0]: rows for table, rows in self.rows.items()}

    def add(self, unit: Unit) -> None:
        if isinstance(unit, list):
            for step in unit:
                self._step(step)
        elif isinstance(unit, Note):
            told = unit.times, unit.reason
            self._event(0, unit.kind, unit.stream, unit.session, None, unit.n, *told)
        elif isinstance(unit, Saved):
            self.flush()
            self.saved.append((unit, self.pos))
        elif isinstance(unit, Hole):
            self.flush()
            self.pos += 1
            self.touched.update(unit.positions)
            self._event(1, "hole", "", "", None, None, unit.inputs, unit.reason)
            self.saved.append((unit.saved, self.pos))
            self.has_hole = True

    # ---- inputs -----------------------------------------------------------------------

    def _step(self, unit: Step) -> None:
        event = unit.event
        if isinstance(event, Ticks | Run):
            if not (self._parts and self._continues(event)):
                self.flush()
                self.pos += 1
            self._parts.append(event)
            self._count += count_of(event)
            self._made += unit.made
        else:
            self.flush()
            self.pos += 1
            self._other(event)
        for output in unit.outputs:
            self._output(output)

    def _other(self, event: Label | Gap | SessionStart | End | Settle) -> None:
        if isinstance(event, Label):
            self._position(event.stream).labels += 1
            row = self.pos, self._run, event.stream, event.n, float(event.y), event.t_ns
            self.rows["labels"].append(row)
        elif isinstance(event, Gap):
            self._position(event.stream).follow(event)
            self._event(1, "gap", event.stream, "", event.seq, None, event.missed, "")
        elif isinstance(event, SessionStart):
            self._position(event.stream).follow(event)
            self._event(1, "session", event.stream, event.session, None, None, 1, "")
        elif isinstance(event, End):
            self._event(1, "end", event.stream, event.session, None, None, 1, "")
        else:
            self._event(1, "settle", "", "", None, None, 1, "")

    def _continues(self, ticks: Ticks | Run) -> bool:
        first = self._parts[0]
        due = None if first.seq is None else first.seq + self._count
        return (
            ticks.seq == due
            and ticks.stream == first.stream
            and ticks.session == first.session
            and self._count + count_of(ticks) <= MAX_ROW_TICKS
        )

    def flush(self) -> None:
        """Make a row of the ticks that are waiting for more."""
        if not self._parts:
            return
        first, count = self._parts[0], self._count
        parts = list(_blocks(self._parts))
        t_ns = _raw([ticks.t_ns for ticks in parts], "<i8")
        fields = _raw([ticks.values for ticks in parts], "<f8")
        position = self._position(first.stream)
        position.follow(self._parts[-1])
        before = position.n
        position.n = after = before + self._made
        position.ticks += count
        position.times_crc = zlib.crc32(t_ns, position.times_crc)
        position.fields_crc = zlib.crc32(fields, position.fields_crc)
        about = self.pos, self._run, first.stream, first.session, first.seq, count
        crc = checksum(t_ns, fields)
        self.rows["ticks"].append((*about, before, after, t_ns, fields, crc))
        self._parts, self._count, self._made = [], 0, 0

    def _position(self, stream: str) -> JournalPosition:
        found = self.touched.get(stream)
        if found is None:
            known = self._known.get(stream)
            found = JournalPosition() if known is None else msgspec.structs.replace(known)
            self.touched[stream] = found
        return found

    # ---- outputs ----------------------------------------------------------------------

    def _output(self, output: Result | Batch[Any]) -> None:
        if isinstance(output, Rollback):
            why = f"{output.reason} to {output.to}, rests for {output.frozen} labels"
            self._event(0, "rollback", output.stream, "", None, output.n, 1, why)
        elif isinstance(output, Expiry):
            self._event(0, "expiry", output.stream, "", None, output.n, 1, "")
        elif not isinstance(output, Batch):
            self.rows[INTO[type(output)]].append(row_of(output, self.pos))
        elif output.kind in INTO:
            self.rows[INTO[output.kind]].extend(rows_of(output, self.pos))
        else:
            for event in output.events():
                self._output(event)

    def _event(
        self,
        is_input: int,
        kind: str,
        stream: str,
        session: str,
        seq: int | None,
        n: int | None,
        count: int,
        reason: str,
    ) -> None:
        self._number += 1
        about = self._number, self.pos, self._run, self._now, is_input, kind
        self.rows["events"].append((*about, stream, session, seq, n, count, reason))


def checksum(t_ns: bytes, fields: bytes) -> int:
    """Return what the column `crc` of ticks holds: CRC-32 over times, then fields."""
    return zlib.crc32(fields, zlib.crc32(t_ns))


def _blocks(parts: Sequence[Ticks | Run]) -> Iterator[Ticks]:
    """Yield ticks as arrays, one block for all runs that follow each other."""
    whole = Run("", "", None, "")
    for part in parts:
        if isinstance(part, Run):
            whole.times += part.times
            whole.rows += part.rows
            continue
        if whole.times:
            yield whole.block()
            whole = Run("", "", None, "")
        yield part
    if whole.times:
        yield whole.block()


def _raw(parts: Sequence[np.ndarray], dtype: str) -> bytes:
    whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return np.ascontiguousarray(whole, dtype).tobytes()
