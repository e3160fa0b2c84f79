"""A daemon with two publishers of one stream: what it refuses, takes over and reports."""

import contextlib
import json
import sqlite3

from stream_lstm.events import Refusal, Takeover
from stream_lstm.feed.publisher import Publisher
from stream_lstm.serve import logs
from stream_lstm.serve.logs import EventLog

from .monitored import ANY_PORT, COLUMNS, WAIT_S, Monitored, series


def test_a_take_over_is_in_the_log_the_store_the_counters_and_the_metrics(tmp_path):
    path, lines, objects = tmp_path / "x.db", [], []
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(
            Publisher(ANY_PORT, columns=COLUMNS, run_id="s2", heartbeats=False)
        )
        watched = stack.enter_context(Monitored(path=path, more=[other.endpoint]))
        daemon, owner = watched.daemon, watched.publisher.endpoint
        clock = lambda: 0.0  # noqa: E731
        text = EventLog(lines.append, clock)
        record = logs.JsonEventLog(logs.Log("json", objects.append, clock=clock))
        daemon._observers += (text, record)
        other.wait_for_subscribers(1, WAIT_S)
        watched.ticks(series(600), 1)
        sent = [False]

        def forge():
            counters = daemon.subscriber.counters
            if counters.ticks == 600 and not sent[0]:
                sent[0] = True
                other.publish("a", 0, [1.0])
            elif counters.not_owner == 2 and not watched.publisher._socket.closed:
                watched.publisher.close()
            elif watched.publisher._socket.closed and not counters.takeovers:
                other.publish("a", 0, [1.0])
            elif counters.takeovers:
                watched.stop.set()

        daemon.every(0.0, forge)
        daemon.run()
        page = watched.page("/metrics")[2]
        refusals = [e for e in watched.events if isinstance(e, Refusal)]
        overs = [e for e in watched.events if isinstance(e, Takeover)]
    assert overs == [Takeover("a", owner, other.endpoint)]
    assert daemon.subscriber.counters.ticks > 600
    assert all(owner in e.reason and other.endpoint in e.reason for e in refusals)
    assert "stream_lstm_feed_takeovers_total 1.0" in page
    refused = daemon.subscriber.counters.not_owner
    assert refused == len(refusals) >= 2
    assert f'refused_messages_total{{reason="not_owner"}} {float(refused)}' in page
    assert [line for line in lines if line.startswith("take-over")] == [
        f"take-over: the stream 'a' of {owner} now belongs to {other.endpoint}"
    ]
    (told,) = [o for o in map(json.loads, objects) if o["event"] == "stream_taken_over"]
    assert (told["stream"], told["owner"], told["to"]) == ("a", owner, other.endpoint)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(
            "SELECT stream, reason, input, count FROM events WHERE kind = 'takeover'"
        ).fetchall()
    assert rows == [("a", f"from {owner} to {other.endpoint}", 0, 1)]
