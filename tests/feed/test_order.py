"""What the first rows of a file show: its times, its order, its series and its odd values."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_lstm.feed.files import file_sample
from stream_lstm.feed.found_times import find_times
from stream_lstm.feed.order import SENTINELS, OddValues, Sample, check_series


def sample_of(**columns):
    cells = (tuple("" if cell is None else str(cell) for cell in c) for c in columns.values())
    return Sample(tuple(columns), tuple(cells))


def found(sample, **options):
    times = find_times(*sample)
    return [(one.severity, one.name) for one in check_series(sample, times, **options)]


def minutes(count, start="2024-03-01T09:55", step=1):
    times = np.datetime64(start, "s") + np.arange(count) * np.timedelta64(60 * step, "s")
    return times.astype(str).tolist()


WALK = (10 + np.cumsum(np.random.default_rng(0).normal(0, 0.1, 60))).tolist()


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"time": minutes(4), "x": WALK[:4]}, "time"),
        ({"x": WALK[:4], "when it was": minutes(4)}, "when it was"),
        ({"id": [1, 2, 3], "Datum": ["2024-03-01", "2024-03-02", "2024-03-03"]}, "Datum"),
        (
            {"day": ["2024-03-01"] * 3, "x": WALK[:3], "clock": ["9:55", "9:56", "9:57"]},
            "day,clock",
        ),
        ({"date": [20240301] * 3, "time": [95500, 95600, 100000], "x": WALK[:3]}, "date,time"),
        ({"t": [1709286900, 1709286960, 1709287020], "x": WALK[:3]}, "t"),
        ({"c0": [1709286900000, 1709286960000], "c1": WALK[:2]}, "c0"),
        ({"time": [0.1, 0.2, 0.3, 0.4], "x": WALK[:4]}, "time"),
        ({"time_to_expiry": [9, 8, 7, 6], "x": WALK[:4]}, None),
        ({"response_time": [9, 80, 7, 60], "x": WALK[:4]}, None),
        ({"date": [0, 0, 0.1, 0.2], "x": WALK[:4]}, None),
        ({"order": [1709286900, 1709286960, 1709287020], "x": WALK[:3]}, None),
        ({"time": ["03/04/2024", "04/04/2024"], "x": WALK[:2]}, None),
        ({"time": ["", "-", "NA"], "x": WALK[:3]}, None),
        ({"x": WALK[:3]}, None),
    ],
)
def test_a_column_of_times_is_found(columns, expected):
    guess = find_times(*sample_of(**columns))
    assert (guess and guess.option) == expected


def test_a_change_of_unit_is_found_and_noted():
    cells = [1735689540000, 1735689600000000, 1735689660000000]
    guess = find_times(*sample_of(open_time=cells, x=WALK[:3]))
    assert "the unit changes inside the file" in guess.line
    assert np.diff(guess.t_ns).tolist() == [60 * 10**9] * 2


def three_names(order=np.arange):
    """Return three series, their rows mixed by time."""
    rows = 20
    names, levels = ["AAA", "BBB", "CCC"], [1, 5, 90]
    return {
        "time": [time for time in minutes(rows) for _ in names],
        "ticker": names * rows,
        "close": [level * WALK[k] for k in order(rows) for level in levels],
    }


def test_several_series_are_refused_with_their_column():
    sample = sample_of(**three_names())
    (finding,) = check_series(sample, find_times(*sample))
    assert finding.line == "column ticker holds 3 names (AAA, BBB, CCC): --stream-column ticker"
    assert check_series(sample, find_times(*sample), stream_column="ticker") == []
    assert "own" in check_series(sample, by_column=False)[0].remedy


def test_several_series_are_refused_by_levels_or_by_times_that_start_again():
    refused = [("refuse", "series")]
    columns = three_names()
    assert found(sample_of(what=columns["ticker"], close=columns["close"])) == refused
    del columns["ticker"]
    assert found(sample_of(**columns)) == refused, "without any name"
    blocks = {"time": minutes(20) * 2, "what": ["a"] * 20 + ["b"] * 20, "x": WALK[:40]}
    assert found(sample_of(**blocks)) == refused


def test_what_only_looks_like_several_series_is_accepted():
    times, rng = minutes(60), np.random.default_rng(1)
    sides = ["buy" if k else "sell" for k in rng.integers(0, 2, 60)]
    accepted = [
        {"time": times, "side": sides, "price": WALK},
        {"time": times, "exchange": rng.choice(list("PQD"), 60), "price": WALK},
        {"time": times, "contract": ["H24"] * 30 + ["M24"] * 30, "price": WALK},
        {"time": times, "sensor_1": rng.integers(500, 505, 60), "x": WALK},
        {"time": times, "sensor_state": rng.choice(["ok", "late"], 60), "x": WALK},
        {"time": times, "ticker": ["AAA"] * 60, "price": WALK},
        {"time": [t for t in minutes(30) for _ in "ab"], "price": WALK},
        {"x": [1, -1] * 30, "y": WALK},
        {"x": [1, 2, 3] * 20},
    ]
    for columns in accepted:
        assert found(sample_of(**columns)) == [], list(columns)


def test_the_newest_row_first_is_refused_and_read_with_reverse():
    sample = sample_of(date=minutes(20)[::-1], x=WALK[:20])
    assert found(sample) == [("refuse", "order")]
    assert found(sample.reversed(), reverse=True) == []
    assert found(sample, reverse=True) == [("refuse", "order")], "reversed without need"
    times = minutes(20)
    times[5], times[6] = times[6], times[5]
    assert found(sample_of(date=times, x=WALK[:20])) == []
    mixed = [time for pair in zip(minutes(20)[10:], minutes(10), strict=True) for time in pair]
    assert found(sample_of(date=mixed[::-1], x=WALK[:20])) == [], "it goes back and forth"


def test_a_date_without_its_clock_is_a_warning():
    days = [f"2024-03-{1 + k // 10:02d}" for k in range(40)]
    assert found(sample_of(date=days, x=WALK[:40])) == [("warn", "clock")]
    assert found(sample_of(date=sorted(set(days)), x=WALK[:4])) == []


@settings(max_examples=80)
@given(
    st.lists(st.floats(-50, 50), min_size=4, max_size=40),
    st.lists(st.sampled_from([s for s in SENTINELS if abs(s) > 998]), max_size=4),
    st.integers(1, 7),
)
def test_numbers_for_no_value_are_counted_however_the_rows_are_cut(values, odd, step):
    rows = np.array([*values, *odd, *values])[:, None]
    counted = OddValues(["x"])
    for start in range(0, len(rows), step):
        counted.look(rows[start : start + step])
    notes = counted.findings()
    assert bool(notes) == bool(odd)
    for value in set(odd):
        assert f"in {odd.count(value):,} row" in notes[0].what


def test_numbers_that_are_values_are_no_sentinels():
    counted = OddValues(["a", "b", "c"])
    counted.look(
        np.column_stack([np.linspace(-1500, 10, 9), np.full(9, -999.0), np.arange(9) * 999])
    )
    assert counted.findings() == []
    counted = OddValues(["n"])
    counted.look(np.array([[1.0], [np.nan], [2.0], [2.0**63]]))
    assert "--missing 9223372036854775807" in counted.findings()[0].remedy


def test_no_real_series_is_refused_and_its_times_are_those_of_pandas(data_dir):
    paths = sorted(path for path in data_dir.iterdir() if ".csv" in path.name)
    assert paths
    for path in paths:
        sample = file_sample(path)
        times = find_times(*sample)
        assert check_series(sample, times) == [], path
        if times is not None:
            column = pd.read_csv(path, nrows=len(times.t_ns))[times.option]
            expected = pd.to_datetime(column, utc=True).dt.as_unit("ns").astype("int64")
            assert times.t_ns.tolist() == expected.tolist()
