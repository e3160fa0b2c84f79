"""Several files as one: whatever their blocks and formats, the rows are in one order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_lstm.errors import ConfigurationError, DataError, UsageError
from stream_lstm.events import Refusal
from stream_lstm.feed import merge as module
from stream_lstm.feed import reader
from stream_lstm.feed.input_file import InputFile, merged
from stream_lstm.feed.merge import merge
from stream_lstm.feed.reader import BadRow, RawRows

from .reading import text_file, write_table

Row = tuple[int, bool]
"""The time of a row, and whether it can be used."""

FILES = st.lists(
    st.lists(st.tuples(st.integers(0, 6), st.sampled_from([True] * 4 + [False])), max_size=12),
    min_size=1,
    max_size=4,
)


def runs(rows: list[Row], sizes: Iterator[int], code: int) -> Iterator[RawRows]:
    """The rows of a file in runs of some sizes, 0 among them; the time of a bad row is wild."""
    start = 0
    while start < len(rows):
        part = range(start, min(start + next(sizes), len(rows)))
        start = part.stop
        t_ns = [rows[k][0] if rows[k][1] else (-1) ** k * 2**62 for k in part]
        values = [[100.0 * code + k, -k] for k in part]
        bad = [BadRow(at, f"{code}:{k}") for at, k in enumerate(part) if not rows[k][1]]
        yield RawRows(
            np.array(t_ns, np.int64),
            np.array(values, float).reshape(-1, 2),
            np.array(part, int),
            bad,
        )


def expected(files: list[list[Row]]) -> list[tuple[int, int]]:
    """(file, row) of all rows, sorted by (latest time of the file so far, file, row)."""
    placed = []
    for code, rows in enumerate(files):
        latest = -(2**63)
        for k, (t_ns, good) in enumerate(rows):
            latest = max(latest, t_ns) if good else latest
            placed.append((latest, code, k))
    return [(code, k) for _, code, k in sorted(placed)]


@given(files=FILES, data=st.data())
def test_the_order_is_that_of_one_sort_whatever_the_blocks(
    files: list[list[Row]], data: st.DataObject
) -> None:
    sizes = data.draw(st.lists(st.integers(0, 5), min_size=1).filter(any))

    def cycle() -> Iterator[int]:
        while True:
            yield from sizes

    names = tuple("abcd"[: len(files)])
    found, bad = [], []
    for run in merge([runs(rows, cycle(), k) for k, rows in enumerate(files)], names):
        assert run.keys is not None
        assert run.keys.names == names
        codes = run.keys.codes.tolist()
        wild = {at for at, _ in run.bad}
        assert [at for at, _ in run.bad] == sorted(wild)
        for at, (code, k) in enumerate(zip(codes, run.rows.tolist(), strict=True)):
            assert run.values[at].tolist() == [100.0 * code + k, -k]
            assert files[code][k][1] is (at not in wild)
            assert at in wild or run.t_ns[at] == files[code][k][0]
        bad += [why for _, why in run.bad]
        found += list(zip(codes, run.rows.tolist(), strict=True))
    assert found == expected(files)
    assert bad == [f"{code}:{k}" for code, k in found if not files[code][k][1]]


def test_a_file_is_read_when_its_rows_are_needed_and_not_before() -> None:
    read: list[tuple[int, int]] = []

    def file(code: int, first: int) -> Iterator[RawRows]:
        for k in range(3):
            read.append((code, k))
            t_ns = np.arange(first + 10 * k, first + 10 * k + 10)
            yield RawRows(t_ns, np.zeros((10, 1)), t_ns, [])

    rows = merge([file(0, 0), file(1, 25)], ("a", "b"))
    assert next(rows).t_ns.tolist() == list(range(10))
    assert read == [(0, 0), (1, 0)]
    next(rows)
    assert read == [(0, 0), (1, 0), (0, 1)]


# ---- files ------------------------------------------------------------------------------------


def table(seed: int, rows: int) -> pd.DataFrame:
    draws = np.random.default_rng(seed)
    times = 1_700_000_000 + np.sort(draws.integers(0, 60, rows))
    return pd.DataFrame({"time": times, "price": draws.normal(100, 1, rows)})


@pytest.fixture
def files(tmp_path: Path) -> list[InputFile]:
    es = write_table(tmp_path / "es.csv.gz", pa.Table.from_pandas(table(1, 200)))
    ns = table(2, 90).assign(time=lambda rows: rows["time"] * 10**9)  # of another unit
    nq = write_table(tmp_path / "nq.parquet", pa.Table.from_pandas(ns))
    return [InputFile(es, "ES"), InputFile(nq, "NQ")]


@pytest.mark.parametrize("size", [7, 65_536])
def test_files_of_two_formats_are_merged_as_pandas_sorts(
    files: list[InputFile], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MIN_CHUNK_ROWS", 1)
    monkeypatch.setattr(reader, "CHUNK_ROWS", size)
    whole = pd.concat([table(1, 200).assign(s="ES"), table(2, 90).assign(s="NQ")])
    whole = whole.sort_values("time", kind="stable")
    file = merged(files)
    assert [part.time for part in file.parts] == ["time", "time"]
    with file.open(("price",)) as source:
        blocks = list(source.blocks())
        assert source.bytes_read == source.bytes_total
    assert max(len(block.t_ns) for block in blocks) <= size
    assert np.concatenate([b.t_ns for b in blocks]).tolist() == (whole["time"] * 10**9).tolist()
    assert np.concatenate([b.values[:, 0] for b in blocks]).tolist() == whole["price"].tolist()
    names = [b.keys.names[code] for b in blocks if b.keys for code in b.keys.codes]
    assert names == whole["s"].tolist()


@settings(max_examples=60, deadline=None)
@given(
    times=st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=12), min_size=2, max_size=4),
    size=st.integers(1, 20),
)
def test_any_files_are_merged_in_the_one_order(
    tmp_path_factory: pytest.TempPathFactory, times: list[list[int]], size: int
) -> None:
    folder, parts = tmp_path_factory.mktemp("any"), []
    for code, column in enumerate(times):
        data = pa.table({"time": column, "x": [float(k) for k in range(len(column))]})
        suffix = (".csv.gz", ".parquet", ".arrow", ".tsv")[code]
        path = write_table(folder / f"f{code}{suffix}", data)
        parts.append(InputFile(path, f"f{code}", "time", "s"))
    found = []
    with merged(parts).open(("x",), chunk_rows=size) as source:
        for block in source.blocks():
            assert len(block.t_ns) <= size
            assert block.keys is not None
            numbers = block.values[:, 0].astype(int).tolist()
            found += list(zip(block.keys.codes.tolist(), numbers, strict=True))
            wanted = [times[code][k] * 10**9 for code, k in found[-len(numbers) :]]
            assert block.t_ns.tolist() == wanted
    assert found == expected([[(t, True) for t in column] for column in times])


def read(files: list[InputFile], **options: object) -> tuple[list[int], list[Refusal], int]:
    """The values of some files, the refusals, and how many rows were refused."""
    refusals: list[Refusal] = []
    file = msgspec.structs.replace(merged(files), **options)
    with file.open(("x",), refusals.append) as source:
        values = [int(x) for block in source.blocks() for x in block.values[:, 0]]
        return values, refusals, source.rows_refused


@pytest.fixture
def broken(tmp_path: Path) -> list[InputFile]:
    one = text_file(tmp_path, "time,x\n1,10\n3,11\nnever,0\n5,12\n", "one.csv")
    two = text_file(tmp_path, "time,x\n2,20\n3,21\n4,22\n6,\n7,23\n", "two.csv")
    return [InputFile(one, "one", "time"), InputFile(two, "two", "time")]


def test_a_bad_row_is_named_by_its_own_file_and_line(broken: list[InputFile]) -> None:
    with pytest.raises(DataError, match=r"one\.csv, line 4: column 'time': 'never'"):
        read(broken)
    values, refusals, count = read(broken, on_bad_row="skip")
    assert values == [10, 20, 11, 21, 22, 12, 23]
    assert [one.where.rpartition("/")[2] for one in refusals] == ["one.csv:4", "two.csv:5"]
    assert count == 2


def test_a_limit_counts_the_ticks_of_all_files_and_no_later_bad_row(
    broken: list[InputFile],
) -> None:
    assert read(broken, limit=3) == ([10, 20, 11], [], 0)
    values, refusals, count = read(broken, limit=5, on_bad_row="skip")
    assert values == [10, 20, 11, 21, 22]
    assert (len(refusals), count) == (1, 1)


def test_a_missing_column_names_its_file(broken: list[InputFile], tmp_path: Path) -> None:
    other = InputFile(text_file(tmp_path, "time,y\n1,2\n", "other.csv"), "other", "time")
    with pytest.raises(ConfigurationError, match=r"other\.csv has no column 'x'"):
        read([*broken, other])


def test_names_and_times_are_checked(broken: list[InputFile], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"both called 'one'.* NAME=.*one\.csv"):
        merged([broken[0], broken[0]])
    plain = InputFile(text_file(tmp_path, "y,x\n1,2\n", "plain.csv"), "plain")
    with pytest.raises(UsageError, match=r"plain\.csv has no column .* --time COLUMN"):
        merged([broken[0], plain])
    empty = InputFile(text_file(tmp_path, "time,x\n", "empty.csv"), "empty", "time")
    with pytest.raises(DataError, match=r"empty\.csv"):
        read([broken[0], empty])
    with pytest.raises(UsageError, match="257 files"):
        merged([broken[0]] * 257)
