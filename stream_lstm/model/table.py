"""Elements of many streams in one compiled loop: row s of a table of carries is stream s.

```
turn k:   carry, p = step(weights, table[index[k]], xs[k]);   table[index[k]] = carry
```

A call gets the carries of its own streams alone, not those of all. XLA makes one kernel of a loop
whose buffers are small, and a list of calls, four times slower, of one whose buffers are not; and
a table of 100,000 streams would be copied at each call. Calls have one of a few fixed lengths, so
that one element does not pay for thousands, and a tick compiles nothing.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import lax

from .cell import Array
from .packing import Packed, Packing
from .runtime import compiled
from .stepper import Stepper

Floats: TypeAlias = npt.NDArray[np.float32]
Index: TypeAlias = npt.NDArray[np.int32]

MAX_SIZE = 4096
"""Elements of a call: long enough that the call costs nothing beside it."""

SHORT = 256
"""Elements of a short call, for a live feed."""

LOOP_BYTES = 900_000
"""What the buffers of a loop may take to be one kernel, with room below 1 MiB."""

WEIGHT_BYTES = 5_000_000
"""What weights of streams' own may take in a call: they fit a cache, and no kernel of 1 MiB."""


class TableStepper:
    """Compiled steps over rows of a table.

    per_stream: each row has weights of its own. `size` is the number of elements that a call
    takes at most, `weight_width` that of floats in the weights of a stream.
    """

    def __init__(
        self,
        stepper: Stepper,
        weights: Packing,
        packed: Packed,
        width: int,
        *,
        per_stream: bool,
    ) -> None:
        self._stepper, self._unpack = stepper, weights.unpack
        self._width, self._per_stream = width, per_stream
        self.weight_width = sum(weights.sizes.values())
        floats, most = width + stepper.shape.features + 1 + stepper.members, LOOP_BYTES
        if per_stream:
            floats, most = self.weight_width, WEIGHT_BYTES
        self.size = int(min(MAX_SIZE, max(16, most // (4 * floats) // 16 * 16)))
        self._sizes = tuple(sorted({min(SHORT, self.size), self.size}))
        self._calls = {size: self._compile(size, packed) for size in self._sizes}

    def step(self, weights: Any, table: Floats, index: Index, xs: Floats) -> tuple[Floats, Floats]:
        """Return (table', p (m, M)) after elements xs (m, F), element k being of row index[k].

        table: the carries (d, width), d <= m <= `size`. weights: those of all rows, packed, or
        with `per_stream` an array (d, weight_width).
        """
        count, rows = len(xs), len(table)
        size = next(size for size in self._sizes if size >= count)
        if self._per_stream:
            weights = _padded(weights, size)
        given = _padded(table, size), _padded(index, size), _padded(xs, size), np.int32(count)
        moved, p = self._calls[size](weights, *given)
        return np.asarray(moved)[:rows], np.asarray(p)[:count]

    def _compile(self, size: int, packed: Any) -> Any:
        stepper, unpack = self._stepper, self._unpack
        first, last = stepper.scaler_size, stepper.scaler_size + stepper.members

        def loop(
            weights: Any, table: Array, index: Array, xs: Array, count: Array
        ) -> tuple[Array, Array]:
            shared = None if self._per_stream else unpack(weights)

            def turn(k: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
                table, ps = at
                row = index[k]
                own = unpack((weights[row],)) if self._per_stream else shared
                carry = lax.dynamic_index_in_dim(table, row, 0, False)
                x = lax.dynamic_index_in_dim(xs, k, 0, False)
                carry = stepper.step(own, carry, x)
                table = lax.dynamic_update_index_in_dim(table, carry, row, 0)
                return table, lax.dynamic_update_index_in_dim(ps, carry[first:last], k, 0)

            ps = jnp.zeros((xs.shape[0], stepper.members), jnp.float32)
            out: tuple[Array, Array] = lax.fori_loop(0, count, turn, (table, ps))
            return out

        def zeros(*shape: int) -> Floats:
            return np.zeros(shape, np.float32)

        weights: Any = zeros(size, self.weight_width) if self._per_stream else packed
        xs = zeros(size, stepper.shape.features)
        given = weights, zeros(size, self._width), np.zeros(size, np.int32), xs, np.int32(0)
        return compiled(jax.jit(loop).lower(*given))


def _padded(array: Any, size: int) -> Any:
    if len(array) == size:
        return array
    padded = np.zeros((size, *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    return padded
