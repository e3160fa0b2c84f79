"""Faults in rows are named, and correct rows are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stream_lstm.core.doctor.inputs import (
    crossed_quotes,
    repeated_rows,
    time_gaps,
    time_order,
    unusable_rows,
)

from .examined import SECOND, noise, series, table

TIMES = np.arange(1, 3001) * SECOND
BURSTS = np.random.default_rng(3).exponential(SECOND, 3000).astype(np.int64) + 1


def swapped() -> Any:
    times = TIMES.copy()
    times[[500, 501]] = times[[501, 500]]
    return times


def moved(at: int, by_s: int) -> Any:
    """Times that jump at a row."""
    return TIMES + np.where(np.arange(3000) < at, 0, by_s * SECOND)


def paused() -> Any:
    steps = BURSTS.copy()
    steps[700] = 10_000 * SECOND
    return np.cumsum(steps)


def test_rows_as_they_should_be_are_ok() -> None:
    good = table(noise())
    for check in (time_order, repeated_rows, time_gaps, crossed_quotes):
        assert check(good).level == "ok"
    assert unusable_rows(series(noise()), 0, ()).level == "ok"


@pytest.mark.parametrize("check", [time_order, repeated_rows, time_gaps])
def test_without_times_nothing_is_claimed_about_them(check: Any) -> None:
    found = check(table(noise())._replace(t_ns=None))
    assert found.level == ("note" if check is time_order else "ok")
    assert "--time COLUMN" in found.remedy + found.evidence


@pytest.mark.parametrize(
    ("times", "level", "back", "text"),
    [
        (TIMES[::-1], "fault", 2999, "the newest row comes first"),
        (swapped(), "warning", 1, "first at row 502 (by 1 s)"),
        (np.random.default_rng(1).permutation(TIMES), "fault", None, "time goes back"),
        (moved(1000, -900), "warning", 1, "clocks were put back"),
    ],
)
def test_times_that_go_back_are_named(times: Any, level: str, back: Any, text: str) -> None:
    found = time_order(table(noise(), t_ns=times))
    assert found.level == level
    assert back in (None, found.figures["back"])
    assert text in found.evidence + found.remedy


def test_rows_written_twice_are_a_fault_and_trades_of_one_time_are_not() -> None:
    found = repeated_rows(table(np.repeat(noise(), 2), t_ns=np.repeat(TIMES, 2)))
    assert (found.level, found.figures["repeated"]) == ("warning", 3000)
    found = repeated_rows(table(noise(6000), t_ns=np.repeat(TIMES, 2)))
    figures = {"repeated": 0, "equal_times": 3000, "intervals": 5999}
    assert (found.level, found.figures) == ("note", figures)


@pytest.mark.parametrize(
    ("times", "level", "gaps", "text"),
    [
        (np.delete(TIMES, np.arange(50, 3000, 50)), "warning", 59, "59 rows missing"),
        (moved(1500, 8 * 3600), "note", 1, "before row 1,501"),
        (np.cumsum(BURSTS), "ok", 0, "no gaps"),
        (paused(), "note", 1, "the longest interval is 10,000 s"),
    ],
)
def test_gaps_are_counted(times: Any, level: str, gaps: int, text: str) -> None:
    found = time_gaps(table(noise()[: len(times)], t_ns=times))
    assert (found.level, found.figures["gaps"]) == (level, gaps)
    assert text in found.evidence
    assert ("elapsed()" in found.remedy) == bool(gaps)


@pytest.mark.parametrize(("share", "level"), [(0.0, "ok"), (0.1, "warning"), (1.0, "fault")])
def test_crossed_quotes_are_counted(share: float, level: str) -> None:
    bids = 100 + noise()
    width = np.where(np.arange(3000) < share * 3000, -0.1, 0.1)
    both = np.column_stack([bids, bids + width, np.ones(3000)])
    found = crossed_quotes(table(both, columns="bid_px ask_px ask_qty"))
    assert (found.level, found.figures["crossed"]) == (level, round(share * 3000))


@pytest.mark.parametrize(("bad", "level"), [(10, "note"), (100, "warning"), (2000, "fault")])
def test_rows_without_an_element_are_counted_and_the_first_is_named(bad: int, level: str) -> None:
    values = noise()
    values[:bad] = np.nan
    found = unusable_rows(series(values), 1, ["f.csv:9: column 'x' is empty"])
    assert (found.level, found.figures["unusable"]) == (level, bad + 1)
    assert f"column 'x' is empty; {bad:,} times: row 1: x is nan" in found.evidence
