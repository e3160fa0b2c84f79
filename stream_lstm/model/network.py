"""Stacked LSTM cells and a linear head to one logit, over one flat state.

The state of L layers is one vector (2 L H): h and c of layer 0, h and c of layer 1, and so on. The
weights are a tree of float32 arrays:

```
{"layer_0": {"kernel": (F + H + 1, 4H)}, "layer_1": {"kernel": (2H + 1, 4H)}, ...,
 "head": {"kernel": (H + 1,)}}        the head's last entry is its bias
```

A cell has one packed kernel (I + H + 1, 4H), gate order i, f, g, o:

```
z = [x, h, 1] @ kernel
i, f, o = sigmoid(z_i), sigmoid(z_f), sigmoid(z_o);  g = tanh(z_g)
c' = f * c + i * g;  h' = o * tanh(c')
```

One kernel is one matrix product and one argument of a call; four kernels are three to four times
slower on a CPU. The three sigmoids and the tanh are one pass over 4H numbers, by sigmoid(z) =
(1 + tanh(z / 2)) / 2, which takes a third off the time of a step.

Random weights are drawn with NumPy, bit for bit as `flax_network.Network.init` draws them. JAX
would compile a program for each kind of draw and each shape, which takes longer than the rest of
the start. Its generator is integer arithmetic: a key is two uint32, `threefry` turns a pair of
counters into a pair of random numbers, and the counter of an array's element is its index. Two
functions round in XLA's own way and are computed by XLA: the logarithm of chrono biases, and the
inverse error function, compiled once for `CHUNK` numbers, for networks of every size.

Sources: Hochreiter and Schmidhuber, "Long short-term memory", 1997, with the forget gate of Gers,
Schmidhuber and Cummins, 2000; Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as
1, 2, 3", 2011.

The causal scaler: each feature divided by its standard deviation BEFORE the element.

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

import functools
import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import scipy.linalg

from ..errors import ConfigurationError
from ..schema import ScalingConfig
from ..typing import Float32s, UInt32s
from . import runtime as runtime

Array: TypeAlias = jax.Array

FORGET_BIAS = 1.0
"""Source: Jozefowicz, Zaremba and Sutskever, "An empirical exploration of recurrent network
architectures", 2015."""


def gates(z: Array) -> tuple[Array, Array, Array, Array]:
    """Return the activated gates i, f, g, o, each (..., H), of pre-activations z (..., 4H)."""
    hidden = z.shape[-1] // 4
    slope = np.repeat(np.array([0.5, 0.5, 1.0, 0.5], np.float32), hidden)
    offset = np.repeat(np.array([0.5, 0.5, 0.0, 0.5], np.float32), hidden)
    active = slope * jnp.tanh(slope * z) + offset
    i, f, g, o = jnp.split(active, 4, axis=-1)
    return i, f, g, o


