"""Stateful training over lanes: one update for each segment of K elements of all lanes.

```
lane 0   |K|K|K|...|K|      A series is cut into lanes of equal length, which are stepped side
lane 1   |K|K|K|...|K|      by side. The state runs on from segment to segment; at the end of an
lane 2   |K|K|K|...|K|      epoch lane k hands its state to lane k + 1, whose first element
                            comes right after lane k's last. Lane 0 starts from zero.
```

What a lane carries was computed by weights that have moved since, as it is in online learning;
it is never reset. Lanes of several series stand beside each other, and where they are of unequal
length the shorter ones rest, segment by segment, with their state untouched.

Beside the weights runs their exponential average, which is what is validated and kept: single
updates see few labels of little information, and the average does without their noise.

In each segment a share of the recurrent weights is left out at random, the same for all lanes:
thousands of weights learn a little of the noise of a million labels, and this costs them more than
it does what they know.

The data stay where the computation is, and `run` takes any stretch of segments: its loop's number
of turns is data, so however an epoch is cut into calls, the bits are the same.

Sources: Mikolov et al., "Recurrent neural network based language model", 2010, for state carried
over batches; Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992;
Merity, Keskar and Socher, "Regularizing and optimizing LSTM language models", 2018, for weights
left out.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax import lax

from ..schema import LearningConfig, TrainConfig
from .gradients import carried_logits, mean_log_loss
from .network import Array, Shape, Weights
from .optimizers import all_finite, build_optimizer, choose


class Lanes(NamedTuple):
    """What is trained on: M segments of K elements in B lanes."""

    xs: Array  # float32 (M, K, B, F), scaled inputs
    labels: Array  # int8 (M, K, B): 0 or 1, and -1 where there is no target
    lengths: Array  # int32 (B,), segments of each lane; it rests after them
    before: Array  # int32 (B,), the lane whose end is this one's start, -1 where there is none


class TrainState(NamedTuple):
    """What is carried from segment to segment: all that the rest of a training depends on."""

    weights: Weights
    average: Weights
    averaged: Array  # float32 (), updates in the average, up to where it fades
    optimizer: Any
    state: Array  # float32 (B, 2 L H), the network state of each lane
    sums: Array  # float32 (4,), of this epoch: loss (nats) and targets, updates, refusals


class InitFn(Protocol):
    """Return the state before the first epoch."""

    def __call__(self, weights: Weights, lanes: int) -> TrainState:
        """Return the state of B `lanes` that start from zero, with `weights`."""
        ...


class RunFn(Protocol):
    """Train on a stretch of an epoch."""

    def __call__(
        self, train: TrainState, lanes: Lanes, epoch: Array, start: Array, stop: Array
    ) -> TrainState:
        """Return the state after segments [start, stop) of `epoch`, all int32 () from 0."""
        ...


class Trainer(NamedTuple):
    """The pair."""

    init: InitFn
    run: RunFn


def lane_trainer(
    shape: Shape,
    learning: LearningConfig,
    train_config: TrainConfig,
    segments: int,
    *,
    key: Array,
) -> Trainer:
    """Return the trainer for epochs of M `segments`; `key` draws the weights left out.

    Raises ConfigurationError for an optimiser that does not exist.
    """
    optimizer = build_optimizer(learning, train_config.train_optimizer, train_config.train_rate)
    memory = max(train_config.average * segments, 1.0)

    def init(weights: Weights, lanes: int) -> TrainState:
        zero = jnp.zeros((), jnp.float32)
        state, sums = jnp.zeros((lanes, shape.state)), jnp.zeros((4,))
        return TrainState(weights, weights, zero, optimizer.init(weights), state, sums)

    def loss(
        weights: Weights, xs: Array, state: Array, labels: Array, drawn: Array
    ) -> tuple[Array, tuple[Array, Array]]:
        share = (labels >= 0).astype(jnp.float32)
        logits, after = carried_logits(shape, kept(weights, drawn), xs, state)
        return mean_log_loss(logits, labels.astype(jnp.float32), share), (after, jnp.sum(share))

    def kept(weights: Weights, drawn: Array) -> Weights:
        share = train_config.weight_dropout
        return leave_out(shape, weights, share, key=drawn) if share else weights

    def segment(
        train: TrainState, lanes: Lanes, s: Array, scale: Array, drawn: Array
    ) -> TrainState:
        xs, labels = (lax.dynamic_index_in_dim(a, s, keepdims=False) for a in lanes[:2])
        grad = jax.value_and_grad(loss, has_aux=True)
        (value, (after, count)), gradient = grad(train.weights, xs, train.state, labels, drawn)
        changes, state = optimizer.update(gradient, train.optimizer, train.weights)
        weights: Weights = jax.tree.map(lambda w, d: w + scale * d, train.weights, changes)
        averaged = jnp.minimum(train.averaged + 1.0, memory)
        average = jax.tree.map(lambda a, w: a + (w - a) / averaged, train.average, weights)
        # Nothing to learn from is no update: an optimiser with momentum would move all the same.
        learns = count > 0
        good = all_finite(value, optax.tree.norm(gradient), gradient, weights, state)
        taken = learns & good
        moved = (weights, average, averaged, state)
        at_work = (s < lanes.lengths)[:, None] & all_finite(after)
        sums = jnp.stack([value * count, count, taken, learns & ~good]).astype(jnp.float32)
        return TrainState(
            *choose(taken, moved, train[:4]),
            state=jnp.where(at_work, after, train.state),
            sums=train.sums + sums,
        )

    def run(
        train: TrainState, lanes: Lanes, epoch: Array, start: Array, stop: Array
    ) -> TrainState:
        def turn(s: Array, train: TrainState) -> TrainState:
            done = (epoch + s / segments) / train_config.epochs
            drawn = jax.random.fold_in(jax.random.fold_in(key, epoch), s)
            return segment(train, lanes, s, schedule(train_config, done), drawn)

        out: TrainState = lax.fori_loop(start, stop, turn, train)
        return out

    return Trainer(init, run)


def leave_out(shape: Shape, weights: Weights, share: float, *, key: Array) -> Weights:
    """Return `weights` with a random `share` of the recurrent ones 0, the others scaled up."""
    out = dict(weights)
    for layer in range(shape.layers):
        kernel = weights[f"layer_{layer}"]["kernel"]
        rows = slice(len(kernel) - 1 - shape.hidden, len(kernel) - 1)
        left = jax.random.bernoulli(
            jax.random.fold_in(key, layer), 1.0 - share, kernel[rows].shape
        )
        thinned = kernel[rows] * left / (1.0 - share)
        out[f"layer_{layer}"] = {"kernel": kernel.at[rows].set(thinned)}
    return out


def schedule(config: TrainConfig, done: Array) -> Array:
    """Return what the step size is multiplied with when the share `done` () of all is done.

    Source of the half cosine: Loshchilov and Hutter, "SGDR", 2017.
    """
    if config.schedule == "constant":
        return jnp.ones_like(done)
    return 0.5 * (1.0 + jnp.cos(jnp.pi * done))


def next_epoch(train: TrainState, before: Array) -> TrainState:
    """Return the state before the next epoch: each lane starts where the one before it ended.

    `before` (B,) is that of `Lanes`.
    """
    state = jnp.where((before < 0)[:, None], 0.0, train.state[before])
    return train._replace(state=state, sums=jnp.zeros_like(train.sums))


def carried_pass(shape: Shape, weights: Weights, state: Array, xs: Array) -> tuple[Array, Array]:
    """Return (p (T, B), state (B, 2 L H)) after scaled inputs xs (T, B, F), nothing learnt."""
    logits, state = carried_logits(shape, weights, xs, state)
    return jax.nn.sigmoid(logits), state
