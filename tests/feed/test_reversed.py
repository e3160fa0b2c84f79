"""Files whose newest row is first, read from the last row on."""

import numpy as np
import pyarrow as pa
import pytest

from stream_lstm.errors import DataError
from stream_lstm.feed import reversed as reading

from .reading import load, text_file, write_table


@pytest.mark.parametrize("chunk_rows", [1, 7, 4096])
@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.csv.gz"])
def test_the_last_row_comes_first(tmp_path, name, chunk_rows):
    rows = 300
    data = pa.table({"t": np.arange(rows, 0, -1), "x": np.arange(float(rows))})
    path = write_table(tmp_path / name, data)
    options = {"columns": ["x"], "time": "t", "time_unit": "ns", "chunk_rows": chunk_rows}
    forward, backward = load(path, **options), load(path, reverse=True, **options)
    for one, other in zip(forward[:3], backward[:3], strict=True):
        assert other.tolist() == one[::-1].tolist()
    assert load(path, reverse=True, limit=5, **options)[0].tolist() == [1, 2, 3, 4, 5]


def test_bad_rows_keep_their_lines(tmp_path):
    path = text_file(tmp_path, "t,x\n4,1\n3,a\n2,b\n1,2\n")
    options = {"columns": ["x"], "time": "t", "reverse": True}
    _, values, rows, refusals = load(path, on_bad_row="skip", **options)
    assert (values[:, 0].tolist(), rows.tolist()) == ([2, 1], [5, 2])
    assert [refusal.where.rsplit(":")[-1] for refusal in refusals] == ["4", "3"]
    with pytest.raises(DataError, match="line 4: "):
        load(path, **options)


def test_a_file_beyond_the_bound_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_BYTES", 1000)
    path = text_file(tmp_path, "t,x\n" + "1,2\n" * 200)
    with pytest.raises(DataError, match="too large for --reverse"):
        load(path, columns=["x"], time="t", reverse=True)
