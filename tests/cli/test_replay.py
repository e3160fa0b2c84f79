"""`replay` from the command line: what it prints, writes and refuses."""

import csv
import json
import signal

import numpy as np
import pyarrow.parquet
import pytest

from stream_lstm.cli.options import parse_delay
from stream_lstm.config import build
from stream_lstm.core import replay
from stream_lstm.core import session as session_module
from stream_lstm.core.replay import Digest
from stream_lstm.core.session import Session
from stream_lstm.errors import UsageError
from stream_lstm.events import Prediction, Score, Ticks

from .lines import write_csv

FEATURE = "log_return(mid(bid, ask))"
SMALL = ("--hidden", 4, "--window", 20, "--bptt", 5)
PLAIN = ("accuracy", "log_loss", "brier")


def write_quotes(path, ticks=300, bad=()):
    """A file of quotes; line numbers in `bad` (the header is 1) hold a cell that is no number."""
    bid = 1.3 * np.exp(np.cumsum(np.random.default_rng(3).normal(0, 1e-4, ticks)))
    cells = ["oops" if k in bad else repr(float(b)) for k, b in enumerate(bid, 2)]
    times = [10**18 + k for k in range(2, ticks + 2)]
    return write_csv(path, time_ns=times, bid=cells, ask=bid + 1e-4, venue=["EBS"] * ticks)


@pytest.fixture
def quotes(tmp_path):
    return write_quotes(tmp_path / "eurusd.quotes.csv")


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


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
    line = ("replay", quotes, "--feature", FEATURE, "--time", "time_ns", *SMALL)
    done = cli(*line, "--learn", "--out", out, "--json")
    assert done.code == 0
    summary = done.json()
    predictions, scores = stepped_one_by_one(quotes, hidden=4, window=20, bptt=5, learn=True)
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
    rows = rows_of(out)
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


def test_a_series_shorter_than_the_warm_up_gives_null_figures_and_the_reason(cli, quotes):
    arguments = ("replay", quotes, "--feature", FEATURE, "--hidden", 4, "--limit", 88)
    summary = cli(*arguments, "--json").json()
    assert (summary["ticks"], summary["elements"], summary["predictions"]) == (88, 87, 0)
    for prefix in ("", "base_rate_", "last_label_"):
        assert [summary[prefix + name] for name in PLAIN] == [None] * 3
    assert summary["base_rate"] is None
    assert "the series has 87 elements and the warm-up is 100" in cli(*arguments).out


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
    assert "was trained on the features log_return(mid(bid, ask)), not diff(bid)" in warned.err
    assert warned.json()["digest"] != saved["digest"]


@pytest.mark.parametrize("bad", ["no number", "no finite feature"])
def test_an_unusable_row_ends_the_replay_or_is_left_out(cli, tmp_path, bad):
    if bad == "no number":
        file, feature = write_quotes(tmp_path / "q.csv", bad=(30,)), FEATURE
        named, shown = "q.csv, line 30: column 'bid': 'oops'", "q.csv:30"
    else:
        file = write_csv(tmp_path / "q.csv", price=[-1 if k == 28 else 1 for k in range(300)])
        feature, named, shown = "log_return(price)", "q.csv:30", "q.csv:30"
    out = tmp_path / "out.csv"
    arguments = ("replay", file, "--feature", feature, *SMALL, "--out", out, "--json")
    failed = cli(*arguments)
    assert (failed.code, failed.out, out.exists()) == (65, "", False)
    assert named in failed.err
    assert "--on-bad-row skip" in failed.err
    skipped = cli(*arguments, "--on-bad-row", "skip")
    assert (skipped.code, out.exists()) == (0, True)
    counted = [skipped.json()[key] for key in ("ticks", "refused_ticks", "elements")]
    assert counted == [300, 1, 298]
    assert shown in skipped.err


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


STAGES = ("push", "step", "block", "strides", "learn")


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


def test_a_table_for_people_and_nothing_on_standard_error(cli, data_dir):
    done = cli("replay", data_dir / "nyc_taxi.csv", "--feature", "diff(value)", "--limit", 500)
    assert (done.code, done.err) == (0, "")
    assert "nyc_taxi: 500 ticks, 499 elements, 40 predictions, 40 labels" in done.out
    lines = done.out.splitlines()
    assert any("model" in row and "base rate" in row and "last label" in row for row in lines)
    assert any(row.startswith("accuracy  ") for row in lines)
    assert lines[-1].startswith("no evidence yet after 40 labels; an accuracy of ")


def test_one_line_says_what_was_read(cli, tmp_path, data_dir):
    line = ("replay", data_dir / "nyc_taxi.csv", "--feature", "diff(value)", "--limit", 500)
    span = "2014-07-01 00:00 to 2014-07-11 09:30 UTC"
    done = cli(*line, "--time", "timestamp")
    assert f"500 rows of nyc_taxi.csv: comma-separated, {span}, value" in done.out.splitlines()
    both = [write_csv(tmp_path / f"{n}.csv", t=range(50), x=[n] * 50, y=range(50)) for n in (1, 2)]
    done = cli("replay", *both, "--feature", "diff(x)", "--feature", "y", "--time", "t")
    read = "100 rows of 1.csv and 1 more file: 1970-01-01 00:00 to 1970-01-01 00:00:49 UTC, x, y"
    assert read in done.out.splitlines()
    done = cli("replay", "--synthetic", "s1-ar", "--limit", 200, "--json")
    assert "read" not in done.json()


