"""Writing units into the tables of a store, one transaction for each batch.

Ticks of one stream that continue each other within a batch become one row: where blocks are cut
changes nothing.

A file above its limit is trimmed with each commit: the journal up to the oldest snapshot, and the
results of those inputs, are deleted a little at a time. SQLite reuses the pages, so the file stops
growing. From the oldest snapshot on everything can be replayed. The event `trimmed` counts the
deleted rows of the journal.
"""

from __future__ import annotations

import itertools
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from ..errors import GoneError
from ..events import End, Expiry, Gap, Label, Rollback, Run, SessionStart, Ticks
from ..records import Batch
from .chain import Chain, checksum_of, sum_of
from .schema import INTO, OUTPUTS, TABLE_OF, Row, damaged, insert, row_of, rows_of
from .units import (
    Hole,
    JournalPosition,
    Note,
    Result,
    Saved,
    Saving,
    Step,
    StoredInput,
    StreamInput,
    Unit,
    count_of,
    delete_snapshot,
    last_snapshot,
)

MAX_ROW_TICKS = 65_536
"""Ticks of one row at most, which a reader has in memory together."""

SNAPSHOTS = 3
"""How many snapshots stay in the file, the newest."""

GROUPS = (64, 8, 1)
"""Rows of one statement. Each statement releases the interpreter's lock once; one for each row
would make this thread wait for the other one as often."""

TRIMMED_POSITIONS = 2_000
"""Journal rows that one commit deletes: a few milliseconds."""

SIZE_CHECK_COMMITS = 16
"""Commits between two checks of the file's size."""


# ---- positions --------------------------------------------------------------------------


def first_pos(connection: sqlite3.Connection) -> int:
    """Return the `pos` of the journal's first row, 1 where there is none."""
    found = connection.execute(
        "SELECT min(pos) FROM (SELECT min(pos) AS pos FROM ticks UNION ALL "
        "SELECT min(pos) FROM labels UNION ALL "
        "SELECT min(pos) FROM events WHERE input = 1)"
    ).fetchone()[0]
    return 1 if found is None else int(found)


