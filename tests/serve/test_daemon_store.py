"""A daemon with a store, stopped and started again, continues with the same bits."""

from __future__ import annotations

import json
import sys
from functools import partial

import numpy as np
import pytest

from stream_lstm.config import StoreConfig
from stream_lstm.core.columnar import Arrivals
from stream_lstm.core.session import Session
from stream_lstm.core.snapshot import take
from stream_lstm.events import (
    End,
    Gap,
    Label,
    OldTimes,
    Prediction,
    Refusal,
    Score,
    Takeover,
    Ticks,
)
from stream_lstm.feed import subscriber
from stream_lstm.feed.predictions import PredictionSubscriber
from stream_lstm.feed.protocol import Heartbeat, encode_heartbeat, encode_ticks
from stream_lstm.feed.publisher import Publisher
from stream_lstm.serve import daemon as daemon_module
from stream_lstm.serve.logs import EventLog, Log, event_log

from ..engines import SMALL_BANK, settings
from ..injecting import Injected, Injector
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
from .live import ANY_PORT, WAIT_S, Live, feed_of


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.db"


def serve(path, send, until, *, kill=False, every=60, **more):
    """Run a daemon on a store until it has so many elements; return it, closed.

    send: called with it before it runs. kill: end as a kill between two commits does. With
    `publish`, `heard` is what a subscriber received.
    """
    options = StoreConfig(snapshot_every=every)
    with Live(store=path, options=options, **LEARNING | more) as live:
        live.heard = []
        send(live)
        if live.daemon.publisher is None:
            live.until(lambda: live.elements() >= until)
        else:
            with PredictionSubscriber(live.daemon.publisher.endpoint) as listener:
                live.daemon.publisher.wait_for_subscribers(1, WAIT_S)
                live.until(lambda: live.elements() >= until)
                while not of(End, live.heard):
                    live.heard += listener.receive(WAIT_S)
        live.store.close(whole=not kill)
    return live


def assert_as_one_run(path, values, **more):
    """The store contains what a session that never stopped would have stored."""
    whole = path.with_name("whole.db")
    with StoredSession(whole, settings(**LEARNING | more), StoreConfig()) as one:
        one.feed(ticks(values))
    assert predictions(path) == predictions(whole)
    assert scores(path) == scores(whole)
    assert not query(path, "SELECT 1 FROM events WHERE kind = 'gap'")


@pytest.mark.slow
@pytest.mark.parametrize("beats", [6, 12])
def test_a_daemon_survives_the_largest_numbers(path, beats):
    values = series(40)

    def send(live):
        live.ticks(values[:1])
        for k in range(beats):
            beat = Heartbeat("y", 2**62, f"{live.feed.run_id}-{k}")
            live.send(*encode_heartbeat(beat))
        live.ticks(values[1:], 2)

    for run_id in ("s1", "s2"):
        assert serve(path, send, 40, every=10, run_id=run_id).of(Prediction)


@pytest.mark.slow
@pytest.mark.parametrize("kill", [False, True])
def test_a_daemon_that_requests_what_it_missed_continues_with_the_same_bits(path, kill):
    values = series(160)
    with feed_of(recovery=ANY_PORT) as feed:
        for low, until in ((0, 60), (60, 120), (120, 160)):
            # published while no daemon runs
            feed.publish("a", np.arange(low + 1, until + 1) * 10**9, values[low:until])
            live = serve(
                path,
                lambda live: live.daemon.every(0.0, feed.heartbeat),
                until,
                kill=kill,
                every=30,
                feed=feed,
                recovery=[feed.recovery_endpoint],
            )
            assert live.daemon.subscriber.counters.recovered > 0
            assert live.elements() == until
    assert_as_one_run(path, values)


