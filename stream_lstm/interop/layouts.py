"""Our weights in the layouts of PyTorch and of Flax, as tensors with names.

```
torch   lstm.weight_ih_l{k} (4H, I)  lstm.weight_hh_l{k} (4H, H)  gates i, f, g, o
        lstm.bias_ih_l{k} (4H,)      lstm.bias_hh_l{k} (4H,) zero
        fc.weight (1, H)             fc.bias (1,)
flax    layer_{k}.ii.kernel (I, H) and if, ig, io; layer_{k}.hi.kernel (H, H), .bias (H,) and
        hf, hg, ho; head.kernel (H, 1), head.bias (1,)
```

The first fits `torch.nn.LSTM(F, H, L)` named lstm and `torch.nn.Linear(H, 1)` named fc; the second
is a `flax.linen.OptimizedLSTMCell` for each layer and a `flax.linen.Dense(1)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .flax_cell import to_flax
from .packing import unpack


def torch_tensors(weights: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Return the state_dict of packed weights."""
    network = unpack(weights, "")
    tensors: dict[str, np.ndarray] = {}
    for k, layer in enumerate(network.layers):
        tensors[f"lstm.weight_ih_l{k}"] = layer.kernel.T
        tensors[f"lstm.weight_hh_l{k}"] = layer.recurrent.T
        tensors[f"lstm.bias_ih_l{k}"] = layer.biases[0]
        tensors[f"lstm.bias_hh_l{k}"] = np.zeros_like(layer.biases[0])
    tensors |= {"fc.weight": network.head.kernel.T, "fc.bias": network.head.bias}
    return _single(tensors)


def flax_tensors(weights: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Return the parameters of packed weights, their path with dots."""
    tensors: dict[str, np.ndarray] = {}
    for name, body in weights.items():
        if name == "head":
            kernel = np.asarray(body["kernel"])
            tensors |= {"head.kernel": kernel[:-1, None], "head.bias": kernel[-1:]}
            continue
        for gate, parameters in to_flax(body["kernel"]).items():
            tensors |= {f"{name}.{gate}.{part}": value for part, value in parameters.items()}
    return _single(tensors)


def flax_logits(tensors: Mapping[str, np.ndarray], xs: Any) -> Any:
    """Return the logits (B, T) of Flax's own cells with these parameters, over xs (B, T, F)."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    layers = len({name.split(".")[0] for name in tensors}) - 1
    hidden = len(tensors["head.kernel"])
    cell = nn.OptimizedLSTMCell(hidden)

    def one(xs: Any) -> Any:
        for k in range(layers):
            params = _nested(tensors, f"layer_{k}.")
            zero = jnp.zeros((hidden,)), jnp.zeros((hidden,))

            def step(carry: Any, x: Any, params: Any = params) -> Any:
                return cell.apply({"params": params}, carry, x)

            xs = jax.lax.scan(step, zero, xs)[1]
        head = {"kernel": tensors["head.kernel"], "bias": tensors["head.bias"]}
        scores: Any = nn.Dense(1).apply({"params": head}, xs)
        return scores[:, 0]

    return np.asarray(jax.jit(lambda many: jax.lax.map(one, many))(xs), np.float64)


def _nested(tensors: Mapping[str, np.ndarray], prefix: str) -> dict[str, dict[str, np.ndarray]]:
    nested: dict[str, dict[str, np.ndarray]] = {}
    for name, value in tensors.items():
        if name.startswith(prefix):
            gate, part = name.removeprefix(prefix).split(".")
            nested.setdefault(gate, {})[part] = value
    return nested


def _single(tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}
