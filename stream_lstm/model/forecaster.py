"""What is stepped along a stream: a network, a plain forecaster, or a bank of them.

A forecaster is a set of pure functions over flat arrays, so that the stepper and the engine need
not know which it is. Its state (N,) is what it carries from element to element, its trace (T,)
what its learning carries from update to update.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from ..config import Config
from ..tables import ModelConfig
from .cell import Array
from .learner import network_learner
from .network import Shape, apply, init_weights, seed_key

Params: TypeAlias = Any


class Forecaster(NamedTuple):
    """M probabilities after each element.

    `step(params, state (N,), x (F,))` returns (state', p (M,)). `update(params, optimizer, trace
    (T,), xs (K, F), starts (D, N), targets (K,), share (K,))` returns (params', optimizer',
    trace', info (3,)) as `learner.UpdateFn` says; entry d of `starts` is the state before the
    last `offsets[d]` of the K elements.
    """

    names: tuple[str, ...]
    state: int
    tape: int
    offsets: tuple[int, ...]
    init: Callable[[], Params]
    init_optimizer: Callable[[Params], Any]
    init_trace: Callable[[], Array]
    step: Callable[[Params, Array, Array], tuple[Array, Array]]
    update: Callable[..., tuple[Params, Any, Array, Array]]


def observed(config: Config) -> int:
    """Return how many labels an update brings: a stride of them, or the published one's."""
    every = config.learning.targets == "every" and config.stream.labels == "series"
    return config.stream.stride if every else 1


def network(config: Config, features: int, *, gain: float = 1.0, name: str = "") -> Forecaster:
    """Return the configured network; its inputs are multiplied by `gain`.

    Raises ConfigurationError for an optimiser or a gradient method that cannot be.
    """
    shape, method = network_shape(config.model, features), config.gradient()
    if config.model.mode == "window":
        tape = config.stream.window
    else:
        tape = config.learning.bptt if method == "bptt" else config.stream.stride
    count = min(observed(config), tape)
    learner = network_learner(shape, config.learning, method, tape=tape, count=count)

    def init() -> Params:
        horizon = config.model.init_horizon if config.model.init == "chrono" else None
        return init_weights(shape, key=seed_key(config.model.seed), horizon=horizon)

    def step(weights: Params, state: Array, x: Array) -> tuple[Array, Array]:
        state, logit = apply(shape, weights, state, x if gain == 1.0 else x * gain)
        return state, jax.nn.sigmoid(logit)[None]

    def update(
        weights: Params,
        optimizer: Any,
        trace: Array,
        xs: Array,
        starts: Array,
        targets: Array,
        share: Array,
    ) -> tuple[Params, Any, Array, Array]:
        xs = xs if gain == 1.0 else xs * gain
        if config.learning.targets == "published" and config.stream.labels == "series":
            share = share.at[:-1].set(0.0)
        return learner.update(weights, optimizer, trace, xs, starts[0], targets, share)

    return Forecaster(
        names=(name,),
        state=shape.state,
        tape=tape,
        offsets=(tape,),
        init=init,
        init_optimizer=learner.init,
        init_trace=learner.trace,
        step=step,
        update=update,
    )


def network_shape(model: ModelConfig, features: int) -> Shape:
    """Return the sizes of a configured network."""
    return Shape(features, model.hidden, model.layers)


def side_by_side(members: Sequence[Forecaster]) -> Forecaster:
    """Return the forecaster whose probabilities are those of all `members`, in their order.

    All of them are stepped in one compiled call, and updated in another. Parameters and
    optimiser states are lists, in the same order.
    """
    states = _cuts([m.state for m in members])
    traces = _cuts([m.init_trace().shape[0] for m in members])
    tape = max(m.tape for m in members)
    offsets = tuple(sorted({offset for m in members for offset in m.offsets}))

    def step(params: Params, state: Array, x: Array) -> tuple[Array, Array]:
        parts = [m.step(p, state[c], x) for m, p, c in zip(members, params, states, strict=True)]
        return jnp.concatenate([s for s, _ in parts]), jnp.concatenate([p for _, p in parts])

    def update(
        params: Params,
        optimizer: Any,
        trace: Array,
        xs: Array,
        starts: Array,
        targets: Array,
        share: Array,
    ) -> tuple[Params, Any, Array, Array]:
        parts = []
        for k, member in enumerate(members):
            rows = jnp.stack([starts[offsets.index(d)][states[k]] for d in member.offsets])
            last = slice(tape - member.tape, None)
            arrays = trace[traces[k]], xs[last], rows, targets[last], share[last]
            parts.append(member.update(params[k], optimizer[k], *arrays))
        new, optimizers, moved, infos = zip(*parts, strict=True)
        return list(new), list(optimizers), jnp.concatenate(moved), _together(infos)

    return Forecaster(
        names=tuple(name for m in members for name in m.names),
        state=sum(m.state for m in members),
        tape=tape,
        offsets=offsets,
        init=lambda: [m.init() for m in members],
        init_optimizer=lambda ps: [m.init_optimizer(p) for m, p in zip(members, ps, strict=True)],
        init_trace=lambda: jnp.concatenate([m.init_trace() for m in members]),
        step=step,
        update=update,
    )


def _cuts(sizes: Sequence[int]) -> list[slice]:
    ends = [sum(sizes[: k + 1]) for k in range(len(sizes))]
    return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]


def _together(infos: Sequence[Array]) -> Array:
    """Return (loss and gradient norm of the first member, the worst that became of any)."""
    return jnp.stack([infos[0][0], infos[0][1], jnp.min(jnp.stack([i[2] for i in infos]))])


def constant(params: Params, p: float) -> Params:
    """Return parameters like `params`, as of NumPy, whose networks give `p` whatever they see."""
    if isinstance(params, list):
        return [constant(member, p) for member in params]
    if not isinstance(params, dict):
        return params
    head = np.zeros(np.shape(params["head"]["kernel"]), np.float32)
    head[-1] = math.log(p / (1.0 - p))
    return {**params, "head": {"kernel": head}}
