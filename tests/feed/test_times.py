"""Times of every form and type, exact to the nanosecond."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_lstm.errors import DataError
from stream_lstm.feed.files import open_file

from .reading import T0, load, text_file, write_table

INSTANT = 1_398_902_401_787_000_000


@pytest.mark.parametrize(
    ("text", "unit", "expected"),
    [
        ("1398902401787000001", "auto", T0),
        ("1398902401", "auto", 1_398_902_401_000_000_000),
        ("1398902401.787000001", "auto", T0),
        ("1398902401787", "auto", INSTANT),
        ("1398902401787.000001", "auto", T0),
        ("1398902401787000", "auto", INSTANT),
        ("1398902401787000.001", "auto", T0),
        ("1.398902401787e9", "auto", INSTANT),
        ("-5", "auto", -5_000_000_000),
        ("5", "ns", 5),
        ("5", "ms", 5_000_000),
        ("2014-05-01 00:00:01.787000001", "auto", T0),
        ("2014-05-01T00:00:01.787000001Z", "auto", T0),
        ("2014-05-01T02:00:01.787+02:00", "auto", INSTANT),
        ("2014-05-01 00:00:01,787", "iso", INSTANT),
        ("20140501T000001.787Z", "iso", INSTANT),
        ("2014-05-01", "auto", 1_398_902_400_000_000_000),
        ("2014-05-01 00:00", "auto", 1_398_902_400_000_000_000),
        ("1969-12-31 23:59:59.999999999", "auto", -1),
    ],
)
def test_times_are_exact_in_every_form(tmp_path, text, unit, expected):
    path = text_file(tmp_path, f't,x\n"{text}",1\n"{text}",2\n')
    t_ns, _, _, _ = load(path, columns=["x"], time="t", time_unit=unit)
    assert t_ns.tolist() == [expected, expected]


def test_forms_of_one_kind_may_mix(tmp_path):
    rows = "2014-05-01,1\n2014-05-01T00:00:00Z,2\n2014-05-01 02:00:00+02:00,3\n"
    t_ns, _, _, _ = load(text_file(tmp_path, "t,x\n" + rows), columns=["x"], time="t")
    assert set(t_ns.tolist()) == {1_398_902_400_000_000_000}


@settings(max_examples=30)
@given(st.integers(-(2**63), 2**63 - 1))
def test_integer_nanoseconds_stay_exact(tmp_path_factory, t):
    folder = tmp_path_factory.mktemp("t")
    csv = text_file(folder, f"t,x\n{t},1\n")
    np.save(folder / "t.npy", np.array([(t, 1.0)], [("t", "i8"), ("x", "f8")]))
    for path in (csv, folder / "t.npy"):
        t_ns, _, _, _ = load(path, columns=["x"], time="t", time_unit="ns")
        assert t_ns.tolist() == [t]


@pytest.mark.parametrize(
    "times",
    [
        pa.array([T0, T0], pa.int64()),
        pa.array([T0, T0], pa.uint64()),
        pa.array([T0, T0], pa.timestamp("ns", tz="Europe/Berlin")),
        pa.array([T0, T0], pa.timestamp("ns")),
        pa.array(["2014-05-01T00:00:01.787000001"] * 2),
        pa.array(["2014-05-01T00:00:01.787000001"] * 2).dictionary_encode(),
        pa.array(["1398902401.787000001"] * 2).cast(pa.decimal128(20, 9)),
        pa.array(["1398902401.787000001"] * 2, pa.large_string()),
    ],
    ids=lambda array: str(array.type),
)
def test_typed_times_are_exact(tmp_path, times):
    data = pa.table({"t": times, "x": [1.0, 2.0]})
    for name in ("t.parquet", "t.arrow"):
        t_ns, _, _, _ = load(write_table(tmp_path / name, data), columns=["x"], time="t")
        assert t_ns.tolist() == [T0, T0]


def test_coarser_typed_times_are_scaled(tmp_path):
    for times in (
        pa.array([INSTANT // 10**6], pa.timestamp("ms")),
        pa.array([INSTANT // 10**6], pa.int64()),
        pa.array([INSTANT / 10**6], pa.float64()),
    ):
        path = write_table(tmp_path / "t.parquet", pa.table({"t": times, "x": [1.0]}))
        t_ns, _, _, _ = load(path, columns=["x"], time="t")
        assert t_ns.tolist() == [INSTANT]


@pytest.mark.parametrize(
    ("cell", "unit", "reason"),
    [
        ("", "auto", "is not a time"),
        ("yesterday", "auto", "'yesterday' is not a time"),
        ("3/1/2024", "auto", "write 2024-03-01 where the month .* or 2024-01-03 where the day"),
        ("31.12.2024 09:30", "auto", "write 2024-12-31 where the day comes first"),
        ("31/13/2024", "auto", "is not a time: a number, or ISO 8601"),
        ("2014-13-01", "auto", "month must be in 1..12"),
        ("2014-05-01", "ns", "is not a number of ns"),
        ("1e40", "s", "is not a number of s"),
        ("9999999999999", "s", "outside the years 1677 to 2262"),
        ("2300-01-01", "iso", "outside the years 1677 to 2262"),
    ],
)
def test_a_bad_time_is_refused_with_its_place(tmp_path, cell, unit, reason):
    good = "2014-05-01" if unit in ("iso", "auto") else "7"
    path = text_file(tmp_path, f"t,x\n{good},1\n{cell},2\n")
    if unit == "ns":
        path = text_file(tmp_path, f"t,x\n7,1\n{cell},2\n")
    with pytest.raises(DataError, match=rf"ticks\.csv, line 3: column 't': .*{reason}"):
        load(path, columns=["x"], time="t", time_unit=unit)


def test_a_date_without_dashes_is_not_read_as_seconds(tmp_path):
    text = text_file(tmp_path, "t,x\n20240301,1\n20240302,2\n")
    typed = write_table(tmp_path / "t.parquet", pa.table({"t": [20240301, 20240302], "x": [1, 2]}))
    for path in (text, typed):
        with pytest.raises(DataError, match=r"20240301 seems to be a date .*write 2024-03-01"):
            load(path, columns=["x"], time="t")
        t_ns, _, _, _ = load(path, columns=["x"], time="t", time_unit="s")
        assert t_ns.tolist() == [20240301 * 10**9, 20240302 * 10**9]
    t_ns, _, _, _ = load(text_file(tmp_path, "t,x\n20241301,1\n"), columns=["x"], time="t")
    assert t_ns.tolist() == [20241301 * 10**9]


def test_a_column_without_times_is_refused_when_the_file_is_opened(tmp_path):
    path = text_file(tmp_path, "t,x\n,1\n\nlunch,2\ndinner,3\n")
    words = "no time in column 't': line 4: 'lunch' is not a time: a number, or ISO 8601 such as "
    with pytest.raises(DataError, match=words):
        open_file(path, columns=["x"], time="t", on_refusal=print)
