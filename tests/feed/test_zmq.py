"""Real sockets on loopback: what is published arrives, in order, and what is lost is seen."""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading

import msgspec
import numpy as np
import pytest
import zmq

from stream_lstm.errors import ConfigurationError, EndpointError, UsageError
from stream_lstm.events import End, Gap, Label, Prediction, Refusal, Score, SessionStart, Ticks
from stream_lstm.feed import subscriber as subscriber_module
from stream_lstm.feed.intake import EventBatch, Intake
from stream_lstm.feed.predictions import PredictionPublisher, PredictionSubscriber
from stream_lstm.feed.protocol import MAX_PAYLOAD_BYTES, encode_label
from stream_lstm.feed.publisher import Publisher
from stream_lstm.feed.subscriber import Subscriber
from stream_lstm.schema import FeedConfig

from .received import blocks

ANY_PORT = "tcp://127.0.0.1:*"
COLUMNS = ("bid", "ask")
WAIT_S = 20.0


def publisher(**more):
    """A publisher without a thread, so that a test sees no message but its own."""
    given = {"columns": COLUMNS, "run_id": "s1", "heartbeats": False, **more}
    return Publisher(ANY_PORT, **given)


def subscriber(endpoint, *, wakeup_fd=None, **more):
    config = FeedConfig(connect=(endpoint,), **{"columns": COLUMNS, **more})
    return Subscriber(config, wakeup_fd=wakeup_fd)


def gather(receiver, done):
    """Receive until `done(events)`; fails after WAIT_S of silence."""
    events = []
    while not done(events):
        came = receiver.receive(WAIT_S)
        assert came, f"nothing more came after {events}"
        events += blocks(came)
    return events


def until_end(receiver):
    return gather(receiver, lambda events: any(isinstance(event, End) for event in events))


def of(kind, events):
    return [event for event in events if isinstance(event, kind)]


def rows(events):
    return [tuple(row) for ticks in of(Ticks, events) for row in ticks.values.tolist()]


@pytest.fixture
def plain():
    """Any publisher: a plain PUB socket, bound, that tells when it is subscribed to."""
    with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
        socket.setsockopt(zmq.RCVTIMEO, int(WAIT_S * 1000))
        socket.setsockopt(zmq.XPUB_VERBOSE, 1)
        socket.bind(ANY_PORT)
        yield socket


def endpoint_of(socket):
    return socket.getsockopt_string(zmq.LAST_ENDPOINT)


def subscribed(socket, count):
    while count:
        count -= socket.recv()[:1] == b"\x01"


@pytest.mark.parametrize("encoding", ["msgpack", "json"])
def test_single_ticks_and_blocks_arrive_in_order(encoding):
    with publisher(encoding=encoding) as out, subscriber(out.endpoint) as into:
        assert out.wait_for_subscribers(1, WAIT_S) == 1
        assert out.publish("A", 10, [1.0, 2.0]) == 1
        assert out.publish("A", [20, 30], [[3.0, 4.0], [5.0, 6.0]]) == 2
        assert out.publish("A", 40, [7.0, 8.0]) == 4
        out.end()
        events = until_end(into)
    assert events[0] == SessionStart("A", "s1")
    assert events[-1] == End("A", "s1")
    assert not of(Gap | Refusal, events)
    blocks = of(Ticks, events)
    assert blocks[0].seq == 1
    assert rows(events) == [(1, 2), (3, 4), (5, 6), (7, 8)]
    assert np.concatenate([ticks.t_ns for ticks in blocks]).tolist() == [10, 20, 30, 40]
    assert into.counters.ticks == 4
    assert into.counters.messages == 5, "three of ticks, and a heartbeat before and after"


def test_ticks_sent_one_by_one_are_contiguous_however_they_are_cut(plain):
    with subscriber(endpoint_of(plain)) as into:
        subscribed(plain, 3)
        for seq in range(1, 6):
            record = {"v": 1, "seq": seq, "values": [seq, 0]}
            plain.send_multipart([b"tick/A/", json.dumps(record).encode()])
        plain.send_multipart([b"tick/B/", b'{"v":1,"values":[9,9]}'])
        events = gather(into, lambda events: len(rows(events)) == 6)
    assert rows(events) == [(n, 0) for n in range(1, 6)] + [(9, 9)]
    for earlier, later in itertools.pairwise(of(Ticks, events)):
        assert later.stream == "B" or later.seq == earlier.seq + len(earlier.t_ns)


