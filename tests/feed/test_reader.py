"""Streams of a file's rows, old rows, and blocks that are read ahead."""

import threading

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from stream_lstm.errors import ConfigurationError, DataError
from stream_lstm.feed.files import AHEAD, TimeOrder, open_file, read_ahead
from stream_lstm.feed.reader import Keys

# ---- streams ----------------------------------------------------------------------------------

NAMES = ["EUR USD", "ünï", "7", "EUR USD", "x", "7"]


def keys_from(names):
    """Return the keys of rows with these names."""
    known = list(dict.fromkeys(names))
    return Keys(tuple(known), np.array([known.index(name) for name in names], np.int64))


def rows(path, **options):
    """All ticks as (stream, value), and the refusals as (place, reason)."""
    refusals = []
    options = {"columns": ["price"], "time": None, "key": "symbol", **options}
    with open_file(path, on_refusal=refusals.append, **options) as source:
        blocks = list(source.blocks())
    pairs = [
        (block.keys.names[code], value)
        for block in blocks
        for code, value in zip(block.keys.codes, block.values[:, 0], strict=True)
    ]
    return pairs, [(refusal.where.rpartition(":")[2], refusal.reason) for refusal in refusals]


def csv_file(tmp_path, names):
    lines = ["symbol,price", *(f"{symbol},{k}" for k, symbol in enumerate(names))]
    path = tmp_path / "ticks.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def table_file(tmp_path, symbols, kind="parquet"):
    table = pa.table({"symbol": symbols, "price": np.arange(len(symbols), dtype=np.float64)})
    path = tmp_path / f"ticks.{kind}"
    writer = pyarrow.parquet.write_table if kind == "parquet" else pyarrow.feather.write_feather
    writer(table, path)
    return path


def wanted(names=NAMES):
    return [(name, float(k)) for k, name in enumerate(names)]


@pytest.mark.parametrize("chunk_rows", [65536, 2])
def test_a_csv_file_names_the_stream_of_each_row(tmp_path, chunk_rows):
    assert rows(csv_file(tmp_path, NAMES), chunk_rows=chunk_rows) == (wanted(), [])


@pytest.mark.parametrize("dictionary", [False, True])
@pytest.mark.parametrize("kind", ["parquet", "feather"])
def test_a_table_names_the_stream_of_each_row(tmp_path, kind, dictionary):
    symbols = pa.array(NAMES).dictionary_encode() if dictionary else pa.array(NAMES)
    assert rows(table_file(tmp_path, symbols, kind), chunk_rows=4) == (wanted(), [])


def test_numbers_name_streams_by_their_text(tmp_path):
    assert rows(table_file(tmp_path, [3, 1, 3]))[0] == wanted(["3", "1", "3"])


def test_a_row_with_an_invalid_name_is_skipped_with_the_reason(tmp_path):
    reasons = [
        "column 'symbol': the stream's name is empty",
        "column 'symbol': the stream's name 'c/d' contains a '/'",
    ]
    pairs, refusals = rows(csv_file(tmp_path, ["a", "", "b", "c/d"]), on_bad_row="skip")
    assert pairs == [("a", 0.0), ("b", 2.0)]
    assert refusals == list(zip("35", reasons, strict=True))
    pairs, refusals = rows(table_file(tmp_path, ["a", None, "b", "c/d"]), on_bad_row="skip")
    assert pairs == [("a", 0.0), ("b", 2.0)]
    assert [reason for _, reason in refusals] == reasons


def test_a_row_that_is_parsed_alone_has_its_name_too(tmp_path):
    path = tmp_path / "ticks.csv"
    path.write_text("symbol,price\na,1\nb,oops\n\nc,3\n")
    pairs, refusals = rows(path, on_bad_row="skip")
    assert pairs == [("a", 1.0), ("c", 3.0)]
    assert len(refusals) == 1


def test_columns_that_cannot_name_streams_are_refused(tmp_path):
    path = csv_file(tmp_path, ["a"])
    for key in ("symbl", "price"):
        with pytest.raises(ConfigurationError) as refused:
            rows(path, key=key)
        assert refused.value.key == "stream_column"
    np.save(tmp_path / "ticks.npy", np.zeros((3, 2)))
    with pytest.raises(ConfigurationError, match="contains only numbers"):
        rows(tmp_path / "ticks.npy", columns=["c0"])
    with pytest.raises(DataError, match="the stream's name is empty"):
        rows(csv_file(tmp_path, ["a", "", "b"]))


def test_runs_are_consecutive_rows_of_one_stream():
    keys = Keys(("a", "b", "unused"), np.array([1, 1, 0, 1]))
    assert keys.runs() == [("b", 0, 2), ("a", 2, 3), ("b", 3, 4)]
    assert keys.used() == [1, 0]
    assert Keys((), np.zeros(0, np.int64)).used() == []


# ---- old rows ---------------------------------------------------------------------------------


def looked(times, names=None, cut=100, same=False):
    """The count and the first row number of old rows, read in blocks of `cut`."""
    order, numbers = TimeOrder(), np.arange(2, 2 + len(times))
    values = np.zeros((len(numbers), 1)) if same else numbers[:, None].astype(float)
    for start in range(0, len(times), cut):
        part = slice(start, start + cut)
        keys = None if names is None else keys_from(names[part])
        order.look(np.array(times[part], np.int64), values[part], numbers[part], keys)
    return order.count, order.first


@pytest.mark.parametrize("cut", [1, 2, 3, 100])
def test_old_rows_are_counted_in_each_stream(cut):
    assert looked([1, 2, 2, 3], cut=cut) == (0, 0)
    assert looked([5, 4, 3], cut=cut) == (2, 3)
    assert looked([1, 5, 2, 3, 4], cut=cut) == (3, 4)
    assert looked([1, 2, 2, 3, 3], cut=cut) == (0, 0)
    assert looked([1, 2, 2, 3, 3], cut=cut, same=True) == (2, 4), "time and values repeat"
    assert looked([9, 1, 10, 2], "abab", cut) == (0, 0)
    assert looked([9, 1, 8, 2, 9, 1], "ababab", cut) == (2, 4)


def test_old_rows_are_reported_in_one_line():
    order = TimeOrder()
    assert order.warning("here") == ""
    order.look(np.array([3, 2], np.int64), np.zeros((2, 1)), np.arange(2))
    assert order.warning("f.csv:3").startswith("f.csv:3: the time goes back, or the row repeats")
    assert " in all " not in order.warning("f.csv:3")
    order.look(np.array([1], np.int64), np.zeros((1, 1)), np.arange(1))
    assert "; 2 rows in all are like this;" in order.warning("f.csv:3")


# ---- reading ahead ----------------------------------------------------------------------------


def numbers(count, taken, error=None):
    for k in range(count):
        taken.append(k)
        yield k
    if error is not None:
        raise error


def test_blocks_are_read_ahead_in_order_and_an_error_follows_them():
    with read_ahead(numbers(20, [])) as blocks:
        assert list(blocks) == list(range(20))
    with read_ahead(numbers(5, [], ValueError("row 6"))) as blocks:
        assert [next(blocks) for _ in range(5)] == [0, 1, 2, 3, 4]
        with pytest.raises(ValueError, match="row 6"):
            next(blocks)


def test_leaving_early_ends_the_thread_after_few_blocks():
    taken = []
    with read_ahead(numbers(1000, taken)) as blocks:
        assert next(blocks) == 0
    assert len(taken) <= AHEAD + 3
    assert not any(thread.name == "read-ahead" for thread in threading.enumerate())
