"""The mixture, against its bound over any labels whatever and against Bayes' rule."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_lstm.core.losses import DRIFT, EPSILON, LEAST, P0, Mixture, Recalibration
from stream_lstm.events import Label, Prediction, Score

from ..engines import settings as configuration
from .driving import drive, ticks_of

SHARES = [0.0, 1e-4, 0.05, 0.5, 0.999]
ROUNDING = 2.0**-24 / EPSILON
"""A published p near 0 is a float32 value: its loss is off by no more than this."""


def loss(p: float, label: int) -> float:
    return -math.log(min(max(p if label else 1.0 - p, EPSILON), 1.0 - EPSILON))


def excess(
    rows: list[list[float]], labels: list[int] | None, share: float
) -> tuple[float, float, Mixture]:
    """(the mixture's loss above the best member's, the bound of it, the mixture).

    Without labels each one is chosen against the mixture, which is the worst for it.
    """
    mixture, total = Mixture.uniform(len(rows[0]), share), 0.0
    members = np.zeros(len(rows[0]))
    for k, row in enumerate(rows):
        p = mixture.mix(row)
        label = int(p <= 0.5) if labels is None else labels[k]
        total += loss(p, label)
        members += [loss(one, label) for one in row]
        mixture.update(np.float32(row), label)
    bound = math.log(len(members)) + mixture.sharing_cost(len(rows))
    return total - members.min(), bound, mixture


sure = st.sampled_from([0.0, 1.0, 0.5, EPSILON, 1 - EPSILON])
probabilities = sure | st.floats(0, 1, width=32)


@given(data=st.data(), share=st.sampled_from(SHARES), members=st.integers(1, 5))
def test_no_labels_cost_more_than_the_bound(
    data: st.DataObject, share: float, members: int
) -> None:
    row = st.lists(probabilities, min_size=members, max_size=members)
    rows = data.draw(st.lists(row, min_size=1, max_size=40))
    against = data.draw(st.booleans())
    one = st.integers(0, 1)
    labels = None if against else data.draw(st.lists(one, min_size=len(rows), max_size=len(rows)))
    worse, bound, mixture = excess(rows, labels, share)
    # A float32 p is off by half of its last digit, 2^-25 near 1: half of EPSILON.
    assert worse <= bound + len(rows) * 0.6 * ROUNDING + 1e-9
    assert mixture.weights.sum() == pytest.approx(1.0, abs=1e-12)
    assert (mixture.weights >= share / members * 0.999).all()


@pytest.mark.parametrize("share", SHARES)
def test_a_long_run_against_the_mixture_stays_within_the_bound(share: float) -> None:
    rng = np.random.default_rng(0)
    rows = rng.random((5000, 4)).astype(np.float32)
    rows[:, 1] = 1 - rows[:, 0]
    rows[1000:3000, 2] = 1.0
    rows[3000:, 3] = 0.0
    worse, bound, _ = excess(rows.tolist(), None, share)
    assert worse <= bound + 0.01


def test_the_bound_is_reached_within_a_little() -> None:
    """One member is right by a hair's breadth of certainty, the others know nothing of it."""
    rows = [[1.0] + [0.0] * 7] * 2
    worse, bound, _ = excess(rows, [1, 1], 0.0)
    assert worse == pytest.approx(bound, rel=1e-5)
    assert bound == pytest.approx(math.log(8))


@pytest.mark.parametrize("share", [0.0, 1e-4])
def test_weights_stay_a_distribution_over_a_hundred_thousand_labels(share: float) -> None:
    rng = np.random.default_rng(2)
    mixture = Mixture.uniform(3, share)
    rows, labels = rng.random((100_000, 3)), rng.integers(0, 2, 100_000)
    rows[:, 2] = 0.0
    lowest = 1.0
    for row, label in zip(rows, labels.tolist(), strict=True):
        mixture.update(row, label)
        lowest = min(lowest, float(mixture.weights.min()))
    assert mixture.weights.sum() == pytest.approx(1.0, abs=1e-12)
    assert np.isfinite(mixture.weights).all()
    assert np.isfinite(mixture.losses).all()
    assert mixture.labels == 100_000
    if share:
        assert lowest > 0.999 * share / 3


@given(data=st.data(), members=st.integers(1, 6))
def test_without_sharing_it_is_the_mixture_of_bayes(data: st.DataObject, members: int) -> None:
    """Weights are prior times likelihood, and p the posterior's mean, in floats of Python."""
    row = st.lists(st.floats(0.01, 0.99), min_size=members, max_size=members)
    rows = data.draw(st.lists(row, min_size=1, max_size=30))
    mixture, likelihood = Mixture.uniform(members, 0.0), [1.0] * members
    for k, ps in enumerate(rows):
        total = math.fsum(likelihood)
        wanted = math.fsum(a * p for a, p in zip(likelihood, ps, strict=True)) / total
        assert mixture.mix(ps) == pytest.approx(wanted, rel=1e-6)
        mixture.update(ps, k % 2)
        likelihood = [a * (p if k % 2 else 1 - p) for a, p in zip(likelihood, ps, strict=True)]
    total = math.fsum(likelihood)
    assert mixture.weights.tolist() == pytest.approx([a / total for a in likelihood], rel=1e-9)
    losses = [
        -math.fsum(math.log(r[k] if n % 2 else 1 - r[k]) for n, r in enumerate(rows))
        for k in range(members)
    ]
    assert mixture.losses.tolist() == pytest.approx(losses, rel=1e-9)


