"""Networks of other frameworks, with random weights."""

from __future__ import annotations

import numpy as np

from stream_lstm.interop.source import SourceHead, SourceLayer, SourceNetwork


def network(units=(3,), features=2, outputs=1, *, seed=0, biases=1):
    rng = np.random.default_rng(seed)
    layers, inputs = [], features
    for k, size in enumerate(units):
        arrays = [rng.normal(size=(rows, 4 * size)) for rows in (inputs, size)]
        bias = tuple(rng.normal(size=4 * size) for _ in range(biases))
        layers.append(SourceLayer(f"l{k}", *arrays, bias))
        inputs = size
    kind = "softmax" if outputs == 2 else "linear"
    head = SourceHead("head", rng.normal(size=(inputs, outputs)), rng.normal(size=outputs), kind)
    return SourceNetwork("test", tuple(layers), head)


def state_dict(features=2, hidden=3, layers=1, outputs=1, *, seed=0, module="lstm.", head="fc."):
    """Arrays as torch.nn.LSTM and torch.nn.Linear name them."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for k in range(layers):
        inputs = hidden if k else features
        tensors[f"{module}weight_ih_l{k}"] = rng.normal(size=(4 * hidden, inputs))
        tensors[f"{module}weight_hh_l{k}"] = rng.normal(size=(4 * hidden, hidden))
        tensors[f"{module}bias_ih_l{k}"] = rng.normal(size=4 * hidden)
        tensors[f"{module}bias_hh_l{k}"] = rng.normal(size=4 * hidden)
    tensors[f"{head}weight"] = rng.normal(size=(outputs, hidden))
    tensors[f"{head}bias"] = rng.normal(size=outputs)
    return {name: array.astype(np.float32) for name, array in tensors.items()}


def evaluated(tensors, xs, layers, module="lstm.", head="fc."):
    """Outputs (T, outputs) as the manual of torch.nn.LSTM defines them."""
    arrays = {name: np.float64(array) for name, array in tensors.items()}
    sigmoid = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    for k in range(layers):
        W, U = arrays[f"{module}weight_ih_l{k}"], arrays[f"{module}weight_hh_l{k}"]
        hidden = U.shape[1]
        h = c = np.zeros(hidden)
        out = []
        for x in xs:
            z = W @ x + U @ h
            z = z + arrays.get(f"{module}bias_ih_l{k}", 0) + arrays.get(f"{module}bias_hh_l{k}", 0)
            i, f, g, o = (z[n * hidden : (n + 1) * hidden] for n in range(4))
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            out.append(h)
        xs = np.array(out)
    return xs @ arrays[f"{head}weight"].T + arrays.get(f"{head}bias", 0)