@pytest.mark.slow
@pytest.mark.parametrize("features", [["x"], ["zscore(x, 50)", "lag(x, 7)", "ewm_std(x, 30s)"]])
@pytest.mark.parametrize("kill", [False, True])
def test_a_daemon_that_is_sent_what_it_missed_continues_with_the_same_bits(path, kill, features):
    values, fill = series(160), 7 * (len(features) - 1) // 2
    again = partial(serve, path, kill=kill, every=30, features=features)
    again(lambda live: live.ticks(values[:60]), 60 - fill)
    # sent again from before the stop: known ticks are skipped
    again(lambda live: live.ticks(values[50:120], 51), 120 - fill)
    again(lambda live: live.ticks(values[120:], 121), 160 - fill)
    assert_as_one_run(path, values, features=features)


@pytest.mark.slow
@pytest.mark.parametrize("kill", [False, True])
@pytest.mark.parametrize("on_pause", ["continue", "reset", "forget"])
def test_a_restart_in_a_pause_continues_with_the_same_bits(path, on_pause, kill):
    values, times = series(160), np.arange(1, 161) * 10**9
    times[70:] += 3600 * 10**9
    settings_of = {"pause": "5m", "on_pause": on_pause, "features": ["diff(x)"]}

    def send(low, high):
        def sender(live):
            run_id = live.feed.run_id
            part = times[low:high], values[low:high]
            live.send(*encode_ticks("a", *part, run_id=run_id, seq=low + 1))

        return sender

    lost = on_pause != "continue"  # the tick after the pause makes no element
    serve(path, send(0, 70), 69, kill=kill, every=30, **settings_of)
    second = serve(path, send(70, 160), 159 - lost, kill=kill, every=30, **settings_of)
    assert second.stream().counters.pauses == 1
    whole = path.with_name("whole.db")
    config = settings(**LEARNING, **settings_of)
    with StoredSession(whole, config, StoreConfig()) as one:
        one.feed(Ticks("a", times, values, "s1", 1))
    assert predictions(path) == predictions(whole)
    assert scores(path) == scores(whole)


@pytest.mark.slow
def test_ticks_that_are_not_sent_again_are_a_gap(path):
    values = series(120)
    serve(path, lambda live: live.ticks(values[:60]), 60)
    second = serve(path, lambda live: live.ticks(values[70:], 71), 110)
    assert second.of(Gap) == [Gap("a", 71, 10)]
    stored = query(path, "SELECT stream, seq, count FROM events WHERE kind = 'gap'")
    assert stored == [("a", 71, 10)]
    assert [p.after_gap for p in second.of(Prediction)][:3] == [True, True, False]


@pytest.mark.slow
def test_a_new_run_of_the_publisher_is_one_after_a_restart_too(path):
    values = series(100)
    serve(path, lambda live: live.ticks(values[:50]), 50)
    second = serve(path, lambda live: live.ticks(values[50:]), 100, run_id="s2")
    assert [p.session for p in second.of(Prediction)] == ["s2"] * 5
    assert second.of(Prediction)[0].after_gap
    kinds = query(path, "SELECT kind, session FROM events WHERE input = 1")
    assert kinds in ([("session", "s1"), ("session", "s2")], [("session", "s2")])


@pytest.mark.slow
def test_predictions_are_published_again_only_on_request(path):
    values = series(100)
    more = {"kill": True, "publish": ANY_PORT, "every": 1000}
    first = serve(path, lambda live: live.ticks(values[:50]), 50, **more)
    assert [p.n for p in of(Prediction, first.heard)] == [12, 22, 32, 42]
    quiet = serve(path, lambda live: live.ticks(values[50:51], 51), 51, **more)
    assert of(Prediction, quiet.heard) == []
    loud = serve(path, lambda live: live.ticks(values[51:60], 52), 60, republish=True, **more)
    behind = of(Prediction, loud.store.resumed.predictions)
    assert behind
    assert of(Prediction, loud.heard)[: len(behind)] == behind
    assert {(p.n, p.p) for p in behind} <= {(p.n, p.p) for p in of(Prediction, first.heard)}


@pytest.mark.slow
def test_a_label_may_be_revised_after_a_restart(path):
    values = series(100)
    rules = {"labels": "external", "revisions": "last", "label_hold": 60}

    def first(live):
        live.ticks(values[:50])
        live.label(12, 1)
        live.ticks(values[50:51], 51)

    def second(live):
        live.label(12, 0)
        live.ticks(values[51:], 52)

    before = serve(path, first, 51, **rules)
    after = serve(path, second, 100, **rules)
    assert before.of(Score) == []
    assert len(after.of(Label)) == 1
    with StoredSession(path, settings(**LEARNING, **rules)) as one:
        one.feed(ticks(series(30), 101))
    assert [row[1::2] for row in scores(path)] == [(12, 0)]


