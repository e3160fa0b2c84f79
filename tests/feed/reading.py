"""Files of every format, and the ticks that are read from them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet

from stream_lstm.feed.files import open_file

T0 = 1_398_902_401_787_000_001  # odd nanoseconds: float64 cannot hold them


def load(path, *, columns=None, time=None, **options):
    """Return all ticks as (t_ns, values, rows), and the refusals."""
    refusals = []
    with open_file(
        path, columns=columns, time=time, on_refusal=refusals.append, **options
    ) as source:
        blocks = list(source.blocks())
    assert source.rows_read == sum(len(block.rows) for block in blocks)
    assert source.rows_refused == len(refusals)
    for block in blocks:
        assert block.values.flags.c_contiguous
        assert (block.t_ns.dtype, block.values.dtype) == (np.int64, np.float64)
        assert block.row == block.rows[0]
    whole = [np.concatenate(parts) for parts in zip(*(block[:3] for block in blocks), strict=True)]
    return (*whole, refusals)


def text_file(tmp_path, text, name="ticks.csv"):
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def table(rows=200):
    generator = np.random.default_rng(3)
    return pa.table(
        {
            "time_ns": T0 + np.arange(rows, dtype=np.int64) * 7,
            "bid": generator.normal(size=rows),
            "size": np.arange(rows, dtype=np.int32),
            "venue": ["x"] * rows,
        }
    )


def write_table(path, data):
    name = path.name
    if ".csv" in name or ".tsv" in name:
        options = pa.csv.WriteOptions(delimiter="\t" if ".tsv" in name else ",")
        compression = {"gz": "gzip", "zst": "zstd"}.get(name.rsplit(".", 1)[1])
        with pa.output_stream(path, compression=compression) as sink:
            pa.csv.write_csv(data, sink, options)
    elif name.endswith(".parquet"):
        pa.parquet.write_table(data, path, row_group_size=60)
    elif name.endswith(".feather"):
        pa.feather.write_feather(data, path, compression="lz4")
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, data.schema) as writer:
            writer.write_table(data)
    return path


TABLES = [
    *(f"t.{kind}{zipped}" for kind in ("csv", "tsv") for zipped in ("", ".gz", ".zst")),
    "t.parquet",
    "t.arrow",
    "t.feather",
]
