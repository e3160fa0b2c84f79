"""`replay` from the command line: what it prints, writes and refuses."""

import csv
import json
import math
import signal
import subprocess
import sys

import numpy as np
import pyarrow.parquet
import pytest

from stream_lstm.cli.replay_checks import feature_example
from stream_lstm.config import build
from stream_lstm.core import replay
from stream_lstm.core import session as session_module
from stream_lstm.core.replay import Digest
from stream_lstm.core.session import Session
from stream_lstm.events import Prediction, Score, Ticks

FEATURE = "log_return(mid(bid, ask))"
SMALL = ("--hidden", 4, "--window", 20, "--bptt", 10)
PLAIN = ("accuracy", "log_loss", "brier")


def write_quotes(path, ticks=300, bad=()):
    """A file of quotes; line numbers in `bad` (the header is 1) hold a cell that is no number."""
    steps = np.random.default_rng(3).normal(0, 1e-4, ticks)
    bids = 1.3 * np.exp(np.cumsum(steps))
    lines = ["time_ns,bid,ask,venue"]
    for k, bid in enumerate(bids, 2):
        cell = "oops" if k in bad else repr(float(bid))
        lines.append(f"{10**18 + k},{cell},{bid + 1e-4},EBS")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def quotes(tmp_path):
    return write_quotes(tmp_path / "eurusd.quotes.csv")


def stepped_one_by_one(path, **settings):
    """Predictions and scores of a session that gets the file tick by tick."""
    with path.open() as file:
        rows = [(float(r["bid"]), float(r["ask"])) for r in csv.DictReader(file)]
    events = []
    session = Session(build({"features": [FEATURE], **settings}), ("bid", "ask"), events.append)
    for row in rows:
        session.push(Ticks("eurusd", np.zeros(1, np.int64), np.array([row])))
    session.settle()
    kinds = (Prediction, Score)
    return tuple([event for event in events if isinstance(event, kind)] for kind in kinds)


def test_replay_predicts_scores_and_learns_as_a_session_fed_tick_by_tick(cli, quotes, tmp_path):
    out = tmp_path / "results.parquet"
    done = cli(
        *("replay", quotes, "--feature", FEATURE, "--time", "time_ns", *SMALL),
        *("--learn", "--out", out, "--json"),
    )
    assert done.code == 0
    summary = done.json()
    predictions, scores = stepped_one_by_one(quotes, hidden=4, window=20, bptt=10, learn=True)
    digest = Digest()
    for prediction in predictions:
        digest.add(prediction)

    assert summary["stream"] == "eurusd"
    assert (summary["ticks"], summary["elements"]) == (300, 299)
    assert summary["predictions"] == len(predictions) == 28
    assert summary["labels"] == summary["updates"] == len(scores) == 28
    assert summary["digest"] == digest.hexdigest()
    assert summary["elements_per_s"] == summary["elements"] / summary["wall_s"]
    assert summary["compile_s"] > 0
    assert summary["peak_rss_bytes"] > 10**7
    assert not summary["interrupted"]

    rows = pyarrow.parquet.read_table(out).to_pylist()
    assert [row["p"] for row in rows] == [p.p for p in predictions]
    assert [row["label"] for row in rows] == [s.label for s in scores]
    assert rows[0]["t_ns"] == 10**18 + 22  # element 20 is made from tick 21, on line 22


@pytest.mark.parametrize("rows", [1000, 20_000])
def test_a_level_far_from_zero_is_named_once(cli, tmp_path, rows):
    path = write_quotes(tmp_path / "q.csv", ticks=rows)
    done = cli("replay", path, "--feature", "bid", *SMALL, "--json")
    assert done.code == 0
    assert done.err.count("feature bid of the stream q is about 1.") == 1
    assert "use diff(bid) or log_return(bid)" in done.err
    assert cli("replay", path, "--feature", FEATURE, *SMALL, "--json").err == ""


