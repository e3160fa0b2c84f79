"""Whether the journal of a store still leads to the predictions that are stored, and if not, why.

A replay begins at the journal's start or at a snapshot, and behind a hole at the next snapshot.
What no replay reaches is counted as unchecked. On the way the weights are held against those of
each snapshot and of each start of a run, so that of a difference can be said what it comes of:

* `input`: ticks are not those that were stored (their checksum differs);
* `weights`: what was started from, or a snapshot, holds other weights than the journal leads to;
* `damage`: rows are not those that were stored (the checksum of their transaction differs);
* `runtime`: none of these; versions, machine or flags differ, or else this program is at fault.

The first prediction in which two stores differ.

Where the streams of a store stood after a transaction: the rows of `streams`, computed again.

The journal from its start has all of it, and the checksum of the transaction proves the result.
Where the start is missing, or inputs were left out, the session knows how many ticks and elements
there were; the checksums over all ticks, and the number of labels, begin with what is left.
"""

from __future__ import annotations

import heapq
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from itertools import zip_longest
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from ..core import snapshot
from ..core.outcome import Outcome
from ..core.replay import weights_digest
from ..core.session import Session
from ..core.table import TICKS, N
from ..errors import SnapshotError, StoreError
from ..events import Gap, Prediction, SessionStart
from .chain import HELD, Row, Seal, checksum_of, damage, sums_of
from .journal import first_pos, last_pos
from .reading import (
    SnapshotRow,
    drive,
    entries,
    is_whole,
    outputs,
    same,
    snapshot_state,
    snapshots,
)
from .schema import UNREADABLE, VERSION, connect_reader, failure, held_weights, runtime
from .units import JournalPosition


class Unlike(msgspec.Struct, frozen=True):
    """The first prediction that differs; `p` and `other_p` are None where there is none."""

    stream: str
    n: int
    p: float | None
    other_p: float | None


class Compared(msgspec.Struct, frozen=True):
    """Predictions of each store, those that both have alike, and the first that differs.

    `older` says which one was made by a version with another order of work, if one of them was.
    """

    predictions: int
    other_predictions: int
    alike: int
    difference: Unlike | None
    older: str | None = None


def compare(path: Path, other: Path) -> Compared:
    """Compare the predictions of two stores by stream and n; p must have the same bits.

    The first is that which came first in the first store, then in the other one. Raises what
    `connect_reader` raises.
    """
    connect_reader(other).close()  # which says what is wrong with it
    connection = connect_reader(path)
    try:
        connection.execute("ATTACH ? AS other", (f"{other.resolve().as_uri()}?mode=ro",))
        found = _compare(connection)
        ours, theirs = (
            connection.execute(f"PRAGMA {name}.user_version").fetchone()[0] >= VERSION
            for name in ("main", "other")
        )
        older = None if ours == theirs else str(other if ours else path)
        return msgspec.structs.replace(found, older=older)
    except UNREADABLE as error:
        raise failure(path, error) from None
    finally:
        connection.close()


def _compare(connection: sqlite3.Connection) -> Compared:
    ours, theirs = (
        int(connection.execute(f"SELECT count(*) FROM {name}.predictions").fetchone()[0])  # noqa: S608
        for name in ("main", "other")
    )
    alike = connection.execute(
        "SELECT count(*) FROM main.predictions AS a JOIN other.predictions AS b USING (stream, n) "
        "WHERE a.p = b.p"
    ).fetchone()[0]
    first = connection.execute(
        "SELECT stream, n, a.p, b.p FROM main.predictions AS a LEFT JOIN other.predictions AS b "
        "USING (stream, n) WHERE b.p IS NOT a.p ORDER BY a.pos, n LIMIT 1"
    ).fetchone() or (
        connection.execute(
            "SELECT stream, n, a.p, b.p FROM other.predictions AS b LEFT JOIN "
            "main.predictions AS a USING (stream, n) WHERE a.p IS NULL ORDER BY b.pos, n LIMIT 1"
        ).fetchone()
    )
    return Compared(ours, theirs, int(alike), None if first is None else Unlike(*first))