def test_what_was_read_includes_the_rows_that_the_store_contains(cli, tmp_path, quotes):
    line = ("replay", quotes, "--feature", FEATURE, "--store", tmp_path / "a.db", *SMALL, "--json")
    assert cli(*line, "--limit", 200).json()["read"]["rows"] == 200
    assert cli(*line).json()["read"]["rows"] == 300


def test_the_example_is_that_of_init(cli, tmp_path):
    xs = 100 * np.exp(np.cumsum(np.random.default_rng(0).normal(0, 1e-3, 300)))
    path = write_csv(tmp_path / "a.csv", bid_px=xs, bid_qty=[1] * 300, ask_px=xs + 0.01)
    done = cli("replay", path)
    assert done.code == 2
    features = cli("init", path, "--out", tmp_path / "a.toml", "--json").json()["features"]
    assert features[0] == "log_return(mid(bid_px, ask_px))"
    assert done.err.rstrip().endswith(f"for example: --feature '{features[0]}'")


# ---- labels from a column, each in its own time -----------------------------------------------

LABELLED = (*SMALL, "--stride", 5, "--feature", "x", "--label-column", "up")


def labelled_file(path, cells):
    xs = np.random.default_rng(0).normal(size=len(cells))
    return write_csv(path, t=[10**18 + k * 10**9 for k in range(len(xs))], x=xs, up=cells)


@pytest.fixture
def outcomes():
    return np.random.default_rng(1).integers(0, 2, 200)


@pytest.mark.parametrize("horizon", [0, 1, 3])
def test_each_prediction_is_scored_with_its_own_row_however_late(cli, tmp_path, outcomes, horizon):
    file, out, tables = labelled_file(tmp_path / "a.csv", outcomes), tmp_path / "out.jsonl", []
    for delay in ("0", "7", "40", "13s"):
        line = ("replay", file, *LABELLED, "--label-delay", delay, "--time", "t", "--out", out)
        summary = cli(*line, "--horizon", horizon, "--json").json()
        assert summary["label_column"]["name"] == "up"
        rows = {row["n"]: row for row in rows_of(out)}
        labels = {n: row["label"] for n, row in rows.items() if row["label"] is not None}
        assert labels == {n: outcomes[n + horizon - 1] for n in labels}
        assert len(labels) == summary["labels"]
        late = 13 if delay == "13s" else int(delay)
        assert set(labels) == {n for n in rows if n + horizon + late <= 200}
        read = {n for n in rows if n + horizon <= 200}
        assert summary["label_column"]["undelivered"] == len(read) - len(labels)
        tables.append({n: row["p"] for n, row in rows.items()})
    assert tables[1:] == tables[:-1]


def test_an_empty_cell_is_a_label_that_never_comes(cli, tmp_path, outcomes):
    cells = [str(y) for y in outcomes]
    cells[25] = cells[99] = ""  # the rows of elements 26 and 100
    file = labelled_file(tmp_path / "a.csv", cells)
    summary = cli("replay", file, *LABELLED, "--label-expiry", 50, "--json").json()
    assert summary["ticks"] == 200
    assert summary["label_column"]["missing"] == 1
    assert summary["expired"] == 1
    assert summary["labels"] == summary["predictions"] - 2  # the last one has no row


def test_an_invalid_label_is_named_and_the_tick_stays(cli, tmp_path, outcomes):
    cells = [str(y) for y in outcomes]
    cells[25] = "7"
    file = labelled_file(tmp_path / "a.csv", cells)
    done = cli("replay", file, *LABELLED, "--json")
    assert done.json()["labels_bad"] == done.json()["refused_labels"] == 1
    assert "n=25" in done.err
    assert "0 or 1, not 7" in done.err
    real = cli("replay", file, *LABELLED, "--threshold", 0.5, "--json").json()
    assert real["refused_labels"] == 0
    assert real["labels"] == done.json()["labels"] + 1


def test_labels_that_are_all_refused_are_bad_data_with_the_remedy(cli, tmp_path, outcomes):
    file = labelled_file(tmp_path / "a.csv", outcomes)
    late = cli("replay", file, *LABELLED, "--label-delay", 50, "--max-pending", 3)
    assert late.code == 65
    assert "expired before its label came: raise max_pending=3" in late.err
    assert "every label was refused (26 late)" in late.err
    assert "26 too late, 10 not due by the end" in late.out
    wrong = cli("replay", file, *LABELLED[:-1], "t", "--json")
    assert wrong.code == 65
    assert wrong.json()["labels_bad"] == wrong.json()["predictions"] - 1
    assert "set `threshold`" in wrong.err


def test_learning_from_late_labels_is_not_learning_from_prompt_ones(cli, tmp_path, outcomes):
    line = ("replay", labelled_file(tmp_path / "a.csv", outcomes), *LABELLED, "--learn")
    delays = (("--label-delay", delay, "--json") for delay in ("0", "0", "60"))
    digests = [cli(*line, *more).json()["digest"] for more in delays]
    assert digests[0] == digests[1] != digests[2]


def test_a_delay_is_elements_or_a_time():
    assert parse_delay("0") == (0, None)
    assert parse_delay("10000") == (10_000, None)
    assert parse_delay("1.5s") == (0, 1_500_000_000)
    assert parse_delay("5 min") == (0, 300 * 10**9)
    for text in ("", "-1", "1.5", "s", "3 days", "1e3"):
        with pytest.raises(UsageError, match="elements"):
            parse_delay(text)
