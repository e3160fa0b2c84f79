"""`--synthetic NAME`: the stream in place of a file, and the best possible beside the model."""

import csv

import numpy as np
import pytest

from stream_lstm.events import End, Ticks
from stream_lstm.feed.files import CHUNK_ROWS
from stream_lstm.feed.subscriber import Subscriber
from stream_lstm.feed.synthetic import SOURCES
from stream_lstm.schema import FeedConfig

from ..feed.received import blocks

SMALL = ("--hidden", 4, "--window", 20, "--bptt", 10)
FIGURES = (
    "best_accuracy",
    "best_log_loss",
    "query_labels",
    "query_accuracy",
    "best_query_accuracy",
)


def test_the_best_is_scored_on_the_labels_of_the_model(cli, tmp_path):
    out = tmp_path / "scores.csv"
    done = cli(
        *("replay", "--synthetic", "s4-latch", "--series-seed", 3, "--limit", 5000, *SMALL),
        *("--learn", "--out", out, "--json"),
    )
    assert done.code == 0, done.err
    summary = done.json()
    assert (summary["stream"], summary["ticks"], summary["updates"]) == ("s4-latch", 5000, 498)
    assert summary["series"] == {"name": "s4-latch", "seed": 3}

    source = SOURCES["s4-latch"](3)
    values = source.block(5000)
    at = np.arange(20, 5000, 10)  # elements predicted from; row n is element n + 1
    label, best = values[at, 0] > 0, source.best(values)[at - 1]
    query = best != 0.5
    with out.open() as file:
        p = np.array([float(row["p"]) for row in csv.DictReader(file) if row["label"]])
    assert summary["labels"] == len(p) == len(at)
    assert summary["best_accuracy"] == pytest.approx(np.mean((best > 0.5) == label))
    losses = -np.log(np.where(label, best, 1 - best))
    assert summary["best_log_loss"] == pytest.approx(losses.mean())
    assert summary["query_labels"] == query.sum() > 20
    right = ((p > 0.5) == label)[query]
    assert summary["query_accuracy"] == pytest.approx(right.mean())
    assert summary["best_query_accuracy"] == pytest.approx(((best > 0.5) == label)[query].mean())


@pytest.mark.parametrize(
    "arguments",
    [
        ("--feature", "diff(x)"),
        ("--feature", "x", "--feature", "diff(x)"),
        ("--horizon", 2),
        ("--window", 600, "--bptt", 10),
    ],
)
def test_of_other_labels_nothing_best_is_claimed(cli, arguments):
    line = ("replay", "--synthetic", "s1-ar", "--limit", 500, *SMALL, *arguments, "--json")
    done = cli(*line)
    assert done.code == 0, done.err
    assert {done.json()[key] for key in FIGURES} == {None}


def test_where_nothing_can_be_known_there_are_no_queries(cli):
    done = cli("replay", "--synthetic", "s0-garch", "--limit", 500, *SMALL, "--json")
    assert done.json()["best_log_loss"] == pytest.approx(np.log(2))
    assert done.json()["query_labels"] == 0
    assert done.json()["query_accuracy"] is None


@pytest.mark.parametrize(("name", "lines"), [("s6-echo", 2), ("s1-ar", 1)])
def test_people_are_told_too(cli, name, lines):
    done = cli("replay", "--synthetic", name, "--limit", 2000, *SMALL)
    assert done.code == 0
    assert "best possible on these labels: accuracy 0." in done.out
    assert done.out.count("at best 0.") == lines - 1


def test_a_file_of_the_same_values_gives_the_same_predictions(cli, tmp_path):
    file = tmp_path / "s1-ar.csv"  # the digest holds the name
    values = SOURCES["s1-ar"](0).block(500)[:, 0].tolist()
    file.write_text("x\n" + "\n".join(map(repr, values)))
    from_file = cli("replay", file, "--feature", "x", *SMALL, "--json").json()
    drawn = cli("replay", "--synthetic", "s1-ar", "--limit", 500, *SMALL, "--json").json()
    assert from_file["digest"] == drawn["digest"]
    assert not {"series", *FIGURES} & set(from_file)


def test_it_is_published_whole_and_then_its_end(cli, tmp_path):
    endpoint, count = f"ipc://{tmp_path}/feed", CHUNK_ROWS + 100
    with Subscriber(FeedConfig(connect=(endpoint,), columns=("x",))) as subscriber:
        done = cli(
            *("publish", "--synthetic", "s2-regime", "--series-seed", 5, "--limit", count),
            *("--bind", endpoint, "--block", 5000, "--wait-subscribers", 1, "--json"),
        )
        assert done.code == 0, done.err
        assert (done.json()["stream"], done.json()["ticks"]) == ("s2-regime", count)
        events = []
        while not any(isinstance(event, End) for event in events):
            came = subscriber.receive(20.0)
            assert came
            events += blocks(came)
    sent = np.concatenate([event.values for event in events if isinstance(event, Ticks)])
    assert sent.tobytes() == SOURCES["s2-regime"](5).block(count).tobytes()


@pytest.mark.parametrize("command", ["replay", "publish"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["FILE or --synthetic NAME, one of them"]),
        (["x.csv", "--synthetic", "s1-ar"], ["not both"]),
        (["--synthetic", "s4-lach"], ["'s4-lach'", "did you mean 's4-latch'", *SOURCES]),
        (["--synthetic", "s1-ar", "--time", "t"], ["--time", "no times"]),
        (["--synthetic", "s1-ar", "--series-seed", "-1"], ["--series-seed"]),
        (["x.csv", "--series-seed", "1"], ["--series-seed", "--synthetic"]),
        (["--synthetic", "s1-ar", "--stream", "a/b"], ["'a/b'"]),
    ],
)
def test_a_mistake_is_one_sentence_and_an_exit_code(cli, command, arguments, words):
    done = cli(command, *arguments)
    assert done.code == 2
    assert done.out == ""
    for word in words:
        assert word in done.err


def test_a_column_that_is_not_there_is_named(cli):
    asked = cli("replay", "--synthetic", "s1-ar", "--feature", "diff(y)")
    assert (asked.code, "s1-ar has no column 'y' (it has x)" in asked.err) == (2, True)
    asked = cli(
        "publish", "--synthetic", "s1-ar", "--columns", "x,y", "--bind", "tcp://127.0.0.1:*"
    )
    assert (asked.code, "s1-ar has no column 'y'" in asked.err) == (2, True)


def test_another_series_is_not_taken_for_it():
    from stream_lstm.cli.best_possible import BestPossible
    from stream_lstm.config import build
    from stream_lstm.errors import StreamLSTMError
    from stream_lstm.events import Score
    from stream_lstm.records import Batch

    best = BestPossible(SOURCES["s1-ar"](1))
    xs = SOURCES["s1-ar"](2).block(50)[1:, 0]
    scores = [Score("s", n, 0, 0.5, int(x > 0), 0.7, 0.5, 0.5) for n, x in enumerate(xs, 1)]
    best.add(Batch.of(Score, scores))
    with pytest.raises(StreamLSTMError, match="not the one"):
        best.figures(build({"features": ["x"]}), {"ticks": 50, "elements": 50})


def test_the_first_part_of_a_name_is_enough(cli):
    arguments = ("--limit", 300, *SMALL, "--json")
    short = cli("replay", "--synthetic", "S4", *arguments).json()
    assert short["series"] == {"name": "s4-latch", "seed": 0}
    assert cli("replay", "--synthetic", "s4l", *arguments).json()["stream"] == "s4l-latch"
