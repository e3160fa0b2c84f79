"""One element, and a block of them, as pure functions over one flat carry.

```
carry = [scaler state (1 + 2F) | the forecaster's state (N)]         mode "carry"
carry = [scaler state (1 + 2F)]                                      mode "window"
row   = [p (M) | scaled x (F) | forecaster's state after x (N)]      what one element leaves
```

A network's state is h and c of each layer. A row holds the p alone unless a tape is kept for
learning; in mode `window`, where the network runs over whole windows instead, it holds the scaled
input alone. One array out is one read-back.

`block` is a loop whose number of turns is data, so one compiled function serves every length up
to its buffer, and its body is the same machine code for each of them.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..config import Mode
from .cell import Array
from .forecaster import Forecaster, Params
from .network import Shape, Weights
from .scaling import Scaler
from .sequence import tape_logits


class Stepper(NamedTuple):
    """What the functions below need to know; hashable, hence static under jit."""

    shape: Shape
    scaler: Scaler
    forecaster: Forecaster
    mode: Mode
    tape: bool

    @property
    def scaler_size(self) -> int:
        """Length of the scaler's part of the carry."""
        return 1 + 2 * self.shape.features

    @property
    def row(self) -> int:
        """Length of a row."""
        if self.mode == "window":
            return self.shape.features
        kept = self.shape.features + self.forecaster.state if self.tape else 0
        return len(self.forecaster.names) + kept

    def init(self) -> Array:
        """Return the carry before the first element."""
        state = self.forecaster.state if self.mode == "carry" else 0
        return jnp.concatenate([self.scaler.init(), jnp.zeros((state,), jnp.float32)])

    def step(self, weights: Params, carry: Array, x: Array) -> tuple[Array, Array]:
        """Return (carry', row) after element x (F,)."""
        scaler, state = carry[: self.scaler_size], carry[self.scaler_size :]
        scaler, scaled = self.scaler.step(scaler, x)
        if self.mode == "window":
            return scaler, scaled
        state, p = self.forecaster.step(weights, state, scaled)
        row = jnp.concatenate([p, scaled, state]) if self.tape else p
        return jnp.concatenate([scaler, state]), row

    def block(self, weights: Params, carry: Array, xs: Array, count: Array) -> tuple[Array, Array]:
        """Return (carry', rows (B, row)) after the first `count` () of elements xs (B, F)."""

        def turn(k: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
            carry, rows = at
            carry, row = self.step(weights, carry, lax.dynamic_index_in_dim(xs, k, 0, False))
            return carry, lax.dynamic_update_index_in_dim(rows, row, k, 0)

        rows = jnp.zeros((xs.shape[0], self.row), jnp.float32)
        out: tuple[Array, Array] = lax.fori_loop(0, count, turn, (carry, rows))
        return out

    def window(self, weights: Weights, xs: Array) -> Array:
        """Return p () after scaled inputs xs (W, F), the state being zero before them."""
        zero = jnp.zeros((self.shape.state,), jnp.float32)
        return jax.nn.sigmoid(tape_logits(self.shape, weights, xs, zero)[-1])
