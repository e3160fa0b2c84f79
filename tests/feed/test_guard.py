"""Endpoints that libzmq gives up are redialled, and peers that flood us are cut off.

Each flood was measured first: `MAXMSGSIZE` bounds a frame and not a message, the high-water mark
counts complete messages, and libzmq stores any number of prefixes.
"""

import contextlib
import itertools
import socket
import struct
import threading

import pytest
import zmq

from stream_lstm.events import NO_TIME, Prediction
from stream_lstm.feed import guard
from stream_lstm.feed.guard import FIRST_REDIAL_S, GRACE_S, MAX_REDIAL_S, SILENT_S, Redial
from stream_lstm.feed.predictions import PredictionSubscriber
from stream_lstm.feed.protocol import encode_prediction, encode_ticks
from stream_lstm.feed.publisher import Publisher
from stream_lstm.feed.security import Security
from stream_lstm.schema import SecurityConfig

from ..bench_modules import bench_module
from .received import ANY_PORT, ROUND_S, ROUNDS, WAIT_S, ended, gather, subscriber

faults = bench_module("faults_security")
greet, resident_mib = faults.greet, faults.resident_mib
send_subscriptions = faults.send_subscriptions

A, B = "tcp://10.0.0.1:5555", "tcp://10.0.0.2:5555"
HOST_A, HOST_B = "tcp://a.example:5555", "tcp://b.example:5555"
LONG_S = 60.0
"""For an attack that nobody ends; the test is over long before."""


# ---- redialling without sockets ---------------------------------------------------------------


def redial(*endpoints):
    """A Redial, and the list of what it noted."""
    notes = []
    return Redial(endpoints, lambda endpoint, why: notes.append((endpoint, why))), notes


def test_an_endpoint_that_ended_and_is_not_tried_again_is_given_up_and_redialled():
    lines, notes = redial(A, B)
    for endpoint in (A, B):
        lines.report("tried", endpoint)
        lines.report("connected", endpoint)
    assert lines.due(0.0) == ([], [])
    assert not lines.pending
    lines.report("refused", A, "it rejected our key")
    lines.report("ended", A)
    lines.report("ended", B)
    lines.report("tried", B)
    assert lines.pending
    assert lines.due(1.0) == ([], [])
    assert lines.due(1.0 + GRACE_S) == ([A], [])
    assert lines.due(1.0 + GRACE_S + FIRST_REDIAL_S) == ([], [A])
    assert notes == [(A, f"it rejected our key; dialled again in {FIRST_REDIAL_S:g} s")]


def test_it_is_redialled_less_and_less_often_and_without_end():
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
    now += 10 * MAX_REDIAL_S  # it was connected for long
    lines.report("ended", A)
    lines.due(now)
    lines.due(now + GRACE_S)
    assert lines.due(now + GRACE_S + FIRST_REDIAL_S)[1] == [A]


def test_an_endpoint_that_is_not_tried_for_long_is_given_up():
    lines, notes = redial(A, B)
    lines.report("connected", B)
    assert lines.due(0.0) == ([], [])
    assert lines.due(SILENT_S) == ([A], [])
    assert [endpoint for endpoint, _ in notes] == [A]


def test_all_endpoints_that_an_address_may_mean_are_redialled():
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
    assert lost("tried"), "an attempt is not a connection"
    lines.due(10 * SILENT_S)
    lines.due(11 * SILENT_S)
    assert lost(), "given up, and redialled"
    assert not lost("connected")
    assert lost("connected", "ended")
    assert not lines.lost(B)
    assert not lines.lost("inproc://unreported")


def test_an_endpoint_that_cannot_be_dialled_is_tried_again():
    lines, notes = redial(A)
    lines.failed(A, "no key", 0.0)
    assert lines.due(FIRST_REDIAL_S) == ([], [A])
    assert notes[0][1].startswith("no key")


def test_too_many_reports_count_as_if_all_connections_had_ended(monkeypatch):
    monkeypatch.setattr(guard, "MAX_REPORTS", 10)
    lines, _ = redial(A)
    for _ in range(20):
        lines.report("connected", A)
    lines.due(0.0)
    assert lines.lost(A)
    assert lines.due(GRACE_S) == ([A], [])


# ---- redialling with sockets ------------------------------------------------------------------

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)


def ready(kind):
    body = b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind
    return GREETING + bytes((4, len(body))) + body


OTHER_MECHANISM = GREETING.replace(b"NULL", b"PLAIN", 1).replace(bytes(20), bytes(19), 1)
NONSENSE = {
    "another kind of socket": ready(b"REP"),
    "another mechanism": OTHER_MECHANISM,
    "a garbage command": GREETING + b"\x04\x05\x05HELLO",
    "a huge frame": ready(b"PUB") + b"\x02" + struct.pack(">Q", 100 * 2**20) + bytes(1000),
    "bad flags": ready(b"PUB") + b"\xff\xff\xff",
    "a web server": b"HTTP/1.1 400 Bad\r\n\r\n",
}


@pytest.fixture
def quick(monkeypatch):
    """Redialling takes a tenth of its time."""
    for name in ("GRACE_S", "FIRST_REDIAL_S", "MAX_REDIAL_S"):
        monkeypatch.setattr(guard, name, getattr(guard, name) / 10)


