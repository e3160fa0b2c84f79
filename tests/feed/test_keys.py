"""Files whose rows are of many streams: every format names the same ones."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from stream_lstm.errors import ConfigurationError, DataError
from stream_lstm.feed.files import open_file
from stream_lstm.feed.reader import Keys

NAMES = ["EUR USD", "ünï", "7", "EUR USD", "x", "7"]


def rows(path, **options):
    """All ticks as (stream, value), and the refusals."""
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


def csv_file(tmp_path, names, name="ticks.csv"):
    lines = ["symbol,price", *(f"{symbol},{k}" for k, symbol in enumerate(names))]
    path = tmp_path / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def wanted(names=NAMES):
    return [(name, float(k)) for k, name in enumerate(names)]


@pytest.mark.parametrize("chunk_rows", [65536, 2])
def test_a_csv_file_names_the_stream_of_each_row(tmp_path, chunk_rows):
    assert rows(csv_file(tmp_path, NAMES), chunk_rows=chunk_rows) == (wanted(), [])


@pytest.mark.parametrize("dictionary", [False, True])
@pytest.mark.parametrize("kind", ["parquet", "feather"])
def test_a_table_names_the_stream_of_each_row(tmp_path, kind, dictionary):
    symbols = pa.array(NAMES)
    table = pa.table(
        {
            "symbol": symbols.dictionary_encode() if dictionary else symbols,
            "price": np.arange(len(NAMES), dtype=np.float64),
        }
    )
    path = tmp_path / f"ticks.{kind}"
    writer = pyarrow.parquet.write_table if kind == "parquet" else pyarrow.feather.write_feather
    writer(table, path)
    assert rows(path, chunk_rows=4) == (wanted(), [])


def test_numbers_name_streams_as_they_are_written(tmp_path):
    table = pa.table({"symbol": [3, 1, 3], "price": [0.0, 1.0, 2.0]})
    pyarrow.parquet.write_table(table, tmp_path / "ticks.parquet")
    assert rows(tmp_path / "ticks.parquet")[0] == wanted(["3", "1", "3"])


def test_a_row_without_a_name_that_a_stream_can_have_is_left_out_with_the_reason(tmp_path):
    names = ["a", "", "b", "c/d"]
    left = [
        ("3", "column 'symbol': the stream's name is empty"),
        ("5", "column 'symbol': the stream's name 'c/d' contains a '/'"),
    ]
    pairs, refusals = rows(csv_file(tmp_path, names), on_bad_row="skip")
    assert pairs == [("a", 0.0), ("b", 2.0)]
    assert refusals == left
    table = pa.table({"symbol": ["a", None, "b", "c/d"], "price": [0.0, 1.0, 2.0, 3.0]})
    pyarrow.parquet.write_table(table, tmp_path / "ticks.parquet")
    pairs, refusals = rows(tmp_path / "ticks.parquet", on_bad_row="skip")
    assert pairs == [("a", 0.0), ("b", 2.0)]
    assert [reason for _, reason in refusals] == [reason for _, reason in left]


def test_a_row_that_must_be_read_by_itself_has_its_name_too(tmp_path):
    path = tmp_path / "ticks.csv"
    path.write_text("symbol,price\na,1\nb,oops\n\nc,3\n")
    pairs, refusals = rows(path, on_bad_row="skip")
    assert pairs == [("a", 1.0), ("c", 3.0)]
    assert len(refusals) == 1


def test_what_cannot_name_streams_is_refused(tmp_path):
    path = csv_file(tmp_path, ["a"])
    for key, columns in (("symbl", ["price"]), ("price", ["price"])):
        with pytest.raises(ConfigurationError) as refused:
            rows(path, key=key, columns=columns)
        assert refused.value.key == "stream_column"
    np.save(tmp_path / "ticks.npy", np.zeros((3, 2)))
    with pytest.raises(ConfigurationError, match="contains only numbers"):
        rows(tmp_path / "ticks.npy", columns=["c0"])
    with pytest.raises(DataError, match="the stream's name is empty"):
        rows(csv_file(tmp_path, ["a", "", "b"]))


def test_runs_are_the_rows_in_a_row_of_one_stream():
    keys = Keys(("a", "b", "unused"), np.array([1, 1, 0, 1]))
    assert keys.runs() == [("b", 0, 2), ("a", 2, 3), ("b", 3, 4)]
    assert keys.used() == [1, 0]
    assert Keys((), np.zeros(0, np.int64)).used() == []
