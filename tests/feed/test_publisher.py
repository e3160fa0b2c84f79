"""Publishers on real sockets: heartbeats, subscriptions, slow subscribers, closing and binding."""

import contextlib
import threading

import msgspec
import numpy as np
import pytest
import zmq

from stream_lstm.errors import EndpointError, UsageError
from stream_lstm.events import Gap, Refusal
from stream_lstm.feed.predictions import PredictionPublisher, PredictionSubscriber
from stream_lstm.feed.publisher import HeartbeatThread, Publisher

from .received import ANY_PORT, ROUND_S, WAIT_S, blocks, ended, gather, of, python, subscriber


def publisher(**more):
    """A publisher without a thread, so that a test sees only its own messages."""
    return Publisher(ANY_PORT, **{"columns": ("x",), "heartbeats": False, **more})


# ---- heartbeats -------------------------------------------------------------------------------


def heartbeat_threads():
    return [t for t in threading.enumerate() if t.name == "stream-lstm heartbeats"]


def test_a_thread_sends_heartbeats_and_repeats_the_end():
    with Publisher(ANY_PORT, columns=["x"], heartbeat_s=0.01) as out, subscriber(out) as into:
        out.wait_for_subscribers(1, WAIT_S)
        out.publish("A", 7, [1.0])
        gather(into, lambda _: into.counters.heartbeats >= 3)
        out.end()
        with subscriber(out) as late:
            assert not of(Gap, gather(late, ended)), "it came after the end"
        (thread,) = heartbeat_threads()
    assert not thread.is_alive()


def test_closing_does_not_wait_for_the_next_heartbeat():
    with Publisher(ANY_PORT, columns=["x"], heartbeat_s=3600.0):
        assert heartbeat_threads()
    assert heartbeat_threads() == []


def test_without_heartbeats_there_is_no_thread():
    with publisher(heartbeat_s=0.0) as out:
        assert heartbeat_threads() == []
        assert out.heartbeat()


def test_heartbeats_are_sent_when_they_are_due():
    now = [100.0]
    with publisher(heartbeat_s=5.0, clock=lambda: now[0]) as out, subscriber(out) as into:
        out.wait_for_subscribers(1, WAIT_S)
        out.publish("A", 7, [1.0])
        assert not out.heartbeat()
        now[0] += 5.0
        assert out.heartbeat()
        assert not out.heartbeat()
        out.end("A")
        assert not of(Gap, gather(into, ended))
    assert into.counters.heartbeats == 2


def test_the_thread_ends_when_its_object_is_closed_or_dropped():
    class Owner:
        def __init__(self, ends):
            self.calls, self.called, self.ends = 0, threading.Event(), ends

        def beat(self):
            self.calls += 1
            if self.calls == 3:
                self.called.set()
                if self.ends:
                    raise UsageError("closed")
            return 0.0

    owner = Owner(ends=True)
    closed = HeartbeatThread(owner.beat, 0.0)
    closed.join(WAIT_S)
    assert not closed._thread.is_alive()
    assert owner.calls == 3

    owner = Owner(ends=False)
    called, dropped = owner.called, HeartbeatThread(owner.beat, 0.0)
    assert called.wait(WAIT_S)
    del owner
    dropped.join(WAIT_S)
    assert not dropped._thread.is_alive()


UNCLOSED = """
import zmq
from stream_lstm.feed.publisher import Publisher
context = zmq.Context()
out = Publisher("tcp://127.0.0.1:*", columns=["x"], heartbeat_s=1e-4)
peer = context.socket(zmq.SUB)
peer.connect(out.endpoint)
peer.subscribe(b"")
out.wait_for_subscribers(1, 30.0)
for k in range(100):
    out.publish(f"s{k}", 0, [1.0])
for _ in range(1000):
    assert len(peer.recv_multipart()) == 2
print("exits")
"""


def test_a_publisher_that_is_never_closed_does_not_delay_the_exit():
    assert python(UNCLOSED) == ["exits"]


# ---- subscribers ------------------------------------------------------------------------------


def test_subscriptions_are_counted_until_they_close():
    with publisher() as out:
        with subscriber(out), subscriber(out), subscriber(out, streams=("A", "B")):
            assert out.wait_for_subscribers(3, WAIT_S, stream="A") == 3
            assert out.wait_for_subscribers(4, WAIT_S) == 4
            assert out.wait_for_subscribers(2, WAIT_S, stream="C") == 2
        while out._subscriptions.count(b"tick/"):
            assert out._socket.poll(int(WAIT_S * 1000))
            out._subscriptions.update()


def test_a_full_subscriber_delays_the_publisher_and_loses_nothing():
    count, rows = 150, 8000  # 19 MB, more than the buffers of the system take
    block = np.zeros((rows, 2))
    with (
        publisher(columns=["a", "b"], send_hwm=2, send_timeout_s=0.01) as out,
        subscriber(out, columns=("a", "b"), receive_hwm=2) as into,
    ):
        out.wait_for_subscribers(1, WAIT_S)
        sent, delayed, events = 0, 0, []
        while sent < count:
            try:
                out.publish("A", 0, block + sent)
                sent += 1
            except EndpointError:
                delayed += 1
                events += blocks(into.receive(ROUND_S))
        events += gather(into, lambda _: into.counters.ticks == count * rows)
    assert delayed > 0
    assert not of(Gap | Refusal, events)


