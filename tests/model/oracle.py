"""The network and the scaler again, in float64 NumPy and from their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
Kernels = dict[str, F64]


def kernels(weights: Any) -> Kernels:
    """{layer: kernel} in float64."""
    return {name: np.asarray(layer["kernel"], np.float64) for name, layer in weights.items()}


def sigmoid(z: F64) -> F64:
    return 1.0 / (1.0 + np.exp(-z))


def cell(kernel: F64, x: F64, h: F64, c: F64) -> tuple[F64, F64]:
    """(h', c') with separate gates, as the textbooks write it."""
    hidden, inputs = len(h), len(x)
    W, U, b = kernel[:inputs], kernel[inputs:-1], kernel[-1]
    i, f, g, o = (x @ W[:, k] + h @ U[:, k] + b[k] for k in _gates(hidden))
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def _gates(hidden: int) -> list[slice]:
    return [slice(k * hidden, (k + 1) * hidden) for k in range(4)]


def run(kernels: Kernels, xs: F64, state: F64) -> tuple[F64, F64]:
    """Logits (T,) and flat states (T, 2 L H) over inputs xs (T, F) from a flat state."""
    layers = [name for name in sorted(kernels) if name != "head"]
    head = kernels["head"]
    hidden = len(head) - 1
    hc = [
        (
            state[2 * hidden * k : 2 * hidden * k + hidden],
            state[2 * hidden * k + hidden :][:hidden],
        )
        for k in range(len(layers))
    ]
    logits, states = [], []
    for x in np.asarray(xs, np.float64):
        for k, name in enumerate(layers):
            hc[k] = cell(kernels[name], x, *hc[k])
            x = hc[k][0]
        logits.append(x @ head[:-1] + head[-1])
        states.append(np.concatenate([part for pair in hc for part in pair]))
    return np.array(logits), np.array(states)


def loss(kernels: Kernels, xs: F64, state: F64, targets: F64, share: F64) -> float:
    """Weighted mean log loss in nats."""
    p = sigmoid(run(kernels, xs, state)[0])
    losses = -np.where(targets > 0, np.log(p), np.log1p(-p))
    return float(np.sum(share * losses) / max(np.sum(share), 1.0))


def gradient(kernels: Kernels, *args: Any, epsilon: float = 1e-5) -> Kernels:
    """Central differences of `loss` in every single weight: error about 1e-9."""
    out: Kernels = {}
    for name, kernel in kernels.items():
        slope = np.zeros(kernel.size)
        for k in range(kernel.size):
            ends = []
            for sign in (1, -1):
                moved = kernel.copy()
                moved.flat[k] += sign * epsilon
                ends.append(loss(kernels | {name: moved}, *args))
            slope[k] = (ends[0] - ends[1]) / (2 * epsilon)
        out[name] = slope.reshape(kernel.shape)
    return out


def scaled(xs: F64, *, kind: str, memory: float, clip: float, gain: float) -> F64:
    """Scaled inputs (T, F): exponentially weighted moments, all alike until `memory` is full."""
    out = np.zeros_like(xs)
    mean = np.zeros(xs.shape[1])
    variance = np.zeros(xs.shape[1])
    for n, x in enumerate(xs, start=1):
        sd = np.sqrt(variance)
        value = x - mean if kind == "zscore" else x
        known = sd > 0
        out[n - 1, known] = gain * np.clip(value[known] / sd[known], -clip, clip)
        a = max(1.0 / n, 1.0 / memory)
        d = x - mean
        mean = mean + a * d
        variance = (1 - a) * (variance + a * d * d)
    return xs.copy() if kind == "none" else out
