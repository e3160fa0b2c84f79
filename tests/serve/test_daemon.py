"""The daemon on real sockets gives what a session gives that is fed directly.

Publisher and daemon share a thread: what is published waits in the sockets until the daemon runs,
or is published by a chore of the daemon's own loop, a tick at a time.
"""

import gc
import itertools
import threading

import msgspec
import numpy as np
import pytest

from stream_lstm.core.replay import Digest
from stream_lstm.core.session import Session
from stream_lstm.core.table import N
from stream_lstm.errors import ConfigurationError, EndpointError
from stream_lstm.events import (
    End,
    Gap,
    Label,
    Prediction,
    Refusal,
    Score,
    SessionStart,
    Ticks,
    Update,
)
from stream_lstm.feed.predictions import PredictionSubscriber
from stream_lstm.feed.protocol import Heartbeat, encode_heartbeat, encode_label, encode_ticks
from stream_lstm.feed.publisher import Publisher
from stream_lstm.serve import daemon as daemon_module
from stream_lstm.serve.daemon import PIECE, Daemon
from stream_lstm.serve.signals import StopSwitch

from ..engines import engine_for, settings

ANY_PORT = "tcp://127.0.0.1:*"
COLUMNS = ("x",)
WAIT_S = 30.0
LATE_S = 120.0


def series(n, seed=3):
    return np.random.default_rng(seed).normal(size=(n, 1))


def of(kind, events):
    return [event for event in events if isinstance(event, kind)]


def digest(events):
    total = Digest()
    for prediction in of(Prediction, events):
        total.add(prediction)
    return total.hexdigest()


def fed_directly(config, values, stream="a", cut=None):
    """The events of a session that is given `values` in blocks of `cut`."""
    events = []
    session = Session(config, COLUMNS, events.append, engine=engine_for(config))
    for start in range(0, len(values), cut or len(values)):
        part = values[start : start + (cut or len(values))]
        session.push(Ticks(stream, np.zeros(len(part), np.int64), part))
    session.settle()
    return events


@pytest.fixture
def publisher():
    with Publisher(ANY_PORT, heartbeats=False, columns=COLUMNS, run_id="s1") as made:
        yield made


@pytest.fixture
def stop():
    with StopSwitch() as made:
        yield made


@pytest.fixture
def start(publisher, stop):
    """A function that gives a daemon, subscribed to `publisher`, and the list of its events."""
    made = []

    def make(*, feed=publisher, clock=None, observers=(), **values):
        config = settings(connect=[feed.endpoint], **values)
        events = []
        more = {} if clock is None else {"clock": clock}
        daemon = Daemon(
            config,
            COLUMNS,
            stop=stop,
            observers=[events.append, *observers],
            engine=engine_for(config),
            **more,
        )
        made.append(daemon)
        feed.wait_for_subscribers(1, WAIT_S)
        # What a test waits for may never come; then it fails and does not hang.
        daemon.every(LATE_S, stop.set)
        return daemon, events

    yield make
    for daemon in made:
        daemon.close()


@pytest.mark.parametrize("encoding", ["msgpack", "json"])
@pytest.mark.parametrize("learn", [False, True])
def test_a_feed_in_blocks_gives_the_bits_of_a_session_fed_directly(stop, start, learn, encoding):
    values = series(700)
    with Publisher(ANY_PORT, heartbeats=False, columns=COLUMNS, encoding=encoding) as publisher:
        daemon, events = start(feed=publisher, learn=learn)
        edges = [0, 1, 2, 40, 41, 300, 700]
        for low, high in itertools.pairwise(edges):
            publisher.publish("a", np.arange(low, high), values[low:high])
        publisher.end()
        daemon.run(until_end=True)
    direct = fed_directly(daemon.config, values)
    assert not stop.requested
    assert len(of(Prediction, events)) == 69
    assert digest(events) == digest(direct)
    assert [s.log_loss for s in of(Score, events)] == [s.log_loss for s in of(Score, direct)]
    assert of(Update, events) == of(Update, direct)
    assert bool(of(Update, events)) == learn


