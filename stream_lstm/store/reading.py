"""The content of a store, read back: its setup, its journal and outputs, and a resumed session.

A store has one setup, with all that a replay of its journal needs. A restart must agree with it in
every setting that the session's state depends on; the sources and destinations of data may change.

A session resumes from the newest intact snapshot and the journal behind it. The journal must lead
to the stored predictions bit for bit; otherwise nothing that follows could be trusted.

The part of a file that a store holds already, which is not pushed a second time.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError
from .units import JournalPosition

if TYPE_CHECKING:
    from ..core.replay import ReplayRows
import hashlib
import heapq
import math
import sqlite3
from collections.abc import Callable
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
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
from ..typing import Float32s
from .chain import damage
from .journal import first_pos, last_pos, tick_checksum
from .schema import UNREADABLE, WAY_OUT, R, damaged, failure, read
from .units import Settle, StoredInput, snapshot_state, snapshots


class StoredPart:
    """Iterates over the pieces that the store holds; afterwards `rest` gives the others.

    known: the position of the stream in the store. file: its name, for messages. The last piece
    is cut where the store ends. Raises DataError at the end if the store holds other ticks.
    """

    def __init__(self, known: JournalPosition, pieces: Iterator[ReplayRows], file: str) -> None:
        self._known, self._pieces, self._file = known, pieces, file
        self._cut: list[ReplayRows] = []
        self._times = self._fields = 0

    def __iter__(self) -> Iterator[ReplayRows]:
        left = self._known.ticks
        while left:
            piece = next(self._pieces, None)
            if piece is None:
                raise DataError(
                    f"{self._file} has {self._known.ticks - left:,} ticks and the store "
                    f"{self._known.ticks:,} of its stream: replay the file that it holds, or "
                    "name another store or --stream"
                )
            if len(piece.values) > left:
                self._cut = [piece.part(slice(left, None))]
                piece = piece.part(slice(0, left))
            left -= len(piece.values)
            self._times = zlib.crc32(_raw(piece.t_ns, "<i8"), self._times)
            self._fields = zlib.crc32(_raw(piece.values, "<f8"), self._fields)
            yield piece
        fields_agree = self._fields == self._known.fields_crc
        if fields_agree and self._times != self._known.times_crc:
            raise DataError(
                f"{self._file} begins with the values that the store holds, but with other times: "
                "name the column of times as before (--time), or another store"
            )
        if not fields_agree:
            raise DataError(
                f"{self._file} does not begin with the {self._known.ticks:,} ticks of its stream "
                "that the store holds: replay the file that the store was started with, or name "
                "another store or --stream"
            )

    def rest(self) -> Iterator[ReplayRows]:
        """Return the pieces that the store does not hold."""
        return chain(self._cut, self._pieces)


def _raw(array: np.ndarray, dtype: str) -> bytes:
    return np.ascontiguousarray(array, dtype).tobytes()


FETCHED = 1000
"""Small rows fetched at a time."""

HISTORY = 8192
"""Predictions and scores that become columns at a time."""


# ---- the setup --------------------------------------------------------------------------

STATE = ("stream", "model", "scaling", "learning", "scoring")
"""Tables of the configuration that the state depends on."""

FREE = ("weights", "publish_experts", "table")
"""Keys of those tables that it does not depend on; weights are compared as numbers."""

SCALER = "scaler.state"

_DAMAGED_SETUP: tuple[type[Exception], ...] = (*UNREADABLE, safetensors.SafetensorError)


class Setup(NamedTuple):
    """Configuration and columns, members of a bank, initial weights and scaler."""

    config: Config
    columns: tuple[str, ...]
    members: Members | None = None
    weights: dict[str, Any] | None = None
    scaler: Float32s | None = None


def write_setup(connection: sqlite3.Connection, setup: Setup) -> None:
    """Write the setup of a new store."""
    parts: dict[str, str | bytes] = {
        "configuration": msgspec.json.encode(setup.config).decode(),
        "columns": msgspec.json.encode(setup.columns).decode(),
        "members": msgspec.json.encode(setup.members).decode(),
        "start": _initial_tensors(setup),
    }
    rows = [(name, value, _digest(value)) for name, value in parts.items()]
    connection.executemany("INSERT INTO setup VALUES (?, ?, ?)", rows)


def read_setup(connection: sqlite3.Connection, store: str) -> Setup | None:
    """Return the setup of a store, None where it has none yet; store: the name of its file.

    Raises StoreError where it is damaged, naming the file and the part.
    """
    parts: dict[str, Any] = {}
    for name, value, digest in connection.execute("SELECT name, value, sha256 FROM setup"):
        if not isinstance(value, str | bytes) or _digest(value) != digest:
            what = "initial weights" if name == "start" else name
            raise damaged(store, f"the checksum of its {what} is wrong")
        parts[name] = value
    if not parts:
        return None
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
    except _DAMAGED_SETUP as error:
        raise damaged(store, f"its setup does not fit this version ({error})") from None


def check_setup(stored: Setup, present: Setup, store: str) -> None:
    """Raise ConfigurationError for the first difference of a restart, with both values."""

    def compare(key: str, before: object, after: object) -> None:
        if before != after:
            raise ConfigurationError(
                f"{store} was created with {key} = {before}, but {key} = {after} is set: restore "
                "that setting, or name another store"
            )

    before, after = _settings(stored.config), _settings(present.config)
    for key in before:
        compare(key, before[key], after[key])
    compare("columns", list(stored.columns), list(present.columns))
    if stored.members != present.members:
        compare("bank", _names(stored.members), _names(present.members))
    if present.weights is not None or present.scaler is not None:
        digests = (_digest(_initial_tensors(setup))[:12] for setup in (stored, present))
        compare("weights", *(f"SHA-256 {digest}" for digest in digests))


def _settings(config: Config) -> dict[str, Any]:
    keys = [key for table in STATE for key in getattr(config, table).__struct_fields__]
    values = flatten(config)
    return {key: values[key] for key in keys if key not in FREE}


def _names(members: Members | None) -> str:
    return "none" if members is None else ", ".join(member.name for member in members)


def _initial_tensors(setup: Setup) -> bytes:
    tensors = {
        name: np.ascontiguousarray(layer["kernel"], np.float32)
        for name, layer in (setup.weights or {}).items()
    }
    if setup.scaler is not None:
        tensors[SCALER] = np.ascontiguousarray(setup.scaler, np.float32)
    return safetensors.numpy.save(tensors)


def _digest(value: str | bytes) -> str:
    return hashlib.sha256(value.encode() if isinstance(value, str) else value).hexdigest()


# ---- the journal ------------------------------------------------------------------------


class JournalEntry(NamedTuple):
    """A row of the journal; `event` is None for a hole. `intact` is False for damaged ticks.

    `n` is the number of the last element behind ticks, 0 for other inputs.
    """

    pos: int
    event: StoredInput | None
    intact: bool = True
    n: int = 0


def entries(connection: sqlite3.Connection, after: int = 0) -> Iterator[JournalEntry]:
    """Yield the journal behind position `after`; raises StoreError where a position is missing."""
    expected = after + 1
    tables = [
        _entries(connection.execute(f"{query} ORDER BY pos", (after,)), size, parse)
        for query, size, parse in _JOURNAL
    ]
    for entry in heapq.merge(*tables, key=itemgetter(0)):
        if entry.pos != expected:
            raise StoreError(
                f"the journal has nothing at position {expected:,} of {entry.pos:,}: the store "
                "is damaged"
            )
        expected += 1
        yield entry


def _entries(
    cursor: sqlite3.Cursor, size: int, parse: Callable[..., JournalEntry]
) -> Iterator[JournalEntry]:
    while rows := cursor.fetchmany(size):
        for pos, *cells in rows:
            try:
                entry = parse(pos, *cells)
            except (TypeError, ValueError):  # a missing page reads as nulls and zeros
                raise StoreError(
                    f"the journal's input at position {pos} cannot be read: the store is damaged"
                ) from None
            yield entry


def _ticks(
    pos: int, stream: str, run_id: str, seq: int | None, count: int, n: int, t_ns: bytes,
    fields: bytes, crc: int,
) -> JournalEntry:  # fmt: skip
    values = np.frombuffer(fields, "<f8").reshape(count, -1)
    ticks = Ticks(stream, np.frombuffer(t_ns, "<i8"), values, run_id, seq)
    return JournalEntry(pos, ticks, tick_checksum(t_ns, fields) == crc, n)


def _label(pos: int, stream: str, n: int, y: float | None, t_ns: int) -> JournalEntry:
    return JournalEntry(pos, Label(stream, n, math.nan if y is None else y, t_ns))


def _event(pos: int, kind: str, stream: str, run_id: str, seq: int, count: int) -> JournalEntry:
    match kind:
        case "gap":
            return JournalEntry(pos, Gap(stream, seq, count))
        case "session":
            return JournalEntry(pos, SessionStart(stream, run_id))
        case "end":
            return JournalEntry(pos, End(stream, run_id))
        case "settle":
            return JournalEntry(pos, Settle())
        case "hole":
            return JournalEntry(pos, None)
        case _:
            raise StoreError(f"the journal has an input of the unknown kind {kind!r}")


_TICKS = (
    "SELECT pos, stream, session, seq, count, n_after, t_ns, fields, crc FROM ticks WHERE pos > ?"
)
_LABELS = "SELECT pos, stream, n, y, t_ns FROM labels WHERE pos > ?"
_EVENTS = "SELECT pos, kind, stream, session, seq, count FROM events WHERE input = 1 AND pos > ?"
_JOURNAL: tuple[tuple[str, int, Callable[..., JournalEntry]], ...] = (
    (_TICKS, 1, _ticks),  # a row may be large
    (_LABELS, FETCHED, _label),
    (_EVENTS, FETCHED, _event),
)


def drive(session: Session, event: StoredInput) -> None:
    """Repeat an input in a session."""
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


def is_whole(connection: sqlite3.Connection, after: int, until: int) -> bool:
    """Return whether the journal has all of (after, until]: no hole, and nothing trimmed."""
    if until > after and first_pos(connection) > after + 1:
        return False
    found = connection.execute(
        "SELECT 1 FROM events WHERE input = 1 AND kind = 'hole' AND pos > ? AND pos <= ?",
        (after, until),
    )
    return found.fetchone() is None


# ---- outputs ----------------------------------------------------------------------------


def outputs(
    connection: sqlite3.Connection, kind: type[R], after: int = 0
) -> Iterator[tuple[int, R]]:
    """Yield (pos, record) of the outputs that inputs behind a position caused, in order."""
    for pos, batch in read(connection, kind, "WHERE pos > ? ORDER BY pos, n", after):
        yield from zip(pos, batch.events(), strict=True)


def history(
    connection: sqlite3.Connection,
) -> Iterator[tuple[Batch[Prediction], Batch[Score]]]:
    """Yield all predictions, and the scores that belong between them, in their order."""
    merged: Iterator[tuple[int, int, Prediction | Score]] = heapq.merge(
        ((pos, 0, prediction) for pos, prediction in outputs(connection, Prediction)),
        ((pos, 1, score) for pos, score in outputs(connection, Score)),
        key=itemgetter(0, 1),
    )
    while part := [event for _, _, event in islice(merged, HISTORY)]:
        yield (
            Batch.of(Prediction, [event for event in part if isinstance(event, Prediction)]),
            Batch.of(Score, [event for event in part if isinstance(event, Score)]),
        )


def same(stored: Prediction | None, computed: Prediction) -> bool:
    """Return whether two predictions are equal, except for their experts."""
    return stored is not None and replace(stored, experts=()) == replace(computed, experts=())


# ---- resuming ---------------------------------------------------------------------------


class Resumed(NamedTuple):
    """How a session was resumed.

    `snapshot` is the number of its snapshot, None for the journal's start; `inputs` counts the
    journal rows behind it; `predictions` are those that it computed again; `set_aside` are the
    damaged snapshots, each with its damage.
    """

    snapshot: int | None
    inputs: int
    predictions: list[Prediction]
    set_aside: dict[int, str]


def resume(connection: sqlite3.Connection, session: Session, store: str) -> Resumed:
    """Bring a new session to the end of the store's journal.

    Raises StoreError where no snapshot is intact and the journal is incomplete, and
    StreamLSTMError where the journal does not lead to the stored predictions.
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
    predictions: list[Prediction] = []

    def compare(outcome: Outcome) -> None:
        for prediction in outcome.predictions.events():
            _compare(connection, store, prediction)
            predictions.append(prediction)

    listeners = session.emit, session.deliver
    session.emit, session.deliver = None, compare
    try:
        for entry in entries(connection, start):
            if not entry.intact:
                what = f"the ticks at position {entry.pos:,} do not match their checksum"
                raise damaged(store, what)
            assert entry.event is not None
            drive(session, entry.event)
        session.catch_up()  # each stored tick was stored with all its outputs
    finally:
        session.emit, session.deliver = listeners
    expected = connection.execute(
        "SELECT count(*) FROM predictions WHERE pos > ?", (start,)
    ).fetchone()[0]
    if expected != len(predictions):
        raise StreamLSTMError(
            f"{store}: its journal leads to {len(predictions):,} predictions, but {expected:,} "
            "are stored; run stream-lstm verify for the cause"
        )
    return Resumed(number, end - start, predictions, set_aside)


def _compare(connection: sqlite3.Connection, store: str, computed: Prediction) -> None:
    where = "WHERE stream = ? AND n = ?"
    found = next(read(connection, Prediction, where, computed.stream, computed.n), None)
    stored = None if found is None else found[1].events()[0]
    if not same(stored, computed):
        raise StreamLSTMError(
            f"{store}: its journal leads to another prediction {computed.n} of "
            f"{computed.stream!r} than is stored: p = {computed.p!r}, stored "
            f"{'none' if stored is None else repr(stored.p)}. Other versions or another machine "
            "can be the cause: run stream-lstm verify, or start a new store"
        )


def _restore(
    connection: sqlite3.Connection,
    session: Session,
    end: int,
    set_aside: dict[int, str],
    store: str,
) -> tuple[int | None, int]:
    """Restore the newest intact snapshot; return its number and position."""
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
        why = "; ".join(set_aside.values()) or "there is none behind the hole"
        raise StoreError(
            f"{store}: no snapshot can be used ({why}), and the journal is incomplete. {WAY_OUT}; "
            "stream-lstm export STORE --out DIR saves its tables"
        )
    return None, 0
