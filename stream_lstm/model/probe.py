"""The inside of a network along a series, and one network from several starting states.

As in `stepper`, a block of several starts is a loop whose number of turns is data, so one compiled
function serves every length.
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
    """Values over K elements of F features, in a network of L layers with H units each."""

    scaled: Float32s  # (K, F), the inputs of the network
    gates: Float32s  # (L, K, 4, H): i, f, g, o
    cells: Float32s  # (L, K, H): tanh(c)
    outputs: Float32s  # (L, K, H): h
    logits: Float32s  # (K,)


def scaled_inputs(
    config: ScalingConfig, elements: Float32s, start: npt.ArrayLike | None = None
) -> Float32s:
    """Return elements (K, F) scaled by the causal scaler, float32 (K, F).

    start: the scaler's state (1 + 2F,) before them, if not the initial one.
    """
    state = causal_scaler(elements.shape[1], config).init() if start is None else start
    return np.asarray(_scaled(config, jnp.asarray(state, jnp.float32), elements))


@partial(jax.jit, static_argnums=0)
def _scaled(config: ScalingConfig, state: Array, xs: Array) -> Array:
    return lax.scan(causal_scaler(xs.shape[1], config).step, state, xs)[1]


def activity(shape: Shape, weights: Weights, scaled: Float32s) -> Activity:
    """Return the values in a network from a zero state along scaled inputs (K, F)."""
    return Activity(scaled, *map(np.asarray, _activity(shape, weights, scaled)))


@partial(jax.jit, static_argnums=0)
def _activity(shape: Shape, weights: Weights, xs: Array) -> tuple[Array, ...]:
    layers = []
    zero = jnp.zeros((shape.hidden,), jnp.float32)
    for layer in range(shape.layers):
        kernel = weights[f"layer_{layer}"]["kernel"]
        (xs, _), residuals = layer_forward(kernel, xs, zero, zero)
        active, squashed = residuals[4], residuals[6]
        layers.append((active.reshape(len(xs), 4, shape.hidden), squashed, xs))
    head = weights["head"]["kernel"]
    parts = tuple(jnp.stack(part) for part in zip(*layers, strict=True))
    return (*parts, xs @ head[:-1] + head[-1])


class Probe(NamedTuple):
    """Static arguments of the functions below."""

    shape: Shape
    scaler: Scaler

    def block(
        self, weights: Weights, scaler: Array, states: Array, xs: Array, count: Array
    ) -> tuple[Array, Array, Array, Array]:
        """Return (scaler', states' (M, 2 L H), scaled (B, F), p (B, M)).

        scaler: its state (1 + 2F,); states: flat states of M starts; xs: elements (B, F), of
        which the first `count` () are used.
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
        """Return p (M,) after scaled inputs (M, W, F), each from a zero state."""
        zero = jnp.zeros((self.shape.state,), jnp.float32)
        logits = jax.vmap(lambda xs: tape_logits(self.shape, weights, xs, zero)[-1])(windows)
        return jax.nn.sigmoid(logits)
