"""The timeline of a daemon on real sockets: it parses, it nests, and it counts what happened."""

import gc
import itertools
import json
from collections import Counter

import numpy as np
import pytest

from stream_lstm.core.session import Session
from stream_lstm.errors import OutputError, UsageError
from stream_lstm.events import Score, Ticks
from stream_lstm.serve.trace import Trace

from ..engines import engine_for, settings
from ..store.stores import COLUMNS, series
from .live import ANY_PORT, Live

TICKS = 100


def read(path):
    return json.loads(path.read_text())


def spans(path):
    return [event for event in read(path)["traceEvents"] if event["ph"] == "X"]


def counted(path):
    return Counter(span["name"] for span in spans(path))


def total(path, stage):
    return sum(span["args"]["n"] for span in spans(path) if span["name"] == stage)


def session():
    config = settings()
    return Session(config, COLUMNS, lambda _: None, engine=engine_for(config))


def push(into, values):
    into.push(Ticks("a", np.zeros(len(values), np.int64), values))


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """The trace of a daemon that learns from ticks one by one, the daemon, and its events."""
    path, events = tmp_path_factory.mktemp("trace") / "trace.json", []
    with Trace(path, "a daemon") as trace:
        observers = [trace.timed("store", events.append)]
        with Live(learn=True, publish=ANY_PORT, pages=True, observers=observers) as live:
            trace.daemon(live.daemon)
            for k, row in enumerate(series(TICKS)):
                live.feed.publish("a", k, row)
            live.finish()
    return path, live.daemon, events


def test_the_counts_are_those_of_the_daemon(traced):
    path, daemon, events = traced
    counters = daemon.session.streams["a"].counters
    stages = counted(path)
    scored = sum(isinstance(event, Score) for event in events)
    assert (counters.predictions, counters.updates, scored) == (9, 9, 9)
    # Where a backlog came in one block, updates of whole strides are made in one call.
    alone, strided = stages["learn"], total(path, "strides") // 10
    assert alone + strided == counters.updates + counters.updates_refused
    assert stages["publish"] == counters.predictions + scored
    assert 0 < total(path, "features") <= total(path, "push") <= TICKS, "others came singly"
    assert total(path, "step") + total(path, "strides") == TICKS
    assert total(path, "receive") == daemon.subscriber.counters.messages == TICKS + 2
    assert stages["decode"] == TICKS + 2, "and a heartbeat before and after"
    assert stages["store"] == len(events)
    assert stages["gc"] >= 1
    assert read(path)["otherData"] == {"spans_dropped": 0}


def test_stages_nest(traced):
    path, _, _ = traced
    edges = sorted((span["ts"], -span["dur"], span["name"]) for span in spans(path))
    open_, inside = [], set()
    for start, length, name in edges:
        while open_ and open_[-1][0] <= start:
            open_.pop()
        end = start - length
        assert not open_ or end <= open_[-1][0] + 0.002, f"{name} at {start} outlasts {open_[-1]}"
        inside |= {(outer, name) for _, outer in open_}
        open_.append((end, name))
    for outer, inner in (
        ("receive", "decode"),
        ("push", "features"),
        ("push", "step"),
        ("push", "publish"),
        ("push", "strides"),
        ("push", "store"),
    ):
        assert (outer, inner) in inside
    assert ("features", "strides") not in inside


def test_no_proxy_stays_behind(traced):
    """Neither of the trace nor of the pages, which were attached before it."""
    _, daemon, _ = traced
    session, subscriber = daemon.session, daemon.subscriber
    owners = session, session.engine, session.maker, subscriber, subscriber.intake.one_tick
    for owner in (*owners, subscriber.intake, daemon.publisher, daemon.tasks):
        values = vars(owner).items()
        assert [k for k, v in values if "timed" in str(v) or "sampled" in str(v)] == []
    assert session.publish == daemon.publisher.publish
    assert not any("Trace" in repr(callback) for callback in gc.callbacks)


def test_only_the_newest_spans_are_written_and_the_others_counted(tmp_path):
    path, ticks = tmp_path / "t.json", series(30)
    with Trace(path, "a session", limit=5) as trace:
        one = session()
        trace.session(one)
        for k in range(30):
            push(one, ticks[k : k + 1])
    assert len(spans(path)) == 5
    assert [span["name"] for span in spans(path)][-3:] == ["push", "push", "push"]
    assert read(path)["otherData"]["spans_dropped"] == trace.recorded - 5 >= 25


def test_times_are_microseconds_since_the_start(tmp_path):
    path, clock = tmp_path / "t.json", itertools.count(5_000_000_000, 1_500)
    with Trace(path, "x", clock=lambda: next(clock)) as trace:
        trace.timed("store", lambda: None)()
    (span,) = spans(path)
    assert (span["ts"], span["dur"], span["args"]) == (1.5, 1.5, {"n": 1})


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_does_not_lose_the_trace(tmp_path, error):
    path = tmp_path / "t.json"

    def work():
        with Trace(path, "x") as trace:
            one = session()
            trace.session(one)
            push(one, series(20))
            raise error

    with pytest.raises(error):
        work()
    assert total(path, "push") == 20
    assert list(tmp_path.iterdir()) == [path]


def test_a_start_that_fails_leaves_the_previous_trace(tmp_path):
    path = tmp_path / "t.json"
    path.write_text("the last one")
    with pytest.raises(ValueError, match="wrong"), Trace(path, "x"):
        raise ValueError("wrong")
    assert path.read_text() == "the last one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_is_an_error_before_the_start(tmp_path):
    with pytest.raises(UsageError, match=r"quotes\.csv"):
        Trace(tmp_path / "quotes.csv", "x")
    with pytest.raises(OutputError, match="missing"):
        Trace(tmp_path / "missing" / "t.json", "x")
    (tmp_path / "d.json").mkdir()
    with pytest.raises(OutputError, match="is a directory"):
        Trace(tmp_path / "d.json", "x")
