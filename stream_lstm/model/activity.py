"""What goes on inside a network: its scaled inputs, gates, outputs and logits along a series."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import lax

from .cell import Array
from .network import Shape, Weights
from .scaling import Scaler
from .sequence import layer_forward

Floats = npt.NDArray[np.float32]


class Activity(NamedTuple):
    """Over K elements of F features, of a network of L layers with H units each."""

    scaled: Floats  # (K, F), what the network sees
    gates: Floats  # (L, K, 4, H): i, f, g, o
    cells: Floats  # (L, K, H): tanh(c)
    outputs: Floats  # (L, K, H): h
    logits: Floats  # (K,)


def scaled_inputs(scaler: Scaler, elements: Floats, start: npt.ArrayLike | None = None) -> Floats:
    """Return what a scaler makes of elements (K, F), float32 (K, F).

    start: the scaler's state (1 + 2F,) before them, if not its first one.
    """
    state = scaler.init() if start is None else jnp.asarray(start, jnp.float32)
    return np.asarray(jax.jit(lambda s, xs: lax.scan(scaler.step, s, xs)[1])(state, elements))


def activity(shape: Shape, weights: Weights, scaled: Floats) -> Activity:
    """Return what goes on in a network from a zero state along scaled inputs (K, F)."""

    def run(weights: Weights, xs: Array) -> tuple[Array, ...]:
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

    return Activity(scaled, *map(np.asarray, jax.jit(run)(weights, scaled)))