def test_published_ticks_leave_before_closing():
    with publisher() as out, subscriber(out) as into:
        out.wait_for_subscribers(1, WAIT_S)
        for n in range(100):
            out.publish("A", 0, np.full((16_000, 1), float(n)))
        out.end()
        out.close()
        assert not of(Gap | Refusal, gather(into, ended))
    assert into.counters.ticks == 100 * 16_000


@pytest.mark.parametrize(("linger_s", "complete"), [(WAIT_S, True), (0.0, False)])
def test_queued_messages_leave_within_the_linger(linger_s, complete):
    """A subscriber that reads nothing until the publisher closes; the queues between are full."""
    ticks, width = 400, 4096
    with zmq.Context() as context, context.socket(zmq.SUB) as slow:
        slow.setsockopt(zmq.RCVHWM, 1)
        slow.setsockopt(zmq.RCVBUF, 4096)
        slow.setsockopt(zmq.RCVTIMEO, int(WAIT_S * 1000) if complete else 200)
        slow.subscribe(b"")
        out = publisher(columns=[f"c{k}" for k in range(width)], send_hwm=1000, linger_s=linger_s)
        slow.connect(out.endpoint)
        out.wait_for_subscribers(1, WAIT_S)
        for k in range(ticks):
            out.publish("A", k, np.full(width, float(k)))
        out.end("A")
        closing = threading.Thread(target=out.close)
        closing.start()
        count, end = 0, False
        with contextlib.suppress(zmq.Again):
            while not end:
                topic, payload = slow.recv_multipart()
                beat = topic == b"heartbeat/A/"
                end = beat and msgspec.msgpack.decode(payload)["end"]
                count += not beat
        closing.join(WAIT_S)
        assert not closing.is_alive()
    assert (count == ticks and end) == complete


def test_a_slow_subscriber_is_not_taken_for_a_dead_one():
    """libzmq's own heartbeats drop a peer that reads nothing for a while because it is busy."""
    with publisher() as out, subscriber(out) as into, PredictionPublisher(ANY_PORT) as other:
        for socket in (out._socket, into.socket, other._socket):
            assert socket.getsockopt(zmq.HEARTBEAT_IVL) == 0
            assert socket.getsockopt(zmq.TCP_KEEPALIVE) == 1


# ---- endpoints --------------------------------------------------------------------------------


def test_a_port_or_path_in_use_says_so_and_what_to_do(tmp_path):
    with publisher() as out:
        for bind in (
            lambda: Publisher(out.endpoint, columns=["x"]),
            lambda: PredictionPublisher(out.endpoint),
        ):
            with pytest.raises(EndpointError, match="in use; stop the program") as caught:
                bind()
            assert out.endpoint in str(caught.value)
    path = f"ipc://{tmp_path}/feed"
    with Publisher(path, columns=["x"]), pytest.raises(EndpointError, match="in use"):
        Publisher(path, columns=["x"])
    with Publisher(path, columns=["x"]) as out, subscriber(path):
        out.wait_for_subscribers(1, WAIT_S)


@pytest.mark.parametrize(
    "endpoint",
    ["", "nonsense", "tcp://", "tcp://127.0.0.1", "tcp://127.0.0.1:70000", "xyz://a", "a\0b"],
)
def test_an_invalid_endpoint_is_named(endpoint):
    for use in (
        lambda: Publisher(endpoint, columns=["x"]),
        lambda: PredictionPublisher(endpoint),
        lambda: subscriber(endpoint),
        lambda: PredictionSubscriber(endpoint),
    ):
        with pytest.raises(EndpointError, match="cannot") as caught:
            use()
        assert repr(endpoint) in str(caught.value)


WITHOUT_POSIX = """
import sys, tempfile, warnings
warnings.simplefilter("ignore")  # of filelock, that it has no locks
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
from stream_lstm import PredictionSubscriber, Publisher, bridge
from stream_lstm.errors import EndpointError
with Publisher("tcp://127.0.0.1:*", columns=["x"], recovery="tcp://127.0.0.1:*") as out:
    with PredictionSubscriber(out.endpoint) as into:
        out.publish("A", 0, [1.0])
        into.receive(0.0)
try:
    Publisher(f"ipc://{tempfile.mkdtemp()}/feed", columns=["x"])
except EndpointError as error:
    print(error)
"""


def test_a_feed_needs_no_posix_modules():
    """Windows has none."""
    (line,) = python(WITHOUT_POSIX)
    assert line.startswith("cannot bind 'ipc://")
    assert line.endswith(
        "this system has no file locks to detect a second process; bind tcp://127.0.0.1:PORT"
    )
