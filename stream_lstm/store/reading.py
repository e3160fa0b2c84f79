"""What a store holds, read back: inputs in their order, what came of them, and snapshots."""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import math
import sqlite3
from collections.abc import Iterator
from itertools import islice
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..core.replay import send
from ..core.session import Session
from ..errors import StoreError
from ..events import End, Gap, Label, Prediction, Score, SessionStart, Ticks
from ..records import Batch
from .journal import checksum
from .outputs import R, read
from .trim import first_pos
from .units import Settle

Stored: TypeAlias = Ticks | Label | Gap | SessionStart | End | Settle

NEXT = 1000
"""Rows fetched at a time where they are small."""

HISTORY = 8192
"""Predictions and scores that become columns at a time."""


class Entry(NamedTuple):
    """A row of the journal; `event` is None for a hole. `intact` is False for damaged ticks."""

    pos: int
    event: Stored | None
    intact: bool = True


class SnapshotRow(NamedTuple):
    """A snapshot without its bytes."""

    snapshot: int
    pos: int
    elements: int
    version: int
    taken_ns: int
    set_aside: str | None


def entries(connection: sqlite3.Connection, after: int = 0) -> Iterator[Entry]:
    """Yield the journal behind position `after`; a position that is missing raises StoreError."""
    expected = after + 1
    tables = (_ticks(connection, after), _labels(connection, after), _events(connection, after))
    for entry in heapq.merge(*tables, key=itemgetter(0)):
        if entry.pos != expected:
            raise StoreError(
                f"the journal has nothing at position {expected:,} of {entry.pos:,}: the store "
                "is damaged"
            )
        expected += 1
        yield entry


def drive(session: Session, event: Stored) -> None:
    """Give a session an input again."""
    match event:
        case Ticks():
            send(session, event)
        case Label():
            session.label(event)
        case Gap():
            session.gap(event)
        case SessionStart():
            session.session_start(event)
        case Settle():
            session.settle()


def _ticks(connection: sqlite3.Connection, after: int) -> Iterator[Entry]:
    cursor = connection.execute(
        "SELECT pos, stream, session, seq, count, t_ns, fields, crc FROM ticks WHERE pos > ? "
        "ORDER BY pos",
        (after,),
    )
    for pos, stream, session, seq, count, t_ns, fields, crc in cursor:
        try:
            times = np.frombuffer(t_ns, "<i8")
            values = np.frombuffer(fields, "<f8").reshape(count, -1)
            ticks = Ticks(stream, times, values, session, seq)
            intact = checksum(t_ns, fields) == crc
        except (TypeError, ValueError):  # a page that is not there reads as nulls and zeros
            raise StoreError(
                f"the journal's ticks at position {pos} cannot be read: the store is damaged"
            ) from None
        yield Entry(pos, ticks, intact)


def _labels(connection: sqlite3.Connection, after: int) -> Iterator[Entry]:
    cursor = connection.execute(
        "SELECT pos, stream, n, y, t_ns FROM labels WHERE pos > ? ORDER BY pos", (after,)
    )
    for pos, stream, n, y, t_ns in _rows(cursor):
        with _readable(pos):
            label = Label(stream, n, math.nan if y is None else y, t_ns)
        yield Entry(pos, label)


def _events(connection: sqlite3.Connection, after: int) -> Iterator[Entry]:
    cursor = connection.execute(
        "SELECT pos, kind, stream, session, seq, count FROM events WHERE input = 1 AND pos > ? "
        "ORDER BY pos",
        (after,),
    )
    for pos, kind, stream, session, seq, count in _rows(cursor):
        with _readable(pos):
            event = _event(kind, stream, session, seq, count)
        yield Entry(pos, event)


def _event(kind: str, stream: str, session: str, seq: int, count: int) -> Stored | None:
    match kind:
        case "gap":
            return Gap(stream, seq, count)
        case "session":
            return SessionStart(stream, session)
        case "end":
            return End(stream, session)
        case "settle":
            return Settle()
        case "hole":
            return None
        case _:
            raise StoreError(f"the journal has an input of the unknown kind {kind!r}")


@contextlib.contextmanager
def _readable(pos: int) -> Iterator[None]:
    """Turn what a cell of another type or size raises into StoreError with the place."""
    try:
        yield
    except (TypeError, ValueError):
        raise StoreError(
            f"the journal's input at position {pos} cannot be read: the store is damaged"
        ) from None


def _rows(cursor: sqlite3.Cursor) -> Iterator[tuple[Any, ...]]:
    while rows := cursor.fetchmany(NEXT):
        yield from rows


# ---- what came out ----------------------------------------------------------------------


def history(
    connection: sqlite3.Connection,
) -> Iterator[tuple[Batch[Prediction], Batch[Score]]]:
    """Yield predictions, and the scores that came about with them, in their order."""
    merged: Iterator[tuple[int, int, Prediction | Score]] = heapq.merge(
        ((pos, 0, made) for pos, made in outputs(connection, Prediction)),
        ((pos, 1, score) for pos, score in outputs(connection, Score)),
        key=itemgetter(0, 1),
    )
    while part := [event for _, _, event in islice(merged, HISTORY)]:
        made = [event for event in part if isinstance(event, Prediction)]
        scores = [event for event in part if isinstance(event, Score)]
        yield Batch.of(Prediction, made), Batch.of(Score, scores)


def outputs(
    connection: sqlite3.Connection, kind: type[R], after: int = 0
) -> Iterator[tuple[int, R]]:
    """Yield (pos, record) of each that came of an input behind a position, in order."""
    for pos, batch in read(connection, kind, "WHERE pos > ? ORDER BY pos, n", after):
        yield from zip(pos, batch.events(), strict=True)


def stored_prediction(connection: sqlite3.Connection, stream: str, n: int) -> Prediction | None:
    """Return the prediction n of a stream, None where there is none."""
    for _, batch in read(connection, Prediction, "WHERE stream = ? AND n = ?", stream, n):
        return batch.events()[0]
    return None


# ---- snapshots --------------------------------------------------------------------------


def snapshots(connection: sqlite3.Connection) -> list[SnapshotRow]:
    """Return the snapshots, the newest first."""
    found = connection.execute(
        "SELECT snapshot, pos, elements, version, taken_ns, set_aside FROM snapshots "
        "ORDER BY snapshot DESC"
    )
    return [SnapshotRow(*row) for row in found]


def snapshot_state(connection: sqlite3.Connection, snapshot: int) -> bytes:
    """Return the bytes of a snapshot; raises StoreError where they are not what was stored."""
    (digest,) = connection.execute(
        "SELECT sha256 FROM snapshots WHERE snapshot = ?", (snapshot,)
    ).fetchone()
    pieces = connection.execute(
        "SELECT data FROM snapshot_pieces WHERE snapshot = ? ORDER BY piece", (snapshot,)
    )
    state = b"".join(piece if isinstance(piece, bytes) else b"" for (piece,) in pieces)
    if hashlib.sha256(state).hexdigest() != digest:
        raise StoreError(f"snapshot {snapshot} is damaged: its checksum does not match")
    return state


def is_whole(connection: sqlite3.Connection, after: int, until: int) -> bool:
    """Return whether the journal has all of (after, until]: no hole, and nothing trimmed."""
    if until > after and first_pos(connection) > after + 1:
        return False
    found = connection.execute(
        "SELECT 1 FROM events WHERE input = 1 AND kind = 'hole' AND pos > ? AND pos <= ?",
        (after, until),
    )
    return found.fetchone() is None