def last_pos(connection: sqlite3.Connection) -> int:
    """Return the `pos` of the journal's last row, 0 where there is none.

    Raises StoreError where it is not a number: an index may be a page of another table.
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
    """Return the position of each stream."""
    rows = connection.execute(
        "SELECT stream, session, next_seq, n, ticks, labels, times_crc, fields_crc FROM streams"
    )
    return {stream: JournalPosition(*rest) for stream, *rest in rows}


def tick_checksum(t_ns: bytes, fields: bytes) -> int:
    """Return the `crc` of a row of ticks: CRC-32 over times, then fields."""
    return zlib.crc32(fields, zlib.crc32(t_ns))


# ---- trimming ---------------------------------------------------------------------------


def used_bytes(connection: sqlite3.Connection) -> int:
    """Return the bytes of the pages in use."""
    page, pages, free = (
        int(connection.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_size", "page_count", "freelist_count")
    )
    return page * (pages - free)


def trim(connection: sqlite3.Connection, run: int, now_ns: int) -> int:
    """Delete the oldest rows, within a transaction; return how many of the journal."""
    oldest = connection.execute(
        "SELECT min(pos) FROM snapshots WHERE set_aside IS NULL"
    ).fetchone()[0]
    first = first_pos(connection)
    until = _trim_end(connection, first, oldest or 0)
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
    for condition in (
        "ticks WHERE pos <= ?",
        "labels WHERE pos <= ?",
        "events WHERE pos <= ? AND kind <> 'trimmed'",
        "commits WHERE number < (SELECT max(number) FROM commits WHERE pos <= ?)",
    ):
        connection.execute(f"DELETE FROM {condition}", (until,))  # noqa: S608 - ours
    count = until - first + 1
    counted = connection.execute(
        "UPDATE events SET at_ns = ?, count = count + ? WHERE kind = 'trimmed'", (now_ns, count)
    )
    if not counted.rowcount:
        why = "the file came to its limit, max_gb"
        row = (0, 0, run, now_ns, 0, "trimmed", "", "", None, None, count, why)
        insert(connection, "events", row)
    return count


def _trim_end(connection: sqlite3.Connection, first: int, oldest: int) -> int:
    """Return the last position to delete, the end of a transaction; 0 where there is none.

    The rows of one transaction go together, since they have one checksum. Where the first one is
    too large for one commit, it goes alone.
    """
    share = min(first + TRIMMED_POSITIONS - 1, oldest)
    for which, most in (("max", share), ("min", oldest)):
        found = connection.execute(
            f"SELECT {which}(pos) FROM commits WHERE pos >= ? AND pos <= ?",  # noqa: S608 - ours
            (first, most),
        ).fetchone()[0]
        if found is not None:
            return int(found)
    return 0


# ---- writing ----------------------------------------------------------------------------


class Journal:
    """The writing end of a store.

    connection: of `schema.connect`. run: the number of this run. max_bytes: of the file, which is
    trimmed beyond that; 0 for no limit. clock: nanoseconds since 1970.
    Attributes: `pos` of the last row; `positions` of the streams; `trimmed`, the number of deleted
    journal rows.
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

    @property
    def saving(self) -> int:
        """How many snapshots are incomplete; each `write` continues them."""
        return len(self._savings)

    def reopen(self, connection: sqlite3.Connection) -> bool:
        """Continue with another connection; return whether it has the last batch.

        An error at the very end of a commit leaves open whether it succeeded. Raises GoneError
        where rows that were committed are missing.
        """
        before, pos = self.pos, last_pos(connection)
        if pos < before:
            raise GoneError(f"the file has lost inputs {pos + 1:,} to {before:,} of its journal")
        self.connection = connection
        self.pos, self.positions = pos, read_positions(connection)
        self.chain = Chain(connection)
        known = {number for (number,) in connection.execute("SELECT snapshot FROM snapshots")}
        self._savings = [saving for saving in self._savings if saving.number not in known]
        self._number = max(self._number, *known, 0)
        return pos != before

    def write(self, units: Iterable[Unit]) -> None:
        """Write a batch in one transaction; where SQLite raises, nothing of it is stored.

        A snapshot is written in slices, the first with this call and the others with the next
        calls. The snapshot of a hole is written whole, in transactions before that of the hole.
        """
        batch = _Batch(self._run, self.pos, self.positions, self._clock(), self.chain.last.event)
        for unit in units:
            batch.add(unit)
        batch.flush()
        new = [
            Saving(saved, self._number + k, self._run, pos, self._clock())
            for k, (saved, pos) in enumerate(batch.saved, 1)
        ]
        savings = [*self._savings, *new]
        if batch.has_hole:
            for saving in savings:
                while not saving.is_last:
                    with self.connection:
                        self.connection.execute("BEGIN IMMEDIATE")
                        saving.write(self.connection)
                    saving.advance()
        # behind a hole no session can resume before the snapshot is complete
        complete = self._commit(batch, savings if batch.has_hole else savings[:1])
        self._savings = [saving for saving in savings if saving not in complete]
        self._number += len(new)

    def _commit(self, batch: _Batch, slices: list[Saving]) -> list[Saving]:
        """Write a batch and the slices of snapshots; return the snapshots that are complete."""
        complete = [saving for saving in slices if saving.is_last]
        trimmed, too_large = 0, self._must_trim()
        streams = {
            stream: (stream, *msgspec.structs.astuple(position), batch.pos)
            for stream, position in batch.touched.items()
        }
        sums = {stream: checksum_of(row) for stream, row in streams.items()}
        known = self.chain.streams
        changes = {
            "streams": sum(total - known.get(stream, 0) for stream, total in sums.items()),
            "snapshots": 0,
        }
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            for table, rows in batch.rows.items():
                self._insert(INTO[OUTPUTS[table]] if table in OUTPUTS else table, rows)
            for saving in slices:
                saving.write(self.connection)
            for saving in complete:
                changes["snapshots"] += self._add_snapshot(saving.row())
            self._insert("streams", list(streams.values()), "INSERT OR REPLACE")
            seal = self.chain.last
            if complete or not batch.is_empty:
                seal = self.chain.seal(self.connection, batch.rows, batch.pos, changes)
            if too_large:
                trimmed = trim(self.connection, self._run, self._clock())
            self.connection.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise
        self.pos, self.chain.last = batch.pos, seal
        for saving in slices:
            saving.advance()
        self.positions.update(batch.touched)
        known.update(sums)
        self.trimmed += trimmed
        return complete

    def _must_trim(self) -> bool:
        """Return whether the file was larger than its limit at the last check."""
        self._commits += 1
        if self._max_bytes and (self._too_large or self._commits % SIZE_CHECK_COMMITS == 1):
            self._too_large = used_bytes(self.connection) > self._max_bytes
        return self._too_large

    def _insert(self, target: str, rows: list[Row], how: str = "INSERT") -> None:
        done = 0
        for size in GROUPS:
            while len(rows) - done >= size:
                group = rows[done : done + size]
                one = f"({', '.join('?' * len(group[0]))})"
                sql = f"{how} INTO {target} VALUES {', '.join([one] * size)}"
                self.connection.execute(sql, list(itertools.chain.from_iterable(group)))
                done += size

    def _add_snapshot(self, row: Row) -> int:
        """Insert a snapshot and delete the oldest; return the change of their checksums' sum."""
        insert(self.connection, "snapshots", row)
        old = self.connection.execute(
            "SELECT * FROM snapshots WHERE snapshot <= (SELECT snapshot FROM snapshots "
            "WHERE set_aside IS NULL ORDER BY snapshot DESC LIMIT 1 OFFSET ?)",
            (SNAPSHOTS,),
        ).fetchall()
        for number, *_ in old:
            delete_snapshot(self.connection, number)
        return checksum_of(row) - sum_of(old)


