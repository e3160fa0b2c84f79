"""Many streams on real sockets: columns of ticks give what ticks one by one give."""

import contextlib
import threading

import jax
import numpy as np
import pytest

from stream_lstm.config import StoreConfig
from stream_lstm.core.session import Session
from stream_lstm.events import Gap, Prediction, Refusal, Score, Ticks
from stream_lstm.feed.protocol import encode_ticks
from stream_lstm.serve import daemon as daemon_module
from stream_lstm.serve.runtime import COMPILED
from stream_lstm.store.reading import entries
from stream_lstm.store.schema import connect_reader
from stream_lstm.store.verify import Verification

from ..engines import engine_for, settings
from ..store.stores import predictions, query, scored, scores, shown
from .live import Live

NAMES = [f"s{k}" for k in range(40)]


def feed(seed=3, count=2000):
    """Yield ticks as (stream, number, value); a few are lost, and a few are bad."""
    rng, numbers = np.random.default_rng(seed), dict.fromkeys(NAMES, 0)
    for place in rng.integers(0, len(NAMES), count).tolist():
        name = NAMES[place]
        numbers[name] += 1 if rng.random() > 0.005 else 3
        value = float(rng.normal())
        yield name, numbers[name], value if rng.random() > 0.005 else float("nan")


def served(**values):
    """Return the events and the daemon after all ticks, one a message."""
    with Live(stride=3, **values) as live:
        for name, seq, value in feed():
            live.send(*encode_ticks(name, seq, [value], run_id="s1", seq=seq))
        for name in NAMES:
            live.feed.end(name)
        live.daemon.run(until_end=True)
    return live.events, live.daemon


def direct(**values):
    """Return the events of a session that takes the same ticks one by one."""
    events, due = [], {}
    config = settings(stride=3, **values)
    engine = engine_for(config, len(config.stream.features))
    session = Session(config, ("x",), events.append, engine=engine)
    for name, seq, value in feed():
        if seq > due.get(name, seq):
            session.gap(Gap(name, seq, seq - due[name]))
        due[name] = seq + 1
        session.push(Ticks(name, np.array([seq]), np.array([[value]]), "s1", seq))
    session.settle()
    return events


def by_stream(kind, events):
    """Return the records of a kind by stream: between two streams no order is promised."""
    return {
        name: [e for e in events if isinstance(e, kind) and e.stream == name] for name in NAMES
    }


@pytest.mark.parametrize("many", [2, 10**9])
def test_many_streams_give_the_bits_of_ticks_one_by_one(monkeypatch, many):
    monkeypatch.setattr(daemon_module, "MANY", many)
    events, daemon = served(streams=NAMES)
    assert daemon.columnar == (many == 2)
    expected = direct()
    assert len([e for e in expected if isinstance(e, Prediction)]) > 300
    for kind in (Prediction, Score):
        assert by_stream(kind, events) == by_stream(kind, expected)
    refused, wanted = (
        sorted(e.stream for e in given if isinstance(e, Refusal)) for given in (events, expected)
    )
    assert refused == wanted != []
    assert len(daemon.session.streams) == len(NAMES)


def inputs(path):
    """Return the ticks and gaps of a journal in its order, each tick as (stream, number)."""
    found = []
    with contextlib.closing(connect_reader(path)) as connection:
        for _, event, _, _ in entries(connection):
            match event:
                case Gap(stream, seq, _):
                    found.append((stream, "gap", seq))
                case Ticks():
                    found += [(event.stream, "tick", t_ns) for t_ns in event.t_ns.tolist()]
    return found


@pytest.mark.parametrize(
    ("many", "values"), [(2, {}), (10**9, {}), (10**9, {"learn": True, "bptt": 5})]
)
def test_the_journal_keeps_the_order_of_arrival_where_it_counts(
    tmp_path, monkeypatch, many, values
):
    monkeypatch.setattr(daemon_module, "MANY", many)
    expected, due = [], {}
    for name, seq, _ in feed():
        expected += [(name, "gap", seq)] * (seq > due.get(name, seq)) + [(name, "tick", seq)]
        due[name] = seq + 1
    if not values:
        served(store=tmp_path / "a.db", streams=NAMES)
        assert inputs(tmp_path / "a.db") != expected
        assert sorted(inputs(tmp_path / "a.db")) == sorted(expected)
        monkeypatch.setattr(Session, "independent", False)
    path = tmp_path / "b.db"
    events, daemon = served(store=path, streams=NAMES, **values)
    assert inputs(path) == expected
    assert len([e for e in events if isinstance(e, Prediction)]) > 300
    session = Session(daemon.config, ("x",), engine=engine_for(daemon.config))
    with contextlib.closing(connect_reader(path)) as connection:
        assert Verification(connection, session).run().difference is None


OF = ("x", 'of("s0", mean(x, 5)) - x', 'age("s0")', "ewm_mean(x, 3)")


@pytest.mark.parametrize("many", [2, 10**9])
def test_streams_that_see_each_other_are_stepped_in_the_order_of_arrival(
    tmp_path, monkeypatch, many
):
    """Live, in one process and from the journal: the same bits."""
    monkeypatch.setattr(daemon_module, "MANY", many)
    path = tmp_path / "s.db"
    events, daemon = served(features=OF, store=path, streams=NAMES, snapshot_every=300)
    expected = by_stream(Prediction, direct(features=OF))
    assert by_stream(Prediction, events) == expected
    assert sum(map(len, expected.values())) > 300
    order = [(name, number) for name, number, _ in feed()]
    assert [(name, n) for name, kind, n in inputs(path) if kind == "tick"] == order
    session = Session(daemon.config, ("x",), engine=engine_for(daemon.config, len(OF)))
    with contextlib.closing(connect_reader(path)) as connection:
        assert Verification(connection, session).run().difference is None


def test_the_store_has_the_outputs_of_each_of_many_streams(tmp_path, monkeypatch):
    monkeypatch.setattr(daemon_module, "MANY", 2)
    path = tmp_path / "s.db"
    events, daemon = served(store=path, options=StoreConfig(snapshot_every=500), streams=NAMES)
    assert sorted(predictions(path)) == sorted(shown(events))
    assert scores(path) == scored(events)
    wrong = (
        "SELECT p.stream, p.n FROM predictions p JOIN ticks t USING (pos) "
        "WHERE p.stream <> t.stream OR p.n <= t.n_before OR p.n > t.n_after"
    )
    assert query(path, wrong) == []
    stored = dict(query(path, "SELECT stream, n FROM streams"))
    assert stored == {name: stream.n for name, stream in daemon.session.streams.items()}


@pytest.mark.slow
def test_streams_that_are_configured_compile_nothing_after_the_start():
    _, daemon = served(streams=NAMES, hidden=7)
    assert daemon.columnar
    assert daemon.compilations == 0


@pytest.mark.slow
def test_streams_that_are_not_configured_compile_their_loop_in_a_thread():
    threads = []

    def listen(event, seconds, **about):
        if event == COMPILED:
            threads.append((threading.current_thread().name, about.get("fun_name")))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        _, daemon = served(hidden=9)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert daemon.compilations == 2
    assert threads[-2:] == [("compile", "jit(loop)")] * 2
    assert daemon.columnar


def test_learning_streams_compile_no_loop():
    _, daemon = served(learn=True, sharing="per-stream")
    assert daemon._compiling is None
    assert not daemon.columnar
