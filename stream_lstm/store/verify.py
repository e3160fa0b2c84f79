"""Whether the journal of a store still leads to the predictions that are stored, and if not, why.

A replay begins at the journal's start or at a snapshot, and behind a hole at the next snapshot.
What no replay reaches is counted as unchecked. On the way the weights are held against those of
each snapshot and of each start of a run, so that of a difference can be said what it comes of:

* `input`: ticks are not those that were stored (their checksum differs);
* `weights`: what was started from, or a snapshot, holds other weights than the journal leads to;
* `damage`: rows are not those that were stored (the checksum of their transaction differs);
* `runtime`: none of these; versions, machine or flags differ, or else this program is at fault.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from itertools import zip_longest
from typing import Literal, TypeAlias

import msgspec

from ..core import snapshot
from ..core.outcome import Outcome
from ..core.recording import weights_digest
from ..core.session import Session
from ..errors import SnapshotError, StoreError
from ..events import Prediction
from .chain import damage
from .journal import last_pos
from .reading import SnapshotRow, drive, entries, outputs, snapshot_state, snapshots
from .resume import same
from .runtime import held_weights, runtime
from .schema import UNREADABLE
from .trim import first_pos

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