def test_figures_are_those_of_the_rows_written(cli, quotes, tmp_path):
    out = tmp_path / "results.jsonl"
    summary = cli("replay", quotes, "--feature", FEATURE, *SMALL, "--out", out, "--json").json()
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    labels = np.array([row["label"] for row in rows])

    def figures(p):
        hit = np.where(labels == 1, p, 1 - p)
        return np.mean((p > 0.5) == labels), -np.mean(np.log(hit)), np.mean((p - labels) ** 2)

    for prefix, column in (("", "p"), ("base_rate_", "base_rate_p")):
        expected = figures(np.float64([row[column] for row in rows]))
        assert [summary[prefix + name] for name in PLAIN] == pytest.approx(expected, rel=1e-6)
    assert summary["base_rate"] == labels.mean()
    last = figures(np.float64([row["last_label_p"] for row in rows]))
    assert summary["last_label_log_loss"] == pytest.approx(last[1], rel=1e-6)


def test_a_series_shorter_than_the_warm_up_gives_null_figures_and_says_why(cli, quotes):
    arguments = ("replay", quotes, "--feature", FEATURE, "--hidden", 4, "--limit", 88)
    summary = cli(*arguments, "--json").json()
    assert (summary["ticks"], summary["elements"], summary["predictions"]) == (88, 87, 0)
    for prefix in ("", "base_rate_", "last_label_"):
        assert [summary[prefix + name] for name in PLAIN] == [None] * 3
    assert summary["base_rate"] is None

    text = cli(*arguments)
    assert text.code == 0
    assert "no predictions: the series has 87 elements and the warm-up is 100" in text.out


def test_weights_saved_by_one_replay_start_another_of_their_shape(cli, quotes, tmp_path):
    file = tmp_path / "w.safetensors"
    # Without scaling: a scaler would start where that of the first replay ended.
    first = ("--hidden", 3, "--layers", 2, "--window", 20, "--save-weights", file, "--json")
    first += ("--scaling", "none")
    saved = cli("replay", quotes, "--feature", FEATURE, *first).json()
    again = ("replay", quotes, "--window", 20, "--weights", file)
    assert cli(*again, "--seed", 7, "--json").json()["digest"] == saved["digest"]

    other = cli(*again, "--hidden", 5)
    assert other.code == 2
    assert "'layer_0': (5, 12)" in other.err
    assert "'layer_0': (7, 20)" in other.err

    warned = cli(*again, "--feature", "diff(bid)", "--json")
    assert warned.code == 0
    assert "was made for the features log_return(mid(bid, ask)), not diff(bid)" in warned.err
    assert warned.json()["digest"] != saved["digest"]


def test_rows_that_are_no_ticks_end_the_replay_or_are_left_out(cli, tmp_path):
    file, out = write_quotes(tmp_path / "q.csv", bad=(30, 31)), tmp_path / "out.csv"
    arguments = ("replay", file, "--feature", FEATURE, *SMALL, "--out", out, "--json")
    failed = cli(*arguments)
    assert failed.code == 65
    assert f"{file}, line 30: column 'bid': 'oops'" in failed.err
    assert failed.out == ""
    assert not out.exists()

    skipped = cli(*arguments, "--on-bad-row", "skip")
    summary = skipped.json()
    assert skipped.code == 0
    assert (summary["ticks"], summary["refused_ticks"], summary["elements"]) == (300, 2, 297)
    assert f"{file}:30" in skipped.err
    assert out.exists()


def test_a_tick_without_a_finite_feature_is_refused_by_its_line(cli, tmp_path):
    file = tmp_path / "q.csv"
    prices = [1.0] * 60
    prices[40] = -1.0
    file.write_text("price\n" + "".join(f"{p}\n" for p in prices))
    arguments = ("replay", file, "--feature", "log_return(price)", *SMALL, "--json")
    failed = cli(*arguments)
    assert failed.code == 65
    assert f"{file}:42" in failed.err
    assert "--on-bad-row skip" in failed.err
    done = cli(*arguments, "--on-bad-row", "skip")
    summary = done.json()
    assert (summary["ticks"], summary["refused_ticks"], summary["elements"]) == (60, 1, 58)
    assert f"{file}:42" in done.err
    assert "price=-1" in done.err


