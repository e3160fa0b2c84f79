"""What is counted once for all streams, against plain definitions and scikit-learn."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_lstm.core.counts import (
    BATCH,
    BINS,
    FRESH,
    KEYS,
    ROWS,
    Counts,
    Ranking,
    auc,
    kappa,
    keys_of,
)
from stream_lstm.core.scores import Scores

from .scored import Rows, many, scored

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
    board = scored(rows, Scores(len(rows))).total()
    found, exact = board.figures(), exact_auc(ps.tolist(), labels.tolist())
    if exact is None:
        assert found["auc"] is found["rolling"]["auc"] is None
        return
    assert abs(found["auc"] - exact) <= board.counts.rankings[0].tied() / 2 + 1e-15
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
    calls, found = ps > 0.5, scored(rows).total().figures()
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
    error, figures = 0.0, scored(rows, Scores(len(rows))).total().figures()
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
    rng, honest, bold = np.random.default_rng(2), Scores(), Scores()
    for p in rng.uniform(0.3, 0.7, 20_000).tolist():
        label = int(rng.random() < p)
        honest.add(0, label, -1, p, 0.5, 0.5)
        bold.add(0, label, -1, min(p + 0.1, 1.0), 0.5, 0.5)
    assert honest.total().figures()["ece"] < 0.02
    assert bold.total().figures()["ece"] == pytest.approx(0.1, abs=0.02)


@pytest.mark.slow
@given(rows.filter(lambda rows: len({label for _, label, _ in rows}) == 2))
def test_scores_are_those_of_scikit_learn(rows: Rows) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    ps, labels, _ = columns(rows)
    board = scored(rows, Scores(len(rows))).total()
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
        area, abs=board.counts.rankings[0].tied() / 2 + 1e-12
    )


# ---- the last labels --------------------------------------------------------------------

Row = tuple[int, int, float, float, float, float | None]

p = st.floats(0, 1, width=32)
row = st.tuples(st.integers(0, 1), st.integers(-1, 1), p, p, p, p | st.none())
raw_rows = st.lists(row, max_size=40)


def taken(rows: list[Row], window: int = 0, streams: int = 1) -> Scores:
    """Scores of labels that go to the streams in turn."""
    found = Scores(window, ("raw",), streams)
    for k, (*plain, raw) in enumerate(rows):
        found.add(k % streams, *plain, (raw,))
    return found


@given(raw_rows, st.integers(1, 12), st.integers(1, 3))
def test_the_last_labels_are_scored_as_if_there_had_been_no_others(
    rows, window: int, streams: int
) -> None:
    rolling = taken(rows, window, streams).total().figures()["rolling"]
    if not rows:
        assert rolling is None
        return
    alone = taken(rows[-window:]).total()
    wanted, prefixes = alone.figures(), ("", "base_rate_", "last_label_")
    assert (rolling["labels"], rolling["window"]) == (len(rows[-window:]), window)
    for name in ("accuracy_band", "evidence", "reliability", "rolling"):
        del wanted[name]
    assert set(rolling) == {"labels", "window", *wanted}
    tied = [ranking.tied() for ranking in alone.counts.rankings]
    areas = dict(zip((prefix + "auc" for prefix in prefixes), tied, strict=True))
    for name, value in wanted.items():
        close = areas.get(name, 0.0) / 2 + 1e-9
        assert rolling[name] == (None if value is None else pytest.approx(value, abs=close)), name


def test_the_ring_grows_with_the_labels_and_no_further() -> None:
    counts, sizes = Counts.empty(3, 0), []
    for k in range(8):
        counts.waiting += ROWS[0].pack(1, -1, k / 8, 0.5, 0.5)
        counts.settle()
        sizes.append(len(counts.last))
    assert sizes == [26, 52, *[78] * 6]
    assert counts.rolling(())["brier"] == pytest.approx(
        sum((1 - k / 8) ** 2 for k in (5, 6, 7)) / 3
    )


def test_no_window_keeps_nothing() -> None:
    found = taken([(1, 0, 0.5, 0.5, 0.5, None)] * 9).total()
    assert found.figures()["rolling"] is None
    assert found.counts.last == b""


def test_the_area_of_the_last_labels_counts_ties_half() -> None:
    label = np.array([True, False, True, False])
    assert auc(np.array([0.3, 0.3, 0.9, 0.1]), label) == 7 / 8
    assert auc(np.full(4, 0.5), label) == 0.5
    assert auc(np.full(2, 0.5), label[[0, 2]]) is None


# ---- many labels ------------------------------------------------------------------------


@pytest.mark.parametrize("count", [BATCH - 1, BATCH, BATCH + 1, FRESH + 3 * BATCH // 2])
def test_bins_of_many_labels_have_the_bits_of_a_plain_loop(count: int) -> None:
    labels, positives, given = [0] * BINS, [0] * BINS, [0.0] * BINS
    rows = many(count)
    counts = scored(rows).state(1).counts
    for p, label, _ in rows:
        k = int(p * BINS)
        labels[k] += 1
        positives[k] += label
        given[k] += p
    assert counts.bins[0].tolist() == [labels, positives, given]
    assert counts.bins[:, 0].sum(axis=1).tolist() == [count] * 3
    exact = exact_auc([p for p, *_ in rows], [label for _, label, _ in rows])
    found = counts.rankings[0]
    assert abs(found.auc() - exact) <= found.tied() / 2 + 1e-15
    assert found.auc() == pytest.approx(5 / 6, abs=0.1)


def test_a_ranking_is_the_same_however_its_labels_come() -> None:
    rng = np.random.default_rng(8)
    keys = rng.integers(0, KEYS, 3 * FRESH + 100).astype(np.uint16)
    whole, parts = Ranking(), Ranking()
    whole.extend(keys)
    for part in np.split(keys, [1, 700, FRESH, 2 * FRESH + 9]):
        parts.extend(part)
    assert whole == parts
    assert np.frombuffer(whole.counts, np.int64).sum() == 3 * FRESH


def test_counts_stay_small() -> None:
    counts = scored(many(FRESH + 7), Scores()).state(0).counts
    assert sum(len(r.keys) + len(r.counts) + len(r.fresh) for r in counts.rankings) < 3 * 12_000
