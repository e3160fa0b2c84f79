"""One network from several starting states at once, to see what difference a start makes.

The states of all starts see the same scaled inputs. As in `stepper`, a block is a loop whose
number of turns is data, so that one compiled function serves every length.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .cell import Array
from .network import Shape, Weights, apply
from .scaling import Scaler
from .sequence import tape_logits


class Probe(NamedTuple):
    """What the functions below need to know; hashable, hence static under jit."""

    shape: Shape
    scaler: Scaler

    def block(
        self, weights: Weights, scaler: Array, states: Array, xs: Array, count: Array
    ) -> tuple[Array, Array, Array, Array]:
        """Return (scaler', states' (M, 2 L H), scaled (B, F), p (B, M)).

        scaler: its state (1 + 2F,); states: flat states of M starts; xs: elements (B, F), of
        which the first `count` () are taken.
        """

        def turn(k: Array, at: tuple[Array, ...]) -> tuple[Array, ...]:
            scaler, states, scaled, ps = at
            scaler, x = self.scaler.step(scaler, lax.dynamic_index_in_dim(xs, k, 0, False))
            states, logits = jax.vmap(lambda state: apply(self.shape, weights, state, x))(states)
            scaled = lax.dynamic_update_index_in_dim(scaled, x, k, 0)
            ps = lax.dynamic_update_index_in_dim(ps, jax.nn.sigmoid(logits), k, 0)
            return scaler, states, scaled, ps

        empty = jnp.zeros((len(xs), len(states)), jnp.float32)
        start = scaler, states, jnp.zeros_like(xs), empty
        out: tuple[Array, Array, Array, Array] = lax.fori_loop(0, count, turn, start)
        return out

    def windows(self, weights: Weights, windows: Array) -> Array:
        """Return p (M,) after scaled inputs (M, W, F), the state being zero before each."""
        zero = jnp.zeros((self.shape.state,), jnp.float32)
        logits = jax.vmap(lambda xs: tape_logits(self.shape, weights, xs, zero)[-1])(windows)
        return jax.nn.sigmoid(logits)
