"""The publisher's side of recovery: its ring, its replies, and real sockets with hostile peers."""

import contextlib
import socket
import threading

import msgspec
import numpy as np
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from stream_lstm.errors import ConfigurationError, EndpointError
from stream_lstm.events import End, Gap, Refusal, SessionStart
from stream_lstm.feed import recovery_server
from stream_lstm.feed.protocol import (
    Block,
    Busy,
    Gone,
    Hello,
    ReplayRequest,
    SnapshotReply,
    SnapshotRequest,
    Welcome,
    encode_side,
)
from stream_lstm.feed.publisher import Publisher
from stream_lstm.feed.recovery_server import (
    BURST,
    CHUNK_BYTES,
    FIRST_ROWS,
    MAX_PEERS,
    MAX_ROWS,
    REQUESTS_PER_S,
    RecoveryResponder,
    Ring,
)
from stream_lstm.feed.security import Security, make_keys
from stream_lstm.feed.wire import decode_reply
from stream_lstm.schema import SecurityConfig

from ..bench_modules import bench_module
from .received import ANY_PORT, WAIT_S, ended, gather, of, subscriber, xs

greet = bench_module("faults_security").greet
late_joins = bench_module("faults_recovery").late_joins

# ---- the ring ---------------------------------------------------------------------------------


def values_of(first, count):
    return np.arange(first, first + count)[:, None] + np.arange(2) / 10


def fill(ring, stream, sizes):
    """Append blocks of some sizes, with 0 for a single tick; return the next number."""
    seq = 1
    for size in sizes:
        if size:
            ring.append(stream, seq, np.arange(seq, seq + size), values_of(seq, size))
        else:
            ring.append(stream, seq, seq, values_of(seq, 1)[0])
        seq += size or 1
    return seq


sizes = st.lists(st.sampled_from([0, 0, 0, 1, 3, 20, 5000]), max_size=40)


@given(sizes, st.integers(1, 9000), st.data())
def test_the_ring_gives_what_was_appended_up_to_its_limit(sizes, ticks, data):
    ring = Ring(2, ticks=ticks)
    due = fill(ring, "A", sizes)
    if not sizes:
        assert ring.span("A") is None
        return
    oldest = max(1, due - ticks)
    assert ring.span("A") == (oldest, due)
    first = data.draw(st.integers(oldest, due - 1))
    last, most = data.draw(st.integers(first, due + 5)), data.draw(st.integers(1, 6000))
    seq, t_ns, values = ring.read("A", first, last, most)
    count = min(last + 1, due, first + most) - first
    assert (seq, len(t_ns)) == (first, count)
    np.testing.assert_array_equal(t_ns, np.arange(first, first + count))
    np.testing.assert_array_equal(values, values_of(first, count))


def test_the_ring_gives_nothing_that_it_does_not_have():
    ring = Ring(2, ticks=3)
    fill(ring, "A", [0] * 5)
    assert ring.read("A", 2, 5, 10) is None
    assert ring.read("A", 6, 9, 10) is None
    assert ring.read("B", 1, 1, 10) is None
    assert ring.span("B") is None
    assert ring.spans() == {"A": (3, 6)}


def test_the_ring_copies_and_a_block_may_have_one_time():
    ring = Ring(2)
    row, block = np.array([1.0, 2.0]), np.array([[3.0, 4.0]] * 2)
    ring.append("A", 1, 5, row)
    ring.append("A", 2, 0, block)
    row[:], block[:] = 0.0, 0.0
    read = ring.read("A", 1, 3, 9)
    assert read.values.tolist() == [[1.0, 2.0], [3.0, 4.0], [3.0, 4.0]]
    assert read.t_ns.tolist() == [5, 0, 0]


def test_all_streams_together_stay_within_the_bytes():
    ring = Ring(2, max_bytes=400_000)
    fill(ring, "quiet", [0] * 50)
    for k in range(1, 30_000):
        ring.append("busy", k, k, [1.0, 2.0])
        assert ring.size <= 400_000
    oldest, due = ring.span("busy")
    assert due == 30_000
    assert 200_000 < 24 * (due - oldest) <= 400_000
    assert ring.span("quiet") == (1, 51), "a busy stream does not displace a quiet one"


