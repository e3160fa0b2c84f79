"""Evidence and bands: false alarms, power and coverage under a look after every label."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_lstm.core.skill import (
    ACCURACY_RHO,
    PROVEN,
    Bet,
    DifferenceBand,
    Evidence,
    accuracy_band,
    cut,
    labels_needed,
    stitched,
)

Doubles = npt.NDArray[np.float64]

STREAMS, LABELS = 1000, 5000

differences = st.lists(st.floats(-3, 3) | st.sampled_from([-1.0, 0.0, 1.0]), max_size=60)


def played(ds: Iterable[float]) -> Bet:
    bet = Bet()
    for d in ds:
        bet.add(d)
    return bet


def banded(ds: Iterable[float]) -> DifferenceBand:
    band = DifferenceBand()
    for d in ds:
        band.add(d)
    return band


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


@pytest.mark.parametrize(("null", "streams"), [(coins, 1000), (mirrored, 400), (skewed, 400)])
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
    """The sums of squares of `DifferenceBand`, for rows (streams, labels) of differences."""
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
        low, high = banded(ds[0, : k + 1].tolist()).interval() or (0, 0)
        wanted = max(means[0, k] - half[0, k], -1), min(means[0, k] + half[0, k], 1)
        assert (low, high) == pytest.approx(wanted, rel=2e-3), "the band below is not the code's"
    assert (np.abs(means - shift) > half).any(axis=1).mean() <= 0.05
    if shift:
        assert (means - half > 0)[:, -1].mean() > 0.9, "and it is no wider than it must be"


def test_the_stitched_boundary_is_that_of_the_authors() -> None:
    assert stitched(100, 0.05, scale=3, start=10) == pytest.approx(64.48755, abs=1e-5)
    for spread in (1.0, 10.0, 1e3, 1e6):
        level = math.log(math.log(2 * spread))
        closed = 1.7 * math.sqrt(spread * (level + 3.8)) + 3.4 * level + 13
        assert 0.75 * closed < stitched(spread, 0.025) < closed
    assert stitched(0.0, 0.025) == stitched(1.0, 0.025)


@given(differences)
def test_a_band_of_differences_is_that_of_what_was_cut(ds: list[float]) -> None:
    band, held = banded(ds), [cut(d) for d in ds]
    assert band.cut == sum(abs(d) > 1 for d in ds)
    if not ds:
        assert (band.mean(), band.interval()) == (None, None)
        return
    assert band.mean() == pytest.approx(np.mean(held), abs=1e-12)
    assert band.spread == pytest.approx(spreads(np.array([held]))[0, -1], abs=1e-9)
    low, high = band.interval() or (math.nan, math.nan)
    assert -1 <= low <= (band.mean() or 0.0) + 1e-12
    assert (band.mean() or 0.0) - 1e-12 <= high <= 1


def evidence(rows: list[tuple[bool, float, float, float]]) -> Evidence:
    found = Evidence()
    for row in rows:
        found.add(*row)
    return found


losses = st.floats(0, 17)
rows = st.lists(st.tuples(st.booleans(), losses, losses, losses), max_size=40)


@given(rows)
def test_evidence_plays_what_its_rows_say(rows: list[tuple[bool, float, float, float]]) -> None:
    found = evidence(rows)
    assert found.coin == played(1.0 if right else -1.0 for right, *_ in rows)
    assert found.base == played(cut(base - loss) for _, loss, base, _ in rows)
    assert found.last == played(cut(last - loss) for _, loss, _, last in rows)
    assert found.base_band == banded(base - loss for _, loss, base, _ in rows)
    assert found.last_band == banded(last - loss for _, loss, _, last in rows)
    assert (found.figures() is None) == (not rows)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(found), type=Evidence) == found


@given(rows, rows, rows)
def test_streams_together_are_the_mean_of_their_capitals(one, two, three) -> None:
    parts = [evidence(part) for part in (one, two, three)]
    together = Evidence()
    for part in parts:
        together.merge(part)
    played = [part for part in parts if part.coin.labels]
    if not played:
        assert together == Evidence()
        return
    capital = np.mean([math.exp(part.last.better.log_e) for part in played])
    assert together.last.better.log_e == pytest.approx(math.log(capital), abs=1e-9)
    highest = max(math.exp(part.last.better.highest) for part in played) / len(played)
    assert together.last.better.highest == pytest.approx(math.log(max(highest, capital)), abs=1e-9)
    assert together.last.streams == len(played)
    assert together.base_band.labels == len(one) + len(two) + len(three)
    assert together.base_band.spread == pytest.approx(sum(p.base_band.spread for p in parts))


@given(rows.filter(bool))
def test_one_stream_merged_with_nothing_is_itself(rows) -> None:
    together = Evidence()
    together.merge(evidence(rows))
    together.merge(Evidence())
    assert together == evidence(rows)


def test_many_streams_that_are_coins_raise_few_alarms_together() -> None:
    rng, alarms = np.random.default_rng(5), 0
    for _ in range(200):
        together = Bet()
        for _ in range(5):
            together.merge(played(rng.choice([-1.0, 1.0], 500).tolist()))
        alarms += together.better.proven
    assert alarms <= 0.05 * 200


def test_labels_needed_are_those_of_a_plain_test() -> None:
    assert labels_needed(0.51) == 15_455
    assert labels_needed(0.55) == 617
    rng, needed = np.random.default_rng(6), labels_needed(0.55)
    found = rng.binomial(needed, 0.55, 20_000) / needed > 0.5 + 1.6449 * 0.5 / math.sqrt(needed)
    assert found.mean() == pytest.approx(0.8, abs=0.02)
    with pytest.raises(ValueError, match="not above a coin's"):
        labels_needed(0.5)
