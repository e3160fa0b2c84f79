"""Everything that a fleet holds, as bytes, and back: `snapshot` for tables.

```
b"FLEET" | format version (1 byte) | SHA-256 of the rest (32 bytes) | msgpack
```

The tables go as they are, but for rows that no stream has; sessions, which are text that most
streams share, as numbers into a list. A restored fleet goes on to the same bits.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ..errors import SnapshotError
from .fleet import Fleet
from .fleet_tables import Table
from .snapshot import fingerprint
from .trees import leaves, rebuild

MAGIC = b"FLEET"
VERSION = 1
HEADER = len(MAGIC) + 1 + hashlib.sha256().digest_size


class FleetSnapshot(msgspec.Struct, frozen=True):
    """What is written: arrays as their bytes, in the order of `Fleet.tables` and `_pooled`."""

    fingerprint: str
    names: list[str]
    tables: list[bytes]
    pooled: list[bytes]
    ringed: int
    stray_labels: int
    weights: list[bytes]
    sessions: list[str]
    session_of: bytes
    pending_session_of: bytes


def take(fleet: Fleet) -> bytes:
    """Return the whole state of a fleet."""
    count, known = len(fleet.names), dict[str, int]()

    def numbered(texts: npt.NDArray[np.object_]) -> bytes:
        given = [known.setdefault(text, len(known)) for text in texts.reshape(-1)]
        return np.array(given, "<i4").tobytes()

    session_of = numbered(fleet.sessions[:count])
    pending_session_of = numbered(fleet.book.sessions[:count])
    state = FleetSnapshot(
        fingerprint(fleet.config, fleet.columns),
        fleet.names,
        [table.rows[:count].tobytes() for table in fleet.tables()],
        [array.tobytes() for array in _pooled(fleet)],
        fleet.book.scores.ringed,
        fleet.stray_labels,
        [leaf.tobytes() for leaf in leaves(fleet.weights)],
        list(known),
        session_of,
        pending_session_of,
    )
    body = msgspec.msgpack.encode(state)
    return MAGIC + bytes([VERSION]) + hashlib.sha256(body).digest() + body


def restore(fleet: Fleet, data: bytes) -> None:
    """Put the state of `take` into a fleet that has no streams; it is unchanged where this fails.

    Raises SnapshotError where the bytes are damaged, of another version, or of a fleet with
    another configuration or other columns, and where the fleet has streams or has no room.
    """
    state = _decode(data)
    wanted, count = fingerprint(fleet.config, fleet.columns), len(state.names)
    if state.fingerprint != wanted:
        raise SnapshotError(
            f"the snapshot belongs to another configuration: its fingerprint is "
            f"{state.fingerprint[:12]}, this fleet's is {wanted[:12]}; restore it with the "
            "settings and columns that it was taken with"
        )
    if fleet.names or count > fleet.capacity:
        raise SnapshotError(
            f"a snapshot of {count} streams needs a fleet without streams that holds as many; "
            f"this one has {len(fleet.names)} and holds {fleet.capacity}"
        )
    try:
        tables = [
            _rows(table, count, rows)
            for table, rows in zip(fleet.tables(), state.tables, strict=True)
        ]
        pooled = [
            np.frombuffer(rows, array.dtype).reshape(array.shape)
            for array, rows in zip(_pooled(fleet), state.pooled, strict=True)
        ]
        weights = rebuild(fleet.weights, _weights(fleet, state.weights))
        texts = np.array([*state.sessions, None], np.object_)[:-1]
        sessions = texts[np.frombuffer(state.session_of, "<i4")].reshape(count)
        pending = texts[np.frombuffer(state.pending_session_of, "<i4")]
        pending = pending.reshape(count, fleet.book.slots)
    except (ValueError, IndexError) as error:
        raise SnapshotError(f"the snapshot does not fit this version: {error}") from None
    for name in state.names:
        fleet.place(name)
    for table, rows in zip(fleet.tables(), tables, strict=True):
        table.rows[:count] = rows
    for array, held in zip(_pooled(fleet), pooled, strict=True):
        array[...] = held
    fleet.weights, fleet.stray_labels = weights, state.stray_labels
    fleet.book.scores.ringed = state.ringed
    fleet.sessions[:count], fleet.book.sessions[:count] = sessions, pending


def _pooled(fleet: Fleet) -> list[npt.NDArray[Any]]:
    """Return the arrays that all streams share."""
    scores = fleet.book.scores
    return [scores.bins, scores.ranks, scores.ring]


def _rows(table: Table, count: int, data: bytes) -> npt.NDArray[Any]:
    shape = table.rows.shape[1:]
    dtype = table.rows.dtype
    return np.frombuffer(data, dtype).reshape(count, *shape)


def _weights(fleet: Fleet, data: list[bytes]) -> list[npt.NDArray[Any]]:
    like = leaves(fleet.weights)
    return [
        np.frombuffer(held, old.dtype).reshape(old.shape)
        for held, old in zip(data, like, strict=True)
    ]


def _decode(data: bytes) -> FleetSnapshot:
    if data[: len(MAGIC)] != MAGIC or len(data) < HEADER:
        raise SnapshotError("this is not a snapshot of a fleet, or only the beginning of one")
    version = data[len(MAGIC)]
    if version != VERSION:
        raise SnapshotError(
            f"the snapshot has format version {version}, this program reads {VERSION}"
        )
    body = data[HEADER:]
    if hashlib.sha256(body).digest() != data[len(MAGIC) + 1 : HEADER]:
        raise SnapshotError("the snapshot is damaged: its checksum does not match")
    try:
        return msgspec.msgpack.decode(body, type=FleetSnapshot)
    except msgspec.DecodeError as error:
        raise SnapshotError(f"the snapshot does not fit this version: {error}") from None
