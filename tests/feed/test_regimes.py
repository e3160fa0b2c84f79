"""The filters against every path that the hidden regime can take."""

import itertools
import math

import numpy as np
import pytest

from stream_lstm.feed.synthetic import PERIOD, RegimeProduct, RegimeSign, RegimeSlope, normal_cdf

FLIP = 0.2  # often enough to matter in a short series
SEEDS = range(5)


def weighted_paths(looks):
    """Every path of m over `looks` looks and one more, with its prior probability."""
    for path in itertools.product((1, -1), repeat=looks + 1):
        flips = sum(a != b for a, b in itertools.pairwise(path))
        yield path, 0.5 * FLIP**flips * (1 - FLIP) ** (looks - flips)


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


def test_regimes_flip_as_often_as_they_say(monkeypatch):
    monkeypatch.setattr("stream_lstm.feed.synthetic.SIGN_RIGHT", 1.0)
    signs = np.sign(RegimeSign(0).block(1_000_000)[::PERIOD, 0])
    assert np.mean(signs[1:] != signs[:-1]) == pytest.approx(1 / 1000, rel=0.4)
