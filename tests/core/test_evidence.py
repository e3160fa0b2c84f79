"""Evidence and bands: false alarms, power and coverage under a look after every label."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_lstm.core.counts import PLAIN
from stream_lstm.core.evidence import (
    ACCURACY_RHO,
    BET,
    PROVEN,
    Bet,
    Evidence,
    accuracy_band,
    labels_needed,
    stitched,
    together,
    window_half_width,
)
from stream_lstm.core.losses import log_loss
from stream_lstm.core.scores import Scores

Doubles = npt.NDArray[np.float64]

STREAMS, LABELS = 1000, 5000

differences = st.lists(st.floats(-3, 3) | st.sampled_from([-1.0, 0.0, 1.0]), max_size=60)


def played(ds: Iterable[float]) -> Bet:
    bet = Bet()
    for d in ds:
        bet.add(d)
    return bet


def cut(d: float) -> float:
    return min(max(d, -1.0), 1.0)


def merged(bets: list[Bet]) -> Bet:
    """Return streams together."""
    states = np.array([bet.state for bet in bets]).reshape(-1, len(BET))
    return together(np.array([bet.labels for bet in bets], np.float64), states)


def coins(rng: np.random.Generator) -> Doubles:
    """What a coin's calls are worth."""
    return rng.choice([-1.0, 1.0], LABELS)


def mirrored(rng: np.random.Generator) -> Doubles:
    """Log-loss differences of two forecasters of a coin, one the mirror image of the other."""
    p = np.clip(1 / (1 + np.exp(-rng.normal(0, 0.4, LABELS))), 0.28, 0.72)
    return np.log(p / (1 - p)) * rng.choice([-1.0, 1.0], LABELS)


def skewed(rng: np.random.Generator) -> Doubles:
    """Rarely much better, mostly a little worse, in the mean alike."""
    return np.where(rng.random(LABELS) < 0.1, 0.9, -0.1)


@pytest.mark.parametrize(("null", "streams"), [(coins, 400), (mirrored, 400), (skewed, 400)])
def test_of_streams_no_better_and_no_worse_few_ever_raise_an_alarm(null, streams: int) -> None:
    rng = np.random.default_rng(1)
    bets = [played(null(rng).tolist()) for _ in range(streams)]
    assert 0 < sum(bet.better.proven for bet in bets) <= 0.05 * streams
    assert 0 < sum(bet.worse.proven for bet in bets) <= 0.05 * streams


@pytest.mark.parametrize(("accuracy", "labels"), [(0.55, 655), (0.60, 240)])
def test_skill_shows_after_as_many_labels_as_was_measured(accuracy: float, labels: int) -> None:
    rng, reached = np.random.default_rng(2), []
    for _ in range(1000):
        bet = Bet()
        for d in np.where(rng.random(LABELS) < accuracy, 1.0, -1.0).tolist():
            bet.add(d)
            if bet.better.reached:
                break
        reached.append(bet.better.reached or math.inf)
    assert np.median(reached) == pytest.approx(labels, rel=0.15)


@given(differences.map(lambda ds: [cut(d) for d in ds]))
def test_a_bet_is_the_product_that_it_is_said_to_be(ds: list[float]) -> None:
    better, worse, past, highest, reached = 1.0, 1.0, np.array([]), 1.0, 0
    for k, d in enumerate(ds, 1):
        stake = past.sum() / ((past**2).sum() + 100)
        better *= 1 + np.clip(stake, 0, 0.5) * d
        worse *= 1 - np.clip(-stake, 0, 0.5) * d
        past = np.append(past, d)
        highest = max(highest, better)
        reached = reached or (k if better >= 20 else 0)
    bet = played(ds)
    assert bet.better.log_e == pytest.approx(math.log(better), abs=1e-9)
    assert bet.worse.log_e == pytest.approx(math.log(worse), abs=1e-9)
    assert bet.better.highest == pytest.approx(math.log(highest), abs=1e-9)
    assert bet.better.reached == reached


@given(differences)
def test_worse_is_better_the_other_way_round(ds: list[float]) -> None:
    one, two = played(map(cut, ds)), played(-cut(d) for d in ds)
    assert (one.better, one.worse) == (two.worse, two.better)


def test_what_was_proven_stays_proven() -> None:
    bet = played([1.0] * 60)
    reached = bet.better.reached
    for _ in range(200):
        bet.add(-1.0)
    assert bet.better.log_e < 0 < PROVEN <= bet.better.highest
    assert (bet.better.proven, bet.better.reached) == (True, reached)
    assert reached == 29, "the stake needs some labels to grow"


