"""Gradients of a tape: the network over K elements, and four ways to differentiate its logits.

**A layer with a cheap gradient.** Differentiating `apply` through `lax.scan` adds an outer product
(I + H + 1, 4H) to an accumulator at each backward step. Here the backward scan of a layer only
collects dz (K, 4H), and the weight gradient is one matrix product with the stacked [x, h, 1]:

```
dc_k = dh_k o_k (1 - tanh(c_k)^2) + dc_{k+1} f_{k+1};   dz_k from dc_k and dh_k, gate by gate
dh_{k-1} = dz_k @ kernel_h^T + (cotangent from the layer above or from the head)
dkernel = stack([x_k, h_{k-1}, 1])^T @ stack(dz_k)
```

The state at the start of the tape is data: no gradient flows into it (truncation), and none comes
back from the state at the end. Arrays may have batch axes after their first axis, the time. A step
is then one matrix product for all rows, and so is the weight gradient, which is their sum.

**Sensitivities of many outputs.** `backward` differentiates M quantities together, each in a lane
of its own, with respect to every weight and the state before the tape:

```
jacobian_lane = stack([x_k, h_{k-1}, 1])^T @ dz_lane        for each layer
```

With `own=True` it follows only the paths on which a unit acts on itself: the diagonals replace the
recurrent matrices. That is what SnAp-1 keeps.

**How far back a gradient reaches.**

| name | carried between updates | bias |
|---|---|---|
| `bptt` | nothing; the tape is K elements long | none within K elements |
| `snap1` | influence of each unit's own weights on it, 2 P floats | paths through other units |
| `hybrid` | the same | paths through other units before the last stride |
| `rtrl` | the whole influence, 2 L H P floats | older parts belong to older weights |

P counts the weights of the LSTM layers. All but `bptt` carry the influence J of the weights on
the state from update to update, so the tape is one stride long and the gradient reaches back to
the start of the stream:

```
jacobian = backward(tape, logits) + (cotangent of the state before) J
J'       = backward(tape, last state) + (cotangent of the state before) J
```

`rtrl` follows all paths. `snap1` follows only the paths of a unit on itself, in both lines.
`hybrid` follows all paths within the tape and a unit's own paths before it: exact where most of
the gradient is, and as cheap as SnAp-1.

Sources: Werbos, "Backpropagation through time", 1990; Williams and Peng, 1990, for truncation;
Williams and Zipser, "A learning algorithm for continually running fully recurrent neural
networks", 1989, for RTRL; Menick et al., "Practical real time recurrent learning with a sparse
approximation", 2020, for SnAp-1; Williams and Zipser, "Gradient-based learning algorithms for
recurrent networks", 1995, for the hybrid.
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
"""Rows up to which a matrix product runs row by row, so that XLA can fuse it into the one kernel
of an update."""

Residuals: TypeAlias = tuple[Array, ...]
Outputs: TypeAlias = tuple[Array, Array]


@jax.custom_vjp
def lstm_layer(kernel: Array, xs: Array, h0: Array, c0: Array) -> Outputs:
    """Return one layer's outputs (K, ..., H) over inputs xs (K, ..., I), and the last c (..., H).

    `h0` and `c0` (..., H) are the state before the first input.
    """
    return layer_forward(kernel, xs, h0, c0)[0]


def layer_forward(kernel: Array, xs: Array, h0: Array, c0: Array) -> tuple[Outputs, Residuals]:
    """Return the result of `lstm_layer` and the residuals for its gradient.

    The residuals are the kernel, xs, h0, the outputs, the activated gates (K, ..., 4H), c before
    each input and tanh(c) after it, both (K, ..., H).
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


def _layer_vjp(residuals: Residuals, cotangents: Outputs) -> tuple[Array, Array, Array, Array]:
    kernel, xs, h0, _, active, before, squashed = residuals
    dhs, _ = cotangents
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
    stacked, flat = _stacked(residuals).reshape(-1, len(kernel)), dz.reshape(-1, dz.shape[-1])
    return _products(stacked, flat), dz @ kernel[:inputs].T, zero, zero


def _stacked(residuals: Residuals) -> Array:
    """Return [x, h before, 1] of each element, (K, ..., I + H + 1)."""
    _, xs, h0, hs, *_ = residuals
    previous = jnp.concatenate([h0[None], hs[:-1]])
    return jnp.concatenate([xs, previous, jnp.ones((*xs.shape[:-1], 1), xs.dtype)], axis=-1)


