"""The whole state of a session as bytes, and back.

```
b"SLSTM" | format version (1 byte) | msgpack | SHA-256 of everything before it (32 bytes)
```

The msgpack part is a `Snapshot`. It contains arrays as (dtype, shape, bytes), never code, and is
decoded against a schema. The fingerprint ties it to its configuration: a session restores only
what a session with the same configuration and columns has written, and continues to the same bits.

`freeze` is fast and is called between two ticks: it refers to arrays that nothing writes to, and
copies the others. Encoding takes a hundred times as long, and another thread can do it, in chunks,
while the session continues.
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
from .learning import LearnerState, LearningMonitor, check_monitor, copies, rebuild
from .scores import ScoresState
from .session import Session
from .stream import StreamExtras
from .table import TableState

MAGIC = b"SLSTM"
VERSION = 6
HEADER = len(MAGIC) + 1
DIGEST = hashlib.sha256().digest_size

CHUNK_BYTES = 2**18
"""Bytes of an array that are written at a time: the interpreter is locked for no longer."""

Bytes: TypeAlias = bytes | memoryview

ALONE: AbstractContextManager[Any] = contextlib.nullcontext()
"""Instead of a lock, if one thread does everything."""

DTYPES = ("<f4", "<f8", "<i4", "<i8", "<u4", "|b1")
"""The only array types of a session or an optimiser."""


class ArrayRecord(msgspec.Struct, frozen=True):
    """An array as plain data; `data` is C order, little-endian."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    def array(self) -> np.ndarray:
        """Return the array; raises ValueError if the parts do not fit."""
        if self.dtype not in DTYPES:
            raise ValueError(f"an array of type {self.dtype!r}")
        # A copy: a restored array is written to, and a buffer of bytes is read-only.
        return np.frombuffer(self.data, self.dtype).reshape(self.shape).copy()


class LearnerRecord(msgspec.Struct, frozen=True, rename={"monitor": "watch"}):
    """Weights as `model.buffers` packs them, the optimiser's leaves, and their monitor.

    An older snapshot has no monitor; its weights count as good.
    """

    weights: list[np.ndarray]
    optimizer: list[np.ndarray]
    monitor: LearningMonitor | None = None


class Snapshot(msgspec.Struct, frozen=True, rename={"learners": "learned", "extras": "sides"}):
    """The msgpack part.

    `settings` are those of the fingerprint, as texts; older snapshots have none. `frozen` are the
    weights of the frozen twin, if there is one. `memories` are those of features by stream, and
    `board` what streams show to each other, if features have memory.
    """

    fingerprint: str
    learners: dict[str, LearnerRecord]
    table: TableState
    extras: dict[int, StreamExtras]
    scores: ScoresState
    frozen: list[np.ndarray] = []
    memories: dict[str, list[list[np.ndarray]]] = {}
    board: list[np.ndarray] = []
    settings: dict[str, str] = {}


def fingerprint(config: Config, columns: tuple[str, ...], members: Members | None = None) -> str:
    """Return a hash of the settings that the state depends on.

    Only settings that differ from their default count, so a new setting does not change the
    fingerprint of older states. Changing a default requires a new VERSION.
    """
    chosen = _chosen(config)
    return hashlib.sha256(msgspec.json.encode((chosen, members, columns))).hexdigest()


def _chosen(config: Config) -> dict[str, Any]:
    """Return the settings that the state depends on and that are not their defaults."""
    model = msgspec.structs.replace(config.model, weights=None, compile_cache=None)
    learning = msgspec.structs.replace(config.learning, publish_experts=False)
    stream = msgspec.structs.replace(config.stream, table=False)
    tables = (stream, model, config.scaling, learning, config.scoring)
    return {
        field.name: getattr(table, field.name)
        for table in tables
        for field in _fields(type(table))
        if getattr(table, field.name) != field.default
    }


MAX_SHOWN = 200
"""Characters of a setting that a message shows."""

# Looking up the fields of a class takes a millisecond, and freezing happens between two ticks.
_fields = functools.cache(msgspec.structs.fields)


