"""Tables in and out: what a session gives that is fed directly, from whatever holds the rows."""

import contextlib
import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from stream_lstm import replay_frame
from stream_lstm.cli.main import main
from stream_lstm.core import replay
from stream_lstm.errors import ConfigurationError, DataError
from stream_lstm.store.output import SCHEMA

SMALL = {"hidden": 4, "window": 12, "bptt": 5}
FEATURE = "log_return(price)"


@pytest.fixture(scope="module")
def columns():
    rng = np.random.default_rng(5)
    return {
        "price": 100 * np.exp(np.cumsum(rng.normal(size=300)) * 1e-3),
        "at": np.arange(300) * 1_000_000_000,
        "name": ["x"] * 300,
    }


@pytest.fixture(scope="module")
def replayed(columns):
    return replay_frame(pa.table(columns), FEATURE, time="at", time_unit="ns", learn=True, **SMALL)


def test_the_table_has_a_row_for_each_prediction_with_its_score(replayed):
    table, summary = replayed.table, replayed.summary
    assert table.schema == SCHEMA.append(pa.field("time", pa.timestamp("ns", "UTC")))
    assert table.num_rows == summary["predictions"] == 29
    assert table["n"].to_pylist() == list(range(12, 300, 10))
    assert table["label"].null_count == 29 - summary["labels"]
    losses = table["log_loss"].drop_null().to_numpy()
    assert losses.mean() == pytest.approx(summary["log_loss"])
    assert table["t_ns"][0].as_py() == 12 * 1_000_000_000


def test_it_gives_the_bits_of_replay(columns, replayed, tmp_path, monkeypatch, capsys):
    file = tmp_path / "series.parquet"
    pa.parquet.write_table(pa.table(columns), file)
    flags = [f"--{name}={value}" for name, value in SMALL.items()]
    line = ["stream-lstm", "replay", str(file), "--feature", FEATURE, "--learn", "--json", *flags]
    monkeypatch.setattr(sys, "argv", line)
    with contextlib.suppress(SystemExit):
        main()
    assert json.loads(capsys.readouterr().out)["digest"] == replayed.summary["digest"]


def test_a_frame_of_pandas_is_the_same_and_so_is_a_mapping(columns, replayed):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    for frame in (pandas.DataFrame(columns), {"price": columns["price"]}):
        found = replay_frame(frame, FEATURE, learn=True, **SMALL)
        assert found.summary["digest"] == replayed.summary["digest"]
    assert list(replayed.table.to_pandas()["p"]) == replayed.table["p"].to_pylist()


def test_times_of_pandas_are_read(columns):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame({"x": columns["price"][:30]})
    frame["at"] = pandas.date_range("2026-01-01", periods=30, freq="s", tz="UTC")
    table = replay_frame(frame, "x", time="at", **SMALL).table
    assert table["t_ns"][0].as_py() == frame["at"][11].value


def test_a_series_of_pandas_is_to_be_a_frame_and_its_unnamed_index_is_no_column():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    series = pandas.Series([1.0, 2.0], index=pandas.date_range("2026-01-01", periods=2), name="y")
    with pytest.raises(DataError, match=r"convert Series to .* pass a frame, s\.to_frame\('x'\)"):
        replay_frame(series, "y")
    with pytest.raises(DataError, match=r"no column 'x'; its columns are y"):
        replay_frame(series.to_frame(), "x")
    found = replay_frame(series.rename_axis("at").to_frame(), "y", time="at", **SMALL)
    assert found.summary["elements"] == 2


def test_times_that_go_back_warn_and_change_no_bit(columns, replayed):
    frame = {**columns, "at": columns["at"][::-1]}
    # the last row's time is 0, which stands for none
    with pytest.warns(UserWarning, match=r"row 1 \(counted from 0\): .*; 298 rows") as caught:
        found = replay_frame(frame, FEATURE, time="at", time_unit="ns", learn=True, **SMALL)
    assert caught[0].filename == __file__
    assert found.table["p"] == replayed.table["p"]


def test_nothing_depends_on_where_the_rows_are_cut(columns, replayed, monkeypatch):
    monkeypatch.setattr(replay, "LEARN_PIECE", 7)
    found = replay_frame(pa.table(columns), FEATURE, learn=True, **SMALL)
    assert found.summary["digest"] == replayed.summary["digest"]


def test_a_bad_row_is_reported_or_skipped(columns):
    values = columns["price"][:40].copy()
    values[20] = np.nan
    with pytest.raises(DataError, match=r"row 20 .*skip_bad=True"):
        replay_frame({"x": values}, "x", **SMALL)
    found = replay_frame({"x": values}, "x", skip_bad=True, **SMALL)
    assert (found.skipped, found.summary["elements"]) == (1, 39)


@pytest.mark.parametrize("rows", [1, 3, 12])
def test_a_series_shorter_than_the_warm_up_gives_an_empty_table_and_says_why(rows):
    found = replay_frame({"x": np.arange(rows) + 1.0}, "log_return(x)", learn=True, **SMALL)
    assert (found.table.schema, found.table.num_rows) == (SCHEMA, 0)
    why = f"no predictions: the series has {rows - 1} element"
    assert found.summary["verdict"].startswith(why)
    assert found.summary["verdict"].endswith("the warm-up is 12")


@pytest.mark.parametrize(
    ("frame", "more", "error", "words"),
    [
        (3, {}, DataError, "cannot convert int to a table"),
        (np.ones(3), {}, DataError, r'convert ndarray to .* pass \{"x": array\}'),
        (np.ones((3, 2)), {}, DataError, "array has no names"),
        (pa.array([1.0]), {}, DataError, "array has no names"),
        ({"x": []}, {}, DataError, "no rows"),
        ({"y": [1.0]}, {}, DataError, r"no column 'x'; its columns are y"),
        ({"x": ["a"]}, {}, DataError, "column 'x' has type string, not numbers"),
        ({"x": [1.0]}, {"time": "t"}, DataError, "no column 't'"),
        (
            {"x": [1.0], "t": ["noon"]},
            {"time": "t"},
            DataError,
            "column 't', row 0: 'noon' is not a time",
        ),
        ({"x": [1.0]}, {"hiden": 3}, ConfigurationError, "did you mean 'hidden'"),
    ],
)
def test_mistakes_are_reported(frame, more, error, words):
    with pytest.raises(error, match=words):
        replay_frame(frame, "x", **more)
