"""A daemon with a store, stopped and started again, goes on as if nothing had happened."""

from __future__ import annotations

import numpy as np
import pytest

from stream_lstm.config import StoreConfig
from stream_lstm.events import End, Gap, Label, Prediction, Score
from stream_lstm.feed.predictions import PredictionSubscriber
from stream_lstm.feed.protocol import Heartbeat, encode_heartbeat, encode_label, encode_ticks
from stream_lstm.feed.publisher import Publisher
from stream_lstm.serve.daemon import Daemon
from stream_lstm.serve.signals import StopSwitch
from stream_lstm.store.reading import Setup
from stream_lstm.store.store import Store

from ..engines import engine_for, settings
from ..store.stores import (
    COLUMNS,
    LEARNING,
    StoredSession,
    of,
    predictions,
    query,
    scores,
    series,
    ticks,
)

ANY_PORT = "tcp://127.0.0.1:*"
WAIT_S = 30.0
LATE_S = 120.0


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.db"


def publish(publisher, values, first):
    """Publish ticks as those numbered from `first`, as one who has kept them can."""
    times = np.arange(first, first + len(values)) * 10**9
    frames = encode_ticks("a", times, values, run_id=publisher.run_id, seq=first)
    publisher._socket.send_multipart(frames)


def publish_label(publisher, n, y):
    publisher._socket.send_multipart(encode_label(Label("a", n, y)))


class Life:
    """A daemon from its start to its stop, which comes once it has had so many elements.

    send: called with a publisher, which is another for each life, so that it knows when it is
    heard; its session is the same unless it is said.
    """

    def __init__(
        self,
        path,
        send,
        until,
        *,
        kill=False,
        republish=False,
        session="s1",
        every=60,
        **values,
    ):
        self.events, self.heard = [], []
        with (
            StopSwitch() as stop,
            Publisher(ANY_PORT, heartbeats=False, columns=COLUMNS, run_id=session) as publisher,
        ):
            config = settings(connect=[publisher.endpoint], **LEARNING | values)
            options = StoreConfig(snapshot_every=every)
            store = Store(path, Setup(config, COLUMNS), options, command="run", blocking=False)
            daemon = Daemon(
                config,
                COLUMNS,
                stop=stop,
                observers=[self.events.append],
                store=store,
                republish=republish,
                engine=engine_for(config),
            )
            self.resumed = store.resumed
            with daemon:
                publisher.wait_for_subscribers(1, WAIT_S)
                send(publisher)
                daemon.every(LATE_S, stop.set)
                daemon.every(0.0, lambda: self.count(daemon) >= until and stop.set())
                self.serve(daemon)
            store.close(whole=not kill)
        assert self.count(daemon) >= until, f"only {self.count(daemon)} of {until} came"

    def serve(self, daemon):
        if daemon.publisher is None:
            daemon.run()
            return
        with PredictionSubscriber(daemon.publisher.endpoint) as listener:
            daemon.publisher.wait_for_subscribers(1, WAIT_S)
            daemon.run()
            while not of(End, self.heard):
                self.heard += listener.receive(WAIT_S)

    @staticmethod
    def count(daemon):
        stream = daemon.session.streams.get("a")
        return 0 if stream is None else stream.n


@pytest.mark.parametrize("beats", [6, 12])
def test_a_daemon_outlives_numbers_that_are_as_large_as_may_be(path, beats):
    values = series(100)

    def send(publisher):
        publish(publisher, values[:1], 1)
        for k in range(beats):
            publisher._socket.send_multipart(
                encode_heartbeat(Heartbeat("y", 2**62, f"{publisher.run_id}-{k}"))
            )
        publish(publisher, values[1:], 2)

    for session in ("s1", "s2"):
        life = Life(path, send, 100, every=10, session=session)
        assert of(Prediction, life.events)


@pytest.fixture
def lives(path):
    return lambda send, until, **more: Life(path, send, until, **more)


@pytest.mark.parametrize("kill", [False, True])
def test_a_daemon_that_asks_for_what_it_missed_goes_on_to_the_same_bits(path, kill):
    values = series(400)
    kept = {"recovery": ANY_PORT, "heartbeats": False, "heartbeat_s": 0.0, "run_id": "s1"}
    with Publisher(ANY_PORT, columns=COLUMNS, **kept) as feed:
        ends = {"connect": [feed.endpoint], "recovery": [feed.recovery_endpoint]}
        config = settings(**LEARNING | ends)
        for low, until in ((0, 150), (150, 300), (300, 400)):
            # What is published while no daemon runs is there to be asked for.
            feed.publish("a", np.arange(low + 1, until + 1) * 10**9, values[low:until])
            options = StoreConfig(snapshot_every=60)
            store = Store(path, Setup(config, COLUMNS), options, command="run", blocking=False)
            with StopSwitch() as stop:
                more = {"stop": stop, "store": store, "engine": engine_for(config)}
                with Daemon(config, COLUMNS, **more) as daemon:
                    daemon.every(LATE_S, stop.set)
                    daemon.every(0.0, feed.heartbeat)
                    daemon.every(0.0, lambda n=until: Life.count(daemon) >= n and stop.set())
                    daemon.run()
            store.close(whole=not kill)
            assert daemon.subscriber.counters.recovered > 0
            assert Life.count(daemon) == until
    with StoredSession(path.with_name("whole.db"), options=StoreConfig()) as whole:
        whole.feed(ticks(values))
    assert predictions(path) == predictions(path.with_name("whole.db"))
    assert scores(path) == scores(path.with_name("whole.db"))
    assert not query(path, "SELECT 1 FROM events WHERE kind = 'gap'")