def settings_of(
    config: Config, columns: tuple[str, ...], members: Members | None = None
) -> dict[str, str]:
    """Return what the fingerprint is made of, as texts."""
    chosen = _chosen(config) | {"columns": columns}
    if members is not None:
        chosen["bank"] = members
    return {key: msgspec.json.encode(value).decode() for key, value in chosen.items()}


def differences(before: dict[str, str], here: dict[str, str]) -> list[str]:
    """Return a line for each setting that differs between two results of `settings_of`."""
    default = "the default"
    return [
        f"{key} is {before.get(key, default)[:MAX_SHOWN]} in the snapshot, and "
        f"{here.get(key, default)[:MAX_SHOWN]} here"
        for key in sorted({*before, *here})
        if before.get(key) != here.get(key)
    ]


def _settings(session: Session) -> dict[str, str]:
    return settings_of(session.config, session.columns, session.members)


def _fingerprint(session: Session) -> str:
    return fingerprint(session.config, session.columns, session.members)


class Frozen:
    """The state of a session at one moment.

    learners: weights, optimiser and monitor by the name of their stream. The other arguments are
    those of `Snapshot`, and nothing writes to their arrays. The state of an optimiser is copied
    when it is encoded or when an update takes its memory, whichever comes first, see `preserve`.
    With a `lock`, another thread may call `chunks`.
    """

    def __init__(
        self,
        fingerprint: str,
        settings: dict[str, str],
        learners: dict[str, LearnerState],
        table: TableState,
        extras: dict[int, StreamExtras],
        scores: ScoresState,
        frozen: Any,
        lock: AbstractContextManager[Any],
        memories: dict[str, list[list[np.ndarray]]],
        board: list[np.ndarray],
    ) -> None:
        self.memories, self.board = memories, board
        self.fingerprint, self.settings = fingerprint, settings
        self.table, self.extras = table, extras
        self.scores, self.frozen = scores, frozen
        self._learners = {
            name: LearnerState(one.weights, one.optimizer, one.monitor and one.monitor.frozen())
            for name, one in learners.items()
        }
        self._live = {id(one): name for name, one in learners.items()}
        self._optimizers: dict[str, list[np.ndarray]] = {}
        self._lock = lock

    def preserve(self, learner: LearnerState) -> None:
        """Copy the state of an optimiser before an update takes its memory."""
        name = self._live.get(id(learner))
        if name is not None:
            self._optimizer(name)
            del self._live[id(learner)]

    def _optimizer(self, name: str) -> list[np.ndarray]:
        with self._lock:
            found = self._optimizers.get(name)
            if found is None:
                found = self._optimizers[name] = copies(self._learners[name].optimizer)
            return found

    def chunks(self) -> Iterator[Bytes]:
        """Yield the bytes of `take` in order; each call yields the same."""
        digest = hashlib.sha256()
        for chunk in self._chunks():
            digest.update(chunk)
            yield chunk
        yield digest.digest()

    def _chunks(self) -> Iterator[Bytes]:
        memories = bool(self.memories or self.board)
        fields = len(Snapshot.__struct_fields__) - (0 if memories else 2)
        yield MAGIC + bytes([VERSION]) + _map(fields)
        yield _encode("fingerprint") + _encode(self.fingerprint)
        yield _encode("learned") + _map(len(self._learners))
        for name, one in self._learners.items():
            record = LearnerRecord(_arrays(one.weights), self._optimizer(name), one.monitor)
            yield _encode(name) + _encode(record)
        yield _encode("table") + _map(len(TableState.__struct_fields__))
        for name in TableState.__struct_fields__:
            yield _encode(name)
            yield from _column(getattr(self.table, name))
        yield _encode("sides") + _map(len(self.extras))
        for row, extras in self.extras.items():
            yield _encode(row) + _encode(extras)
        yield _encode("scores") + _encode(self.scores)
        yield _encode("frozen") + _encode(_arrays(self.frozen))
        if memories:
            yield _encode("memories") + _map(len(self.memories))
            for name, memory in self.memories.items():
                yield _encode(name) + _encode(memory)
            yield _encode("board") + _encode(self.board)
        yield _encode("settings") + _encode(self.settings)


