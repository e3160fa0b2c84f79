"""Everything that a session holds, as bytes, and back.

```
b"SLSTM" | format version (1 byte) | msgpack | SHA-256 of everything before it (32 bytes)
```

The msgpack part is a `Snapshot`. It holds arrays as (dtype, shape, bytes), never code, and is
decoded against a schema. The fingerprint ties it to the configuration that gives it meaning: a
session restores only what a session of the same configuration and columns has written, and a
restored session continues to the same bits.

`freeze` is quick and is called between two ticks: it keeps arrays that nothing writes to, and
copies the others. Encoding takes a hundred times as long, and can be done by another thread, in
chunks, while the session continues.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import weakref
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import msgspec
import numpy as np

from ..config import Config, Members
from ..errors import SnapshotError
from .learning import LearnerState, LearningMonitor, check_kept, copies, copy_of, rebuild
from .scores import ScoresState
from .session import Session
from .stream import Side
from .table import TableState

MAGIC = b"SLSTM"
VERSION = 6
HEADER = len(MAGIC) + 1
DIGEST = hashlib.sha256().digest_size

CHUNK_BYTES = 2**18
"""Of an array that is written at a time: what holds the interpreter's lock at most."""

Bytes: TypeAlias = bytes | memoryview

ALONE: AbstractContextManager[Any] = contextlib.nullcontext()
"""In place of a lock, where one thread does everything."""

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
    watch: LearningMonitor | None = None


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


class Frozen:
    """The state of a session at one moment, from which it continues.

    learned: weights, optimiser and watch by the name of their stream. The other arguments are as
    in `Snapshot`; nothing writes to their arrays any more. An optimiser's state is copied when it
    is written, or before an update takes its memory, whichever comes first: see `keep`. Under a
    `lock` another thread may ask for `chunks`.
    """

    def __init__(
        self,
        fingerprint: str,
        learned: dict[str, LearnerState],
        table: TableState,
        sides: dict[int, Side],
        scores: ScoresState,
        frozen: Any,
        lock: AbstractContextManager[Any],
    ) -> None:
        self.fingerprint, self.table, self.sides = fingerprint, table, sides
        self.scores, self.frozen = scores, frozen
        self._learned = {
            name: LearnerState(held.weights, held.optimizer, copy_of(held.watch))
            for name, held in learned.items()
        }
        self._live = {id(held): name for name, held in learned.items()}
        self._optimizers: dict[str, list[np.ndarray]] = {}
        self._lock = lock

    def keep(self, learned: LearnerState) -> None:
        """Copy what an update is about to take the memory of."""
        name = self._live.get(id(learned))
        if name is not None:
            self._optimizer(name)
            del self._live[id(learned)]

    def _optimizer(self, name: str) -> list[np.ndarray]:
        with self._lock:
            found = self._optimizers.get(name)
            if found is None:
                found = self._optimizers[name] = copies(self._learned[name].optimizer)
            return found

    def chunks(self) -> Iterator[Bytes]:
        """Yield the bytes of `take` in order; every time the same ones."""
        digest = hashlib.sha256()
        for chunk in self._chunks():
            digest.update(chunk)
            yield chunk
        yield digest.digest()

    def _chunks(self) -> Iterator[Bytes]:
        yield MAGIC + bytes([VERSION]) + _map(len(Snapshot.__struct_fields__))
        yield _encode("fingerprint") + _encode(self.fingerprint)
        yield _encode("learned") + _map(len(self._learned))
        for name, held in self._learned.items():
            record = LearnedRecord(_arrays(held.weights), self._optimizer(name), held.watch)
            yield _encode(name) + _encode(record)
        yield _encode("table") + _map(len(TableState.__struct_fields__))
        for name in TableState.__struct_fields__:
            yield _encode(name)
            yield from _column(getattr(self.table, name))
        yield _encode("sides") + _map(len(self.sides))
        for row, side in self.sides.items():
            yield _encode(row) + _encode(side)
        yield _encode("scores") + _encode(self.scores)
        yield _encode("frozen") + _encode(_arrays(self.frozen))


