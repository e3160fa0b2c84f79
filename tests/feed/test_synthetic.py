"""Every synthetic series and its exact filter, against direct computations and long counts."""

import itertools
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_lstm.events import Ticks
from stream_lstm.feed.child import demo_feed
from stream_lstm.feed.synthetic import (
    PERIOD,
    SOURCES,
    Echo,
    HiddenLevel,
    Latch,
    LongLatch,
    RegimeProduct,
    RegimeSign,
    RegimeSlope,
    normal_cdf,
)

from .received import WAIT_S, ended, gather, of, subscriber

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
NAMES = pytest.mark.parametrize("name", sorted(SOURCES))

# ---- every series -----------------------------------------------------------------------------


@pytest.fixture(scope="module", params=sorted(SOURCES))
def long_run(request):
    """The name, and label and best forecast of every element that has both."""
    source = SOURCES[request.param](7)
    values = source.block(TICKS)
    return request.param, values[1:, 0] > 0, source.best(values)[:-1]


def test_every_source_has_its_name_and_a_known_best():
    assert all(make(0).name == name for name, make in SOURCES.items())
    assert set(KNOWN) == set(SOURCES)


@NAMES
@settings(max_examples=10, deadline=None)
@given(cuts=st.lists(st.integers(0, 120), max_size=12), seed=st.integers(0, 2**32))
def test_values_do_not_depend_on_the_cuts(name, cuts, seed):
    whole = SOURCES[name](seed).block(sum(cuts))
    source = SOURCES[name](seed)
    blocks = [source.block(n) for n in cuts]
    assert whole.dtype == np.float64
    assert whole.shape == (sum(cuts), 1)
    assert whole.tobytes() == b"".join(block.tobytes() for block in blocks)


@NAMES
def test_values_depend_on_the_seed_and_not_on_asking_for_the_best(name):
    source = SOURCES[name](1)
    start = source.block(500)
    source.best(start)
    assert SOURCES[name](1).block(1000).tobytes() == start.tobytes() + source.block(500).tobytes()
    assert SOURCES[name](2).block(500).tobytes() != start.tobytes()


@NAMES
@settings(max_examples=15, deadline=None)
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


def test_the_best_at_the_beats_is_as_good_as_documented(long_run):
    name, label, p = long_run
    # entry k is about tick k + 1: from tick 100 on, as with the default settings
    label, p = label[99::10], p[99::10]
    accuracy, log_loss = KNOWN[name]
    losses = -np.log(np.where(label, p, 1 - p))
    # labels are independent given the past: four standard errors, of about 40,000 labels
    right = 4 * math.sqrt(accuracy * (1 - accuracy) / len(p))
    assert np.mean((p > 0.5) == label) == pytest.approx(accuracy, abs=right + 0.001)
    assert losses.mean() == pytest.approx(log_loss, abs=4 * losses.std() / 200 + 0.001)
    # its own expectation varies far less than that
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


@NAMES
def test_values_are_finite_centred_and_never_zero(name):
    values = SOURCES[name](0).block(50_000)
    assert np.isfinite(values).all()
    assert (values != 0).all()
    assert abs(values.mean()) < 0.1


# ---- the hidden level -------------------------------------------------------------------------


def conditional(x, phi, noise):
    """P(x_{n+1} > 0 | x_1 .. x_n) from the joint Gaussian distribution of all n + 1 values."""
    n = len(x)
    lags = np.abs(np.subtract.outer(np.arange(n + 1), np.arange(n + 1)))
    law = phi**lags + noise**2 * np.eye(n + 1)
    weights = np.linalg.solve(law[:n, :n], law[:n, n])
    spread = math.sqrt(law[n, n] - weights @ law[:n, n])
    return 0.5 * math.erfc(-(weights @ x) / spread / math.sqrt(2))


@pytest.mark.parametrize(("phi", "noise"), [(0.97, 1.0), (0.5, 0.3), (-0.8, 2.0)])
def test_the_filter_is_the_conditional_distribution(phi, noise):
    source = HiddenLevel(5, phi=phi, noise=noise)
    values = source.block(60)
    p = source.best(values)
    direct = [conditional(values[:n, 0], phi, noise) for n in range(1, 61)]
    np.testing.assert_allclose(p, direct, rtol=0, atol=1e-12)