def freeze(session: Session, lock: AbstractContextManager[Any] = ALONE) -> Frozen:
    """Return the state of a session at this moment.

    lock: shared by the session's updates and another thread that reads the bytes.
    """
    session.look()
    frozen = Frozen(
        _fingerprint(session),
        _settings(session),
        session.learners,
        session.table.state(),
        {row: extras.frozen() for row, extras in session.extras.items()},
        session.scores.state(len(session.table)),
        session.twins.frozen,
        lock,
        {name: machine.state() for name, machine in session.machines.items()},
        session.maker.board_state(),
    )
    session.learning.snapshots.append(weakref.ref(frozen))
    return frozen


def join(frozen: Frozen) -> bytes:
    """Return the bytes of a frozen state."""
    return b"".join(frozen.chunks())


def take(session: Session) -> bytes:
    """Return the whole state of a session."""
    return join(freeze(session))


def restore(session: Session, data: bytes) -> None:
    """Replace the state of a session by that of `take`; a failure changes nothing.

    Raises SnapshotError if the bytes are damaged, of another version, or of a session with another
    configuration or other columns.
    """
    state = _decode(data)
    wanted = _fingerprint(session)
    if state.fingerprint != wanted:
        lines = differences(state.settings, _settings(session)) if state.settings else []
        raise SnapshotError(
            "the snapshot belongs to another configuration: restore it with the settings and "
            "columns that it was taken with",
            *(lines or [f"their fingerprints are {state.fingerprint[:12]} and {wanted[:12]}"]),
        )
    start = session.engine.init_weights()
    weights = session.engine.pack(start)
    optimizer = session.engine.init_optimizer(start) if session.config.learning.learn else None
    learners = {}
    for name, record in state.learners.items():
        new = session.learning.rollback.monitor(record.weights, record.optimizer)
        learners[name] = LearnerState(
            tuple(rebuild(weights, record.weights)),
            rebuild(optimizer, record.optimizer),
            record.monitor or new,
        )
        check_monitor(record.monitor, weights, optimizer)
    like, board = session.new_tape(0), session.maker.board_state()
    try:
        machines = session.maker.restored(state.memories, state.board)
        for extras in state.extras.values():
            if (like is None) != (extras.tape is None):
                raise ValueError("only one of the two has tapes")
            if extras.tape is not None and like is not None:
                extras.tape = extras.tape.thawed(like)
        session.table.restore(state.table)
        session.scores.restore(state.scores)
        session.scores.grow(session.table.capacity)
    except ValueError as error:
        session.maker.restore_board(board)
        raise SnapshotError(f"the snapshot does not fit this session: {error}") from None
    if session.twins.frozen is not None:
        session.twins.frozen = rebuild(weights, state.frozen)
    session.learners, session.extras, session.machines = learners, state.extras, machines
    session.reload()


def weights_of(data: bytes) -> dict[str, list[np.ndarray]]:
    """Return the leaves of the weights in the bytes of `take`, by the name of their stream.

    Raises SnapshotError if the bytes are damaged or of another version.
    """
    return {name: record.weights for name, record in _decode(data).learners.items()}


def _decode(data: bytes) -> Snapshot:
    if data[: len(MAGIC)] != MAGIC or len(data) < HEADER + DIGEST:
        raise SnapshotError("not a snapshot, or a truncated one")
    version = data[len(MAGIC)]
    if version != VERSION:
        made = "made by release 0.1, " if version < VERSION else ""
        raise SnapshotError(
            f"the snapshot is {made}of format version {version}, and this program reads version "
            f"{VERSION}: start without it, or use the release that made it"
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
    """Return the head of a map; its `size` entries follow."""
    return b"\xdf" + size.to_bytes(4, "big")


def _column(value: Any) -> Iterator[Bytes]:
    """Yield a column of a table, arrays in chunks."""
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
    array = np.ascontiguousarray(value).reshape(np.shape(value))
    return ArrayRecord(_dtype(array), array.shape, array.tobytes())


def _dtype(array: np.ndarray) -> str:
    if array.dtype.str not in DTYPES:
        raise TypeError(f"a snapshot cannot contain an array of type {array.dtype}")
    return array.dtype.str


_encode = msgspec.msgpack.Encoder(enc_hook=_plain).encode


def _arrays(packed: Iterable[Any] | None) -> list[np.ndarray]:
    return [np.asarray(array) for array in packed or ()]
