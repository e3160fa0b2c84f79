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
from jax import lax

from ..config import Config
from ..schema import ModelConfig
from .learner import network_learner
from .network import Array, Shape, apply, init_weights, seed_key

Params: TypeAlias = Any


class Forecaster(NamedTuple):
    """M probabilities after each element.

    `step(params, state (N,), x (F,))` returns (state', p (M,)). `update(params, optimizer, trace
    (T,), xs (K, F), starts (D, N), targets (K,), share (K,))` returns (params', optimizer',
    trace', info (3,)) as `learner.UpdateFn` says; entry d of `starts` is the state before the
    last `offsets[d]` of the K elements.

    A tape ends with the newest element whose target is known or, with `published`, with the
    element whose published prediction was labelled.
    """

    names: tuple[str, ...]
    state: int
    tape: int
    offsets: tuple[int, ...]
    published: bool
    init: Callable[[], Params]
    init_optimizer: Callable[[Params], Any]
    init_trace: Callable[[], Any]
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
    published = config.learning.targets == "published" and config.stream.labels == "series"
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
        if published:
            share = share.at[:-1].set(0.0)
        return learner.update(weights, optimizer, trace, xs, starts[0], targets, share)

    return Forecaster(
        names=(name,),
        state=shape.state,
        tape=tape,
        offsets=(tape,),
        published=published,
        init=init,
        init_optimizer=learner.init,
        init_trace=learner.trace,
        step=step,
        update=update,
    )


def network_shape(model: ModelConfig, features: int) -> Shape:
    """Return the sizes of a configured network."""
    return Shape(features, model.hidden, model.layers)


class Ensemble(NamedTuple):
    """One forecaster, or several side by side, and the common tape of their updates.

    `names`, `state`, `init`, `init_optimizer`, `init_trace` and `step` are those of `Forecaster`.
    `tape` is K, the elements of a tape. `update(params, optimizer, trace, xs (K, F), starts (D,
    N), targets (K,), share (K,), back ())` takes tapes that end with the newest element whose
    target is known, `back` elements behind the labelled prediction. Entry d of `starts` is the
    state before the last `offsets[d].length` elements of the part that counts from the end of
    the tape or, with `published`, from the labelled element.
    """

    names: tuple[str, ...]
    state: int
    tape: int
    offsets: tuple[Offset, ...]
    init: Callable[[], Params]
    init_optimizer: Callable[[Params], Any]
    init_trace: Callable[[], Any]
    step: Callable[[Params, Array, Array], tuple[Array, Array]]
    update: Callable[..., tuple[Params, Any, Array, Array]]


class Offset(NamedTuple):
    """Where a state that an update starts from is on the tape; see `Ensemble`."""

    length: int
    published: bool

    def before(self, back: Any) -> Any:
        """Return how many elements before the end of the tape the state is."""
        return self.length + back if self.published else self.length


def slack(config: Config) -> int:
    """Return how many elements a tape ends behind the labelled prediction.

    A prediction is made every stride S and labelled h elements later, and its update follows the
    next publication: the newest element with a known target is then -h mod S elements further.
    """
    external = config.stream.labels == "external"
    return 0 if external else -config.stream.horizon % config.stream.stride


def alone(member: Forecaster, slack: int) -> Ensemble:
    """Return an ensemble of one forecaster, whose parameters are the member's own."""
    tape, offsets = _common([member], slack)

    def update(params: Params, optimizer: Any, trace: Array, *given: Array) -> Any:
        return member.update(
            params, optimizer, trace, *_part(member, offsets, slice(None), *given)
        )

    return Ensemble(
        member.names,
        member.state,
        tape,
        offsets,
        member.init,
        member.init_optimizer,
        member.init_trace,
        member.step,
        update,
    )


def side_by_side(members: Sequence[Forecaster], slack: int) -> Ensemble:
    """Return the ensemble whose probabilities are those of all `members`, in their order.

    All of them are stepped in one compiled call, and updated in another. Parameters and
    optimiser states are lists, in the same order.
    """
    states = _cuts([m.state for m in members])
    traces = _cuts([m.init_trace().shape[0] for m in members])
    tape, offsets = _common(members, slack)

    def step(params: Params, state: Array, x: Array) -> tuple[Array, Array]:
        parts = [m.step(p, state[c], x) for m, p, c in zip(members, params, states, strict=True)]
        return jnp.concatenate([s for s, _ in parts]), jnp.concatenate([p for _, p in parts])

    def update(params: Params, optimizer: Any, trace: Array, *given: Array) -> Any:
        parts = [
            member.update(
                params[k],
                optimizer[k],
                trace[traces[k]],
                *_part(member, offsets, states[k], *given),
            )
            for k, member in enumerate(members)
        ]
        new, optimizers, moved, infos = zip(*parts, strict=True)
        return list(new), list(optimizers), jnp.concatenate(moved), _together(infos)

    return Ensemble(
        tuple(name for m in members for name in m.names),
        sum(m.state for m in members),
        tape,
        offsets,
        lambda: [m.init() for m in members],
        lambda ps: [m.init_optimizer(p) for m, p in zip(members, ps, strict=True)],
        lambda: np.concatenate([np.asarray(m.init_trace()) for m in members]),
        step,
        update,
    )


def _common(members: Sequence[Forecaster], slack: int) -> tuple[int, tuple[Offset, ...]]:
    """Return the length of the tape that serves all members, and the states they start from."""
    tape = max(m.tape + (slack if m.published else 0) for m in members)
    return tape, tuple(
        sorted({Offset(length, m.published) for m in members for length in m.offsets})
    )


def _part(
    member: Forecaster,
    offsets: Sequence[Offset],
    state: slice,
    xs: Array,
    starts: Array,
    targets: Array,
    share: Array,
    back: Array,
) -> tuple[Array, Array, Array, Array]:
    """Return what a member is given of a common tape: xs, starts, targets and share."""
    rows = [starts[offsets.index(Offset(length, member.published))] for length in member.offsets]
    begin = len(xs) - member.tape
    if not member.published:
        return xs[begin:], jnp.stack(rows)[:, state], targets[begin:], share[begin:]
    cut = lax.dynamic_slice_in_dim
    parts = (cut(array, begin - back, member.tape) for array in (xs, targets, share))
    inputs, wanted, weight = parts
    return inputs, jnp.stack(rows)[:, state], wanted, weight


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