@pytest.mark.slow
def test_after_a_kill_every_stored_tick_has_its_outputs(path):
    values, rows = series(100), iter(range(1, 96))
    options = StoreConfig(snapshot_every=1000, commit_elements=1, commit_ms=1)
    with Live(store=path, options=options, **LEARNING) as live:

        def next_tick():
            if (k := next(rows, None)) is not None:
                live.ticks(values[k - 1 : k], k)

        live.daemon.every(0.0, next_tick)
        live.until(lambda: live.elements() == 95)
        live.store.close(whole=False)
    assert query(path, "SELECT max(n_after) FROM ticks") == [(95,)]
    assert [n for _, n, *_ in predictions(path)] == list(range(12, 96, 10))
    assert [n for _, n, *_ in scores(path)] == list(range(12, 95, 10))
    serve(path, lambda live: live.ticks(values[95:], 96), 100)
    assert_as_one_run(path, values)


# ---- old times and takeovers --------------------------------------------------------------

BARS = 100


def bars(policy, path, order, *, cut):
    """Feed bars in an order; return the daemon, the times and the values."""
    values = np.random.default_rng(3).normal(size=(BARS, 1))
    times = 10**18 + np.arange(BARS) * 10**9
    with Live(store=path, features=["diff(x)"], on_old_time=policy) as live:
        for start in range(0, len(order), cut):
            part = order[start : start + cut]
            live.feed.publish("a", times[part], values[part])
        live.finish()
    return live, times, values


@pytest.mark.slow
@pytest.mark.parametrize("cut", [1, 70])
@pytest.mark.parametrize("policy", ["take", "warn", "refuse"])
def test_bars_that_come_twice_follow_the_policy(policy, cut, path):
    order = np.tile(np.arange(BARS), 2)
    live, times, values = bars(policy, path, order, cut=cut)
    assert live.stream().counters.old_ticks == BARS
    notices, refused = live.of(OldTimes), live.of(Refusal)
    stored = query(path, "SELECT coalesce(sum(count), 0) FROM events WHERE kind = 'old tick'")
    assert sum(one.count for one in notices) == stored[0][0] == BARS * (policy == "warn")
    assert len(refused) == BARS * (policy == "refuse")
    if policy == "warn":
        assert (notices[0].t_ns, notices[0].latest_ns) == (times[0], times[-1])
    if policy == "refuse":
        assert refused[0].where == "tick/a/"
        assert "which the stream had reached" in refused[0].reason
        assert "repeats time and values" in refused[-1].reason
    replayed, session = [], live.daemon.session
    again = Session(session.config, COLUMNS, replayed.append, engine=session.engine)
    rows = np.full(len(order), again.place("a"))
    again.arrive(Arrivals(rows, times[order], values[order], "s1", numbered=True))
    again.settle()
    assert live.of(Prediction) == of(Prediction, replayed) != []


def test_repeated_and_reversed_rows_are_counted(path):
    repeats = np.repeat(np.arange(50), 2)
    order = np.concatenate([repeats, np.arange(50, 100)[::-1]])
    live, *_ = bars("warn", path, order, cut=30)
    assert live.stream().counters.old_ticks == 50 + 49


