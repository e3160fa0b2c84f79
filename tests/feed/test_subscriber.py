"""Subscribers on real sockets: messages of any publisher, several endpoints, many streams."""

import contextlib
import itertools
import json
import os
import select
import signal
import subprocess
import sys

import msgspec
import numpy as np
import pytest
import zmq

from stream_lstm.errors import ConfigurationError, EndpointError, UsageError
from stream_lstm.events import MAX_SEQ, End, Gap, Label, Refusal, SessionStart, Takeover, Ticks
from stream_lstm.feed import subscriber as subscriber_module
from stream_lstm.feed.declared import EventBatch
from stream_lstm.feed.intake import Intake
from stream_lstm.feed.protocol import (
    MAX_PAYLOAD_BYTES,
    MAX_SUBSCRIBED_NAMES,
    Heartbeat,
    encode_heartbeat,
    encode_label,
    encode_ticks,
)
from stream_lstm.feed.publisher import Publisher
from stream_lstm.feed.subscriber import TURN, Subscriber
from stream_lstm.schema import FeedConfig

from .received import ANY_PORT, WAIT_S, blocks, ended, gather, of, subscriber, xs

COLUMNS = ("bid", "ask")


def publisher(run_id="s1", bind=ANY_PORT, columns=("x",)):
    """A publisher without a thread, so that a test sees only its own messages."""
    return Publisher(bind, columns=columns, run_id=run_id, heartbeats=False)


def rows(events):
    return [tuple(row) for ticks in of(Ticks, events) for row in ticks.values.tolist()]


@pytest.fixture
def plain():
    """Any publisher: a plain socket, bound, that reports subscriptions."""
    with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
        socket.setsockopt(zmq.RCVTIMEO, int(WAIT_S * 1000))
        socket.setsockopt(zmq.XPUB_VERBOSE, 1)
        socket.bind(ANY_PORT)
        yield socket


@contextlib.contextmanager
def subscribed(socket, count=3, **more):
    """A subscriber to a plain socket whose `count` subscriptions have arrived."""
    endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT)
    with subscriber(endpoint, **{"columns": COLUMNS, **more}) as into:
        while count:
            count -= socket.recv()[:1] == b"\x01"
        yield into


def send_ticks(socket, stream="A", **fields):
    socket.send_multipart([f"tick/{stream}/".encode(), msgspec.json.encode({"v": 1, **fields})])


def send_end(socket, stream="A", **fields):
    record = {"v": 1, "seq": 1, "end": True, **fields}
    socket.send_multipart([f"heartbeat/{stream}/".encode(), msgspec.json.encode(record)])


# ---- messages ---------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["msgpack", "json"])
def test_single_ticks_and_blocks_arrive_in_order(encoding):
    more = {"columns": COLUMNS, "run_id": "s1", "heartbeats": False, "encoding": encoding}
    with Publisher(ANY_PORT, **more) as out, subscriber(out, columns=COLUMNS) as into:
        assert out.wait_for_subscribers(1, WAIT_S) == 1
        assert out.publish("A", 10, [1.0, 2.0]) == 1
        assert out.publish("A", [20, 30], [[3.0, 4.0], [5.0, 6.0]]) == 2
        assert out.publish("A", 40, [7.0, 8.0]) == 4
        out.end()
        events = gather(into, ended)
    assert (events[0], events[-1]) == (SessionStart("A", "s1"), End("A", "s1"))
    assert not of(Gap | Refusal, events)
    ticks = of(Ticks, events)
    assert ticks[0].seq == 1
    assert rows(events) == [(1, 2), (3, 4), (5, 6), (7, 8)]
    assert np.concatenate([t.t_ns for t in ticks]).tolist() == [10, 20, 30, 40]
    assert into.counters.ticks == 4
    assert into.counters.messages == 5, "three of ticks, and a heartbeat before and after"


def test_single_ticks_are_contiguous_however_they_are_cut(plain):
    with subscribed(plain) as into:
        for seq in range(1, 6):
            send_ticks(plain, seq=seq, values=[seq, 0])
        send_ticks(plain, "B", values=[9, 9])
        events = gather(into, lambda events: len(rows(events)) == 6)
    assert rows(events) == [(n, 0) for n in range(1, 6)] + [(9, 9)]
    for earlier, later in itertools.pairwise(of(Ticks, events)):
        assert later.stream == "B" or later.seq == earlier.seq + len(earlier.t_ns)


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
"""One tick in every form, blocks, and errors in both."""


