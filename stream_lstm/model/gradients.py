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
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np

from ..errors import ConfigurationError
from ..tables import Gradient as GradientName
from .cell import Array
from .network import Shape, Weights
from .sensitivity import Forward, forward, head_jacobian, logit_lanes, pull

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