def test_later_streams_get_their_share():
    ring = Ring(2, max_bytes=600_000)
    for name in "ABC":
        fill(ring, name, [20] * 5_000)
        assert ring.size <= 600_000
    assert min(due - oldest for oldest, due in ring.spans().values()) > 3_000


def test_more_streams_than_fit_each_have_their_last_ticks():
    ring = Ring(2, max_bytes=10_000)
    for k in range(200):
        fill(ring, f"S{k}", [0] * 100)
    assert all(due == 101 and oldest < 101 for oldest, due in ring.spans().values())
    assert ring.size <= 200 * (24 * 64 + CHUNK_BYTES)
    one = Ring(14)
    one.append("A", 1, 1, np.zeros(14))
    assert one.size == CHUNK_BYTES + FIRST_ROWS * 8 * 15


def test_a_reader_in_another_thread_sees_complete_ticks():
    ring, torn, done = Ring(2, ticks=2 * MAX_ROWS), [], threading.Event()

    def read():
        while not done.is_set():
            span = ring.span("A")
            found = span and ring.read("A", span[0], span[1], 10_000)
            if found and not np.array_equal(found.values[:, 0], found.t_ns):
                torn.append(found)

    reader = threading.Thread(target=read)
    reader.start()
    for k in range(1, 20_000):
        ring.append("A", k, k, [k, -k])
    done.set()
    reader.join()
    assert not torn


# ---- replies ----------------------------------------------------------------------------------


class Asking:
    """A responder over a ring with ticks 1 to 20 of stream A, of which it has the last 10."""

    def __init__(self, *, connected=lambda _: True):
        self.now = 0.0
        self.ring = Ring(2, ticks=10)
        for k in range(1, 21):
            self.ring.append("A", k, 100 * k, [k, k / 2])
        self.responder = RecoveryResponder(
            self.ring, "s", ("bid", "ask"), clock=lambda: self.now, connected=connected
        )

    def ask(self, request, *, peer=b"p", encoding="msgpack"):
        reply = self.responder.answer(peer, encode_side(request, encoding))
        return None if reply is None else decode_reply(reply)


def replay(first, last, *, stream="A", run_id="s"):
    return ReplayRequest(stream=stream, run_id=run_id, from_seq=first, to_seq=last)


@pytest.fixture
def asking():
    return Asking()


@pytest.mark.parametrize("encoding", ["msgpack", "json"])
def test_each_request_has_its_reply_in_its_encoding(asking, encoding):
    assert asking.ask(Hello(), encoding=encoding) == Welcome(run_id="s", columns=("bid", "ask"))
    wanted = SnapshotReply(run_id="s", streams={"A": (11, 21)})
    assert asking.ask(SnapshotRequest(), encoding=encoding) == wanted
    block = asking.ask(replay(12, 14), encoding=encoding)
    assert (block.stream, block.run_id, block.seq, block.rows) == ("A", "s", 12, 3)
    assert np.frombuffer(block.t_ns, "<i8").tolist() == [1200, 1300, 1400]
    assert np.frombuffer(block.values, "<f8").tolist() == [12, 6, 13, 6.5, 14, 7]
    raw = asking.responder.answer(b"p", encode_side(Hello(), encoding))
    assert (raw[:1] == b"{") == (encoding == "json")


def test_a_range_is_answered_from_its_start_in_pieces(asking, monkeypatch):
    assert asking.ask(replay(19, 500)).rows == 2
    monkeypatch.setattr(recovery_server, "REPLY_BYTES", 3 * 24)
    asking.responder = RecoveryResponder(asking.ring, "s", ("bid", "ask"), clock=lambda: 0.0)
    block = asking.ask(replay(11, 20))
    assert (block.seq, block.rows) == (11, 3)


def test_ticks_that_are_not_in_the_ring_are_gone(asking):
    assert asking.ask(replay(3, 15)) == Gone(stream="A", run_id="s", oldest_seq=11)
    for unknown in (replay(1, 5, run_id="other"), replay(1, 5, stream="B"), replay(21, 30)):
        assert asking.ask(unknown).oldest_seq > unknown.to_seq


def test_a_peer_has_an_allowance_that_refills(asking):
    for _ in range(int(BURST)):
        assert isinstance(asking.ask(replay(11, 11)), Block)
    busy = asking.ask(replay(11, 11))
    assert isinstance(busy, Busy)
    assert busy.stream == "A"
    assert isinstance(asking.ask(Hello(), peer=b"another"), Welcome)
    asking.now += busy.retry_ms / 1000
    granted = 0
    while isinstance(asking.ask(Hello()), Welcome):
        granted += 1
    assert granted == busy.retry_ms / 1000 * REQUESTS_PER_S >= 100
    assert asking.responder.counters.busy == 2