@pytest.mark.parametrize("encoding", ["msgpack", "json"])
def test_the_fast_path_gives_what_the_general_path_gives(plain, encoding, monkeypatch):
    """Ticks of every form in turn, with gaps, repeats and new runs among them."""
    encode = {"msgpack": msgspec.msgpack.encode, "json": msgspec.json.encode}[encoding]
    drawn = np.random.default_rng(7)
    messages, seq, run_id = [], {"A": 1, "B": 1}, {"A": "s", "B": "s"}
    for _ in range(400):
        name = "AB"[drawn.integers(2)]
        form = FORMS[drawn.integers(len(FORMS)) if drawn.random() < 0.3 else 0]
        seq[name] = max(seq[name] + int(drawn.choice([0, 0, 0, 0, 0, 0, 0, 2, -1])), 1)
        if drawn.random() < 0.03:
            run_id[name], seq[name] = run_id[name] + "t", 1
        record = {"v": 1, "seq": seq[name], "session": run_id[name], "t_ns": 5, **form}
        messages.append([f"tick/{name}/".encode(), encode(record)])
        seq[name] += 1
    messages.append([b"tick/A/"])
    messages.append([b"tick/A/", encode({"v": 1, "values": [1, 2]}), b""])
    messages.append([b"heartbeat/Z/", encode({"v": 1, "seq": 1, "end": True})])

    def received():
        with subscribed(plain) as into:
            for message in messages:
                plain.send_multipart(message)
            events = gather(into, lambda events: End("Z") in events)
            return [comparable(event) for event in in_single_ticks(events)], into.counters

    fast = received()
    monkeypatch.setattr(Intake, "take_next", lambda *_: False)
    assert fast == received()
    assert len({kind for kind, *_ in fast[0]}) == 5
    assert fast[1].refused > 10


def in_single_ticks(events):
    """Yield the events with every block cut into ticks, since its length is a matter of timing."""
    for event in events:
        if isinstance(event, Ticks):
            for k in range(len(event.t_ns)):
                seq = None if event.seq is None else event.seq + k
                row = event.t_ns[k : k + 1], event.values[k : k + 1]
                yield Ticks(event.stream, *row, event.session, seq, event.where)
        else:
            yield event


def comparable(event):
    """An event as a tuple that can be compared, NaN included."""
    return type(event).__name__, *(repr(getattr(event, f)) for f in event.__struct_fields__)


