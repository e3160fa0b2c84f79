"""The model that runs along a stream: a network, a plain forecaster, or a bank of them.

A forecaster is a set of pure functions over flat arrays, so the stepper and the engine do not
depend on its kind. Its state (N,) is carried from element to element, its trace (T,) from update
to update.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..config import Config
from ..schema import ModelConfig
from .learner import Tape, network_learner
from .network import Array, Shape, apply, init_weights, seed_key

Params: TypeAlias = Any

StepFn: TypeAlias = Callable[[Params, Array, Array], tuple[Array, Array]]
"""From (params, state (N,), x (F,)) to (state', p (M,))."""

Updated: TypeAlias = tuple[Params, Any, Array, Array]
"""(params', optimizer', trace' (T,), info (3,)); `info` is that of `learner.Learner`."""


class Forecaster(NamedTuple):
    """One member: M probabilities after each element.

    The tape of `update` ends with the newest element whose target is known or, with `published`,
    with the element whose published prediction has its label.
    """

    names: tuple[str, ...]
    state: int
    tape_length: int
    published: bool
    init: Callable[[], Params]
    init_optimizer: Callable[[Params], Any]
    init_trace: Callable[[], Any]
    step: StepFn
    update: Callable[[Params, Any, Array, Tape], Updated]


class Offset(NamedTuple):
    """Position of a state on the common tape, `length` elements before a member's end."""

    length: int
    published: bool

    def before(self, back: Any) -> Any:
        """Return the number of elements between the state and the end of the tape."""
        return self.length + back if self.published else self.length


class Ensemble(NamedTuple):
    """One member or several, with a common tape.

    The tape of `update` ends with the newest element whose target is known, `back` () elements
    after the element whose published prediction has its label. Its `start` (D, N) has the states
    at `offsets`.
    """

    names: tuple[str, ...]
    state: int
    tape_length: int
    offsets: tuple[Offset, ...]
    init: Callable[[], Params]
    init_optimizer: Callable[[Params], Any]
    init_trace: Callable[[], Any]
    step: StepFn
    update: Callable[[Params, Any, Array, Tape, Array], Updated]


def labels_per_update(config: Config) -> int:
    """Return the number of labels in an update: one, or one for each element of a stride."""
    every = config.learning.targets == "every" and config.stream.labels == "series"
    return config.stream.stride if every else 1


def network(config: Config, features: int, *, gain: float = 1.0, name: str = "") -> Forecaster:
    """Return the configured network; its inputs are multiplied by `gain`.

    Raises ConfigurationError for an invalid optimiser or gradient method.
    """
    shape, method = network_shape(config.model, features), config.gradient()
    if config.model.mode == "window":
        length = config.stream.window
    else:
        length = config.learning.bptt if method == "bptt" else config.stream.stride
    count = min(labels_per_update(config), length)
    published = config.learning.targets == "published" and config.stream.labels == "series"
    learner = network_learner(shape, config.learning, method, count=count)

    def init() -> Params:
        horizon = config.model.init_horizon if config.model.init == "chrono" else None
        return init_weights(shape, key=seed_key(config.model.seed), horizon=horizon)

    def step(weights: Params, state: Array, x: Array) -> tuple[Array, Array]:
        state, logit = apply(shape, weights, state, x if gain == 1.0 else x * gain)
        return state, jax.nn.sigmoid(logit)[None]

    def update(weights: Params, optimizer: Any, trace: Array, tape: Tape) -> Updated:
        if gain != 1.0:
            tape = tape._replace(xs=tape.xs * gain)
        if published:
            tape = tape._replace(label_weights=tape.label_weights.at[:-1].set(0.0))
        return learner.update(weights, optimizer, trace, tape)

    return Forecaster(
        names=(name,),
        state=shape.state,
        tape_length=length,
        published=published,
        init=init,
        init_optimizer=learner.init,
        init_trace=learner.init_trace,
        step=step,
        update=update,
    )


def network_shape(model: ModelConfig, features: int) -> Shape:
    """Return the sizes of a configured network."""
    return Shape(features, model.hidden, model.layers)


def slack(config: Config) -> int:
    """Return how many elements a tape extends past the element of the labelled prediction.

    A prediction is made every stride S and has its label h elements later; its update follows the
    next publication. The newest element with a known target is then -h mod S elements further.
    """
    external = config.stream.labels == "external"
    return 0 if external else -config.stream.horizon % config.stream.stride


def alone(member: Forecaster, slack: int) -> Ensemble:
    """Return an ensemble of one forecaster; its parameters are those of the member."""
    length, offsets = _common_tape([member], slack)

    def update(params: Params, optimizer: Any, trace: Array, tape: Tape, back: Array) -> Updated:
        part = _member_tape(member, offsets, slice(None), tape, back)
        return member.update(params, optimizer, trace, part)

    own = member._asdict() | {"tape_length": length, "offsets": offsets, "update": update}
    del own["published"]
    return Ensemble(**own)


def combine(members: Sequence[Forecaster], slack: int) -> Ensemble:
    """Return the ensemble whose probabilities are those of all `members`, in their order.

    One compiled call steps all of them, and another updates them. Parameters and optimiser states
    are lists, in the same order.
    """
    states = _slices([m.state for m in members])
    traces = _slices([m.init_trace().shape[0] for m in members])
    length, offsets = _common_tape(members, slack)

    def step(params: Params, state: Array, x: Array) -> tuple[Array, Array]:
        parts = [m.step(p, state[s], x) for m, p, s in zip(members, params, states, strict=True)]
        return jnp.concatenate([s for s, _ in parts]), jnp.concatenate([p for _, p in parts])

    def update(params: Params, optimizer: Any, trace: Array, tape: Tape, back: Array) -> Updated:
        tapes = [
            _member_tape(m, offsets, s, tape, back) for m, s in zip(members, states, strict=True)
        ]
        parts = [
            member.update(params[k], optimizer[k], trace[traces[k]], tapes[k])
            for k, member in enumerate(members)
        ]
        new, optimizers, moved, infos = zip(*parts, strict=True)
        # Loss and gradient norm of the first member; the worst outcome of any.
        outcome = jnp.min(jnp.stack([info[2] for info in infos]))
        info = jnp.stack([infos[0][0], infos[0][1], outcome])
        return list(new), list(optimizers), jnp.concatenate(moved), info

    return Ensemble(
        names=tuple(name for m in members for name in m.names),
        state=sum(m.state for m in members),
        tape_length=length,
        offsets=offsets,
        init=lambda: [m.init() for m in members],
        init_optimizer=lambda ps: [m.init_optimizer(p) for m, p in zip(members, ps, strict=True)],
        init_trace=lambda: np.concatenate([np.asarray(m.init_trace()) for m in members]),
        step=step,
        update=update,
    )


def _common_tape(members: Sequence[Forecaster], slack: int) -> tuple[int, tuple[Offset, ...]]:
    length = max(m.tape_length + (slack if m.published else 0) for m in members)
    return length, tuple(sorted({Offset(m.tape_length, m.published) for m in members}))


def _member_tape(
    member: Forecaster, offsets: Sequence[Offset], state: slice, tape: Tape, back: Array
) -> Tape:
    length = member.tape_length
    start = tape.start[offsets.index(Offset(length, member.published))][state]
    begin: Any = len(tape.xs) - length - (back if member.published else 0)

    def cut(array: Array) -> Array:
        if member.published:
            return lax.dynamic_slice_in_dim(array, begin, length)
        return array[begin:]

    return Tape(cut(tape.xs), start, cut(tape.targets), cut(tape.label_weights))


def _slices(sizes: Sequence[int]) -> list[slice]:
    return [slice(*pair) for pair in itertools.pairwise(itertools.accumulate(sizes, initial=0))]


def constant(params: Params, p: float) -> Params:
    """Return NumPy parameters like `params` whose networks give `p` for every input."""
    if isinstance(params, list):
        return [constant(member, p) for member in params]
    if not isinstance(params, dict):
        return params
    head = np.zeros(np.shape(params["head"]["kernel"]), np.float32)
    head[-1] = math.log(p / (1.0 - p))
    return {**params, "head": {"kernel": head}}
