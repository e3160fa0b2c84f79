"""Comparison of a converted network with the original.

Seeded random inputs go through our network as it runs, in both modes, and through the original:
over `STEPS` elements with the state carried, and over as many rolling windows from a zero state.
The original is the float64 arithmetic of its arrays (`SourceNetwork.logits`), and also the
framework itself, if it is installed. A framework may be too old or too new for a file; then its
error is reported, and the comparison in float64 decides.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..errors import StreamLSTMError
from ..model.gradients import tape_logits
from ..model.network import Shape, apply
from ..typing import Float32s, Float64s
from .extras import installed
from .source import SourceLayer, SourceNetwork, sigmoid

Reference: TypeAlias = Callable[[Float32s], Float64s]
"""From inputs (B, T, F) to the logits (B, T) after each element, from zero states."""

STEPS = 1000
WINDOW = 100
"""Elements of a window if the original takes any number."""

MAX_WINDOW = 1000
"""Longer windows would not test the arithmetic better."""

WORK = 4e10
"""Multiplications of all windows, some seconds; larger networks get fewer windows."""

TOLERANCE = 1e-5
"""Float32 differs from float64 by about 1e-7 after sums of hundreds of terms."""

SEED = 20_000

CALLS = 12
"""Calls of a stateful Keras model, which take half a second each."""


class NumericDifference(NamedTuple):
    """The largest differences of p and of logits; a logit above 1 counts relative to itself."""

    logit: float
    p: float


class Parity(NamedTuple):
    """Differences from a reference; `windows` of `window` elements were compared."""

    reference: str
    steps: int
    windows: int
    window: int
    carried: NumericDifference
    windowed: NumericDifference

    @property
    def worst(self) -> float:
        """The largest difference; infinity if one is infinite or undefined."""
        largest = max(*self.carried, *self.windowed)
        return largest if np.isfinite(largest) else float("inf")

    def require(self) -> None:
        """Raise StreamLSTMError (exit code 70) if the difference is too large."""
        _require(self.worst, self.reference)


class FrameworkParity(NamedTuple):
    """The largest difference of p from the framework's; None, and why, if it did not run."""

    framework: str
    p: float | None
    compared: int = 0
    why: str = ""

    def require(self) -> None:
        """Raise StreamLSTMError (exit code 70) if the framework ran and differs too much."""
        if self.p is not None:
            _require(self.p, self.framework)


def _require(worst: float, reference: str) -> None:
    if not worst <= TOLERANCE:
        raise StreamLSTMError(
            f"the converted network differs from {reference} by {worst:.2g}, more than "
            f"{TOLERANCE:g}; nothing was written. Very large weights amplify rounding errors and "
            "can also cause this"
        )


def inputs(features: int, count: int) -> Float32s:
    """Return seeded inputs (count, F), standard normal like scaled series."""
    return np.random.default_rng(SEED).normal(size=(count, features)).astype(np.float32)


def shape_of(weights: Mapping[str, Mapping[str, Any]]) -> Shape:
    """Return the sizes of packed weights."""
    hidden = len(weights["head"]["kernel"]) - 1
    return Shape(len(weights["layer_0"]["kernel"]) - hidden - 1, hidden, len(weights) - 1)


def rolling(xs: Float32s, window: int) -> Float32s:
    """Return the windows (T - W + 1, W, F) of a series (T, F)."""
    view = np.lib.stride_tricks.sliding_window_view(xs, window, axis=0)
    return np.ascontiguousarray(np.moveaxis(view, -1, 1))


def our_logits(weights: Any, xs: Float32s) -> Float64s:
    """Return the logits (T,) of our network over a series (T, F) with its state carried."""
    shape = shape_of(weights)

    def run(weights: Any, xs: Any) -> Any:
        state = jnp.zeros((shape.state,), jnp.float32)
        return lax.scan(lambda s, x: apply(shape, weights, s, x), state, xs)[1]

    return np.asarray(jax.jit(run)(weights, xs), np.float64)


def our_window_logits(weights: Any, windows: Float32s) -> Float64s:
    """Return the logits (M,) of our network after windows (M, W, F), as in mode window."""
    shape = shape_of(weights)

    def run(weights: Any, windows: Any) -> Any:
        zero = jnp.zeros((shape.state,), jnp.float32)
        return lax.map(lambda xs: tape_logits(shape, weights, xs, zero)[-1], windows)

    return np.asarray(jax.jit(run)(weights, windows), np.float64)