def test_a_publisher_in_another_process_is_received_to_its_end():
    program = """
from stream_lstm.feed.publisher import Publisher
with Publisher("tcp://127.0.0.1:0", columns=["x"]) as out:
    print(out.endpoint, flush=True)
    out.wait_for_subscribers(1, 60.0, stream="A")
    for n in range(1, 5_001):
        out.publish("A", n, [float(n)])
    out.end()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as process:
        with subscriber(process.stdout.readline().strip(), streams=("A",)) as into:
            events = gather(into, ended)
        assert process.wait(WAIT_S) == 0
    assert not of(Gap | Refusal, events)
    assert xs(events) == list(range(1, 5_001))
    assert len(of(SessionStart, events)) == 1


def test_a_loss_at_the_end_shows_in_the_heartbeat(plain):
    with subscribed(plain) as into:
        send_ticks(plain, session="s", seq=1, values=[1, 2])
        send_end(plain, session="s", seq=4)
        events = gather(into, ended)
    others = [event for event in events if not isinstance(event, Ticks)]
    assert others == [SessionStart("A", "s"), Gap("A", 4, 2), End("A", "s")]
    counters = into.counters
    assert (counters.gaps, counters.missed, counters.heartbeats) == (1, 2, 1)


def test_repeats_and_a_new_run_are_reported(plain):
    with subscribed(plain) as into:
        for run_id, seq, values in (
            ("s", 1, [[1, 0], [2, 0]]),
            ("s", 2, [[2, 0], [3, 0]]),
            ("s", 1, [1, 0]),
            ("t", 3, [4, 0]),
            ("s", 4, [5, 0]),
        ):
            send_ticks(plain, session=run_id, seq=seq, values=values)
        send_end(plain, session="t", seq=4)
        events = gather(into, ended)
    assert rows(events) == [(1, 0), (2, 0), (3, 0), (4, 0)]
    assert all(len(ticks.t_ns) for ticks in of(Ticks, events))
    wanted = [SessionStart("A", "s"), SessionStart("A", "t"), Gap("A", 3, 2)]
    assert of(Gap | SessionStart, events) == wanted
    assert [refusal.kind for refusal in of(Refusal, events)] == ["tick"] * 3
    counters = into.counters
    assert (counters.repeats, counters.old, counters.sessions) == (2, 1, 2)


def test_resuming_shows_what_was_missed(plain):
    with subscribed(plain) as into:
        into.resume("A", "s", 5)
        send_ticks(plain, session="s", seq=8, values=[1, 2])
        events = gather(into, rows)
    assert events[0] == Gap("A", 8, 3)
    assert not of(SessionStart, events)


def test_invalid_messages_are_refused_and_the_connection_lives(plain):
    with subscribed(plain) as into:
        plain.send_multipart([b"tick/A/"])
        plain.send_multipart([b"tick/A/", b"", b""])
        plain.send_multipart([b"tick/A/", b"\xff\xff"])
        plain.send_multipart([b"tick/A/", b'{"v":7,"values":[1,2]}'])
        plain.send_multipart([b"tick/A/", b"{" + b" " * MAX_PAYLOAD_BYTES])
        plain.send_multipart(encode_label(Label("A", 100, 1, 5)))
        send_ticks(plain, values=[1, 2])
        events = gather(into, rows)
    refusals = of(Refusal, events)
    assert len(refusals) == into.counters.refused == 5
    assert all(refusal.kind == "message" and refusal.reason for refusal in refusals)
    assert "version 7" in refusals[3].reason
    assert "exceed" in refusals[4].reason
    assert Label("A", 100, 1, 5) in events
    assert of(Ticks, events)[0].seq is None


def test_a_frame_above_the_hard_limit_is_not_received(plain, monkeypatch):
    monkeypatch.setattr(subscriber_module, "MAX_FRAME_BYTES", 1000)
    with subscribed(plain) as into:
        plain.send_multipart([b"tick/A/", b" " * 2000])
        assert plain.recv()[:1] == b"\x00"  # the connection is gone
        assert into.receive(0.0) == []
        assert into.counters.messages == 0


def test_streams_are_bounded(plain):
    with subscribed(plain, max_streams=2) as into:
        for name in "ABCA":
            send_ticks(plain, name, values=[1, 2])
        send_end(plain, "C")
        send_end(plain, "A")
        events = gather(into, ended)
    assert [refusal.stream for refusal in of(Refusal, events)] == ["C", "C"]
    assert into.counters.refused == into.counters.streams == 2


def test_a_bare_json_feed(plain):
    with subscribed(plain, 1, payload="json", topic="md/", time_field="ts") as into:
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
    with subscribed(plain, 1, payload="float64") as into:
        plain.send(np.array([[1.0, 2.0], [3.0, 4.0]], "<f8").tobytes())
        events = gather(into, rows)
    assert rows(events) == [(1, 2), (3, 4)]
    assert of(Ticks, events)[0].stream == "stream"


@pytest.mark.parametrize("endpoints", [1, 2])
def test_waiting_ends_with_time_or_by_the_wakeup(endpoints):
    with contextlib.ExitStack() as stack:
        outs = [stack.enter_context(publisher()) for _ in range(endpoints)]
        with subscriber(*outs) as into:
            assert into.receive(0.0) == []
            assert into.receive(0.01) == []
        reader, writer = os.pipe()
        stack.callback(os.close, reader)
        stack.callback(os.close, writer)
        with subscriber(*outs, wakeup_fd=reader) as into:
            os.write(writer, b"x")
            assert into.receive(3600.0) == []


def test_the_time_without_a_message_is_measured():
    now = [5.0]
    with publisher() as out, subscriber(out, clock=lambda: now[0]) as into:
        out.wait_for_subscribers(1, WAIT_S)
        now[0] = 8.0
        assert into.idle_s == 3.0
        out.publish("A", 0, [1.0])
        gather(into, rows)
        assert into.idle_s == 0.0


def test_a_feed_without_endpoint_or_columns_is_a_configuration_error():
    for config in (FeedConfig(columns=COLUMNS), FeedConfig(connect=(ANY_PORT,))):
        with pytest.raises(ConfigurationError):
            Subscriber(config)


# ---- named streams ----------------------------------------------------------------------------


def test_a_name_does_not_match_a_longer_one():
    with publisher() as out, subscriber(out, streams=("AAPL",)) as into:
        out.wait_for_subscribers(1, WAIT_S, stream="AAPL")
        with pytest.raises(EndpointError, match="0 of 1 subscribers"):
            out.wait_for_subscribers(1, 0.0, stream="AAPLX")
        out.publish("AAPLX", 0, [1.0])
        out.publish("AAPL", 0, [2.0])
        out.end()
        events = gather(into, ended)
    assert {event.stream for event in events} == {"AAPL"}
    assert into.counters.messages == 3, "a tick, and a heartbeat before and after"


@pytest.mark.parametrize("count", [300, MAX_SUBSCRIBED_NAMES, MAX_SUBSCRIBED_NAMES + 1])
def test_every_named_stream_comes_before_and_after_a_restart(count):
    names, endpoint, into = [f"S{k}" for k in range(count)], ANY_PORT, None
    topic = f"tick/{names[-1]}/".encode()
    try:
        for life in range(2):
            with publisher(f"s{life}", endpoint) as out:
                endpoint = out.endpoint
                into = into or subscriber(out, streams=tuple(names))
                # the owner of a SUB socket sends its subscriptions again when it receives
                count_of, update = out._subscriptions.count, out._subscriptions.update
                gather(into, lambda _, count_of=count_of: count_of(topic), update)
                for name in (*names, "other", "S", f"{names[0]}0000000"):
                    out.publish(name, 0, [1.0])
                out.end()
                end = End(names[-1], f"s{life}")
                events = gather(into, lambda events, end=end: end in events)
                assert sorted(e.stream for e in of(Ticks, events)) == sorted(names)
                assert out.security.counts() == {}
        assert (into.counters.refused, into.counters.streams) == (0, count)
    finally:
        if into is not None:
            into.close()


# ---- owners of streams ------------------------------------------------------------------------

ANNOUNCED = 1
"""A publisher sends a heartbeat before a stream's first tick."""


