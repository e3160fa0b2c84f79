"""How the logits and the last state of a tape depend on every weight and on the state before it.

Several quantities are differentiated at once, each a lane of the backward scan. As in `sequence`,
the scan only collects dz, what each lane wants of the pre-activations, and the sensitivities to
the weights are matrix products afterwards:

```
jacobian_lane = stack([x_k, h_{k-1}, 1])^T @ dz_lane        for each layer
```

With `own=True` only the paths are followed on which a unit acts upon itself: the recurrent
matrices are replaced by their diagonals. That is what SnAp-1 keeps.

Source: Williams and Zipser, "A learning algorithm for continually running fully recurrent neural
networks", 1989; Menick et al., "Practical real time recurrent learning with a sparse
approximation", 2020.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from .cell import Array
from .network import Shape, Weights
from .sequence import Residuals, layer_forward

UNROLL = 10
"""Turns of a backward scan in a row, where the compiler is given no loop around each."""


class Forward(NamedTuple):
    """A tape run forward: the logits (K,), the top outputs (K, H), residuals of each layer."""

    logits: Array
    outputs: Array
    layers: tuple[Residuals, ...]


class Pulled(NamedTuple):
    """What M lanes want: `kernels` {layer: (M, I + H + 1, 4H)}, `start` (M, 2 L H)."""

    kernels: dict[str, Array]
    start: Array


def forward(shape: Shape, weights: Weights, xs: Array, state: Array) -> Forward:
    """Run scaled inputs xs (K, F) from the flat state (2 L H,) before them."""
    layers: list[Residuals] = []
    for layer in range(shape.layers):
        h, c = jnp.split(state[2 * shape.hidden * layer : 2 * shape.hidden * (layer + 1)], 2)
        (xs, _), residuals = layer_forward(weights[f"layer_{layer}"]["kernel"], xs, h, c)
        layers.append(residuals)
    head = weights["head"]["kernel"]
    return Forward(xs @ head[:-1] + head[-1], xs, tuple(layers))


def logit_lanes(weights: Weights, run: Forward, count: int) -> Array:
    """Return what the last `count` logits, one lane each, want of the top outputs, (K, M, H)."""
    length, hidden = run.outputs.shape
    at = jnp.arange(length - count, length), jnp.arange(count)
    lanes = jnp.zeros((length, count, hidden), run.outputs.dtype)
    return lanes.at[at].set(weights["head"]["kernel"][:-1])


def head_jacobian(run: Forward, count: int) -> Array:
    """Return the sensitivities (M, H + 1) of the last `count` logits to the head."""
    outputs = run.outputs[len(run.outputs) - count :]
    return jnp.concatenate([outputs, jnp.ones((count, 1), outputs.dtype)], axis=1)


def pull(shape: Shape, run: Forward, wanted: Array, end: Array, *, own: bool = False) -> Pulled:
    """Pull M lanes back through a tape.

    wanted: (K, M, H), what each lane wants of the top layer's outputs; end: (M, 2 L H), what it
    wants of the state after the tape. With `own` layers do not act upon each other either.
    """
    hidden, kernels, starts = shape.hidden, {}, []
    for layer in reversed(range(shape.layers)):
        residuals = run.layers[layer]
        last = jnp.split(end[:, 2 * hidden * layer : 2 * hidden * (layer + 1)], 2, axis=1)
        dz, start = _pull_layer(residuals, wanted, (last[0], last[1]), own)
        starts.append(start)
        stacked = _stacked(residuals)
        kernels[f"layer_{layer}"] = _products(stacked, dz)
        kernel, xs = residuals[:2]
        below = dz @ kernel[: xs.shape[1]].T
        wanted = jnp.zeros((*dz.shape[:2], hidden), dz.dtype) if own else below
    return Pulled(kernels, jnp.concatenate(starts[::-1], axis=1))


def _products(stacked: Array, dz: Array) -> Array:
    """Return stacked^T dz of each lane, (M, J, 4H), for stacked (K, J) and dz (K, M, 4H)."""
    length, lanes, width = dz.shape
    product = stacked.T @ dz.reshape(length, lanes * width)
    return product.reshape(stacked.shape[1], lanes, width).transpose(1, 0, 2)


def _stacked(residuals: Residuals) -> Array:
    """Return [x, h before, 1] of each element, (K, I + H + 1)."""
    _, xs, h0, hs, *_ = residuals
    previous = jnp.concatenate([h0[None], hs[:-1]])
    return jnp.concatenate([xs, previous, jnp.ones((len(xs), 1), xs.dtype)], axis=1)


def _pull_layer(
    residuals: Residuals, wanted: Array, last: tuple[Array, Array], own: bool
) -> tuple[Array, Array]:
    """Return (dz (K, M, 4H), what is wanted of h and c before the tape (M, 2H))."""
    kernel, xs, _, _, active, before, squashed = residuals
    recurrent = kernel[xs.shape[1] : -1]
    i, f, g, o = jnp.split(active, 4, axis=1)
    # Slopes of the cell with respect to the pre-activations of i, f and g, and of h to that of o.
    slopes = jnp.stack([g * i * (1 - i), before * f * (1 - f), i * (1 - g * g)], axis=1)
    of_output = squashed * o * (1 - o)
    over = wanted, jnp.concatenate([slopes, of_output[:, None]], axis=1), o * (1 - squashed**2), f
    pulled = _pull_own(recurrent, over, last) if own else _pull_all(recurrent, over, last)
    dz, dh, dc = pulled
    return dz, jnp.concatenate([dh, dc], axis=1)


def _pull_all(
    recurrent: Array, over: tuple[Array, ...], last: tuple[Array, Array]
) -> tuple[Array, Array, Array]:
    back = recurrent.T

    def step(later: tuple[Array, Array], at: Residuals) -> tuple[tuple[Array, Array], Array]:
        dh, dc = later
        dh_out, slopes, of_cell, forget = at
        dh = dh + dh_out
        dc = dc + dh * of_cell
        dz = jnp.concatenate([dc * slopes[0], dc * slopes[1], dc * slopes[2], dh * slopes[3]], 1)
        return (dz @ back, dc * forget), dz

    # One lane is so short a turn that the loop around it is dear.
    unroll = UNROLL if last[0].shape[0] == 1 else 1
    (dh, dc), dz = lax.scan(step, last, over, reverse=True, unroll=unroll)
    return dz, dh, dc


def _pull_own(
    recurrent: Array, over: tuple[Array, ...], last: tuple[Array, Array]
) -> tuple[Array, Array, Array]:
    """Do the same for a unit's paths upon itself: a line of 2 x 2 matrices for each unit."""
    wanted, slopes, of_cell, forget = over
    own = jnp.stack([jnp.diagonal(part) for part in jnp.split(recurrent, 4, axis=1)])
    from_cell = jnp.sum(slopes[:, :3] * own[:3], axis=1)
    from_output = slopes[:, 3] * own[3]
    turns = jnp.stack([of_cell, from_cell, from_output, forget], axis=1)

    def step(later: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
        dh_out, turn = at
        dh = later[0] + dh_out
        dc = later[1] + dh * turn[0]
        return jnp.stack([dc * turn[1] + dh * turn[2], dc * turn[3]]), jnp.stack([dh, dc])

    first, states = lax.scan(step, jnp.stack(last), (wanted, turns), reverse=True)
    dh, dc = states[:, 0], states[:, 1]
    parts = [dc * slopes[:, k, None] for k in range(3)] + [dh * slopes[:, 3, None]]
    return jnp.concatenate(parts, axis=2), first[0], first[1]
