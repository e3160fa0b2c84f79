"""Steps over elements: how many at once, and what is read back of them.

A chunk is stepped with one set of weights, so it ends where an update falls. Where every update of
several whole strides is known to fall, those are stepped and learned from in one call, which gives
the same bits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..config import Config
from ..model.engine import Engine
from ..model.strides import FARTHEST, ROOM
from .labels import LabelPolicy
from .rollback import Learned
from .stream import StreamState

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

LEAST_STRIDES = 2
"""One stride alone is better stepped at once."""


class Stepping:
    """Steps the streams of a session.

    learns: whether updates are made. labels: the policy of labels from outside, None where they
    come from the series. alone: whether nothing else than the network is stepped or asked.
    """

    def __init__(
        self, config: Config, *, learns: bool, labels: LabelPolicy | None, alone: bool
    ) -> None:
        self._learns, self._labels = learns, labels
        self._stride, self._horizon = config.stream.stride, config.stream.horizon
        self._until = config.learning.learn_until
        self._windowed = config.model.mode == "window"
        within = self._stride * LEAST_STRIDES <= ROOM and self._horizon <= FARTHEST
        self._by_strides = learns and alone and labels is None and within

    def uncut(self, engine: Engine, stream: StreamState, t_ns: npt.NDArray[np.int64]) -> int:
        """Return how many elements can be stepped before an update or the block ends."""
        size = min(engine.block_size, len(t_ns))
        if self._labels is not None:
            return self._labels.uncut(stream, size, t_ns)
        return min(size, self._to_update(stream)) if self._learns else size

    def _to_update(self, stream: StreamState) -> int:
        """Return how many elements there are up to that of the next label."""
        oldest = stream.ledger.oldest()
        labelled = stream.next_due if oldest is None else oldest
        return labelled + self._horizon - stream.n

    def strides(self, engine: Engine, stream: StreamState, count: int) -> int:
        """Return how many whole strides of the next `count` elements can be one call, or 0."""
        if not self._by_strides or not engine.exact_strides:
            return 0
        if self._to_update(stream) != self._stride:
            return 0
        if self._until:
            count = min(count, self._until - stream.n)
        whole = min(count, ROOM) // self._stride
        return whole if whole >= LEAST_STRIDES else 0

    def step(
        self,
        engine: Engine,
        learned: Learned,
        stream: StreamState,
        chunk: Floats,
        positive: Bools,
    ) -> Floats | None:
        """Step over a chunk; return its p (m, M), or None where they are not wanted yet."""
        count, silent = len(chunk), stream.next_due > stream.n + len(chunk)
        if count == 1:
            stream.carry = engine.step(learned.weights, stream.carry, chunk[0])
            if stream.tape is None and silent:
                return None  # nothing is due, so nothing is read back
            read = engine.row_of(stream.carry)[None]
        else:
            stream.carry, rows = engine.block(learned.weights, stream.carry, chunk)
            if stream.tape is None and silent:
                return None
            read = engine.rows(rows, count)
        return self._keep(engine, stream, read, positive)

    def _keep(
        self, engine: Engine, stream: StreamState, rows: Floats, positive: Bools
    ) -> Floats | None:
        """Put rows on the tape; return the p in them."""
        members = engine.stepper.members
        if stream.tape is not None:
            stream.tape.append(rows[:, members:], positive)
        return None if self._windowed else rows[:, :members]

    def step_strides(
        self,
        engine: Engine,
        learned: Learned,
        stream: StreamState,
        elements: Floats,
        positive: Bools,
    ) -> tuple[Floats, Floats]:
        """Step over whole strides and learn at their ends; return (p (m, M), infos (m / S, 3))."""
        assert stream.tape is not None
        assert learned.optimizer is not None
        given = learned.weights, learned.optimizer, stream.trace
        past = stream.tape.newest(engine.strides.past)
        moved, stream.carry, rows, infos = engine.run_strides(
            given, stream.carry, past, elements, (self._stride, self._horizon)
        )
        learned.weights, learned.optimizer, stream.trace = moved
        p = self._keep(engine, stream, rows, positive)
        assert p is not None
        return p, infos