class Places(NamedTuple):
    """Rows of `streams`; `inexact` are the streams whose checksums begin with what is left."""

    rows: list[Row]
    inexact: list[str]


def places(
    connection: sqlite3.Connection, before: Seal, last: Seal, newest: Seal, session: Session
) -> Places:
    """Return where the streams stood after the transaction `last`.

    connection: a store cut to the transactions behind `before` up to `last`, with all rows of
    `streams` that could be read. newest: the transaction that these rows were as they are after.
    session: it has taken the journal up to `last`.
    """
    known = connection.execute(HELD["streams"]).fetchall()
    total = _sum(known)
    if total == sums_of(last).get("streams"):
        return Places(known, [])
    proven = total == sums_of(newest).get("streams")
    rows: list[Row]
    if before.pos == 0 and is_whole(connection, 0, last.pos):
        rows = _from_the_start(connection)
        if _sum(rows) == sums_of(last).get("streams"):
            return Places(rows, [])
    as_they_were = {row[0]: row for row in known if proven and row[-1] <= last.pos}
    found = {stream: JournalPosition(ticks=1) for stream in session.table.places}
    for _, _, event, _ in _inputs(connection):
        _follow(found, event)
    for stream, place in session.table.places.items():
        found[stream].n = int(session.table.view[place, N])
        found[stream].ticks = int(session.table.view[place, TICKS])
    inexact = [stream for stream in found if stream not in as_they_were]
    rows = [_row(stream, found[stream], last.pos) for stream in inexact]
    return Places([*as_they_were.values(), *rows], sorted(inexact))


def _sum(rows: list[Row]) -> int:
    return sum(map(checksum_of, rows)) % 2**64


def _row(stream: str, position: JournalPosition, pos: int) -> Row:
    return (stream, *msgspec.structs.astuple(position), pos)


class _Block(NamedTuple):
    """A row of ticks without its arrays."""

    stream: str
    session: str
    seq: int | None
    many: int


def _follow(
    found: dict[str, JournalPosition], event: _Block | str | Gap | SessionStart
) -> JournalPosition:
    """Take a stream where an input leads; a label is the name of its stream."""
    name = event if isinstance(event, str) else event.stream
    position = found.setdefault(name, JournalPosition())
    match event:
        case str():
            position.labels += 1
        case _Block():
            position.session = event.session
            position.next_seq = None if event.seq is None else event.seq + event.many
        case _:
            position.follow(event)
    return position


def _from_the_start(connection: sqlite3.Connection) -> list[Row]:
    """Return the rows as the writer made them, each with the end of the transaction it is of."""
    ends = (pos for (pos,) in connection.execute("SELECT pos FROM commits ORDER BY number"))
    found: dict[str, JournalPosition] = {}
    reached: dict[str, int] = {}
    end = 0
    for pos, _, event, ticks in _inputs(connection):
        while end < pos:
            end = next(ends)
        position = _follow(found, event)
        if isinstance(event, _Block):
            position.n, t_ns, fields = ticks
            position.ticks += event.many
            position.times_crc = zlib.crc32(t_ns, position.times_crc)
            position.fields_crc = zlib.crc32(fields, position.fields_crc)
        reached[event if isinstance(event, str) else event.stream] = end
    return [_row(stream, position, reached[stream]) for stream, position in found.items()]


