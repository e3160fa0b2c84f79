"""Many streams on real sockets: columns of ticks give what ticks one by one give."""

import threading

import jax
import numpy as np
import pytest

from stream_lstm.config import StoreConfig
from stream_lstm.core.session import Session
from stream_lstm.events import Gap, Prediction, Refusal, Score, Ticks
from stream_lstm.feed.protocol import encode_ticks
from stream_lstm.feed.publisher import Publisher
from stream_lstm.serve import daemon as daemon_module
from stream_lstm.serve.daemon import Daemon
from stream_lstm.serve.runtime import COMPILED
from stream_lstm.serve.signals import StopSwitch
from stream_lstm.store.reading import Setup
from stream_lstm.store.store import Store

from ..engines import engine_for, settings
from ..store.stores import predictions, query, scored, scores, shown

ANY_PORT = "tcp://127.0.0.1:*"
WAIT_S = 30.0
LATE_S = 120.0
NAMES = [f"s{k}" for k in range(40)]


def sent(seed=3, count=3000):
    """Ticks as (stream, number, value), a few of them lost, and a few of them bad."""
    rng, numbers = np.random.default_rng(seed), dict.fromkeys(NAMES, 0)
    for place in rng.integers(0, len(NAMES), count).tolist():
        name = NAMES[place]
        numbers[name] += 1 if rng.random() > 0.005 else 3
        value = float(rng.normal())
        yield name, numbers[name], value if rng.random() > 0.005 else float("nan")


def served(path=None, **values):
    """The events of a daemon that 40 streams are sent to, one tick a message."""
    events = []
    with (
        StopSwitch() as stop,
        Publisher(ANY_PORT, heartbeats=False, columns=("x",), run_id="s1") as feed,
    ):
        config = settings(connect=[feed.endpoint], stride=3, **values)
        more = {"stop": stop, "observers": [events.append], "engine": engine_for(config)}
        if path is not None:
            setup = Setup(config, ("x",))
            options = StoreConfig(snapshot_every=500)
            more["store"] = Store(path, setup, options, command="run", blocking=False)
        with Daemon(config, ("x",), **more) as daemon:
            feed.wait_for_subscribers(1, WAIT_S)
            daemon.every(LATE_S, stop.set)
            for name, seq, value in sent():
                frames = encode_ticks(name, seq, [value], run_id="s1", seq=seq)
                feed._socket.send_multipart(frames)
            for name in NAMES:
                feed.end(name)
            daemon.run(until_end=True)
            if path is not None:
                more["store"].close()
            return events, daemon


def fed():
    """The events of a session that gets the same ticks one by one."""
    events, due = [], {}
    config = settings(stride=3)
    session = Session(config, ("x",), events.append, engine=engine_for(config))
    for name, seq, value in sent():
        if seq > due.get(name, seq):
            session.gap(Gap(name, seq, seq - due[name]))
        due[name] = seq + 1
        session.push(Ticks(name, np.array([seq]), np.array([[value]]), "s1", seq))
    session.settle()
    return events


def of_stream(kind, events):
    """Records of a kind by stream: between two streams no order is promised."""
    return {
        name: [e for e in events if isinstance(e, kind) and e.stream == name] for name in NAMES
    }


@pytest.mark.parametrize("together", [2, 10**9])
def test_many_streams_give_the_bits_of_ticks_one_by_one(monkeypatch, together):
    monkeypatch.setattr(daemon_module, "MANY", together)
    events, daemon = served(streams=NAMES)
    assert daemon.columnar == (together == 2)
    direct = fed()
    assert len([e for e in direct if isinstance(e, Prediction)]) > 500
    for kind in (Prediction, Score):
        assert of_stream(kind, events) == of_stream(kind, direct)
    refused = [e.stream for e in events if isinstance(e, Refusal)]
    assert sorted(refused) == sorted(e.stream for e in direct if isinstance(e, Refusal)) != []
    assert len(daemon.session.streams) == len(NAMES)


def test_many_streams_are_stored_with_what_came_of_each(tmp_path, monkeypatch):
    monkeypatch.setattr(daemon_module, "MANY", 2)
    path = tmp_path / "s.db"
    events, daemon = served(path, streams=NAMES)
    assert sorted(predictions(path)) == sorted(shown(events))
    assert scores(path) == scored(events)
    wrong = (
        "SELECT p.stream, p.n FROM predictions p JOIN ticks t USING (pos) "
        "WHERE p.stream <> t.stream OR p.n <= t.n_before OR p.n > t.n_after"
    )
    assert query(path, wrong) == []
    held = dict(query(path, "SELECT stream, n FROM streams"))
    assert held == {name: stream.n for name, stream in daemon.session.streams.items()}


def test_many_streams_that_are_named_compile_nothing_after_the_start():
    _, daemon = served(streams=NAMES, hidden=7)
    assert daemon.columnar
    assert daemon.compilations == 0


def test_many_streams_without_names_compile_their_loop_beside_the_ticks():
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


def test_what_many_streams_need_is_compiled_when_they_come(monkeypatch):
    monkeypatch.setattr(daemon_module, "MANY", 30)
    _, daemon = served()
    assert daemon._compiling is not None
    assert daemon.columnar
    _, daemon = served(learn=True, sharing="per-stream")
    assert daemon._compiling is None
    assert not daemon.columnar
