"""Training over lanes against the same written out in float64, and what must hold for any."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stream_lstm.model.gradients import tape_loss
from stream_lstm.model.network import Shape, init_weights, seed_key
from stream_lstm.model.trainer import (
    LaneBatch,
    TrainState,
    carried_pass,
    drop_weights,
    lane_trainer,
    next_epoch,
    schedule,
)
from stream_lstm.schema import LearningConfig, TrainConfig

from . import oracle

SHAPE = Shape(1, 2, 1)
SEGMENTS, LENGTH, LANES = 3, 4, 3
RATE = 0.5
UNCLIPPED = LearningConfig(clip_norm=0.0)
TRAIN = TrainConfig(
    train_optimizer="sgd",
    train_rate=RATE,
    schedule="constant",
    weight_dropout=0.0,
    average=2 / SEGMENTS,
)


def weights(seed: int = 3) -> Any:
    rng = np.random.default_rng(seed)
    drawn = init_weights(SHAPE, key=seed_key(seed))
    return jax.tree.map(lambda w: w + 0.3 * rng.normal(size=w.shape).astype("f4"), drawn)


def lanes(
    lengths: tuple[int, ...] = (3, 3, 2), before: tuple[int, ...] = (-1, 0, -1)
) -> LaneBatch:
    """Two lanes of one series and a shorter one of another, with a few targets left out."""
    rng = np.random.default_rng(1)
    xs = rng.normal(size=(SEGMENTS, LENGTH, LANES, 1)).astype(np.float32)
    labels = rng.choice([0, 1, -1], (SEGMENTS, LENGTH, LANES), p=[0.4, 0.4, 0.2]).astype(np.int8)
    for lane, length in enumerate(lengths):
        labels[length:, :, lane] = -1
    return LaneBatch(*map(jnp.asarray, (xs, labels, np.int32(lengths), np.int32(before))))


@functools.cache
def compiled(learning: LearningConfig = UNCLIPPED, train: TrainConfig = TRAIN) -> tuple[Any, Any]:
    trainer = lane_trainer(SHAPE, learning, train, SEGMENTS, key=seed_key(5))
    return trainer.init, jax.jit(trainer.run)


def epochs(
    data: LaneBatch, count: int, *, cuts: tuple[int, ...] = (), **how: Any
) -> list[TrainState]:
    """The states at the end of each epoch, which goes through calls that end at `cuts`."""
    init, run = compiled(**how)
    train, out = init(weights(), data.xs.shape[2]), []
    for epoch in range(count):
        edges = [0, *cuts, SEGMENTS]
        for start, stop in itertools.pairwise(edges):
            train = run(train, data, *map(np.int32, (epoch, start, stop)))
        out.append(train)
        train = next_epoch(train, data.before)
    return out


def by_hand(data: LaneBatch, count: int) -> tuple[list[Any], list[Any], list[Any], list[float]]:
    """(weights, averages, states of the lanes, summed losses) after each epoch, in float64."""
    xs, labels = np.asarray(data.xs, np.float64), np.asarray(data.labels)
    kernels = oracle.kernels(weights())
    average = dict(kernels)
    state = np.zeros((LANES, SHAPE.state))
    taken, out = 0, ([], [], [], [])
    for _ in range(count):
        total = 0.0
        for s in range(SEGMENTS):
            share = (labels[s] >= 0).astype(np.float64)
            slope = {name: np.zeros_like(k) for name, k in kernels.items()}
            for lane in range(LANES):
                args = xs[s, :, lane], state[lane], labels[s, :, lane], share[:, lane]
                weight = share[:, lane].sum() / share.sum()
                total += oracle.loss(kernels, *args) * share[:, lane].sum()
                for name, part in oracle.gradient(kernels, *args).items():
                    slope[name] += weight * part
            after = [oracle.run(kernels, xs[s, :, b], state[b])[1][-1] for b in range(LANES)]
            state = np.array([after[b] if s < data.lengths[b] else state[b] for b in range(LANES)])
            kernels = {name: k - RATE * slope[name] for name, k in kernels.items()}
            taken = min(taken + 1, 2)
            average = {name: a + (kernels[name] - a) / taken for name, a in average.items()}
        for history, value in zip(out, (kernels, average, state, total), strict=True):
            history.append(value)
        state = np.array([state[b] if b >= 0 else 0 * state[0] for b in np.asarray(data.before)])
    return out


@pytest.mark.slow
def test_two_epochs_are_those_of_float64_with_the_state_passed_from_lane_to_lane() -> None:
    data = lanes()
    ours, (kernels, averages, states, losses) = epochs(data, 2), by_hand(data, 2)
    for epoch, train in enumerate(ours):
        for found, wanted in ((train.weights, kernels), (train.average, averages)):
            for name, kernel in wanted[epoch].items():
                np.testing.assert_allclose(found[name]["kernel"], kernel, rtol=0, atol=2e-6)
        np.testing.assert_allclose(train.state, states[epoch], rtol=0, atol=2e-6)
        count = (np.asarray(data.labels) >= 0).sum()
        assert train.sums.tolist()[1:] == [count, SEGMENTS, 0]
        assert float(train.sums[0]) == pytest.approx(losses[epoch], rel=1e-5)


def test_a_shorter_lane_keeps_its_state() -> None:
    resting, working = (epochs(lanes(lengths), 1)[0].state for lengths in ((3, 3, 2), (3, 3, 3)))
    assert np.array_equal(resting[:2], working[:2])
    assert not np.array_equal(resting[2], working[2])


def test_the_next_epoch_starts_lanes_where_the_one_before_ended() -> None:
    train = epochs(lanes(), 1)[0]
    ready = next_epoch(train, jnp.array([-1, 0, -1]))
    assert np.array_equal(ready.state[1], train.state[0])
    assert not np.asarray(ready.state)[[0, 2]].any()
    assert not np.asarray(ready.sums).any()


@pytest.mark.slow
def test_the_gradient_of_lanes_is_their_mean() -> None:
    rng = np.random.default_rng(0)
    shape = Shape(2, 3, 2)
    kernels = init_weights(shape, key=seed_key(1))
    xs = rng.normal(size=(9, 4, 2)).astype(np.float32)
    state = rng.normal(size=(4, shape.state)).astype(np.float32)
    targets = (rng.random((9, 4)) < 0.5).astype(np.float32)
    gradient = jax.jit(jax.grad(tape_loss, argnums=1), static_argnums=0)
    together = gradient(shape, kernels, xs, state, targets, np.ones((9, 4), np.float32))
    alone = [
        oracle.kernels(
            gradient(shape, kernels, xs[:, b], state[b], targets[:, b], np.ones(9, "f4"))
        )
        for b in range(4)
    ]
    for name, found in oracle.kernels(together).items():
        wanted = sum(part[name] for part in alone) / 4
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.slow
def test_where_an_epoch_is_cut_into_calls_changes_no_bit() -> None:
    how = {"learning": LearningConfig(), "train": TrainConfig(epochs=2)}
    whole, cut = (epochs(lanes(), 2, cuts=cuts, **how)[-1] for cuts in ((), (1, 2)))
    for one, two in zip(jax.tree.leaves(whole), jax.tree.leaves(cut), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(two).tobytes()


@pytest.mark.slow
def test_a_segment_without_targets_is_no_update() -> None:
    data = lanes()
    empty = data._replace(labels=data.labels.at[1].set(-1))
    train = epochs(empty, 1, learning=LearningConfig(optimizer="adam"))[0]
    assert train.sums.tolist()[2:] == [SEGMENTS - 1, 0]


def test_an_update_that_is_not_finite_changes_nothing_and_is_counted() -> None:
    bad = lanes()._replace(xs=jnp.full((SEGMENTS, LENGTH, LANES, 1), jnp.nan))
    train = epochs(bad, 1)[0]
    assert train.sums.tolist()[2:] == [0, SEGMENTS]
    for one, two in zip(jax.tree.leaves(train.weights), jax.tree.leaves(weights()), strict=True):
        assert np.array_equal(one, two)
    assert not np.asarray(train.state).any()


def test_a_share_of_the_recurrent_weights_is_dropped_and_the_rest_scaled_up() -> None:
    shape = Shape(2, 64, 2)
    held = init_weights(shape, key=seed_key(0))
    thinned = drop_weights(shape, held, 0.25, key=seed_key(1))
    for name, rows in (("layer_0", slice(2, -1)), ("layer_1", slice(64, -1))):
        before, after = (np.asarray(tree[name]["kernel"]) for tree in (held, thinned))
        assert np.array_equal(before[: rows.start], after[: rows.start])
        assert np.array_equal(before[-1], after[-1])
        left = after[rows] != 0
        np.testing.assert_allclose(after[rows][left], before[rows][left] / 0.75, rtol=1e-6)
        assert 0.7 < left.mean() < 0.8
    assert thinned["head"] is held["head"]
    again = drop_weights(shape, held, 0.25, key=seed_key(2))
    assert not np.array_equal(again["layer_0"]["kernel"], thinned["layer_0"]["kernel"])


def test_the_cosine_goes_from_one_to_zero() -> None:
    shares = schedule(TrainConfig(schedule="cosine"), jnp.array([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(shares, [1.0, 0.5, 0.0], atol=1e-6)
    assert schedule(TrainConfig(schedule="constant"), jnp.array([0.3])).tolist() == [1.0]


def test_a_carried_pass_is_that_of_float64() -> None:
    xs = np.random.default_rng(4).normal(size=(30, 1)).astype(np.float32)
    p, state = carried_pass(SHAPE, weights(), jnp.zeros(SHAPE.state), xs)
    logits, states = oracle.run(oracle.kernels(weights()), xs, np.zeros(SHAPE.state))
    np.testing.assert_allclose(p, oracle.sigmoid(logits), rtol=0, atol=1e-6)
    np.testing.assert_allclose(state, states[-1], rtol=0, atol=1e-6)
