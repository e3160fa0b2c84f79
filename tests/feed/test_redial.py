"""An endpoint that libzmq gives up is dialled again, ever more rarely and without end."""

import contextlib
import itertools
import socket
import struct
import threading

import pytest
import zmq

from stream_lstm.events import NO_TIME, Prediction
from stream_lstm.feed.guard import FIRST_REDIAL_S, GRACE_S, MAX_REDIAL_S, SILENT_S, Redial
from stream_lstm.feed.predictions import PredictionSubscriber
from stream_lstm.feed.protocol import encode_prediction, encode_ticks
from stream_lstm.feed.security import Security
from stream_lstm.feed.subscriber import Subscriber
from stream_lstm.schema import FeedConfig

A, B = "tcp://10.0.0.1:5555", "tcp://10.0.0.2:5555"
HOST_A, HOST_B = "tcp://a.example:5555", "tcp://b.example:5555"
WAIT_S = 30.0

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)


def ready(kind):
    body = b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind
    return GREETING + bytes((4, len(body))) + body


NONSENSE = {
    "another kind of socket": ready(b"REP"),
    "another mechanism": GREETING.replace(b"NULL", b"PLAIN", 1).replace(bytes(20), bytes(19), 1),
    "a garbage command": GREETING + b"\x04\x05\x05HELLO",
    "a huge frame": ready(b"PUB") + b"\x02" + struct.pack(">Q", 100 * 2**20) + bytes(1000),
    "bad flags": ready(b"PUB") + b"\xff\xff\xff",
    "a web server": b"HTTP/1.1 400 Bad\r\n\r\n",
}


class Told:
    def __init__(self):
        self.lines = []

    def __call__(self, endpoint, why):
        self.lines.append((endpoint, why))


def redial(*endpoints):
    told = Told()
    return Redial(endpoints, told), told


# ---- without sockets ------------------------------------------------------------------------


def test_what_ended_and_is_not_tried_again_is_given_up_and_dialled():
    lines, told = redial(A, B)
    for endpoint in (A, B):
        lines.report("tried", endpoint)
        lines.report("connected", endpoint)
    assert lines.due(0.0) == ([], [])
    assert not lines.pending
    lines.report("refused", A, "it did not let us in")
    lines.report("ended", A)
    lines.report("ended", B)
    lines.report("tried", B)
    assert lines.pending
    assert lines.due(1.0) == ([], [])
    assert lines.due(1.0 + GRACE_S) == ([A], [])
    assert lines.due(1.0 + GRACE_S + FIRST_REDIAL_S) == ([], [A])
    assert told.lines == [(A, f"it did not let us in; dialled again in {FIRST_REDIAL_S:g} s")]


def test_it_is_dialled_ever_more_rarely_and_without_end():
    lines, _ = redial(A)
    now, dialled = 0.0, []
    while len(dialled) < 20:
        lines.report("connected", A)
        lines.report("ended", A)
        while not lines.due(now)[1]:
            now += 0.125
        dialled.append(now)
    waits = [b - a for a, b in itertools.pairwise(dialled)]
    assert waits[0] < waits[1] < waits[2]
    assert max(waits) <= MAX_REDIAL_S + GRACE_S + 0.25
    assert waits[-1] >= MAX_REDIAL_S
    now += 10 * MAX_REDIAL_S  # it was well for long
    lines.report("ended", A)
    lines.due(now)
    lines.due(now + GRACE_S)
    assert lines.due(now + GRACE_S + FIRST_REDIAL_S)[1] == [A]


def test_what_is_not_tried_for_long_is_given_up():
    lines, told = redial(A, B)
    lines.report("connected", B)
    assert lines.due(0.0) == ([], [])
    assert lines.due(SILENT_S) == ([A], [])
    assert [endpoint for endpoint, _ in told.lines] == [A]


def test_where_the_address_does_not_tell_all_that_may_be_meant_are_dialled():
    lines, _ = redial(HOST_A, HOST_B)
    lines.report("ended", A)
    lines.report("tried", B)
    lines.due(0.0)
    assert lines.due(GRACE_S) == ([HOST_A, HOST_B], [])
    one, _ = redial(HOST_A, "tcp://b.example:7777")
    one.report("ended", A)
    one.report("tried", A)
    assert one.due(0.0) == one.due(GRACE_S) == ([], [])