def _products(rows: Array, columns: Array) -> Array:
    """Return rows^T @ columns, (R, C), of (K, R) and (K, C)."""
    if len(rows) > SHORT:
        return rows.T @ columns
    out: Array = lax.map(lambda row: row @ columns, rows.T)
    return out


lstm_layer.defvjp(layer_forward, _layer_vjp)


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
    shape: Shape, weights: Weights, xs: Array, state: Array, targets: Array, label_weights: Array
) -> Any:
    """Return the weighted mean log loss () in nats over a tape.

    `targets` (K,) are 0 or 1; `label_weights` (K,) is 0 for an element without a target.
    """
    return mean_log_loss(tape_logits(shape, weights, xs, state), targets, label_weights)


def mean_log_loss(logits: Array, targets: Array, label_weights: Array) -> Any:
    """Return the weighted mean log loss () in nats of `logits` for 0 or 1 `targets`."""
    losses = jnp.logaddexp(0.0, logits) - targets * logits
    return jnp.sum(label_weights * losses) / jnp.maximum(jnp.sum(label_weights), 1.0)


UNROLL = 10
"""Unrolled turns of a backward scan of one lane."""


class Forward(NamedTuple):
    """A forward pass: the logits (K,), the top outputs (K, H), and the residuals of each layer."""

    logits: Array
    outputs: Array
    layers: tuple[Residuals, ...]


def forward(shape: Shape, weights: Weights, xs: Array, state: Array) -> Forward:
    """Run scaled inputs xs (K, F) from the flat state (2 L H,) before them."""
    layers: list[Residuals] = []
    for layer, (h, c) in enumerate(_pairs(shape, state)):
        (xs, _), residuals = layer_forward(weights[f"layer_{layer}"]["kernel"], xs, h, c)
        layers.append(residuals)
    head = weights["head"]["kernel"]
    return Forward(xs @ head[:-1] + head[-1], xs, tuple(layers))


Kernels: TypeAlias = dict[str, Array]
"""By layer: sensitivities (M, I + H + 1, 4H) of M lanes to its kernel."""


def backward(
    shape: Shape, run: Forward, cotangents: Array, end: Array, *, own: bool = False
) -> tuple[Kernels, Array]:
    """Return (kernels, cotangents (M, 2 L H) of the state before the tape) of M lanes.

    cotangents: (K, M, H), of the top layer's outputs; end: (M, 2 L H), of the state after the
    tape. With `own`, layers do not act on each other either.
    """
    kernels: Kernels = {}
    starts = []
    ends = _pairs(shape, end)
    for layer in reversed(range(shape.layers)):
        residuals = run.layers[layer]
        dz, start = _layer_backward(residuals, cotangents, ends[layer], own)
        starts.append(start)
        kernels[f"layer_{layer}"] = _lane_products(_stacked(residuals), dz)
        kernel, xs = residuals[:2]
        below = dz @ kernel[: xs.shape[1]].T
        cotangents = jnp.zeros((*dz.shape[:2], shape.hidden), dz.dtype) if own else below
    return kernels, jnp.concatenate(starts[::-1], axis=1)


def _lane_products(stacked: Array, dz: Array) -> Array:
    """Return stacked^T dz of each lane, (M, J, 4H), for stacked (K, J) and dz (K, M, 4H)."""
    length, lanes, width = dz.shape
    product = stacked.T @ dz.reshape(length, lanes * width)
    return product.reshape(stacked.shape[1], lanes, width).transpose(1, 0, 2)


def _layer_backward(
    residuals: Residuals, cotangents: Array, last: tuple[Array, Array], own: bool
) -> tuple[Array, Array]:
    """Return dz (K, M, 4H), and the cotangents (M, 2H) of h and c before the tape."""
    kernel, xs, _, _, active, before, squashed = residuals
    recurrent = kernel[xs.shape[1] : -1]
    i, f, g, o = jnp.split(active, 4, axis=1)
    # Slopes of the cell with respect to the pre-activations of i, f and g, and of h to that of o.
    slopes = jnp.stack([g * i * (1 - i), before * f * (1 - f), i * (1 - g * g)], axis=1)
    of_output = squashed * o * (1 - o)
    slopes = jnp.concatenate([slopes, of_output[:, None]], axis=1)
    over = cotangents, slopes, o * (1 - squashed**2), f
    dz, dh, dc = (_own_paths if own else _all_paths)(recurrent, over, last)
    return dz, jnp.concatenate([dh, dc], axis=1)