def test_with_sharing_it_follows_a_change() -> None:
    def late_loss(share: float) -> float:
        mixture, total = Mixture.uniform(2, share), 0.0
        for n in range(2000):
            row = [0.9, 0.1]
            label = int(n < 1000)
            total += loss(mixture.mix(row), label) if n >= 1000 else 0.0
            mixture.update(row, label)
        return total

    assert late_loss(0.0) > 1000
    assert late_loss(1e-3) < 150


def test_what_is_mixed_is_a_float32_probability() -> None:
    mixture = Mixture.uniform(3, 0.0)
    for row in ([0.1, 0.2, 0.3], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]):
        p = mixture.mix(row)
        assert 0.0 <= p <= 1.0
        assert float(np.float32(p)) == p


# ---- recalibration, against the filter in matrices, and what it is for ---


@given(
    labels=st.lists(st.tuples(st.floats(0, 1, width=32), st.integers(0, 1)), max_size=60),
    asked=st.floats(2**-10, 1 - 2**-10, width=32),
)
def test_it_is_the_kalman_filter_of_two_weights(
    labels: list[tuple[float, int]], asked: float
) -> None:
    ours, theta, P = Recalibration(), np.array([1.0, 0.0]), P0 * np.eye(2)
    for raw, y in labels:
        ours.update(raw, y)
        q = min(max(raw, 2.0**-24), 1 - 2.0**-24)
        g = np.array([math.log(q / (1 - q)), 1.0])
        p = 1 / (1 + np.exp(-g @ theta))
        v = max(p * (1 - p), LEAST)
        s = 1 / v + g @ P @ g
        theta = theta + P @ g * (y - p) / (v * s)
        P = P - np.outer(P @ g, P @ g) / s + DRIFT * np.eye(2)
    assert [ours.slope, ours.offset] == pytest.approx(theta.tolist(), rel=1e-9, abs=1e-12)
    logit = math.log(asked / (1 - asked))
    wanted = 1 / (1 + math.exp(-(theta[0] * logit + theta[1])))
    assert ours.apply(asked) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("raw", [0.0, 1.0])
def test_certainty_stays_finite(raw: float) -> None:
    ours = Recalibration()
    for y in (0, 1) * 50:
        ours.update(raw, y)
        assert 0.0 <= ours.apply(raw) <= 1.0
    assert math.isfinite(ours.slope)
    assert math.isfinite(ours.offset)


@pytest.mark.parametrize(("slope", "offset"), [(0.4, 0.3), (2.0, -0.5)])
def test_it_finds_the_slope_and_the_offset_that_are_off(slope: float, offset: float) -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=20_000)
    y = rng.random(20_000) < 1 / (1 + np.exp(-z))
    raw = 1 / (1 + np.exp(-(z - offset) / slope))  # so that slope * logit + offset is z
    ours = Recalibration()
    losses = np.zeros((20_000, 2))
    for k, (p, label) in enumerate(zip(raw.tolist(), y.tolist(), strict=True)):
        for j, q in enumerate((p, ours.apply(p))):
            losses[k, j] = -math.log(q if label else 1 - q)
        ours.update(p, int(label))
    assert ours.slope == pytest.approx(slope, rel=0.1)
    assert ours.offset == pytest.approx(offset, abs=0.06)
    before, after = losses[2000:].mean(axis=0)
    assert after < before - 0.01


def test_it_is_published_and_scored_and_no_label_moves_what_came_before() -> None:
    xs = np.random.default_rng(1).normal(size=120)
    config = configuration(labels="external", stride=5, calibrate=True)

    def run(last: int) -> list[object]:
        actions: list[object] = []
        for k, tick in enumerate(ticks_of(xs), 1):
            actions.append(tick)
            if k >= 12 and (k - 12) % 5 == 0:
                actions.append(Label("a", k, last if k == 62 else 1))
        return drive(config, actions).events  # type: ignore[arg-type]

    one, two = run(1), run(0)
    cut = next(k for k, e in enumerate(one) if isinstance(e, Score) and e.n == 62)
    assert one[:cut] == two[:cut]
    assert one[cut + 1 :] != two[cut + 1 :]
    published = {e.n: e.p for e in one if isinstance(e, Prediction)}
    for score in (e for e in one if isinstance(e, Score)):
        assert score.p == published[score.n]
    raised = [s.p - s.raw_p for s in one if isinstance(s, Score) and s.raw_p is not None]
    assert raised[0] == pytest.approx(0, abs=1e-6)
    assert min(raised[5:]) > 0  # every label was 1
