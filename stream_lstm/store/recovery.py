"""A new store from the intact part of a damaged one, and a report of the loss.

`salvage` copies all readable rows into a new file. The checksums of the transactions decide which
of them are intact: each damage ends a segment, and the next one begins behind it. A segment is
usable where a session can reach its end: from the journal's start, or from a snapshot in it whose
row and state are intact. The rows outside of the chosen segment are deleted, like the oldest rows
of a store at its size limit, and a last transaction records that.

Before the new file gets its name, a session is resumed at its end. That proves that a start will
succeed, and gives the last snapshot. The damaged file is opened read-only, and locked so that no
daemon starts on it meanwhile.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sqlite3
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from ..core import snapshot
from ..core.session import Session
from ..core.table import TICKS, N
from ..errors import InputMissingError, OutputError, StoreError, UsageError
from ..events import Ticks
from ..feed.reader import check_plain
from ..platform import replace, sync_folder
from .chain import Seal, Segment, checksum_of, damage, seal_as_is, segments, sum_of
from .journal import first_pos, last_pos
from .reading import Resumed, Setup, entries, is_whole, read_setup, resume
from .salvage import Salvaged, open_damaged, salvage
from .schema import DAMAGED, OUTPUTS, Progress, Row, connect, insert, is_store, run_row
from .store import elements_of
from .units import (
    JournalPosition,
    StreamInput,
    delete_snapshot,
    insert_snapshot,
    last_snapshot,
    snapshot_state,
    snapshots,
)
from .writer import StoreLock

Keep: TypeAlias = Literal["newest", "longest"]
"""The part that reaches furthest, or the one with the most inputs."""

MakeSession: TypeAlias = Callable[[Setup], Session]

UNKNOWN_RUN = (0, -1, "unknown", 0, "", "{}", "{}")
"""The row of a damaged run without its number; nothing is compared with position -1."""

COUNTED = ("ticks", "labels", *OUTPUTS)

PARTIAL = ".recovering"
"""The suffix of the file while it is written."""

BESIDE = ("", "-journal", "-wal", "-shm")
"""Suffixes of the files of one SQLite database."""


class PartSummary(msgspec.Struct, frozen=True):
    """A part: inputs `first` to `last` of the journal, its transactions and snapshots."""

    first: int
    last: int
    transactions: int
    snapshots: list[int]


class Losses(msgspec.Struct):
    """What is missing from the new store.

    `transactions` and `inputs` are exact. `rows` counts readable rows: there were more where
    `unreadable` names their table. `by_stream` has the rows of each stream that lost some.
    """

    transactions: int
    inputs: int
    inputs_behind: int
    rows: dict[str, int]
    by_stream: dict[str, dict[str, int]]
    snapshots: list[int]


class Recovered(msgspec.Struct):
    """The result of a recovery.

    `end` is the last input of the damaged store. `elements` counts those of the state from which a
    start continues, after input `kept.last`. `other` is the part of the other choice, None where
    it is the same. `rebuilt` are tables whose rows were computed again; `inexact` are the streams
    whose checksums had to begin with the remaining journal.
    """

    what: str
    keep: Keep
    kept: PartSummary
    end: int
    elements: int
    lost: Losses
    other: PartSummary | None
    unreadable: dict[str, str]
    rebuilt: list[str]
    inexact: list[str]


# ---- the file ---------------------------------------------------------------------------


def recover(
    store: Path,
    new: Path,
    session: MakeSession,
    *,
    keep: Keep = "newest",
    report: Progress = lambda *_: None,
) -> Recovered | None:
    """Write the intact part of a damaged store to a new one; return None for an intact store.

    session: makes one from the store's setup. An existing file `new` is replaced, unless a process
    uses it. A failed attempt leaves nothing behind; a kill leaves `new` with the suffix
    `.recovering`, which the next attempt removes. report takes the tables read and their total.

    Raises StoreError where nothing is usable, LockedError, InputMissingError, UsageError,
    OutputError, and StreamLSTMError where the journal leads to other predictions.
    """
    check_plain(store)
    if not store.is_file():
        raise InputMissingError(f"no such store: {store}")
    if not is_store(store):
        raise StoreError(
            f"{store} is not a store, or its first page is damaged, so that nothing can be read. "
            "Restore a backup, or start a new store"
        )
    new = Path(os.path.realpath(new))
    partial = new.with_name(new.name + PARTIAL)
    _check_names(store, new, partial)
    with _locked(store), _locked(new):
        what = damage_of(store)
        if what is None:
            return None
        _remove(partial)
        try:
            found = _write(store, partial, session, what, keep, report)
            _name(partial, new)
        except sqlite3.Error as error:
            raise OutputError(f"cannot write {new}: {error}") from None
        except OSError as error:
            raise OutputError(f"cannot write {new}: {error.strerror or error}") from None
        finally:
            _remove(partial)
        return found


def damage_of(store: Path) -> str | None:
    """Return the damage of a store, None where a session can resume from it."""
    try:
        connection = open_damaged(store, lenient=False)
    except StoreError:
        return "its first page or the definition of a table is damaged, or its end is missing"
    with contextlib.closing(connection):
        try:
            if read_setup(connection, str(store)) is None:
                raise StoreError(f"{store} is empty: no run has written to it yet")
            found = damage(connection)
            if found is not None:
                return found.what
            about = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if about != "ok":
                return str(about).strip().splitlines()[-1]
            if _has_start(connection):
                return None
            return "no snapshot is intact, and the journal has a hole"
        except DAMAGED as error:
            return str(error)


def _has_start(connection: sqlite3.Connection) -> bool:
    end = last_pos(connection)
    if is_whole(connection, 0, end):
        return True
    for row in snapshots(connection):
        if row.set_aside is None and is_whole(connection, row.pos, end):
            with contextlib.suppress(StoreError):
                snapshot_state(connection, row.snapshot)
                return True
    return False


def _write(
    store: Path, partial: Path, session: MakeSession, what: str, keep: Keep, report: Progress
) -> Recovered:
    target = connect(partial, sync="off")  # it has no name yet, and is flushed once it is whole
    with contextlib.closing(target):
        shutil.copymode(store, partial)
        target.execute("PRAGMA journal_mode = DELETE")
        target.execute("PRAGMA foreign_keys = OFF")
        with contextlib.closing(open_damaged(store)) as source:
            target.execute("BEGIN IMMEDIATE")
            salvaged = salvage(source, target, report)
            target.execute("COMMIT")
        setup = _setup(target, store)
        found = StoreRecovery(target, salvaged, lambda: session(setup), str(store)).run(what, keep)
        target.execute("VACUUM")
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    return found


def _setup(connection: sqlite3.Connection, store: Path) -> Setup:
    why = "its configuration and initial weights are missing"
    try:
        setup = read_setup(connection, str(store))
        if setup is not None:
            return setup
    except StoreError as error:
        why = str(error).removeprefix(f"{store} is damaged: ").partition(". ")[0]
    raise StoreError(
        f"{store} cannot be recovered: {why}, and without them its journal is useless. Restore a "
        "backup, or start a new store"
    )


def _check_names(store: Path, new: Path, partial: Path) -> None:
    """Raise UsageError where writing `new` would touch the damaged store."""
    real = Path(os.path.realpath(store))
    own = [real.with_name(real.name + suffix) for suffix in (*BESIDE, ".lock", PARTIAL)]
    written = [path.with_name(path.name + suffix) for path in (new, partial) for suffix in BESIDE]
    same = new.exists() and new.samefile(real)
    if same or new in own or any(path in own[:-1] for path in written):
        raise UsageError(f"--to {new} belongs to the damaged store; name another file")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lock a store where it can be written to; otherwise no process can write to it."""
    lock = None
    if path.exists() and os.access(path, os.W_OK) and os.access(path.resolve().parent, os.W_OK):
        lock = StoreLock(path)
    try:
        yield
    finally:
        if lock is not None:
            lock.close()


