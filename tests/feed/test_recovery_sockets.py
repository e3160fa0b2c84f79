"""Recovery over real sockets on loopback: late joins, restarts, hostile askers, and no
deadlock."""

import contextlib
import threading

import numpy as np
import pytest
import zmq

from stream_lstm.errors import EndpointError, UsageError
from stream_lstm.events import End, Gap, Refusal, SessionStart, Ticks
from stream_lstm.feed import recovery_server
from stream_lstm.feed.protocol import Hello, ReplayRequest, SnapshotRequest, Welcome, encode_side
from stream_lstm.feed.publisher import Publisher
from stream_lstm.feed.subscriber import Subscriber
from stream_lstm.feed.wire import decode_reply
from stream_lstm.schema import FeedConfig

from ..bench_modules import bench_module
from .received import blocks

late_joins = bench_module("faults_recovery").late_joins

ANY_PORT = "tcp://127.0.0.1:*"
WAIT_S = 20.0
ROUNDS = 2_000


def publisher(**more):
    given = {
        "columns": ("x",),
        "recovery": ANY_PORT,
        "heartbeats": False,
        "heartbeat_s": 0.0,
        **more,
    }
    return Publisher(given.pop("bind", ANY_PORT), **given)


def subscriber(*publishers, recovery=None, **more):
    ends = [out.recovery_endpoint for out in publishers] if recovery is None else recovery
    connect = tuple(out.endpoint for out in publishers)
    given = {"clock": more.pop("clock")} if "clock" in more else {}
    config = FeedConfig(connect=connect, recovery=tuple(ends), columns=("x",), **more)
    return Subscriber(config, **given)


def gather(into, done, idle=lambda: None):
    """Receive until `done(events)`, with `idle` called in between."""
    events = []
    for _ in range(ROUNDS):
        events += blocks(into.receive(0.05))
        if done(events):
            return events
        idle()
    raise AssertionError(f"it never came: {into.counters}")


def of(kind, events):
    return [event for event in events if isinstance(event, kind)]


def xs(events, stream="A"):
    found = [e.values[:, 0] for e in of(Ticks, events) if e.stream == stream]
    return np.concatenate(found).tolist() if found else []


def ended(events):
    return bool(of(End, events))


def send(out, low, high, stream="A"):
    for k in range(low, high):
        out.publish(stream, k, [float(k)])


def test_who_joins_late_ends_with_the_same_ticks_at_whatever_instant():
    figures = late_joins(25, seed=3)
    assert figures["differing"] == 0
    assert figures["recovered"] > 25


def test_a_stream_that_says_nothing_more_is_recovered_too():
    with publisher() as out:
        send(out, 0, 5)
        send(out, 0, 3, stream="B")
        with subscriber(out, streams=("B",)) as into:
            events = gather(into, lambda events: len(xs(events, "B")) == 3)
    assert {event.stream for event in events} == {"B"}


def test_long_histories_of_many_streams_come_whole():
    names = [f"S{k}" for k in range(100)]
    with publisher(ring=60_000) as out:
        for name in names:
            out.publish(name, np.arange(300), np.arange(300.0)[:, None])
        out.publish("A", np.zeros(50_000, np.int64), np.arange(50_000.0)[:, None])
        with subscriber(out) as into:
            out.wait_for_subscribers(1, WAIT_S)
            send(out, 50_000, 50_100)
            out.end("A")
            events = gather(into, lambda _: into.counters.ticks == 50_100 + 30_000)
    assert xs(events) == np.arange(50_100.0).tolist()
    assert all(xs(events, name) == np.arange(300.0).tolist() for name in names)
    assert into.counters.timeouts == 0


def test_only_what_the_ring_holds_comes_and_before_it_there_is_no_gap():
    with publisher(ring=10) as out:
        send(out, 0, 100)
        with subscriber(out) as into:
            out.wait_for_subscribers(1, WAIT_S)
            out.end()
            events = gather(into, ended)
    assert xs(events) == list(range(90, 100))
    assert not of(Gap | Refusal, events)


