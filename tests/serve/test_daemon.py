"""The daemon on real sockets gives the bits of a session that takes the ticks directly."""

import gc
import itertools
import threading

import msgspec
import numpy as np
import pytest

from stream_lstm.core.session import Session
from stream_lstm.errors import ConfigurationError, EndpointError
from stream_lstm.events import (
    End,
    Fresh,
    Gap,
    Prediction,
    Refusal,
    Score,
    SessionStart,
    Stale,
    Ticks,
    Update,
)
from stream_lstm.feed.predictions import PredictionSubscriber
from stream_lstm.feed.protocol import Heartbeat, encode_heartbeat
from stream_lstm.serve import daemon as daemon_module
from stream_lstm.serve.daemon import PIECE, Daemon, PeriodicTasks
from stream_lstm.serve.signals import StopSwitch

from ..engines import engine_for, settings
from ..store.stores import COLUMNS, of, series
from .live import ANY_PORT, WAIT_S, Clock, digest, direct, feed_of

TICK = ("a", 0, [1.0])


def test_each_task_has_its_period_and_missed_ones_are_skipped():
    done, tasks = [], PeriodicTasks()
    assert tasks.due == float("inf")
    tasks.add(0.0, 1.0, lambda: done.append("one"))
    tasks.add(0.0, 2.5, lambda: done.append("two"))
    dues = []
    for now in (0.9, 1.0, 2.6, 50.0):
        tasks.run(now)
        dues.append((tasks.due, "".join(name[0] for name in done)))
        done.clear()
    assert dues == [(1.0, ""), (2.0, "o"), (3.6, "ot"), (51.0, "ot")]


# ---- the same bits ------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["msgpack", "json"])
@pytest.mark.parametrize("learn", [False, True])
def test_blocks_give_the_bits_of_a_session(live, learn, encoding):
    values = series(300)
    with feed_of(encoding=encoding) as feed:
        one = live(feed=feed, learn=learn)
        for low, high in itertools.pairwise([0, 1, 2, 40, 41, 200, 300]):
            feed.publish("a", np.arange(low, high), values[low:high])
        one.finish()
    expected = direct(one.config, values)
    assert not one.stop.requested
    assert len(one.of(Prediction)) == 29
    assert digest(one.events) == digest(expected)
    assert [s.log_loss for s in one.of(Score)] == [s.log_loss for s in of(Score, expected)]
    assert one.of(Update) == of(Update, expected)
    assert bool(one.of(Update)) == learn


@pytest.mark.slow
@pytest.mark.parametrize("learn", [False, True])
def test_single_ticks_give_the_same_bits(live, learn):
    values, one = series(100), live(learn=learn)
    ticks = [lambda k=k: one.feed.publish("a", k, values[k]) for k in range(len(values))]
    one.each_turn(*ticks, one.feed.end)
    one.daemon.run(until_end=True)
    assert digest(one.events) == digest(direct(one.config, values))
    assert len(one.of(Prediction)) == 9


@pytest.mark.parametrize("more", [{}, {"learn": True}, {"learn": True, "sharing": "per-stream"}])
def test_streams_that_take_turns_give_the_bits_of_one_tick_at_a_time(live, more):
    values = {name: series(60, seed) for seed, name in enumerate("abc")}
    one, expected = live(**more), []
    session = Session(one.config, COLUMNS, expected.append, engine=engine_for(one.config))
    for k, name in itertools.product(range(60), values):
        one.feed.publish(name, k, values[name][k])
        session.push(Ticks(name, np.zeros(1, np.int64), values[name][k : k + 1]))
    one.finish()
    session.settle()
    assert digest(one.events) == digest(expected)
    for kind, loss in ((Score, "log_loss"), (Update, "loss")):
        ours, theirs = (
            sorted((e.stream, e.n, getattr(e, loss)) for e in of(kind, events))
            for events in (one.events, expected)
        )
        assert ours == theirs