def _all_paths(
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

    # With one lane, the loop costs more than its turns.
    unroll = UNROLL if last[0].shape[0] == 1 else 1
    (dh, dc), dz = lax.scan(step, last, over, reverse=True, unroll=unroll)
    return dz, dh, dc


def _own_paths(
    recurrent: Array, over: tuple[Array, ...], last: tuple[Array, Array]
) -> tuple[Array, Array, Array]:
    """Do the same for the paths of a unit on itself: 2 x 2 matrices for each unit."""
    cotangents, slopes, of_cell, forget = over
    own = jnp.stack([jnp.diagonal(part) for part in jnp.split(recurrent, 4, axis=1)])
    from_cell = jnp.sum(slopes[:, :3] * own[:3], axis=1)
    from_output = slopes[:, 3] * own[3]
    turns = jnp.stack([of_cell, from_cell, from_output, forget], axis=1)

    def step(later: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
        dh_out, turn = at
        dh = later[0] + dh_out
        dc = later[1] + dh * turn[0]
        return jnp.stack([dc * turn[1] + dh * turn[2], dc * turn[3]]), jnp.stack([dh, dc])

    first, states = lax.scan(step, jnp.stack(last), (cotangents, turns), reverse=True)
    dh, dc = states[:, 0], states[:, 1]
    parts = [dc * slopes[:, k, None] for k in range(3)] + [dh * slopes[:, 3, None]]
    return jnp.concatenate(parts, axis=2), first[0], first[1]


MAX_INFLUENCE = 2**28
"""Floats of an influence, 1 GiB: an update of a larger one would take seconds."""

Jacobian: TypeAlias = dict[str, dict[str, Array]]

Method: TypeAlias = Callable[[Shape, Forward, Array, Array, Array], tuple[Kernels, Array]]
"""From (shape, forward pass, xs, lanes of M logits, trace) to (kernels of the lanes, trace')."""


class Gradient(NamedTuple):
    """`init()` gives the trace float32 (T,) before the first tape, and `observe` moves it.

    `observe(weights, xs (K, F), state (2 L H,), trace)` returns (logits (M,), jacobian, trace'):
    the logits of the tape's last M elements, and their sensitivities to the weights, a tree like
    the weights with a leading axis of M.
    """

    init: Callable[[], Any]
    observe: Callable[[Weights, Array, Array, Array], tuple[Array, Jacobian, Array]]


def gradient_method(name: GradientName, shape: Shape, *, count: int) -> Gradient:
    """Return the method that observes the last `count` logits of a tape.

    Raises ConfigurationError where the method is not defined for the shape, or its influence
    would be larger than `MAX_INFLUENCE` floats.
    """
    if name == "snap1" and shape.layers > 1:
        raise ConfigurationError(
            f"gradient = 'snap1' is defined for one layer, not {shape.layers}; "
            "use hybrid, rtrl or bptt",
            key="gradient",
        )
    lanes = {"bptt": 0, "rtrl": shape.state}.get(name, 2)
    size = lanes * sum(math.prod(s) for layer, s in shape.weights().items() if layer != "head")
    if size > MAX_INFLUENCE:
        raise ConfigurationError(
            f"gradient = {name!r} needs {size * 4 / 2**30:.1f} GiB for "
            f"hidden={shape.hidden}, layers={shape.layers}; use hybrid or bptt",
            key="gradient",
        )
    method: Method = {"bptt": _bptt, "snap1": _snap1, "hybrid": _hybrid, "rtrl": _rtrl}[name]

    def observe(
        weights: Weights, xs: Array, state: Array, trace: Array
    ) -> tuple[Array, Jacobian, Array]:
        run = forward(shape, weights, xs, state)
        length, hidden = run.outputs.shape
        # One lane for each of the last `count` logits.
        at = jnp.arange(length - count, length), jnp.arange(count)
        lanes = jnp.zeros((length, count, hidden), run.outputs.dtype)
        lanes = lanes.at[at].set(weights["head"]["kernel"][:-1])
        kernels, trace = method(shape, run, xs, lanes, trace)
        jacobian: Jacobian = {layer: {"kernel": kernels[layer]} for layer in sorted(kernels)}
        outputs = run.outputs[length - count :]
        head = jnp.concatenate([outputs, jnp.ones((count, 1), outputs.dtype)], axis=1)
        return run.logits[-count:], jacobian | {"head": {"kernel": head}}, trace

    return Gradient(lambda: np.zeros((size,), np.float32), observe)


def _bptt(
    shape: Shape, run: Forward, xs: Array, lanes: Array, trace: Array
) -> tuple[Kernels, Array]:
    end = jnp.zeros((lanes.shape[1], shape.state), xs.dtype)
    return backward(shape, run, lanes, end)[0], trace


def _snap1(
    shape: Shape, run: Forward, xs: Array, lanes: Array, trace: Array
) -> tuple[Kernels, Array]:
    count = lanes.shape[1]
    silent = jnp.zeros((len(xs), 2, shape.hidden), xs.dtype)
    end = jnp.concatenate([jnp.zeros((count, shape.state), xs.dtype), _own_ends(shape, xs)])
    kernels, start = backward(shape, run, jnp.concatenate([lanes, silent], axis=1), end, own=True)
    reached = _add_own(shape, kernels, start, _split(shape, trace))
    moved = _join({name: kernel[count:] for name, kernel in reached.items()})
    return {name: kernel[:count] for name, kernel in reached.items()}, moved


def _hybrid(
    shape: Shape, run: Forward, xs: Array, lanes: Array, trace: Array
) -> tuple[Kernels, Array]:
    influence = _split(shape, trace)
    end = jnp.zeros((lanes.shape[1], shape.state), xs.dtype)
    kernels, start = backward(shape, run, lanes, end)
    observed = _add_own(shape, kernels, start, influence)
    silent = jnp.zeros((len(xs), 2, shape.hidden), xs.dtype)
    kernels, start = backward(shape, run, silent, _own_ends(shape, xs), own=True)
    return observed, _join(_add_own(shape, kernels, start, influence))


def _rtrl(
    shape: Shape, run: Forward, xs: Array, lanes: Array, trace: Array
) -> tuple[Kernels, Array]:
    count, size = lanes.shape[1], shape.state
    silent = jnp.zeros((len(xs), size, shape.hidden), xs.dtype)
    end = jnp.concatenate([jnp.zeros((count, size), xs.dtype), jnp.eye(size, dtype=xs.dtype)])
    kernels, start = backward(shape, run, jnp.concatenate([lanes, silent], axis=1), end)
    direct = jnp.concatenate([k.reshape(count + size, -1) for k in _ordered(kernels)], axis=1)
    reached = direct + start @ trace.reshape(size, -1)
    return _unflatten(shape, reached[:count]), reached[count:].reshape(-1)


def _ordered(kernels: Kernels) -> list[Array]:
    return [kernels[name] for name in sorted(kernels)]


def _unflatten(shape: Shape, rows: Array) -> Kernels:
    """Return {layer: (M, I + H + 1, 4H)} of rows (M, P)."""
    kernels, at = {}, 0
    for name, size in shape.weights().items():
        if name != "head":
            stop = at + math.prod(size)
            kernels[name] = rows[:, at:stop].reshape(len(rows), *size)
            at = stop
    return kernels


def _own_ends(shape: Shape, xs: Array) -> Array:
    """Return cotangents (2, 2 L H) of the last state: of every unit's h, and of its c."""
    unit = jnp.repeat(jnp.eye(2, dtype=xs.dtype), shape.hidden, axis=1)
    return jnp.tile(unit, (1, shape.layers))


def _split(shape: Shape, trace: Array) -> Kernels:
    """Return {layer: (2, I + H + 1, 4H)}, the influence of its weights on a unit's h and c."""
    return _unflatten(shape, trace.reshape(2, -1))


def _join(kernels: Kernels) -> Array:
    return jnp.concatenate([k.reshape(2, -1) for k in _ordered(kernels)], axis=1).reshape(-1)


def _add_own(shape: Shape, kernels: Kernels, start: Array, influence: Kernels) -> Kernels:
    """Add the sensitivities through the state before the tape."""
    reached = {}
    for layer, (of_h, of_c) in enumerate(_pairs(shape, start)):
        name = f"layer_{layer}"
        own = influence[name]
        through = _columns(of_h) * own[0] + _columns(of_c) * own[1]
        reached[name] = kernels[name] + through
    return reached


def _columns(units: Array) -> Array:
    """Return (M, H) as (M, 1, 4H): one value for the four columns of each unit."""
    return jnp.tile(units, (1, 4))[:, None, :]
