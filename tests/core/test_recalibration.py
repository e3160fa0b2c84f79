"""Recalibration, against the filter in matrices, and what it is for."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_lstm.core.forecasts import DRIFT, LEAST, P0, Recalibration
from stream_lstm.events import Label, Prediction, Score

from ..engines import settings as configuration
from .driving import drive, ticks_of


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
