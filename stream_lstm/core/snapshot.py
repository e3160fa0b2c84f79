"""Everything that a session holds, as bytes, and back.

```
b"SLSTM" | format version (1 byte) | SHA-256 of the rest (32 bytes) | msgpack
```

The msgpack part is a `Snapshot`. It holds arrays as (dtype, shape, bytes), never code, and is
decoded against a schema. The fingerprint ties it to the configuration that gives it meaning: a
session restores only what a session of the same configuration and columns has written, and a
restored session goes on to the same bits.
"""

from __future__ import annotations

import functools
import hashlib
from typing import Any

import msgspec
import numpy as np

from ..config import Config
from ..errors import SnapshotError
from ..members import Members
from .rollback import Learned, Watch, check_kept
from .scores import ScoresState
from .session import Session
from .stream import Side
from .table import TableState
from .trees import leaves, rebuild

MAGIC = b"SLSTM"
VERSION = 5
HEADER = len(MAGIC) + 1 + hashlib.sha256().digest_size

DTYPES = ("<f4", "<f8", "<i4", "<i8", "<u4", "|b1")
"""The only array types that a session or an optimiser holds."""


class ArrayRecord(msgspec.Struct, frozen=True):
    """An array as plain data; `data` is C order, little-endian."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    def array(self) -> np.ndarray:
        """Return the array; raises ValueError where the parts do not fit."""
        if self.dtype not in DTYPES:
            raise ValueError(f"an array of type {self.dtype!r}")
        # A copy, since what is restored is written to, and a buffer of bytes is read-only.
        return np.frombuffer(self.data, self.dtype).reshape(self.shape).copy()


class LearnedRecord(msgspec.Struct, frozen=True):
    """Weights as `model.packing` packs them, the optimiser's leaves, and the watch over both.

    A snapshot of before there was a watch has none: then these weights count as good.
    """

    weights: list[np.ndarray]
    optimizer: list[np.ndarray]
    watch: Watch | None = None


class Snapshot(msgspec.Struct, frozen=True):
    """What is written; `frozen` are the weights of the frozen twin, where there is one."""

    fingerprint: str
    learned: dict[str, LearnedRecord]
    table: TableState
    sides: dict[int, Side]
    scores: ScoresState
    frozen: list[np.ndarray] = []


def fingerprint(config: Config, columns: tuple[str, ...], members: Members | None = None) -> str:
    """Return a hash of the settings that state depends on: not of where data come from or go.

    Only those count that are not the default, so that a new setting leaves the states of before
    their fingerprint. Who changes a default must raise VERSION.
    """
    model = msgspec.structs.replace(config.model, weights=None, compile_cache=None)
    learning = msgspec.structs.replace(config.learning, publish_experts=False)
    stream = msgspec.structs.replace(config.stream, table=False)
    tables = (stream, model, config.scaling, learning, config.scoring)
    chosen = {
        field.name: getattr(table, field.name)
        for table in tables
        for field in _fields(type(table))
        if getattr(table, field.name) != field.default
    }
    return hashlib.sha256(msgspec.json.encode((chosen, members, columns))).hexdigest()


# Looking a class's fields up takes a millisecond, and a snapshot is taken between two ticks.
_fields = functools.cache(msgspec.structs.fields)


def _fingerprint(session: Session) -> str:
    return fingerprint(session.config, session.columns, session.members)


def take(session: Session) -> bytes:
    """Return the whole state of a session."""
    session.look()
    learned = {
        name: LearnedRecord(_arrays(held.weights), leaves(held.optimizer), held.watch)
        for name, held in session.learned.items()
    }
    table = session.table.state()
    scores = session.scores.state(len(session.table))
    frozen = _arrays(session.twins.frozen)
    state = Snapshot(_fingerprint(session), learned, table, session.sides, scores, frozen)
    body = msgspec.msgpack.encode(state, enc_hook=_plain)
    return MAGIC + bytes([VERSION]) + hashlib.sha256(body).digest() + body


def restore(session: Session, data: bytes) -> None:
    """Put the state of `take` back into a session, which is unchanged where this fails.

    Raises SnapshotError where the bytes are damaged, of another version, or of a session with
    another configuration or other columns.
    """
    state = _decode(data)
    wanted = _fingerprint(session)
    if state.fingerprint != wanted:
        raise SnapshotError(
            f"the snapshot belongs to another configuration: its fingerprint is "
            f"{state.fingerprint[:12]}, this session's is {wanted[:12]}; restore it with the "
            "settings and columns that it was taken with"
        )
    start = session.engine.init_weights()
    weights = session.engine.pack(start)
    optimizer = session.engine.init_optimizer(start) if session.config.learning.learn else None
    learned = {
        name: Learned(
            tuple(rebuild(weights, held.weights)),
            rebuild(optimizer, held.optimizer),
            held.watch or session.learning.guard.watch(held.weights, held.optimizer),
        )
        for name, held in state.learned.items()
    }
    for held in state.learned.values():
        check_kept(held.watch, weights, optimizer)
    try:
        session.table.restore(state.table)
        session.scores.restore(state.scores)
        session.scores.grow(session.table.capacity)
    except ValueError as error:
        raise SnapshotError(f"the snapshot does not fit this session: {error}") from None
    if session.twins.frozen is not None:
        session.twins.frozen = rebuild(weights, state.frozen)
    session.learned, session.sides = learned, state.sides
    session.reload()


def weights_of(data: bytes) -> dict[str, list[np.ndarray]]:
    """Return the weights in the bytes of `take`, as their leaves, by the name of their stream.

    Raises SnapshotError where the bytes are damaged or of another version.
    """
    return {name: held.weights for name, held in _decode(data).learned.items()}


def _decode(data: bytes) -> Snapshot:
    if data[: len(MAGIC)] != MAGIC or len(data) < HEADER:
        raise SnapshotError("this is not a snapshot, or only the beginning of one")
    version = data[len(MAGIC)]
    if version != VERSION:
        made = "made by version 0.1, and " if version < VERSION else ""
        raise SnapshotError(
            f"the snapshot has format version {version}, this program reads {VERSION}: it was "
            f"{made}the order of work changed in 0.2 (publish first, learn afterwards)"
        )
    body = data[HEADER:]
    if hashlib.sha256(body).digest() != data[len(MAGIC) + 1 : HEADER]:
        raise SnapshotError("the snapshot is damaged: its checksum does not match")
    try:
        return msgspec.msgpack.decode(body, type=Snapshot, dec_hook=_array)
    except (msgspec.DecodeError, ValueError) as error:
        raise SnapshotError(f"the snapshot does not fit this version: {error}") from None


def _plain(value: Any) -> ArrayRecord:
    """Return what msgspec can write for an array of NumPy or JAX."""
    array = np.asarray(value)
    if array.dtype.str not in DTYPES:
        raise TypeError(f"an array of type {array.dtype} has no place in a snapshot")
    return ArrayRecord(array.dtype.str, array.shape, np.ascontiguousarray(array).tobytes())


def _array(kind: type, value: Any) -> np.ndarray:
    if kind is not np.ndarray:
        raise ValueError(f"unexpected type {kind}")
    return msgspec.convert(value, ArrayRecord).array()


def _arrays(packed: tuple[Any, ...] | None) -> list[np.ndarray]:
    return [np.array(array) for array in packed or ()]
