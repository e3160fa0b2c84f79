"""Whether a store's journal still leads to the stored predictions, and the first difference.

A replay begins at the journal's start or at a snapshot, and behind a hole at the next snapshot.
Predictions that no replay reaches are counted as unchecked. On the way the weights are compared
with those of each snapshot and of each start of a run. That gives the cause of a difference:

* `input`: ticks do not match their checksum;
* `weights`: the initial weights, or those of a snapshot, differ from those that the journal leads
  to;
* `damage`: rows do not match the checksum of their transaction;
* `runtime`: none of these; versions, machine or flags differ, or this program is at fault.

`compare` finds the first prediction in which two stores differ.
"""

from __future__ import annotations

import sqlite3
from itertools import zip_longest
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from ..core import snapshot
from ..core.outcome import Outcome
from ..core.replay import weights_digest
from ..core.session import Session
from ..errors import SnapshotError, StoreError
from ..events import Prediction
from .chain import damage
from .journal import first_pos, last_pos
from .reading import drive, entries, outputs, same
from .schema import DAMAGED, VERSION, Progress, connect_reader, runtime, short_digest, using
from .units import SnapshotRow, snapshot_state, snapshots

Cause: TypeAlias = Literal["input", "weights", "damage", "runtime"]

SAME_RUNTIME = (
    "versions, processor and flags are unchanged: either the stored rows were altered, or the "
    "hardware or this program is at fault"
)

SAME_BUT_PLUGINS = (
    "versions, processor and flags are unchanged: has the code of a plug-in changed?"
)


# ---- two stores -------------------------------------------------------------------------


class Mismatch(msgspec.Struct, frozen=True):
    """The first prediction that differs; `p` and `other_p` are None where it is missing."""

    stream: str
    n: int
    p: float | None
    other_p: float | None


class Compared(msgspec.Struct, frozen=True):
    """The number of predictions of each store and of equal ones, and the first that differs.

    `older` names the store of a version that predicts in another order, if one of them is.
    """

    predictions: int
    other_predictions: int
    alike: int
    difference: Mismatch | None
    older: str | None = None


def compare(path: Path, other: Path) -> Compared:
    """Compare the predictions of two stores by stream and n; p must have the same bits.

    The first difference is that of the first store's journal, then that of the other one's. Raises
    what `connect_reader` raises.
    """
    connect_reader(other).close()  # reports what is wrong with it
    with using(connect_reader(path), path) as connection:
        execute = connection.execute
        execute("ATTACH ? AS other", (f"{other.resolve().as_uri()}?mode=ro",))
        counts, current = [], []
        for name in ("main", "other"):
            counts.append(int(execute(f"SELECT count(*) FROM {name}.predictions").fetchone()[0]))  # noqa: S608
            current.append(execute(f"PRAGMA {name}.user_version").fetchone()[0] >= VERSION)
        alike = execute(
            "SELECT count(*) FROM main.predictions AS a JOIN other.predictions AS b "
            "USING (stream, n) WHERE a.p = b.p"
        ).fetchone()[0]
        joined = (
            "SELECT stream, n, a.p, b.p FROM {} LEFT JOIN {} USING (stream, n) WHERE {} IS NOT {}"
        )
        ours, theirs = "main.predictions AS a", "other.predictions AS b"
        first = (
            execute(f"{joined.format(ours, theirs, 'a.p', 'b.p')} ORDER BY a.pos, n").fetchone()
            or execute(f"{joined.format(theirs, ours, 'b.p', 'a.p')} ORDER BY b.pos, n").fetchone()
        )
        older = None if current[0] == current[1] else str(other if current[0] else path)
        difference = None if first is None else Mismatch(*first)
        return Compared(counts[0], counts[1], int(alike), difference, older)


# ---- one store --------------------------------------------------------------------------


class Difference(msgspec.Struct, frozen=True):
    """The first prediction that differs, and the cause; the prediction is None where none does.

    `stored` and `made` (computed again) are its p, None where there is no such prediction.
    """

    cause: Cause
    what: str
    pos: int
    stream: str | None = None
    n: int | None = None
    stored: float | None = None
    made: float | None = None


class Verified(msgspec.Struct):
    """The result of a verification.

    `began` are the snapshots at which replays began, None for the journal's start; `checked` and
    `unchecked` count stored predictions.
    """

    began: list[int | None] = msgspec.field(default_factory=list)
    inputs: int = 0
    checked: int = 0
    unchecked: int = 0
    difference: Difference | None = None


