"""One network from several starting states at once, to see what difference a start makes.

The states of all starts see the same scaled inputs. As in `stepper`, a block is a loop whose
number of turns is data, so that one compiled function serves every length.

What goes on inside a network: its scaled inputs, gates, outputs and logits along a series.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import lax

from ..schema import ScalingConfig
from ..typing import Float32s
from .gradients import layer_forward, tape_logits
from .network import Array, Shape, Weights, apply
from .scaling import Scaler, causal_scaler


class Activity(NamedTuple):
    """Over K elements of F features, of a network of L layers with H units each."""

    scaled: Float32s  # (K, F), what the network sees
    gates: Float32s  # (L, K, 4, H): i, f, g, o
    cells: Float32s  # (L, K, H): tanh(c)
    outputs: Float32s  # (L, K, H): h
    logits: Float32s  # (K,)


def scaled_inputs(
    config: ScalingConfig, elements: Float32s, start: npt.ArrayLike | None = None
) -> Float32s:
    """Return what the causal scaler makes of elements (K, F), float32 (K, F).

    start: its state (1 + 2F,) before them, if not the first one.
    """
    state = causal_scaler(elements.shape[1], config).init() if start is None else start
    return np.asarray(_scaled(config, jnp.asarray(state, jnp.float32), elements))


@partial(jax.jit, static_argnums=0)
def _scaled(config: ScalingConfig, state: Array, xs: Array) -> Array:
    _, scaled = lax.scan(causal_scaler(xs.shape[1], config).step, state, xs)
    return scaled


def activity(shape: Shape, weights: Weights, scaled: Float32s) -> Activity:
    """Return what goes on in a network from a zero state along scaled inputs (K, F)."""
    return Activity(scaled, *map(np.asarray, _walked(shape, weights, scaled)))


@partial(jax.jit, static_argnums=0)
def _walked(shape: Shape, weights: Weights, xs: Array) -> tuple[Array, ...]:
    found = []
    zero = jnp.zeros((shape.hidden,), jnp.float32)
    for layer in range(shape.layers):
        kernel = weights[f"layer_{layer}"]["kernel"]
        (xs, _), residuals = layer_forward(kernel, xs, zero, zero)
        active, squashed = residuals[4], residuals[6]
        found.append((active.reshape(len(xs), 4, shape.hidden), squashed, xs))
    head = weights["head"]["kernel"]
    parts = tuple(jnp.stack(part) for part in zip(*found, strict=True))
    return (*parts, xs @ head[:-1] + head[-1])


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
