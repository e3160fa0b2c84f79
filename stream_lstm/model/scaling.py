"""The causal scaler: each feature divided by its standard deviation BEFORE the element.

The state is a flat vector (1 + 2F): the count n, the means (F,), the standard deviations (F,).
Mean and deviation fade over `memory` elements; before that, they weigh all elements equally:

```
scaled = gain * clip(x / sd)             with sd before x; 0 where sd = 0
a = max(1 / n, 1 / memory);  d = x - mean
mean' = mean + a d;  sd' = sqrt(1 - a) hypot(sd, sqrt(a) d)
```

The carry has the deviation, not the variance, and hypot factors out the larger part, so nothing
overflows or vanishes for any float32 input up to `LIMIT`. A constant feature has d = 0 exactly,
hence sd = 0, and scales to 0. By default nothing is centred: the sign keeps its meaning.

Source: West, "Updating mean and variance estimates", 1979.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from ..errors import ConfigurationError
from ..schema import ScalingConfig
from .network import Array


class Scaler(NamedTuple):
    """`init()` gives the state (1 + 2F,); `step(state, x (F,))` gives (state', scaled (F,))."""

    init: Callable[[], Array]
    step: Callable[[Array, Array], tuple[Array, Array]]


def _hypot(a: Array, b: Array) -> Array:
    """Return sqrt(a^2 + b^2) of magnitudes, without overflow or underflow of the squares."""
    large, small = jnp.maximum(a, b), jnp.minimum(a, b)
    ratio = small / jnp.where(large > 0, large, 1.0)
    return large * jnp.sqrt(1.0 + ratio * ratio)


def causal_scaler(features: int, config: ScalingConfig) -> Scaler:
    """Return the scaler for F features."""

    def init() -> Any:
        return np.zeros((1 + 2 * features,), np.float32)

    def step(state: Array, x: Array) -> tuple[Array, Array]:
        count, mean, sd = state[:1], state[1 : 1 + features], state[1 + features :]
        deviation = x - mean
        scaled = _scale(config, x, deviation, sd)
        # The count stops at `memory`, far below where float32 loses integers.
        count = jnp.minimum(count + 1.0, config.memory)
        a = 1.0 / count
        mean = mean + a * deviation
        sd = jnp.sqrt(1.0 - a) * _hypot(sd, jnp.sqrt(a) * jnp.abs(deviation))
        return jnp.concatenate([count, mean, sd]), scaled

    return Scaler(init, step)


def check_scaler(features: int, state: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Return a scaler's state as float32 (1 + 2F,).

    Raises ConfigurationError for another shape, for a number that is not finite, and for a
    negative count or deviation.
    """
    with np.errstate(over="ignore"):
        found = np.asarray(state, np.float32)
    if found.shape != (1 + 2 * features,):
        raise ConfigurationError(
            f"the scaler's state has the shape {found.shape}, but {features} features "
            f"need {(1 + 2 * features,)}",
            key="weights",
        )
    if not np.isfinite(found).all() or min(found[0], *found[1 + features :]) < 0:
        raise ConfigurationError(
            "the scaler's state has a number that is not finite, or a negative count or deviation",
            key="weights",
        )
    return found


def _scale(config: ScalingConfig, x: Array, deviation: Array, sd: Array) -> Array:
    if config.scaling == "none":
        return x
    value = deviation if config.scaling == "zscore" else x
    clip, gain = config.clip, config.gain
    known = sd > 0
    cut = jnp.clip(value / jnp.where(known, sd, 1.0), -clip, clip)
    return jnp.where(known, gain * cut, 0.0)