def test_the_level_has_unit_variance_from_the_start():
    first = np.array([HiddenLevel(seed, noise=0.5).block(1)[0, 0] for seed in range(4000)])
    assert first.var() == pytest.approx(1.25, rel=0.1)
    values = HiddenLevel(0).block(200_000)
    assert values.var() == pytest.approx(2.0, rel=0.05)
    assert np.mean((values[1:] > 0) == (values[:-1] > 0)) == pytest.approx(0.661, abs=0.01)


def test_invalid_levels_are_refused():
    with pytest.raises(ValueError, match="phi"):
        HiddenLevel(1, phi=1.0)
    with pytest.raises(ValueError, match="noise"):
        HiddenLevel(1, noise=0.0)


def test_normal_cdf():
    z = np.array([-40.0, -1.0, 0.0, 1.959963984540054])
    np.testing.assert_allclose(normal_cdf(z), [0, 0.15865525393145707, 0.5, 0.975], atol=1e-15)


# ---- regimes, by every path that the hidden one can take ------------------------------------

FLIP = 0.2  # often enough to matter in a short series
SEEDS = range(5)


def weighted_paths(seen):
    """Every path of m at `seen` observations and one more, with its prior probability."""
    for path in itertools.product((1, -1), repeat=seen + 1):
        flips = sum(a != b for a, b in itertools.pairwise(path))
        yield path, 0.5 * FLIP**flips * (1 - FLIP) ** (seen - flips)


def next_up(signs):
    """P(the next sign is positive | signs), each being m with probability 0.65, by enumeration."""
    total = up = 0.0
    for path, prior in weighted_paths(len(signs)):
        right = sum(m == sign for m, sign in zip(path, signs, strict=False))
        weight = prior * 0.65**right * 0.35 ** (len(signs) - right)
        total += weight
        up += weight * (0.65 if path[-1] == 1 else 0.35)
    return up / total


def normal(x, mean):
    return math.exp(-((x - mean) ** 2) / 2)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_regime_in_signs(seed, monkeypatch):
    monkeypatch.setattr(RegimeSign, "flip", FLIP)
    source = RegimeSign(seed)
    values = source.block(60)
    p = source.best(values)
    signs = np.sign(values[::PERIOD, 0]).tolist()
    direct = np.full(60, 0.5)
    for k in range(1, 7):
        direct[PERIOD * k - 1] = next_up(signs[:k])
    np.testing.assert_allclose(p, direct, rtol=0, atol=1e-13)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_regime_in_products_of_signs(seed, monkeypatch):
    monkeypatch.setattr(RegimeProduct, "flip", FLIP)
    source = RegimeProduct(seed)
    values = source.block(60)
    p = source.best(values)
    signs = np.sign(values[:, 0])
    # what comes before the first tick counts as positive
    products = [signs[t] * (signs[t - 1] if t else 1.0) for t in range(0, 60, PERIOD)]
    direct = np.full(60, 0.5)
    for k in range(1, 7):
        agree = next_up(products[:k])
        direct[PERIOD * k - 1] = agree if signs[PERIOD * k - 1] > 0 else 1 - agree
    np.testing.assert_allclose(p, direct, rtol=0, atol=1e-13)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_regime_in_slopes(seed, monkeypatch):
    monkeypatch.setattr(RegimeSlope, "flip", FLIP)
    source = RegimeSlope(seed)
    values = 2 * source.block(9)
    p = source.best(values)
    x = values[:, 0].tolist()
    for n in range(1, 10):
        total = up = 0.0
        for path, weight in weighted_paths(n):
            for k in range(1, n):
                weight *= normal(x[k], 0.1 * path[k] * x[k - 1])
            total += weight
            up += weight * normal_cdf(np.array([0.1 * path[n] * x[n - 1]]))[0]
        assert p[n - 1] == pytest.approx(up / total, abs=1e-13)


@pytest.mark.parametrize("kind", [RegimeSign, RegimeProduct])
def test_fillers_are_small_and_beats_are_not(kind):
    values = kind(0).block(100_000).reshape(-1, PERIOD)
    spread = values.std(axis=0)
    last = 1.0 if kind is RegimeProduct else 0.1
    assert spread == pytest.approx([1.0, *[0.1] * 8, last], rel=0.03)
    # |N(0, 1)|, only its sign made otherwise
    assert np.abs(values[:, 0]).mean() == pytest.approx(math.sqrt(2 / math.pi), abs=0.02)