def _name(partial: Path, new: Path) -> None:
    """Rename the file, without a log of an earlier file beside it."""
    if new.exists():
        with (
            contextlib.suppress(sqlite3.Error),  # it may be another kind of file, or damaged
            contextlib.closing(sqlite3.connect(new)) as earlier,
        ):
            earlier.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for suffix in BESIDE[1:]:
        new.with_name(new.name + suffix).unlink(missing_ok=True)
    replace(partial, new)
    sync_folder(new.parent)


def _remove(partial: Path) -> None:
    for suffix in BESIDE:
        with contextlib.suppress(OSError):
            partial.with_name(partial.name + suffix).unlink(missing_ok=True)


# ---- the part ---------------------------------------------------------------------------


class Part(NamedTuple):
    """A usable segment, and the numbers of the snapshots in it."""

    segment: Segment
    snapshots: tuple[int, ...]

    @property
    def inputs(self) -> int:
        """The number of its inputs."""
        return self.segment.last.pos - self.segment.before.pos

    @property
    def transactions(self) -> int:
        """The number of its transactions; a snapshot alone has none."""
        before, last = self.segment
        return 0 if before == last else last.number - before.number

    def summary(self) -> PartSummary:
        """Return it for a report."""
        first, last = self.segment.before.pos + 1, self.segment.last.pos
        return PartSummary(first, last, self.transactions, list(self.snapshots))


