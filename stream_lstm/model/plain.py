"""Plain forecasters: counts after sign patterns, a logistic regression, two hidden regimes.

They stand in a bank beside networks, for what needs no network, and say by how much a network is
better. All look at the target, as scaled: its values before the label, newest first; a regression
of `all_features` also at the values of the others.

A table of b signs has 2^b cells of counts; with k positive labels among m in a cell it gives
(k + 1/2) / (m + 1). A fading table multiplies its counts by exp(-1 / fade) at each label.

The regression's inputs are lags, signs and a one; its weights are followed by `kalman.dekf`.

The regimes are a hidden Markov chain that changes sides with probability 1 / lasts at a label.
With r the probability of the one that leans to 1, by e: p = r e + (1 - r) (1 - e). After a label
r is filtered, and e is the share of labels that went the way of their regime, each label counted
by the filtered r, above `LEAN_PRIOR` labels that lean by `LEAN`.

Source: Krichevsky and Trofimov, "The performance of universal encoding", 1981; Rabiner, "A
tutorial on hidden Markov models", 1989.

The forecaster of a configuration: one network, or the members of a bank side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
from .forecaster import Ensemble, Forecaster, network, side_by_side, slack
from .gradients import mean_log_loss
from .network import Array
from .optimizers import ACCEPTED, Caps, all_finite, choose, dekf, logistic_innovation, norm

LEAN = 0.6
LEAN_PRIOR = 100.0
"""A chain that starts without a lean would never find one."""


def _shift(state: Array, value: Array) -> Array:
    """Return the register (N,) with `value` in front and its oldest entry gone."""
    return jnp.concatenate([value[None], state])[: state.shape[0]]


def _registers(xs: Array, lags: int, count: int) -> Array:
    """Return the registers (M, lags) after each of the last `count` of xs (K, F)."""
    return _wide_registers(xs, lags, count)[..., 0]


def _wide_registers(xs: Array, lags: int, count: int) -> Array:
    """Return the registers (M, lags, F) after each of the last `count` of xs (K, F)."""
    newest = jnp.arange(len(xs) - count, len(xs))
    return xs[newest[:, None] - jnp.arange(lags)[None, :]]


def _tape(lags: int, count: int) -> int:
    return max(lags, 1) + count - 1


def table(member: TableMember, count: int) -> Forecaster:
    """Return the table; an update brings `count` labels."""
    signs, cells = member.signs, 2**member.signs
    keep = math.exp(-1.0 / member.fade) if member.fade else 1.0
    powers = 2.0 ** np.arange(signs, dtype=np.float32)
    ages = _ages(keep, count)

    def cell(register: Array) -> Array:
        return jnp.sum((register > 0) * powers, axis=-1).astype(jnp.int32)

    def step(counts: Array, state: Array, x: Array) -> tuple[Array, Array]:
        state = _shift(state, x[0])
        at = cell(state)
        p = (counts[at, 1] + 0.5) / (counts[at, 0] + counts[at, 1] + 1.0)
        return state, p[None]

    def update(
        counts: Array,
        optimizer: Any,
        trace: Array,
        xs: Array,
        starts: Array,
        targets: Array,
        share: Array,
    ) -> tuple[Array, Any, Array, Array]:
        del starts
        at = cell(_registers(xs, signs, count))
        labels = targets[-count:].astype(jnp.int32)
        p = (counts[at, 1] + 0.5) / (counts[at, 0] + counts[at, 1] + 1.0)
        loss = -jnp.mean(jnp.log(jnp.where(labels > 0, p, 1.0 - p)))
        new = (jnp.asarray(counts) * keep**count).at[at, labels].add(ages * share[-count:])
        accepted = all_finite(loss, new, xs)
        info = jnp.stack([loss, jnp.zeros(()), accepted.astype(jnp.float32)])
        return choose(accepted, new, counts), optimizer, trace, info

    tape = _tape(signs, count)
    return Forecaster(
        names=(member.name,),
        state=signs,
        tape=tape,
        offsets=(tape,),
        published=member.targets == "published",
        init=lambda: np.zeros((cells, 2), np.float32),
        init_optimizer=lambda _: (),
        init_trace=_no_trace,
        step=step,
        update=update,
    )


def _no_trace() -> Any:
    """Return what is carried from update to update beside the state: nothing, (0,)."""
    return np.zeros((0,), np.float32)


def _ages(keep: float, count: int) -> Any:
    """Return what each of `count` labels of an update weighs, the newest last, (count,)."""
    if keep == 1.0 or count == 1:
        return np.ones((count,), np.float32)
    return keep ** jnp.arange(count - 1, -1, -1, dtype=jnp.float32)


def logistic(member: LogisticMember, features: int, count: int, caps: Caps) -> Forecaster:
    """Return the regression; an update brings `count` labels, and is refused above the caps.

    Its state is a register (size, F) laid flat, of all F features or of the target alone. Raises
    ConfigurationError for more features than there is room for.
    """
    wide = features if member.all_features else 1
    lags = _lags(member, wide)
    size = max(lags, member.signs)
    filtered = dekf(p0=member.p0, q=member.q)

    def inputs(register: Array) -> Array:
        lead = register.shape[:-2]
        values = register[..., :lags, :].reshape(*lead, -1)
        signs = jnp.sign(register[..., : member.signs, 0])
        return jnp.concatenate([values, signs, jnp.ones((*lead, 1), register.dtype)], axis=-1)

    def step(weights: Array, state: Array, x: Array) -> tuple[Array, Array]:
        state = jnp.concatenate([x[:wide], state])[: len(state)]
        seen = inputs(state.reshape(size, wide))
        return state, jax.nn.sigmoid(seen @ weights)[None]

    def update(
        weights: Array,
        optimizer: Any,
        trace: Array,
        xs: Array,
        starts: Array,
        targets: Array,
        share: Array,
    ) -> tuple[Array, Any, Array, Array]:
        del starts
        seen = inputs(_wide_registers(xs[:, :wide], size, count))
        labels, share = targets[-count:], share[-count:]
        logits = seen @ weights
        innovation, noise = logistic_innovation(logits, labels, share)
        change, new = filtered.update(seen, optimizer, weights, innovation=innovation, noise=noise)
        loss = mean_log_loss(logits, labels, share)
        gradient = jnp.linalg.norm((jax.nn.sigmoid(logits) - labels) @ seen) / count
        moved = weights + change
        became = caps.judge(all_finite(loss, new), norm(change), norm(moved), len(weights))
        accepted = became == ACCEPTED
        info = jnp.stack([loss, gradient, became])
        return choose(accepted, moved, weights), choose(accepted, new, optimizer), trace, info

    tape = _tape(size, count)
    return Forecaster(
        names=(member.name,),
        state=size * wide,
        tape=tape,
        offsets=(tape,),
        published=member.targets == "published",
        init=lambda: np.zeros((lags * wide + member.signs + 1,), np.float32),
        init_optimizer=filtered.init,
        init_trace=_no_trace,
        step=step,
        update=update,
    )


def _lags(member: LogisticMember, features: int) -> int:
    """Return how many lags of that many features there is room for, at most those asked for."""
    if features == 1:
        return member.lags
    if features > MAX_WIDE:
        raise ConfigurationError(f"all_features looks at {MAX_WIDE} features at most")
    return min(member.lags, MAX_WIDE // features)


def regime(member: RegimeMember) -> Forecaster:
    """Return the filter of two regimes; an update brings the label of a prediction.

    Its parameters (3,) are r, the labels that went the way of their regime, and all labels.
    """
    flips, size = 1.0 / member.lasts, int(member.relative)

    def against(register: Array) -> Array:
        return (register[0] <= 0) if member.relative else jnp.zeros((), bool)

    def lean(params: Array) -> Array:
        return jnp.clip(params[1] / params[2], 0.5, 0.999)

    def forecast(params: Array) -> Array:
        e = lean(params)
        return params[0] * e + (1.0 - params[0]) * (1.0 - e)

    def step(params: Array, state: Array, x: Array) -> tuple[Array, Array]:
        state = _shift(state, x[0])
        p = forecast(params)
        return state, jnp.where(against(state), 1.0 - p, p)[None]

    def update(
        params: Array,
        optimizer: Any,
        trace: Array,
        xs: Array,
        starts: Array,
        targets: Array,
        share: Array,
    ) -> tuple[Array, Any, Array, Array]:
        del starts, share
        label = (targets[-1] > 0) != against(_registers(xs, size, 1)[0])
        e, r = lean(params), params[0]
        given = jnp.where(label, r * e, r * (1.0 - e))
        other = jnp.where(label, (1.0 - r) * (1.0 - e), (1.0 - r) * e)
        r = given / (given + other)
        agreed = params[1] + jnp.where(label, r, 1.0 - r)
        after = r * (1.0 - flips) + (1.0 - r) * flips
        new = jnp.stack([after, agreed, params[2] + 1.0])
        accepted = all_finite(new, xs, targets)
        info = jnp.stack([-jnp.log(given + other), jnp.zeros(()), accepted.astype(jnp.float32)])
        return choose(accepted, new, params), optimizer, trace, info

    return Forecaster(
        names=(member.name,),
        state=size,
        tape=1,
        offsets=(1,),
        published=True,
        init=lambda: np.array([0.5, LEAN * LEAN_PRIOR, LEAN_PRIOR], np.float32),
        init_optimizer=lambda _: (),
        init_trace=_no_trace,
        step=step,
        update=update,
    )


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
    """Return the members side by side.

    Raises ConfigurationError naming the member that cannot be, and for a mode that a bank cannot
    be used with.
    """
    check_members(members)
    if config.model.mode == "window":
        raise ConfigurationError("a bank carries its states: use it with mode=carry", key="bank")
    made = [_member(config, features, member) for member in members]
    return side_by_side(made, slack(config))


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
    # No more than the warm-up: before a stream's first element there are no labels to count.
    return min(config.stream.stride, config.stream.window)


def member_config(config: Config, member: NetworkMember) -> Config:
    """Return `config` with what a member sets for itself.

    Raises ValueError where the settings do not go together.
    """
    model = {k: v for k in MODEL_KEYS if (v := getattr(member, k)) is not None}
    learning = {k: v for k in LEARNING_KEYS if (v := getattr(member, k)) is not None}
    replace = msgspec.structs.replace
    return replace(
        config,
        model=replace(config.model, **model),
        learning=replace(config.learning, **learning),
    )