@pytest.mark.parametrize("learn", [False, True])
def test_single_ticks_give_the_same_bits(publisher, start, learn):
    values = series(260)
    daemon, events = start(learn=learn)
    left = iter(range(len(values) + 1))

    def next_tick():
        k = next(left, None)
        if k == len(values):
            publisher.end()
        elif k is not None:
            publisher.publish("a", k, values[k])

    daemon.every(0.0, next_tick)
    daemon.run(until_end=True)
    assert digest(events) == digest(fed_directly(daemon.config, values))
    assert len(of(Prediction, events)) == 25


@pytest.mark.parametrize("more", [{}, {"learn": True}, {"learn": True, "sharing": "per-stream"}])
def test_streams_that_take_turns_give_the_bits_of_one_tick_at_a_time(publisher, start, more):
    names = ("a", "b", "c")
    values = {name: series(120, seed) for seed, name in enumerate(names)}
    daemon, events = start(**more)
    for k in range(120):
        for name in names:
            publisher.publish(name, k, values[name][k])
    publisher.end()
    daemon.run(until_end=True)
    direct = []
    config = daemon.config
    session = Session(config, COLUMNS, direct.append, engine=engine_for(config))
    for k in range(120):
        for name in names:
            session.push(Ticks(name, np.zeros(1, np.int64), values[name][k : k + 1]))
    session.settle()
    assert digest(events) == digest(direct)
    for kind, loss in ((Score, "log_loss"), (Update, "loss")):
        live, given = (
            sorted((e.stream, e.n, getattr(e, loss)) for e in of(kind, made))
            for made in (events, direct)
        )
        assert live == given


def test_predictions_scores_and_the_end_are_published(publisher, start):
    values = series(100)
    daemon, events = start(publish=ANY_PORT, learn=True)
    with PredictionSubscriber(daemon.publisher.endpoint) as listener:
        daemon.publisher.wait_for_subscribers(1, WAIT_S)
        publisher.publish("a", np.arange(100), values)
        publisher.end()
        daemon.run(until_end=True)
        got = []
        while not of(End, got):
            came = listener.receive(WAIT_S)
            assert came, f"the end never came after {got}"
            got += came
    assert of(Prediction, got) == of(Prediction, events)
    assert of(Score, got) == of(Score, events)
    assert of(Prediction, got)[0].session == "s1"
    assert of(End, got) == [End("a", "s1")]


def test_a_prediction_leaves_before_the_update_that_its_predecessors_label_causes(
    publisher, start
):
    order = []
    daemon, _ = start(publish=ANY_PORT, learn=True, stride=1, observers=[order.append])
    sent = daemon.session.publish

    def publish(prediction):
        order.append("sent")
        sent(prediction)

    daemon.session.publish = publish
    publisher.publish("a", np.arange(40), series(40))
    publisher.end()
    daemon.run(until_end=True)
    kinds = [entry if entry == "sent" else type(entry).__name__ for entry in order]
    first = kinds.index("Update")
    assert kinds[first - 2 : first + 1] == ["Score", "Prediction", "Update"]
    assert order.index("sent") < kinds.index("Prediction")
    assert kinds.count("sent") == 29


def waiting(daemon):
    """How many elements the session has still to step."""
    return sum(stream.queued for stream in daemon.session.active.values())


def test_a_tick_that_publishes_nothing_waits_until_nothing_more_comes(publisher, start):
    daemon, _ = start()
    elements = lambda: int(daemon.session.table.view[0, N])  # noqa: E731 - looks, and steps nothing
    seen, sent = [], iter(range(1, 31))

    def look():
        if len(daemon.session.table):
            seen.append((elements(), waiting(daemon)))
        if (k := next(sent, None)) is not None:
            publisher.publish("a", k, series(1, k)[0])
        elif elements() == 30:
            daemon.stop.set()

    daemon.every(0.0, look)
    daemon.run()
    assert seen[-1] == (30, 0), "all are stepped, though the last published nothing"
    assert {k for _, k in seen} == {0}, "before chores the session has caught up"


