"""The network over a whole tape, with a gradient that is cheap on one core.

Differentiating `apply` through `lax.scan` adds a (I + H + 1, 4H) outer product to an accumulator
at every backward step. Here the backward scan of a layer only collects dz (K, 4H), and the
weight gradient is one matrix product with the stacked [x, h, 1] afterwards:

```
dc_k = dh_k o_k (1 - tanh(c_k)^2) + dc_{k+1} f_{k+1};   dz_k from dc_k and dh_k, gate by gate
dh_{k-1} = dz_k @ kernel_h^T + (what the layer above or the head wants)
dkernel = stack([x_k, h_{k-1}, 1])^T @ stack(dz_k)
```

The state at the tape's start is data: no gradient flows into it (truncation).

Source: Werbos, "Backpropagation through time", 1990; Williams and Peng, 1990, for truncation.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from .cell import Array, gates
from .network import Shape, Weights

Residuals: TypeAlias = tuple[Array, ...]


@jax.custom_vjp
def lstm_layer(kernel: Array, xs: Array, h0: Array, c0: Array) -> Array:
    """Return the outputs (K, H) of one layer over inputs xs (K, I) from state h0, c0 (H,)."""
    return _forward(kernel, xs, h0, c0)[0]


def _forward(kernel: Array, xs: Array, h0: Array, c0: Array) -> tuple[Array, Residuals]:
    inputs = xs.shape[1]
    from_input = xs @ kernel[:inputs] + kernel[-1]
    recurrent = kernel[inputs:-1]

    def step(state: tuple[Array, Array], z: Array) -> tuple[tuple[Array, Array], Residuals]:
        h, c = state
        i, f, g, o = gates(z + h @ recurrent)
        new_c = f * c + i * g
        squashed = jnp.tanh(new_c)
        new_h = o * squashed
        return (new_h, new_c), (new_h, jnp.concatenate([i, f, g, o]), c, squashed)

    _, (hs, active, before, squashed) = lax.scan(step, (h0, c0), from_input)
    return hs, (kernel, xs, h0, hs, active, before, squashed)


def _backward(residuals: Residuals, dhs: Array) -> tuple[Array, Array, Array, Array]:
    kernel, xs, h0, hs, active, before, squashed = residuals
    inputs, hidden = xs.shape[1], h0.shape[0]
    recurrent = kernel[inputs:-1].T

    def step(later: tuple[Array, Array], at: Residuals) -> tuple[tuple[Array, Array], Array]:
        dh, dc = later
        dh_out, gate, c, s = at
        i, f, g, o = (gate[k * hidden : (k + 1) * hidden] for k in range(4))
        dh = dh + dh_out
        dc = dc + dh * o * (1.0 - s * s)
        dz = jnp.concatenate(
            [
                dc * g * i * (1.0 - i),
                dc * c * f * (1.0 - f),
                dc * i * (1.0 - g * g),
                dh * s * o * (1.0 - o),
            ]
        )
        return (dz @ recurrent, dc * f), dz

    zero = jnp.zeros_like(h0)
    _, dz = lax.scan(step, (zero, zero), (dhs, active, before, squashed), reverse=True)
    previous = jnp.concatenate([h0[None], hs[:-1]])
    stacked = jnp.concatenate([xs, previous, jnp.ones((xs.shape[0], 1), xs.dtype)], axis=1)
    return stacked.T @ dz, dz @ kernel[:inputs].T, zero, zero


lstm_layer.defvjp(_forward, _backward)


def tape_logits(shape: Shape, weights: Weights, xs: Array, state: Array) -> Array:
    """Return the logits (K,) over scaled inputs xs (K, F) from the flat state at their start."""
    state = lax.stop_gradient(state)
    for layer in range(shape.layers):
        h, c = jnp.split(state[2 * shape.hidden * layer : 2 * shape.hidden * (layer + 1)], 2)
        xs = lstm_layer(weights[f"layer_{layer}"]["kernel"], xs, h, c)
    head = weights["head"]["kernel"]
    return xs @ head[:-1] + head[-1]


def tape_loss(
    shape: Shape, weights: Weights, xs: Array, state: Array, targets: Array, share: Array
) -> Any:
    """Return the weighted mean log loss () in nats over a tape.

    `targets` (K,) are 0 or 1; `share` (K,) weighs each element, 0 for those without a target.
    """
    logits = tape_logits(shape, weights, xs, state)
    losses = jnp.logaddexp(0.0, logits) - targets * logits
    return jnp.sum(share * losses) / jnp.maximum(jnp.sum(share), 1.0)
