"""Historical files: every format gives the same ticks, and every error its place."""

import gzip
import math
import tracemalloc
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_lstm.errors import (
    ConfigurationError,
    DataError,
    InputMissingError,
    OutputError,
)
from stream_lstm.feed import rows as rows_module
from stream_lstm.feed.dialect import Asked
from stream_lstm.feed.files import file_columns, open_file

from .reading import TABLES, load, table, text_file, write_table


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("chunk_rows", [7, 65536])
def test_every_format_gives_the_same_ticks(tmp_path, name, chunk_rows):
    data = table()
    path = write_table(tmp_path / name, data)
    t_ns, values, rows, _ = load(
        path, columns=["size", "bid"], time="time_ns", chunk_rows=chunk_rows
    )
    first = 2 if "sv" in name else 1
    np.testing.assert_array_equal(t_ns, data["time_ns"].to_numpy())
    np.testing.assert_array_equal(values[:, 0], data["size"].to_numpy())
    np.testing.assert_array_equal(values[:, 1], data["bid"].to_numpy())
    np.testing.assert_array_equal(rows, np.arange(first, first + 200))


@pytest.mark.parametrize("name", TABLES)
def test_blocks_are_bounded_and_progress_reaches_the_end(tmp_path, name):
    path = write_table(tmp_path / name, table())
    with open_file(path, columns=None, time="time_ns", on_refusal=print, chunk_rows=32) as source:
        assert source.columns == ("time_ns", "bid", "size", "venue")
        assert source.value_columns == ("bid", "size")
        done = 0
        for block in source.blocks():
            assert len(block.rows) <= 32
            assert done <= source.bytes_read <= source.bytes_total
            done = source.bytes_read
        assert source.bytes_read >= 0.99 * source.bytes_total == 0.99 * path.stat().st_size


@pytest.mark.parametrize("name", TABLES)
def test_names_are_read_without_rows_and_rows_without_columns(tmp_path, name):
    path = write_table(tmp_path / name, table(10))
    assert file_columns(path) == ("time_ns", "bid", "size", "venue")
    t_ns, values, _, _ = load(path, columns=())
    assert values.shape == (10, 0)
    assert not t_ns.any()


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_the_time_can_be_a_value_too(tmp_path, name):
    path = write_table(tmp_path / name, table(10))
    t_ns, values, _, _ = load(path, columns=["time_ns"], time="time_ns")
    np.testing.assert_array_equal(values[:, 0], t_ns.astype(np.float64))


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("on_bad_row", ["fail", "skip"])
def test_a_limit_counts_ticks(tmp_path, name, on_bad_row):
    path = write_table(tmp_path / name, table())
    _, _, rows, _ = load(path, limit=10, chunk_rows=4, on_bad_row=on_bad_row)
    assert len(rows) == 10


def test_a_limit_stops_the_reading(tmp_path):
    path = write_table(tmp_path / "t.csv", table(20_000))
    with open_file(
        path, columns=None, time=None, limit=10, chunk_rows=4, on_refusal=print
    ) as source:
        assert sum(len(block.rows) for block in source.blocks()) == 10
    assert source.bytes_read < source.bytes_total / 10


# ---- real files -------------------------------------------------------------------------------

REAL = {
    "eurusd_quotes.csv.gz": (1_144_807, "time_ns"),
    "ibm_trades.csv.gz": (126_395, "time_ns"),
    "btcusdt_book.csv.gz": (66_089, "time_ns"),
    "btcusdt_trades.csv.gz": (21_313, "time_ns"),
    "gbpusd_minutes.csv.gz": (30_117, "timestamp"),
    "nyc_taxi.csv": (10_320, "timestamp"),
    "machine_temperature.csv": (22_695, "timestamp"),
    "elec2.csv.gz": (45_312, None),
}


