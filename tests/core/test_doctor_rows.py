"""Rows that are wrong are named, and right ones let be."""

from __future__ import annotations

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


def test_rows_as_they_should_be_are_let_be():
    good = table(noise())
    for check in (time_order, repeated_rows, time_gaps, crossed_quotes):
        assert check(good).level == "ok"
    assert unusable_rows(series(noise()), 0, ()).level == "ok"


def test_without_times_nothing_is_said_of_them():
    bare = table(noise())._replace(t_ns=None)
    for check in (repeated_rows, time_gaps):
        assert check(bare).level == "ok"
        assert "--time COLUMN" in check(bare).evidence


def test_without_times_nobody_knows_which_row_comes_first():
    found = time_order(table(noise())._replace(t_ns=None))
    assert found.level == "note"
    assert "--time COLUMN" in found.remedy


def test_a_file_with_its_newest_row_first_is_named():
    found = time_order(table(noise(), t_ns=TIMES[::-1]))
    assert (found.level, found.figures["back"]) == ("fault", 2999)
    assert "the newest row comes first" in found.evidence


def test_rows_in_the_wrong_place_are_named_with_the_first_of_them():
    times = TIMES.copy()
    times[[500, 501]] = times[[501, 500]]
    found = time_order(table(noise(), t_ns=times))
    assert (found.level, found.figures["back"]) == ("warning", 1)
    assert "first at row 502 (by 1 s)" in found.evidence
    shuffled = time_order(table(noise(), t_ns=np.random.default_rng(1).permutation(TIMES)))
    assert shuffled.level == "fault"


def test_clocks_that_were_put_back_are_told_as_such():
    times = TIMES.copy()
    times[1000:] -= 900 * SECOND
    assert "clocks were put back" in time_order(table(noise(), t_ns=times)).remedy


def test_rows_written_twice_are_named():
    found = repeated_rows(table(np.repeat(noise(), 2), t_ns=np.repeat(TIMES, 2)))
    assert (found.level, found.figures["repeated"]) == ("warning", 3000)


def test_trades_of_one_time_are_only_noted():
    found = repeated_rows(table(noise(6000), t_ns=np.repeat(TIMES, 2)))
    assert (found.level, found.figures) == (
        "note",
        {"repeated": 0, "equal_times": 3000, "intervals": 5999},
    )


def test_rows_missing_from_regular_times_are_counted():
    kept = np.delete(np.arange(3000), np.arange(50, 3000, 50))
    found = time_gaps(table(noise()[kept], t_ns=TIMES[kept]))
    assert (found.level, found.figures["gaps"], found.figures["missed"]) == ("warning", 59, 59)
    assert "elapsed()" in found.remedy


def test_a_closing_hour_is_a_note():
    times = TIMES.copy()
    times[1500:] += 8 * 3600 * SECOND
    found = time_gaps(table(noise(), t_ns=times))
    assert (found.level, found.figures["gaps"]) == ("note", 1)
    assert "before row 1,501" in found.evidence


def test_bursts_are_no_gaps_but_a_pause_among_them_is_one():
    steps = np.random.default_rng(3).exponential(SECOND, 3000).astype(np.int64) + 1
    assert time_gaps(table(noise(), t_ns=np.cumsum(steps))).level == "ok"
    steps[700] = 10_000 * SECOND
    found = time_gaps(table(noise(), t_ns=np.cumsum(steps)))
    assert (found.level, found.figures["gaps"]) == ("note", 1)


@pytest.mark.parametrize(("share", "level"), [(0.0, "ok"), (0.1, "warning"), (1.0, "fault")])
def test_crossed_quotes_are_counted(share: float, level: str):
    bids = 100 + noise()
    width = np.where(np.arange(3000) < share * 3000, -0.1, 0.1)
    both = np.column_stack([bids, bids + width, np.ones(3000)])
    found = crossed_quotes(table(both, columns="bid_px ask_px ask_qty"))
    assert found.level == level
    assert found.figures["crossed"] == round(share * 3000)


@pytest.mark.parametrize(("bad", "level"), [(10, "note"), (100, "warning"), (2000, "fault")])
def test_rows_that_make_no_element_are_counted_and_the_first_is_told(bad: int, level: str):
    values = noise()
    values[:bad] = np.nan
    found = unusable_rows(series(values), 1, ["f.csv:9: column 'x' is empty"])
    assert (found.level, found.figures["unusable"]) == (level, bad + 1)
    assert "column 'x' is empty; row 1: x is nan" in found.evidence
