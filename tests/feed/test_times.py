"""Times of every form and type, exact to the nanosecond."""

import datetime
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_lstm.errors import DataError, UsageError
from stream_lstm.feed.decode import time_ns
from stream_lstm.feed.files import open_file
from stream_lstm.feed.times import TimeColumn

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
        ("09:30:00", "auto", "a clock without its date: write --time DATE,CLOCK"),
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


@pytest.mark.parametrize(
    ("digits", "time"),
    [
        ("20240301", "2024-03-01"),
        ("2024030109", "2024-03-01T09"),
        ("202403010955", "2024-03-01T09:55"),
        ("20240301095507", "2024-03-01T09:55:07"),
        ("20240301095507089", "2024-03-01T09:55:07.089"),
    ],
)
def test_digits_of_the_calendar_are_never_a_count_since_1970(tmp_path, digits, time):
    expected = [int(np.datetime64(time, "ns").astype(np.int64))] * 2
    text = text_file(tmp_path, f"t,x\n{digits},1\n{digits},2\n")
    typed = write_table(tmp_path / "t.parquet", pa.table({"t": [int(digits)] * 2, "x": [1, 2]}))
    strings = write_table(tmp_path / "u.parquet", pa.table({"t": [digits] * 2, "x": [1, 2]}))
    for path in (text, typed, strings):
        t_ns, _, _, _ = load(path, columns=["x"], time="t")
        assert t_ns.tolist() == expected
    if len(digits) == 8:
        t_ns, _, _, _ = load(text, columns=["x"], time="t", time_unit="s")
        assert t_ns.tolist() == [20240301 * 10**9] * 2
    if len(digits) != 10:
        assert time_ns(int(digits)) == expected[0]
    assert time_ns(2024030109) == 2024030109 * 10**9, "of one alone nothing shows that"


def test_numbers_that_are_no_calendar_dates_are_counts(tmp_path):
    path = text_file(tmp_path, "t,x\n20240301,1\n20241301,2\n")
    t_ns, _, _, _ = load(path, columns=["x"], time="t")
    assert t_ns.tolist() == [20240301 * 10**9, 20241301 * 10**9]
    path = text_file(tmp_path, "t,x\n20240301,1\n" + "20240302,1\n" * 1000 + "20241301,2\n")
    with pytest.raises(DataError, match=r"line 1003: .*'20241301' is not a time: month must be"):
        load(path, columns=["x"], time="t")


DATES = st.datetimes(datetime.datetime(1971, 1, 1), datetime.datetime(2099, 12, 31))
ZONES = {"": 0, "Z": 0, " UTC": 0, "+02:00": 7200, "-0530": -19800, " GMT": 0}
SHAPES = (
    "{Y}-{m}-{d}T{H}:{M}:{S}.{f}",
    "{Y}/{m}/{d} {H}:{M}:{S}.{f}",
    "{Y}.{m}.{d}D{H}:{M}:{S}.{f}",
    "{Y}-{m}-{d}D{H}:{M}:{S}.{f}",
    "{Y}-{m}-{d} {h}:{M}:{S},{f}",
    "{Y}{m}{d} {H}{M}{S}{f}",
    "{Y}{m}{d}T{H}{M}{S}.{f}",
    "{d} {b} {Y} {H}:{M}:{S}.{f}",
    "{b} {D}, {Y} {H}:{M}:{S}.{f}",
    "{Y}-{n}-{D} {I}:{M}:{S}.{f} {p}",
)


def written(shape: str, at: datetime.datetime, fraction: int) -> str:
    parts = {key: at.strftime(f"%{key}") for key in "YmdHMSbIp"}
    more = {"f": f"{fraction:09d}", "h": str(at.hour), "D": str(at.day), "n": str(at.month)}
    return shape.format(**parts, **more)


def nanoseconds(at: datetime.datetime, fraction: int, offset_s: int = 0) -> int:
    days = at.toordinal() - datetime.date(1970, 1, 1).toordinal()
    seconds = days * 86_400 + at.hour * 3600 + at.minute * 60 + at.second - offset_s
    return seconds * 10**9 + fraction


