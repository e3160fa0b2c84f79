"""What holds for every graded stream: seeds, cuts, causality, and a best that is the best."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_lstm.feed.synthetic import SOURCES

NAMES = sorted(SOURCES)
TICKS = 400_000

# accuracy and log loss of the best forecast at the beats
KNOWN = {
    "s0-garch": (0.5, 0.6931),
    "s1-ar": (0.7048, 0.5630),
    "hidden-level": (0.711, 0.555),
    "s2-regime": (0.6413, 0.6519),
    "s3-product": (0.6412, 0.6519),
    "s4-latch": (0.525, 0.6657),
    "s4l-latch": (0.5122, 0.6797),
    "s5-slope": (0.529, 0.6904),
    "s6-echo": (0.6125, 0.5695),
}


@pytest.fixture(scope="module", params=NAMES)
def long_run(request):
    """The name, and label and best forecast of every element that has both."""
    source = SOURCES[request.param](7)
    values = source.block(TICKS)
    return request.param, values[1:, 0] > 0, source.best(values)[:-1]


def test_every_name_is_that_of_its_source():
    assert {name: make(0).name for name, make in SOURCES.items()} == {n: n for n in NAMES}
    assert set(KNOWN) == set(SOURCES)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, 120), max_size=12), seed=st.integers(0, 2**32))
def test_cuts_have_no_meaning(name, cuts, seed):
    whole = SOURCES[name](seed).block(sum(cuts))
    source = SOURCES[name](seed)
    blocks = [source.block(n) for n in cuts]
    assert whole.dtype == np.float64
    assert whole.shape == (sum(cuts), 1)
    assert whole.tobytes() == b"".join(block.tobytes() for block in blocks)


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_has_a_meaning_and_asking_for_the_best_has_none(name):
    source = SOURCES[name](1)
    start = source.block(500)
    source.best(start)
    assert SOURCES[name](1).block(1000).tobytes() == start.tobytes() + source.block(500).tobytes()
    assert SOURCES[name](2).block(500).tobytes() != start.tobytes()


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(at=st.integers(0, 700), later=st.sampled_from([-9.0, -0.1, 0.0, 2.0, 9.0]))
def test_the_best_does_not_look_ahead(name, at, later):
    source = SOURCES[name](3)
    values = source.block(700)
    p = source.best(values)
    assert p.shape == (700,)
    changed = values.copy()
    changed[at:] = later
    assert p[:at].tobytes() == source.best(changed)[:at].tobytes()
    assert p[:at].tobytes() == source.best(values[:at]).tobytes()


def test_the_best_at_the_beats_is_as_good_as_promised(long_run):
    name, label, p = long_run
    # entry k is about tick k + 1: from tick 100 on, as with the default settings
    label, p = label[99::10], p[99::10]
    accuracy, log_loss = KNOWN[name]
    losses = -np.log(np.where(label, p, 1 - p))
    # labels are independent given the past: four standard errors, of about 40,000 labels
    right = 4 * math.sqrt(accuracy * (1 - accuracy) / len(p))
    assert np.mean((p > 0.5) == label) == pytest.approx(accuracy, abs=right + 0.001)
    assert losses.mean() == pytest.approx(log_loss, abs=4 * losses.std() / 200 + 0.001)
    # and what it expects of itself varies far less than that
    entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p))
    assert np.maximum(p, 1 - p).mean() == pytest.approx(accuracy, abs=0.002)
    assert entropy.mean() == pytest.approx(log_loss, abs=0.002)


def test_the_best_is_calibrated_at_every_tick(long_run):
    _, label, p = long_run
    bins = np.round(p, 1)
    for value in np.unique(bins):
        inside = bins == value
        error = label[inside].mean() - p[inside].mean()
        variance = np.mean(p[inside] * (1 - p[inside])) / inside.sum()
        assert abs(error) < 4.5 * math.sqrt(variance)


@pytest.mark.parametrize("name", NAMES)
def test_values_are_finite_centred_and_never_zero(name):
    values = SOURCES[name](0).block(50_000)
    assert np.isfinite(values).all()
    assert (values != 0).all()
    assert abs(values.mean()) < 0.1
