"""One element, and a block of them, as pure functions over one flat carry.

```
carry = [scaler state (1 + 2F) | p (M) | scaled x (F) | forecaster's state (N)]   mode "carry"
carry = [scaler state (1 + 2F) | scaled x (F)]                                    mode "window"
```

A network's state is h and c of each layer. What an element leaves is in the carry too, so that a
step gives back one array, and one array is one read-back. A row is the part of it that is kept of
each element: p alone, or all behind the scaler's state where a tape is kept for learning; in mode
`window`, where the network runs over whole windows instead, it is the scaled input.

`block` is a loop whose number of turns is data, so one compiled function serves every length up
to its buffer, and its body is the same machine code for each of them.

Several strides with the updates at their ends, in one compiled loop.

A stride begins behind an update and ends with the element after which a prediction is published:

```
step S elements with the weights of the moment
update from the tape that ends h elements earlier, with the newest element whose target is known
```

It is what a live session does call by call, the tape included, without returning to Python. All
lengths but K are data: the stride S, the horizon h, the number of strides, and how many elements
the tape ends behind the labelled prediction. An update on its own is one stride of no elements.
So the updates of a replay and of a live feed are the same machine code and need not be trusted to
round alike.

What comes out beside the state is one array, the sheet: `past` lines of elements before, which
are given, and `ROOM` lines of new ones, which are filled in.

```
p (M) | scaled x (F) | state (N) | 1 where the target is positive | share | info (3)
```

Infos are in the lines of the publishing elements. New elements have an array of their own,
since an array that one loop both reads and writes is copied at each turn; its first line contains
the lengths. So little is left to do around the loop (eight steps) that XLA does all in the calling
thread; waking another one takes as long as an update.

Elements of many streams in one compiled loop: row s of a table of carries is stream s.

```
turn k:   carry, p = step(weights, table[index[k]], xs[k]);   table[index[k]] = carry
```

A call gets the carries of its own streams alone, not those of all. XLA makes one kernel of a loop
whose buffers are small, and a list of calls, four times slower, of one whose buffers are not; and
a table of 100,000 streams would be copied at each call. Calls have one of a few fixed lengths, so
that one element does not pay for thousands, and a tick compiles nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import lax

from ..schema import Mode
from ..typing import Float32s, Int32s
from .buffers import Packed, Packing
from .forecaster import Ensemble, Params
from .gradients import tape_logits
from .network import Array, Shape, Weights
from .runtime import compiled, seam
from .scaling import Scaler


class Stepper(NamedTuple):
    """What the functions below need to know; hashable, hence static under jit."""

    shape: Shape
    scaler: Scaler
    forecaster: Ensemble
    mode: Mode
    tape: bool

    @property
    def scaler_size(self) -> int:
        """Length of the scaler's part of the carry."""
        return 1 + 2 * self.shape.features

    @property
    def members(self) -> int:
        """Number M of probabilities in the carry."""
        return len(self.forecaster.names) if self.mode == "carry" else 0

    @property
    def state(self) -> int:
        """Length N of the forecaster's part of the carry."""
        return self.forecaster.state if self.mode == "carry" else 0

    @property
    def row(self) -> int:
        """Length of a row, which begins behind the scaler's state."""
        whole = self.members + self.shape.features + self.state
        return whole if self.tape or self.mode == "window" else self.members

    @property
    def size(self) -> int:
        """Length of a carry."""
        return self.scaler_size + self.members + self.shape.features + self.state

    def init(self) -> npt.NDArray[np.float32]:
        """Return the carry before the first element."""
        carry = np.zeros(self.size, np.float32)
        carry[: self.scaler_size] = self.scaler.init()
        return carry

    def step(self, weights: Params, carry: Array, x: Array) -> Array:
        """Return the carry after element x (F,); what pads a carry stays behind it."""
        scaler, scaled = self.scaler.step(carry[: self.scaler_size], x)
        padding = carry[self.size :]
        if self.mode == "window":
            return jnp.concatenate([scaler, scaled, padding])
        state = carry[self.size - self.state : self.size]
        state, p = self.forecaster.step(weights, state, scaled)
        # An exponential rounds in another way where it is fused with what follows.
        return jnp.concatenate([scaler, seam(p), scaled, state, padding])

    def row_of(self, carry: Array) -> Array:
        """Return the row (R,) of the element that left `carry`."""
        return lax.slice_in_dim(carry, self.scaler_size, self.scaler_size + self.row)

    def block(self, weights: Params, carry: Array, xs: Array, count: Array) -> tuple[Array, Array]:
        """Return (carry', rows (B, R)) after the first `count` () of elements xs (B, F)."""

        def turn(k: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
            carry, rows = at
            carry = self.step(weights, carry, lax.dynamic_index_in_dim(xs, k, 0, False))
            return carry, lax.dynamic_update_index_in_dim(rows, self.row_of(carry), k, 0)

        rows = jnp.zeros((xs.shape[0], self.row), jnp.float32)
        out: tuple[Array, Array] = lax.fori_loop(0, count, turn, (carry, rows))
        return out

    def window(self, weights: Weights, xs: Array) -> Array:
        """Return p () after scaled inputs xs (W, F), the state being zero before them."""
        zero = jnp.zeros((self.shape.state,), jnp.float32)
        return jax.nn.sigmoid(tape_logits(self.shape, weights, xs, zero)[-1])


ROOM = 160
"""Elements of a call at most: sixteen strides of ten, beside which a call costs little. Each call
copies all of its room."""

FARTHEST = 64
"""Longest horizon; further back the tape of a call does not reach."""

LENGTHS = ("stride", "horizon", "strides", "back")
"""The lengths of a call, in the order in which they are given."""

INFO = 3
"""Numbers that an update tells of itself."""


class Strides(NamedTuple):
    """What the loop needs to know; static under jit."""

    stepper: Stepper
    weights: Packing

    @property
    def past(self) -> int:
        """Elements of the tape before a call's first."""
        return self.stepper.forecaster.tape + FARTHEST

    @property
    def row(self) -> slice:
        """Where a line holds what an element leaves: p, scaled x and state."""
        return slice(0, self.stepper.members + self.stepper.shape.features + self.stepper.state)

    @property
    def inputs(self) -> slice:
        """Where a line holds the scaled input."""
        start = self.stepper.members
        return slice(start, start + self.stepper.shape.features)

    @property
    def positive(self) -> int:
        """Where a line holds whether the target is positive; the share stands behind it."""
        stop: int = self.row.stop
        return stop

    @property
    def info(self) -> slice:
        """Where a line holds the info of an update."""
        return slice(self.positive + 2, self.positive + 2 + INFO)

    @property
    def sheet(self) -> tuple[int, int]:
        """The shape of a sheet."""
        return self.past + ROOM, self.info.stop

    @property
    def elements(self) -> tuple[int, int]:
        """The shape of the array of new elements."""
        return 1 + ROOM, max(self.stepper.shape.features, len(LENGTHS))

    def run(
        self, weights: Packed, optimizer: Any, trace: Array, carry: Array, sheet: Array, xs: Array
    ) -> tuple[Packed, Any, Array, Array, Array]:
        """Return (weights', optimizer', trace', carry', sheet')."""
        stepper, length = self.stepper, self.stepper.forecaster.tape
        features, one = stepper.shape.features, jnp.ones((1,), jnp.float32)

        def number(k: int, j: Array) -> Any:
            # j is not below 0, which the compiler does not know: it would fetch the number
            # beforehand, in a step of its own.
            line = lax.dynamic_index_in_dim(xs, jnp.minimum(j, 0), 0, keepdims=False)
            return line[k].astype(jnp.int32)

        def more(at: tuple[Any, ...]) -> Any:
            return at[0] < number(2, at[0])

        def stride(at: tuple[Any, ...]) -> tuple[Any, ...]:
            j, params, optimizer, trace, carry, sheet = at
            steps = number(0, j)
            before = j * steps

            def step(k: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
                carry, sheet = at
                x = lax.dynamic_slice(xs, (1 + before + k, 0), (1, features))[0]
                carry = stepper.step(params, carry, x)
                positive = (x[:1] > 0).astype(jnp.float32)
                line = jnp.concatenate([stepper.row_of(carry), positive, one])[None]
                at_line = self.past + before + k, 0
                return carry, lax.dynamic_update_slice(sheet, line, at_line)

            carry, sheet = lax.fori_loop(0, steps, step, (carry, sheet))
            end = self.past + before + steps  # one behind the publishing element
            last, back = end - number(1, j), number(3, j)  # one behind the tape's last element
            at_inputs = last - length, self.inputs.start
            inputs = lax.dynamic_slice(sheet, at_inputs, (length, features))
            told = lax.dynamic_slice(sheet, (end - length, self.positive), (length, 2))
            given = inputs, self._starts(sheet, last, back), told[:, 0], told[:, 1], back
            params, optimizer, trace, info = stepper.forecaster.update(
                params, optimizer, trace, *given
            )
            sheet = lax.dynamic_update_slice(sheet, info[None], (end - 1, self.info.start))
            return j + 1, params, optimizer, trace, carry, sheet

        # Taken apart and put together around the loop: inside, what is put together would be
        # computed number by number.
        begin = jnp.int32(0), self.weights.unpack(weights), optimizer, trace, carry, sheet
        _, params, *rest = lax.while_loop(more, stride, begin)
        optimizer, trace, carry, sheet = rest
        return self.weights.pack(params), optimizer, trace, carry, sheet

    def _starts(self, sheet: Array, last: Array, back: Array) -> Array:
        """Return the states (D, N) that an update starts from; zero ones in mode `window`."""
        forecaster = self.stepper.forecaster
        if not self.stepper.state:
            return jnp.zeros((len(forecaster.offsets), forecaster.state), jnp.float32)
        size = 1, self.stepper.state
        parts = [
            lax.dynamic_slice(sheet, (last - 1 - offset.before(back), self.inputs.stop), size)
            for offset in forecaster.offsets
        ]
        return jnp.concatenate(parts)


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

    def step(
        self, weights: Any, table: Float32s, index: Int32s, xs: Float32s
    ) -> tuple[Float32s, Float32s]:
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

        def zeros(*shape: int) -> Float32s:
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