def test_a_publisher_that_waits_for_a_subscriber_still_answers_it():
    """The subscriber asks and reads nothing else, so that the publisher's queue is full."""
    block = np.zeros((8_000, 1))
    with publisher(run_id="s", ring=3_000_000, send_hwm=2, send_timeout_s=WAIT_S) as out:
        send(out, 0, 50)
        with subscriber(out, receive_hwm=2) as into:
            out.wait_for_subscribers(1, WAIT_S)
            blocked = threading.Thread(
                target=lambda: [out.publish("A", 0, block) for _ in range(300)]
            )
            blocked.start()
            with zmq.Context() as context, asker(context, out) as socket:
                replies = []
                for _ in range(20):
                    socket.send(encode_side(replay(1, 50)))
                    replies.append(decode_reply(socket.recv()))
            assert {reply.rows for reply in replies} == {50}
            gather(into, lambda _: into.counters.ticks == 50 + 300 * 8_000)
            blocked.join(WAIT_S)
            assert not blocked.is_alive()
    assert into.counters.gaps == 0


def test_a_restarted_publisher_is_a_new_session_recovered_from_its_start(tmp_path):
    ends = {"bind": f"ipc://{tmp_path}/feed", "recovery": f"ipc://{tmp_path}/lost"}
    with publisher(run_id="s1", **ends) as out, subscriber(out) as into:
        send(out, 0, 40)
        events = gather(into, lambda events: len(xs(events)) == 40)
        out.close()
        with publisher(run_id="s2", **ends) as again:
            send(again, 100, 120)
            again.end()
            events += gather(into, ended, again.heartbeat)
    assert xs(events) == [*range(40), *range(100, 120)]
    assert of(SessionStart, events) == [SessionStart("A", "s1"), SessionStart("A", "s2")]
    assert into.counters.gaps == 0


def test_going_on_after_a_stop_gets_what_was_missed():
    with publisher(run_id="s") as out:
        send(out, 0, 30)
        with subscriber(out) as into:
            into.resume("A", "s", 11)
            events = gather(into, lambda events: len(xs(events)) == 20)
    assert xs(events) == list(range(10, 30))
    assert not of(SessionStart | Gap, events)


def test_an_endpoint_at_which_nobody_is_holds_nothing_up_for_long():
    now = [0.0]

    def later():
        now[0] += 1.0

    with Publisher(ANY_PORT, columns=("x",)) as out:
        nobody = ["tcp://127.0.0.1:9"]
        send(out, 0, 5)
        with subscriber(out, recovery=nobody, clock=lambda: now[0]) as into:
            out.wait_for_subscribers(1, WAIT_S)
            send(out, 5, 10)
            out.end()
            events = gather(into, ended, later)
    assert xs(events) == list(range(5, 10))
    assert into.counters.timeouts == 2
    assert now[0] < 10.0


def test_two_publishers_each_answer_for_their_own():
    with publisher(run_id="s1") as one, publisher(run_id="s2") as two:
        send(one, 0, 50)
        send(two, 0, 60, stream="B")
        with subscriber(one, two) as into:
            done = lambda events: len(xs(events)) == 50 and len(xs(events, "B")) == 60  # noqa: E731
            events = gather(into, done)
    assert not of(Gap | Refusal, events)


# ---- whoever asks -----------------------------------------------------------------------------


def replay(first, last, session="s"):
    return ReplayRequest(stream="A", run_id=session, from_seq=first, to_seq=last)


@contextlib.contextmanager
def asker(context, out, kind=zmq.DEALER):
    with context.socket(kind) as socket:
        socket.setsockopt(zmq.RCVTIMEO, int(WAIT_S * 1000))
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(out.recovery_endpoint)
        yield socket


@pytest.fixture
def context():
    with zmq.Context() as made:
        yield made


def test_a_req_socket_is_answered_like_a_dealer(context):
    with publisher(run_id="s") as out, asker(context, out, zmq.REQ) as socket:
        for encoding in ("msgpack", "json"):
            socket.send(encode_side(Hello(), encoding))
            assert decode_reply(socket.recv()) == Welcome(run_id="s", columns=("x",))