@pytest.mark.parametrize("name", REAL)
def test_real_files_are_read_whole(data_dir, name):
    count, time = REAL[name]
    t_ns, values, rows, _ = load(data_dir / name, time=time)
    assert len(values) == count
    np.testing.assert_array_equal(rows, np.arange(2, count + 2))
    if time:
        assert np.datetime64("2012-01-01") < t_ns.min().astype("datetime64[ns]")
        assert t_ns.max().astype("datetime64[ns]") < np.datetime64("2025-01-01")


def test_real_values_equal_those_of_numpy(data_dir):
    path = data_dir / "btcusdt_trades.csv.gz"
    t_ns, values, _, _ = load(path, columns=["price", "qty"], time="time_ns")
    expected = np.loadtxt(path, delimiter=",", skiprows=1, usecols=(3, 4))
    times = np.loadtxt(path, delimiter=",", skiprows=1, usecols=0, dtype=np.int64)
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(t_ns, times)


def test_memory_does_not_grow_with_the_file(data_dir):
    def peak(limit):
        tracemalloc.start()
        pool = pa.total_allocated_bytes()
        with open_file(
            data_dir / "eurusd_quotes.csv.gz",
            columns=["bid", "ask"],
            time="time_ns",
            limit=limit,
            on_refusal=print,
        ) as source:
            arrow = max(pa.total_allocated_bytes() - pool for _ in source.blocks())
        python = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return python + arrow

    assert peak(None) < 1.5 * peak(300_000)


# ---- bad rows ---------------------------------------------------------------------------------

BAD_CELLS = ["", "  ", "n/a", "NULL", "nan", "inf", "-Infinity", "1_000", "1,5,6", '"1', "--3"]


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        ("1,234.5", 1234.5),
        ("-1,234,567", -1234567),
        ("1'234.5", 1234.5),
        ("1.234,5", 1234.5),
        ("1 234,5", 1234.5),
        ("0,25", 0.25),
        ("$2.50", 2.5),
        ("1.5K", 1500),
    ],
)
@pytest.mark.parametrize("more", [0, 5000])
def test_a_number_in_another_form_is_read(tmp_path, cell, number, more):
    rows = "".join(f'{k},"{cell}"\n' for k in range(2 + more))
    _, values, _, _ = load(text_file(tmp_path, f"i,x\n{rows}"))
    assert values[:, 1].tolist() == [number] * (2 + more)


def test_a_number_that_can_be_two_is_refused_unless_its_sign_is_given(tmp_path):
    path = text_file(tmp_path, 'i,x\n1,2\n2,"1,234"\n')
    for options in ({}, {"columns": ["x"]}):
        with pytest.raises(DataError, match=r"line 3: column 'x': '1,234' is amb.*--decimal"):
            load(path, **options)
    for sign, number in ((".", 1234), (",", 1.234)):
        _, values, _, _ = load(path, columns=["x"], asked=Asked(decimal=sign))
        assert values[:, 0].tolist() == [2, number]


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (
            "buy sell",
            "'buy' is not a finite number; column 'x' contains no number in any",
        ),
        ("1,234 2,234", r"'1,234' is ambiguous: .*; none of the first 2 rows can be used"),
    ],
)
def test_if_every_row_is_bad_skipping_is_not_advised(tmp_path, cells, words):
    rows = "".join(f'"{cell}"\n' for cell in cells.split())
    path = text_file(tmp_path, f"x\n{rows}")
    with pytest.raises(DataError, match=words) as caught:
        load(path, columns=["x"])
    assert "--on-bad-row" not in str(caught.value)


def cell_name(cell):
    return cell.strip() or f"blank{len(cell)}"


