"""Stateful training over a batch of lanes: one update for each segment of K elements.

```
lane 0   |K|K|K|...|K|      A series is cut into lanes of equal length, which are stepped
lane 1   |K|K|K|...|K|      together. The state continues from segment to segment. At the end of
lane 2   |K|K|K|...|K|      an epoch lane k passes its state to lane k + 1, whose first element
                            follows lane k's last. Lane 0 starts from zero.
```

The state of a lane was computed by weights that have moved since, as in online learning; it is
never reset. Lanes of several series form one batch. A lane that is shorter than others skips its
last segments and keeps its state.

Validation and the result use an exponential average of the weights: a single update has few labels
with little information each, and the average has less noise.

In each segment a random share of the recurrent weights is left out, the same for all lanes.
Thousands of weights otherwise learn some of the noise of a million labels; this removes more of
the noise than of the signal.

The data stay on the device, and `run` takes any range of segments. Its number of turns is data, so
the bits do not depend on how an epoch is cut into calls.

Sources: Mikolov et al., "Recurrent neural network based language model", 2010, for state carried
over batches; Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992;
Merity, Keskar and Socher, "Regularizing and optimizing LSTM language models", 2018, for weights
left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from ..schema import LearningConfig, TrainConfig
from .gradients import carried_logits, mean_log_loss
from .network import Array, Shape, Weights
from .optimizers import all_finite, build_optimizer, choose


class LaneBatch(NamedTuple):
    """Training data: M segments of K elements in B lanes."""

    xs: Array  # float32 (M, K, B, F), scaled inputs
    labels: Array  # int8 (M, K, B): 0 or 1, and -1 for no target
    lengths: Array  # int32 (B,), segments of each lane
    before: Array  # int32 (B,), the lane whose end is this one's start, or -1


class TrainState(NamedTuple):
    """The carry of a training from segment to segment."""

    weights: Weights
    average: Weights
    averaged: Array  # float32 (), updates in the average, up to its memory
    optimizer: Any
    state: Array  # float32 (B, 2 L H), the network state of each lane
    sums: Array  # float32 (4,), of this epoch: loss (nats), targets, updates, rejected updates


class Trainer(NamedTuple):
    """The pair.

    `init(weights, lanes)` returns the state of B lanes that start from zero. `run(train, batch,
    epoch, start, stop)` returns the state after segments [start, stop) of `epoch`, all int32 ()
    from 0.
    """

    init: Callable[[Weights, int], TrainState]
    run: Callable[[TrainState, LaneBatch, Array, Array, Array], TrainState]


def lane_trainer(
    shape: Shape,
    learning: LearningConfig,
    train_config: TrainConfig,
    segments: int,
    *,
    key: Array,
) -> Trainer:
    """Return the trainer for epochs of M `segments`; `key` draws the weights to leave out.

    Raises ConfigurationError for an unknown optimiser.
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
        if train_config.weight_dropout:
            weights = drop_weights(shape, weights, train_config.weight_dropout, key=drawn)
        label_weights = (labels >= 0).astype(jnp.float32)
        logits, after = carried_logits(shape, weights, xs, state)
        value = mean_log_loss(logits, labels.astype(jnp.float32), label_weights)
        return value, (after, jnp.sum(label_weights))

    def segment(
        train: TrainState, batch: LaneBatch, s: Array, scale: Array, drawn: Array
    ) -> TrainState:
        xs, labels = (lax.dynamic_index_in_dim(a, s, keepdims=False) for a in batch[:2])
        grad = jax.value_and_grad(loss, has_aux=True)
        (value, (after, count)), gradient = grad(train.weights, xs, train.state, labels, drawn)
        changes, state = optimizer.update(gradient, train.optimizer, train.weights)
        weights: Weights = jax.tree.map(lambda w, d: w + scale * d, train.weights, changes)
        averaged = jnp.minimum(train.averaged + 1.0, memory)
        average = jax.tree.map(lambda a, w: a + (w - a) / averaged, train.average, weights)
        # Without targets, an optimiser with momentum would still move the weights.
        learns = count > 0
        good = all_finite(value, optax.tree.norm(gradient), gradient, weights, state)
        taken = learns & good
        moved = (weights, average, averaged, state)
        active = (s < batch.lengths)[:, None] & all_finite(after)
        sums = jnp.stack([value * count, count, taken, learns & ~good]).astype(jnp.float32)
        return TrainState(
            *choose(taken, moved, train[:4]),
            state=jnp.where(active, after, train.state),
            sums=train.sums + sums,
        )

    def run(
        train: TrainState, batch: LaneBatch, epoch: Array, start: Array, stop: Array
    ) -> TrainState:
        def turn(s: Array, train: TrainState) -> TrainState:
            done = (epoch + s / segments) / train_config.epochs
            drawn = jax.random.fold_in(jax.random.fold_in(key, epoch), s)
            return segment(train, batch, s, schedule(train_config, done), drawn)

        out: TrainState = lax.fori_loop(start, stop, turn, train)
        return out

    return Trainer(init, run)


def drop_weights(shape: Shape, weights: Weights, share: float, *, key: Array) -> Weights:
    """Return `weights` with a random `share` of the recurrent ones zero, the others scaled up."""
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
    """Return the factor of the step size after the share `done` () of the training.

    Source of the half cosine: Loshchilov and Hutter, "SGDR", 2017.
    """
    if config.schedule == "constant":
        return jnp.ones_like(done)
    return 0.5 * (1.0 + jnp.cos(jnp.pi * done))


def next_epoch(train: TrainState, before: Array) -> TrainState:
    """Return the state before the next epoch; `before` (B,) is that of `LaneBatch`."""
    state = jnp.where((before < 0)[:, None], 0.0, train.state[before])
    return train._replace(state=state, sums=jnp.zeros_like(train.sums))


def carried_pass(shape: Shape, weights: Weights, state: Array, xs: Array) -> tuple[Array, Array]:
    """Return (p (T, B), state (B, 2 L H)) after scaled inputs xs (T, B, F), without learning."""
    logits, state = carried_logits(shape, weights, xs, state)
    return jax.nn.sigmoid(logits), state
