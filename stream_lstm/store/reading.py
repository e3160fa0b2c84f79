"""What a store holds, read back: inputs in their order, what came of them, and snapshots.

What a store was begun with: all that its journal needs to be replayed, and nothing more.

A store holds one setup for good. What a restart brings must agree with it in every setting that
the session's state depends on; where data come from and go to may change.

Going on from a store: the newest snapshot that is whole, and the journal behind it.

What the journal leads to must be what was stored, bit for bit, or nothing that follows could be
believed.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import math
import sqlite3
from collections.abc import Iterator
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import safetensors.numpy
from msgspec.structs import replace

from ..config import Config, Members, flatten
from ..core import snapshot
from ..core.outcome import Outcome
from ..core.replay import send
from ..core.session import Session
from ..errors import ConfigurationError, SnapshotError, StoreError, StreamLSTMError
from ..events import End, Gap, Label, Prediction, Score, SessionStart, Ticks
from ..records import Batch
from .chain import damage
from .journal import checksum, first_pos, last_pos
from .schema import UNREADABLE, WAY_OUT, R, damaged, failure, read
from .units import Settle

STATE = ("stream", "model", "scaling", "learning", "scoring")
"""Tables of the configuration that the state depends on."""

FREE = ("weights", "publish_experts", "table")
"""Keys of those that it does not depend on; weights are compared as numbers."""

SCALER = "scaler.state"

DAMAGED: tuple[type[Exception], ...] = (*UNREADABLE, safetensors.SafetensorError)
"""What reading a setup that is damaged raises."""


class Setup(NamedTuple):
    """Configuration and columns, members of a bank, weights and scaler to start from."""

    config: Config
    columns: tuple[str, ...]
    members: Members | None = None
    weights: dict[str, Any] | None = None
    scaler: npt.NDArray[np.float32] | None = None


def write_setup(connection: sqlite3.Connection, setup: Setup) -> None:
    """Write the setup of a store that is new."""
    parts: dict[str, str | bytes] = {
        "configuration": msgspec.json.encode(setup.config).decode(),
        "columns": msgspec.json.encode(setup.columns).decode(),
        "members": msgspec.json.encode(setup.members).decode(),
        "start": _start(setup),
    }
    rows = [(name, value, _digest(value)) for name, value in parts.items()]
    connection.executemany("INSERT INTO setup VALUES (?, ?, ?)", rows)


def read_setup(connection: sqlite3.Connection, store: str) -> Setup | None:
    """Return the setup of a store, None where it has none yet; store: the name of its file.

    Raises StoreError where it is damaged, naming the file and the part.
    """
    rows = connection.execute("SELECT name, value, sha256 FROM setup").fetchall()
    if not rows:
        return None
    parts: dict[str, Any] = {}
    for name, value, digest in rows:
        if not isinstance(value, str | bytes) or _digest(value) != digest:
            what = "weights to start from" if name == "start" else name
            raise damaged(store, f"the checksum of its {what} is wrong")
        parts[name] = value
    try:
        tensors = safetensors.numpy.load(parts["start"])
        scaler = tensors.pop(SCALER, None)
        return Setup(
            msgspec.json.decode(parts["configuration"], type=Config),
            msgspec.json.decode(parts["columns"], type=tuple[str, ...]),
            msgspec.json.decode(parts["members"], type=Members | None),
            {name: {"kernel": kernel} for name, kernel in tensors.items()} or None,
            scaler,
        )
    except DAMAGED as error:
        raise damaged(store, f"its setup does not fit this version ({error})") from None


def check_setup(theirs: Setup, ours: Setup, store: str) -> None:
    """Raise ConfigurationError for the first thing in which a restart differs, naming both."""
    was, now = _settings(theirs.config), _settings(ours.config)
    for key in was:
        if was[key] != now[key]:
            raise _differs(store, key, was[key], now[key])
    if theirs.columns != ours.columns:
        raise _differs(store, "columns", list(theirs.columns), list(ours.columns))
    if theirs.members != ours.members:
        raise _differs(store, "bank", _short(theirs.members), _short(ours.members))
    given = ours.weights is not None or ours.scaler is not None
    before, after = _digest(_start(theirs))[:12], _digest(_start(ours))[:12]
    if given and before != after:
        raise _differs(store, "weights", f"of SHA-256 {before}", f"of SHA-256 {after}")


def _settings(config: Config) -> dict[str, Any]:
    keys = [key for table in STATE for key in getattr(config, table).__struct_fields__]
    values = flatten(config)
    return {key: values[key] for key in keys if key not in FREE}


def _differs(store: str, key: str, was: object, now: object) -> ConfigurationError:
    return ConfigurationError(
        f"{store} was begun with {key} = {was}, and now it is {now}: go on with what it was begun "
        "with, or name another store"
    )


def _short(members: Members | None) -> str:
    return "none" if members is None else ", ".join(member.name for member in members)


def _start(setup: Setup) -> bytes:
    tensors = {
        name: np.ascontiguousarray(layer["kernel"], np.float32)
        for name, layer in (setup.weights or {}).items()
    }
    if setup.scaler is not None:
        tensors[SCALER] = np.ascontiguousarray(setup.scaler, np.float32)
    return safetensors.numpy.save(tensors)


def _digest(value: str | bytes) -> str:
    return hashlib.sha256(value.encode() if isinstance(value, str) else value).hexdigest()


Stored: TypeAlias = Ticks | Label | Gap | SessionStart | End | Settle

NEXT = 1000
"""Rows fetched at a time where they are small."""

HISTORY = 8192
"""Predictions and scores that become columns at a time."""


class JournalEntry(NamedTuple):
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


def entries(connection: sqlite3.Connection, after: int = 0) -> Iterator[JournalEntry]:
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


def _ticks(connection: sqlite3.Connection, after: int) -> Iterator[JournalEntry]:
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
        yield JournalEntry(pos, ticks, intact)


def _labels(connection: sqlite3.Connection, after: int) -> Iterator[JournalEntry]:
    cursor = connection.execute(
        "SELECT pos, stream, n, y, t_ns FROM labels WHERE pos > ? ORDER BY pos", (after,)
    )
    for pos, stream, n, y, t_ns in _rows(cursor):
        with _readable(pos):
            label = Label(stream, n, math.nan if y is None else y, t_ns)
        yield JournalEntry(pos, label)


def _events(connection: sqlite3.Connection, after: int) -> Iterator[JournalEntry]:
    cursor = connection.execute(
        "SELECT pos, kind, stream, session, seq, count FROM events WHERE input = 1 AND pos > ? "
        "ORDER BY pos",
        (after,),
    )
    for pos, kind, stream, session, seq, count in _rows(cursor):
        with _readable(pos):
            event = _event(kind, stream, session, seq, count)
        yield JournalEntry(pos, event)


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
