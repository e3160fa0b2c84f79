"""Plain forecasters: counts after sign patterns, a logistic regression, two hidden regimes.

They are members of a bank beside networks. They predict what needs no network, and show by how
much a network is better. All use the scaled target: its values before the label, newest first; a
regression with `all_features` also uses the values of the other features.

A table of b signs has 2^b cells of counts. A cell with k positive labels among m predicts
(k + 1/2) / (m + 1). A fading table multiplies its counts by exp(-1 / fade) at each label.

The inputs of the regression are lags, signs and a one; `optimizers.dekf` tracks its weights.

The regimes are a hidden Markov chain that switches with probability 1 / lasts at a label. With r
the probability of the regime that leans to 1, by e: p = r e + (1 - r) (1 - e). A label filters r.
The lean e is the share of labels that agree with their regime, each weighted by the filtered r,
plus `LEAN_PRIOR` labels that lean by `LEAN`.

Sources: Krichevsky and Trofimov, "The performance of universal encoding", 1981; Rabiner, "A
tutorial on hidden Markov models", 1989.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np

from ..config import (
    MAX_WIDE,
    Config,
    LogisticMember,
    Member,
    NetworkMember,
    RegimeMember,
    TableMember,
    check_members,
)
from ..errors import ConfigurationError
from .forecaster import Ensemble, Forecaster, Params, StepFn, Updated, combine, network, slack
from .gradients import mean_log_loss
from .learner import Tape
from .network import Array
from .optimizers import ACCEPTED, Caps, all_finite, choose, dekf, logistic_innovation, norm

LEAN = 0.6
LEAN_PRIOR = 100.0
"""A chain that starts without a lean would never find one."""


def _forecaster(
    member: TableMember | LogisticMember | RegimeMember,
    init: Callable[[], Params],
    step: StepFn,
    learn: Callable[[Params, Any, Tape], tuple[Params, Any, Array]],
    *,
    state: int,
    tape_length: int,
    init_optimizer: Callable[[Params], Any] = lambda _: (),
) -> Forecaster:
    """Return a forecaster that learns without the state before its tape, and without a trace.

    `learn(params, optimizer, tape)` returns (params', optimizer', info (3,)).
    """

    def update(params: Params, optimizer: Any, trace: Array, tape: Tape) -> Updated:
        new, new_optimizer, info = learn(params, optimizer, tape)
        new, new_optimizer = choose(info[2] == ACCEPTED, (new, new_optimizer), (params, optimizer))
        return new, new_optimizer, trace, info

    return Forecaster(
        names=(member.name,),
        state=state,
        tape_length=tape_length,
        published=getattr(member, "targets", "published") == "published",
        init=init,
        init_optimizer=init_optimizer,
        init_trace=lambda: np.zeros((0,), np.float32),
        step=step,
        update=update,
    )


def _shift(register: Array, x: Array) -> Array:
    """Return a register (N,) with the entries of x in front, without its oldest entries."""
    return jnp.concatenate([x, register])[: len(register)]


def _registers(xs: Array, lags: int, count: int) -> Array:
    """Return the registers (M, lags, F) after each of the last `count` of xs (K, F)."""
    newest = jnp.arange(len(xs) - count, len(xs))
    return xs[newest[:, None] - jnp.arange(lags)[None, :]]


def _info(loss: Array, accepted: Array) -> Array:
    return jnp.stack([loss, jnp.zeros(()), accepted.astype(jnp.float32)])


def table(member: TableMember, count: int) -> Forecaster:
    """Return the table; an update has `count` labels."""
    signs, cells = member.signs, 2**member.signs
    keep = math.exp(-1.0 / member.fade) if member.fade else 1.0
    powers = 2.0 ** np.arange(signs, dtype=np.float32)
    # What each label of an update weighs, the newest last.
    ages: Any = np.ones((count,), np.float32)
    if keep != 1.0 and count != 1:
        ages = keep ** jnp.arange(count - 1, -1, -1, dtype=jnp.float32)

    def cell(register: Array) -> Array:
        return jnp.sum((register > 0) * powers, axis=-1).astype(jnp.int32)

    def probability(counts: Array, at: Array) -> Array:
        return (counts[at, 1] + 0.5) / (counts[at, 0] + counts[at, 1] + 1.0)

    def step(counts: Array, state: Array, x: Array) -> tuple[Array, Array]:
        state = _shift(state, x[:1])
        return state, probability(counts, cell(state))[None]

    def learn(counts: Array, optimizer: Any, tape: Tape) -> tuple[Array, Any, Array]:
        at = cell(_registers(tape.xs, signs, count)[..., 0])
        labels = tape.targets[-count:].astype(jnp.int32)
        p = probability(counts, at)
        loss = -jnp.mean(jnp.log(jnp.where(labels > 0, p, 1.0 - p)))
        new = jnp.asarray(counts) * keep**count
        new = new.at[at, labels].add(ages * tape.label_weights[-count:])
        return new, optimizer, _info(loss, all_finite(loss, new, tape.xs))

    init = lambda: np.zeros((cells, 2), np.float32)  # noqa: E731
    length = max(signs, 1) + count - 1
    return _forecaster(member, init, step, learn, state=signs, tape_length=length)


def logistic(member: LogisticMember, features: int, count: int, caps: Caps) -> Forecaster:
    """Return the regression; an update has `count` labels, and is rejected above the caps.

    Its state is a flat register (size, F), of all F features or of the target only. Raises
    ConfigurationError for more than `MAX_WIDE` features.
    """
    wide = features if member.all_features else 1
    if wide > MAX_WIDE:
        raise ConfigurationError(f"all_features supports {MAX_WIDE} features at most")
    lags = member.lags if wide == 1 else min(member.lags, MAX_WIDE // wide)
    size = max(lags, member.signs)
    kalman = dekf(p0=member.p0, q=member.q)

    def inputs(register: Array) -> Array:
        lead = register.shape[:-2]
        values = register[..., :lags, :].reshape(*lead, -1)
        signs = jnp.sign(register[..., : member.signs, 0])
        return jnp.concatenate([values, signs, jnp.ones((*lead, 1), register.dtype)], axis=-1)

    def step(weights: Array, state: Array, x: Array) -> tuple[Array, Array]:
        state = _shift(state, x[:wide])
        return state, jax.nn.sigmoid(inputs(state.reshape(size, wide)) @ weights)[None]

    def learn(weights: Array, optimizer: Any, tape: Tape) -> tuple[Array, Any, Array]:
        rows = inputs(_registers(tape.xs[:, :wide], size, count))
        labels, label_weights = tape.targets[-count:], tape.label_weights[-count:]
        logits = rows @ weights
        innovation, noise = logistic_innovation(logits, labels, label_weights)
        change, new = kalman.update(rows, optimizer, weights, innovation=innovation, noise=noise)
        loss = mean_log_loss(logits, labels, label_weights)
        gradient = jnp.linalg.norm((jax.nn.sigmoid(logits) - labels) @ rows) / count
        moved = weights + change
        outcome = caps.judge(all_finite(loss, new), norm(change), norm(moved), len(weights))
        return moved, new, jnp.stack([loss, gradient, outcome])

    return _forecaster(
        member,
        lambda: np.zeros((lags * wide + member.signs + 1,), np.float32),
        step,
        learn,
        state=size * wide,
        tape_length=max(size, 1) + count - 1,
        init_optimizer=kalman.init,
    )


def regime(member: RegimeMember) -> Forecaster:
    """Return the filter of two regimes; an update has the label of one prediction.

    Its parameters (3,) are r, the number of labels that agree with their regime, and of all
    labels.
    """
    flips, size = 1.0 / member.lasts, int(member.relative)

    def against(register: Array) -> Array:
        return (register[0] <= 0) if member.relative else jnp.zeros((), bool)

    def lean(params: Array) -> Array:
        return jnp.clip(params[1] / params[2], 0.5, 0.999)

    def step(params: Array, state: Array, x: Array) -> tuple[Array, Array]:
        state, e = _shift(state, x[:1]), lean(params)
        p = params[0] * e + (1.0 - params[0]) * (1.0 - e)
        return state, jnp.where(against(state), 1.0 - p, p)[None]

    def learn(params: Array, optimizer: Any, tape: Tape) -> tuple[Array, Any, Array]:
        label = (tape.targets[-1] > 0) != against(_registers(tape.xs, size, 1)[0, :, 0])
        e, r = lean(params), params[0]
        leaning = jnp.where(label, r * e, r * (1.0 - e))
        other = jnp.where(label, (1.0 - r) * (1.0 - e), (1.0 - r) * e)
        r = leaning / (leaning + other)
        agreed = params[1] + jnp.where(label, r, 1.0 - r)
        after = r * (1.0 - flips) + (1.0 - r) * flips
        new = jnp.stack([after, agreed, params[2] + 1.0])
        sound = all_finite(new, tape.xs, tape.targets)
        return new, optimizer, _info(-jnp.log(leaning + other), sound)

    init = lambda: np.array([0.5, LEAN * LEAN_PRIOR, LEAN_PRIOR], np.float32)  # noqa: E731
    return _forecaster(member, init, step, learn, state=size, tape_length=1)


MODEL_KEYS = ("hidden", "layers", "seed", "init", "init_horizon")
LEARNING_KEYS = (
    "gradient",
    "bptt",
    "targets",
    "positive_weight",
    "optimizer",
    "optimizer_args",
    "learning_rate",
    "clip_norm",
)


def bank(config: Config, features: int, members: Sequence[Member]) -> Ensemble:
    """Return the ensemble of a bank.

    Raises ConfigurationError for an invalid member, by its name, and for mode=window.
    """
    check_members(members)
    if config.model.mode == "window":
        raise ConfigurationError("a bank carries its states: use it with mode=carry", key="bank")
    return combine([_member(config, features, member) for member in members], slack(config))


def _member(config: Config, features: int, member: Member) -> Forecaster:
    try:
        if isinstance(member, TableMember):
            return table(member, _count(config, member))
        if isinstance(member, LogisticMember):
            return logistic(member, features, _count(config, member), Caps.of(config.learning))
        if isinstance(member, RegimeMember):
            return regime(member)
        gain = 1.0 if member.gain is None else member.gain / config.scaling.gain
        return network(member_config(config, member), features, gain=gain, name=member.name)
    except (ConfigurationError, ValueError) as error:
        raise ConfigurationError(f"member {member.name!r}: {error}", key="bank") from None


def _count(config: Config, member: TableMember | LogisticMember) -> int:
    if member.targets == "published" or config.stream.labels == "external":
        return 1
    # At most the warm-up: a stream has no labels before its first element.
    return min(config.stream.stride, config.stream.window)


def member_config(config: Config, member: NetworkMember) -> Config:
    """Return `config` with the settings of a member; ValueError for an invalid combination."""
    replace = msgspec.structs.replace

    def own(keys: Sequence[str]) -> dict[str, Any]:
        return {key: value for key in keys if (value := getattr(member, key)) is not None}

    return replace(
        config,
        model=replace(config.model, **own(MODEL_KEYS)),
        learning=replace(config.learning, **own(LEARNING_KEYS)),
    )