@contextlib.contextmanager
def heard(*publishers, **more):
    """A subscriber whose subscriptions have reached all publishers."""
    with subscriber(*publishers, **more) as into:
        for out in publishers:
            out.wait_for_subscribers(1, WAIT_S)
        yield into


def send(out, first, last, stream="S"):
    for x in range(first, last):
        out.publish(stream, x, [float(x)])


def forge(out, run_id, seq=MAX_SEQ, stream="S"):
    out._socket.send_multipart(encode_heartbeat(Heartbeat(stream, seq, run_id)))


@pytest.mark.parametrize("policy", ["when-gone", "never"])
@pytest.mark.parametrize("run_id", ["honest", "forged"])
def test_a_forged_heartbeat_costs_the_owner_no_tick(policy, run_id):
    with (
        publisher("honest") as out,
        publisher("evil") as evil,
        heard(out, evil, takeover=policy) as into,
    ):
        send(out, 0, 1)
        events = gather(into, lambda events: xs(events) == [0])
        forge(evil, run_id)
        refusals = of(Refusal, gather(into, lambda events: of(Refusal, events)))
        send(out, 1, 600)
        events += gather(into, lambda _: into.counters.ticks == 600)
    assert xs(events) == list(range(600))
    assert not of(Refusal | Gap | Takeover, events)
    assert evil.endpoint in refusals[0].reason
    assert out.endpoint in refusals[0].reason
    assert into.intake.refused == {"not_owner": 1}


def test_with_always_a_new_run_takes_over_and_is_reported():
    with (
        publisher("honest") as out,
        publisher("evil") as evil,
        heard(out, evil, takeover="always") as into,
    ):
        send(out, 0, 1)
        gather(into, lambda events: xs(events) == [0])
        forge(evil, "forged")
        (over,) = of(Takeover, gather(into, lambda events: of(Takeover, events)))
        assert over == Takeover("S", out.endpoint, evil.endpoint)
        send(out, 1, 600)
        gather(into, lambda _: into.counters.old == 599)
    assert into.counters.ticks == 1
    assert into.counters.not_owner == 0