def test_the_band_of_the_accuracy_has_the_widths_that_are_promised() -> None:
    for labels, half in ((1000, 0.061), (10_000, 0.015), (100_000, 0.005)):
        band = accuracy_band(labels / 2, labels)
        assert band is not None
        assert (band[1] - band[0]) / 2 == pytest.approx(half, abs=5e-4)
    assert accuracy_band(0, 0) is None
    assert accuracy_band(3, 3) == (0.0, 1.0)


def test_the_band_of_the_accuracy_covers_it_at_every_look() -> None:
    rng, n = np.random.default_rng(3), np.arange(1, LABELS + 1)
    rates = 0.5 + 0.2 * np.sin(n / 700)  # it may change: covered is the mean of what was expected
    right = np.cumsum(rng.random((STREAMS, LABELS)) < rates, axis=1)
    time = n / 4 + ACCURACY_RHO
    width = np.sqrt(time * (np.log(time / ACCURACY_RHO) + 2 * np.log(20))) / n
    for k in (0, 17, LABELS - 1):
        band = accuracy_band(int(right[0, k]), k + 1)
        mean = right[0, k] / (k + 1)
        wanted = max(mean - width[k], 0.0), min(mean + width[k], 1.0)
        assert band == pytest.approx(wanted), "the band below is not the code's"
    missed = np.abs(right / n - np.cumsum(rates) / n) > width
    assert missed.any(axis=1).mean() <= 0.05


def spreads(ds: Doubles) -> Doubles:
    """The sums of squares of `Bet`, for rows (streams, labels) of differences."""
    n = np.arange(1, ds.shape[1] + 1)
    means = np.cumsum(ds, axis=1) / n
    before = np.concatenate([np.zeros((len(ds), 1)), means[:, :-1]], axis=1)
    return np.cumsum((ds - before) ** 2, axis=1)


@pytest.mark.parametrize("shift", [0.0, 0.04])
@pytest.mark.parametrize("null", [mirrored, skewed])
def test_the_band_of_a_difference_covers_it_at_every_look(null, shift: float) -> None:
    rng, n = np.random.default_rng(4), np.arange(1, LABELS + 1)
    ds = np.stack([null(rng) + shift for _ in range(200)])
    spread, means = spreads(ds), np.cumsum(ds, axis=1) / n
    edge = np.array([stitched(v, 0.025) for v in np.linspace(0, LABELS, 20_001)])
    half = 2 * np.interp(spread / 4, np.linspace(0, LABELS, 20_001), edge) / n
    for k in (1, 99, LABELS - 1):
        low, high = played(ds[0, : k + 1].tolist()).interval() or (0, 0)
        wanted = max(means[0, k] - half[0, k], -1), min(means[0, k] + half[0, k], 1)
        assert (low, high) == pytest.approx(wanted, rel=2e-3), "the band below is not the code's"
    assert (np.abs(means - shift) > half).any(axis=1).mean() <= 0.05
    if shift:
        assert (means - half > 0)[:, -1].mean() > 0.9, "and it is no wider than it must be"


def test_the_band_of_an_accuracy_over_a_window_covers_it_at_every_look() -> None:
    rng, window = np.random.default_rng(10), 100
    right = np.cumsum(rng.random((400, 2000)) < 0.5, axis=1)
    ends = np.arange(window, 2000)
    half = np.array([window_half_width(window, int(end)) for end in ends])
    means = (right[:, ends] - right[:, ends - window]) / window
    assert (np.abs(means - 0.5) > half).any(axis=1).mean() <= 0.05
    assert window_half_width(400, 50) == pytest.approx(window_half_width(100, 50) / 2)


def test_the_stitched_boundary_is_that_of_the_authors() -> None:
    assert stitched(100, 0.05, scale=3, start=10) == pytest.approx(64.48755, abs=1e-5)
    for spread in (1.0, 10.0, 1e3, 1e6):
        level = math.log(math.log(2 * spread))
        closed = 1.7 * math.sqrt(spread * (level + 3.8)) + 3.4 * level + 13
        assert 0.75 * closed < stitched(spread, 0.025) < closed
    assert stitched(0.0, 0.025) == stitched(1.0, 0.025)


@given(differences)
def test_a_band_of_differences_is_that_of_what_was_cut(ds: list[float]) -> None:
    band, held = played(ds), [cut(d) for d in ds]
    assert band.cut == sum(abs(d) > 1 for d in ds)
    if not ds:
        assert (band.mean(), band.interval()) == (None, None)
        return
    assert band.mean() == pytest.approx(np.mean(held), abs=1e-12)
    assert band.spread == pytest.approx(spreads(np.array([held]))[0, -1], abs=1e-9)
    low, high = band.interval() or (math.nan, math.nan)
    assert -1 <= low <= (band.mean() or 0.0) + 1e-12
    assert (band.mean() or 0.0) - 1e-12 <= high <= 1