def test_a_signal_ends_the_replay_in_order(cli, quotes, tmp_path, monkeypatch):
    monkeypatch.setattr(replay, "PIECE", 100)
    push = Session.push

    def push_and_interrupt(session, ticks):
        push(session, ticks)
        if session.streams[ticks.stream].counters.ticks == 100:
            signal.raise_signal(signal.SIGINT)  # a second one would end this process

    monkeypatch.setattr(session_module.Session, "push", push_and_interrupt)
    out = tmp_path / "out.jsonl"
    before = signal.getsignal(signal.SIGINT)
    done = cli("replay", quotes, "--feature", FEATURE, *SMALL, "--out", out, "--json")
    assert done.code == 0
    assert done.json()["interrupted"]
    assert done.json()["ticks"] == 100
    assert len(out.read_text().splitlines()) == done.json()["predictions"] == 8
    assert signal.getsignal(signal.SIGINT) is before


def test_the_timeline_of_a_replay_holds_every_tick_and_update(cli, quotes, tmp_path):
    timeline = tmp_path / "t.json"
    more = ("--learn", "--json", "--trace", timeline)
    done = cli("replay", quotes, "--feature", FEATURE, *SMALL, *more).json()
    spans = json.loads(timeline.read_text())["traceEvents"][1:]
    counts = {stage: [s["args"]["n"] for s in spans if s["name"] == stage] for stage in STAGES}
    assert sum(counts["push"]) == done["ticks"]
    stepped = counts["step"] + counts["block"] + counts["strides"]
    assert sum(stepped) == done["elements"]
    strided = sum(counts["strides"]) // done["stride"]
    assert len(counts["learn"]) + strided == done["updates"] > strided > 0


STAGES = ("push", "step", "block", "strides", "learn")


def test_a_table_for_people_and_nothing_on_standard_error(cli, data_dir):
    done = cli("replay", data_dir / "nyc_taxi.csv", "--feature", "diff(value)", "--limit", 500)
    assert done.code == 0
    assert done.err == ""
    assert "nyc_taxi: 500 ticks, 499 elements, 40 predictions, 40 labels" in done.out
    lines = done.out.splitlines()
    assert any("model" in row and "base rate" in row and "last label" in row for row in lines)
    assert any("accuracy" in row for row in lines)
    assert lines[-1].startswith("no evidence yet after 40 labels; an accuracy of ")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, ["time_ns, bid, ask, venue", "--feature 'log_return(mid(bid, ask))'"]),
        (["--feature", "diff(bidd)"], 2, ["no column 'bidd'", "did you mean 'bid'"]),
        (["--feature", "diff(bid"], 2, ["never closed", "\n  diff(bid\n      ^"]),
        (["--feature", "elapsed()"], 2, ["--time COLUMN"]),
        (["--feature", "bid", "--time", "when"], 2, ["--time: ", "no column 'when'"]),
        (["--feature", "bid", "--time-unit", "days"], 2, ["'days'", "auto, ns"]),
        (["--feature", "bid", "--on-bad-row", "x"], 2, ["fail or skip"]),
        (["--feature", "bid", "--labels", "external"], 2, ["--label-column", "stream-lstm run"]),
        (["--feature", "bid", "--label-delay", "3"], 2, ["--label-column"]),
        (["--feature", "bid", "--label-column", "asks"], 2, ["'asks'", "did you mean 'ask'"]),
        (["--feature", "bid", "--label-column", "ask", "--label-delay", "3 days"], 2, ["30s"]),
        (["--feature", "bid", "--label-column", "ask", "--label-delay", "3s"], 2, ["--time"]),
        (["--feature", "bid", "--label-column", "ask", "--labels", "series"], 2, ["--labels"]),
        (["--feature", "bid", "--horizon", "0"], 2, ["horizon=0", "labels=external"]),
        (["--feature", "bid", "--learning-rate", "fast"], 2, ["--learning-rate"]),
        (["--feature", "bid", "--learning-rate", "0"], 2, ["learning_rate = 0.0"]),
        (["--feature", "bid", "--learn", "--bptt", "500"], 2, ["bptt=500", "window=100"]),
        (["--feature", "bid", "--learn", "--window", "20", "--bptt", "50"], 2, ["bptt=50"]),
        (["--feature", "bid", "--stream", "a/b"], 2, ["'a/b'", "--stream"]),
        (["--feature", "bid", "--out", "x.txt"], 2, [".parquet, .csv, .jsonl"]),
        (["--feature", "bid", "--out", "/no/where/x.csv"], 74, ["there is no directory"]),
        (["--feature", "bid", "--trace", "x.csv"], 2, ["x.csv", ".json"]),
        (["--feature", "bid", "--trace", "/no/where/x.json"], 74, ["/no/where/x.json"]),
        (["--feature", "bid", "--save-weights", "x.npz"], 2, [".safetensors"]),
        (["--feature", "bid", "--save-weights", "/no/where.safetensors"], 74, ["no directory"]),
        (["--feature", "bid", "--weights", "none.safetensors"], 66, ["none.safetensors"]),
        (["--feature", "venue"], 65, ["line 2", "'EBS'"]),
    ],
)
def test_a_mistake_is_one_sentence_and_an_exit_code(cli, quotes, arguments, code, words):
    done = cli("replay", quotes, *arguments)
    assert done.code == code
    assert done.out == ""
    for word in words:
        assert word in done.err
    assert done.err.count("stream-lstm: ") <= 1