@pytest.mark.parametrize("kill", [False, True])
def test_a_daemon_that_is_sent_what_it_missed_goes_on_to_the_same_bits(path, lives, kill):
    values = series(400)
    lives(lambda feed: publish(feed, values[:150], 1), 150, kill=kill)
    # Sent again from before the stop: what is known is passed over.
    lives(lambda feed: publish(feed, values[120:300], 121), 300, kill=kill)
    lives(lambda feed: publish(feed, values[300:], 301), 400)
    with StoredSession(path.with_name("whole.db"), options=StoreConfig()) as whole:
        whole.feed(ticks(values))
    assert predictions(path) == predictions(path.with_name("whole.db"))
    assert scores(path) == scores(path.with_name("whole.db"))
    assert not query(path, "SELECT 1 FROM events WHERE kind = 'gap'")


def test_what_nobody_sends_again_is_a_gap(path, lives):
    values = series(400)
    lives(lambda feed: publish(feed, values[:150], 1), 150)
    second = lives(lambda feed: publish(feed, values[170:], 171), 380)
    assert of(Gap, second.events) == [Gap("a", 171, 20)]
    assert query(path, "SELECT stream, seq, count FROM events WHERE kind = 'gap'") == [
        ("a", 171, 20)
    ]
    assert [p.after_gap for p in of(Prediction, second.events)][:3] == [True, True, False]


def test_a_new_session_of_the_publisher_is_one_after_a_restart_too(path, lives):
    values = series(200)
    lives(lambda feed: publish(feed, values[:100], 1), 100)
    second = lives(lambda feed: publish(feed, values[100:], 1), 200, session="s2")
    assert [p.session for p in of(Prediction, second.events)] == ["s2"] * 10
    assert of(Prediction, second.events)[0].after_gap
    kinds = query(path, "SELECT kind, session FROM events WHERE input = 1")
    assert kinds == [("session", "s1"), ("session", "s2")] or kinds == [("session", "s2")]


def test_what_was_published_is_published_again_only_where_asked(path, lives):
    values = series(400)
    more = {"kill": True, "publish": ANY_PORT, "every": 1000}
    first = lives(lambda feed: publish(feed, values[:150], 1), 150, **more)
    assert [p.n for p in of(Prediction, first.heard)] == list(range(12, 150, 10))
    quiet = lives(lambda feed: publish(feed, values[150:151], 151), 151, **more)
    assert of(Prediction, quiet.heard) == []
    loud = lives(lambda feed: publish(feed, values[151:160], 152), 160, republish=True, **more)
    behind = of(Prediction, loud.resumed.predictions)
    assert behind
    assert of(Prediction, loud.heard)[: len(behind)] == behind
    assert {(p.n, p.p) for p in behind} <= {(p.n, p.p) for p in of(Prediction, first.heard)}


def test_a_label_that_may_be_revised_still_may_be_after_a_restart(path, lives):
    values = series(100)
    rules = {"labels": "external", "revisions": "last", "label_hold": 60}

    def first(feed):
        publish(feed, values[:50], 1)
        publish_label(feed, 12, 1)
        publish(feed, values[50:51], 51)

    def second(feed):
        publish_label(feed, 12, 0)
        publish(feed, values[51:], 52)

    before = lives(first, 51, **rules)
    after = lives(second, 100, **rules)
    assert of(Score, before.events) == []
    assert len(of(Label, after.events)) == 1
    with StoredSession(path, settings(**LEARNING, **rules)) as kept:
        kept.feed(ticks(series(30), 101))
    assert [row[1::2] for row in scores(path)] == [(12, 0)]


def test_a_stored_tick_has_its_outputs_though_it_waited(path, lives):
    """Killed at any instant: what a restart goes on from is what it was sent, and complete."""
    values = series(200)
    rows = iter(range(1, 96))

    def next_tick(daemon, feed):
        if (k := next(rows, None)) is not None:
            publish(feed, values[k - 1 : k], k)

    with (
        StopSwitch() as stop,
        Publisher(ANY_PORT, heartbeats=False, columns=COLUMNS, run_id="s1") as feed,
    ):
        config = settings(connect=[feed.endpoint], **LEARNING)
        options = StoreConfig(snapshot_every=1000, commit_elements=1, commit_ms=1)
        store = Store(path, Setup(config, COLUMNS), options, command="run", blocking=False)
        more = {"stop": stop, "store": store, "engine": engine_for(config)}
        with Daemon(config, COLUMNS, **more) as daemon:
            feed.wait_for_subscribers(1, WAIT_S)
            daemon.every(LATE_S, stop.set)
            daemon.every(0.0, lambda: next_tick(daemon, feed))
            daemon.every(0.0, lambda: Life.count(daemon) == 95 and stop.set())
            daemon.run()
        store.close(whole=False)
    held = query(path, "SELECT max(n_after) FROM ticks")[0][0]
    assert held == 95
    assert [n for _, n, *_ in predictions(path)] == list(range(12, held + 1, 10))
    assert [n for _, n, *_ in scores(path)] == list(range(12, held, 10))
    lives(lambda feed: publish(feed, values[held:], held + 1), 200)
    with StoredSession(path.with_name("whole.db"), options=StoreConfig()) as whole:
        whole.feed(ticks(values))
    assert predictions(path) == predictions(path.with_name("whole.db"))
    assert scores(path) == scores(path.with_name("whole.db"))
