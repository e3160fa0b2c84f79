"""What goes on inside a network: its scaled inputs, gates, outputs and logits along a series."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import lax

from ..tables import ScalingConfig
from .cell import Array
from .network import Shape, Weights
from .scaling import causal_scaler
from .sequence import layer_forward

Floats = npt.NDArray[np.float32]


class Activity(NamedTuple):
    """Over K elements of F features, of a network of L layers with H units each."""

    scaled: Floats  # (K, F), what the network sees
    gates: Floats  # (L, K, 4, H): i, f, g, o
    cells: Floats  # (L, K, H): tanh(c)
    outputs: Floats  # (L, K, H): h
    logits: Floats  # (K,)


def scaled_inputs(
    config: ScalingConfig, elements: Floats, start: npt.ArrayLike | None = None
) -> Floats:
    """Return what the causal scaler makes of elements (K, F), float32 (K, F).

    start: its state (1 + 2F,) before them, if not the first one.
    """
    state = causal_scaler(elements.shape[1], config).init() if start is None else start
    return np.asarray(_scaled(config, jnp.asarray(state, jnp.float32), elements))


@partial(jax.jit, static_argnums=0)
def _scaled(config: ScalingConfig, state: Array, xs: Array) -> Array:
    _, scaled = lax.scan(causal_scaler(xs.shape[1], config).step, state, xs)
    return scaled


def activity(shape: Shape, weights: Weights, scaled: Floats) -> Activity:
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