class Verification:
    """The verification of one store.

    connection: of `schema.connect_reader`. session: a new one with the store's setup.
    """

    def __init__(self, connection: sqlite3.Connection, session: Session) -> None:
        self._connection, self._session = connection, session
        self._end = last_pos(connection)
        self._computed: list[Prediction] = []
        self._suspicion: Difference | None = None
        self._damage: Difference | None = None
        self._result = Verified()
        self._snapshots = [row for row in snapshots(connection)[::-1] if row.set_aside is None]
        session.deliver, session.scored = self._deliver, False

    def _deliver(self, outcome: Outcome) -> None:
        self._computed += outcome.predictions.events()

    def run(self, begin: int | None = None, report: Progress = lambda *_: None) -> Verified:
        """Replay from the journal's start, or from snapshot `begin`, as far as possible.

        Where the start was trimmed, the replay begins at the oldest intact snapshot.

        Raises StoreError where there is no such snapshot, or the store is damaged.
        """
        found = damage(self._connection)
        if found is not None:
            self._damage = Difference("damage", found.what, found.good.pos)
        try:
            return self._run(begin, report)
        except DAMAGED:
            if self._damage is None:
                raise
            self._result.difference = self._damage
            return self._result

    def _run(self, begin: int | None, report: Progress) -> Verified:
        result = self._result
        pos: int | None = 0
        if begin is not None:
            pos = self._restore([row for row in self._snapshots if row.snapshot == begin])
            if pos is None:
                known = ", ".join(str(row.snapshot) for row in self._snapshots) or "none"
                raise StoreError(f"snapshot {begin} cannot be used; there are: {known}")
        elif first_pos(self._connection) > 1:
            pos = self._restore(self._snapshots)
        else:
            result.began.append(None)
        while pos is not None and result.difference is None:
            hole = self._replay(pos, report)
            if hole is None:
                break
            pos = self._restore([row for row in self._snapshots if row.pos >= hole])
        if result.difference is None:
            result.difference = self._suspicion or self._damage
        total = self._connection.execute("SELECT count(*) FROM predictions").fetchone()[0]
        result.unchecked = total - result.checked
        return result

    def _restore(self, rows: list[SnapshotRow]) -> int | None:
        """Restore the first usable snapshot; return its position."""
        for row in rows:
            try:
                snapshot.restore(self._session, snapshot_state(self._connection, row.snapshot))
            except (StoreError, SnapshotError):
                continue
            self._result.began.append(row.snapshot)
            return row.pos
        return None

    def _replay(self, start: int, report: Progress) -> int | None:
        """Replay from a position; return that of the hole that ends the replay."""
        stored = outputs(self._connection, Prediction, start)
        row = next(stored, None)
        self._check_weights(start)
        for entry in entries(self._connection, start):
            if entry.event is None:
                return entry.pos
            if not entry.intact:
                self._suspect("input", entry.pos, "its ticks do not match their checksum")
            drive(self._session, entry.event)
            computed, self._computed = self._computed, []
            expected = []
            while row is not None and row[0] == entry.pos:
                expected.append(row[1])
                row = next(stored, None)
            for old, new in zip_longest(expected, computed):
                if old is None or new is None or not same(old, new):
                    self._result.difference = self._difference(entry.pos, old, new)
                    return None
                self._result.checked += 1
            self._result.inputs += 1
            self._check_weights(entry.pos)
            report(entry.pos, self._end)
        return None

    # ---- the cause --------------------------------------------------------------------

    def _suspect(self, cause: Cause, pos: int, what: str) -> None:
        if self._suspicion is None:
            self._suspicion = Difference(cause, what, pos)

    def _check_weights(self, pos: int) -> None:
        """Compare the weights with those of the snapshots and of the runs at a position."""
        known: list[tuple[str, str | None]] = []
        for row in self._snapshots:
            if row.pos == pos and row.snapshot not in self._result.began:
                try:
                    weights = snapshot.weights_of(snapshot_state(self._connection, row.snapshot))
                except (StoreError, SnapshotError) as error:
                    self._suspect("weights", pos, str(error))
                    continue
                known.append((f"snapshot {row.snapshot} has", weights_digest(weights)[:16]))
        runs = self._connection.execute("SELECT run, runtime FROM runs WHERE pos = ?", (pos,))
        for run, text in runs.fetchall():
            known.append((f"run {run} began with", msgspec.json.decode(text).get("weights")))
        for owner, digest in known:
            present = short_digest(self._session)
            if digest != present:
                what = f"{owner} the weights {digest}, but the journal leads to {present}"
                self._suspect("weights", pos, what)

    def _difference(self, pos: int, old: Prediction | None, new: Prediction | None) -> Difference:
        if old is not None and new is not None and old.n != new.n:
            # The first of them has no counterpart.
            old, new = (old, None) if old.n < new.n else (None, new)
        one = old or new
        assert one is not None
        why = self._suspicion or self._damage or Difference("runtime", self._runtime(pos), pos)
        stored, computed = (None if found is None else found.p for found in (old, new))
        return msgspec.structs.replace(
            why, pos=pos, stream=one.stream, n=one.n, stored=stored, made=computed
        )

    def _runtime(self, pos: int) -> str:
        """Return the differences between the run that stored an input and this one."""
        text = self._connection.execute(
            "SELECT runtime FROM runs WHERE pos < ? ORDER BY run DESC LIMIT 1", (pos,)
        ).fetchone()[0]
        old, new = msgspec.json.decode(text), runtime()
        changed = [
            f"{k} was {old.get(k)!r} and is {new[k]!r}" for k in new if old.get(k) != new[k]
        ]
        same = SAME_BUT_PLUGINS if self._session.config.stream.plugins else SAME_RUNTIME
        return "; ".join(changed) or same
