"""Typed tables: Parquet, Arrow and `.npy` files, with their bad cells and damages."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from stream_lstm.errors import ConfigurationError, DataError
from stream_lstm.feed.files import file_columns, open_file

from .reading import T0, load, table, write_table


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow", "t.feather"])
@pytest.mark.parametrize("cell", [None, float("nan"), float("inf")])
def test_bad_cells_of_typed_tables_are_named_with_row_and_column(tmp_path, name, cell):
    data = pa.table({"t": [1, 2, None], "x": pa.array([1.0, cell, 3.0])})
    path = write_table(tmp_path / name, data)
    with pytest.raises(DataError, match=r", row 2: column 'x'"):
        load(path, columns=["x"])
    _, values, _, refusals = load(path, columns=["x"], time="t", on_bad_row="skip")
    assert values.tolist() == [[1.0]]
    assert [refusal.where for refusal in refusals] == [f"{path}:row 2", f"{path}:row 3"]
    assert "column 't'" in refusals[1].reason


def test_a_long_parquet_file_is_not_read_into_memory(tmp_path):
    values = np.random.default_rng(1).normal(size=400_000)
    path = tmp_path / "t.parquet"
    pa.parquet.write_table(pa.table({"x": values}), path, row_group_size=10_000)
    before = pa.total_allocated_bytes()
    with open_file(path, columns=["x"], time=None, on_refusal=print, chunk_rows=10_000) as source:
        sizes = [pa.total_allocated_bytes() - before for _ in source.blocks()]
    assert len(sizes) == 40
    assert max(sizes) < path.stat().st_size / 4


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow", "t.feather"])
def test_a_damaged_table_is_a_data_error(tmp_path, name):
    path = write_table(tmp_path / name, table(20_000))
    content = bytearray(path.read_bytes())
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"is damaged"):
        load(path)


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow", "t.feather"])
def test_a_table_without_rows_or_numbers_is_a_data_error(tmp_path, name):
    with pytest.raises(DataError, match="no rows"):
        load(write_table(tmp_path / name, table(5).slice(0, 0)))
    with pytest.raises(DataError, match="no column of numbers"):
        load(write_table(tmp_path / name, table(5).select(["venue"])))
    with pytest.raises(ConfigurationError, match="'venue' contains string, not numbers"):
        load(write_table(tmp_path / name, table(5)), columns=["venue"])


def test_typed_numbers_of_every_kind_become_float64(tmp_path):
    data = pa.table(
        {
            "f2": pa.array(np.array([0.5, 2], np.float16)),
            "u8": pa.array([2**64 - 1, 3], pa.uint64()),
            "flag": [True, False],
            "money": pa.array(["1.25", "2.50"]).cast(pa.decimal128(9, 2)),
            "code": pa.array([3, 4]).dictionary_encode(),
        }
    )
    path = write_table(tmp_path / "t.arrow", data)
    assert load(path)[1].tolist() == [[0.5, 2.0**64, 1, 1.25, 3], [2, 3, 0, 2.5, 4]]


# ---- .npy -------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_rows", [1, 3, 100])
def test_npy_arrays_have_named_columns(tmp_path, chunk_rows):
    path = tmp_path / "t.npy"
    np.save(path, np.arange(7, dtype=">i4"))
    assert file_columns(path) == ("x",)
    assert load(path, chunk_rows=chunk_rows)[1][:, 0].tolist() == list(range(7))
    with open_file(path, columns=None, time=None, on_refusal=print, chunk_rows=1) as source:
        progress = [source.bytes_read for _ in source.blocks()]
        assert progress == [k * source.bytes_total // 7 for k in range(1, 8)]

    grid = np.asfortranarray(np.arange(21, dtype=np.float32).reshape(7, 3))
    np.save(path, grid)
    assert file_columns(path) == ("c0", "c1", "c2")
    _, values, rows, _ = load(path, columns=["c2", "c0"], chunk_rows=chunk_rows)
    np.testing.assert_array_equal(values, grid[:, [2, 0]])
    assert rows.tolist() == list(range(1, 8))


@pytest.mark.parametrize("kind", [">i8", "M8[ns]", "S32", "U32"])
def test_npy_records_have_fields_and_times(tmp_path, kind):
    text = "2014-05-01T00:00:01.787000001"
    time = T0 if kind == ">i8" else text
    path = tmp_path / "t.npy"
    np.save(path, np.array([(time, 1.5), (time, 2.5)], [("t", kind), ("x", "f4")]))
    t_ns, values, _, _ = load(path, time="t", columns=["x"])
    assert t_ns.tolist() == [T0, T0]
    assert values.tolist() == [[1.5], [2.5]]


def test_npy_bad_cells_are_named_with_row_and_column(tmp_path):
    path = tmp_path / "t.npy"
    np.save(path, np.array([1.0, np.nan, 3.0]))
    with pytest.raises(DataError, match=r"t\.npy, row 2: column 'x': 'nan' is not a finite"):
        load(path)
    assert load(path, on_bad_row="skip")[1].tolist() == [[1.0], [3.0]]


def test_npy_never_unpickles(tmp_path):
    path = tmp_path / "t.npy"
    np.save(path, np.array([{}, None]), allow_pickle=True)
    with pytest.raises(DataError, match=r"not an \.npy file"):
        load(path)


@pytest.mark.parametrize("array", [np.zeros(0), np.zeros((2, 2, 2)), np.float64(3), ["a"], [1j]])
def test_npy_arrays_that_are_not_series_are_refused(tmp_path, array):
    np.save(tmp_path / "t.npy", array)
    with pytest.raises(DataError, match=r"no rows|dimensions|no column of numbers"):
        load(tmp_path / "t.npy")


def test_npy_cut_short_is_a_data_error(tmp_path):
    path = tmp_path / "t.npy"
    np.save(path, np.zeros(1000))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match="damaged"):
        load(path)