@pytest.mark.parametrize("on_pause", ["continue", "reset", "forget"])
def test_pauses_give_the_bits_of_a_session(live, on_pause):
    """Single ticks and blocks, with a pause before one, inside one and in a block."""
    values, times = series(200), np.arange(1, 201) * 10**9
    for at in (60, 61, 130):
        times[at:] += 3600 * 10**9
    one = live(learn=True, features=["diff(x)"], pause="5m", on_pause=on_pause)
    for low, high in itertools.pairwise([0, 1, 60, 61, 62, 100, 150, 151, 200]):
        one.feed.publish("a", times[low:high], values[low:high])
    one.finish()
    expected = []
    session = Session(one.config, COLUMNS, expected.append, engine=engine_for(one.config))
    session.push(Ticks("a", times, values))
    session.settle()
    assert digest(one.events) == digest(expected)
    flags = [(p.n, p.after_gap) for p in one.of(Prediction)]
    assert flags == [(p.n, p.after_gap) for p in of(Prediction, expected)]
    counters = one.stream().counters
    assert counters == session.streams["a"].counters
    assert (counters.pauses, counters.resets) == (3, 3 * (on_pause == "reset"))
    assert any(flagged for _, flagged in flags) or on_pause == "reset"  # which warms up first
    assert digest(expected) != digest(direct(one.config, values)) or on_pause == "continue"


