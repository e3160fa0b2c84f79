"""Heartbeats that a publisher sends by itself, and the end of their thread."""

import threading

import pytest

from stream_lstm.errors import UsageError
from stream_lstm.events import End, Gap
from stream_lstm.feed.publisher import HeartbeatThread, Publisher
from stream_lstm.feed.subscriber import Subscriber
from stream_lstm.schema import FeedConfig

from .received import python

ANY_PORT = "tcp://127.0.0.1:*"
WAIT_S = 30.0
ROUNDS = 1_000


def beating():
    return [t for t in threading.enumerate() if t.name == "stream-lstm heartbeats"]


def test_a_publisher_sends_heartbeats_by_itself_and_repeats_the_end():
    with (
        Publisher(ANY_PORT, columns=["x"], heartbeat_s=0.01) as out,
        Subscriber(FeedConfig(connect=(out.endpoint,), columns=("x",))) as into,
    ):
        out.wait_for_subscribers(1, WAIT_S)
        out.publish("A", 7, [1.0])
        for _ in range(ROUNDS):
            if into.counters.heartbeats >= 3:
                break
            into.receive(0.1)
        assert into.counters.heartbeats >= 3
        out.end()
        with Subscriber(FeedConfig(connect=(out.endpoint,), columns=("x",))) as late:
            events = []
            for _ in range(ROUNDS):
                if any(isinstance(event, End) for event in events):
                    break
                events += late.receive(0.1)
        assert any(isinstance(event, End) for event in events), "it came after the end"
        assert not any(isinstance(event, Gap) for event in events)
        (thread,) = beating()
    assert not thread.is_alive()


def test_closing_does_not_wait_for_the_next_heartbeat():
    with Publisher(ANY_PORT, columns=["x"], heartbeat_s=3600.0):
        assert beating()
    assert beating() == []


def test_without_heartbeats_there_is_no_thread():
    with Publisher(ANY_PORT, columns=["x"], heartbeats=False, heartbeat_s=0.0) as out:
        assert beating() == []
        assert out.heartbeat()


@pytest.mark.parametrize("period_s", [0, -1.0, float("inf"), float("nan"), "1", None])
def test_a_period_that_is_none_is_refused(period_s):
    with pytest.raises(UsageError, match=r"heartbeat_s=.*seconds"):
        Publisher(ANY_PORT, columns=["x"], heartbeat_s=period_s)
    assert beating() == []


def test_the_thread_ends_when_its_object_is_closed_or_gone():
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
import threading
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
print("leaves")
"""


def test_a_publisher_that_is_never_closed_holds_up_no_exit():
    assert python(UNCLOSED) == ["leaves"]
