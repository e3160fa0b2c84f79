"""The proof that a conversion computes what the original computes.

Seeded random inputs go through our network as it runs, in both modes, and through the original:
over `STEPS` elements with the state carried, and over as many rolling windows from a zero state.
The original is its own float64 arithmetic (`SourceNetwork.logits`), and beside it the framework
itself where that is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import lax

from ..errors import StreamLSTMError
from ..model.network import Shape, apply
from ..model.sequence import tape_logits
from .source import F64, SourceNetwork, sigmoid

Floats: TypeAlias = npt.NDArray[np.float32]
Reference: TypeAlias = Callable[[Floats], F64]
"""From inputs (B, T, F) to the logits (B, T) after each element, from zero states."""

STEPS = 1000
WINDOW = 100
"""Elements of a window where the original takes any number."""

LONGEST = 1000
"""Windows are not longer than this in the proof: it is about arithmetic, not about length."""

WORK = 4e10
"""Multiplications that the windows may take, some seconds; larger networks get fewer windows."""

TOLERANCE = 1e-5
"""Float32 differs from float64 by some 1e-7 after sums of hundreds of terms."""

SEED = 20_000


class Difference(NamedTuple):
    """The largest differences of p and of logits, those beyond 1 in units of the logit."""

    logit: float
    p: float


class Parity(NamedTuple):
    """What a proof found; `windows` of `window` elements were compared."""

    reference: str
    steps: int
    windows: int
    window: int
    carried: Difference
    windowed: Difference

    @property
    def worst(self) -> float:
        """The largest difference of all; of two infinite or undefined numbers, infinity."""
        largest = max(*self.carried, *self.windowed)
        return largest if np.isfinite(largest) else float("inf")


def inputs(features: int, count: int) -> Floats:
    """Return seeded inputs (count, F): standard normal, as scaled series are."""
    return np.random.default_rng(SEED).normal(size=(count, features)).astype(np.float32)


def shape_of(weights: Mapping[str, Mapping[str, Any]]) -> Shape:
    """Return the sizes of packed weights."""
    hidden = len(weights["head"]["kernel"]) - 1
    return Shape(len(weights["layer_0"]["kernel"]) - hidden - 1, hidden, len(weights) - 1)


def rolling(xs: Floats, window: int) -> Floats:
    """Return the windows (T - W + 1, W, F) of a series (T, F)."""
    view = np.lib.stride_tricks.sliding_window_view(xs, window, axis=0)
    return np.ascontiguousarray(np.moveaxis(view, -1, 1))


def our_logits(weights: Any, xs: Floats) -> F64:
    """Return the logits (T,) of our network over a series (T, F), its state carried."""
    shape = shape_of(weights)

    def run(weights: Any, xs: Any) -> Any:
        state = jnp.zeros((shape.state,), jnp.float32)
        return lax.scan(lambda s, x: apply(shape, weights, s, x), state, xs)[1]

    return np.asarray(jax.jit(run)(weights, xs), np.float64)


def our_window_logits(weights: Any, windows: Floats) -> F64:
    """Return the logits (M,) of our network after each of windows (M, W, F), as in mode window."""
    shape = shape_of(weights)

    def run(weights: Any, windows: Any) -> Any:
        zero = jnp.zeros((shape.state,), jnp.float32)
        return lax.map(lambda xs: tape_logits(shape, weights, xs, zero)[-1], windows)

    return np.asarray(jax.jit(run)(weights, windows), np.float64)


def prove(weights: Any, source: SourceNetwork) -> Parity:
    """Compare packed weights with the network that they were made from, or were made into."""
    window, count = window_and_count(source)
    name = "the file's own arithmetic in float64"
    return prove_by(weights, source.logits, name, windows=count, window=window)


def prove_by(
    weights: Any, reference: Reference, name: str, *, windows: int, window: int
) -> Parity:
    """Compare packed weights with any computation of logits (B, T) from inputs (B, T, F)."""
    features = shape_of(weights).features
    xs, many = inputs(features, STEPS), rolling(inputs(features, windows + window - 1), window)
    return Parity(
        name,
        STEPS,
        windows,
        window,
        difference(our_logits(weights, xs), reference(xs[None])[0]),
        difference(our_window_logits(weights, many), reference(many)[:, -1]),
    )


def window_and_count(source: SourceNetwork) -> tuple[int, int]:
    """Return the length of windows and how many of them there is time for."""
    window = min(source.window or WINDOW, LONGEST)
    step = sum(layer.kernel.size + layer.recurrent.size for layer in source.layers)
    return window, int(np.clip(WORK / (window * step), 20, STEPS))


def difference(ours: F64, theirs: F64) -> Difference:
    """Return the largest differences between logits; NaN where one is not finite."""
    return Difference(
        float(np.max(np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1.0))),
        float(np.max(np.abs(sigmoid(ours) - sigmoid(theirs)))),
    )


def require(worst: float, what: str) -> None:
    """Raise StreamLSTMError (exit code 70) where a proof failed."""
    if not worst <= TOLERANCE:
        raise StreamLSTMError(
            f"the converted network differs from {what} by {worst:.2g}, more than {TOLERANCE:g}; "
            "nothing was written. Weights so large that they blow up roundings do this too"
        )
