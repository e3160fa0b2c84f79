"""Several strides with the updates at their ends, in one compiled loop.

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
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from .cell import Array
from .packing import Packed, Packing
from .stepper import Stepper

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