def lstm(kernel: Array, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """Return (h', c'), each (H,), after input x (I,) with kernel (I + H + 1, 4H)."""
    z = jnp.concatenate([x, h, jnp.ones((1,), x.dtype)]) @ kernel
    i, f, g, o = gates(z)
    c = f * c + i * g
    return o * jnp.tanh(c), c


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

    With a `horizon` T, biases are those of chrono initialisation: a unit's forget bias is the
    logarithm of a number drawn from U(1, T - 1), and its input bias is the negative of that, so
    its memory lasts between 2 and T elements.

    Source: Tallec and Ollivier, "Can recurrent neural networks warp time?", 2018.
    """
    root = np.asarray(jax.random.key_data(key))
    weights = {name: _kernel(_named(root, name), size) for name, size in shape.weights().items()}
    if horizon is not None:
        for layer, drawn in enumerate(split(fold_in(root, 1), shape.layers)):
            weights[f"layer_{layer}"][-1] = _chrono_bias(drawn, shape.hidden, horizon)
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

    Raises ConfigurationError where they have other shapes, or are not finite in float32.
    """
    wanted = shape.weights()
    found = {name: np.shape(layer.get("kernel", ())) for name, layer in weights.items()}
    if found != wanted:
        raise ConfigurationError(
            f"the weights have the shapes {found}, but this configuration "
            f"({shape.features} features, hidden={shape.hidden}, layers={shape.layers}) "
            f"needs {wanted}",
            key="weights",
        )
    with np.errstate(over="ignore"):
        single = {k: np.asarray(layer["kernel"], np.float32) for k, layer in weights.items()}
    bad = [name for name, kernel in single.items() if not np.isfinite(kernel).all()]
    if bad:
        raise ConfigurationError(
            f"the weights of {bad[0]} are not finite in float32", key="weights"
        )
    # Copied, since the caller may write to its arrays later.
    return {k: {"kernel": jax.device_put(np.array(kernel))} for k, kernel in single.items()}


def seed_key(seed: int) -> Array:
    """Return the random key of a seed."""
    wrap: Any = jax.random.wrap_key_data
    key: Array = wrap(seeded(seed), impl="threefry2x32")
    return key


ROTATIONS = (13, 15, 26, 6), (17, 29, 16, 24)
PARITY = np.uint32(0x1BD11BDA)
ROUNDS = 5
"""Groups of four rotations; the published variant has 20 rotations."""

MANTISSA = 23
ONE = np.uint32(0x3F800000)
"""The bits of the float32 1.0."""

CHUNK = 4096
"""Numbers of a compiled call: the four recurrent kernels of 32 units."""


def seeded(seed: int) -> UInt32s:
    """Return the key (2,) of a seed in [0, 2**32)."""
    return np.array([0, seed], np.uint32)


def threefry(key: UInt32s, high: UInt32s, low: UInt32s) -> tuple[UInt32s, UInt32s]:
    """Return two arrays of random numbers for counters `high` and `low` of one shape."""
    keys = key[0], key[1], key[0] ^ key[1] ^ PARITY
    high, low = high + keys[0], low + keys[1]
    for group in range(ROUNDS):
        for turn in ROTATIONS[group % 2]:
            high = high + low
            low = (low << np.uint32(turn)) | (low >> np.uint32(32 - turn))
            low = high ^ low
        high = high + keys[(group + 1) % 3]
        low = low + keys[(group + 2) % 3] + np.uint32(group + 1)
    return high, low


def split(key: UInt32s, count: int) -> UInt32s:
    """Return `count` keys (count, 2)."""
    return np.stack(threefry(key, *_counters(count)), axis=1)


def fold_in(key: UInt32s, number: int) -> UInt32s:
    """Return the key (2,) of `key` and a number in [0, 2**32)."""
    high, low = threefry(key, np.zeros(1, np.uint32), np.array([number], np.uint32))
    return np.concatenate([high, low])


def uniform(key: UInt32s, shape: tuple[int, ...], low: float, high: float) -> Float32s:
    """Return float32 numbers from [low, high)."""
    first, second = threefry(key, *_counters(math.prod(shape)))
    bits = ((first ^ second) >> np.uint32(32 - MANTISSA)) | ONE
    unit = bits.view(np.float32) - np.float32(1.0)
    bottom, span = np.float32(low), np.float32(high) - np.float32(low)
    # One rounding for product and sum, as a fused instruction has.
    drawn = (unit.astype(np.float64) * span + bottom).astype(np.float32)
    return np.maximum(drawn, bottom).reshape(shape)


def _counters(count: int) -> tuple[UInt32s, UInt32s]:
    return np.zeros(count, np.uint32), np.arange(count, dtype=np.uint32)


def _chrono_bias(key: UInt32s, hidden: int, horizon: float) -> Float32s:
    """Return the bias row (4H,) of a layer with memories of up to `horizon` elements."""
    times = uniform(key, (hidden,), 1.0, horizon - 1.0)
    # On an array of its own: XLA rounds the logarithms of short and of long arrays differently.
    forget = np.asarray(jnp.log(times))
    return np.concatenate([-forget, forget, np.zeros(2 * hidden, np.float32)])


def _named(key: UInt32s, name: str) -> UInt32s:
    """Return the key that Flax makes for the first parameter of the module `name`."""
    digest = hashlib.sha1(name.encode() + b"\x01", usedforsecurity=False).digest()
    return fold_in(key, int.from_bytes(digest[:4], "big"))


def _kernel(key: UInt32s, shape: tuple[int, ...]) -> Float32s:
    """Return a packed kernel (I + H + 1, 4H) as `flax_network.packed_init`, or a head (H + 1,)."""
    if len(shape) == 1:
        return np.append(_glorot(key, (shape[0] - 1, 1))[:, 0], np.float32(0.0))
    hidden = shape[1] // 4
    inputs = shape[0] - hidden - 1
    keys = split(key, 8)
    top = np.concatenate([_glorot(k, (inputs, hidden)) for k in keys[:4]], axis=1)
    middle = np.concatenate(_orthogonal(keys[4:], hidden), axis=1)
    bias = np.repeat(np.array([0.0, FORGET_BIAS, 0.0, 0.0], np.float32), hidden)
    return np.concatenate([top, middle, bias[None]])


def _glorot(key: UInt32s, shape: tuple[int, int]) -> Float32s:
    variance = np.float32(1.0 / (sum(shape) / 2))
    scale: np.float32 = np.sqrt(np.float32(3.0) * variance)
    return uniform(key, shape, -1.0, 1.0) * scale


def _orthogonal(keys: UInt32s, size: int) -> list[Float32s]:
    """Return an orthogonal matrix of each key: Q of a QR decomposition with diag(R) > 0."""
    lowest = float(np.nextafter(np.float32(-1.0), np.float32(0.0)))
    drawn = np.stack([uniform(key, (size, size), lowest, 1.0) for key in keys])
    pairs = [scipy.linalg.qr(matrix) for matrix in _normal_of(drawn)]
    return [np.asarray(q * np.sign(np.diag(r)), np.float32) for q, r in pairs]


def _normal_of(uniform: Float32s) -> Float32s:
    """Return normal numbers from uniform ones in (-1, 1)."""
    padded = np.zeros(-(-uniform.size // CHUNK) * CHUNK, np.float32)
    padded[: uniform.size] = uniform.reshape(-1)
    parts = [np.asarray(_inverse_error()(part)) for part in padded.reshape(-1, CHUNK)]
    return np.concatenate(parts)[: uniform.size].reshape(uniform.shape)


@functools.cache
def _inverse_error() -> Callable[[Float32s], Any]:
    return jax.jit(lambda u: np.float32(np.sqrt(2)) * jax.lax.erf_inv(u))


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