def test_garbage_between_ticks_is_refused_and_changes_nothing(live):
    garbage = [
        [b"tick/a/", b"\xff\x00"],
        [b"tick/a/"],
        [b"tick/a/", b'{"v":1,"values":["x"]}'],
        [b"tick/a/", b'{"v":9,"values":[1.0]}'],
        [b"tick//", b"{}"],
        [b"label/a/", b"{"],
        [b"tick/a/", b'{"v":1,"values":[1.0,2.0]}'],
        [b"tick/a/", b"{}", b"{}"],
    ]
    values, one = series(80), live(learn=True)
    for k, row in enumerate(values):
        one.feed.publish("a", k, row)
        if k % 10 == 7:
            one.send(*garbage[k // 10])
    one.finish()
    assert len(one.of(Refusal)) == one.daemon.subscriber.counters.refused == len(garbage)
    assert {refusal.kind for refusal in one.of(Refusal)} == {"message"}
    assert digest(one.events) == digest(direct(one.config, values))


def test_a_bad_value_is_refused_alone(live):
    values, one = series(100), live()
    bad = values.copy()
    bad[50] = np.nan
    one.feed.publish("a", np.arange(100), bad)
    one.finish()
    assert [(r.kind, r.index) for r in one.of(Refusal)] == [("tick", 50)]
    assert digest(one.events) == digest(direct(one.config, np.delete(values, 50, axis=0)))


def test_a_late_daemon_with_recovery_gives_the_bits_of_one_from_the_start(live):
    values = series(150)
    with feed_of(recovery=ANY_PORT) as feed:
        for k, row in enumerate(values[:90]):
            feed.publish("a", k, row)
        one = live(feed=feed, recovery=[feed.recovery_endpoint], learn=True)
        feed.publish("a", np.arange(90, 150), values[90:])
        one.finish()
    assert digest(one.events) == digest(direct(one.config, values))
    assert one.daemon.subscriber.counters.recovered == 90
    assert not one.of(Gap)


@pytest.mark.parametrize("on_gap", ["continue", "reset"])
def test_ticks_that_recovery_cannot_bring_follow_the_policy(live, monkeypatch, on_gap):
    """Ticks 41 to 60 are lost; the ring still contains the last five of them."""
    values = series(100)
    with feed_of(recovery=ANY_PORT, ring=45) as feed:
        one = live(feed=feed, recovery=[feed.recovery_endpoint], on_gap=on_gap)
        feed.publish("a", np.arange(40), values[:40])
        with monkeypatch.context() as network:
            network.setattr(feed, "_send", lambda frames: None)
            feed.publish("a", np.arange(40, 60), values[40:60])
        feed.publish("a", np.arange(60, 100), values[60:])
        one.finish()
    counters, window = one.stream().counters, one.config.stream.window
    assert one.of(Gap) == [Gap("a", 56, 15)]
    assert (counters.gaps, counters.missed) == (1, 15)
    assert counters.resets == (on_gap == "reset")
    predictions = one.of(Prediction)
    flagged = [p.n for p in predictions if p.after_gap]
    assert flagged == [p.n for p in predictions if 40 < p.n <= 40 + window] != []


# ---- ticks that wait ----------------------------------------------------------------------


def waiting(one):
    """Return how many elements the session has still to step over."""
    return sum(stream.queued for stream in one.daemon.session.active.values())


def test_a_tick_that_publishes_nothing_is_stepped_before_a_task(live):
    one, seen, ticks = live(), [], iter(series(30))

    def look():
        seen.append((one.elements(), waiting(one)))
        if (tick := next(ticks, None)) is not None:
            one.feed.publish("a", 0, tick)

    one.daemon.every(0.0, look)
    one.until(lambda: one.elements() == 30)
    assert seen[-1] == (30, 0), "all are stepped over, though the last published nothing"
    assert {k for _, k in seen} == {0}


class Proxy:
    """An engine with the same calls, since tests share engines."""

    def __init__(self, engine):
        self._engine = engine

    def __getattr__(self, name):
        return getattr(self._engine, name)


def test_ticks_that_came_together_are_stepped_in_one_call(live):
    one, steps = live(streams=["a"]), []
    engine = Proxy(one.daemon.session.engine)
    advance = one.daemon.session.engine.advance_in_place
    engine.advance_in_place = lambda *given: steps.append(len(given[2])) or advance(*given)
    one.daemon.session.engine = engine
    for k in range(12):
        one.feed.publish("a", k, series(1, k)[0])
    one.finish()
    assert sum(steps) == 12
    assert len(steps) <= 3


def test_a_gap_and_a_stop_find_no_tick_waiting(live):
    reached = []
    one = live(observers=[lambda e: isinstance(e, Gap) and reached.append(one.elements())])
    for seq in (1, 2, 3, 7, 8):
        one.ticks(series(1, seq), seq)
    one.until(lambda: one.daemon.subscriber.counters.ticks == 5)
    assert one.of(Gap) == [Gap("a", 7, 3)]
    assert reached == [3]
    assert one.elements() == 5


# ---- what is published --------------------------------------------------------------------


def test_predictions_scores_and_the_end_are_published(live):
    one = live(publish=ANY_PORT, learn=True)
    with PredictionSubscriber(one.daemon.publisher.endpoint) as listener:
        one.daemon.publisher.wait_for_subscribers(1, WAIT_S)
        one.feed.publish("a", np.arange(60), series(60))
        one.finish()
        got = []
        while not of(End, got):
            received = listener.receive(WAIT_S)
            assert received, f"no end after {got}"
            got += received
    assert of(Prediction, got) == one.of(Prediction)
    assert of(Score, got) == one.of(Score)
    assert of(Prediction, got)[0].session == "s1"
    assert of(End, got) == [End("a", "s1")]


def test_a_prediction_is_sent_before_the_update_for_an_earlier_label(live):
    order = []
    one = live(publish=ANY_PORT, learn=True, stride=1, observers=[order.append])
    send = one.daemon.session.publish
    one.daemon.session.publish = lambda prediction: order.append("sent") or send(prediction)
    one.feed.publish("a", np.arange(40), series(40))
    one.finish()
    kinds = [entry if entry == "sent" else type(entry).__name__ for entry in order]
    first = kinds.index("Update")
    assert kinds[first - 2 : first + 1] == ["Score", "Prediction", "Update"]
    assert kinds.index("sent") < kinds.index("Prediction")
    assert kinds.count("sent") == 29


def test_a_heartbeat_has_the_number_of_the_next_element(live):
    one = live(publish=ANY_PORT)
    one.daemon.session.tick("a", 1, (1.0,), "s1", 1)
    assert waiting(one) == 1
    beats = []
    one.daemon.publisher.heartbeat = lambda *given, run_id, **_: beats.append((*given, run_id))
    one.daemon._heartbeats.beat()
    one.daemon._heartbeats.beat()
    assert beats == [("a", 2, "s1")] * 2
    assert waiting(one) == 0


def test_a_silent_feed_is_published_and_does_not_end_the_daemon(live):
    clock = Clock()
    one = live(publish=ANY_PORT, clock=clock)
    seen = set()
    with PredictionSubscriber(one.daemon.publisher.endpoint) as listener:

        def advance():
            """Let time pass in each turn of the daemon, and end the silence with a tick."""
            clock.now += 0.5
            listener.receive(0.01)
            seen.add(listener.stale)
            if listener.stale:
                one.feed.publish(*TICK)
            elif one.of(Fresh):
                one.feed.end()

        one.feed.publish(*TICK)
        one.send(*encode_heartbeat(Heartbeat("a", 2, "s1")))
        one.daemon.publisher.wait_for_subscribers(1, WAIT_S)
        one.daemon.every(0.0, advance)
        one.daemon.run(until_end=True)
    assert seen == {True, False}
    changes = [type(event) for event in one.events if isinstance(event, Stale | Fresh)]
    assert changes[:2] == [Stale, Fresh]
    assert one.daemon.subscriber.counters.stale >= 1


# ---- ends of streams, gaps, labels --------------------------------------------------------


def test_until_end_waits_for_every_stream_seen(live):
    one, values = live(), {"a": series(30, 1), "b": series(60, 2)}
    one.feed.publish("a", np.arange(30), values["a"])
    one.feed.publish("b", np.arange(30), values["b"][:30])
    one.feed.end("a")
    one.feed.publish("b", np.arange(30, 60), values["b"][30:])
    one.finish()
    assert {name: s.n for name, s in one.daemon.session.streams.items()} == {"a": 30, "b": 60}
    assert one.of(End) == [End("a", "s1"), End("b", "s1")]
    ours = [e for e in one.events if getattr(e, "stream", "") == "b"]
    assert digest(ours) == digest(direct(one.config, values["b"], "b"))


def test_until_end_waits_for_a_configured_stream_that_has_not_come_yet(live):
    one = live(streams=["a", "b"])
    one.feed.publish(*TICK)
    one.feed.end("a")
    one.each_turn(lambda: one.feed.publish("b", 0, [1.0]), one.feed.end)
    one.daemon.run(until_end=True)
    assert {name: s.n for name, s in one.daemon.session.streams.items()} == {"a": 1, "b": 1}


def test_a_stream_that_starts_again_has_not_ended(live):
    one, tick = live(), np.ones((1, 1))
    one.ticks(tick, 1)
    one.feed.publish("b", 0, [1.0])
    one.end("a", 2)
    one.ticks(tick, 1, run_id="s2")
    one.feed.end("b")
    rest = iter([lambda: one.ticks(tick, 2, run_id="s2"), lambda: one.end("a", 3, "s2")])
    one.daemon.every(0.0, lambda: "b" in one.daemon._ended and next(rest, int)())
    one.daemon.run(until_end=True)
    assert one.stream().n == 3


def test_without_until_end_the_daemon_serves_beyond_an_end(live):
    one = live(observers=[lambda e: isinstance(e, End) and one.feed.publish(*TICK)])
    one.feed.publish(*TICK)
    one.feed.end()
    one.until(lambda: one.daemon.subscriber.counters.ticks == 2)
    assert one.of(End) == [End("a", "s1")]
    assert one.stream().n == 2


def test_a_gap_and_a_new_run_of_the_publisher_reach_the_session(live):
    values, one = series(40), live()
    one.ticks(values[:20])
    one.ticks(values[20:30], 26)
    one.ticks(values[30:], 1, run_id="s2")
    one.until(lambda: one.elements() == 40)
    assert one.of(Gap) == [Gap("a", 26, 5)]
    assert [(e.stream, e.session) for e in one.of(SessionStart)] == [("a", "s1"), ("a", "s2")]
    flagged = {p.n: p.after_gap for p in one.of(Prediction)}
    assert flagged == {12: False, 22: True, 32: True}
    assert one.stream().counters.missed == 5


def test_labels_from_outside_come_by_the_feed(live):
    one = live(labels="external", learn=True)
    one.feed.publish("a", np.arange(40), series(40))
    for n, y in ((12, 1), (22, 0), (22, 0), (23, 1)):
        one.label(n, y)
    one.finish()
    assert [(s.n, s.label) for s in one.of(Score)] == [(12, 1), (22, 0)]
    assert [(r.kind, r.where) for r in one.of(Refusal)] == [("label", "n=22"), ("label", "n=23")]
    assert [u.n for u in one.of(Update)] == [12, 22]


def test_early_revised_and_unnamed_labels_come_by_the_feed(live):
    one = live(labels="external", revisions="last", label_hold=15)
    one.feed.publish("a", np.arange(20), series(20))
    for n, y in ((32, 1), (12, 1), (12, 0), (13, 1)):
        one.label(n, y)
    one.send(b"label/a/", b'{"v":1,"y":1}')
    one.feed.publish("a", np.arange(20, 40), series(20))
    one.finish()
    assert [(s.n, s.label) for s in one.of(Score)] == [(12, 0), (32, 1)]
    counters = one.stream().counters
    assert (counters.labels_early, counters.labels_revised, counters.labels_unknown) == (1, 1, 1)
    assert [r.kind for r in one.of(Refusal)] == ["label", "message"]
    assert "`n`" in one.of(Refusal)[1].reason


# ---- the end ------------------------------------------------------------------------------


def test_silence_ends_in_an_error_that_names_the_feed(live):
    clock = Clock()
    one = live(clock=clock, idle_timeout=60.0, streams=["a"], publish=ANY_PORT)
    one.feed.publish(*TICK)
    with PredictionSubscriber(one.daemon.publisher.endpoint) as listener:
        one.daemon.publisher.wait_for_subscribers(1, WAIT_S)
        one.daemon.tasks._tasks.clear()
        one.daemon.every(
            0.0, lambda: one.daemon.subscriber.counters.ticks and setattr(clock, "step", 10.0)
        )
        with pytest.raises(EndpointError, match=r"60 s.*streams a") as caught:
            one.daemon.run()
        assert listener.receive(WAIT_S) == [End("a", "s1")]
    assert one.feed.endpoint in str(caught.value)


def test_the_switch_wakes_a_daemon_that_waits_without_limit(monkeypatch, live):
    monkeypatch.setattr(daemon_module, "LONGEST_WAIT_S", 1e4)
    one, polling = live(), threading.Event()
    one.daemon.tasks = PeriodicTasks()
    receive = one.daemon.subscriber.receive

    def announced(timeout_s):
        assert timeout_s == 1e4
        polling.set()
        return receive(timeout_s)

    one.daemon.subscriber.receive = announced
    helper = threading.Thread(target=lambda: polling.wait(WAIT_S) and one.stop.set())
    helper.start()
    one.daemon.run()
    helper.join()
    assert one.stop.requested


@pytest.mark.parametrize(("step", "done"), [(0.0, 4 * PIECE), (1.5, 2 * PIECE)])
def test_at_a_stop_the_ticks_in_hand_are_worked_off_while_time_allows(live, step, done):
    clock = Clock()

    def halt(event):
        if isinstance(event, Prediction):
            clock.step = step
            one.stop.set()

    one = live(clock=clock, observers=[halt], learn=True)
    one.feed.publish("a", np.arange(4 * PIECE), series(4 * PIECE))
    one.daemon.run()
    assert one.stream().n == done


def test_python_collects_no_garbage_while_the_daemon_serves(live):
    seen = []
    one = live(observers=[lambda _: seen.append(gc.isenabled())])
    one.feed.publish("a", np.arange(40), series(40))
    one.finish()
    assert set(seen) == {False}
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_a_stop_before_the_start_runs_nothing(live):
    one = live()
    one.feed.publish(*TICK)
    one.stop.set()
    one.daemon.run()
    assert one.events == []


def test_settings_that_cannot_work_are_errors_before_the_start():
    with StopSwitch() as stop:
        with pytest.raises(ConfigurationError):
            Daemon(settings(), COLUMNS, stop=stop, engine=engine_for(settings()))
        bad = settings(connect=["tcp://127.0.0.1:1"], publish="nonsense")
        with pytest.raises(EndpointError):
            Daemon(bad, COLUMNS, stop=stop, engine=engine_for(bad))


def test_a_feed_that_cannot_be_leaves_no_socket_open():
    config = settings(connect=["nonsense"], publish=ANY_PORT)
    with feed_of() as other:
        endpoint = other.endpoint
    publish = msgspec.structs.replace(config.publish, publish=endpoint)
    taken = msgspec.structs.replace(config, publish=publish)
    with StopSwitch() as stop, pytest.raises(EndpointError):
        Daemon(taken, COLUMNS, stop=stop, engine=engine_for(config))
    again = settings(connect=["tcp://127.0.0.1:1"], publish=endpoint)
    with (
        StopSwitch() as stop,
        Daemon(again, COLUMNS, stop=stop, engine=engine_for(again)) as daemon,
    ):
        assert daemon.publisher.endpoint == endpoint