@settings(max_examples=150)
@given(
    st.lists(st.tuples(DATES, st.integers(0, 10**9 - 1)), min_size=1, max_size=4),
    st.sampled_from(SHAPES),
    st.sampled_from(sorted(ZONES)),
)
def test_a_time_of_any_form_is_read_exactly(tmp_path_factory, times, shape, zone):
    cells = [written(shape, at, fraction) + zone for at, fraction in times]
    body = "".join(f'"{cell}",1\n' for cell in cells)
    path = text_file(tmp_path_factory.mktemp("t"), f"t,x\n{body}")
    expected = [nanoseconds(at, fraction, ZONES[zone]) for at, fraction in times]
    t_ns, _, _, _ = load(path, columns=["x"], time="t")
    assert t_ns.tolist() == expected
    strings = pa.table({"t": cells, "x": [1.0] * len(cells)})
    typed = write_table(path.with_suffix(".parquet"), strings)
    assert load(typed, columns=["x"], time="t")[0].tolist() == expected


@pytest.mark.parametrize(("proof", "month"), [("31/12/2024", 4), ("12/31/2024", 3)])
def test_an_order_once_proven_is_that_of_all_cells(proof, month):
    column = TimeColumn()
    column.settle_all([proof, "03/04/2024"])
    t_ns, ok = column.convert(pa.array(["03/04/2024"] * 2))
    expected = np.datetime64(f"2024-{month:02d}-{7 - month:02d}", "ns").astype(np.int64)
    assert ok.all()
    assert t_ns.tolist() == [expected] * 2 == [column.parse("3/4/2024")] * 2


@pytest.mark.parametrize(
    ("cells", "unit"),
    [
        (["45352.41319444", "45352.41666667"], "excel"),
        (["45352.41319401", "45352.41666612"], "s"),
        (["45352.41319", "45352.41666"], "s"),
        (["45352", "45353"], "s"),
        (["15352.41319444", "15352.41666667"], "s"),
    ],
)
def test_numbers_are_days_of_excel_only_with_whole_seconds_or_of_dates(cells, unit):
    column = TimeColumn()
    column.settle_all(cells, "t")
    assert column.unit == unit


@settings(max_examples=60)
@given(
    st.lists(DATES, min_size=1, max_size=6),
    st.sampled_from("/.-"),
    st.sampled_from(("%d{}%m{}%Y", "%m{}%d{}%Y")),
    st.booleans(),
)
def test_an_order_of_day_and_month_is_proven_or_refused(
    tmp_path_factory, times, sign, form, clock
):
    form = form.replace("{}", sign) + " %H:%M:%S.%f" * clock
    body = "".join(f"{at.strftime(form)},1\n" for at in times)
    path = text_file(tmp_path_factory.mktemp("t"), f"t,x\n{body}")
    expected = [
        nanoseconds(at, at.microsecond * 1000) if clock else nanoseconds(at.replace(**MIDNIGHT), 0)
        for at in times
    ]
    given_form = load(path, columns=["x"], time="t", time_format=form)[0].tolist()
    assert given_form == expected
    if all(at.day <= 12 for at in times):
        with pytest.raises(DataError, match=r"where the month comes first .* or .*where the day"):
            load(path, columns=["x"], time="t")
    else:
        assert load(path, columns=["x"], time="t")[0].tolist() == expected


MIDNIGHT = {"hour": 0, "minute": 0, "second": 0, "microsecond": 0}


def test_the_message_names_formats_that_read_the_time(tmp_path):
    path = text_file(tmp_path, "t,x\n03/04/2024 9:30:05.5 PM,1\n")
    with pytest.raises(DataError) as caught:
        load(path, columns=["x"], time="t")
    formats = re.findall("--time-format '([^']*)'", str(caught.value))
    assert formats == ["%m/%d/%Y %I:%M:%S.%f %p", "%d/%m/%Y %I:%M:%S.%f %p"]
    read = [load(path, columns=["x"], time="t", time_format=form)[0][0] for form in formats]
    assert np.array(read, "M8[ns]").astype(str).tolist() == [
        "2024-03-04T21:30:05.500000000",
        "2024-04-03T21:30:05.500000000",
    ]