class _Batch:
    """Units as rows of tables; `touched` are the new positions of their streams."""

    def __init__(
        self, run: int, pos: int, positions: dict[str, JournalPosition], now: int, event: int
    ) -> None:
        self.pos, self._event_number = pos, event
        self.rows: dict[str, list[Row]] = {
            table: [] for table in ("ticks", "labels", *OUTPUTS, "events")
        }
        self.saved: list[tuple[Saved, int]] = []
        self.has_hole = False
        self.touched: dict[str, JournalPosition] = {}
        self._run, self._known, self._now = run, positions, now
        self._parts: list[Ticks | Run] = []
        self._count = self._elements = 0

    @property
    def is_empty(self) -> bool:
        """Whether it contains nothing but snapshots."""
        return not self.touched and not any(self.rows.values())

    def add(self, unit: Unit) -> None:
        match unit:
            case list():
                for step in unit:
                    self._step(step)
            case Note():
                about = unit.kind, unit.stream
                self._event(0, *about, n=unit.n, count=unit.times, reason=unit.reason)
            case Saved():
                self.flush()
                self.saved.append((unit, self.pos))
            case Hole():
                self.flush()
                self.pos += 1
                self.touched.update(unit.positions)
                self._event(1, "hole", count=unit.inputs, reason=unit.reason)
                self.saved.append((unit.saved, self.pos))
                self.has_hole = True

    # ---- inputs -----------------------------------------------------------------------

    def _step(self, step: Step) -> None:
        event = step.event
        if isinstance(event, Ticks | Run):
            if not (self._parts and self._continues(event)):
                self.flush()
                self.pos += 1
            self._parts.append(event)
            self._count += count_of(event)
            self._elements += step.elements
        else:
            self.flush()
            self.pos += 1
            self._other_input(event)
        for output in step.outputs:
            self._output(output)

    def _other_input(self, event: StoredInput) -> None:
        if isinstance(event, StreamInput):
            self._position(event.stream).follow(event)
        match event:
            case Label():
                row = self.pos, self._run, event.stream, event.n, float(event.y), event.t_ns
                self.rows["labels"].append(row)
            case Gap():
                self._event(1, "gap", event.stream, seq=event.seq, count=event.missed)
            case SessionStart():
                self._event(1, "session", event.stream, event.session)
            case End():
                self._event(1, "end", event.stream, event.session)
            case _:
                self._event(1, "settle")

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
        """Make one row of the ticks that continue each other."""
        if not self._parts:
            return
        first, count = self._parts[0], self._count
        blocks = list(_blocks(self._parts))
        t_ns = _raw([ticks.t_ns for ticks in blocks], "<i8")
        fields = _raw([ticks.values for ticks in blocks], "<f8")
        position = self._position(first.stream)
        position.follow(self._parts[-1])
        before = position.n
        position.n = after = before + self._elements
        position.ticks += count
        position.times_crc = zlib.crc32(t_ns, position.times_crc)
        position.fields_crc = zlib.crc32(fields, position.fields_crc)
        about = self.pos, self._run, first.stream, first.session, first.seq, count
        crc = tick_checksum(t_ns, fields)
        self.rows["ticks"].append((*about, before, after, t_ns, fields, crc))
        self._parts, self._count, self._elements = [], 0, 0

    def _position(self, stream: str) -> JournalPosition:
        if stream not in self.touched:
            known = self._known.get(stream)
            self.touched[stream] = (
                JournalPosition() if known is None else msgspec.structs.replace(known)
            )
        return self.touched[stream]

    # ---- outputs ----------------------------------------------------------------------

    def _output(self, output: Result | Batch[Any]) -> None:
        if isinstance(output, Rollback):
            why = f"{output.reason} to {output.to}, rests for {output.frozen} labels"
            self._event(0, "rollback", output.stream, n=output.n, reason=why)
        elif isinstance(output, Expiry):
            self._event(0, "expiry", output.stream, n=output.n)
        elif not isinstance(output, Batch):
            self.rows[TABLE_OF[type(output)]].append(row_of(output, self.pos))
        elif output.kind in TABLE_OF:
            self.rows[TABLE_OF[output.kind]].extend(rows_of(output, self.pos))
        else:
            for event in output.events():
                self._output(event)

    def _event(
        self,
        is_input: int,
        kind: str,
        stream: str = "",
        run_id: str = "",
        *,
        seq: int | None = None,
        n: int | None = None,
        count: int = 1,
        reason: str = "",
    ) -> None:
        self._event_number += 1
        about = self._event_number, self.pos, self._run, self._now, is_input, kind
        self.rows["events"].append((*about, stream, run_id, seq, n, count, reason))


def _blocks(parts: Sequence[Ticks | Run]) -> Iterator[Ticks]:
    """Yield ticks as arrays, one block for all runs that follow each other."""
    for is_run, group in itertools.groupby(parts, lambda part: isinstance(part, Run)):
        if not is_run:
            yield from group  # type: ignore[misc]
            continue
        joined = Run("", "", None, "")
        for run in group:
            joined.times += run.times  # type: ignore[union-attr]
            joined.rows += run.rows  # type: ignore[union-attr]
        yield joined.block()


def _raw(parts: Sequence[np.ndarray], dtype: str) -> bytes:
    whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return np.ascontiguousarray(whole, dtype).tobytes()
