"""Result files: what a row contains, when it is written, and that no half file gets the name."""

from __future__ import annotations

import contextlib
import csv
import json
import math
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from stream_lstm.errors import OutputError, UsageError
from stream_lstm.events import Prediction, Score
from stream_lstm.records import Batch
from stream_lstm.store import output
from stream_lstm.store.output import COLUMNS, SCHEMA, open_output

SUFFIXES = (".parquet", ".csv", ".jsonl")


@pytest.fixture(params=SUFFIXES)
def out(request, tmp_path):
    return tmp_path / f"out{request.param}"


def prediction(n: int, stream: str = "eurusd", p: float = 0.5) -> Prediction:
    return Prediction(stream, n, n * 1000, p, "s", after_gap=n == 100)


def score(n: int, label: int, stream: str = "eurusd") -> Score:
    return Score(
        stream,
        n,
        n * 1000 + 1,
        0.5,
        label,
        0.6931471805599453,
        0.25,
        0.75,
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
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    with path.open(encoding="utf-8", newline="") as file:
        return [
            {name: _cell(name, cell) for name, cell in row.items()} for row in csv.DictReader(file)
        ]


def _cell(name: str, cell: str) -> object:
    known = {"": None, "true": True, "false": False}
    return (
        known[cell]
        if cell in known
        else cell
        if name in ("stream", "session")
        else json.loads(cell)
    )


def labels(path: Path) -> list[tuple[object, object]]:
    return [(row["n"], row["label"]) for row in read(path)]


def test_a_row_has_the_prediction_and_its_score(out):
    with open_output(out) as writer:
        writer.write(prediction(100))
        writer.write(prediction(110))
        writer.score(score(100, label=1))
    first, second = read(out)
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
    assert out.suffix != ".parquet" or pyarrow.parquet.read_schema(out) == SCHEMA


def test_a_file_without_predictions_is_readable(out):
    open_output(out).close()
    assert read(out) == []


@examples(max_examples=30)
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


def test_rows_come_in_the_order_of_the_scores_and_across_batches(out, monkeypatch):
    monkeypatch.setattr(output, "BATCH_ROWS", 3)
    odd = 'a,\n"b'
    with open_output(out) as writer:
        for n in range(1, 9):
            for stream in (odd, "c"):
                writer.write(prediction(n, stream))
            for stream in ("c", odd):
                writer.score(score(n, n % 2, stream))
        assert writer.rows_written == 15
    for stream in (odd, "c"):
        assert [(row["n"], row["label"]) for row in read(out) if row["stream"] == stream] == [
            (n, n % 2) for n in range(1, 9)
        ]
    assert out.suffix != ".parquet" or pyarrow.parquet.ParquetFile(out).num_row_groups == 6


def test_the_oldest_of_too_many_waiting_predictions_goes_out_without_a_label(out, monkeypatch):
    monkeypatch.setattr(output, "MAX_WAITING", 5)
    with open_output(out) as writer:
        for n in range(1, 8):
            writer.write(prediction(n))
        assert len(writer._waiting) == 5
        writer.score(score(1, label=1))
        writer.score(score(7, label=1))
        assert writer.scores_unmatched == 1
    assert labels(out) == [(1, None), (2, None), (7, 1), *((n, None) for n in (3, 4, 5, 6))]


def test_the_name_is_given_on_a_clean_close_only(out):
    out.write_text("old")
    with contextlib.suppress(RuntimeError), open_output(out) as writer:
        writer.write(prediction(1))
        raise RuntimeError
    assert out.read_text() == "old"
    assert out.with_name(f"{out.name}.partial").exists()
    with open_output(out) as writer:
        writer.write(prediction(2))
        assert out.read_text() == "old"
        writer.close()  # a second time is no mistake
    assert labels(out) == [(2, None)]
    assert list(out.parent.iterdir()) == [out]


def test_a_full_disk_is_named(out):
    out.with_name(f"{out.name}.partial").symlink_to("/dev/full")
    many = Batch.of(Prediction, [prediction(n) for n in range(20_000)])
    writer = open_output(out)
    with pytest.raises(OutputError, match=r"out.*No space left on device"):  # noqa: PT012
        writer.write_batch(many, Batch.of(Score, []))
        writer.close()
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "options", "error", "words"),
    [
        ("missing/out.csv", {}, OutputError, r"there is no directory .*missing"),
        ("folder.csv", {}, OutputError, "it is a directory"),
        ("blocked.csv", {}, OutputError, r"cannot write .*blocked\.csv: Is a directory"),
        ("out.xlsx", {}, UsageError, r"\.parquet, \.csv, \.jsonl"),
        ("o.parquet", {"spreadsheet": True}, UsageError, r"--spreadsheet requires a \.csv file"),
        ("o.jsonl", {"spreadsheet": True}, UsageError, r"--spreadsheet requires a \.csv file"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused(tmp_path, name, options, error, words):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "blocked.csv.partial").mkdir()
    with pytest.raises(error, match=words):
        open_output(tmp_path / name, **options)


def test_batches_give_the_rows_of_single_records(out, monkeypatch):
    monkeypatch.setattr(output, "BATCH_ROWS", 7)
    batch = out.with_name(f"batch{out.suffix}")
    with open_output(out) as one, open_output(batch) as many:
        for first in range(1, 40, 3):
            made = [prediction(n, stream) for n in range(first, first + 3) for stream in "ab"]
            scored = [
                score(n - 2, n % 2, stream) for n in range(first, first + 2) for stream in "ba"
            ]
            for event in made:
                one.write(event)
            for event in scored:
                one.score(event)
            many.write_batch(Batch.of(Prediction, made), Batch.of(Score, scored))
    assert one.scores_unmatched == many.scores_unmatched > 0
    assert read(out) == read(batch)
    assert one.rows_written == many.rows_written == 78


def test_a_batch_larger_than_the_memory_loses_no_scores(tmp_path, monkeypatch):
    monkeypatch.setattr(output, "MAX_WAITING", 5)
    path = tmp_path / "out.jsonl"
    made = Batch.of(Prediction, [prediction(n) for n in range(1, 21)])
    with open_output(path) as writer:
        writer.write_batch(made, Batch.of(Score, [score(n, 1) for n in range(1, 11)]))
        assert len(writer._waiting) == 5
    assert labels(path) == [(n, 1 if n <= 10 else None) for n in range(1, 21)]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
@pytest.mark.parametrize("spreadsheet", [False, True])
def test_text_that_a_spreadsheet_would_run_is_quoted_on_request(tmp_path, start, spreadsheet):
    name, path = f"{start}HYPERLINK(A1)", tmp_path / "o.csv"
    with open_output(path, spreadsheet=spreadsheet) as writer:
        writer.write(msgspec.structs.replace(prediction(1), stream=name, session=name))
        writer.score(msgspec.structs.replace(score(1, label=1), stream=name, session=name))
    with path.open(newline="") as file:
        row = next(csv.DictReader(file))
    shown = f"'{name}" if spreadsheet else name
    assert (row["stream"], row["session"]) == (shown, shown)
    assert float(row["base_rate_evidence"]) == -0.5, "numbers stay"
    assert row["gaps_visible"] == "true"
