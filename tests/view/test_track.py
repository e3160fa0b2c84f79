"""What is known of a stream for people to look at, held against plain sums over all its labels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stream_lstm.core.evidence import ALPHA, accuracy_band, window_half_width
from stream_lstm.core.losses import log_losses
from stream_lstm.events import Prediction, Score
from stream_lstm.records import Batch
from stream_lstm.view.track import (
    EVIDENCE,
    FORECASTS,
    MAX_EVENTS,
    POINTS,
    RECENT,
    Downsampled,
    Interval,
    Rolling,
    Targets,
    Track,
    Updates,
)

SECOND = 10**9


def predictions(
    count: int, first: int = 100, flagged: tuple[int, ...] = (), second: int = SECOND
) -> Batch[Prediction]:
    n = np.arange(first, first + 10 * count, 10)
    columns = {"n": n, "t_ns": n * second, "p": np.linspace(0.1, 0.9, count)}
    stream = np.full(count, "a", object)
    return Batch(Prediction, columns | {"stream": stream, "after_gap": np.isin(n, flagged)})


def scores(count: int, first: int = 100, seed: int = 1) -> Batch[Score]:
    random = np.random.default_rng(seed)
    n = np.arange(first, first + 10 * count, 10)
    label = (random.random(count) < 0.6).astype(np.int8)
    p = dict(zip(FORECASTS, random.random((3, count)), strict=True))
    evidence = np.cumsum(random.normal(size=(count, 3)), axis=0)
    columns = {"n": n, "t_ns": (n + 1) * SECOND, "label": label, "log_loss": np.zeros(count)}
    stream = np.full(count, "a", object)
    told = dict(zip(EVIDENCE, evidence.T, strict=True))
    return Batch(Score, columns | p | told | {"stream": stream})


def updates(norms: list[float], accepted: list[bool], first: int = 100) -> Updates:
    n = np.arange(first, first + 10 * len(norms), 10)
    reasons = ["not-finite"] * accepted.count(False)
    made = np.array(accepted)
    return Updates(n, n * SECOND, np.full(len(n), 0.7), np.array(norms), made, reasons)


def test_rolling_figures_are_means_over_the_last_labels() -> None:
    track, came = Track("a", window=50), scores(300)
    track.score(came)
    line = track.lines.rows()
    positive = came["label"] == 1
    p = np.stack([came[name] for name in FORECASTS])
    right, losses = (p > 0.5) == positive, log_losses(p, positive)
    for k in (0, 10, 49, 50, 299):
        part = slice(max(k - 49, 0), k + 1)
        assert line[k, 2:5] == pytest.approx(right[:, part].mean(axis=1))
        assert line[k, 5:8] == pytest.approx(losses[:, part].mean(axis=1))
    assert line[:, 0].tolist() == came["n"].tolist()
    assert line[:, 8:11].T.tolist() == [came[name].tolist() for name in EVIDENCE]


def test_blocks_of_any_size_give_the_same_figures() -> None:
    whole, parts = Track("a", 50), Track("a", 50)
    came, made = scores(900), predictions(900, flagged=(200, 210, 5000))
    whole.predict(made)
    whole.score(came)
    for low, high in ((0, 1), (1, 40), (40, 41), (41, 640), (640, 900)):
        parts.predict(made.take(slice(low, high)))
        parts.score(came.take(slice(low, high)))
    assert parts.lines.rows() == pytest.approx(whole.lines.rows())
    assert parts.scores.figures() == whole.scores.figures()
    assert parts.recent() == whole.recent()
    assert parts.intervals == whole.intervals


def test_a_line_stays_bounded_and_spans_the_whole_run() -> None:
    line = Downsampled(1, capacity=100)
    for block in np.array_split(np.arange(12_345.0), 77):
        line.extend(block[:, None])
        assert len(line.rows()) <= 101
    x = line.rows()[:, 0]
    assert x[0] == 0.0
    assert x[-1] == 12_344.0
    assert set(np.diff(x[:-1])) == {128.0}


def test_a_long_run_takes_no_more_than_its_limits() -> None:
    track = Track("a")
    for k in range(20):
        track.predict(predictions(1000, 100 + 10_000 * k, tuple(range(100, 10**6, 200))))
        track.score(scores(1000, 100 + 10_000 * k))
        track.update(updates([1.0, math.nan] * 500, [True, False] * 500, 100 + 10_000 * k))
        track.target(Targets(*(np.arange(10_000) + 10_000 * k,) * 2, np.zeros(10_000)))
    assert track.predictions == track.scores.labels == 20_000
    assert (track.updates, track.refused) == (10_000, 10_000)
    assert len(track.lines.rows()) <= POINTS + 1
    assert len(track.norms.rows()) <= POINTS + 1
    assert len(track.recent()) == RECENT
    assert len(track.intervals) == len(track.refusals) == MAX_EVENTS


def test_a_label_finds_its_prediction_among_the_last_ones() -> None:
    track = Track("a")
    track.predict(predictions(3))
    track.score(scores(2))
    assert [shown.label is None for shown in track.recent()] == [False, False, True]


def test_what_comes_a_second_time_counts_once() -> None:
    track = Track("a")
    for _ in range(2):
        track.predict(predictions(20))
        track.score(scores(20))
    track.score(scores(25))
    assert (track.predictions, track.scores.labels) == (20, 25)


def test_a_spell_after_lost_ticks_lasts_from_the_prediction_before_to_the_last_flagged() -> None:
    track = Track("a")
    track.predict(predictions(10, flagged=(130, 140, 190)))
    spells = list(track.intervals)
    assert spells[0] == Interval("gap", (120, 120 * SECOND), (140, 140 * SECOND))
    assert spells[1] == Interval("gap", (180, 180 * SECOND), None)


def test_a_silence_lasts_until_the_next_prediction() -> None:
    track = Track("a")
    track.fall_silent()
    assert not track.intervals, "before anything was heard there is no place for it"
    track.predict(predictions(1))
    track.fall_silent()
    track.fall_silent()
    assert list(track.intervals) == [Interval("stale", (100, 100 * SECOND), None)]
    track.predict(predictions(1, 110))
    assert list(track.intervals) == [Interval("stale", (100, 100 * SECOND), (110, 110 * SECOND))]


def test_figures_go_by_time_where_there_are_times_that_go_on() -> None:
    timed, untimed = Track("a"), Track("b")
    timed.predict(predictions(5))
    untimed.predict(predictions(5, second=0))
    assert timed.x(140, 140 * SECOND) == 140_000.0
    assert untimed.x(140, 0) == 140.0


def test_latencies_of_another_day_are_not_told() -> None:
    track = Track("a")
    track.arrive(np.array([1e7, -3.0]))
    assert track.latency_quantiles() is None
    track.arrive(np.full(1000, 0.002))
    track.arrive(np.array([0.5]))
    p50, _, p999 = track.latency_quantiles()
    assert p50 == 0.002
    assert 0.002 < p999 <= 0.5


def test_rolling_means_keep_no_trace_of_what_has_left() -> None:
    rolling = Rolling(1, window=3)
    rolling.extend(np.array([[1e15], [1.0], [2.0], [3.0]]))
    assert rolling.extend(np.array([[4.0]])).tolist() == [[3.0]]


def test_a_window_that_is_the_whole_run_has_a_band_near_that_of_all_labels() -> None:
    low, high = accuracy_band(500, 1000)
    assert 1.0 < window_half_width(1000, 1000) / ((high - low) / 2) < 1.5


def test_the_bands_of_all_windows_hold_together() -> None:
    """Of fair coins, far fewer than one run in twenty may have any window outside its band."""
    random, misses = np.random.default_rng(5), 0
    half = np.array([window_half_width(min(t, 50), t) for t in range(1, 1001)])
    for _ in range(400):
        means = Rolling(1, 50).extend(random.integers(0, 2, size=(1000, 1)).astype(float))
        misses += bool((np.abs(means[:, 0] - 0.5) > half).any())
    assert misses / 400 <= ALPHA