def compare(weights: Any, source: SourceNetwork) -> Parity:
    """Compare packed weights with the float64 arithmetic of a network."""
    window, windows = window_and_count(source)
    name = "the file's own arithmetic in float64"
    return compare_with(weights, source.logits, name, windows=windows, window=window)


def compare_with(
    weights: Any, reference: Reference, name: str, *, windows: int, window: int
) -> Parity:
    """Compare packed weights with any computation of logits."""
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
    """Return the length and the number of windows to compare."""
    window = min(source.window or WINDOW, MAX_WINDOW)
    step = sum(layer.kernel.size + layer.recurrent.size for layer in source.layers)
    return window, int(np.clip(WORK / (window * step), 20, STEPS))


def difference(ours: Float64s, theirs: Float64s) -> NumericDifference:
    """Return the largest differences between logits; NaN if one is not finite."""
    return NumericDifference(
        float(np.max(np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1.0))),
        float(np.max(np.abs(sigmoid(ours) - sigmoid(theirs)))),
    )


def against_keras(path: Path, weights: Any, source: SourceNetwork) -> FrameworkParity | None:
    """Compare with Keras itself on the model file; None if Keras is not installed.

    Only known layers get here, so loading runs no code from the file.
    """
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = installed("keras")
    if keras is None:
        return None
    name = f"Keras {keras.__version__}"
    try:
        model = keras.models.load_model(path, compile=False)
        p, ours = _run_keras(model, weights, source)
    except Exception as error:  # the errors of Keras over another version's file have no type
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return FrameworkParity(name, None, why=first[:200])
    return FrameworkParity(name, float(np.max(np.abs(p - ours))), len(p))


def _run_keras(model: Any, weights: Any, source: SourceNetwork) -> tuple[Float64s, Float64s]:
    """Return p of Keras and of our network at the same elements (M,)."""
    batch = model.input_shape[0]
    if source.stateful and batch == 1:
        length = source.window or 1
        xs = inputs(source.features, CALLS * length)
        chunks = xs.reshape(-1, length, source.features)
        # Single calls: on JAX, predict() drops the state between its batches.
        outputs = np.stack([np.asarray(model(chunk[None]))[0] for chunk in chunks])
        return _p(outputs, source), sigmoid(our_logits(weights, xs))[length - 1 :: length]
    window, count = window_and_count(source)
    count = min(count, 1000) if batch is None else batch
    windows = rolling(inputs(source.features, count + window - 1), window)
    outputs = np.asarray(model.predict(windows, batch_size=batch or 200, verbose=0))
    return _p(outputs, source), sigmoid(our_window_logits(weights, windows))


def _p(outputs: Any, source: SourceNetwork) -> Float64s:
    """Return p (M,) from the outputs (M, units), or (M, T, units) of a model."""
    values = np.asarray(outputs, np.float64)
    units = source.head.kernel.shape[1]
    last = values.reshape(len(values), -1, units)[:, -1, -1]
    return sigmoid(last) if source.head.activation == "linear" else last


def against_torch(weights: Any, source: SourceNetwork) -> FrameworkParity | None:
    """Compare with PyTorch's own layers with the source's arrays; None if it is not installed."""
    torch = installed("torch")
    if torch is None:
        return None
    xs = inputs(source.features, 1000)
    with torch.no_grad():
        out = torch.from_numpy(xs)
        for layer in source.layers:
            out = _torch_layer(torch, layer)(out)[0]
        scores = out.double().numpy() @ source.head.kernel + source.head.bias
    logits = scores[:, -1] - scores[:, 0] * (scores.shape[1] == 2)
    worst = np.max(np.abs(sigmoid(logits) - sigmoid(our_logits(weights, xs))))
    return FrameworkParity(f"PyTorch {torch.__version__}", float(worst), len(xs))


def _torch_layer(torch: Any, layer: SourceLayer) -> Any:
    module = torch.nn.LSTM(len(layer.kernel), layer.units, bias=bool(layer.biases))
    arrays = {"weight_ih_l0": layer.kernel.T, "weight_hh_l0": layer.recurrent.T}
    if layer.biases:
        first, *second = layer.biases
        arrays |= {"bias_ih_l0": first, "bias_hh_l0": second[0] if second else 0 * first}
    for name, array in arrays.items():
        getattr(module, name).copy_(torch.from_numpy(np.ascontiguousarray(array)))
    return module