@pytest.mark.parametrize("cell", BAD_CELLS, ids=cell_name)
@pytest.mark.parametrize("name", ["ticks.csv", "ticks.csv.gz"])
def test_a_bad_cell_is_named_with_line_and_column(tmp_path, cell, name):
    rows = [f"{i},{i / 4}" for i in range(50)]
    rows[30] = f"30,{cell}"
    text = ("i,x\n" + "\n".join(rows) + "\n").encode()
    path = text_file(tmp_path, gzip.compress(text) if name.endswith("gz") else text, name)
    with pytest.raises(DataError, match=rf"{name}, line 32: .*\(--on-bad-row skip") as caught:
        load(path, chunk_rows=7)
    if "," not in cell and '"' not in cell:
        assert "column 'x'" in str(caught.value)
        assert (repr(cell) if cell.strip() else "is empty") in str(caught.value)

    _, values, lines, refusals = load(path, chunk_rows=7, on_bad_row="skip")
    np.testing.assert_array_equal(values[:, 0], [i for i in range(50) if i != 30])
    assert lines.tolist() == [n for n in range(2, 52) if n != 32]
    assert [(r.kind, r.where, r.stream) for r in refusals] == [("tick", f"{path}:32", "")]


def test_rows_before_a_bad_one_are_given_and_rows_after_a_limit_are_ignored(tmp_path):
    path = text_file(tmp_path, "x\n1\n2\nbad\n4\n")
    with open_file(path, columns=["x"], time=None, on_refusal=print) as source:
        blocks = source.blocks()
        assert next(blocks).values[:, 0].tolist() == [1, 2]
        with pytest.raises(DataError, match="line 4"):
            next(blocks)
    for on_bad_row in ("fail", "skip"):
        _, values, _, refusals = load(path, limit=2, on_bad_row=on_bad_row)
        assert values[:, 0].tolist() == [1, 2]
        assert refusals == []


@pytest.mark.parametrize("row", ["1", "1,2,3", "1,2,"])
def test_a_wrong_number_of_fields_is_a_bad_row(tmp_path, row):
    path = text_file(tmp_path, f"a,b\n1,2\n{row}\n3,4\n")
    found = row.count(",") + 1
    with pytest.raises(DataError, match=f"line 3: {found} fields, but the header has 2"):
        load(path)
    _, values, _, refusals = load(path, on_bad_row="skip")
    assert values.tolist() == [[1, 2], [3, 4]]
    assert len(refusals) == 1


def test_a_bad_cell_in_an_unwanted_column_is_ignored(tmp_path):
    path = text_file(tmp_path, "a,b\n1,\n2,oops\n")
    _, values, _, _ = load(path, columns=["a"])
    assert values[:, 0].tolist() == [1, 2]


def test_nothing_left_is_an_error(tmp_path):
    path = text_file(tmp_path, "a,b\n1,x\n2,\n")
    with pytest.raises(DataError, match=r"none of its 2 rows can be used; \S+:2: column"):
        load(path, columns=["b"], on_bad_row="skip")


cells = st.sampled_from(["1", "2.5", "-3e2", "+4", "", "nan", "x", '"5"', '6"'])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(cells, cells).map(",".join) | st.sampled_from(["", " ", "1", "\r"])),
    st.integers(1, 3),
)
def test_arrow_and_the_line_by_line_parser_agree(tmp_path_factory, rows, chunk_rows):
    """A poisoned last line forces the slow parser; without it the fast one runs where it can."""
    folder = tmp_path_factory.mktemp("csv")
    text = "a,b\n" + "7,8\n" * 20 + "".join(f"{row}\n" for row in rows)
    fast = text_file(folder, text, "fast.csv")
    slow = text_file(folder, text + "1,2,3,4\n", "slow.csv")
    quick = load(fast, on_bad_row="skip", chunk_rows=chunk_rows, columns=["b"])
    careful = load(slow, on_bad_row="skip", chunk_rows=chunk_rows, columns=["b"])
    for one, other in zip(quick[:3], careful[:3], strict=True):
        np.testing.assert_array_equal(one, other)
    assert [r.reason for r in quick[3]] == [r.reason for r in careful[3][:-1]]


# ---- text details -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "a,b\r\n1,2\r\n3,4\r\n",
        "\ufeffa,b\n1,2\n3,4",
        "a, b \n 1 , 2\n3,4\n",
        '"a","b"\n"1","2"\n3,"4"\n',
        "a,b\n+1,2\n3,4\n",
    ],
)
def test_dialects_of_csv_give_the_same(tmp_path, text):
    _, values, rows, _ = load(text_file(tmp_path, text), columns=["a", "b"])
    assert values.tolist() == [[1, 2], [3, 4]]
    assert rows.tolist() == [2, 3]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("header", ["a,b", "a,b,c"])