def test_rubbish_is_not_answered_and_hurts_nobody(context):
    with publisher(run_id="s") as out, asker(context, out) as socket:
        for frames in ([b"\xff"], [b""], [b"a", b"b"], [b"", b"", b""], [b"{}"]):
            socket.send_multipart(frames)
        socket.send(encode_side(Hello()))
        assert isinstance(decode_reply(socket.recv()), Welcome)
        assert out._server.responder.counters.refused == 5


def test_a_request_too_long_ends_the_connection(context):
    with publisher(run_id="s") as out, asker(context, out) as socket:
        socket.send(b" " * 5_000)
        with asker(context, out) as other:
            other.send(encode_side(Hello()))
            assert isinstance(decode_reply(other.recv()), Welcome)
        assert out._server.responder.counters.refused == 0


def test_who_asks_and_does_not_read_loses_answers_and_holds_nobody_up(context, monkeypatch):
    """Thousands of requests for the largest answer there is."""
    monkeypatch.setattr(recovery_server, "REST", 0.0)
    with publisher(run_id="s", ring=30_000) as out, asker(context, out) as deaf:
        deaf.setsockopt(zmq.RCVHWM, 1)
        out.publish("A", np.zeros(30_000, np.int64), np.zeros((30_000, 1)))
        for _ in range(3_000):
            with contextlib.suppress(zmq.Again):
                deaf.send(encode_side(replay(1, 30_000)), zmq.NOBLOCK)
        with asker(context, out) as honest:
            for _ in range(10):
                honest.send(encode_side(replay(1, 10)))
                assert decode_reply(honest.recv()).rows == 10
        send(out, 0, 100)
        assert out._server.responder.counters.requests > 10


def test_a_snapshot_tells_of_every_stream(context):
    with publisher(run_id="s", ring=3) as out, asker(context, out) as socket:
        send(out, 0, 5)
        send(out, 0, 2, stream="B")
        socket.send(encode_side(SnapshotRequest()))
        assert decode_reply(socket.recv()).streams == {"A": (3, 6), "B": (1, 3)}


def test_the_end_is_said_again_until_something_new_comes():
    with publisher() as out:
        send(out, 0, 3)
        out.end()
        with subscriber(out) as into:
            events = gather(into, ended, out.heartbeat)
            out.wait_for_subscribers(1, WAIT_S)
            send(out, 3, 4)
            out.heartbeat()
            events += gather(into, lambda events: into.counters.ticks == 4)
    assert len(of(End, events)) == 1


def test_who_has_had_a_part_is_waited_for(context):
    now = [0.0]
    with (
        publisher(run_id="s", ring=60_000, clock=lambda: now[0]) as out,
        asker(context, out) as socket,
    ):
        out.publish("A", np.zeros(60_000, np.int64), np.zeros((60_000, 1)))
        assert out.expects_requests(30.0), "it may have been started this moment"
        now[0] += recovery_server.QUIET_S
        assert not out.expects_requests(30.0)
        first = 1
        while first <= 60_000:
            socket.send(encode_side(replay(first, 60_000)))
            first += decode_reply(socket.recv()).rows
            now[0] += 29.0
            assert out.expects_requests(30.0) == (first <= 60_000)
        socket.send(encode_side(replay(1, 60_000)))
        socket.recv()
        now[0] += 30.0
        assert not out.expects_requests(30.0)


def test_an_endpoint_that_cannot_be_is_named():
    for bind in ({"recovery": "nonsense"}, {"recovery": "tcp://127.0.0.1:70000"}):
        with pytest.raises(EndpointError, match="cannot bind"):
            publisher(**bind)
    with publisher() as out:
        with pytest.raises(EndpointError, match="in use"):
            publisher(recovery=out.recovery_endpoint)
        with pytest.raises(EndpointError, match="cannot connect"):
            subscriber(out, recovery=["nonsense"])
    with pytest.raises(UsageError, match="ring=0"):
        publisher(ring=0)