@pytest.mark.parametrize(
    ("form", "why"), [("%d/%m", "needs a year"), ("%Q", "%Q is unknown"), ("%Y%Y%m%d", "twice")]
)
def test_an_invalid_format_is_refused(tmp_path, form, why):
    path = text_file(tmp_path, "t,x\n1,1\n")
    with pytest.raises(UsageError, match=why):
        load(path, columns=["x"], time="t", time_format=form)


@pytest.mark.parametrize("pair", [("ms", "us"), ("us", "ms"), ("s", "ms"), ("ns", "us")])
def test_a_change_of_unit_is_named(tmp_path, pair):
    units = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
    times = [INSTANT + k * 10**9 for k in range(4)]
    cells = [t // units[pair[k > 1]] for k, t in enumerate(times)]
    text = text_file(tmp_path, "t,x\n" + "".join(f"{cell},1\n" for cell in cells))
    typed = write_table(tmp_path / "t.parquet", pa.table({"t": cells, "x": [1.0] * 4}))
    for path in (text, typed):
        words = f"is in {pair[1]}, but the times before it are in {pair[0]}.*--time-format epoch"
        with pytest.raises(DataError, match=words):
            load(path, columns=["x"], time="t")
        t_ns, _, _, _ = load(path, columns=["x"], time="t", time_format="epoch")
        step = units[max(pair, key=units.__getitem__)]
        assert (abs(t_ns - np.array(times)) < step).all()


def test_parts_of_a_time_in_several_columns_are_joined(tmp_path):
    table = {"day": [20240301, 20240301], "clock": [95500, 100000], "x": [1.0, 2.0]}
    text = text_file(tmp_path, "day,clock,x\n20240301,95500,1\n20240301,100000,2\n")
    typed = write_table(tmp_path / "t.parquet", pa.table(table))
    iso = text_file(tmp_path, "x,clock,day\n1,09:55:00,2024-03-01\n2,10:00,2024-03-01\n", "i.csv")
    for path in (text, typed, iso):
        t_ns, values, _, _ = load(path, columns=None, time="day,clock")
        assert values.tolist() == [[1.0], [2.0]]
        assert np.diff(t_ns).tolist() == [300 * 10**9]
        assert t_ns[0] == np.datetime64("2024-03-01T09:55", "ns").astype(np.int64)
    parts = text_file(tmp_path, "y,m,d,h,x\n2010,1,2,0,5\n2010,1,2,13,6\n")
    t_ns, _, _, _ = load(parts, columns=["x"], time="y,m,d,h")
    assert t_ns.astype("M8[ns]").astype("M8[h]").astype(str).tolist() == [
        "2010-01-02T00",
        "2010-01-02T13",
    ]


def test_days_of_excel_are_times(tmp_path):
    day, times = 45352, ["2024-03-01T09:55", "2024-03-01T10:00"]
    cells = [repr(day + minutes / 1440) for minutes in (595, 600)]
    expected = np.array(times, "M8[ns]").astype(np.int64).tolist()
    whole = text_file(tmp_path, "Date,x\n45352,1\n45353,2\n", "whole.csv")
    assert load(whole, columns=["x"], time="Date")[0].tolist() == [
        np.datetime64(date, "ns").astype(np.int64) for date in ("2024-03-01", "2024-03-02")
    ]
    named = text_file(tmp_path, f"date,x\n{cells[0]},1\n{cells[1]},2\n")
    typed = pa.table({"date": [float(cell) for cell in cells], "x": [1, 2]})
    typed_path = write_table(tmp_path / "t.parquet", typed)
    for path in (named, typed_path):
        assert load(path, columns=["x"], time="date", time_format="excel")[0].tolist() == expected
    assert load(named, columns=["x"], time="date")[0].tolist() == expected
    counts = text_file(tmp_path, "t,x\n45352.5,1\n45353.5,2\n", "counts.csv")
    assert load(counts, columns=["x"], time="t")[0].tolist() == [45352_500000000, 45353_500000000]


def test_a_column_without_times_is_refused_when_the_file_is_opened(tmp_path):
    path = text_file(tmp_path, "t,x\n,1\n\nlunch,2\ndinner,3\n")
    words = "no time in column 't': line 4: 'lunch' is not a time: a number, or ISO 8601 such as "
    with pytest.raises(DataError, match=words):
        open_file(path, columns=["x"], time="t", on_refusal=print)