def test_blank_lines_are_skipped_and_counted(tmp_path, end, header):
    row = ",".join("1" for _ in header.split(","))
    lines = ["", header, "", row, " ", "", row, ""]
    _, values, rows, _ = load(text_file(tmp_path, end.join(lines) + end))
    assert len(values) == 2
    assert rows.tolist() == [4, 7]


def test_numeric_columns_are_found_after_empty_cells(tmp_path):
    path = text_file(tmp_path, "a,b,c\n,x,\n1,y,\n")
    with open_file(path, columns=None, time=None, on_refusal=print) as source:
        assert source.value_columns == ("a",)


def test_a_repeated_name_is_an_error_only_if_wanted(tmp_path):
    path = text_file(tmp_path, "a,b,a\n1,2,3\n")
    assert file_columns(path) == ("a", "b", "a")
    assert load(path, columns=["b"])[1].tolist() == [[2]]
    for columns in (["a"], None):
        with pytest.raises(DataError, match="more than one column 'a'"):
            load(path, columns=columns)


def test_an_endless_line_is_refused_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "MAX_ROW_BYTES", 10_000)
    path = text_file(tmp_path, "a\n1\n" + "7" * 50_000)
    with pytest.raises(DataError, match=r"line 3 is longer than 10000 bytes"):
        load(path, chunk_rows=1)


# ---- files that will not do -------------------------------------------------------------------


def test_a_missing_file_names_its_neighbour(tmp_path):
    text_file(tmp_path, "a\n1\n")
    with pytest.raises(InputMissingError, match=r"no such file: .*tick\.csv; did.*'ticks\.csv'"):
        load(tmp_path / "tick.csv")


def test_a_directory_is_refused(tmp_path):
    (tmp_path / "ticks.csv").mkdir()
    with pytest.raises(InputMissingError, match="is a directory"):
        load(tmp_path / "ticks.csv")


def test_an_unreadable_file_names_the_reason(tmp_path, monkeypatch):
    path = text_file(tmp_path, "a\n1\n")

    error = PermissionError(13, "Permission denied")
    monkeypatch.setattr(type(path), "open", Mock(side_effect=error))
    with pytest.raises(OutputError, match=r"cannot read .*ticks\.csv: Permission denied"):
        load(path)


@pytest.mark.parametrize("name", ["ticks.xlsx", "ticks", "ticks.gz", "TICKS.CSV", "t.parquet"])
def test_the_name_of_a_file_does_not_matter(tmp_path, name):
    assert load(text_file(tmp_path, "a\n1\n", name))[1].tolist() == [[1]]


