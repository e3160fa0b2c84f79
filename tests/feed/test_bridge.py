"""Any source becomes a feed: ticks in order, with numbers, heartbeats and an end."""

import asyncio

import numpy as np
import pytest

from stream_lstm.errors import StreamLSTMError
from stream_lstm.events import End, SessionStart, Ticks
from stream_lstm.feed.bridge import SourceTick, bridge
from stream_lstm.feed.publisher import Publisher

from .received import ANY_PORT, WAIT_S, gather, of, subscriber


@pytest.fixture
def publisher():
    with Publisher(ANY_PORT, columns=("bid", "ask"), heartbeat_s=0.01) as publisher:
        yield publisher


@pytest.fixture
def into(publisher):
    with subscriber(publisher, columns=("bid", "ask")) as into:
        publisher.wait_for_subscribers(1, WAIT_S)
        yield into


async def counted(count):
    """The simplest source: a generator."""
    for k in range(count):
        await asyncio.sleep(0)
        yield SourceTick("ab"[k % 2], k, (float(k), k + 0.5))


def test_a_generator_is_a_feed(publisher, into):
    assert asyncio.run(bridge(counted(100), publisher)) == 100
    events = gather(into, lambda events: {e.stream for e in of(End, events)} == {"a", "b"})
    assert {type(event) for event in events} == {SessionStart, Ticks, End}
    found = [e for e in of(Ticks, events) if e.stream == "b"]
    np.testing.assert_array_equal(np.concatenate([b.t_ns for b in found]), range(1, 100, 2))
    values = np.concatenate([b.values for b in found])
    np.testing.assert_array_equal(values[:, 1], np.arange(1, 100, 2) + 0.5)
    assert found[0].seq == 1


def test_heartbeats_are_sent_while_nothing_comes(publisher, into):
    async def slow():
        yield SourceTick("a", 1, (1.0, 2.0))
        while not into.counters.heartbeats:
            into.receive(0.0)
            await asyncio.sleep(0.001)

    assert asyncio.run(bridge(slow(), publisher)) == 1


def test_a_disconnected_source_has_no_heartbeats():
    class Source:
        connected = True

        async def __aiter__(self):
            for self.connected in (True, False, True, False):
                yield SourceTick("a", 1, (1.0, 2.0))
                sent.append(out.heartbeat())

    sent = []
    with Publisher(ANY_PORT, columns=("bid", "ask"), heartbeats=False, heartbeat_s=0.0) as out:
        assert asyncio.run(bridge(Source(), out)) == 4
        assert sent == [True, False, True, False]
        assert out.heartbeat(), "the source is gone, and the publisher is its owner's again"


def test_an_error_of_the_source_passes_through_and_is_not_an_end(publisher, into):
    async def broken():
        yield SourceTick("a", 1, (1.0, 2.0))
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError, match="gone"):
        asyncio.run(bridge(broken(), publisher))
    publisher.publish("a", 2, (1.0, 2.0))
    assert not of(End, gather(into, lambda _: into.counters.ticks == 2))


@pytest.mark.parametrize(
    ("tick", "words"),
    [
        (("a", 1, (1.0, 2.0)), "tick 1 of the source is not a SourceTick, but tuple"),
        (SourceTick("a", 1.5e18, (1.0, 2.0)), r"tick 1 .* 'a': the time 1\.5e\+18 is not a whole"),
        (SourceTick("a", 2**63, (1.0, 2.0)), "outside the years 1677 to 2262"),
        (SourceTick("a", 1, (1.0, "x")), "tick 1 .* 'a': its values are not numbers: .*'x'"),
        (SourceTick("a", 1, (1.0, [2.0])), "its values are not numbers"),
        (SourceTick("a", 1, None), "'a': values of shape .* do not fit the columns"),
    ],
)
def test_an_invalid_tick_is_named_with_its_position(publisher, tick, words):
    async def source():
        yield SourceTick("a", np.int64(0), [1, 2])
        yield tick

    with pytest.raises(StreamLSTMError, match=words):
        asyncio.run(bridge(source(), publisher))
