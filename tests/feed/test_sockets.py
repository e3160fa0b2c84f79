"""Sockets of a feed as publishers use them: bound, pulled, by paths, IPv6 and raw filters."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import zmq

from stream_lstm.errors import ConfigurationError, EndpointError
from stream_lstm.events import Gap, Refusal, SessionStart, Ticks
from stream_lstm.feed.security import Security, make_keys, read_public
from stream_lstm.feed.subscriber import Subscriber, raw_bytes
from stream_lstm.schema import FeedConfig, SecurityConfig

from .received import ANY_PORT, WAIT_S, blocks, gather, of

BOUND = {("sub", True): zmq.PUB, ("sub", False): zmq.XPUB, ("pull", True): zmq.PUSH,
         ("pull", False): zmq.PUSH}  # fmt: skip
COUNT = 20


def quote(k: int) -> bytes:
    return json.dumps({"x": k}).encode()


def xs(events: list[Any]) -> list[float]:
    return [x for ticks in of(Ticks, blocks(events)) for x in ticks.values[:, 0].tolist()]


@contextlib.contextmanager
def feed(security: Security | None = None, **form: Any) -> Iterator[Subscriber]:
    config = FeedConfig(**{"payload": "json", "columns": ("x",)} | form)
    with Subscriber(config, security=security) as into:
        yield into


@contextlib.contextmanager
def peer(kind: int) -> Iterator[zmq.Socket[Any]]:
    with zmq.Context() as context, context.socket(kind) as out:
        out.linger = 0
        yield out


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as found:
            found.bind(("::1", 0))
    except OSError:
        return False
    return True


ADDRESSES = [
    "tcp",
    pytest.param("ipv6", marks=pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")),
    pytest.param("ipc", marks=pytest.mark.skipif(not zmq.has("ipc"), reason="no ipc here")),
]


def exchange(into: Subscriber, out: zmq.Socket[Any]) -> list[float]:
    """Send numbers until all of a last stretch have come; return them.

    A publisher that connects does not learn when its peer has subscribed.
    """
    numbers = itertools.count()
    seen: list[float] = []
    while len(seen) < COUNT:
        k = next(numbers)
        out.send_multipart([b"S", quote(k)])
        seen += xs(into.receive(0.05))
    assert seen == list(range(int(seen[0]), int(seen[0]) + len(seen)))
    return seen


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("kind", ["sub", "pull"])
@pytest.mark.parametrize("binds", [True, False])
def test_a_feed_binds_or_connects(tmp_path, address: str, kind: str, binds: bool) -> None:
    free = {"tcp": ANY_PORT, "ipv6": "tcp://[::1]:*", "ipc": f"ipc://{tmp_path}/feed"}[address]
    with peer(BOUND[kind, binds]) as out:
        out.setsockopt(zmq.IPV6, address == "ipv6")
        if binds:
            with feed(bind_feed=(free,), feed_socket=kind) as into:
                out.connect(into.endpoints[0])
                exchange(into, out)
            with feed(bind_feed=(free,)):
                """The path is free again."""
        else:
            out.bind(free)
            connect = out.getsockopt_string(zmq.LAST_ENDPOINT)
            with feed(connect=(connect,), feed_socket=kind) as into:
                if kind == "sub":
                    assert out.poll(int(WAIT_S * 1000))
                assert exchange(into, out)[0] == 0


def test_several_publishers_connect_to_one_bound_socket() -> None:
    with (
        feed(bind_feed=(ANY_PORT,), feed_socket="pull") as into,
        peer(zmq.PUSH) as a,
        peer(zmq.PUSH) as b,
    ):
        for k, out in enumerate((a, b)):
            out.connect(into.endpoints[0])
            out.send_multipart([f"S{k}".encode(), quote(k)])
        events = gather(into, lambda events: len(xs(events)) == 2)
    assert {ticks.stream for ticks in of(Ticks, blocks(events))} == {"S0", "S1"}


def test_a_stream_of_a_bound_endpoint_is_not_taken_over_by_another() -> None:
    with peer(zmq.PUSH) as one, peer(zmq.PUSH) as other:
        other.bind(ANY_PORT)
        connect = other.getsockopt_string(zmq.LAST_ENDPOINT)
        form = {"connect": (connect,), "bind_feed": (ANY_PORT,), "feed_socket": "pull"}
        with feed(**form) as into:
            one.connect(into.endpoints[1])
            one.send_multipart([b"S", quote(1)])
            assert xs(gather(into, xs)) == [1]
            one.close()
            other.send_multipart([b"S", quote(2)])
            refused = gather(into, lambda events: of(Refusal, events))
            assert "no other endpoint may send it" in of(Refusal, refused)[0].reason


@pytest.mark.parametrize("payload", ["json", "record"])
def test_raw_filters_replace_those_of_topics(payload: str) -> None:
    with peer(zmq.XPUB) as out:
        out.bind(ANY_PORT)
        connect = out.getsockopt_string(zmq.LAST_ENDPOINT)
        wanted = ("q", r"\x00\xff", r"a\\b")
        with feed(connect=(connect,), subscribe=wanted, payload=payload):
            seen = set()
            while len(seen) < 3:
                assert out.poll(int(WAIT_S * 1000))
                seen.add(out.recv())
    assert seen == {b"\x01q", b"\x01\x00\xff", b"\x01a\\b"}


@pytest.mark.parametrize("text", ["\\", "\\x", "\\xzz", "\\n", "a\\\\\\"])
def test_an_invalid_byte_of_a_filter_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="write a byte as") as caught:
        raw_bytes(text)
    assert caught.value.key == "subscribe"


def test_a_bound_feed_admits_only_clients_on_the_list(tmp_path) -> None:
    make_keys(tmp_path / "keys")
    security = Security(SecurityConfig(curve_dir=str(tmp_path / "keys")))
    with feed(security, bind_feed=(ANY_PORT,), feed_socket="pull") as into:
        for known in (False, True):
            with peer(zmq.PUSH) as out:
                public, secret = zmq.curve_keypair()
                out.curve_publickey, out.curve_secretkey = public, secret
                out.curve_serverkey = read_public(tmp_path / "keys" / "server.key")
                if known:
                    (tmp_path / "keys" / "clients" / "one.key").write_text(_key_file(public))
                    security.reload(security.config)
                out.connect(into.endpoints[0])
                out.send_multipart([b"S", quote(int(known))])
                if known:
                    assert xs(gather(into, xs)) == [1]
                else:
                    while not security.counts().get("unknown_key"):
                        assert into.receive(0.05) == []


def _key_file(public: bytes) -> str:
    return f'metadata\ncurve\n    public-key = "{public.decode()}"\n'


def test_a_bound_feed_is_for_this_machine_without_keys() -> None:
    with pytest.raises(ConfigurationError, match="--insecure"), feed(bind_feed=("tcp://*:0",)):
        """It is not opened."""


def test_a_path_that_another_process_serves_is_refused(tmp_path) -> None:
    path = f"ipc://{tmp_path}/feed"
    with feed(bind_feed=(path,)), pytest.raises(EndpointError), feed(bind_feed=(path,)):
        """It is not opened."""


def test_a_message_of_many_frames_is_counted_whole_by_the_guard() -> None:
    """A peer with a small last frame would otherwise seem to send one message without an end."""
    form = {"frames": ("topic", "payload", "skip", "seq"), "payload": "array", "dtype": "f8"}
    with peer(zmq.PUSH) as out, feed(bind_feed=(ANY_PORT,), feed_socket="pull", **form) as into:
        out.connect(into.endpoints[0])
        before = into._inbound.taken
        message = [b"S", np.ones(1000).tobytes(), bytes(5000), (7).to_bytes(4, "little")]
        out.send_multipart(message)
        gather(into, xs)
        assert into._inbound.taken - before == sum(map(len, message))


# ---- numbers -----------------------------------------------------------------------------------


def test_numbers_of_rows_show_gaps_and_a_publisher_that_starts_over() -> None:
    with (
        peer(zmq.PUSH) as out,
        feed(bind_feed=(ANY_PORT,), feed_socket="pull", seq_field="n") as into,
    ):
        out.connect(into.endpoints[0])
        numbers = [100, 101, 104, 104, 0, 1]
        for k, n in enumerate(numbers):
            out.send_multipart([b"S", json.dumps({"x": k, "n": n}).encode()])
        events = gather(into, lambda events: 5 in xs(events))
    assert xs(events) == [0, 1, 2, 4, 5]
    (gap,) = of(Gap, events)
    assert (gap.missed, gap.seq) == (2, 105)
    assert [start.session for start in of(SessionStart, events)] == ["", "restart-1"]
    assert (into.counters.gaps, into.counters.missed, into.counters.repeats) == (1, 2, 1)


@pytest.mark.parametrize(("step", "lost"), [(1, 2), (4, 8)])
def test_numbers_of_messages_count_messages_or_rows(step: int, lost: int) -> None:
    form = {"frames": ("topic", "payload", "seq"), "payload": "array", "dtype": "f8"}
    with peer(zmq.PUSH) as out, feed(bind_feed=(ANY_PORT,), feed_socket="pull", **form) as into:
        out.connect(into.endpoints[0])
        for k in (10, 11, 14):
            frames = [b"S", np.full(4, float(k)).tobytes(), (k * step).to_bytes(4, "little")]
            out.send_multipart(frames)
        events = gather(into, lambda events: 14 in xs(events))
    assert [gap.missed for gap in of(Gap, events)] == [lost]
    assert len(xs(events)) == 12
    assert all(ticks.seq is not None for ticks in of(Ticks, blocks(events)))


def test_unfinished_rows_keep_their_gaps() -> None:
    form = {"last_per": "bar", "seq_field": "n"}
    with peer(zmq.PUSH) as out, feed(bind_feed=(ANY_PORT,), feed_socket="pull", **form) as into:
        out.connect(into.endpoints[0])
        for n, bar, x in ((1, 0, 1.0), (2, 0, 2.0), (5, 60, 3.0), (6, 120, 4.0)):
            out.send_multipart([b"S", json.dumps({"n": n, "bar": bar, "x": x}).encode()])
        events = gather(into, lambda events: len(xs(events)) == 2)
    assert xs(events) == [2.0, 3.0]
    assert [gap.missed for gap in of(Gap, events)] == [2]
    assert into.intake.declared is not None
    assert into.intake.declared.skipped == {"last_per": 2}


def test_rows_of_several_streams_in_a_message_go_to_each() -> None:
    with (
        peer(zmq.PUSH) as out,
        feed(
            bind_feed=(ANY_PORT,), feed_socket="pull", stream_field="s", where="s != 'C'"
        ) as into,
    ):
        out.connect(into.endpoints[0])
        rows = [{"s": s, "x": k} for k, s in enumerate("AABCA")]
        out.send(json.dumps(rows).encode())
        events = gather(into, lambda events: len(xs(events)) == 4)
    found = [(t.stream, t.values[:, 0].tolist()) for t in of(Ticks, blocks(events))]
    assert found == [("A", [0, 1]), ("B", [2]), ("A", [4])]
    assert into.intake.declared is not None
    assert into.intake.declared.skipped == {"where": 1}


# ---- payload = auto ----------------------------------------------------------------------------


def test_a_sparse_feed_is_judged_by_fewer_messages() -> None:
    now, said = [0.0], []
    config = FeedConfig(bind_feed=(ANY_PORT,), feed_socket="pull", payload="auto", columns=("x",))
    with peer(zmq.PUSH) as out, Subscriber(config, clock=lambda: now[0]) as into:
        into.intake.say = said.append
        out.connect(into.endpoints[0])
        for k in range(3):
            out.send_multipart([b"S", quote(k)])
        gather(into, lambda _: into.counters.messages == 3)
        assert into.intake.undecided
        now[0] = 100.0
        assert xs(into.receive(0.0)) == [0, 1, 2]
    assert not into.intake.undecided
    assert said == ["payload: JSON object; the same as --payload json --columns x"]


@pytest.mark.parametrize("columns", [("px", "size"), ("c0", "c1"), ("c1",)])
def test_positions_take_the_configured_names(columns: tuple[str, ...]) -> None:
    config = {"payload": "auto", "columns": columns, "bind_feed": (ANY_PORT,)}
    with peer(zmq.PUSH) as out, feed(feed_socket="pull", **config) as into:
        out.connect(into.endpoints[0])
        for k in range(8):
            out.send(f"EURUSD {k} {k + 100}".encode())
        events = gather(into, lambda events: len(xs(events)) == 8)
    expected = [[k, k + 100] if len(columns) == 2 else [k + 100] for k in range(8)]
    assert np.concatenate([t.values for t in of(Ticks, blocks(events))]).tolist() == expected
