"""Elements of many streams in one compiled loop: row s of a table of carries is stream s.

```
turn k:   carry, p = step(weights, table[index[k]], xs[k]);   table[index[k]] = carry
```

A call gets the carries of its own streams alone, not those of all. XLA makes one kernel of a loop
whose buffers are small, and a list of calls, four times slower, of one whose buffers are not; and
a table of 100,000 streams would be copied at each call. Calls have one of a few fixed lengths, so
that one element does not pay for thousands, and a tick compiles nothing.

The bits are those of each stream stepped alone. XLA does not promise that, so construction
compares them, and falls back to steps one by one where they differ: slower, and exact.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import lax

from .cell import Array
from .engine import Engine
from .forecaster import Params
from .runtime import compiled, to_host

Floats: TypeAlias = npt.NDArray[np.float32]
Places: TypeAlias = npt.NDArray[np.int32]

MAX_SIZE = 4096
"""Elements of a call: long enough that the call costs nothing beside it."""

SIZES = (16, 256, 1024)
"""Shorter calls, for a live feed."""

LOOP_BYTES = 900_000
"""What the buffers of a loop may take to be one kernel, with room below 1 MiB."""

WEIGHT_BYTES = 5_000_000
"""What weights of streams' own may take in a call: they fit a cache, and no kernel of 1 MiB."""

PARITY_STREAMS, PARITY_CALLS = 5, (1, 2, 7, 15, 16, 16)


class TableEngine:
    """Compiled `step` over rows of a table, for an engine of one network in mode `carry`.

    per_stream: each row has weights of its own. `size` is the number of elements that a call
    takes at most, `width` that of floats in a row, `weight_width` that of floats in the weights
    of a stream. `exact` says whether the compiled loop gave the bits of single steps; where it
    did not, single steps are made.
    """

    def __init__(self, engine: Engine, *, per_stream: bool = False) -> None:
        self.engine, self.per_stream = engine, per_stream
        self.width = len(engine.init_carry())
        self.weight_width = sum(engine.weights.sizes.values())
        self.size = self._most()
        sizes = sorted({min(size, self.size) for size in (*SIZES, self.size)})
        self._calls = {size: self._compile(size) for size in sizes}
        self._sizes = tuple(sizes)
        self.exact = self._parity()

    def flat(self, weights: Params) -> Floats:
        """Return weights as one row of a table of weights, (weight_width,)."""
        row, *_ = self.engine.pack(weights)
        return np.asarray(row)

    def step(
        self, weights: Any, table: Floats, index: Places, xs: Floats
    ) -> tuple[Floats, Floats]:
        """Return (table', p (m,)) after elements xs (m, F), element k being of row index[k].

        table: the carries (d, width), d <= m <= `size`. weights: those of all rows, packed, or
        with `per_stream` an array (d, weight_width).
        """
        if not self.exact:
            return self._one_by_one(weights, table, index, xs)
        return self._looped(weights, table, index, xs)

    def _looped(
        self, weights: Any, table: Floats, index: Places, xs: Floats
    ) -> tuple[Floats, Floats]:
        count, rows = len(xs), len(table)
        size = next(size for size in self._sizes if size >= count)
        if self.per_stream:
            weights = _padded(weights, size)
        given = _padded(table, size), _padded(index, size), _padded(xs, size), np.int32(count)
        moved, p = self._calls[size](weights, *given)
        return np.asarray(moved)[:rows], np.asarray(p)[:count]

    def _one_by_one(
        self, weights: Any, table: Floats, index: Places, xs: Floats
    ) -> tuple[Floats, Floats]:
        moved, p = table.copy(), np.empty(len(xs), np.float32)
        for k, row in enumerate(index):
            own = to_host((weights[row],)) if self.per_stream else weights
            carry = self.engine.step(own, moved[row].copy(), xs[k])
            moved[row], p[k] = np.asarray(carry), self.engine.p(carry)
        return moved, p

    def _most(self) -> int:
        floats, most = self.width + self.engine.shape.features + 2, LOOP_BYTES
        if self.per_stream:
            floats, most = self.weight_width, WEIGHT_BYTES
        return int(min(MAX_SIZE, max(SIZES[0], most // (4 * floats) // 16 * 16)))

    def _compile(self, size: int) -> Any:
        stepper, unpack = self.engine.stepper, self.engine.weights.unpack

        def loop(
            weights: Any, table: Array, index: Array, xs: Array, count: Array
        ) -> tuple[Array, Array]:
            def turn(k: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
                table, ps = at
                row = index[k]
                own = unpack((weights[row],)) if self.per_stream else shared
                carry = lax.dynamic_index_in_dim(table, row, 0, False)
                x = lax.dynamic_index_in_dim(xs, k, 0, False)
                carry = stepper.step(own, carry, x)
                p = carry[stepper.scaler_size]
                table = lax.dynamic_update_index_in_dim(table, carry, row, 0)
                return table, lax.dynamic_update_index_in_dim(ps, p, k, 0)

            shared = None if self.per_stream else unpack(weights)
            ps = jnp.zeros((xs.shape[0],), jnp.float32)
            out: tuple[Array, Array] = lax.fori_loop(0, count, turn, (table, ps))
            return out

        def zeros(*shape: int) -> Floats:
            return np.zeros(shape, np.float32)

        weights: Any = self.engine.pack(self.engine.init_weights())
        if self.per_stream:
            weights = zeros(size, self.weight_width)
        index, xs = np.zeros(size, np.int32), zeros(size, self.engine.shape.features)
        given = weights, zeros(size, self.width), index, xs, np.int32(0)
        return compiled(jax.jit(loop).lower(*given))

    def _parity(self) -> bool:
        """Compare with single steps over random elements, in calls of several lengths."""
        rng, features = np.random.default_rng(0), self.engine.shape.features
        steps = sum(PARITY_CALLS)
        xs = rng.normal(size=(steps, features)).astype(np.float32)
        index = rng.integers(0, PARITY_STREAMS, steps).astype(np.int32)
        weights: Any = self.engine.pack(self.engine.init_weights())
        if self.per_stream:
            row = np.asarray(weights[0])
            weights = np.stack([row * np.float32(1 + k / 8) for k in range(PARITY_STREAMS)])
        table = np.tile(self.engine.init_carry(), (PARITY_STREAMS, 1))
        alone, wanted = self._one_by_one(weights, table, index, xs)
        start, p = 0, []
        for count in PARITY_CALLS:
            part = slice(start, start + count)
            table, out = self._looped(weights, table, index[part], xs[part])
            p.append(out)
            start += count
        return np.array_equal(table, alone) and np.array_equal(np.concatenate(p), wanted)


def _padded(array: Any, size: int) -> Any:
    if len(array) == size:
        return array
    padded = np.zeros((size, *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    return padded
