"""Stacked cells and a linear head to one logit, over one flat state.

The state of L layers is one vector (2 L H): h and c of layer 0, h and c of layer 1, and so on.
The weights are a pytree of float32 arrays:

```
{"layer_0": {"kernel": (F + H + 1, 4H)}, "layer_1": {"kernel": (2H + 1, 4H)}, ...,
 "head": {"kernel": (H + 1,)}}        the head's last entry is its bias
```
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import ConfigurationError
from . import draws, start
from .cell import Array, lstm

Weights: TypeAlias = dict[str, dict[str, Array]]


class Shape(NamedTuple):
    """Sizes of a network: F features, H hidden units in each of L layers."""

    features: int
    hidden: int
    layers: int

    @property
    def state(self) -> int:
        """Length of the flat state."""
        return 2 * self.hidden * self.layers

    def weights(self) -> dict[str, tuple[int, ...]]:
        """Return {layer: shape of its kernel}."""
        shapes: dict[str, tuple[int, ...]] = {}
        inputs = self.features
        for layer in range(self.layers):
            shapes[f"layer_{layer}"] = (inputs + self.hidden + 1, 4 * self.hidden)
            inputs = self.hidden
        return shapes | {"head": (self.hidden + 1,)}


def init_weights(shape: Shape, *, key: Array, horizon: float | None = None) -> Weights:
    """Return random weights for `shape`, drawn with `key`.

    They are those of `flax_network.Network.init`, bit for bit.

    With a `horizon` T the biases are those of chrono initialisation: a unit's forget bias is the
    logarithm of a number drawn from U(1, T - 1), its input bias the negative of that, so that its
    memory lasts for between 2 and T elements.

    Source: Tallec and Ollivier, "Can recurrent neural networks warp time?", 2018.
    """
    root = np.asarray(jax.random.key_data(key))
    weights = start.network(root, shape.weights())
    if horizon is not None:
        for layer, drawn in enumerate(draws.split(draws.fold_in(root, 1), shape.layers)):
            weights[f"layer_{layer}"][-1] = start.chrono_bias(drawn, shape.hidden, horizon)
    # `jnp.asarray` would compile a copy for each shape.
    return {name: {"kernel": jax.device_put(kernel)} for name, kernel in weights.items()}


def apply(shape: Shape, weights: Weights, state: Array, x: Array) -> tuple[Array, Array]:
    """Return (state' (2 L H,), logit ()): one pure step."""
    hidden, parts = shape.hidden, []
    for layer in range(shape.layers):
        h, c = jnp.split(state[2 * hidden * layer : 2 * hidden * (layer + 1)], 2)
        h, c = lstm(weights[f"layer_{layer}"]["kernel"], x, h, c)
        x = h
        parts += [h, c]
    kernel = weights["head"]["kernel"]
    return jnp.concatenate(parts), x @ kernel[:-1] + kernel[-1]


def check_weights(shape: Shape, weights: Mapping[str, Mapping[str, Any]]) -> Weights:
    """Return `weights` as float32 arrays of this shape.

    Raises ConfigurationError naming both shapes where they are of another, and where they are
    not finite in float32.
    """
    wanted = shape.weights()
    given = {name: np.shape(layer.get("kernel", ())) for name, layer in weights.items()}
    if given != wanted:
        raise ConfigurationError(
            f"the weights have the shapes {given}, and this configuration "
            f"({shape.features} features, hidden={shape.hidden}, layers={shape.layers}) "
            f"needs {wanted}",
            key="weights",
        )
    with np.errstate(over="ignore"):
        single = {k: np.asarray(layer["kernel"], np.float32) for k, layer in weights.items()}
    bad = [name for name, kernel in single.items() if not np.isfinite(kernel).all()]
    if bad:
        raise ConfigurationError(
            f"the weights of {bad[0]} are not all finite in float32", key="weights"
        )
    # Copied, since what is given may be written to later.
    return {k: {"kernel": jax.device_put(np.array(kernel))} for k, kernel in single.items()}


def seed_key(seed: int) -> Array:
    """Return the random key of a seed."""
    made: Any = jax.random.wrap_key_data
    key: Array = made(draws.seeded(seed), impl="threefry2x32")
    return key
