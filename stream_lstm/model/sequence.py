"""The network over a whole tape, or over lanes side by side, with a gradient that is cheap.

Differentiating `apply` through `lax.scan` adds a (I + H + 1, 4H) outer product to an accumulator
at every backward step. Here the backward scan of a layer only collects dz (K, 4H), and the
weight gradient is one matrix product with the stacked [x, h, 1] afterwards:

```
dc_k = dh_k o_k (1 - tanh(c_k)^2) + dc_{k+1} f_{k+1};   dz_k from dc_k and dh_k, gate by gate
dh_{k-1} = dz_k @ kernel_h^T + (what the layer above or the head wants)
dkernel = stack([x_k, h_{k-1}, 1])^T @ stack(dz_k)
```

The state at the tape's start is data: no gradient flows into it (truncation), and none comes
back from the state at its end. Every array may have axes for lanes behind its first, the time:
then a step is one matrix product for all lanes, and the weight gradient is their sum, again from
one product.

Source: Werbos, "Backpropagation through time", 1990; Williams and Peng, 1990, for truncation.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from .cell import Array, gates
from .network import Shape, Weights

SHORT = 256
"""Rows up to which a product of matrices is better made row by row: it can then be part of the one
kernel that an update is."""

Residuals: TypeAlias = tuple[Array, ...]
Outputs: TypeAlias = tuple[Array, Array]


@jax.custom_vjp
def lstm_layer(kernel: Array, xs: Array, h0: Array, c0: Array) -> Outputs:
    """Return one layer's outputs (K, ..., H) over inputs xs (K, ..., I), and the last c (..., H).

    `h0` and `c0` (..., H) are the state before the first input.
    """
    return layer_forward(kernel, xs, h0, c0)[0]


def layer_forward(kernel: Array, xs: Array, h0: Array, c0: Array) -> tuple[Outputs, Residuals]:
    """Return (what `lstm_layer` does, what differentiating it needs).

    The residuals are the kernel, xs, h0, the outputs, the activated gates (K, ..., 4H), and c
    before and tanh(c) after each input, both (K, ..., H).
    """
    inputs = xs.shape[-1]
    from_input = xs @ kernel[:inputs] + kernel[-1]
    recurrent = kernel[inputs:-1]

    def step(state: tuple[Array, Array], z: Array) -> tuple[tuple[Array, Array], Residuals]:
        h, c = state
        i, f, g, o = gates(z + h @ recurrent)
        new_c = f * c + i * g
        squashed = jnp.tanh(new_c)
        new_h = o * squashed
        return (new_h, new_c), (new_h, jnp.concatenate([i, f, g, o], axis=-1), c, squashed)

    (_, last), (hs, active, before, squashed) = lax.scan(step, (h0, c0), from_input)
    return (hs, last), (kernel, xs, h0, hs, active, before, squashed)


def _backward(residuals: Residuals, wanted: Outputs) -> tuple[Array, Array, Array, Array]:
    kernel, xs, h0, hs, active, before, squashed = residuals
    dhs, _ = wanted
    inputs = xs.shape[-1]
    recurrent = kernel[inputs:-1].T

    def step(later: tuple[Array, Array], at: Residuals) -> tuple[tuple[Array, Array], Array]:
        dh, dc = later
        dh_out, gate, c, s = at
        i, f, g, o = jnp.split(gate, 4, axis=-1)
        dh = dh + dh_out
        dc = dc + dh * o * (1.0 - s * s)
        dz = jnp.concatenate(
            [
                dc * g * i * (1.0 - i),
                dc * c * f * (1.0 - f),
                dc * i * (1.0 - g * g),
                dh * s * o * (1.0 - o),
            ],
            axis=-1,
        )
        return (dz @ recurrent, dc * f), dz

    zero = jnp.zeros_like(h0)
    _, dz = lax.scan(step, (zero, zero), (dhs, active, before, squashed), reverse=True)
    previous = jnp.concatenate([h0[None], hs[:-1]])
    ones = jnp.ones((*xs.shape[:-1], 1), xs.dtype)
    stacked = jnp.concatenate([xs, previous, ones], axis=-1).reshape(-1, len(kernel))
    flat = dz.reshape(-1, dz.shape[-1])
    return _products(stacked, flat), dz @ kernel[:inputs].T, zero, zero


def _products(rows: Array, columns: Array) -> Array:
    """Return rows^T @ columns, (R, C), of (K, R) and (K, C)."""
    if len(rows) > SHORT:
        return rows.T @ columns
    out: Array = lax.map(lambda row: row @ columns, rows.T)
    return out


lstm_layer.defvjp(layer_forward, _backward)


def carried_logits(shape: Shape, weights: Weights, xs: Array, state: Array) -> tuple[Array, Array]:
    """Return (logits (K, ...), flat state after the last input (..., 2 L H)).

    `xs` (K, ..., F) are scaled inputs, `state` (..., 2 L H) is the flat state before them.
    """
    state = lax.stop_gradient(state)
    parts = []
    for layer, (h, c) in enumerate(_pairs(shape, state)):
        xs, c = lstm_layer(weights[f"layer_{layer}"]["kernel"], xs, h, c)
        parts += [xs[-1], c]
    head = weights["head"]["kernel"]
    return xs @ head[:-1] + head[-1], lax.stop_gradient(jnp.concatenate(parts, axis=-1))


def _pairs(shape: Shape, state: Array) -> list[tuple[Array, Array]]:
    """Return (h, c) of each layer."""
    parts = jnp.split(state, 2 * shape.layers, axis=-1)
    return list(zip(parts[::2], parts[1::2], strict=True))


def tape_logits(shape: Shape, weights: Weights, xs: Array, state: Array) -> Array:
    """Return the logits (K,) over scaled inputs xs (K, F) from the flat state at their start."""
    return carried_logits(shape, weights, xs, state)[0]


def tape_loss(
    shape: Shape, weights: Weights, xs: Array, state: Array, targets: Array, share: Array
) -> Any:
    """Return the weighted mean log loss () in nats over a tape.

    `targets` (K,) are 0 or 1; `share` (K,) weighs each element, 0 for those without a target.
    """
    return mean_log_loss(tape_logits(shape, weights, xs, state), targets, share)


def mean_log_loss(logits: Array, targets: Array, share: Array) -> Any:
    """Return the mean log loss () in nats of `logits` for 0 or 1 `targets`, weighed by `share`."""
    losses = jnp.logaddexp(0.0, logits) - targets * logits
    return jnp.sum(share * losses) / jnp.maximum(jnp.sum(share), 1.0)
