"""Result files: what a row holds, when it is written, and that no half file gets the name."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_lstm.errors import OutputError, UsageError
from stream_lstm.events import Prediction, Score
from stream_lstm.records import Batch
from stream_lstm.store import output
from stream_lstm.store.output import COLUMNS, SCHEMA, open_output

SUFFIXES = (".parquet", ".csv", ".jsonl")


def prediction(n: int, stream: str = "eurusd", p: float = 0.5) -> Prediction:
    return Prediction(stream=stream, n=n, t_ns=n * 1000, p=p, session="s", after_gap=n == 100)


def score(n: int, label: int, stream: str = "eurusd") -> Score:
    return Score(
        stream=stream,
        n=n,
        t_ns=n * 1000 + 1,
        p=0.5,
        label=label,
        log_loss=0.6931471805599453,
        base_rate_p=0.25,
        last_label_p=0.75,
        session="s",
        coin_evidence=1.5,
        base_rate_evidence=-0.5,
        last_label_evidence=0.25,
        frozen_p=0.625,
    )


def read(path: Path) -> list[dict[str, object]]:
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    values = {"": None, "true": True, "false": False}
    with path.open(newline="") as file:
        return [
            {
                name: values.get(cell, cell if name in ("stream", "session") else _number(cell))
                for name, cell in row.items()
            }
            for row in csv.DictReader(file)
        ]


def _number(cell: str) -> object:
    try:
        return json.loads(cell)
    except ValueError:
        return cell


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_row_holds_the_prediction_and_its_score(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    with open_output(path) as writer:
        writer.write(prediction(100))
        writer.write(prediction(110))
        writer.score(score(100, label=1))
    first, second = read(path)
    assert tuple(first) == COLUMNS
    assert first == {
        "stream": "eurusd",
        "n": 100,
        "t_ns": 100_000,
        "p": 0.5,
        "label": 1,
        "log_loss": 0.6931471805599453,
        "base_rate_p": 0.25,
        "last_label_p": 0.75,
        "session": "s",
        "gaps_visible": True,
        "after_gap": True,
        "base_rate_log_loss": -math.log(0.25),
        "last_label_log_loss": -math.log(0.75),
        "coin_evidence": 1.5,
        "base_rate_evidence": -0.5,
        "last_label_evidence": 0.25,
        "raw_p": None,
        "frozen_p": 0.625,
        "stateless_p": None,
    }
    assert set(list(second.values())[list(COLUMNS).index("base_rate_log_loss") :]) == {None}
    assert (second["n"], second["label"], second["log_loss"]) == (110, None, None)
    assert writer.rows_written == 2


def test_the_parquet_file_has_the_declared_types(tmp_path):
    path = tmp_path / "out.parquet"
    with open_output(path) as writer:
        writer.write(prediction(1))
    assert pyarrow.parquet.read_schema(path) == SCHEMA


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_prediction_at_all_is_a_readable_file(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    open_output(path).close()
    assert read(path) == []


@given(st.floats(0, 1, width=32))
def test_text_formats_keep_the_bits_of_the_float32(tmp_path_factory, p):
    folder = tmp_path_factory.mktemp("p")
    for suffix in (".csv", ".jsonl"):
        with open_output(folder / f"out{suffix}") as writer:
            writer.write(prediction(1, p=p))
        (row,) = read(folder / f"out{suffix}")
        assert np.float32(row["p"]).tobytes() == np.float32(p).tobytes()


def test_text_prints_the_shortest_probability(tmp_path):
    path = tmp_path / "out.csv"
    with open_output(path) as writer:
        writer.write(prediction(1, p=float(np.float32(0.1))))
    assert path.read_text().splitlines()[1].startswith("eurusd,1,1000,0.1,,")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_come_in_the_order_of_the_scores_and_across_batches(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(output, "BATCH_ROWS", 3)
    path = tmp_path / f"out{suffix}"
    with open_output(path) as writer:
        for n in range(1, 9):
            writer.write(prediction(n, stream='a,\n"b'))
            writer.write(prediction(n, stream="c"))
            writer.score(score(n, n % 2, stream="c"))
            writer.score(score(n, n % 2, stream='a,\n"b'))
    rows = read(path)
    for stream in ('a,\n"b', "c"):
        assert [(r["n"], r["label"]) for r in rows if r["stream"] == stream] == [
            (n, n % 2) for n in range(1, 9)
        ]


def test_the_book_is_bounded_and_the_oldest_goes_out_without_label(tmp_path, monkeypatch):
    monkeypatch.setattr(output, "MAX_WAITING", 5)
    path = tmp_path / "out.jsonl"
    with open_output(path) as writer:
        for n in range(1, 8):
            writer.write(prediction(n))
        assert len(writer._waiting) == 5
        writer.score(score(1, label=1))
        writer.score(score(7, label=1))
        assert writer.scores_unmatched == 1
    assert [(row["n"], row["label"]) for row in read(path)] == [
        (1, None), (2, None), (7, 1), (3, None), (4, None), (5, None), (6, None)
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_name_is_given_on_a_clean_close_only(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    path.write_text("old")

    def fail() -> None:
        with open_output(path) as writer:
            writer.write(prediction(1))
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fail()
    assert path.read_text() == "old"
    assert (tmp_path / f"out{suffix}.partial").exists()
    with open_output(path) as writer:
        writer.write(prediction(2))
        assert path.read_text() == "old"
    assert [row["n"] for row in read(path)] == [2]
    assert list(tmp_path.iterdir()) == [path]


def test_closing_twice_is_no_mistake(tmp_path):
    with open_output(tmp_path / "out.csv") as writer:
        writer.close()
    assert (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_is_named(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    (tmp_path / f"out{suffix}.partial").symlink_to("/dev/full")

    def fill() -> None:
        with open_output(path) as writer:
            for n in range(20_000):
                writer.write(prediction(n))

    with pytest.raises(OutputError, match=r"out.*No space left on device"):
        fill()
    assert not path.exists()


def test_a_missing_directory_is_said_at_once(tmp_path):
    with pytest.raises(OutputError, match=r"there is no directory .*missing"):
        open_output(tmp_path / "missing" / "out.csv")


def test_a_directory_is_not_replaced(tmp_path):
    (tmp_path / "out.csv").mkdir()
    with pytest.raises(OutputError, match="it is a directory"):
        open_output(tmp_path / "out.csv")


def test_what_the_system_refuses_to_open_is_an_output_error(tmp_path):
    (tmp_path / "out.csv.partial").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*out\.csv: Is a directory"):
        open_output(tmp_path / "out.csv")


def test_another_suffix_is_a_usage_error_with_the_known_ones(tmp_path):
    with pytest.raises(UsageError, match=r"\.parquet, \.csv, \.jsonl"):
        open_output(tmp_path / "out.xlsx")


def test_rows_are_written_in_batches_as_they_come(tmp_path, monkeypatch):
    monkeypatch.setattr(output, "BATCH_ROWS", 3)
    with open_output(tmp_path / "out.parquet") as writer:
        for n in range(1, 8):
            writer.write(prediction(n))
            writer.score(score(n, label=0))
        assert writer.rows_written == 6
    assert pyarrow.parquet.ParquetFile(tmp_path / "out.parquet").num_row_groups == 3


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_batches_give_the_rows_of_single_records(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(output, "BATCH_ROWS", 7)
    single, batch = tmp_path / f"single{suffix}", tmp_path / f"batch{suffix}"
    blocks = [
        (
            [prediction(n, stream) for n in range(first, first + 3) for stream in "ab"],
            [score(n - 2, n % 2, stream) for n in range(first, first + 2) for stream in "ba"],
        )
        for first in range(1, 40, 3)
    ]
    with open_output(single) as one, open_output(batch) as many:
        for made, scored in blocks:
            for event in made:
                one.write(event)
            for event in scored:
                one.score(event)
            many.write_batch(Batch.of(Prediction, made), Batch.of(Score, scored))
    assert one.scores_unmatched == many.scores_unmatched > 0
    assert read(single) == read(batch)
    assert one.rows_written == many.rows_written == 78


def test_a_batch_larger_than_the_book_loses_no_scores(tmp_path, monkeypatch):
    monkeypatch.setattr(output, "MAX_WAITING", 5)
    path = tmp_path / "out.jsonl"
    made = Batch.of(Prediction, [prediction(n) for n in range(1, 21)])
    with open_output(path) as writer:
        writer.write_batch(made, Batch.of(Score, [score(n, 1) for n in range(1, 11)]))
        assert len(writer._waiting) == 5
    rows = [(row["n"], row["label"]) for row in read(path)]
    assert rows == [(n, 1 if n <= 10 else None) for n in range(1, 21)]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_text_that_a_spreadsheet_would_run_is_quoted_on_request(tmp_path, start):
    name = f"{start}HYPERLINK(A1)"
    for spreadsheet in (False, True):
        path = tmp_path / f"{spreadsheet}.csv"
        with open_output(path, spreadsheet=spreadsheet) as writer:
            made = msgspec.structs.replace(prediction(1), stream=name, session=name)
            writer.write(made)
            writer.score(msgspec.structs.replace(score(1, label=1), stream=name, session=name))
        with path.open(newline="") as file:
            row = next(csv.DictReader(file))
        if not spreadsheet and start == "\r":
            continue  # no stream and no session has one, and plain files do not quote it
        shown = f"'{name}" if spreadsheet else name
        assert (row["stream"], row["session"]) == (shown, shown)
        assert float(row["base_rate_evidence"]) == -0.5, "numbers stay"
        assert row["gaps_visible"] == "true"


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_only_csv_is_for_spreadsheets(tmp_path, suffix):
    with pytest.raises(UsageError, match=r"--spreadsheet requires a \.csv file"):
        open_output(tmp_path / f"o{suffix}", spreadsheet=True)
