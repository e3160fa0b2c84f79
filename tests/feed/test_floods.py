"""What a hostile peer sends without end: it is cut off, counted, and its memory comes back.

Each trap was measured first: `MAXMSGSIZE` bounds a frame and not a message, the high-water mark
counts whole messages, and libzmq keeps whatever prefixes it is asked for.
"""

import contextlib
import socket
import threading

import pytest
import zmq

from stream_lstm.events import End
from stream_lstm.feed import guard
from stream_lstm.feed.publisher import Publisher
from stream_lstm.feed.security import Security
from stream_lstm.feed.subscriber import Subscriber
from stream_lstm.schema import FeedConfig, SecurityConfig

from ..bench_modules import bench_module

faults = bench_module("faults_security")
greet, resident_mib = faults.greet, faults.resident_mib
send_subscriptions = faults.send_subscriptions

ANY_PORT = "tcp://127.0.0.1:*"
WAIT_S = 20.0
LONG_S = 60.0
"""For an attack that nobody ends; the test is over long before."""


@contextlib.contextmanager
def attacking(attack, *arguments):
    """Run an attack beside the test; yields its thread."""

    def work():
        with contextlib.suppress(OSError):
            attack(*arguments)

    thread = threading.Thread(target=work)
    thread.start()
    yield thread
    thread.join(WAIT_S)
    assert not thread.is_alive(), "the attacker was not cut off"


def port_of(publisher):
    return int(publisher.endpoint.rpartition(":")[2])


def test_a_flood_of_subscriptions_is_cut_off():
    security, before = Security(SecurityConfig(max_subscriptions=1000)), resident_mib()
    with (
        Publisher(ANY_PORT, columns=["x"], security=security) as out,
        Subscriber(FeedConfig(connect=(out.endpoint,), columns=("x",))) as into,
    ):
        out.wait_for_subscribers(1, WAIT_S)
        with attacking(send_subscriptions, port_of(out), LONG_S) as attack:
            while attack.is_alive():
                out.publish("a", 0, [1.0])
                into.receive(0.0)
        assert security.counts() == {"too_many_subscriptions": 1}
        assert resident_mib() - before < 200
        # The others are served on.
        out.end()
        events = []
        while not any(isinstance(event, End) for event in events):
            events = into.receive(WAIT_S)
            assert events


def test_many_topics_within_the_limit_are_no_flood():
    security = Security(SecurityConfig(max_subscriptions=1000))
    names = tuple(f"{n:0>190}" for n in range(333))
    with (
        Publisher(ANY_PORT, columns=["x"], security=security) as out,
        Subscriber(FeedConfig(connect=(out.endpoint,), columns=("x",), streams=names)) as into,
    ):
        for name in (names[0], names[-1]):
            assert out.wait_for_subscribers(1, WAIT_S, stream=name) == 1
        out.publish(names[-1], 0, [1.0])
        assert into.receive(WAIT_S)
        assert security.counts() == {}


def test_a_topic_that_no_stream_can_have_is_not_taken():
    with Publisher(ANY_PORT, columns=["x"]) as out:
        with socket.create_connection(("127.0.0.1", port_of(out))) as raw:
            greet(raw, b"SUB")
            raw.sendall(b"\2" + (100_001).to_bytes(8, "big") + b"\1" + bytes(100_000))
            raw.settimeout(WAIT_S)
            assert hangs_up(raw)
        out.heartbeat()
        assert not out._subscriptions._open


@pytest.mark.parametrize("others", [False, True], ids=["alone", "beside another feed"])
def test_a_message_without_end_is_cut_off(others):
    """One part is below every limit, and the application never sees any of them."""
    security, before = Security(), resident_mib()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        Publisher(ANY_PORT, columns=["x"]) as out,
        Subscriber(
            FeedConfig(
                connect=(f"tcp://127.0.0.1:{server.getsockname()[1]}", out.endpoint),
                columns=("x",),
            ),
            security=security,
        ) as into,
    ):
        out.wait_for_subscribers(1, WAIT_S)

        def attack():
            connection, _ = server.accept()
            with connection:
                connection.settimeout(WAIT_S)
                greet(connection, b"PUB")
                part = b"\3" + (2**20).to_bytes(8, "big") + bytes(2**20)
                while True:
                    connection.sendall(part)

        with attacking(attack) as thread:
            while thread.is_alive():
                if others:
                    out.publish("a", 0, [1.0])
                into.receive(0.01)
        assert into.counters.refused == 0
        assert security.counts()["endless_message"] == 1
        assert resident_mib() - before < 400


def test_a_large_message_that_ends_is_taken():
    """The guard counts what came since the last message, not what came in all."""
    with zmq.Context() as context, context.socket(zmq.XPUB) as out:
        out.bind(ANY_PORT)
        security = Security()
        endpoint = out.getsockopt_string(zmq.LAST_ENDPOINT)
        with Subscriber(
            FeedConfig(connect=(endpoint,), columns=("x",)), security=security
        ) as into:
            for _ in range(3):
                out.recv()
            for _ in range(12):
                out.send_multipart([b"tick/a/", bytes(2**24)])
                while not into.receive(WAIT_S):
                    pass
            assert into.counters.refused == into.counters.messages == 12
            assert security.counts() == {}


def hangs_up(connection):
    """Read on until the other side has closed the connection."""
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(64):
            pass
    return True


def test_peers_are_bounded(monkeypatch):
    monkeypatch.setattr(guard, "MAX_PEERS", 3)
    security = Security()
    with (
        Publisher(ANY_PORT, columns=["x"], security=security) as out,
        contextlib.ExitStack() as stack,
    ):
        address = ("127.0.0.1", port_of(out))
        first, *_ = [
            stack.enter_context(socket.create_connection(address, WAIT_S)) for _ in range(3)
        ]
        with contextlib.suppress(ConnectionError):  # it may be cut off before it is there
            assert hangs_up(stack.enter_context(socket.create_connection(address, WAIT_S)))
        greet(first, b"SUB")
        assert security.counts()["too_many_peers"] == 1
