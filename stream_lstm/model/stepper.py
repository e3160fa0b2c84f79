"""Steps of one element, of a block, of strides with their updates, and of many streams.

**One element** is a pure function over one flat carry, so a step has one result to read back:

```
carry = [scaler state (1 + 2F) | p (M) | scaled x (F) | forecaster's state (N)]   mode "carry"
carry = [scaler state (1 + 2F) | scaled x (F)]                                    mode "window"
```

The row of an element is the part of the carry that the session keeps: p alone, or everything after
the scaler's state where learning needs a tape. In mode `window` the network runs over whole
windows instead, and the row is the scaled input.

**A block** is a loop whose number of turns is data. One compiled function serves every length up
to its buffer, and its body is the same machine code for each of them.

**Strides** (`Strides`) are several strides with an update at the end of each, in one compiled
loop:

```
step S elements with the current weights
update from the tape that ends h elements earlier, with the newest element whose target is known
```

A live session does the same call by call. All lengths but K are data: the stride S, the horizon h,
the number of strides, and how many elements the tape extends past the labelled prediction. A
single update is one stride of no elements, so the updates of a replay and of a live feed are the
same machine code. The result is one array, the tape, with `past` lines of earlier elements as
input and `STRIDES_BLOCK` lines of new ones as output:

```
p (M) | scaled x (F) | state (N) | 1 where the target is positive | label weight | info (3)
```

The line of a publishing element has the info of its update. New elements are an array of their
own, since XLA copies an array that one loop both reads and writes at each turn; its first line has
the lengths. Around the loop there are so few steps (eight) that XLA runs all of them in the
calling thread; waking another thread takes as long as an update.

**Many streams** (`TableStepper`) are one loop over a table of carries, one row for each stream:

```
turn k:   carry, p = step(weights, table[index[k]], xs[k]);   table[index[k]] = carry
```

A call gets the carries of its own streams only: XLA makes one kernel of a loop with small buffers
and a list of calls, four times slower, of one with large buffers, and it would copy a table of
100,000 streams at each call. Calls have one of a few fixed lengths, so that one element does not
cost as much as thousands, and a tick compiles nothing.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import lax

from ..schema import Mode
from ..typing import Float32s, Int32s
from .forecaster import Ensemble, Params
from .gradients import tape_logits
from .learner import Tape
from .network import Array, Scaler, Shape, Weights
from .runtime import Packed, Packing, barrier, compiled


class Stepper:
    """Steps of one stream.

    keep_tape: make rows that learning can use. Lengths: `scaler_size` and `state` (N) of these
    parts of the carry, `members` (M) probabilities, `size` of a carry, `row` (R) of a row, which
    begins after the scaler's state.
    """

    def __init__(
        self, shape: Shape, scaler: Scaler, forecaster: Ensemble, mode: Mode, *, keep_tape: bool
    ) -> None:
        self.shape, self.scaler, self.forecaster, self.mode = shape, scaler, forecaster, mode
        carries = mode == "carry"
        self.scaler_size = 1 + 2 * shape.features
        self.members = len(forecaster.names) if carries else 0
        self.state = forecaster.state if carries else 0
        whole = self.members + shape.features + self.state
        self.size = self.scaler_size + whole
        self.row = whole if keep_tape or not carries else self.members

    def init(self) -> npt.NDArray[np.float32]:
        """Return the carry before the first element."""
        carry = np.zeros(self.size, np.float32)
        carry[: self.scaler_size] = self.scaler.init()
        return carry

    def step(self, weights: Params, carry: Array, x: Array) -> Array:
        """Return the carry after element x (F,); the padding of the carry stays at its end."""
        scaler, scaled = self.scaler.step(carry[: self.scaler_size], x)
        padding = carry[self.size :]
        if self.mode == "window":
            return jnp.concatenate([scaler, scaled, padding])
        state = carry[self.size - self.state : self.size]
        state, p = self.forecaster.step(weights, state, scaled)
        # An exponential rounds differently if it is fused with the operations after it.
        return jnp.concatenate([scaler, barrier(p), scaled, state, padding])

    def row_of(self, carry: Array) -> Array:
        """Return the row (R,) of the last element."""
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
        """Return p () after scaled inputs xs (W, F) from a zero state."""
        zero = jnp.zeros((self.shape.state,), jnp.float32)
        return jax.nn.sigmoid(tape_logits(self.shape, weights, xs, zero)[-1])


STRIDES_BLOCK = 160
"""Most elements of a call: sixteen strides of ten, whose work outweighs the call. Each call copies
this many lines."""

MAX_STRIDES_HORIZON = 64
"""Longest horizon: a call has the tape of this many elements more than an update needs."""

LENGTHS = ("stride", "horizon", "strides", "back")
"""The lengths of a call, in their order."""

INFO = 3
"""Numbers in the info of an update."""


class Strides:
    """The loop over strides, and the layout of its tape.

    `past` counts the lines before the first new element. Columns: `row` of an element (p, scaled x
    and state), `inputs` and `states` in it, `positive`, with the label weight after it, and
    `info`.
    """

    def __init__(self, stepper: Stepper, weights: Packing) -> None:
        self.stepper, self.weights = stepper, weights
        self.past = stepper.forecaster.tape_length + MAX_STRIDES_HORIZON
        first = stepper.members + stepper.shape.features
        self.positive = first + stepper.state
        self.row = slice(0, self.positive)
        self.inputs, self.states = slice(stepper.members, first), slice(first, self.positive)
        self.info = slice(self.positive + 2, self.positive + 2 + INFO)
        self.tape_shape = self.past + STRIDES_BLOCK, self.info.stop
        self.elements_shape = 1 + STRIDES_BLOCK, max(stepper.shape.features, len(LENGTHS))

    def run(
        self, weights: Packed, optimizer: Any, trace: Array, carry: Array, tape: Array, xs: Array
    ) -> tuple[Packed, Any, Array, Array, Array]:
        """Return (weights', optimizer', trace', carry', tape')."""
        stepper, length = self.stepper, self.stepper.forecaster.tape_length
        features, one = stepper.shape.features, jnp.ones((1,), jnp.float32)

        def number(k: int, j: Array) -> Any:
            # j >= 0, which the compiler does not know: it would otherwise read the number before
            # the loop, in a step of its own.
            line = lax.dynamic_index_in_dim(xs, jnp.minimum(j, 0), 0, keepdims=False)
            return line[k].astype(jnp.int32)

        def stride(at: tuple[Any, ...]) -> tuple[Any, ...]:
            j, params, optimizer, trace, carry, tape = at
            steps = number(0, j)
            before = j * steps

            def step(k: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
                carry, tape = at
                x = lax.dynamic_slice(xs, (1 + before + k, 0), (1, features))[0]
                carry = stepper.step(params, carry, x)
                positive = (x[:1] > 0).astype(jnp.float32)
                line = jnp.concatenate([stepper.row_of(carry), positive, one])[None]
                return carry, lax.dynamic_update_slice(tape, line, (self.past + before + k, 0))

            carry, tape = lax.fori_loop(0, steps, step, (carry, tape))
            end = self.past + before + steps  # one past the publishing element
            last, back = end - number(1, j), number(3, j)  # one past the tape's last element
            inputs = lax.dynamic_slice(
                tape, (last - length, self.inputs.start), (length, features)
            )
            labels = lax.dynamic_slice(tape, (end - length, self.positive), (length, 2))
            part = Tape(inputs, self._starts(tape, last, back), labels[:, 0], labels[:, 1])
            params, optimizer, trace, info = stepper.forecaster.update(
                params, optimizer, trace, part, back
            )
            tape = lax.dynamic_update_slice(tape, info[None], (end - 1, self.info.start))
            return j + 1, params, optimizer, trace, carry, tape

        # Unpacked and packed outside the loop: inside, packing would run number by number.
        begin = jnp.int32(0), self.weights.unpack(weights), optimizer, trace, carry, tape
        out = lax.while_loop(lambda at: at[0] < number(2, at[0]), stride, begin)
        _, params, optimizer, trace, carry, tape = out
        return self.weights.pack(params), optimizer, trace, carry, tape

    def _starts(self, tape: Array, last: Array, back: Array) -> Array:
        """Return the states (D, N) at the start of an update; zeros in mode `window`."""
        forecaster = self.stepper.forecaster
        if not self.stepper.state:
            return jnp.zeros((len(forecaster.offsets), forecaster.state), jnp.float32)
        size = 1, self.stepper.state
        parts = [
            lax.dynamic_slice(tape, (last - 1 - offset.before(back), self.states.start), size)
            for offset in forecaster.offsets
        ]
        return jnp.concatenate(parts)


TABLE_BLOCK = 4096
"""Most elements of a call: the call itself then costs nothing."""

SHORT_TABLE_BLOCK = 256
"""Elements of a short call, for a live feed."""

LOOP_BYTES = 900_000
"""Most bytes in the buffers of a loop that XLA makes one kernel of; its limit is 1 MiB."""

WEIGHT_BYTES = 5_000_000
"""Most bytes in the weights of a call with `per_stream`: they fit a cache, if not one kernel."""


class TableStepper:
    """Compiled steps over rows of a table.

    per_stream: each row has its own weights. `size` is the most elements of a call, `weight_width`
    the number of floats in the weights of a stream.
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
        self.weight_width = weights.size
        floats, most = width + stepper.shape.features + 1 + stepper.members, LOOP_BYTES
        if per_stream:
            floats, most = self.weight_width, WEIGHT_BYTES
        self.size = int(min(TABLE_BLOCK, max(16, most // (4 * floats) // 16 * 16)))
        sizes = sorted({min(SHORT_TABLE_BLOCK, self.size), self.size})
        self._calls = {size: self._compile(size, packed) for size in sizes}

    def step(
        self, weights: Any, table: Float32s, index: Int32s, xs: Float32s
    ) -> tuple[Float32s, Float32s]:
        """Return (table', p (m, M)) after elements xs (m, F); element k is of row index[k].

        table: the carries (d, width), d <= m <= `size`. weights: packed, of all rows, or with
        `per_stream` an array (d, weight_width).
        """
        count, rows = len(xs), len(table)
        size = next(size for size in self._calls if size >= count)
        if self._per_stream:
            weights = _padded(weights, size)
        padded = (_padded(array, size) for array in (table, index, xs))
        moved, p = self._calls[size](weights, *padded, np.int32(count))
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
        table, xs = zeros(size, self._width), zeros(size, stepper.shape.features)
        lowered = jax.jit(loop).lower(weights, table, np.zeros(size, np.int32), xs, np.int32(0))
        return compiled(lowered)


def _padded(array: Any, size: int) -> Any:
    if len(array) == size:
        return array
    padded = np.zeros((size, *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    return padded