def test_ticks_that_came_together_are_stepped_in_one_call(publisher, start):
    daemon, _ = start(streams=["a"])
    steps = []
    advance = daemon.session.engine.advance_in_place
    daemon.session.engine = Proxy(daemon.session.engine)
    daemon.session.engine.advance_in_place = lambda *given: (
        steps.append(len(given[2])) or advance(*given)
    )
    for k in range(12):
        publisher.publish("a", k, series(1, k)[0])
    publisher.end()
    daemon.run(until_end=True)
    assert sum(steps) == 12
    assert len(steps) <= 3


class Proxy:
    """Another engine of the same calls, since engines are shared between tests."""

    def __init__(self, engine):
        self._engine = engine

    def __getattr__(self, name):
        return getattr(self._engine, name)


def test_a_gap_and_a_stop_find_no_tick_waiting(publisher, stop, start):
    daemon, events = start()
    for seq in (1, 2, 3, 7, 8):
        frames = encode_ticks("a", seq, series(1, seq)[0], run_id="s1", seq=seq)
        publisher._socket.send_multipart(frames)
    reached = []
    daemon._observers = (
        *daemon._observers,
        lambda e: isinstance(e, Gap) and reached.append(int(daemon.session.table.view[0, N])),
    )
    daemon.every(0.0, lambda: daemon.subscriber.counters.ticks == 5 and stop.set())
    daemon.run()
    assert of(Gap, events) == [Gap("a", 7, 3)]
    assert reached == [3]
    assert int(daemon.session.table.view[0, N]) == 5


def test_a_heartbeat_counts_the_ticks_that_waited(publisher, start):
    daemon, _ = start(publish=ANY_PORT)
    daemon.session.tick("a", 1, (1.0,), "s1", 1)
    assert waiting(daemon) == 1
    beats = []
    daemon.publisher.heartbeat = lambda name, n, **_: beats.append((name, n))
    daemon._heartbeats.beat()
    assert beats == [("a", 2)]
    assert waiting(daemon) == 0


GARBAGE = [
    [b"tick/a/", b"\xff\x00"],
    [b"tick/a/"],
    [b"tick/a/", b'{"v":1,"values":["x"]}'],
    [b"tick/a/", b'{"v":9,"values":[1.0]}'],
    [b"tick//", b"{}"],
    [b"label/a/", b"{"],
    [b"tick/a/", b'{"v":1,"values":[1.0,2.0]}'],
    [b"tick/a/", b"{}", b"{}"],
]


