"""How far a gradient reaches back: four ways to differentiate the logits of a tape.

| name | what is kept between updates | bias |
|---|---|---|
| `bptt` | nothing; the tape is K elements long | nothing beyond K elements |
| `snap1` | an influence of each unit's own weights on it, 2 P floats | paths through other units |
| `hybrid` | the same | paths through other units before the last stride |
| `rtrl` | the whole influence, 2 L H P floats | older parts belong to older weights |

P counts the weights of the LSTM layers. All but `bptt` carry the influence J of the weights on
the state from update to update, so the tape is one stride long and the gradient reaches back to
the beginning of the stream:

```
jacobian = pull(tape, logits) + (what the logits want of the state before) J
J'       = pull(tape, last state) + (what the last state wants of the state before) J
```

`rtrl` pulls and moves everything. `snap1` follows only the paths of a unit upon itself, in both
lines. `hybrid` follows all paths within the tape and a unit's own paths before it: exact where
most of the gradient is, and as cheap as SnAp-1.

Source: Williams and Zipser 1989 for RTRL; Menick et al. 2020 for SnAp-1; Williams and Zipser,
"Gradient-based learning algorithms for recurrent networks", 1995, for the hybrid of both.

The network over a whole tape, or over lanes side by side, with a gradient that is cheap.

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

How the logits and the last state of a tape depend on every weight and on the state before it.

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

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..errors import ConfigurationError
from ..schema import Gradient as GradientName
from .network import Array, Shape, Weights, gates

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
        kernels[f"layer_{layer}"] = _lane_products(stacked, dz)
        kernel, xs = residuals[:2]
        below = dz @ kernel[: xs.shape[1]].T
        wanted = jnp.zeros((*dz.shape[:2], hidden), dz.dtype) if own else below
    return Pulled(kernels, jnp.concatenate(starts[::-1], axis=1))


def _lane_products(stacked: Array, dz: Array) -> Array:
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


MAX_INFLUENCE = 2**28
"""Floats of an influence, 1 GiB: moving a larger one would take seconds an update."""

Jacobian: TypeAlias = dict[str, dict[str, Array]]


Observe: TypeAlias = Callable[[Weights, Array, Array, Array], tuple[Array, Jacobian, Array]]


class Gradient(NamedTuple):
    """`init()` gives the trace before the first tape, float32 (T,), which `observe` moves.

    `observe(weights, xs (K, F), state (2 L H,), trace)` returns (logits (M,), jacobian, trace'):
    the logits of the tape's last M elements, and their sensitivities to the weights, a pytree
    like the weights with a leading axis of M.
    """

    init: Callable[[], Any]
    observe: Observe


def gradient_method(name: GradientName, shape: Shape, *, count: int) -> Gradient:
    """Return the method that observes the last `count` logits of a tape.

    Raises ConfigurationError where the method is not defined for the shape, or its influence
    would be larger than `MAX_INFLUENCE` floats.
    """
    if name == "snap1" and shape.layers > 1:
        raise ConfigurationError(
            f"gradient = 'snap1' is defined for one layer, not {shape.layers}; "
            "choose hybrid, rtrl or bptt",
            key="gradient",
        )
    lanes = {"bptt": 0, "rtrl": shape.state}.get(name, 2)
    size = lanes * _weights(shape)
    if size > MAX_INFLUENCE:
        raise ConfigurationError(
            f"gradient = {name!r} would carry {size * 4 / 2**30:.1f} GiB for "
            f"hidden={shape.hidden}, layers={shape.layers}; choose hybrid or bptt",
            key="gradient",
        )
    methods = {"bptt": _bptt, "snap1": _snap1, "hybrid": _hybrid, "rtrl": _rtrl}
    return Gradient(lambda: np.zeros((size,), np.float32), methods[name](shape, count))


def _weights(shape: Shape) -> int:
    """Return the number P of weights of the LSTM layers."""
    return sum(math.prod(size) for name, size in shape.weights().items() if name != "head")


def _bptt(shape: Shape, count: int) -> Observe:
    def observe(
        weights: Weights, xs: Array, state: Array, trace: Array
    ) -> tuple[Array, Jacobian, Array]:
        run = forward(shape, weights, xs, state)
        end = jnp.zeros((count, shape.state), xs.dtype)
        kernels, _ = pull(shape, run, logit_lanes(weights, run, count), end)
        return run.logits[-count:], _jacobian(kernels, run, count), trace

    return observe


def _snap1(shape: Shape, count: int) -> Observe:
    def observe(
        weights: Weights, xs: Array, state: Array, trace: Array
    ) -> tuple[Array, Jacobian, Array]:
        run = forward(shape, weights, xs, state)
        lanes = logit_lanes(weights, run, count)
        moves = _own_ends(shape, xs)
        wanted = jnp.concatenate([lanes, jnp.zeros((len(xs), 2, shape.hidden), xs.dtype)], axis=1)
        end = jnp.concatenate([jnp.zeros((count, shape.state), xs.dtype), moves])
        kernels, start = pull(shape, run, wanted, end, own=True)
        reached = _add_own(shape, kernels, start, _split(shape, trace))
        moved = _join({name: kernel[count:] for name, kernel in reached.items()})
        observed = {name: kernel[:count] for name, kernel in reached.items()}
        return run.logits[-count:], _jacobian(observed, run, count), moved

    return observe


def _hybrid(shape: Shape, count: int) -> Observe:
    def observe(
        weights: Weights, xs: Array, state: Array, trace: Array
    ) -> tuple[Array, Jacobian, Array]:
        run, influence = forward(shape, weights, xs, state), _split(shape, trace)
        end = jnp.zeros((count, shape.state), xs.dtype)
        kernels, start = pull(shape, run, logit_lanes(weights, run, count), end)
        observed = _add_own(shape, kernels, start, influence)
        silent = jnp.zeros((len(xs), 2, shape.hidden), xs.dtype)
        kernels, start = pull(shape, run, silent, _own_ends(shape, xs), own=True)
        moved = _join(_add_own(shape, kernels, start, influence))
        return run.logits[-count:], _jacobian(observed, run, count), moved

    return observe


def _rtrl(shape: Shape, count: int) -> Observe:
    def observe(
        weights: Weights, xs: Array, state: Array, trace: Array
    ) -> tuple[Array, Jacobian, Array]:
        run, size = forward(shape, weights, xs, state), shape.state
        silent = jnp.zeros((len(xs), size, shape.hidden), xs.dtype)
        wanted = jnp.concatenate([logit_lanes(weights, run, count), silent], axis=1)
        end = jnp.concatenate([jnp.zeros((count, size), xs.dtype), jnp.eye(size, dtype=xs.dtype)])
        kernels, start = pull(shape, run, wanted, end)
        direct = jnp.concatenate([k.reshape(count + size, -1) for k in _ordered(kernels)], axis=1)
        reached = direct + start @ trace.reshape(size, -1)
        observed = _unflatten(shape, reached[:count])
        return run.logits[-count:], _jacobian(observed, run, count), reached[count:].reshape(-1)

    return observe


def _jacobian(kernels: dict[str, Array], run: Forward, count: int) -> Jacobian:
    layers = {name: {"kernel": kernels[name]} for name in sorted(kernels)}
    return layers | {"head": {"kernel": head_jacobian(run, count)}}


def _ordered(kernels: dict[str, Array]) -> list[Array]:
    return [kernels[name] for name in sorted(kernels)]


def _unflatten(shape: Shape, rows: Array) -> dict[str, Array]:
    """Return {layer: (M, I + H + 1, 4H)} of rows (M, P)."""
    kernels, at = {}, 0
    for name, size in shape.weights().items():
        if name != "head":
            stop = at + math.prod(size)
            kernels[name] = rows[:, at:stop].reshape(len(rows), *size)
            at = stop
    return kernels


def _own_ends(shape: Shape, xs: Array) -> Array:
    """Return what two lanes want of the last state (2, 2 L H): every unit's h, and its c."""
    unit = jnp.repeat(jnp.eye(2, dtype=xs.dtype), shape.hidden, axis=1)
    return jnp.tile(unit, (1, shape.layers))


def _split(shape: Shape, trace: Array) -> dict[str, Array]:
    """Return {layer: (2, I + H + 1, 4H)}, the influence of its weights on a unit's h and c."""
    return _unflatten(shape, trace.reshape(2, -1))


def _join(kernels: dict[str, Array]) -> Array:
    return jnp.concatenate([k.reshape(2, -1) for k in _ordered(kernels)], axis=1).reshape(-1)


def _add_own(
    shape: Shape, kernels: dict[str, Array], start: Array, influence: dict[str, Array]
) -> dict[str, Array]:
    """Return the sensitivities (M, ...) with what reaches them through the state before."""
    reached = {}
    for layer in range(shape.layers):
        name, at = f"layer_{layer}", 2 * shape.hidden * layer
        of_h, of_c = jnp.split(start[:, at : at + 2 * shape.hidden], 2, axis=1)
        own = influence[name]
        through = _columns(of_h) * own[0] + _columns(of_c) * own[1]
        reached[name] = kernels[name] + through
    return reached


def _columns(units: Array) -> Array:
    """Return (M, H) as (M, 1, 4H): one value for the four columns of each unit."""
    return jnp.tile(units, (1, 4))[:, None, :]
