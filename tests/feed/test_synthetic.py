"""The synthetic series and its exact filter, against a direct computation and a long count."""

import itertools
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from stream_lstm.events import End, Ticks
from stream_lstm.feed.child import demo_feed
from stream_lstm.feed.subscriber import Subscriber
from stream_lstm.feed.synthetic import HiddenLevel, normal_cdf
from stream_lstm.schema import FeedConfig

from .received import blocks

WAIT_S = 30.0


def conditional(x, phi, noise):
    """P(x_{n+1} > 0 | x_1 .. x_n) from the joint Gaussian law of all n + 1 values."""
    n = len(x)
    lags = np.abs(np.subtract.outer(np.arange(n + 1), np.arange(n + 1)))
    law = phi**lags + noise**2 * np.eye(n + 1)
    weights = np.linalg.solve(law[:n, :n], law[:n, n])
    spread = math.sqrt(law[n, n] - weights @ law[:n, n])
    return 0.5 * math.erfc(-(weights @ x) / spread / math.sqrt(2))


@pytest.mark.parametrize(("phi", "noise"), [(0.97, 1.0), (0.5, 0.3), (-0.8, 2.0)])
def test_the_filter_is_the_conditional_law(phi, noise):
    source = HiddenLevel(5, phi=phi, noise=noise)
    values = source.block(60)
    p = source.best(values)
    direct = [conditional(values[:n, 0], phi, noise) for n in range(1, 61)]
    np.testing.assert_allclose(p, direct, rtol=0, atol=1e-12)


def test_the_filter_does_not_look_ahead():
    source = HiddenLevel(5)
    values = source.block(50)
    changed = values.copy()
    changed[30:] = 9.0
    assert source.best(values)[:30].tobytes() == source.best(changed)[:30].tobytes()
    assert source.best(values)[30] != source.best(changed)[30]


@pytest.fixture(scope="module")
def long_run():
    source = HiddenLevel(11)
    values = source.block(100_001)
    return values[:-1, 0] > 0, values[1:, 0] > 0, source.best(values)[:-1]


def test_the_filter_is_calibrated(long_run):
    _, label, p = long_run
    edges = np.linspace(0, 1, 11)
    for low, high in itertools.pairwise(edges):
        inside = (p >= low) & (p < high)
        count = inside.sum()
        assert count > 1000
        error = label[inside].mean() - p[inside].mean()
        # labels are independent given the past, so five standard errors are a wide margin
        assert abs(error) < 5 * 0.5 / math.sqrt(count)


def test_there_is_as_much_to_gain_as_promised(long_run):
    last, label, p = long_run
    assert np.mean(last == label) == pytest.approx(0.661, abs=0.01)
    assert np.mean((p > 0.5) == label) == pytest.approx(0.711, abs=0.01)
    assert -np.mean(np.log(np.where(label, p, 1 - p))) == pytest.approx(0.557, abs=0.01)


def test_cuts_have_no_meaning_and_the_seed_has():
    whole = HiddenLevel(1).block(1000)
    source = HiddenLevel(1)
    cut = np.concatenate([source.block(n) for n in (1, 2, 497, 500)])
    assert whole.dtype == np.float64
    assert whole.shape == (1000, 1)
    assert whole.tobytes() == cut.tobytes()
    assert whole.tobytes() != HiddenLevel(2).block(1000).tobytes()


def test_the_level_has_unit_variance_from_the_start():
    first = np.array([HiddenLevel(seed, noise=0.5).block(1)[0, 0] for seed in range(4000)])
    assert first.var() == pytest.approx(1.25, rel=0.1)
    assert HiddenLevel(0).block(200_000).var() == pytest.approx(2.0, rel=0.05)


def test_a_level_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="phi"):
        HiddenLevel(1, phi=1.0)
    with pytest.raises(ValueError, match="noise"):
        HiddenLevel(1, noise=0.0)


def test_normal_cdf():
    z = np.array([-40.0, -1.0, 0.0, 1.959963984540054])
    np.testing.assert_allclose(normal_cdf(z), [0, 0.15865525393145707, 0.5, 0.975], atol=1e-15)


# ---- the demo's feed ------------------------------------------------------------------


def test_the_feed_process_sends_the_series_and_its_end():
    with demo_feed(seed=4, speed=20_000, count=300) as feed:
        config = FeedConfig(connect=(feed.endpoint(),), columns=HiddenLevel.columns)
        with Subscriber(config) as subscriber:
            events = []
            while not any(isinstance(event, End) for event in events):
                came = subscriber.receive(WAIT_S)
                assert came
                events += blocks(came)
    ticks = [event for event in events if isinstance(event, Ticks)]
    sent = np.concatenate([block.values for block in ticks])
    assert sent.tobytes() == HiddenLevel(4).block(300).tobytes()
    assert {block.stream for block in ticks} == {HiddenLevel.name}
    assert all((np.diff(block.t_ns) >= 0).all() for block in ticks)


def test_the_feed_process_is_gone_when_it_is_closed():
    with demo_feed(seed=4, speed=1, count=1000) as feed:
        feed.endpoint()
    with pytest.raises(ProcessLookupError):
        os.kill(feed.pid, 0)


def test_the_feed_process_leaves_when_whoever_started_it_is_killed():
    arguments = ["--seed", "1", "--speed", "1", "--count", "1000"]
    feed = subprocess.Popen(
        [sys.executable, "-m", "stream_lstm.feed.demo_feed", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    feed.stdout.readline()
    feed.communicate(timeout=WAIT_S)  # which closes its standard input
    assert feed.returncode == 0