def _inputs(connection: sqlite3.Connection) -> Iterator[tuple[int, int, Any, Any]]:
    """Yield (pos, table, input, (elements, times, fields)) of what moves a stream, in order."""
    blocks = (
        (pos, 0, _Block(stream, session, seq, count), rest)
        for pos, stream, session, seq, count, *rest in connection.execute(
            "SELECT pos, stream, session, seq, count, n_after, t_ns, fields FROM ticks "
            "ORDER BY pos"
        )
    )
    labels = (
        (pos, 1, stream, None)
        for pos, stream in connection.execute("SELECT pos, stream FROM labels ORDER BY pos")
    )
    events = (
        (pos, 2, Gap(stream, seq, count) if kind == "gap" else SessionStart(stream, session), None)
        for pos, kind, stream, session, seq, count in connection.execute(
            "SELECT pos, kind, stream, session, seq, count FROM events "
            "WHERE input = 1 AND kind IN ('gap', 'session') ORDER BY pos"
        )
    )
    return heapq.merge(blocks, labels, events, key=itemgetter(0))


Cause: TypeAlias = Literal["input", "weights", "damage", "runtime"]
SAME_RUNTIME = (
    "versions, processor and flags are as they were: either what is stored was altered, or the "
    "hardware or this program erred"
)

DAMAGED: tuple[type[Exception], ...] = (StoreError, *UNREADABLE)
"""What reading a store that is damaged raises."""

Progress: TypeAlias = Callable[[int, int], object]
"""Takes the position reached, and the last one."""


class Difference(msgspec.Struct, frozen=True):
    """The first prediction that is not what it was, and why; None where none is one.

    `stored` and `made` are its p, None where there is no such prediction.
    """

    cause: Cause
    what: str
    pos: int
    stream: str | None = None
    n: int | None = None
    stored: float | None = None
    made: float | None = None


class Verified(msgspec.Struct):
    """What was found.

    `began` are the snapshots that replays began at, None for the journal's start; `checked` and
    `unchecked` are stored predictions.
    """

    began: list[int | None] = msgspec.field(default_factory=list)
    inputs: int = 0
    checked: int = 0
    unchecked: int = 0
    difference: Difference | None = None