Row = tuple[int, float, float, float]

chances = st.floats(0, 1)
rows = st.lists(st.tuples(st.integers(0, 1), chances, chances, chances), max_size=40)


def evidence(*streams: list[Row]) -> Evidence:
    """Return the evidence of the scores of streams together."""
    scores = Scores(rows=len(streams))
    for k, rows in enumerate(streams):
        for label, *ps in rows:
            scores.add(k, label, -1, *ps)
    return scores.total().evidence


def gains(rows: list[Row], other: int) -> list[float]:
    """Return how much better the model did than forecaster `other`, 0 for a coin."""
    if not other:
        return [1.0 if (p > 0.5) == label else -1.0 for label, p, *_ in rows]
    return [log_loss(row[1 + other], row[0]) - log_loss(row[1], row[0]) for row in rows]


@given(rows)
def test_evidence_plays_what_its_labels_are_worth(rows: list[Row]) -> None:
    found = evidence(rows)
    for k in range(PLAIN):
        assert found[k] == played(gains(rows, k))
    assert (found.figures() is None) == (not rows)


def test_one_label_and_many_are_one_game() -> None:
    rng = np.random.default_rng(9)
    ds, scores = rng.normal(0.1, 0.8, 900), Scores()
    p = 1 / (1 + np.exp(-3 * ds)) * 0.98 + 0.01
    ps = np.stack([p, np.full(900, 0.5), 1 - p])
    _, log_e = scores.extend(np.zeros(900, np.int64), *np.ones((2, 900), np.int8), ps)
    bets = [Bet() for _ in range(PLAIN)]
    for row in ps.T.tolist():
        for k, bet in enumerate(bets):
            bet.add(gains([(1, *row)], k)[0])
    assert scores.of(0).evidence == Evidence(*bets)
    assert log_e[-1].tolist() == [bet.better.log_e for bet in bets]
    assert bets[1].worse.reached > 0
    assert bets[2].cut > 0


@given(rows, rows, rows)
def test_streams_together_are_the_mean_of_their_capitals(one, two, three) -> None:
    found, parts = (
        evidence(one, two, three).last,
        [evidence(part).last for part in (one, two, three)],
    )
    played = [part for part in parts if part.labels]
    if not played:
        assert found == Bet()
        return
    for side in ("better", "worse"):
        wealths = [getattr(part, side) for part in played]
        capital = np.mean([math.exp(wealth.log_e) for wealth in wealths])
        highest = max(math.exp(wealth.highest) for wealth in wealths) / len(played)
        together = getattr(found, side)
        assert together.log_e == pytest.approx(math.log(capital), abs=1e-9)
        assert together.highest == pytest.approx(math.log(max(highest, capital)), abs=1e-9)
        if len(played) > 1:
            assert together.reached == (found.labels if together.proven else 0)
    assert found.labels == len(one) + len(two) + len(three)
    for name in ("total", "spread", "cut"):
        assert getattr(found, name) == pytest.approx(
            sum(getattr(p, name) for p in parts), abs=1e-9
        )


@given(rows.filter(bool))
def test_one_stream_beside_streams_without_labels_is_itself(rows) -> None:
    assert evidence([], rows, []) == evidence(rows)


def test_what_some_streams_prove_is_proven_at_the_labels_of_all() -> None:
    proven, coin = played([1.0] * 90), played([-1.0, 1.0] * 50)
    found = merged([proven, coin, proven])
    assert found.better.reached == found.labels == 280
    assert merged([proven]) == proven
    assert merged([]) == Bet()


def test_many_streams_that_are_coins_raise_few_alarms_together() -> None:
    rng, alarms = np.random.default_rng(5), 0
    for _ in range(200):
        bets = [played(rng.choice([-1.0, 1.0], 500).tolist()) for _ in range(5)]
        alarms += merged(bets).better.proven
    assert alarms <= 0.05 * 200


def test_labels_needed_are_those_of_a_plain_test() -> None:
    assert labels_needed(0.51) == 15_455
    assert labels_needed(0.55) == 617
    rng, needed = np.random.default_rng(6), labels_needed(0.55)
    found = rng.binomial(needed, 0.55, 20_000) / needed > 0.5 + 1.6449 * 0.5 / math.sqrt(needed)
    assert found.mean() == pytest.approx(0.8, abs=0.02)
    with pytest.raises(ValueError, match="not above 1/2"):
        labels_needed(0.5)
