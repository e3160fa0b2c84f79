"""Going on from a store: the newest snapshot that is whole, and the journal behind it.

What the journal leads to must be what was stored, bit for bit, or nothing that follows could be
believed.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from ..core import snapshot
from ..core.outcome import Outcome
from ..core.session import Session
from ..errors import SnapshotError, StoreError, StreamLSTMError
from ..events import Prediction
from .chain import damage
from .journal import last_pos
from .reading import drive, entries, is_whole, snapshot_state, snapshots, stored_prediction
from .schema import UNREADABLE, WAY_OUT, damaged, failure


class Resumed(NamedTuple):
    """What a session was brought back from.

    `snapshot` is its number, None for the journal's start; `inputs` are the rows of the journal
    behind it; `predictions` those that it led to once more; `set_aside` the damaged snapshots and
    what is wrong with each.
    """

    snapshot: int | None
    inputs: int
    predictions: list[Prediction]
    set_aside: dict[int, str]


def resume(connection: sqlite3.Connection, session: Session, store: str) -> Resumed:
    """Bring a session, which is fresh, to where the store's journal ends.

    Raises StoreError where no snapshot is good and the journal is not whole, and StreamLSTMError
    where the journal does not lead to the predictions that are stored.
    """
    set_aside: dict[int, str] = {}
    try:
        end = last_pos(connection)
        number, start = _restore(connection, session, end, set_aside, store)
        found = damage(connection, start)
    except UNREADABLE as error:
        raise failure(Path(store), error) from None
    if found is not None:
        raise damaged(store, found.what)
    again = _Again(connection, store)
    listeners = session.emit, session.deliver
    session.emit, session.deliver = None, again
    try:
        for entry in entries(connection, start):
            if not entry.intact:
                raise StoreError(
                    f"{store} is damaged: the ticks at position {entry.pos:,} of its journal are "
                    f"not those that were stored. {WAY_OUT}"
                )
            assert entry.event is not None
            drive(session, entry.event)
        session.catch_up()  # each stored tick was stored with all its outputs
    finally:
        session.emit, session.deliver = listeners
    expected = connection.execute(
        "SELECT count(*) FROM predictions WHERE pos > ?", (start,)
    ).fetchone()[0]
    if expected != len(again.predictions):
        raise StreamLSTMError(
            f"{store}: its journal leads to {len(again.predictions):,} predictions where "
            f"{expected:,} are stored; stream-lstm verify says more"
        )
    return Resumed(number, end - start, again.predictions, set_aside)


def _restore(
    connection: sqlite3.Connection,
    session: Session,
    end: int,
    set_aside: dict[int, str],
    store: str,
) -> tuple[int | None, int]:
    """Restore the newest good snapshot; return its number and position."""
    for row in snapshots(connection):
        if row.set_aside is not None:
            continue
        if not is_whole(connection, row.pos, end):
            break
        try:
            snapshot.restore(session, snapshot_state(connection, row.snapshot))
        except (StoreError, SnapshotError) as error:
            set_aside[row.snapshot] = str(error)
            continue
        return row.snapshot, row.pos
    if not is_whole(connection, 0, end):
        told = "; ".join(set_aside.values()) or "there is none behind the hole"
        raise StoreError(
            f"{store}: no snapshot can be used ({told}), and the journal is not whole. "
            f"{WAY_OUT}; stream-lstm export STORE --out DIR keeps what this one holds"
        )
    return None, 0


class _Again:
    """Takes what comes of a session, and compares each prediction with the one that is stored."""

    def __init__(self, connection: sqlite3.Connection, store: str) -> None:
        self.predictions: list[Prediction] = []
        self._connection, self._store = connection, store

    def __call__(self, outcome: Outcome) -> None:
        for prediction in outcome.predictions.events():
            self._compare(prediction)

    def _compare(self, event: Prediction) -> None:
        stored = stored_prediction(self._connection, event.stream, event.n)
        if not same(stored, event):
            was = "none" if stored is None else repr(stored.p)
            raise StreamLSTMError(
                f"{self._store}: its journal leads to another prediction {event.n} of "
                f"{event.stream!r} than is stored: p = {event.p!r}, stored {was}. Other versions "
                "or another machine can be why: stream-lstm verify says more, and a new store "
                "starts anew"
            )
        self.predictions.append(event)


def same(stored: Prediction | None, made: Prediction) -> bool:
    """Return whether two predictions are the same but for what was said of experts."""
    return stored is not None and replace(stored, experts=()) == replace(made, experts=())