def freeze(session: Session, lock: AbstractContextManager[Any] = ALONE) -> Frozen:
    """Return the whole state of a session as it is now.

    lock: what another thread that asks for its bytes and the session's updates share.
    """
    session.look()
    frozen = Frozen(
        _fingerprint(session),
        session.learned,
        session.table.state(),
        {row: side.frozen() for row, side in session.sides.items()},
        session.scores.state(len(session.table)),
        session.twins.frozen,
        lock,
    )
    session.learning.kept_by.append(weakref.ref(frozen))
    return frozen


def take(session: Session) -> bytes:
    """Return the whole state of a session."""
    return join(freeze(session))


def join(frozen: Frozen) -> bytes:
    """Return the bytes of a frozen state."""
    return b"".join(frozen.chunks())


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
        name: LearnerState(
            tuple(rebuild(weights, held.weights)),
            rebuild(optimizer, held.optimizer),
            held.watch or session.learning.guard.watch(held.weights, held.optimizer),
        )
        for name, held in state.learned.items()
    }
    for held in state.learned.values():
        check_kept(held.watch, weights, optimizer)
    like = session.new_tape(0)
    try:
        for side in state.sides.values():
            if (like is None) != (side.tape is None):
                raise ValueError(
                    "it has tapes where this session has none, or the other way round"
                )
            if side.tape is not None and like is not None:
                side.tape = side.tape.thawed(like)
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
    if data[: len(MAGIC)] != MAGIC or len(data) < HEADER + DIGEST:
        raise SnapshotError("this is not a snapshot, or only the beginning of one")
    version = data[len(MAGIC)]
    if version != VERSION:
        made = "made by version 0.1, and " if version < VERSION else ""
        raise SnapshotError(
            f"the snapshot has format version {version}, this program reads {VERSION}: it was "
            f"{made}the order of work changed in 0.2 (publish first, learn afterwards)"
        )
    whole = memoryview(data)
    if hashlib.sha256(whole[:-DIGEST]).digest() != whole[-DIGEST:]:
        raise SnapshotError("the snapshot is damaged: its checksum does not match")
    try:
        return msgspec.msgpack.decode(whole[HEADER:-DIGEST], type=Snapshot, dec_hook=_array)
    except (msgspec.DecodeError, ValueError) as error:
        raise SnapshotError(f"the snapshot does not fit this version: {error}") from None


def _array(kind: type, value: Any) -> np.ndarray:
    if kind is not np.ndarray:
        raise ValueError(f"unexpected type {kind}")
    return msgspec.convert(value, ArrayRecord).array()


# ---- as MessagePack -----------------------------------------------------------------------


def _map(size: int) -> bytes:
    """Return the head of a map of `size` entries, which follow it."""
    return b"\xdf" + size.to_bytes(4, "big")


def _column(value: Any) -> Iterator[Bytes]:
    """Yield a column of a table, an array of any size in chunks."""
    if not isinstance(value, np.ndarray):
        yield _encode(value)
        return
    if value.dtype == object:
        yield b"\xdd" + len(value).to_bytes(4, "big")
        for row in value:
            yield _encode(row if isinstance(row, str) else row.tolist())
        return
    array = np.ascontiguousarray(value)
    yield _map(3) + _encode("dtype") + _encode(_dtype(array))
    yield _encode("shape") + _encode(array.shape) + _encode("data")
    yield b"\xc6" + array.nbytes.to_bytes(4, "big")
    flat = array.reshape(-1).view(np.uint8).data
    for start in range(0, array.nbytes, CHUNK_BYTES):
        yield flat[start : start + CHUNK_BYTES]


def _plain(value: Any) -> ArrayRecord:
    """Return what msgspec can write for an array of NumPy or JAX."""
    array = np.ascontiguousarray(value).reshape(np.shape(value))
    return ArrayRecord(_dtype(array), array.shape, array.tobytes())


def _dtype(array: np.ndarray) -> str:
    if array.dtype.str not in DTYPES:
        raise TypeError(f"an array of type {array.dtype} has no place in a snapshot")
    return array.dtype.str


_encode = msgspec.msgpack.Encoder(enc_hook=_plain).encode


def _arrays(packed: Iterable[Any] | None) -> list[np.ndarray]:
    return [np.asarray(array) for array in packed or ()]