@pytest.mark.parametrize("name", TABLES)
def test_an_unknown_column_lists_the_existing_ones(tmp_path, name):
    path = write_table(tmp_path / name, table(5))
    with pytest.raises(ConfigurationError, match=r"'bit'; did you mean 'bid'.*time_ns, bid") as e:
        load(path, columns=["bit"])
    assert e.value.key == "features"
    with pytest.raises(ConfigurationError, match="'time'; did you mean 'time_ns'") as e:
        load(path, time="time")
    assert e.value.key == "time"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("a,b\n", "a header and no rows"),
        ("a,b\n\n \n", "a header and no rows"),
        ("a,b\nx,y\n", "no column of numbers"),
        ("a,1\n5,2\n6,3\n", "line 1: '1' is a number and cannot be the name"),
    ],
)
def test_csv_without_header_or_rows(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        load(text_file(tmp_path, text))


@pytest.mark.parametrize("delimiter", [",", ";", "|", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "cp1252"])
def test_delimiters_and_encodings_are_found(tmp_path, delimiter, encoding):
    text = "zeit;größe;preis\n2024-01-01;1.5;1.6\n2024-01-02;2.5;2.6\n"
    path = text_file(tmp_path, text.replace(";", delimiter).encode(encoding), "t.tsv")
    assert file_columns(path) == ("zeit", "größe", "preis")
    assert load(path)[1].tolist() == [[1.5, 1.6], [2.5, 2.6]]


@pytest.mark.parametrize(
    "text",
    [
        "2024-03-01 09:00:00,1234.5,3031,sell\n" * 2,
        "2019,2020\n1,2\n",
        "name,2019,2020\nx,1,2\ny,3,4\n",
    ],
)
def test_a_first_row_that_looks_like_data_is_no_header(tmp_path, text):
    path = text_file(tmp_path, text)
    width = text.split("\n")[0].count(",") + 1
    assert file_columns(path) == tuple(f"c{k}" for k in range(width))
    assert load(path)[2].tolist() == list(range(1, text.count("\n") + 1))
    names = tuple("abcd"[:width])
    assert file_columns(path, Asked(names=names)) == names
    lines = load(path, asked=Asked(names=names, skip_lines=1))[2]
    assert lines.tolist() == list(range(2, text.count("\n") + 1))


def test_names_in_a_header_may_contain_separators(tmp_path):
    path = text_file(tmp_path, "a;b\n1\n2\n")
    assert load(path)[1].tolist() == load(path, columns=["a;b"])[1].tolist() == [[1], [2]]


@pytest.mark.parametrize("name", [name for name in TABLES if name.endswith((".gz", ".zst"))])
def test_a_compressed_file_cut_short_says_where(tmp_path, name):
    path = write_table(tmp_path / name, table(20_000))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"damaged or cut short: Truncated"):
        load(path, chunk_rows=100)


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow", "t.feather", "t.csv.gz", "t.npy"])
@pytest.mark.parametrize("content", [b"", b"PAR1 or what", b"\x93NUMPY\x01\x00" * 20])
def test_a_file_of_another_kind_is_a_data_error(tmp_path, name, content):
    path = text_file(tmp_path, content, name)
    with pytest.raises(DataError, match=r"t\.(parquet|arrow|feather|csv\.gz|npy)"):
        load(path)


def test_an_empty_line_in_a_file_of_one_column_is_an_empty_cell(tmp_path):
    file = text_file(tmp_path, "x\n1\n\n3\n\n\n")
    with pytest.raises(DataError, match="line 3: column 'x' is empty"):
        load(file)
    _, values, rows, refusals = load(file, on_bad_row="skip")
    assert values.tolist() == [[1.0], [3.0]]
    assert rows.tolist() == [2, 4]
    assert [refusal.where for refusal in refusals] == [f"{file}:3"]


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.arrow", "t.npy"])
def test_an_optional_column_gives_nan_for_empty_cells(tmp_path, name):
    a, b = [1.0, 2.0, 3.0], [4.0, math.nan, 6.0]
    path = tmp_path / name
    if name == "t.csv":
        path.write_text("a,b\n1,4\n2,\n3,6\n")
    elif name == "t.npy":
        np.save(path, np.array(list(zip(a, b, strict=True)), [("a", "f8"), ("b", "f8")]))
    else:
        write_table(path, pa.table({"a": a, "b": b}))
    _, values, _, refusals = load(path, columns=["a", "b"], optional=("b",))
    assert not refusals
    assert np.isnan(values[:, 1]).tolist() == [False, True, False]
    assert values[:, 0].tolist() == a
    for optional in ((), ("a",)):
        with pytest.raises(DataError, match="'b'"):
            load(path, columns=["a", "b"], optional=optional)


@pytest.mark.parametrize("cell", ["oops", "inf", "-inf"])
def test_other_bad_cells_of_an_optional_column_are_refused(tmp_path, cell):
    path = text_file(tmp_path, f"a,b\n1,4\n2,{cell}\n")
    with pytest.raises(DataError, match=r"line 3.*'b'"):
        load(path, columns=["a", "b"], optional=("b",))