def test_a_drain_joins_only_what_continues():
    drain = EventBatch()

    def ticks(stream, seq, count, session="s"):
        return Ticks(stream, np.zeros(count, np.int64), np.zeros((count, 1)), session, seq)

    for block in (
        ticks("A", 1, 2),
        ticks("A", 3, 1),
        ticks("A", 5, 1),
        ticks("B", 6, 1),
        ticks("B", 7, 1, "t"),
        ticks("C", None, 1),
        ticks("C", None, 2),
    ):
        drain.add_ticks(block)
    drain.add(End("C"))
    drain.add_ticks(ticks("C", None, 1))
    shape = [
        (event.stream, event.seq, len(event.t_ns)) if isinstance(event, Ticks) else "end"
        for event in blocks(drain.finish())
    ]
    assert shape == [
        ("A", 1, 3),
        ("A", 5, 1),
        ("B", 6, 1),
        ("B", 7, 1),
        ("C", None, 3),
        "end",
        ("C", None, 1),
    ]


def shape(events):
    """What matters of the order of events: blocks as (stream, seq, rows), the rest by kind."""
    return [
        (event.stream, event.seq, len(event.t_ns))
        if isinstance(event, Ticks)
        else (event.stream, type(event).__name__)
        for event in events
    ]


def one(drain, stream, seq, session="s"):
    drain.add_one(stream, session, seq, "", seq or 0, (1.0,))


def test_streams_that_take_turns_become_a_block_each_where_they_are_apart():
    for apart, wanted in (
        (True, [("A", 1, 3), ("B", 1, 2)]),
        (False, [("A", 1, 1), ("B", 1, 1), ("A", 2, 1), ("B", 2, 1), ("A", 3, 1)]),
    ):
        drain = EventBatch(independent=apart)
        for stream, seq in (("A", 1), ("B", 1), ("A", 2), ("B", 2), ("A", 3)):
            one(drain, stream, seq)
        assert shape(blocks(drain.finish())) == wanted


def test_nothing_of_a_stream_passes_an_event_of_it():
    drain = EventBatch(independent=True)
    between = [
        Label("A", 1, 1),
        Gap("B", 3, 1),
        SessionStart("A", "s"),
        End("B"),
        Refusal("A", "tick", "old"),
    ]
    for seq, event in enumerate(between, 1):
        one(drain, "A", seq)
        one(drain, "B", seq)
        drain.add(event)
    assert shape(blocks(drain.finish())) == [
        ("A", 1, 1),
        ("B", 1, 2),
        ("A", "Label"),
        ("A", 2, 2),
        ("B", "Gap"),
        ("B", 3, 2),
        ("A", "SessionStart"),
        ("A", 4, 2),
        ("B", "End"),
        ("B", 5, 1),
        ("A", "Refusal"),
    ]


def test_what_could_not_be_read_keeps_its_place_among_all_streams():
    drain = EventBatch(independent=True)
    for seq in (1, 2):
        one(drain, "A", seq)
        one(drain, "B", seq)
        drain.add(Refusal("", "message", "rubbish"))
    assert shape(blocks(drain.finish())) == [
        ("A", 1, 1),
        ("B", 1, 1),
        ("", "Refusal"),
        ("A", 2, 1),
        ("B", 2, 1),
        ("", "Refusal"),
    ]


def test_single_ticks_and_blocks_join_in_their_order():
    drain = EventBatch()
    drain.add_one("A", "s", 1, "", 10, (1.0, None))
    drain.add_one("A", "s", 2, "", 20, (2.0, 3.0))
    block = np.array([[4.0, 5.0], [6.0, 7.0]])
    drain.add_ticks(Ticks("A", np.array([30, 40]), block, "s", 3))
    drain.add_one("A", "s", 5, "", 50, (8.0, 9.0))
    (joined,) = blocks(drain.finish())
    assert (joined.seq, joined.session, joined.t_ns.dtype) == (1, "s", np.int64)
    assert joined.t_ns.tolist() == [10, 20, 30, 40, 50]
    wanted = [[1, np.nan], [2, 3], [4, 5], [6, 7], [8, 9]]
    np.testing.assert_array_equal(joined.values, wanted)