def test_a_snapshot_is_made_once_a_second(asking):
    first = asking.ask(SnapshotRequest())
    asking.ring.append("A", 21, 0, [0, 0])
    assert asking.ask(SnapshotRequest()) == first
    asking.now += 1.0
    assert asking.ask(SnapshotRequest()).streams == {"A": (12, 22)}


def test_peers_are_bounded_and_replaced_when_they_are_gone():
    gone = set()
    asking = Asking(connected=lambda peer: peer not in gone)
    peers = [str(k).encode() for k in range(MAX_PEERS)]
    for peer in peers:
        assert isinstance(asking.ask(Hello(), peer=peer), Welcome)
    assert isinstance(asking.ask(Hello(), peer=b"new"), Busy)
    gone.add(peers[7])
    assert isinstance(asking.ask(Hello(), peer=b"new"), Welcome)
    assert isinstance(asking.ask(Hello(), peer=b"newer"), Busy)


@given(st.binary(max_size=200) | st.dictionaries(st.text(max_size=5), st.integers()))
def test_an_invalid_request_has_no_reply(garbage):
    asking = Asking()
    payload = garbage if isinstance(garbage, bytes) else msgspec.json.encode(garbage)
    assert asking.responder.answer(b"p", payload) is None
    assert asking.responder.counters.refused == 1


# ---- subscribers over sockets -----------------------------------------------------------------


def publisher(**more):
    own = {"columns": ("x",), "recovery": ANY_PORT, "heartbeats": False, "heartbeat_s": 0.0}
    return Publisher(more.pop("bind", ANY_PORT), **own | {"run_id": "s"} | more)


def recovering(*publishers, **more):
    ends = tuple(out.recovery_endpoint for out in publishers)
    return subscriber(*publishers, **{"recovery": ends, **more})


def send(out, low, high, stream="A"):
    for k in range(low, high):
        out.publish(stream, k, [float(k)])


def test_late_joiners_end_with_the_same_ticks_at_any_instant():
    figures = late_joins(25, seed=3)
    assert figures["differing"] == 0
    assert figures["recovered"] > 25


def test_a_stream_that_sends_nothing_more_is_recovered_too():
    with publisher() as out:
        send(out, 0, 5)
        send(out, 0, 3, stream="B")
        with recovering(out, streams=("B",)) as into:
            events = gather(into, lambda events: len(xs(events, "B")) == 3)
    assert {event.stream for event in events} == {"B"}


def test_long_histories_of_many_streams_are_recovered():
    names = [f"S{k}" for k in range(50)]
    with publisher(ring=60_000) as out:
        for name in names:
            out.publish(name, np.arange(300), np.arange(300.0)[:, None])
        out.publish("A", np.zeros(50_000, np.int64), np.arange(50_000.0)[:, None])
        with recovering(out) as into:
            out.wait_for_subscribers(1, WAIT_S)
            send(out, 50_000, 50_100)
            out.end("A")
            events = gather(into, lambda _: into.counters.ticks == 50_100 + 15_000)
    assert xs(events, "A") == np.arange(50_100.0).tolist()
    assert all(xs(events, name) == np.arange(300.0).tolist() for name in names)
    assert into.counters.timeouts == 0


def test_only_the_ticks_in_the_ring_come_and_there_is_no_gap_before_them():
    with publisher(ring=10) as out:
        send(out, 0, 100)
        with recovering(out) as into:
            out.wait_for_subscribers(1, WAIT_S)
            out.end()
            events = gather(into, ended)
    assert xs(events) == list(range(90, 100))
    assert not of(Gap | Refusal, events)


