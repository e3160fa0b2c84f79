"""The sockets of recovery have the same keys and limits as all others."""

import contextlib
import socket

import numpy as np
import pytest
import zmq

from stream_lstm.errors import ConfigurationError
from stream_lstm.events import End, Ticks
from stream_lstm.feed.publisher import Publisher
from stream_lstm.feed.security import Security, make_keys
from stream_lstm.feed.subscriber import Subscriber
from stream_lstm.schema import FeedConfig, SecurityConfig

from ..bench_modules import bench_module
from .received import blocks

greet = bench_module("faults_security").greet

ANY_PORT = "tcp://127.0.0.1:*"
WAIT_S = 20.0


def secured(folder):
    return Security(SecurityConfig(curve_dir=str(folder)))


def publisher(security=None, recovery=ANY_PORT):
    return Publisher(ANY_PORT, columns=["x"], recovery=recovery, security=security)


def test_lost_ticks_come_to_those_on_the_list(tmp_path):
    make_keys(tmp_path / "keys")
    with publisher(secured(tmp_path / "keys")) as out:
        out.publish("a", np.arange(1, 6), np.ones((5, 1)))
        config = FeedConfig(
            connect=(out.endpoint,), recovery=(out.recovery_endpoint,), columns=("x",)
        )
        with Subscriber(config, security=secured(tmp_path / "keys")) as into:
            out.wait_for_subscribers(1, WAIT_S)
            out.end()
            events = []
            while not any(isinstance(event, End) for event in events):
                events += blocks(into.receive(0.1))
    assert sum(len(event.t_ns) for event in events if isinstance(event, Ticks)) == 5


def test_who_has_no_key_is_not_answered(tmp_path):
    make_keys(tmp_path / "keys")
    with (
        publisher(secured(tmp_path / "keys")) as out,
        zmq.Context() as context,
        context.socket(zmq.DEALER) as asks,
    ):
        asks.setsockopt(zmq.RECONNECT_IVL, -1)
        asks.setsockopt(zmq.LINGER, 0)
        with asks.get_monitor_socket(zmq.EVENT_DISCONNECTED) as monitor:
            asks.connect(out.recovery_endpoint)
            asks.send(b'{"v":1,"kind":"hello"}')
            assert monitor.poll(WAIT_S * 1000)
            assert not asks.poll(0)
            asks.disable_monitor()


def test_an_address_for_others_needs_keys():
    with pytest.raises(ConfigurationError, match="--insecure"):
        publisher(recovery="tcp://0.0.0.0:*")


def test_a_request_without_end_is_cut_off():
    security = Security()
    with (
        publisher(security) as out,
        socket.create_connection(("127.0.0.1", int(out.recovery_endpoint.split(":")[-1]))) as raw,
    ):
        raw.settimeout(WAIT_S)
        greet(raw, b"DEALER")
        part = b"\1\x64" + bytes(100)
        with contextlib.suppress(OSError):
            while True:
                raw.sendall(part * 1000)
        assert security.counts() == {"endless_message": 1}


def test_many_requests_are_no_flood():
    """Far more bytes than one message may have, in messages that end."""
    security, count = Security(), 8_000
    with publisher(security) as out, zmq.Context() as context, context.socket(zmq.DEALER) as asks:
        asks.setsockopt(zmq.LINGER, 0)
        asks.connect(out.recovery_endpoint)
        named = b"a" * 150
        request = b'{"v":1,"kind":"replay","stream":"%s","session":"s","from_seq":1,"to_seq":9}'
        for _ in range(count):
            asks.send(request % named)
            while asks.poll(0):
                asks.recv()
        assert asks.poll(WAIT_S * 1000)
        assert security.counts() == {}
