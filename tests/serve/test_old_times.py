"""A live feed whose times go back: counted, logged with back-off, stored, replayed the same."""

from __future__ import annotations

import numpy as np
import pytest

from stream_lstm.config import StoreConfig
from stream_lstm.core.columnar import Arrivals
from stream_lstm.core.session import Session
from stream_lstm.events import OldTimes, Prediction, Refusal
from stream_lstm.feed.publisher import Publisher
from stream_lstm.serve.daemon import Daemon
from stream_lstm.serve.logs import EventLog, OldTimesBatch
from stream_lstm.serve.signals import StopSwitch
from stream_lstm.store.reading import Setup
from stream_lstm.store.store import Store

from ..engines import engine_for, settings
from ..store.stores import COLUMNS, of, query

ANY_PORT = "tcp://127.0.0.1:*"
WAIT_S = 30.0
LATE_S = 120.0
BARS = 500


def live(policy, path, order, *, cut):
    """Feed bars in an order through sockets; return the events and the session."""
    config = settings(features=["diff(x)"], on_old_time=policy)
    values = np.random.default_rng(3).normal(size=(BARS, 1))
    times = 10**18 + np.arange(BARS) * 10**9
    events = []
    store = Store(
        path, Setup(config, COLUMNS), StoreConfig(), command="test", blocking=True, say=print
    )
    with Publisher(ANY_PORT, columns=COLUMNS) as feed, StopSwitch() as stop, store:
        config = settings(features=["diff(x)"], on_old_time=policy, connect=[feed.endpoint])
        with Daemon(
            config,
            COLUMNS,
            stop=stop,
            observers=[events.append],
            store=store,
            engine=engine_for(config),
        ) as daemon:
            feed.wait_for_subscribers(1, WAIT_S)
            daemon.every(LATE_S, stop.set)
            for start in range(0, len(order), cut):
                part = order[start : start + cut]
                feed.publish("a", times[part], values[part])
            feed.end()
            daemon.run(until_end=True)
            session = daemon.session
    return events, session, (times, values)


@pytest.mark.parametrize("cut", [1, 70])
@pytest.mark.parametrize("policy", ["take", "warn", "refuse"])
def test_bars_that_come_twice(policy, cut, tmp_path):
    path, order = tmp_path / "s.db", np.tile(np.arange(BARS), 2)
    events, session, (times, values) = live(policy, path, order, cut=cut)
    assert session.streams["a"].counters.old_ticks == BARS
    notices, refused = of(OldTimes, events), of(Refusal, events)
    stored = query(path, "SELECT coalesce(sum(count), 0) FROM events WHERE kind = 'old tick'")
    assert sum(one.count for one in notices) == stored[0][0] == BARS * (policy == "warn")
    assert len(refused) == BARS * (policy == "refuse")
    if policy == "warn":
        assert (notices[0].t_ns, notices[0].latest_ns) == (times[0], times[-1])
    if policy == "refuse":
        assert refused[0].where == "tick/a/"
        assert "which the stream had reached" in refused[0].reason
        assert "repeats time and values" in refused[-1].reason
    replayed = []
    again = Session(session.config, COLUMNS, replayed.append, engine=session.engine)
    rows = np.full(len(order), again.place("a"))
    session_id = of(Prediction, events)[0].session
    again.arrive(Arrivals(rows, times[order], values[order], session_id, numbered=True))
    again.settle()
    assert of(Prediction, events) == of(Prediction, replayed)


def test_repeated_and_reversed_rows_are_counted(tmp_path):
    repeats = np.repeat(np.arange(50), 2)
    order = np.concatenate([repeats, np.arange(50, 100)[::-1]])
    _, session, _ = live("warn", tmp_path / "s.db", order, cut=30)
    assert session.streams["a"].counters.old_ticks == 50 + 49


def test_a_stream_is_reported_once_in_a_while_and_the_log_backs_off():
    lines, now = [], [0.0]
    log = EventLog(lines.append, lambda: now[0])
    watch = OldTimesBatch(log)
    for second in range(100):
        now[0] = float(second)
        for _ in range(10):
            watch(OldTimes("a\x1b", 3, 10**18, 2 * 10**18))
        watch.tend()
        log.tend()
    now[0] += 1000
    log.flush()
    assert log.total["old tick"] == 3000
    assert lines[0] == (
        "old ticks of the stream 'a\\x1b': 30 ticks are old: the first has the time "
        "2001-09-09T01:46:40.000000000Z, and the stream had reached "
        "2033-05-18T03:33:20.000000000Z; accepted (--on-old-time)"
    )
    assert len(lines) < 20
    told = [int(line.split()[0]) for line in lines if "more old ticks" in line]
    assert sum(told) + 30 * (len(lines) - len(told)) == 3000