PROCESS = """
import sys
from stream_lstm.feed.publisher import Publisher
out = Publisher("tcp://127.0.0.1:*", columns=("x",), run_id="first", heartbeats=False)
print(out.endpoint, flush=True)
out.wait_for_subscribers(1, 60)
for k in range(50):
    out.publish("S", k, [float(k)])
sys.stdin.read()
"""


@contextlib.contextmanager
def other_process():
    """A process that publishes 50 ticks, and its endpoint."""
    with subprocess.Popen(
        [sys.executable, "-c", PROCESS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def test_a_stand_by_takes_over_from_a_process_that_was_killed():
    sent = itertools.count()

    def more():
        x = next(sent)
        send(by, x, x + 1)

    with (
        other_process() as (process, endpoint),
        publisher("second") as by,
        subscriber(endpoint, by) as into,
    ):
        by.wait_for_subscribers(1, WAIT_S)
        gather(into, lambda events: len(xs(events)) == 50)
        events = gather(into, lambda _: into.counters.not_owner >= 5, more)
        assert not xs(events)
        os.kill(process.pid, signal.SIGKILL)
        events = gather(into, lambda events: len(xs(events)) >= 20, more)
    assert of(Takeover, events) == [Takeover("S", endpoint, by.endpoint)]
    assert not of(Gap, events), "refused ticks are not lost"
    taken = xs(events)
    assert taken == [float(x) for x in range(int(taken[0]), int(taken[0]) + len(taken))]
    assert into.counters.not_owner == ANNOUNCED + taken[0]


def test_messages_of_a_dead_owner_are_read_before_another_takes_over():
    with publisher("second") as by, publisher("first") as out, heard(out, by) as into:
        send(out, 0, 3000)
        while not into.waiting:
            assert select.select([into], [], [], WAIT_S)[0]
        out.close()
        lost = into._inlets[0]
        while not lost.attached.redial.lost(lost.endpoint):
            into._maintain()
        send(by, 0, 1)
        events = gather(into, lambda _: into.counters.ticks + into.counters.refused > 3000)
    assert xs(events)[:3000] == list(range(3000))
    assert xs(events)[3000:] == [] or of(Takeover, events)


@pytest.mark.parametrize("policy", ["when-gone", "never"])
def test_a_gone_owner_is_noticed_and_replaced_unless_the_policy_is_never(policy):
    with (
        publisher("second") as by,
        publisher("first") as out,
        heard(out, by, takeover=policy) as into,
    ):
        send(out, 0, 1)
        gather(into, lambda events: xs(events) == [0])
        out.close()
        while not into._is_gone(0):
            into.sockets[0].poll(10)
        send(by, 0, 20)
        if policy == "never":
            gather(into, lambda _: into.counters.not_owner == ANNOUNCED + 20)
        else:
            assert xs(gather(into, lambda events: len(xs(events)) == 20)) == list(range(20))
        assert into.counters.takeovers == (policy != "never")


def test_an_owner_that_restarts_at_its_endpoint_keeps_its_stream():
    with publisher("other") as other, publisher("first") as first, heard(first, other) as into:
        send(first, 0, 5)
        gather(into, lambda _: into.counters.ticks == 5)
        endpoint = first.endpoint
        first.close()
        with publisher("again", endpoint) as again:
            connected = lambda _: again._subscriptions.count(b"tick/")  # noqa: E731
            gather(into, connected, again._subscriptions.update)
            send(again, 0, 5)
            events = gather(into, lambda events: len(xs(events)) == 5)
            forge(other, "forged")
            gather(into, lambda _: into.counters.not_owner == 1)
    assert not of(Takeover | Gap, events)


def test_a_silent_but_connected_owner_keeps_its_stream_and_the_feed_is_silent():
    now = [0.0]
    with (
        publisher("first") as out,
        publisher("second") as by,
        heard(out, by, clock=lambda: now[0]) as into,
    ):
        send(out, 0, 1)
        gather(into, lambda events: xs(events) == [0])
        now[0] = 1000.0
        send(by, 0, 10)
        gather(into, lambda _: into.counters.not_owner == ANNOUNCED + 10)
        assert into.idle_s == 1000.0, "a refused message is not a sign of life"
        send(out, 1, 2)
        gather(into, lambda events: xs(events) == [1])
        assert into.idle_s == 0.0


def test_a_foreign_feed_has_owners_too():
    with zmq.Context() as context, contextlib.ExitStack() as stack:
        outs = [stack.enter_context(context.socket(zmq.XPUB)) for _ in range(2)]
        for out in outs:
            out.setsockopt(zmq.LINGER, 0)
            out.bind(ANY_PORT)
        connect = tuple(out.getsockopt_string(zmq.LAST_ENDPOINT) for out in outs)
        with subscriber(*connect, payload="json", topic="q.") as into:
            for out in outs:
                assert out.poll(int(WAIT_S * 1000))
            outs[0].send_multipart([b"q.S", b'{"x": 1}'])
            assert xs(gather(into, xs)) == [1]
            outs[1].send_multipart([b"q.S", b'{"x": 2}'])
            (refusal,) = of(Refusal, gather(into, lambda events: of(Refusal, events)))
            assert connect[1] in refusal.reason


# ---- several endpoints ------------------------------------------------------------------------


def one_message(into):
    batch = EventBatch()
    into.take(batch, 1)
    return blocks(batch.finish())


def until_both_wait(into):
    while not all(get(zmq.EVENTS) & zmq.POLLIN for get in into._fan_in._gets):
        into.sockets[0].poll(10)


def test_no_endpoint_starves_another():
    with publisher("loud") as loud, publisher("meek") as meek, heard(loud, meek) as into:
        send(loud, 0, 5000, "L")
        send(meek, 0, 1, "M")
        until_both_wait(into)
        taken = 0
        for _ in range(2 * TURN):
            events = one_message(into)
            taken += len(xs(events, "L"))
            if xs(events, "M"):
                break
        assert taken <= TURN


def test_a_turn_is_shorter_for_large_messages():
    with publisher("loud") as loud, publisher("meek") as meek, heard(loud, meek) as into:
        for _ in range(10):
            loud.publish("L", [0] * 8192, [[1.0]] * 8192)
        send(meek, 0, 10, "M")
        until_both_wait(into)
        order = []
        while len(order) < 4:
            order += [event.stream for event in of(Ticks, one_message(into))]
    assert "M" in order[:2], order


@pytest.mark.parametrize("busy_poll", [0.0, 1.0])
def test_every_endpoint_ends_the_wait_and_makes_the_descriptor_readable(busy_poll):
    with contextlib.ExitStack() as stack:
        outs = [stack.enter_context(publisher(f"s{k}")) for k in range(4)]
        into = stack.enter_context(heard(*outs, busy_poll=busy_poll))
        for k, out in enumerate(outs * 2):
            send(out, k, k + 1, out.run_id)
            assert xs(gather(into, xs), out.run_id) == [k]
            send(out, k, k + 1, out.run_id)
            assert into._wait(WAIT_S)
            assert xs(blocks(into.receive(0.0)), out.run_id) == [k]
            while into.receive(0.0):
                pass
            send(out, k, k + 1, out.run_id)
            events = []
            while not xs(events, out.run_id):
                assert select.select([into], [], [], WAIT_S)[0]
                events += blocks(into.receive(0.0))
        assert len(into.sockets) == 4
        with pytest.raises(UsageError, match="sockets"):
            _ = into.socket


def test_an_endpoint_named_twice_is_one():
    with publisher() as out, subscriber(out, out) as into:
        assert into.intake.owners is None
        assert into.sockets == (into.socket,)


def test_endpoints_are_bounded_by_descriptors():
    most = subscriber_module.MAX_ENDPOINTS
    connect = tuple(f"tcp://127.0.0.1:{port}" for port in range(1, most + 2))
    with pytest.raises(ConfigurationError, match=f"{most} is the most"):
        subscriber(*connect)
    with subscriber(*connect[:most]) as into:
        assert into.receive(0.0) == []


def test_all_frames_of_a_long_message_come_from_one_endpoint():
    with publisher("a") as a, publisher("b") as b, heard(a, b) as into:
        for _ in range(20):
            a._socket.send_multipart([b"tick/S/", b"1", b"2", b"3"])
            b._socket.send_multipart(encode_ticks("T", 0, [1.0]))
        gather(into, lambda _: into.counters.messages == 40)
        assert into.counters.ticks == into.intake.refused["frames"] == 20