def test_garbage_between_ticks_is_refused_and_changes_nothing(publisher, start):
    values = series(200)
    daemon, events = start(learn=True)
    for k, row in enumerate(values):
        publisher.publish("a", k, row)
        if k % 20 == 7:
            publisher._socket.send_multipart(GARBAGE[k // 20 % len(GARBAGE)])
    publisher.end()
    daemon.run(until_end=True)
    refusals = of(Refusal, events)
    assert len(refusals) == daemon.subscriber.counters.refused == 10
    assert {refusal.kind for refusal in refusals} == {"message"}
    assert digest(events) == digest(fed_directly(daemon.config, values))


def test_a_bad_value_is_refused_alone(publisher, start):
    values = series(200)
    bad = values.copy()
    bad[50] = np.nan
    daemon, events = start()
    publisher.publish("a", np.arange(200), bad)
    publisher.end()
    daemon.run(until_end=True)
    assert [(r.kind, r.index) for r in of(Refusal, events)] == [("tick", 50)]
    rest = np.delete(values, 50, axis=0)
    assert digest(events) == digest(fed_directly(daemon.config, rest))


def test_until_end_waits_for_every_stream_seen(publisher, start):
    daemon, events = start()
    both = {"a": series(60, 1), "b": series(60, 2)}
    for name, values in both.items():
        publisher.publish(name, np.arange(30), values[:30])
    publisher.end("a")
    publisher.publish("b", np.arange(30, 60), both["b"][30:])
    publisher.end("b")
    daemon.run(until_end=True)
    assert {name: s.n for name, s in daemon.session.streams.items()} == {"a": 30, "b": 60}
    assert of(End, events) == [End("a", "s1"), End("b", "s1")]
    ours = [e for e in events if getattr(e, "stream", "") == "b"]
    assert digest(ours) == digest(fed_directly(daemon.config, both["b"], "b"))


def test_until_end_waits_for_a_configured_stream_that_has_not_come_yet(publisher, start):
    daemon, _ = start(streams=["a", "b"])
    publisher.publish("a", 0, [1.0])
    publisher.end("a")
    todo = iter([lambda: publisher.publish("b", 0, [1.0]), lambda: publisher.end("b")])

    def next_step():
        next(todo, int)()

    daemon.every(0.0, next_step)
    daemon.run(until_end=True)
    assert {name: s.n for name, s in daemon.session.streams.items()} == {"a": 1, "b": 1}


def test_a_stream_that_begins_anew_has_not_ended(publisher, start):
    daemon, _ = start()

    def send(session, seq, *, end=False):
        beat = Heartbeat("a", seq, session, end=end)
        publisher._socket.send_multipart(
            encode_heartbeat(beat)
            if end
            else encode_ticks("a", seq, np.ones((1, 1)), run_id=session, seq=seq)
        )

    send("s1", 1)
    publisher.publish("b", 0, [1.0])
    send("s1", 2, end=True)
    send("s2", 1)
    publisher.end("b")
    rest = iter([lambda: send("s2", 2), lambda: send("s2", 3, end=True)])

    def next_step():
        if "b" in daemon._ended:
            next(rest, int)()

    daemon.every(0.0, next_step)
    daemon.run(until_end=True)
    assert daemon.session.streams["a"].n == 3


def test_without_until_end_an_end_is_not_the_end(publisher, stop, start):
    daemon, events = start(observers=[lambda e: isinstance(e, End) and publisher.publish(*TICK)])
    publisher.publish(*TICK)
    publisher.end()
    daemon.every(0.0, lambda: daemon.subscriber.counters.ticks == 2 and stop.set())
    daemon.run()
    assert of(End, events) == [End("a", "s1")]
    assert daemon.session.streams["a"].n == 2


TICK = ("a", 0, [1.0])


def test_a_gap_and_a_new_session_reach_the_session(publisher, start):
    values = series(40)
    daemon, events = start()

    def send(session, seq, low, high):
        frames = encode_ticks("a", np.arange(low, high), values[low:high], run_id=session, seq=seq)
        publisher._socket.send_multipart(frames)

    send("s1", 1, 0, 20)
    send("s1", 26, 20, 30)
    send("s2", 1, 30, 40)
    publisher.run_id = "s2"
    publisher.publish("z", 0, [1.0])
    publisher.end("z")
    daemon.every(0.0, lambda: daemon.session.streams["a"].n == 40 and daemon.stop.set())
    daemon.run()
    assert of(Gap, events) == [Gap("a", 26, 5)]
    assert [(e.stream, e.session) for e in of(SessionStart, events)] == [
        ("a", "s1"),
        ("a", "s2"),
        ("z", "s2"),
    ]
    flagged = {p.n: p.after_gap for p in of(Prediction, events) if p.stream == "a"}
    assert flagged == {12: False, 22: True, 32: True}
    assert daemon.session.streams["a"].counters.missed == 5


def test_labels_from_outside_come_by_the_feed(publisher, start):
    daemon, events = start(labels="external", learn=True)
    publisher.publish("a", np.arange(40), series(40))
    for n, y in ((12, 1), (22, 0), (22, 0), (23, 1)):
        publisher._socket.send_multipart(encode_label(Label("a", n, y)))
    publisher.end()
    daemon.run(until_end=True)
    assert [(s.n, s.label) for s in of(Score, events)] == [(12, 1), (22, 0)]
    assert [(r.kind, r.where) for r in of(Refusal, events)] == [
        ("label", "n=22"),
        ("label", "n=23"),
    ]
    assert [u.n for u in of(Update, events)] == [12, 22]


def test_labels_that_are_early_revised_or_held_to_the_end_come_by_the_feed(publisher, start):
    daemon, events = start(labels="external", revisions="last", label_hold=15)
    publisher.publish("a", np.arange(20), series(20))
    labels = [Label("a", n, y) for n, y in ((32, 1), (12, 1), (12, 0), (13, 1))]
    for label in labels:
        publisher._socket.send_multipart(encode_label(label))
    publisher._socket.send_multipart([b"label/a/", b'{"v":1,"y":1}'])  # no id
    publisher.publish("a", np.arange(20, 40), series(20))
    publisher.end()
    daemon.run(until_end=True)
    assert [(s.n, s.label) for s in of(Score, events)] == [(12, 0), (32, 1)]
    counters = daemon.session.streams["a"].counters
    assert (counters.labels_early, counters.labels_revised, counters.labels_unknown) == (1, 1, 1)
    assert [r.kind for r in of(Refusal, events)] == ["label", "message"]
    assert "`n`" in of(Refusal, events)[1].reason


class Clock:
    """A clock that goes on by `step` seconds with every look at it."""

    def __init__(self):
        self.now, self.step = 0.0, 0.0

    def __call__(self):
        self.now += self.step
        return self.now


def test_silence_ends_in_an_error_that_says_from_where(start, publisher):
    clock = Clock()
    daemon, _ = start(clock=clock, idle_timeout=60.0, streams=["a"], publish=ANY_PORT)
    publisher.publish(*TICK)
    with PredictionSubscriber(daemon.publisher.endpoint) as listener:
        daemon.publisher.wait_for_subscribers(1, WAIT_S)
        hurry = lambda: daemon.subscriber.counters.ticks and setattr(clock, "step", 10.0)  # noqa: E731
        daemon.tasks._tasks.clear()
        daemon.every(0.0, hurry)
        with pytest.raises(EndpointError) as caught:
            daemon.run()
        assert listener.receive(WAIT_S) == [End("a", "s1")]
    message = str(caught.value)
    assert publisher.endpoint in message
    assert "60 s" in message
    assert "streams a" in message


def test_the_switch_wakes_a_daemon_that_waits_for_ever(monkeypatch, start, stop):
    monkeypatch.setattr(daemon_module, "LONGEST_WAIT_S", 1e4)
    daemon, _ = start()
    daemon.tasks = daemon_module.PeriodicTasks()
    waiting = threading.Event()
    receive = daemon.subscriber.receive

    def announced(timeout_s):
        assert timeout_s == 1e4
        waiting.set()
        return receive(timeout_s)

    daemon.subscriber.receive = announced
    helper = threading.Thread(target=lambda: waiting.wait(WAIT_S) and stop.set())
    helper.start()
    daemon.run()
    helper.join()
    assert stop.requested


BLOCK = 12 * PIECE


@pytest.mark.parametrize("step", [0.0, 1.5])
def test_at_a_stop_what_is_in_hand_is_worked_off_while_time_allows(publisher, start, stop, step):
    clock = Clock()

    def halt(event):
        if isinstance(event, Prediction):
            clock.step = step
            stop.set()

    daemon, _ = start(clock=clock, observers=[halt], learn=True)
    publisher.publish("a", np.arange(BLOCK), series(BLOCK))
    daemon.run()
    elements = daemon.session.streams["a"].n
    assert elements == (BLOCK if step == 0.0 else 2 * PIECE)


def test_nothing_is_collected_by_chance_while_it_serves(publisher, start):
    seen = []
    daemon, _ = start(observers=[lambda _: seen.append(gc.isenabled())])
    publisher.publish("a", np.arange(40), series(40))
    publisher.end()
    daemon.run(until_end=True)
    assert set(seen) == {False}
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_a_stop_before_the_start_runs_nothing(publisher, start, stop):
    daemon, events = start()
    publisher.publish(*TICK)
    stop.set()
    daemon.run()
    assert events == []


def test_heartbeats_say_where_each_stream_stands(publisher, start):
    daemon, _ = start(publish=ANY_PORT)
    publisher.publish("a", np.arange(3), series(3))
    publisher.end()
    daemon.run(until_end=True)
    beats = []
    daemon.publisher.heartbeat = lambda *given, **more: beats.append((*given, more["run_id"]))
    daemon._heartbeats.beat()
    daemon._heartbeats.beat()
    assert beats == [("a", 4, "s1")] * 2


def test_a_late_daemon_with_recovery_gives_the_bits_of_one_from_the_start(start):
    values = series(300)
    with Publisher(ANY_PORT, heartbeats=False, columns=COLUMNS, recovery=ANY_PORT) as publisher:
        for k, row in enumerate(values[:180]):
            publisher.publish("a", k, row)
        lost = [publisher.recovery_endpoint]
        daemon, events = start(feed=publisher, recovery=lost, learn=True)
        publisher.publish("a", np.arange(180, 300), values[180:])
        publisher.end()
        daemon.run(until_end=True)
    assert digest(events) == digest(fed_directly(daemon.config, values))
    assert daemon.subscriber.counters.recovered == 180
    assert not of(Gap, events)


@pytest.mark.parametrize("on_gap", ["continue", "reset"])
def test_what_recovery_cannot_bring_follows_the_policy(start, monkeypatch, on_gap):
    """Ticks 41 to 60 are lost, of which the ring has the last five."""
    values = series(200)
    with Publisher(
        ANY_PORT, heartbeats=False, columns=COLUMNS, recovery=ANY_PORT, ring=145
    ) as feed:
        daemon, events = start(feed=feed, recovery=[feed.recovery_endpoint], on_gap=on_gap)
        feed.publish("a", np.arange(40), values[:40])
        with monkeypatch.context() as network:
            network.setattr(feed, "_send", lambda frames: None)
            feed.publish("a", np.arange(40, 60), values[40:60])
        feed.publish("a", np.arange(60, 200), values[60:])
        feed.end()
        daemon.run(until_end=True)
    stream = daemon.session.streams["a"]
    assert of(Gap, events) == [Gap("a", 56, 15)]
    assert (stream.counters.gaps, stream.counters.missed) == (1, 15)
    assert stream.counters.resets == (on_gap == "reset")
    window = daemon.config.stream.window
    flagged = [p.n for p in of(Prediction, events) if p.after_gap]
    assert flagged == [p.n for p in of(Prediction, events) if 40 < p.n <= 40 + window]


def test_what_cannot_be_is_said_at_once(stop):
    with pytest.raises(ConfigurationError):
        Daemon(settings(), COLUMNS, stop=stop, engine=engine_for(settings()))
    bad = settings(connect=["tcp://127.0.0.1:1"], publish="nonsense")
    with pytest.raises(EndpointError):
        Daemon(bad, COLUMNS, stop=stop, engine=engine_for(bad))


def test_the_sockets_are_closed_where_the_feed_cannot_be(stop):
    config = settings(connect=["nonsense"], publish=ANY_PORT)
    with Publisher(ANY_PORT, heartbeats=False, columns=COLUMNS) as other:
        endpoint = other.endpoint
    taken = msgspec.structs.replace(
        config, publish=msgspec.structs.replace(config.publish, publish=endpoint)
    )
    with pytest.raises(EndpointError):
        Daemon(taken, COLUMNS, stop=stop, engine=engine_for(config))
    with Publisher(endpoint, heartbeats=False, columns=COLUMNS) as again:
        assert again.endpoint == endpoint