def test_an_endpoint_is_lost_from_the_end_of_a_connection_to_the_next_one():
    lines, _ = redial(A, B)

    def lost(*reports):
        for report in reports:
            lines.report(report, A)
        lines.due(0.0)
        return lines.lost(A)

    assert not lost()
    assert not lost("tried"), "its first connection is still to be reported"
    assert not lost("connected")
    assert lost("ended")
    assert lost("tried"), "an attempt is no connection"
    lines.due(10 * SILENT_S)
    lines.due(11 * SILENT_S)
    assert lost(), "given up, and dialled again"
    assert not lost("connected")
    assert lost("connected", "ended")
    assert not lines.lost(B)
    assert not lines.lost("inproc://unreported")


def test_what_cannot_be_dialled_is_tried_again():
    lines, told = redial(A)
    lines.failed(A, "no key", 0.0)
    assert lines.due(FIRST_REDIAL_S) == ([], [A])
    assert told.lines[0][1].startswith("no key")


def test_more_reports_than_there_is_room_for_are_as_if_all_had_ended(monkeypatch):
    monkeypatch.setattr("stream_lstm.feed.guard.MAX_REPORTS", 10)
    lines, _ = redial(A)
    for _ in range(20):
        lines.report("connected", A)
    lines.due(0.0)
    assert lines.lost(A)
    assert lines.due(GRACE_S) == ([A], [])


# ---- with sockets ---------------------------------------------------------------------------


@contextlib.contextmanager
def right_again(port, receive):
    """A publisher at a port, subscribed to; `receive` lets its subscriber work meanwhile."""
    with zmq.Context() as context, context.socket(zmq.XPUB) as out:
        out.bind(f"tcp://127.0.0.1:{port}")
        for _ in range(int(WAIT_S * 20)):
            if out.poll(0):
                break
            receive(0.05)
        assert out.poll(0), "never dialled again"
        out.setsockopt(zmq.LINGER, 0)
        yield out


def speak(server, says):
    """Answer the first connection with bytes, wait until it is closed, and go."""
    with server, contextlib.suppress(OSError):
        server.settimeout(WAIT_S)
        connection, _ = server.accept()
        with connection:
            connection.settimeout(0.3)
            connection.sendall(says)
            while connection.recv(4096):
                pass


@pytest.mark.parametrize("says", NONSENSE.values(), ids=NONSENSE)
@pytest.mark.parametrize("kind", ["feed", "predictions"])
def test_who_is_right_again_is_heard(says, kind):
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    endpoint = f"tcp://127.0.0.1:{port}"
    thread = threading.Thread(target=speak, args=(server, says))
    thread.start()
    security = Security()
    into = (
        Subscriber(FeedConfig(connect=(endpoint,), columns=("x",)), security=security)
        if kind == "feed"
        else PredictionSubscriber(endpoint, security=security)
    )
    frames = (
        encode_ticks("a", 0, [1.0])
        if kind == "feed"
        else encode_prediction(Prediction("a", 1, NO_TIME, 0.5))
    )
    with into:
        while thread.is_alive():
            into.receive(0.05)
        thread.join()
        with right_again(port, into.receive) as out:
            for _ in range(100):
                out.send_multipart(frames)
                if into.receive(0.1):
                    return
    raise AssertionError("nothing was heard")


def test_a_recovery_endpoint_is_dialled_again():
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    thread = threading.Thread(target=speak, args=(server, NONSENSE["another mechanism"]))
    thread.start()
    asked = f"tcp://127.0.0.1:{port}"
    config = FeedConfig(connect=("tcp://127.0.0.1:1",), recovery=(asked,), columns=("x",))
    with Subscriber(config) as into, zmq.Context() as context:
        while thread.is_alive():
            into.receive(0.05)
        with context.socket(zmq.ROUTER) as router:
            router.setsockopt(zmq.LINGER, 0)
            router.bind(asked)
            for _ in range(int(WAIT_S * 20)):
                if router.poll(0):
                    return
                into.receive(0.05)
    raise AssertionError("never dialled again")


def test_many_endpoints_that_are_given_up_together_all_come_back():
    """Each has its own memory in libzmq, which must not be taken for that of another."""
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(20)]
    ports = [server.getsockname()[1] for server in servers]
    config = FeedConfig(connect=tuple(f"tcp://127.0.0.1:{p}" for p in ports), columns=("x",))
    says = NONSENSE["another mechanism"]
    threads = [threading.Thread(target=speak, args=(server, says)) for server in servers]
    for thread in threads:
        thread.start()
    with Subscriber(config) as into, contextlib.ExitStack() as stack:
        while any(thread.is_alive() for thread in threads):
            into.receive(0.05)
        for port in ports:
            stack.enter_context(right_again(port, into.receive))