@pytest.mark.slow
def test_a_takeover_is_in_the_log_the_store_the_counters_and_the_metrics(path):
    lines, records = [], []
    logs = EventLog(lines.append, lambda: 0.0), event_log(Log("json", records.append))
    with (
        Publisher(ANY_PORT, columns=COLUMNS, run_id="s2", heartbeats=False) as other,
        Live(store=path, pages=True, connect=[other.endpoint], observers=logs) as live,
    ):
        owner, counters = live.feed.endpoint, live.daemon.subscriber.counters
        other.wait_for_subscribers(1, WAIT_S)
        live.ticks(series(100))
        forged = iter([None])

        def forge():
            if counters.ticks == 100:
                next(forged, 0) is None and other.publish("a", 0, [1.0])
            if counters.not_owner == 2 and not live.feed._socket.closed:
                live.feed.close()
            elif live.feed._socket.closed and not counters.takeovers:
                other.publish("a", 0, [1.0])

        live.daemon.every(0.0, forge)
        live.until(lambda: counters.takeovers)
        page = live.page("/metrics")[2]
    refusals = live.of(Refusal)
    assert live.of(Takeover) == [Takeover("a", owner, other.endpoint)]
    assert counters.ticks > 100
    assert all(owner in e.reason and other.endpoint in e.reason for e in refusals)
    assert counters.not_owner == len(refusals) >= 2
    assert "stream_lstm_feed_takeovers_total 1.0" in page
    refused = float(counters.not_owner)
    assert f'refused_messages_total{{reason="not_owner"}} {refused}' in page
    line = f"take-over: the stream 'a' of {owner} now belongs to {other.endpoint}"
    assert [one for one in lines if one.startswith("take-over")] == [line]
    (record,) = [r for r in map(json.loads, records) if r["event"] == "stream_taken_over"]
    assert (record["stream"], record["owner"], record["to"]) == ("a", owner, other.endpoint)
    stored = query(path, "SELECT stream, reason, input, count FROM events WHERE kind = 'takeover'")
    assert stored == [("a", f"from {owner} to {other.endpoint}", 0, 1)]


# ---- exceptions at any line ---------------------------------------------------------------

COUNT = 36
OPTIONS = StoreConfig(snapshot_every=12)

KINDS = {
    "plain": {},
    "learning": {"learn": True},
    "bank": {"learn": True, "bank": "small.toml", "share": 0.01},
}
LOOP = ("serve/daemon.py", "stream_lstm/core/", "store/store.py")
SESSION = ("stream_lstm/core/",)


def interrupted(path, kind, files, at):
    """Run a daemon with an exception at a line of `files`; return whether it came to that line."""
    members = SMALL_BANK if kind == "bank" else None
    values, traced = series(COUNT), sys.gettrace()
    with Live(store=path, options=OPTIONS, members=members, **KINDS[kind]) as live:
        for k in range(COUNT):
            live.ticks(values[k : k + 1], k + 1)
        sys.settrace(Injector(at, files))
        try:
            live.until(lambda: live.elements() >= COUNT)
        except Injected:
            return True
        finally:
            sys.settrace(traced)
            live.store.close(whole=False)
    return False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "files"),
    [("plain", LOOP), ("plain", SESSION), ("learning", LOOP), ("bank", SESSION)],
    ids=["plain-loop", "plain-session", "learning-loop", "bank-session"],
)
def test_after_an_exception_at_any_line_the_store_has_the_state_of_some_tick(
    kind, files, path, monkeypatch
):
    # a few ticks at a time, so that some are stored before the exception
    monkeypatch.setattr(subscriber, "MAX_MESSAGES", 4)
    monkeypatch.setattr(daemon_module, "MAX_WAITING", 4)
    members = SMALL_BANK if kind == "bank" else None
    stored = partial(
        StoredSession, config=settings(**KINDS[kind]), options=OPTIONS, members=members
    )
    values, states = series(COUNT), []
    with stored(path) as whole:
        states.append(take(whole.session))
        for k in range(COUNT):
            whole.feed(ticks(values[k : k + 1], k + 1))
            states.append(take(whole.session))
    reached, at = set(), 40
    for round_ in range(100):
        broken = path.with_name(f"{round_}.db")
        if not interrupted(broken, kind, files, at):
            break
        with stored(broken) as again:
            known = again.session.streams.get("a")
            n = 0 if known is None else known.n
            assert take(again.session) == states[n]
            for k in range(n, COUNT):
                again.feed(ticks(values[k : k + 1], k + 1))
            assert take(again.session) == states[COUNT]
        reached.add(n)
        at += at + 17
    assert round_ > 5
    assert len(reached) > 2