def test_a_publisher_that_waits_for_a_subscriber_still_answers_it():
    """The subscriber only sends requests and reads nothing else, so the publisher has to wait."""
    block = np.zeros((8_000, 1))
    with publisher(ring=3_000_000, send_hwm=2, send_timeout_s=WAIT_S) as out:
        send(out, 0, 50)
        with recovering(out, receive_hwm=2) as into:
            out.wait_for_subscribers(1, WAIT_S)
            blocked = threading.Thread(
                target=lambda: [out.publish("A", 0, block) for _ in range(300)]
            )
            blocked.start()
            with dealer(out) as asks:
                replies = []
                for _ in range(20):
                    asks.send(encode_side(replay(1, 50)))
                    replies.append(decode_reply(asks.recv()))
            assert {reply.rows for reply in replies} == {50}
            gather(into, lambda _: into.counters.ticks == 50 + 300 * 8_000)
            blocked.join(WAIT_S)
            assert not blocked.is_alive()
    assert into.counters.gaps == 0


def test_a_restarted_publisher_is_a_new_run_recovered_from_its_start(tmp_path):
    ends = {"bind": f"ipc://{tmp_path}/feed", "recovery": f"ipc://{tmp_path}/lost"}
    with publisher(run_id="s1", **ends) as out, recovering(out) as into:
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


def test_a_resumed_subscriber_gets_what_it_missed():
    with publisher() as out:
        send(out, 0, 30)
        with recovering(out) as into:
            into.resume("A", "s", 11)
            events = gather(into, lambda events: len(xs(events)) == 20)
    assert xs(events) == list(range(10, 30))
    assert not of(SessionStart | Gap, events)


def test_an_endpoint_without_a_server_delays_a_stream_only_for_a_while():
    now = [0.0]

    def later():
        now[0] += 1.0

    with Publisher(ANY_PORT, columns=("x",)) as out:
        send(out, 0, 5)
        with subscriber(out, recovery=("tcp://127.0.0.1:9",), clock=lambda: now[0]) as into:
            out.wait_for_subscribers(1, WAIT_S)
            send(out, 5, 10)
            out.end()
            events = gather(into, ended, later)
    assert xs(events) == list(range(5, 10))
    assert into.counters.timeouts == 2
    assert now[0] < 10.0


def test_two_publishers_each_answer_for_their_own_streams():
    with publisher(run_id="s1") as one, publisher(run_id="s2") as two:
        send(one, 0, 50)
        send(two, 0, 60, stream="B")
        with recovering(one, two) as into:
            events = gather(into, lambda e: (len(xs(e, "A")), len(xs(e, "B"))) == (50, 60))
    assert not of(Gap | Refusal, events)


def test_the_end_is_repeated_until_something_new_comes():
    with publisher() as out:
        send(out, 0, 3)
        out.end()
        with recovering(out) as into:
            events = gather(into, ended, out.heartbeat)
            out.wait_for_subscribers(1, WAIT_S)
            send(out, 3, 4)
            out.heartbeat()
            events += gather(into, lambda events: into.counters.ticks == 4)
    assert len(of(End, events)) == 1


def test_a_peer_with_a_part_of_its_ticks_is_expected_to_request_more():
    now = [0.0]
    with publisher(ring=60_000, clock=lambda: now[0]) as out, dealer(out) as asks:
        out.publish("A", np.zeros(60_000, np.int64), np.zeros((60_000, 1)))
        assert out.expects_requests(30.0), "it may just have started"
        now[0] += recovery_server.QUIET_S
        assert not out.expects_requests(30.0)
        first = 1
        while first <= 60_000:
            asks.send(encode_side(replay(first, 60_000)))
            first += decode_reply(asks.recv()).rows
            now[0] += 29.0
            assert out.expects_requests(30.0) == (first <= 60_000)
        asks.send(encode_side(replay(1, 60_000)))
        asks.recv()
        now[0] += 30.0
        assert not out.expects_requests(30.0)


# ---- any peer over sockets --------------------------------------------------------------------


@contextlib.contextmanager
def dealer(out, kind=zmq.DEALER):
    """A socket that is connected to the recovery endpoint of a publisher."""
    with zmq.Context() as context, context.socket(kind) as asks:
        asks.setsockopt(zmq.RCVTIMEO, int(WAIT_S * 1000))
        asks.setsockopt(zmq.LINGER, 0)
        asks.connect(out.recovery_endpoint)
        yield asks


def test_a_req_socket_is_answered_like_a_dealer():
    with publisher() as out, dealer(out, zmq.REQ) as asks:
        for encoding in ("msgpack", "json"):
            asks.send(encode_side(Hello(), encoding))
            assert decode_reply(asks.recv()) == Welcome(run_id="s", columns=("x",))