@contextlib.contextmanager
def nonsense_servers(count, says):
    """Ports at which a server answers its first connection with bytes, and its threads."""

    def speak(server):
        with server, contextlib.suppress(OSError):
            server.settimeout(WAIT_S)
            connection, _ = server.accept()
            with connection:
                connection.settimeout(0.3)
                connection.sendall(says)
                while connection.recv(4096):
                    pass

    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    threads = [threading.Thread(target=speak, args=(server,)) for server in servers]
    ports = [server.getsockname()[1] for server in servers]
    for thread in threads:
        thread.start()
    yield ports, threads
    for thread in threads:
        thread.join()


@contextlib.contextmanager
def dialled(kind, receive, *ports):
    """Bind sockets to ports, and wait until somebody has connected or sent something to each."""
    with zmq.Context() as context, contextlib.ExitStack() as stack:
        outs = [stack.enter_context(context.socket(kind)) for _ in ports]
        for out, port in zip(outs, ports, strict=True):
            out.setsockopt(zmq.LINGER, 0)
            out.bind(f"tcp://127.0.0.1:{port}")
        for _ in range(ROUNDS):
            if all(out.poll(0) for out in outs):
                break
            receive(ROUND_S)
        assert all(out.poll(0) for out in outs), "never redialled"
        yield outs


def after_nonsense(into, threads):
    while any(thread.is_alive() for thread in threads):
        into.receive(ROUND_S)


@pytest.mark.parametrize(
    ("kind", "says"),
    [*(("feed", says) for says in NONSENSE), ("predictions", "another mechanism")],
)
def test_a_publisher_that_is_right_again_is_heard(kind, says, quick):
    frames = encode_ticks("a", 0, [1.0])
    if kind == "predictions":
        frames = encode_prediction(Prediction("a", 1, NO_TIME, 0.5))
    with nonsense_servers(1, NONSENSE[says]) as ((port,), threads):
        endpoint = f"tcp://127.0.0.1:{port}"
        with subscriber(endpoint) if kind == "feed" else PredictionSubscriber(endpoint) as into:
            after_nonsense(into, threads)
            with dialled(zmq.XPUB, into.receive, port) as (out,):
                gather(into, bool, lambda: out.send_multipart(frames))


def test_a_recovery_endpoint_is_redialled(quick):
    with nonsense_servers(1, OTHER_MECHANISM) as ((port,), threads):
        asked = (f"tcp://127.0.0.1:{port}",)
        with subscriber("tcp://127.0.0.1:1", recovery=asked) as into:
            after_nonsense(into, threads)
            with dialled(zmq.ROUTER, into.receive, port):
                pass


def test_many_endpoints_that_are_given_up_together_all_come_back(quick):
    """Each has its own memory in libzmq, which must not be confused with that of another."""
    with (
        nonsense_servers(20, OTHER_MECHANISM) as (ports, threads),
        subscriber(*(f"tcp://127.0.0.1:{port}" for port in ports)) as into,
    ):
        after_nonsense(into, threads)
        with dialled(zmq.XPUB, into.receive, *ports):
            pass


# ---- floods -------------------------------------------------------------------------------


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


def test_a_flood_of_subscriptions_is_cut_off_and_the_others_are_served():
    security, before = Security(SecurityConfig(max_subscriptions=1000)), resident_mib()
    with Publisher(ANY_PORT, columns=["x"], security=security) as out, subscriber(out) as into:
        out.wait_for_subscribers(1, WAIT_S)
        with attacking(send_subscriptions, port_of(out), LONG_S) as attack:
            while attack.is_alive():
                out.publish("a", 0, [1.0])
                into.receive(0.0)
        assert security.counts() == {"too_many_subscriptions": 1}
        assert resident_mib() - before < 200
        out.end()
        gather(into, ended)


def test_many_topics_within_the_limit_are_not_a_flood():
    security = Security(SecurityConfig(max_subscriptions=1000))
    names = tuple(f"{n:0>190}" for n in range(333))
    with (
        Publisher(ANY_PORT, columns=["x"], security=security) as out,
        subscriber(out, streams=names) as into,
    ):
        for name in (names[0], names[-1]):
            assert out.wait_for_subscribers(1, WAIT_S, stream=name) == 1
        out.publish(names[-1], 0, [1.0])
        assert into.receive(WAIT_S)
        assert security.counts() == {}


def hangs_up(connection):
    """Read until the other side has closed the connection."""
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(64):
            pass
    return True


def test_a_topic_longer_than_any_stream_has_is_not_taken():
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
    """Each part is below every limit, and the application never sees any of them."""
    security, before = Security(), resident_mib()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        Publisher(ANY_PORT, columns=["x"]) as out,
        subscriber(f"tcp://127.0.0.1:{server.getsockname()[1]}", out, security=security) as into,
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
    """The guard counts what came since the last message, not all that came."""
    with zmq.Context() as context, context.socket(zmq.XPUB) as out:
        out.bind(ANY_PORT)
        security = Security()
        with subscriber(out.getsockopt_string(zmq.LAST_ENDPOINT), security=security) as into:
            for _ in range(3):
                out.recv()
            for _ in range(8):
                out.send_multipart([b"tick/a/", bytes(2**24)])
                gather(into, bool)
            assert into.counters.refused == into.counters.messages == 8
            assert security.counts() == {}


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
        with contextlib.suppress(ConnectionError):  # it may be cut off before it is connected
            assert hangs_up(stack.enter_context(socket.create_connection(address, WAIT_S)))
        greet(first, b"SUB")
        assert security.counts()["too_many_peers"] == 1
