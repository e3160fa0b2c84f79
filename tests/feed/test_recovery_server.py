"""What a publisher answers, byte by byte, and what it refuses to do for one peer."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from stream_lstm.feed.recovery_server import (
    BURST,
    MAX_PEERS,
    REQUESTS_PER_S,
    RecoveryResponder,
    Ring,
)
from stream_lstm.feed.wire import decode_reply


class Asking:
    """A desk over a ring with ticks 1 to 20 of stream A, of which the newest 10 are held."""

    def __init__(self, *, connected=lambda _: True):
        self.now = 0.0
        self.ring = Ring(2, ticks=10)
        for k in range(1, 21):
            self.ring.append("A", k, 100 * k, [k, k / 2])
        args = self.ring, "s", ("bid", "ask")
        self.responder = RecoveryResponder(*args, clock=lambda: self.now, connected=connected)

    def ask(self, request, *, peer=b"p", encoding="msgpack"):
        reply = self.responder.answer(peer, encode_side(request, encoding))
        return None if reply is None else decode_reply(reply)


def replay(first, last, *, stream="A", session="s"):
    return ReplayRequest(stream=stream, run_id=session, from_seq=first, to_seq=last)


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


def test_a_range_is_answered_from_its_start_as_far_as_there_is_something(asking):
    assert asking.ask(replay(19, 500)).rows == 2


def test_a_long_range_is_answered_in_pieces(asking, monkeypatch):
    monkeypatch.setattr(recovery_server, "REPLY_BYTES", 3 * 24)
    asking.responder = RecoveryResponder(asking.ring, "s", ("bid", "ask"), clock=lambda: 0.0)
    block = asking.ask(replay(11, 20))
    assert (block.seq, block.rows) == (11, 3)


def test_what_is_no_longer_held_is_gone(asking):
    assert asking.ask(replay(3, 15)) == Gone(stream="A", run_id="s", oldest_seq=11)


@pytest.mark.parametrize(
    "request_", [replay(1, 5, session="other"), replay(1, 5, stream="B"), replay(21, 30)]
)
def test_what_never_was_is_gone_whole(asking, request_):
    assert asking.ask(request_).oldest_seq > request_.to_seq


def test_a_peer_has_an_allowance_that_fills_up_again(asking):
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


def test_peers_are_bounded_and_the_places_of_those_gone_are_given_on():
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
def test_what_is_no_request_has_no_answer(garbage):
    asking = Asking()
    payload = garbage if isinstance(garbage, bytes) else msgspec.json.encode(garbage)
    assert asking.responder.answer(b"p", payload) is None
    assert asking.responder.counters.refused == 1
