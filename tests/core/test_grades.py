"""Ranking, agreement and calibration, against plain definitions and scikit-learn."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_lstm.core.grades import kappa
from stream_lstm.core.ranking import KEYS, Ranking, keys_of
from stream_lstm.core.reliability import BINS
from stream_lstm.core.scoring import Scoreboard

Rows = list[tuple[float, int, int]]

rows = st.lists(
    st.tuples(
        st.floats(0, 1, width=32)
        | st.floats(0.4375, 0.5625, width=32)
        | st.sampled_from([0.0, 1.0]),
        st.integers(0, 1),
        st.integers(-1, 1),
    ),
    min_size=1,
    max_size=60,
)


def scored(rows: Rows, window: int = 0) -> Scoreboard:
    board = Scoreboard.empty(window)
    for p, label, last in rows:
        board.add(label, last, p, board.base_rate_p(), board.last_label_p(last))
    return board


def exact_auc(ps: list[float], labels: list[int]) -> Fraction | None:
    """The share of pairs in order, ties counting half: over every pair, without rounding."""
    positive = [p for p, label in zip(ps, labels, strict=True) if label]
    negative = [p for p, label in zip(ps, labels, strict=True) if not label]
    if not positive or not negative:
        return None
    twice = sum(2 * (a > b) + (a == b) for a in positive for b in negative)
    return Fraction(twice, 2 * len(positive) * len(negative))


def columns(rows: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ps, labels, lasts = (np.array(column) for column in zip(*rows, strict=True))
    return ps, labels, lasts


@given(rows)
def test_the_area_is_off_by_no_more_than_half_of_what_is_tied(rows: Rows) -> None:
    ps, labels, _ = columns(rows)
    board = scored(rows, window=len(rows))
    found, exact = board.figures(), exact_auc(ps.tolist(), labels.tolist())
    if exact is None:
        assert found["auc"] is found["rolling"]["auc"] is None
        return
    assert abs(found["auc"] - exact) <= board.grades()[0].ranking.tied() / 2 + 1e-15
    assert found["rolling"]["auc"] == pytest.approx(float(exact), abs=1e-15)


@pytest.mark.parametrize(
    ("center", "spread"), [(0.0, 0.005), (0.0, 1.0), (-1.4, 0.05), (3.0, 1.0)]
)
def test_the_area_is_exact_to_a_few_digits_where_forecasts_crowd(center, spread) -> None:
    rng, ranking = np.random.default_rng(1), Ranking()
    logits = center + spread * rng.normal(size=3000)
    ps = (1 / (1 + np.exp(-logits))).astype(np.float32).astype(float)
    labels = (rng.normal(size=3000) < (logits - center) / spread / 2).astype(int)
    ranking.extend(keys_of(ps, labels == 1))
    exact = exact_auc(ps.tolist(), labels.tolist())
    assert exact is not None
    assert ranking.auc() == pytest.approx(float(exact), abs=2e-4)
    assert exact > 0.6


@given(st.floats(0, 1), st.floats(0, 1))
def test_bins_are_in_the_order_of_probabilities_and_few(p: float, q: float) -> None:
    (low, high), (positive, _) = (keys_of(np.array([p, q]), np.full(2, y)) for y in (False, True))
    assert p > q or low <= high
    assert low % 2 == 0
    assert positive == low + 1 < KEYS


@given(rows)
def test_kappas_are_those_of_their_definitions(rows: Rows) -> None:
    ps, labels, lasts = columns(rows)
    calls, found = ps > 0.5, scored(rows).figures()
    right = np.mean(calls == labels)
    blind = calls.mean() * labels.mean() + (1 - calls.mean()) * (1 - labels.mean())
    repeated = np.mean(np.maximum(lasts, 0) == labels)
    for name, without in (("kappa", blind), ("kappa_temporal", repeated)):
        if math.isclose(without, 1.0):
            assert found[name] is None
        else:
            assert found[name] == pytest.approx((right - without) / (1 - without), abs=1e-9)
    if repeated < 1:
        assert found["last_label_kappa_temporal"] == 0.0


def test_kappa_has_no_value_where_nothing_was_left_to_gain() -> None:
    assert kappa(3, 3.0, 3) is None
    assert kappa(0, 0.0, 0) is None
    assert kappa(3, 1.5, 3) == 1.0


@given(rows)
def test_the_calibration_error_is_that_of_its_definition(rows: Rows) -> None:
    ps, labels, _ = columns(rows)
    k = np.minimum(np.floor(ps * BINS), BINS - 1)
    error, figures = 0.0, scored(rows, window=len(rows)).figures()
    for at, row in enumerate(figures["reliability"]):
        inside = k == at
        assert row["labels"] == inside.sum()
        assert (row["low"], row["high"]) == (at / BINS, (at + 1) / BINS)
        if not inside.any():
            assert row["mean_p"] is row["positive"] is None
            continue
        assert row["mean_p"] == pytest.approx(ps[inside].mean(), abs=1e-12)
        assert row["positive"] == labels[inside].mean()
        error += abs(ps[inside].mean() - labels[inside].mean()) * inside.mean()
    assert figures["ece"] == pytest.approx(error, abs=1e-12)
    assert figures["rolling"]["ece"] == pytest.approx(error, abs=1e-12)


def test_calibrated_forecasts_have_little_error_and_others_what_they_are_off_by() -> None:
    rng, honest, bold = np.random.default_rng(2), Scoreboard(), Scoreboard()
    for p in rng.uniform(0.3, 0.7, 20_000).tolist():
        label = int(rng.random() < p)
        honest.add(label, -1, p, 0.5, 0.5)
        bold.add(label, -1, min(p + 0.1, 1.0), 0.5, 0.5)
    assert honest.figures()["ece"] < 0.02
    assert bold.figures()["ece"] == pytest.approx(0.1, abs=0.02)


@given(rows.filter(lambda rows: len({label for _, label, _ in rows}) == 2))
def test_scores_are_those_of_scikit_learn(rows: Rows) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    ps, labels, _ = columns(rows)
    board = scored(rows, window=len(rows))
    held = np.clip(ps, 2.0**-24, 1 - 2.0**-24)
    wanted = {
        "accuracy": metrics.accuracy_score(labels, ps > 0.5),
        "log_loss": metrics.log_loss(labels, held),
        "brier": metrics.brier_score_loss(labels, ps),
        "kappa": metrics.cohen_kappa_score(labels, ps > 0.5),
    }
    for found in (board.figures(), board.figures()["rolling"]):
        for name, value in wanted.items():
            assert found[name] == pytest.approx(value, abs=1e-6), name
    area = metrics.roc_auc_score(labels, ps)
    assert board.figures()["rolling"]["auc"] == pytest.approx(area, abs=1e-12)
    assert board.figures()["auc"] == pytest.approx(
        area, abs=board.grades()[0].ranking.tied() / 2 + 1e-12
    )