def test_rubbish_is_not_answered_and_does_no_harm():
    with publisher() as out, dealer(out) as asks:
        for frames in ([b"\xff"], [b""], [b"a", b"b"], [b"", b"", b""], [b"{}"]):
            asks.send_multipart(frames)
        asks.send(encode_side(Hello()))
        assert isinstance(decode_reply(asks.recv()), Welcome)
        assert out._server.responder.counters.refused == 5


def test_a_request_that_is_too_long_ends_its_connection():
    with publisher() as out, dealer(out) as asks, dealer(out) as other:
        asks.send(b" " * 5_000)
        other.send(encode_side(Hello()))
        assert isinstance(decode_reply(other.recv()), Welcome)
        assert out._server.responder.counters.refused == 0


def test_a_peer_that_does_not_read_loses_replies_and_delays_nobody(monkeypatch):
    """Thousands of requests for the largest reply."""
    monkeypatch.setattr(recovery_server, "REST", 0.0)
    with publisher(ring=30_000) as out, dealer(out) as deaf, dealer(out) as honest:
        deaf.setsockopt(zmq.RCVHWM, 1)
        out.publish("A", np.zeros(30_000, np.int64), np.zeros((30_000, 1)))
        for _ in range(3_000):
            with contextlib.suppress(zmq.Again):
                deaf.send(encode_side(replay(1, 30_000)), zmq.NOBLOCK)
        for _ in range(10):
            honest.send(encode_side(replay(1, 10)))
            assert decode_reply(honest.recv()).rows == 10
        send(out, 0, 100)
        assert out._server.responder.counters.requests > 10


def test_invalid_endpoints_are_named():
    for recovery in ("nonsense", "tcp://127.0.0.1:70000"):
        with pytest.raises(EndpointError, match="cannot bind"):
            publisher(recovery=recovery)
    with publisher() as out:
        with pytest.raises(EndpointError, match="in use"):
            publisher(recovery=out.recovery_endpoint)
        with pytest.raises(EndpointError, match="cannot connect"):
            subscriber(out, recovery=("nonsense",))
    with pytest.raises(ConfigurationError, match="--insecure"):
        publisher(recovery="tcp://0.0.0.0:*")


# ---- keys and floods --------------------------------------------------------------------------


def test_only_clients_on_the_list_recover_ticks(tmp_path):
    make_keys(tmp_path / "keys")
    keys = lambda: Security(SecurityConfig(curve_dir=str(tmp_path / "keys")))  # noqa: E731
    with publisher(security=keys(), heartbeats=True, heartbeat_s=1.0) as out:
        out.publish("a", np.arange(1, 6), np.ones((5, 1)))
        with recovering(out, security=keys()) as into:
            out.wait_for_subscribers(1, WAIT_S)
            out.end()
            assert len(xs(gather(into, ended))) == 5
        with zmq.Context() as context, context.socket(zmq.DEALER) as asks:
            asks.setsockopt(zmq.RECONNECT_IVL, -1)
            asks.setsockopt(zmq.LINGER, 0)
            with asks.get_monitor_socket(zmq.EVENT_DISCONNECTED) as monitor:
                asks.connect(out.recovery_endpoint)
                asks.send(b'{"v":1,"kind":"hello"}')
                assert monitor.poll(WAIT_S * 1000)
                assert not asks.poll(0)
                asks.disable_monitor()


def test_a_request_without_end_is_cut_off():
    security = Security()
    with (
        publisher(security=security) as out,
        socket.create_connection(("127.0.0.1", int(out.recovery_endpoint.split(":")[-1]))) as raw,
    ):
        raw.settimeout(WAIT_S)
        greet(raw, b"DEALER")
        part = b"\1\x64" + bytes(100)
        with contextlib.suppress(OSError):
            while True:
                raw.sendall(part * 1000)
        assert security.counts() == {"endless_message": 1}


def test_many_requests_are_not_a_flood():
    """Far more bytes than one message may have, in messages that end."""
    security = Security()
    with publisher(security=security) as out, dealer(out) as asks:
        request = b'{"v":1,"kind":"replay","stream":"%s","session":"s","from_seq":1,"to_seq":9}'
        for _ in range(8_000):
            asks.send(request % (b"a" * 150))
            while asks.poll(0):
                asks.recv()
        assert asks.poll(WAIT_S * 1000)
        assert security.counts() == {}