def test_a_block_is_bounded_however_its_ticks_come(monkeypatch):
    monkeypatch.setattr("stream_lstm.feed.intake.MAX_BLOCK_ROWS", 3)
    drain = EventBatch()
    for seq in range(1, 8):
        one(drain, "A", seq)
    assert shape(blocks(drain.finish())) == [("A", 1, 3), ("A", 4, 3), ("A", 7, 1)]


FORMS = (
    {"values": [1, 2.5]},
    {"values": [None, 2.5]},
    {"values": {"ask": 2.5, "bid": 1, "venue": "N"}},
    {"values": [[1, 2.5]]},
    {"values": [[1, 2.5], [3, 4]]},
    {"values": np.array([1.0, 2.5]).tobytes(), "rows": 1},
    {"values": [1, 2.5], "rows": 1},
    {"values": [1, 2.5], "rows": 2},
    {"values": [1]},
    {"values": [1, True]},
    {"values": [1, [2]]},
    {"values": [1, 2], "v": 2},
    {"values": [1, 2], "t_ns": 2**63},
    {"values": [1, 2], "session": "a\nb"},
)
"""One tick in every form, blocks, and what is wrong with either."""


@pytest.mark.parametrize("encoding", ["msgpack", "json"])
def test_the_short_way_says_what_the_long_way_says(plain, encoding, monkeypatch):
    """Ticks of every form in turn, with gaps, repeats and new sessions among them."""
    encode = {"msgpack": msgspec.msgpack.encode, "json": msgspec.json.encode}[encoding]
    drawn = np.random.default_rng(7)
    messages, seq, session = [], {"A": 1, "B": 1}, {"A": "s", "B": "s"}
    for _ in range(400):
        name = "AB"[drawn.integers(2)]
        form = FORMS[drawn.integers(len(FORMS)) if drawn.random() < 0.3 else 0]
        seq[name] = max(seq[name] + int(drawn.choice([0, 0, 0, 0, 0, 0, 0, 2, -1])), 1)
        if drawn.random() < 0.03:
            session[name], seq[name] = session[name] + "t", 1
        record = {"v": 1, "seq": seq[name], "session": session[name], "t_ns": 5, **form}
        messages.append([f"tick/{name}/".encode(), encode(record)])
        seq[name] += 1
    messages.append([b"tick/A/"])
    messages.append([b"tick/A/", encode({"v": 1, "values": [1, 2]}), b""])
    messages.append([b"heartbeat/Z/", encode({"v": 1, "seq": 1, "end": True})])

    def received():
        with subscriber(endpoint_of(plain)) as into:
            subscribed(plain, 3)
            for message in messages:
                plain.send_multipart(message)
            events = gather(into, lambda events: End("Z") in events)
            return [plainly(event) for event in in_single_ticks(events)], into.counters

    short = received()
    monkeypatch.setattr(Intake, "take_next", lambda *_: False)
    long = received()
    assert short == long
    assert len({kind for kind, *_ in short[0]}) == 5
    assert short[1].refused > 10


def in_single_ticks(events):
    """Yield the events, each block as its ticks: how much was waiting is a matter of timing."""
    for event in events:
        if isinstance(event, Ticks):
            for k in range(len(event.t_ns)):
                seq = None if event.seq is None else event.seq + k
                row = event.t_ns[k : k + 1], event.values[k : k + 1]
                yield Ticks(event.stream, *row, event.session, seq, event.where)
        else:
            yield event


def plainly(event):
    """An event as what can be compared, NaN included."""
    fields = (repr(getattr(event, name)) for name in event.__struct_fields__)
    return type(event).__name__, *fields


