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
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import lax

from ..tables import Mode
from .cell import Array
from .forecaster import Ensemble, Params
from .network import Shape, Weights
from .runtime import seam
from .scaling import Scaler
from .sequence import tape_logits


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