class Verification:
    """The verification of one store.

    connection: of `schema.connect_reader`. session: a fresh one of the store's setup.
    """

    def __init__(self, connection: sqlite3.Connection, session: Session) -> None:
        self._connection, self._session = connection, session
        self._end = last_pos(connection)
        self._made: list[Prediction] = []
        self._suspicion: Difference | None = None
        self._damage: Difference | None = None
        self._found = Verified()
        self._good = [row for row in reversed(snapshots(connection)) if row.set_aside is None]
        session.deliver, session.scored = self._deliver, False

    def _deliver(self, outcome: Outcome) -> None:
        self._made += outcome.predictions.events()

    def run(self, begin: int | None = None, report: Progress = lambda *_: None) -> Verified:
        """Replay from the journal's start, or from snapshot `begin`, as far as it goes.

        Where the start is trimmed away, the oldest good snapshot is where it begins.

        Raises StoreError where there is no such snapshot, or the store is damaged.
        """
        self._find_damage()
        try:
            return self._run(begin, report)
        except DAMAGED:
            if self._damage is None:
                raise
            self._found.difference = self._damage
            return self._found

    def _run(self, begin: int | None, report: Progress) -> Verified:
        pos: int | None = 0
        if begin is not None:
            pos = self._begin_at([row for row in self._good if row.snapshot == begin])
            if pos is None:
                known = ", ".join(str(row.snapshot) for row in self._good) or "none"
                raise StoreError(f"snapshot {begin} cannot be used; there are: {known}")
        elif first_pos(self._connection) > 1:
            pos = self._begin_at(self._good)
        else:
            self._found.began.append(None)
        while pos is not None and self._found.difference is None:
            hole = self._segment(pos, report)
            if hole is None:
                break
            pos = self._begin_at([row for row in self._good if row.pos >= hole])
        if self._found.difference is None:
            self._found.difference = self._suspicion or self._damage
        total = self._connection.execute("SELECT count(*) FROM predictions").fetchone()[0]
        self._found.unchecked = total - self._found.checked
        return self._found

    def _begin_at(self, rows: list[SnapshotRow]) -> int | None:
        """Restore the first snapshot of these that can be; return its position."""
        for row in rows:
            try:
                snapshot.restore(self._session, snapshot_state(self._connection, row.snapshot))
            except (StoreError, SnapshotError):
                continue
            self._found.began.append(row.snapshot)
            return row.pos
        return None

    def _segment(self, start: int, report: Progress) -> int | None:
        """Replay from a position; return that of the hole that ends it."""
        stored = outputs(self._connection, Prediction, start)
        row = next(stored, None)
        self._check_weights(start)
        for entry in entries(self._connection, start):
            if entry.event is None:
                return entry.pos
            if not entry.intact:
                what = "its ticks are not those that were stored: their checksum differs"
                self._suspect("input", entry.pos, what)
            drive(self._session, entry.event)
            made, self._made = self._made, []
            expected = []
            while row is not None and row[0] == entry.pos:
                expected.append(row[1])
                row = next(stored, None)
            for known, new in zip_longest(expected, made):
                if known is None or new is None or not same(known, new):
                    self._found.difference = self._differs(entry.pos, known, new)
                    return None
                self._found.checked += 1
            self._found.inputs += 1
            self._check_weights(entry.pos)
            report(entry.pos, self._end)
        return None

    def _find_damage(self) -> None:
        """Check the checksums of all transactions."""
        found = damage(self._connection)
        if found is not None:
            self._damage = Difference("damage", found.what, found.good.pos)

    # ---- why --------------------------------------------------------------------------

    def _suspect(self, cause: Cause, pos: int, what: str) -> None:
        if self._suspicion is None:
            self._suspicion = Difference(cause, what, pos)

    def _check_weights(self, pos: int) -> None:
        """Hold the weights against those of the snapshots and of the runs at a position."""
        for row in self._good:
            if row.pos == pos and row.snapshot not in self._found.began:
                self._check_snapshot(row)
        runs = self._connection.execute("SELECT run, runtime FROM runs WHERE pos = ?", (pos,))
        for run, text in runs.fetchall():
            known, now = msgspec.json.decode(text).get("weights"), held_weights(self._session)
            if known != now:
                what = f"run {run} went on with the weights {known}, the journal leads to {now}"
                self._suspect("weights", pos, what)

    def _check_snapshot(self, row: SnapshotRow) -> None:
        try:
            held = snapshot.weights_of(snapshot_state(self._connection, row.snapshot))
        except (StoreError, SnapshotError) as error:
            self._suspect("weights", row.pos, str(error))
            return
        known, now = weights_digest(held)[:16], held_weights(self._session)
        if known != now:
            what = f"snapshot {row.snapshot} holds the weights {known}, the journal leads to {now}"
            self._suspect("weights", row.pos, what)

    def _differs(self, pos: int, known: Prediction | None, new: Prediction | None) -> Difference:
        if known is not None and new is not None and known.n != new.n:
            # One of them has no counterpart: the one that comes first.
            known, new = (known, None) if known.n < new.n else (None, new)
        one = known or new
        assert one is not None
        why = self._suspicion or self._damage or Difference("runtime", self._runtime(pos), pos)
        stored, made = (None if found is None else found.p for found in (known, new))
        return msgspec.structs.replace(
            why, pos=pos, stream=one.stream, n=one.n, stored=stored, made=made
        )

    def _runtime(self, pos: int) -> str:
        """Return what differs between the run that stored something and this one."""
        text = self._connection.execute(
            "SELECT runtime FROM runs WHERE pos < ? ORDER BY run DESC LIMIT 1", (pos,)
        ).fetchone()[0]
        then, now = msgspec.json.decode(text), runtime()
        told = [f"{k} was {then.get(k)!r} and is {now[k]!r}" for k in now if then.get(k) != now[k]]
        return "; ".join(told) or SAME_RUNTIME