def test_a_publisher_in_another_process_is_received_to_its_end():
    program = """
import sys
import threading
from stream_lstm.feed.publisher import Publisher
with Publisher("tcp://127.0.0.1:0", columns=["x"]) as out:
    print(out.endpoint, flush=True)
    out.wait_for_subscribers(1, 60.0, stream="A")
    for n in range(1, 20_001):
        out.publish("A", n, [float(n)])
    out.end()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as process:
        endpoint = process.stdout.readline().strip()
        with subscriber(endpoint, columns=("x",), streams=("A",)) as into:
            events = until_end(into)
        assert process.wait(WAIT_S) == 0
    assert not of(Gap | Refusal, events)
    assert rows(events) == [(float(n),) for n in range(1, 20_001)]
    assert len(of(SessionStart, events)) == 1


def test_a_full_subscriber_holds_the_publisher_back_and_loses_nothing():
    size, many = 200, 8000  # 25 MB, above what the buffers of the system take
    block = np.zeros((many, 2))
    with (
        publisher(send_hwm=2, send_timeout_s=0.05) as out,
        subscriber(out.endpoint, receive_hwm=2) as into,
    ):
        out.wait_for_subscribers(1, WAIT_S)
        sent, held, events = 0, 0, []
        while sent < size:
            try:
                out.publish("A", 0, block + sent)
                sent += 1
            except EndpointError:
                held += 1
                events += blocks(into.receive(WAIT_S))
            assert held < 10 * size
        while sum(len(ticks.t_ns) for ticks in of(Ticks, events)) < size * many:
            events += blocks(into.receive(WAIT_S))
    assert held > 0
    assert not of(Gap | Refusal, events)
    assert into.counters.ticks == size * many


def test_what_was_published_leaves_before_closing():
    many = 8000
    with publisher() as out, subscriber(out.endpoint) as into:
        out.wait_for_subscribers(1, WAIT_S)
        for n in range(200):
            out.publish("A", 0, np.full((many, 2), float(n)))
        out.end()
        out.close()
        events = until_end(into)
    assert not of(Gap | Refusal, events)
    assert into.counters.ticks == 200 * many


def test_a_name_does_not_match_one_that_it_begins():
    with publisher() as out, subscriber(out.endpoint, streams=("AAPL",)) as into:
        out.wait_for_subscribers(1, WAIT_S, stream="AAPL")
        with pytest.raises(EndpointError, match="0 of 1 subscribers"):
            out.wait_for_subscribers(1, 0.0, stream="AAPLX")
        out.publish("AAPLX", 0, [1.0, 1.0])
        out.publish("AAPL", 0, [2.0, 2.0])
        out.end()
        events = until_end(into)
    assert {event.stream for event in events} == {"AAPL"}
    assert into.counters.messages == 3, "a tick, and a heartbeat before and after"


def test_subscriptions_are_counted_until_they_close():
    with publisher() as out:
        with (
            subscriber(out.endpoint),
            subscriber(out.endpoint),
            subscriber(out.endpoint, streams=("A", "B")),
        ):
            assert out.wait_for_subscribers(3, WAIT_S, stream="A") == 3
            assert out.wait_for_subscribers(4, WAIT_S) == 4
            assert out.wait_for_subscribers(2, WAIT_S, stream="C") == 2
        while out._subscriptions.count(b"tick/"):
            assert out._socket.poll(int(WAIT_S * 1000))
            out._subscriptions.update()


def test_a_loss_at_the_end_shows_in_the_heartbeat(plain):
    with subscriber(endpoint_of(plain)) as into:
        subscribed(plain, 3)
        record = {"v": 1, "session": "s", "seq": 1, "values": [1, 2]}
        plain.send_multipart([b"tick/A/", json.dumps(record).encode()])
        beat = {"v": 1, "session": "s", "seq": 4, "end": True}
        plain.send_multipart([b"heartbeat/A/", json.dumps(beat).encode()])
        events = until_end(into)
    assert [event for event in events if not isinstance(event, Ticks)] == [
        SessionStart("A", "s"),
        Gap("A", 4, 2),
        End("A", "s"),
    ]
    counters = into.counters
    assert (counters.gaps, counters.missed, counters.heartbeats) == (1, 2, 1)


def test_heartbeats_are_sent_when_they_are_due():
    now = [100.0]
    with (
        publisher(heartbeat_s=5.0, clock=lambda: now[0]) as out,
        subscriber(out.endpoint) as into,
    ):
        out.wait_for_subscribers(1, WAIT_S)
        out.publish("A", 7, [1.0, 2.0])
        assert not out.heartbeat()
        now[0] += 5.0
        assert out.heartbeat()
        assert not out.heartbeat()
        out.end("A")
        events = until_end(into)
    assert into.counters.heartbeats == 2
    assert not of(Gap, events)


def test_repeats_and_a_new_session_are_told(plain):
    with subscriber(endpoint_of(plain)) as into:
        subscribed(plain, 3)
        sent = [("s", 1, [[1, 0], [2, 0]]), ("s", 2, [[2, 0], [3, 0]]), ("s", 1, [1, 0])]
        sent += [("t", 3, [4, 0]), ("s", 4, [5, 0])]
        for session, seq, values in sent:
            record = {"v": 1, "session": session, "seq": seq, "values": values}
            plain.send_multipart([b"tick/A/", msgspec.msgpack.encode(record)])
        plain.send_multipart([b"heartbeat/A/", b'{"v":1,"session":"t","seq":4,"end":true}'])
        events = until_end(into)
    assert rows(events) == [(1, 0), (2, 0), (3, 0), (4, 0)]
    assert all(len(ticks.t_ns) for ticks in of(Ticks, events))
    assert of(Gap | SessionStart, events) == [
        SessionStart("A", "s"),
        SessionStart("A", "t"),
        Gap("A", 3, 2),
    ]
    assert [refusal.kind for refusal in of(Refusal, events)] == ["tick"] * 3
    counters = into.counters
    assert (counters.repeats, counters.old, counters.sessions) == (2, 1, 2)


def test_resuming_sees_what_was_missed(plain):
    with subscriber(endpoint_of(plain)) as into:
        into.resume("A", "s", 5)
        subscribed(plain, 3)
        record = b'{"v":1,"session":"s","seq":8,"values":[1,2]}'
        plain.send_multipart([b"tick/A/", record])
        events = gather(into, rows)
    assert events[0] == Gap("A", 8, 3)
    assert not of(SessionStart, events)


def test_what_cannot_be_read_is_refused_and_the_rest_goes_on(plain):
    with subscriber(endpoint_of(plain)) as into:
        subscribed(plain, 3)
        plain.send_multipart([b"tick/A/"])
        plain.send_multipart([b"tick/A/", b"", b""])
        plain.send_multipart([b"tick/A/", b"\xff\xff"])
        plain.send_multipart([b"tick/A/", b'{"v":7,"values":[1,2]}'])
        plain.send_multipart(encode_label(Label("A", 100, 1, 5)))
        plain.send_multipart([b"tick/A/", b'{"v":1,"values":[1,2]}'])
        events = gather(into, rows)
    refusals = of(Refusal, events)
    assert len(refusals) == into.counters.refused == 4
    assert all(refusal.kind == "message" and refusal.reason for refusal in refusals)
    assert "version 7" in refusals[3].reason
    assert Label("A", 100, 1, 5) in events
    assert of(Ticks, events)[0].seq is None


def test_a_payload_above_the_limit_is_refused_and_the_connection_lives(plain):
    with subscriber(endpoint_of(plain)) as into:
        subscribed(plain, 3)
        plain.send_multipart([b"tick/A/", b"{" + b" " * MAX_PAYLOAD_BYTES])
        plain.send_multipart([b"tick/A/", b'{"v":1,"values":[1,2]}'])
        events = gather(into, rows)
    assert "exceed" in of(Refusal, events)[0].reason


def test_a_frame_above_the_hard_limit_is_not_received(plain, monkeypatch):
    monkeypatch.setattr(subscriber_module, "MAX_FRAME_BYTES", 1000)
    with subscriber(endpoint_of(plain)) as into:
        subscribed(plain, 3)
        plain.send_multipart([b"tick/A/", b" " * 2000])
        assert plain.recv()[:1] == b"\x00"  # the connection is gone
        assert into.receive(0.0) == []
        assert into.counters.messages == 0


def test_streams_are_bounded(plain):
    with subscriber(endpoint_of(plain), max_streams=2) as into:
        subscribed(plain, 3)
        for name in (b"A", b"B", b"C", b"A"):
            plain.send_multipart([b"tick/" + name + b"/", b'{"v":1,"values":[1,2]}'])
        plain.send_multipart([b"heartbeat/C/", b'{"v":1,"seq":1,"end":true}'])
        plain.send_multipart([b"heartbeat/A/", b'{"v":1,"seq":1,"end":true}'])
        events = until_end(into)
    assert [refusal.stream for refusal in of(Refusal, events)] == ["C", "C"]
    assert into.counters.refused == into.counters.streams == 2


def test_a_bare_json_feed(plain):
    more = {"payload": "json", "topic": "md/", "time_field": "ts"}
    with subscriber(endpoint_of(plain), **more) as into:
        subscribed(plain, 1)
        for n in range(3):
            record = {"ts": 1_700_000_000 + n, "ask": n + 0.5, "bid": n, "venue": "N"}
            plain.send_multipart([b"md/AAPL", json.dumps(record).encode()])
        plain.send_multipart([b"md/AAPL", b'{"bid": 1}'])
        events = gather(into, lambda events: of(Refusal, events))
    assert rows(events) == [(0, 0.5), (1, 1.5), (2, 2.5)]
    assert {ticks.seq for ticks in of(Ticks, events)} == {None}
    assert of(Ticks, events)[0].t_ns[0] == 1_700_000_000 * 10**9
    assert "ask" in of(Refusal, events)[0].reason


def test_a_bare_feed_of_one_frame(plain):
    with subscriber(endpoint_of(plain), payload="float64") as into:
        subscribed(plain, 1)
        plain.send(np.array([[1.0, 2.0], [3.0, 4.0]], "<f8").tobytes())
        events = gather(into, rows)
    assert rows(events) == [(1, 2), (3, 4)]
    assert of(Ticks, events)[0].stream == "stream"


def test_waiting_ends_with_time_or_by_the_wakeup():
    with publisher() as out:
        with subscriber(out.endpoint) as into:
            assert into.receive(0.0) == []
            assert into.receive(0.01) == []
        reader, writer = os.pipe()
        try:
            with subscriber(out.endpoint, wakeup_fd=reader) as into:
                os.write(writer, b"x")
                assert into.receive(3600.0) == []
        finally:
            os.close(reader)
            os.close(writer)


def test_the_time_without_a_message_is_told():
    now = [5.0]
    with publisher() as out:
        config = FeedConfig(connect=(out.endpoint,), columns=COLUMNS)
        with Subscriber(config, clock=lambda: now[0]) as into:
            out.wait_for_subscribers(1, WAIT_S)
            now[0] = 8.0
            assert into.idle_s == 3.0
            out.publish("A", 0, [1.0, 2.0])
            gather(into, rows)
            assert into.idle_s == 0.0


def test_a_port_in_use_says_so_and_what_to_do():
    with publisher() as out:
        for bind in (
            lambda: Publisher(out.endpoint, columns=COLUMNS),
            lambda: PredictionPublisher(out.endpoint),
        ):
            with pytest.raises(EndpointError, match="in use; stop the program") as caught:
                bind()
            assert out.endpoint in str(caught.value)


def test_a_path_in_use_is_not_taken_over(tmp_path):
    endpoint = f"ipc://{tmp_path}/feed"
    with Publisher(endpoint, columns=COLUMNS), pytest.raises(EndpointError, match="in use"):
        Publisher(endpoint, columns=COLUMNS)
    with Publisher(endpoint, columns=COLUMNS) as out, subscriber(endpoint):
        out.wait_for_subscribers(1, WAIT_S)


@pytest.mark.parametrize(
    "endpoint",
    ["", "nonsense", "tcp://", "tcp://127.0.0.1", "tcp://127.0.0.1:70000", "xyz://a", "a\0b"],
)
def test_an_endpoint_that_cannot_be_is_named(endpoint):
    for use in (
        lambda: Publisher(endpoint, columns=COLUMNS),
        lambda: PredictionPublisher(endpoint),
        lambda: subscriber(endpoint),
        lambda: PredictionSubscriber(endpoint),
    ):
        with pytest.raises(EndpointError, match="cannot") as caught:
            use()
        assert repr(endpoint) in str(caught.value)


def test_a_feed_without_endpoint_or_columns_is_a_configuration_error():
    for config in (FeedConfig(columns=COLUMNS), FeedConfig(connect=(ANY_PORT,))):
        with pytest.raises(ConfigurationError):
            Subscriber(config)
    with pytest.raises(ConfigurationError):
        publisher(columns=())


def test_wrong_values_and_names_are_the_callers_fault():
    with publisher() as out:
        for stream, values in (("A", [1.0]), ("A", 1.0), ("a/b", [1.0, 2.0])):
            with pytest.raises(UsageError):
                out.publish(stream, 0, values)
        assert out.publish("A", 0, [1.0, 2.0]) == 1


def test_what_is_no_time_or_no_value_is_told_so():
    with publisher() as out:
        for t_ns in (1.7e9, "noon", None, [1.5], 2**63, 2**70):
            with pytest.raises(UsageError, match=r"t_ns is whole nanoseconds.*time\.time_ns"):
                out.publish("A", t_ns, [1.0, 2.0])
        with pytest.raises(UsageError, match="values are numbers in the order of the columns"):
            out.publish("A", 0, {"bid": 1.0, "ask": 2.0})
        assert out.publish("A", np.int64(7), [1.0, 2.0]) == 1
        assert out.publish("A", np.uint64(8), [1.0, 2.0]) == 2
    with pytest.raises(UsageError, match="this Publisher is closed: make another"):
        out.publish("A", 0, [1.0, 2.0])


@pytest.mark.parametrize("encoding", ["msgpack", "json"])
def test_predictions_and_scores_arrive(encoding):
    prediction = Prediction("A", 100, 5, 0.25, "s", False, True)
    score = Score("A", 100, 6, 0.25, 1, 1.386, 0.5, 0.4, "s")
    with (
        PredictionPublisher(ANY_PORT, encoding) as out,
        PredictionSubscriber(out.endpoint, streams=["A"]) as into,
    ):
        out.wait_for_subscribers(1, WAIT_S, stream="A")
        out.publish(prediction)
        out.publish(Prediction("AX", 100, 5, 0.25))
        out.publish_score(score)
        out.heartbeat("A", 102, run_id="s")
        out.end("A", 102, run_id="s")
        assert until_end(into) == [prediction, score, End("A", "s")]
        assert into.receive(0.0) == []


def test_an_unreadable_prediction_is_counted(plain):
    with PredictionSubscriber(endpoint_of(plain)) as into:
        subscribed(plain, 3)
        plain.send_multipart([b"prediction/A/", b"{}"])
        plain.send_multipart([b"heartbeat/A/", b'{"v":1,"seq":1,"end":true}'])
        assert until_end(into) == [End("A")]
        assert into.refused == 1


@pytest.mark.parametrize(("linger_s", "whole"), [(WAIT_S, True), (0.0, False)])
def test_what_is_queued_at_the_end_leaves_within_the_linger(linger_s, whole):
    """A subscriber that reads nothing until the publisher closes; the queues between are full."""
    ticks, width = 400, 4096
    with zmq.Context() as context, context.socket(zmq.SUB) as slow:
        slow.setsockopt(zmq.RCVHWM, 1)
        slow.setsockopt(zmq.RCVBUF, 4096)
        slow.setsockopt(zmq.RCVTIMEO, int(WAIT_S * 1000) if whole else 500)
        slow.subscribe(b"")
        columns = [f"c{k}" for k in range(width)]
        out = publisher(columns=columns, send_hwm=1000, linger_s=linger_s)
        slow.connect(out.endpoint)
        out.wait_for_subscribers(1, WAIT_S)
        for k in range(ticks):
            out.publish("A", k, np.full(width, float(k)))
        out.end("A")
        closing = threading.Thread(target=out.close)
        closing.start()
        count, ended = 0, False
        with contextlib.suppress(zmq.Again):
            while not ended:
                topic, payload = slow.recv_multipart()
                beat = topic == b"heartbeat/A/"
                ended = beat and msgspec.msgpack.decode(payload)["end"]
                count += not beat
        closing.join(WAIT_S)
        assert not closing.is_alive()
    assert (count == ticks and ended) == whole


def test_a_slow_subscriber_is_not_taken_for_a_dead_one():
    """libzmq's own heartbeats drop a peer that reads nothing for a while because it is busy."""
    with (
        publisher() as out,
        subscriber(out.endpoint) as into,
        PredictionPublisher(ANY_PORT) as made,
    ):
        for socket in (out._socket, into.socket, made._socket):
            assert socket.getsockopt(zmq.HEARTBEAT_IVL) == 0
            assert socket.getsockopt(zmq.TCP_KEEPALIVE) == 1