def test_regimes_flip_as_often_as_documented(monkeypatch):
    monkeypatch.setattr("stream_lstm.feed.synthetic.SIGN_RIGHT", 1.0)
    signs = np.sign(RegimeSign(0).block(1_000_000)[::PERIOD, 0])
    assert np.mean(signs[1:] != signs[:-1]) == pytest.approx(1 / 1000, rel=0.4)


# ---- cues, queries and echoes -----------------------------------------------------------------


@pytest.fixture(scope="module", params=[Latch, LongLatch])
def latch(request):
    return request.param, request.param(1).block(TICKS)[:, 0]


def test_cues_and_queries_alternate_at_their_ticks(latch):
    kind, x = latch
    off_beat = np.arange(TICKS) % PERIOD != 0
    events = np.flatnonzero(off_beat & (np.abs(x) > 1))
    cues, queries = events[::2], events[1::2]
    cues = cues[: len(queries)]
    assert set(np.abs(x[cues])) == {4.0}
    assert set(x[queries]) == {2.0}
    assert set(cues % PERIOD) == {5}
    assert set(queries % PERIOD) == {9}
    lags = queries - cues
    assert lags.min() == (104 if kind is Latch else 294)
    assert ((lags + 6) // PERIOD - kind.least + 1).mean() == pytest.approx(6, rel=0.1)
    waits = (cues[1:] - 5 - queries[:-1] - 1) // PERIOD
    assert waits.min() == 1
    assert waits.mean() == pytest.approx(2, rel=0.1)
    right = np.mean(np.sign(x[queries + 1]) == np.sign(x[cues]))
    assert right == pytest.approx(0.95, abs=4 * math.sqrt(0.05 / len(cues)))


def test_the_answer_is_known_after_its_query_and_not_before(latch):
    kind, x = latch
    p = kind(0).best(x[:, None])
    queries = np.flatnonzero(x == 2.0)
    assert np.isin(p[queries], [0.95, 1 - 0.95]).all()
    may_be_asked = p[queries - 1]
    assert np.allclose(may_be_asked, 0.5 + 0.5 / 6)
    assert np.isin(p, [0.5, 0.95, 1 - 0.95, 0.5 + 0.5 / 6]).all()


def test_a_query_without_a_cue_means_nothing():
    values = np.full((30, 1), 0.01)
    values[19] = 2.0
    assert (Latch(0).best(values) == 0.5).all()


def test_echoes_come_twelve_blocks_after_every_fourth():
    source = Echo(2)
    values = source.block(TICKS)
    x, p = values[:, 0], source.best(values)
    cues = np.arange(5, TICKS - 120, 40)
    assert set(x[cues]) == {2.0, -2.0}
    assert abs(x[cues].mean()) < 0.1
    echoes = cues + 115
    right = np.mean(np.sign(x[echoes]) == np.sign(x[cues]))
    assert right == pytest.approx(0.95, abs=0.01)
    assert np.array_equal(p[echoes - 1] > 0.5, x[cues] > 0)
    others = np.ones(TICKS, bool)
    others[np.arange(119, TICKS, 40)] = False
    assert (p[others] == 0.5).all()


# ---- the demo's feed --------------------------------------------------------------------------


def test_the_feed_process_sends_the_series_and_its_end():
    with (
        demo_feed(seed=4, speed=20_000, count=300) as feed,
        subscriber(feed.endpoint(), columns=HiddenLevel.columns) as into,
    ):
        ticks = of(Ticks, gather(into, ended))
    sent = np.concatenate([block.values for block in ticks])
    assert sent.tobytes() == HiddenLevel(4).block(300).tobytes()
    assert {block.stream for block in ticks} == {HiddenLevel.name}
    assert all((np.diff(block.t_ns) >= 0).all() for block in ticks)


def test_the_feed_process_ends_when_it_is_closed():
    with demo_feed(seed=4, speed=1, count=1000) as feed:
        feed.endpoint()
    with pytest.raises(ProcessLookupError):
        os.kill(feed.pid, 0)


def test_the_feed_process_exits_with_the_process_that_started_it():
    arguments = ["--seed", "1", "--speed", "1", "--count", "1000"]
    feed = subprocess.Popen(
        [sys.executable, "-m", "stream_lstm.feed.demo_feed", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    feed.stdout.readline()
    feed.communicate(timeout=WAIT_S)  # which closes its standard input
    assert feed.returncode == 0