class StoreRecovery:
    """The recovery of one store.

    connection: of the new store, with the rows of `salvage`. salvaged: the result of that.
    session: makes a new one with the store's setup. store: the damaged file's name, for messages.
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
        proven = {row[0] for row in self._evidence.snapshots(salvaged.snapshots)}
        self._usable = [row for row in snapshots(connection) if row.snapshot in proven]
        self._end = max(
            self._evidence.newest.pos, last_pos(connection), *(row.pos for row in self._usable), 0
        )
        self._by_stream = _count_by_stream(connection)

    def run(self, what: str, keep: Keep) -> Recovered:
        """Cut the store to one part, and end it with a transaction that records that.

        what: the damage. Raises StoreError where no part is usable, and StreamLSTMError where a
        part does not lead to the stored predictions.
        """
        parts = self._parts(keep)
        reasons = [] if parts else ["no snapshot is intact, and the journal's start is damaged"]
        for part in parts:
            others = self._parts("longest" if keep == "newest" else "newest")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                found = self._take(part, what, keep)
                self._connection.execute("COMMIT")
                if others[0].segment != part.segment:
                    found.other = others[0].summary()
                return found
            except StoreError as error:
                reasons.append(str(error))
                self._connection.execute("ROLLBACK")
        raise StoreError(
            f"no part of {self._store} is usable ({what}; {'; '.join(reasons)}). Restore a "
            "backup, or start a new store"
        )

    def _parts(self, keep: Keep) -> list[Part]:
        """Return the usable parts, the best one first."""
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
        """Return the usable part of a segment: a session must reach its end without a hole."""
        before, last = segment
        within = [row for row in self._usable if before.pos <= row.pos <= last.pos]
        starts = [row.pos for row in within] + [0] * (before.pos == 0)
        if not starts:
            return None
        end = max((self._reach(segment, start) for start in starts), key=lambda seal: seal.number)
        numbers = tuple(row.snapshot for row in within if row.pos <= end.pos)
        usable = end.pos and (numbers or not before.pos)
        return Part(Segment(before, end), numbers) if usable else None

    def _reach(self, segment: Segment, start: int) -> Seal:
        """Return the last transaction before the first hole behind a position."""
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

    def _take(self, part: Part, what: str, keep: Keep) -> Recovered:
        connection, (before, last) = self._connection, part.segment
        old_rows = connection.execute("SELECT * FROM streams").fetchall()
        self._cut(part)
        now = time.time_ns()
        run = max(self._cut_runs(last), default=0) + 1
        events = self._insert_events(part, run, now, what)
        seal_as_is(connection, last, last.pos, events)
        session = self._make()
        resumed = resume(connection, session, self._store)
        rows, inexact = _stream_rows(connection, before, last, self._evidence.newest, session)
        connection.execute("DELETE FROM streams")
        for row in rows:
            insert(connection, "streams", row)
        configuration = connection.execute(
            "SELECT value FROM setup WHERE name = 'configuration'"
        ).fetchone()[0]
        insert(connection, "runs", run_row(session, run, now, last.pos, "recover", configuration))
        for number in resumed.set_aside:
            delete_snapshot(connection, number)
        if resumed.snapshot is None or resumed.inputs:
            _insert_snapshot(connection, session, run, last.pos, now)
        seal_as_is(connection, last, last.pos, events)
        rebuilt = ["streams"] if set(map(tuple, rows)) != set(old_rows) else []
        unknown = connection.execute("SELECT 1 FROM runs WHERE pos = ?", UNKNOWN_RUN[1:2])
        rebuilt += ["runs"] if unknown.fetchone() else []
        return Recovered(
            what=what,
            keep=keep,
            kept=part.summary(),
            end=self._end,
            elements=elements_of(session),
            lost=self._losses(part, resumed),
            other=None,
            unreadable=self._salvaged.unreadable,
            rebuilt=rebuilt,
            inexact=inexact,
        )

    def _cut(self, part: Part) -> None:
        """Delete the rows outside of a part."""
        execute, (before, last) = self._connection.execute, part.segment
        for table in COUNTED:
            execute(f"DELETE FROM {table} WHERE pos <= ? OR pos > ?", (before.pos, last.pos))  # noqa: S608
        if before == last:  # a snapshot alone
            execute("DELETE FROM events")
            execute("DELETE FROM commits")
            insert(self._connection, "commits", before)
        else:
            bounds = before.event, last.event
            execute("DELETE FROM events WHERE event <= ? OR event > ?", bounds)
            numbers = before.number, last.number
            execute("DELETE FROM commits WHERE number < ? OR number > ?", numbers)
        for row in snapshots(self._connection):
            if row.snapshot not in part.snapshots:
                delete_snapshot(self._connection, row.snapshot)

    def _cut_runs(self, last: Seal) -> set[int]:
        """Delete unproven runs, and enter those that rows name; return the numbers of all."""
        execute = self._connection.execute
        proven = self._evidence.runs(execute("SELECT * FROM runs").fetchall())
        runs = {row[0] for row in proven if row[2] <= last.pos}
        for (run,) in execute("SELECT run FROM runs").fetchall():
            if run not in runs:
                execute("DELETE FROM runs WHERE run = ?", (run,))
        for table in ("ticks", "labels", "events", "snapshots"):
            for (run,) in execute(f"SELECT DISTINCT run FROM {table}").fetchall():  # noqa: S608
                if run not in runs:
                    insert(self._connection, "runs", (run, *UNKNOWN_RUN))
                    runs.add(run)
        return runs

    def _insert_events(self, part: Part, run: int, now: int, what: str) -> list[Row]:
        """Record what is missing; return the rows that have a checksum."""
        before, last = part.segment

        def event(number: int, pos: int, is_input: int, kind: str, count: int, why: str) -> Row:
            row = (number, pos, run, now, is_input, kind, "", "", None, None, count, why)
            insert(self._connection, "events", row)
            return row

        alone = not part.inputs  # a journal without a row would be that of a new store
        if before.number:
            event(0, 0, 0, "trimmed", before.pos - alone, "what came before a damage, or with it")
        number = last.event + 1
        holes = [event(number, last.pos, 1, "hole", 1, "it was damaged")] if alone else []
        return [*holes, event(number + alone, last.pos, 0, "recovered", 1, what[:500])]

    def _losses(self, part: Part, resumed: Resumed) -> Losses:
        first, newest = self._evidence.first or Seal(), self._evidence.newest
        transactions = newest.number - max(first.number - 1, 0)
        before = first.pos if first.number > 1 else 0  # trimmed earlier
        left = _count_by_stream(self._connection)
        lost = {stream: counts - left[stream] for stream, counts in self._by_stream.items()}
        behind = self._end - part.segment.last.pos
        good = set(part.snapshots) - set(resumed.set_aside)
        return Losses(
            transactions=max(transactions - part.transactions, 0),
            inputs=behind + max(part.segment.before.pos - before, 0),
            inputs_behind=behind,
            rows={table: sum(one[table] for one in lost.values()) for table in COUNTED},
            by_stream={stream: dict(counts) for stream, counts in lost.items() if counts},
            snapshots=[row[0] for row in self._salvaged.snapshots if row[0] not in good],
        )


def _insert_snapshot(
    connection: sqlite3.Connection, session: Session, run: int, pos: int, now: int
) -> None:
    """Store the state, so that the next start need not replay the journal."""
    state = snapshot.take(session)
    about = snapshot.fingerprint(session.config, session.columns, session.members)
    digest = hashlib.sha256(state).hexdigest()
    number = last_snapshot(connection) + 1
    row = (number, run, pos, now, elements_of(session), snapshot.VERSION, about, digest, None)
    insert_snapshot(connection, row, state)


def _count_by_stream(connection: sqlite3.Connection) -> dict[str, Counter[str]]:
    """Return the number of ticks, labels and outputs of each stream."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for table in COUNTED:
        one = "count" if table == "ticks" else "1"
        query = f"SELECT stream, sum({one}) FROM {table} GROUP BY stream"  # noqa: S608 - ours
        for stream, count in connection.execute(query):
            found[stream][table] = int(count)
    return found