def test_a_missing_file_is_named_with_its_likely_neighbour(cli, quotes):
    done = cli("replay", quotes.with_name("eurusd.quote.csv"), "--feature", "bid")
    assert done.code == 66
    assert "did you mean 'eurusd.quotes.csv'" in done.err


def test_results_never_replace_the_file_that_is_read(cli, quotes):
    before = quotes.read_bytes()
    done = cli("replay", quotes, "--feature", "bid", "--out", quotes)
    assert done.code == 2
    assert quotes.read_bytes() == before


def test_external_labels_from_the_environment_need_a_column_too(cli, quotes, monkeypatch):
    monkeypatch.setenv("STREAM_LSTM_LABELS", "external")
    done = cli("replay", quotes, "--feature", "bid")
    assert done.code == 2
    assert "--label-column" in done.err


@pytest.mark.parametrize(
    ("columns", "feature"),
    [
        (["time_ns", "bid_px", "bid_qty", "ask_px"], "log_return(mid(bid_px, ask_px))"),
        (["open", "high", "Close"], "log_return(Close)"),
        (["day", "demand (MW)"], 'diff("demand (MW)")'),
    ],
)
def test_the_example_uses_columns_that_are_there(columns, feature):
    assert feature_example(columns) == feature


def test_as_a_process_it_prints_one_object_and_no_traceback(quotes):
    code = "from stream_lstm.cli.main import main; main()"
    arguments = [sys.executable, "-c", code, "replay", str(quotes), "--json", "--hidden", "4"]
    good = subprocess.run(
        [*arguments, "--feature", FEATURE], capture_output=True, text=True, check=False
    )
    assert good.returncode == 0, good.stderr
    assert good.stderr == ""
    assert good.stdout.count("\n") == 1
    assert math.isfinite(json.loads(good.stdout)["log_loss"])
    bad = subprocess.run(
        [*arguments, "--feature", "diff("], capture_output=True, text=True, check=False
    )
    assert bad.returncode == 2
    assert bad.stdout == ""
    assert bad.stderr.startswith("stream-lstm: ")
    assert "Traceback" not in bad.stderr


def test_help_is_there_without_waiting_for_jax():
    code = """
import sys
from stream_lstm.cli.main import app
try:
    app(["replay", "--help"])
except SystemExit:
    pass
print([name for name in ("jax", "flax", "optax", "pyarrow") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--save-weights" in done.stdout
    assert done.stdout.endswith("[]\n")
