"""A whole training: what it validates is what a session publishes, and series keep apart."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_lstm.core.session import Session
from stream_lstm.core.training import (
    MIN_SEGMENTS,
    Training,
    TrainingSeries,
    base_rate,
    cut_lanes,
    figures,
    held_out_labels,
    last_lanes,
    make_series,
    mean_scaler,
    plan,
)
from stream_lstm.errors import DataError, DivergedError, SnapshotError
from stream_lstm.events import Output, Score, Ticks
from stream_lstm.model.network import Shape, init_weights, seed_key

from ..engines import engine_for
from ..engines import settings as configuration

CONFIG = configuration(
    lanes=3, bptt=5, epochs=3, patience=0, validation=0.25, stride=3, train_rate=0.05, horizon=2
)


def values(count: int = 400, seed: int = 0) -> np.ndarray:
    """A series whose next sign is likely the last one."""
    rng = np.random.default_rng(seed)
    level = np.repeat(rng.normal(size=count // 8 + 1), 8)[:count]
    return (level + 0.5 * rng.normal(size=count)).astype(np.float32)[:, None]


def series(count: int = 400, seed: int = 0, config: Any = CONFIG) -> TrainingSeries:
    return make_series(f"s{seed}", values(count, seed), config)


def start(config: Any = CONFIG) -> Any:
    return init_weights(Shape(1, config.model.hidden, config.model.layers), key=seed_key(0))


def trained(many: list[TrainingSeries], config: Any = CONFIG) -> Training:
    training = Training(config, many, start(config))
    go_on(training)
    return training


def go_on(training: Training) -> None:
    while not training.finished:
        training.advance()
        if training.epoch_over:
            training.end_epoch(lambda: 1.0)


@functools.cache
def one() -> Training:
    return trained([series()])


def scores(weights: Any, xs: np.ndarray, config: Any = CONFIG) -> dict[int, Score]:
    """What a session scores over the whole series, by n."""
    events: list[Output] = []
    session = Session(config, ["x"], events.append, weights=weights, engine=engine_for(config))
    session.push(Ticks("a", np.zeros(len(xs), np.int64), xs.astype(np.float64)))
    return {event.n: event for event in events if isinstance(event, Score)}


@pytest.mark.slow
@pytest.mark.parametrize("window", [12, 320])
def test_validation_is_what_a_session_publishes_over_the_whole_series(window: int) -> None:
    config = configuration(
        lanes=3, bptt=5, epochs=1, validation=0.25, stride=3, horizon=2, window=window
    )
    training = trained([series(config=config)], config)
    p = training.validate_from_start(training.best)
    published = scores(training.best, values(), config)
    held_out = {n: s for n, s in published.items() if n > 300}
    due = training.series[0].due(config.stream).tolist()
    assert due == list(held_out)
    np.testing.assert_allclose(p, [s.p for s in held_out.values()], rtol=0, atol=2e-6)
    found = training.final_figures()
    assert found["labels"] == len(held_out)
    losses = [s.log_loss for s in held_out.values()]
    assert found["log_loss"] == pytest.approx(np.mean(losses), abs=1e-6)
    right = [(s.p > 0.5) == s.label for s in held_out.values()]
    assert found["accuracy"] == np.mean(right)


@pytest.mark.slow
def test_an_epochs_validation_goes_on_from_the_carried_state() -> None:
    """It differs from a pass over the whole series only by what older weights left behind."""
    training = one()
    carried, whole = training.validate(), training.validate_from_start(training._train.average)
    assert not np.array_equal(carried, whole)
    np.testing.assert_allclose(carried[5:], whole[5:], rtol=0, atol=0.02)


def test_training_learns_and_keeps_the_best_epoch() -> None:
    training = one()
    history = training.position.history
    losses = [epoch.validation_log_loss for epoch in history]
    assert training.position.best_epoch == int(np.argmin(losses)) + 1
    assert [epoch.best for epoch in history] == [
        loss < min(losses[:k], default=math.inf) for k, loss in enumerate(losses)
    ]
    assert min(losses) < math.log(2) - 0.03
    assert [epoch.updates for epoch in history] == [training.segments] * 3
    assert training.trained_elements == training.segments * training.lanes * 5


def test_what_is_held_out_changes_no_weight() -> None:
    changed = values()
    changed[300:] *= -1
    other = trained([make_series("s", changed, CONFIG)])
    for a, b in zip(
        jax.tree.leaves(one()._train.average), jax.tree.leaves(other._train.average), strict=True
    ):
        assert np.array_equal(a, b)
    assert not np.array_equal(one().validate(), other.validate())


@pytest.mark.slow
def test_another_series_beside_it_changes_neither_elements_nor_states() -> None:
    """The same weights over a first series, beside two different second ones and alone."""
    first, second, third = series(), series(300, seed=1), series(300, seed=2)
    both = [Training(CONFIG, [first, more], start()) for more in (second, third)]
    alone = Training(CONFIG, [first], start())
    p = [training.validate_from_start(start()) for training in (*both, alone)]
    count = len(first.due(CONFIG.stream))
    assert np.array_equal(p[0][:count], p[1][:count])
    assert np.array_equal(p[0][:count], p[2])
    assert not np.array_equal(p[0][count:], p[1][count:])


def test_the_order_of_series_does_not_matter() -> None:
    """But for the order of a sum, which is rounding."""
    many = [series(400, 0), series(300, 1)]
    one_way, other = trained(many), trained(many[::-1])
    for a, b in zip(
        jax.tree.leaves(one_way._train.average),
        jax.tree.leaves(other._train.average),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)


@pytest.mark.parametrize("calls", [1, 5, 8, 13])
def test_a_restored_training_goes_on_to_the_same_bits(calls: int) -> None:
    training = Training(CONFIG, [series()], start())
    for _ in range(calls):
        training.advance()
        if training.epoch_over:
            training.end_epoch(lambda: 1.0)
    fresh = Training(CONFIG, [series()], start())
    fresh.restore(training.position, training.arrays())
    go_on(fresh)
    assert fresh.position.history == one().position.history
    for a, b in zip(
        jax.tree.leaves((fresh.best, fresh._train)),
        jax.tree.leaves((one().best, one()._train)),
        strict=True,
    ):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.slow
def test_arrays_of_another_shape_are_refused() -> None:
    other = configuration(lanes=2, bptt=5, validation=0.25, stride=3, horizon=2, hidden=3)
    training = Training(other, [series()], start(other))
    with pytest.raises(SnapshotError, match="other shapes"):
        Training(CONFIG, [series()], start()).restore(training.position, training.arrays())


@pytest.mark.slow
def test_patience_ends_a_training_that_gets_no_better() -> None:
    config = configuration(
        lanes=2, bptt=5, epochs=50, patience=2, train_rate=1e-30, validation=0.25
    )
    training = trained([series(config=config)], config)
    assert training.position.epoch == training.position.best_epoch + 2 < 50


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        {"train_rate": 3e38, "optimizer": "sgd", "clip_norm": 0.0, "epochs": 9},
        {"train_rate": 1e6, "optimizer": "adam", "epochs": 9},
    ],
)
def test_a_diverging_training_ends_with_a_sentence(how: dict[str, Any]) -> None:
    config = configuration(lanes=2, bptt=5, validation=0.25, stride=3, patience=0, **how)
    with pytest.raises(DivergedError, match=r"diverged: .* lower train_rate"):
        trained([series(config=config)], config)


@pytest.mark.parametrize(("count", "fits"), [(12, False), (40, True)])
def test_a_series_must_have_something_to_train_on_and_to_score(count: int, fits: bool) -> None:
    config = configuration(bptt=5, validation=0.25, stride=3)
    if fits:
        series(count, config=config)
        return
    with pytest.raises(DataError, match="s0 is too short: of its 12 elements"):
        series(count, config=config)


def test_the_base_rate_knows_only_what_was_trained_on() -> None:
    many = [series(400, 0), series(300, 1)]
    truth = held_out_labels(many, CONFIG.stream)
    counts = [len(s.due(CONFIG.stream)) for s in many]
    for s, part in zip(many, np.split(truth.base_rate_p, counts[:1]), strict=True):
        known = s.positive[2 : s.train]
        assert base_rate(s, CONFIG.stream) == (known.sum() + 0.5) / (len(known) + 1)
        assert (part == base_rate(s, CONFIG.stream)).all()
    half = figures(truth, np.full(len(truth.label), 0.5, np.float32))
    assert half["log_loss"] == pytest.approx(math.log(2))
    assert half["brier"] == pytest.approx(0.25)


def test_a_new_stream_starts_from_the_mean_of_the_scalers() -> None:
    states = [np.float32([100, 1, 2]), np.float32([60, 3, 6])]
    many = [series()._replace(scaler=state) for state in states]
    assert mean_scaler(many).tolist() == [60, 2, 4]
    assert mean_scaler(many[:1]).tolist() == [100, 1, 2]


def test_a_session_starts_each_stream_with_the_scaler_it_is_given() -> None:
    config = configuration()
    state = np.float32([500, 0.0, 2.0])
    session = Session(config, ["x"], lambda _: None, scaler=state, engine=engine_for(config))
    for name in ("a", "b"):
        session.place(name)
        assert session.scaler_of(name).tolist() == state.tolist()
        assert not session.streams[name].carry[3:].any()


# ---- lanes: whole segments, in order, each of one series, the last of them at its end ---


def numbered(count: int, held_out: int = 3, seed: int = 0) -> TrainingSeries:
    """A series whose scaled input is its own number, counted from 1."""
    scaled = np.arange(1, count + held_out + 1, dtype=np.float32)[:, None]
    positive = np.random.default_rng(seed).random(len(scaled)) < 0.5
    return TrainingSeries(f"s{seed}", scaled, positive, np.zeros(3, np.float32), count, "")


counts = st.lists(st.integers(3, 3000), min_size=1, max_size=4)


@given(counts, st.integers(1, 20), st.integers(1, 3))
def test_a_plan_fits_and_leaves_less_than_a_segment_of_each_lane(
    trained: list[int], lanes: int, segment: int
) -> None:
    planned = plan(trained, lanes, segment)
    for count, (parts, length) in zip(trained, planned, strict=True):
        left = count - parts * length * segment
        assert parts >= 1
        assert length >= 1
        assert 0 <= left < parts * segment
        assert length >= MIN_SEGMENTS or parts == 1
    assert sum(parts for parts, _ in planned) <= max(lanes, 0) + len(trained)
    if len(trained) == 1:
        assert planned[0][0] <= lanes


def test_a_long_series_gets_the_lanes_that_were_asked_for() -> None:
    assert plan([942_929], 64, 100) == [(64, 147)]
    assert plan([6400, 3200], 3, 100) == [(2, 32), (1, 32)]
    assert plan([170_000, 100], 4, 100)[1] == (1, 1)


@pytest.mark.slow
@settings(max_examples=15)
@given(counts, st.integers(1, 20), st.integers(1, 3), st.integers(1, 2))
def test_lanes_hold_the_end_of_each_series_in_order(
    trained: list[int], lanes: int, segment: int, horizon: int
) -> None:
    many = [numbered(count, seed=k) for k, count in enumerate(trained)]
    cut = cut_lanes(many, lanes=lanes, segment=segment, horizon=horizon)
    xs, labels = np.asarray(cut.xs)[..., 0], np.asarray(cut.labels)
    first = 0
    for one, last in zip(many, last_lanes(cut), strict=True):
        mine = range(first, last + 1)
        assert [int(b) for b in cut.before[first : last + 1]] == [-1, *mine[:-1]]
        length = int(cut.lengths[first])
        joined = np.concatenate([xs[:length, :, lane].ravel() for lane in mine])
        assert joined.tolist() == list(range(one.train - len(joined) + 1, one.train + 1))
        told = np.concatenate([labels[:length, :, lane].ravel() for lane in mine])
        for n, label in zip(joined.astype(int), told, strict=True):
            known = n + horizon <= one.train
            assert label == (int(one.positive[n + horizon - 1]) if known else -1)
        assert (labels[length:, :, first : last + 1] == -1).all()
        first = last + 1
    assert first == xs.shape[2]