# ---- rows that change -------------------------------------------------------------------


class _Evidence:
    """What the commits prove about the tables of `MUTABLE`.

    Whether a commit is intact or not: a sum of 64 bits that is equal to it proves the rows.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.first: Seal | None = None
        self.newest = Seal()
        self._totals: dict[str, set[int]] = {"snapshots": set(), "runs": set()}
        self._inserted_runs: set[int] = set()
        seals = map(Seal._make, connection.execute("SELECT * FROM commits ORDER BY number"))
        for before, seal in pairwise(chain([Seal()], seals)):
            self.first = self.first or seal
            self.newest = seal
            old, new = before.sums(), seal.sums()
            for table, totals in self._totals.items():
                totals.update({new[table]} if new else ())
            if old and new:
                self._inserted_runs.add((new["runs"] - old["runs"]) % 2**64)

    def snapshots(self, rows: list[Row]) -> list[Row]:
        """Return the most rows that were all the snapshots after some transaction."""
        found: list[Row] = []
        sums = list(map(_checksum, rows))
        for low in range(len(rows)):
            for high in range(low + len(found) + 1, len(rows) + 1):
                if sum(sums[low:high]) % 2**64 in self._totals["snapshots"]:
                    found = rows[low:high]
        return found

    def runs(self, rows: list[Row]) -> list[Row]:
        """Return the proven rows: by the sum of all up to one, or a row by itself."""
        total, proven = 0, 0
        for k, row in enumerate(rows, 1):
            total = (total + _checksum(row)) % 2**64
            if total in self._totals["runs"]:
                proven = k
        single = [row for row in rows[proven:] if _checksum(row) in self._inserted_runs]
        return rows[:proven] + single


def _checksum(row: Row) -> int:
    """Return the checksum of a row that may contain bytes that are not text."""
    try:
        return checksum_of(row)
    except UnicodeError:
        return -1


def _stream_rows(
    connection: sqlite3.Connection, before: Seal, last: Seal, newest: Seal, session: Session
) -> tuple[list[Row], list[str]]:
    """Return the rows of `streams` after the transaction `last`, and the inexact streams.

    The whole journal gives all of a row, and the checksum of the transaction proves it. Where the
    start is missing, or inputs were left out, the session has the numbers of ticks and elements;
    the checksums over all ticks, and the number of labels, begin with the remaining journal.

    connection: a store cut to the transactions behind `before` up to `last`, with all readable
    rows of `streams`. newest: the last transaction of the damaged store. session: it has processed
    the journal up to `last`.
    """
    known = connection.execute("SELECT * FROM streams").fetchall()
    total = sum_of(known)
    if total == last.sums().get("streams"):
        return known, []
    if before.pos == 0 and is_whole(connection, 0, last.pos):
        rows = _rows_of_whole_journal(connection)
        if sum_of(rows) == last.sums().get("streams"):
            return rows, []
    proven = total == newest.sums().get("streams")
    unchanged = {row[0]: row for row in known if proven and row[-1] <= last.pos}
    found = {stream: JournalPosition(ticks=1) for stream in session.table.places}
    for _, event, _, _ in entries(connection, first_pos(connection) - 1):
        if isinstance(event, StreamInput):
            found.setdefault(event.stream, JournalPosition()).follow(event)
    for stream, place in session.table.places.items():
        found[stream].n = int(session.table.view[place, N])
        found[stream].ticks = int(session.table.view[place, TICKS])
    inexact = sorted(stream for stream in found if stream not in unchanged)
    rows = [_row(stream, found[stream], last.pos) for stream in inexact]
    return [*unchanged.values(), *rows], inexact


def _row(stream: str, position: JournalPosition, pos: int) -> tuple[Any, ...]:
    return (stream, *msgspec.structs.astuple(position), pos)


def _rows_of_whole_journal(connection: sqlite3.Connection) -> list[Row]:
    """Return the rows as the writer stored them, each with the end of its transaction."""
    ends = (pos for (pos,) in connection.execute("SELECT pos FROM commits ORDER BY number"))
    found: dict[str, JournalPosition] = {}
    reached: dict[str, int] = {}
    end = 0
    for pos, event, _, n in entries(connection):
        if not isinstance(event, StreamInput):
            continue
        while end < pos:
            end = next(ends)
        position = found.setdefault(event.stream, JournalPosition())
        position.follow(event)
        if isinstance(event, Ticks):
            position.n = n
            position.ticks += len(event.t_ns)
            position.times_crc = zlib.crc32(event.t_ns.tobytes(), position.times_crc)
            position.fields_crc = zlib.crc32(event.values.tobytes(), position.fields_crc)
        reached[event.stream] = end
    return [_row(stream, position, reached[stream]) for stream, position in found.items()]
