"""The original framework, run on the original model, where it is installed.

A file may be newer than the framework, or older; a framework that cannot run it is no proof
against the conversion, so what it says is kept and shown, and the proof in float64 stands alone.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .extras import installed
from .parity import inputs, our_logits, our_window_logits, rolling, window_and_count
from .source import F64, SourceNetwork, sigmoid

CALLS = 12
"""Calls of a stateful model, which take half a second each."""


class FrameworkParity(NamedTuple):
    """The largest difference of p from the framework's own; None and why where it did not run."""

    framework: str
    p: float | None
    compared: int = 0
    why: str = ""


def against_keras(path: Path, weights: Any, source: SourceNetwork) -> FrameworkParity | None:
    """Compare with Keras itself on the model's file; None where Keras is not installed.

    The layers have been read and are known by then, so loading runs no code of the file's.
    """
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = installed("keras")
    if keras is None:
        return None
    name = f"Keras {keras.__version__}"
    try:
        model = keras.models.load_model(path, compile=False)
        p, ours = _run_keras(model, weights, source)
    except Exception as error:  # whatever a framework raises over a file of another version
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return FrameworkParity(name, None, why=first[:200])
    return FrameworkParity(name, float(np.max(np.abs(p - ours))), len(p))


def _run_keras(model: Any, weights: Any, source: SourceNetwork) -> tuple[F64, F64]:
    """Return p of Keras and of ours at the same elements (M,)."""
    batch = model.input_shape[0]
    if source.stateful and batch == 1:
        length = source.window or 1
        xs = inputs(source.features, CALLS * length)
        chunks = xs.reshape(-1, length, source.features)
        # One call after the other: on JAX, predict() lets go of the state between its batches.
        outputs = np.stack([np.asarray(model(chunk[None]))[0] for chunk in chunks])
        return _p(outputs, source), sigmoid(our_logits(weights, xs))[length - 1 :: length]
    window, count = window_and_count(source)
    count = min(count, 1000) if batch is None else batch
    windows = rolling(inputs(source.features, count + window - 1), window)
    outputs = np.asarray(model.predict(windows, batch_size=batch or 200, verbose=0))
    return _p(outputs, source), sigmoid(our_window_logits(weights, windows))


def _p(outputs: Any, source: SourceNetwork) -> F64:
    """Return p (M,) from the outputs (M, units), or (M, T, units) of a model."""
    values = np.asarray(outputs, np.float64)
    units = source.head.kernel.shape[1]
    last = values.reshape(len(values), -1, units)[:, -1, -1]
    return sigmoid(last) if source.head.activation == "linear" else last


def against_torch(weights: Any, source: SourceNetwork) -> FrameworkParity | None:
    """Compare with PyTorch's own layers holding the source's arrays; None where it is missing."""
    torch = installed("torch")
    if torch is None:
        return None
    name = f"PyTorch {torch.__version__}"
    xs = inputs(source.features, 1000)
    with torch.no_grad():
        out = torch.from_numpy(xs)
        for layer in source.layers:
            out = _torch_layer(torch, layer)(out)[0]
        scores = out.double().numpy() @ source.head.kernel + source.head.bias
    logits = scores[:, -1] - scores[:, 0] * (scores.shape[1] == 2)
    worst = np.max(np.abs(sigmoid(logits) - sigmoid(our_logits(weights, xs))))
    return FrameworkParity(name, float(worst), len(xs))


def _torch_layer(torch: Any, layer: Any) -> Any:
    module = torch.nn.LSTM(len(layer.kernel), layer.units, bias=bool(layer.biases))
    held = {"weight_ih_l0": layer.kernel.T, "weight_hh_l0": layer.recurrent.T}
    if layer.biases:
        first, *second = layer.biases
        held |= {"bias_ih_l0": first, "bias_hh_l0": second[0] if second else 0 * first}
    for name, array in held.items():
        getattr(module, name).copy_(torch.from_numpy(np.ascontiguousarray(array)))
    return module
