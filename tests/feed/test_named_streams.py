"""Any number of streams can be named, and all of them come again after the publisher's restart."""

import contextlib

import pytest

from stream_lstm.errors import EndpointError
from stream_lstm.events import NO_TIME, End, Prediction, Ticks
from stream_lstm.feed.predictions import PredictionPublisher, PredictionSubscriber
from stream_lstm.feed.protocol import MAX_SUBSCRIBED_NAMES
from stream_lstm.feed.publisher import Publisher
from stream_lstm.feed.subscriber import Subscriber
from stream_lstm.schema import FeedConfig

from .received import blocks

ANY_PORT = "tcp://127.0.0.1:*"
WAIT_S = 20.0


def named(count):
    return tuple(f"S{k}" for k in range(count))


def gather(receiver, done):
    events = []
    while not done(events):
        came = receiver.receive(WAIT_S)
        assert came, f"nothing more came after {len(events)} events"
        events += blocks(came)
    return events


def join(out, into, stream):
    """Wait for a subscription; the owner of a SUB socket sends it again from its own thread."""
    for _ in range(int(WAIT_S * 20)):
        with contextlib.suppress(EndpointError):
            return out.wait_for_subscribers(1, 0.0, stream=stream)
        assert into.receive(0.05) == []
    raise AssertionError(f"no subscription to {stream}")


def round_of(out, into, names):
    """Send a tick of each stream, and of some that nobody named; return those that came."""
    assert join(out, into, names[-1]) == 1
    for name in (*names, "other", "S", f"{names[0]}0000000"):
        out.publish(name, 0, [1.0])
    out.end()
    ended = {names[-1]}
    events = gather(into, lambda events: ended <= {e.stream for e in events if type(e) is End})
    return [event.stream for event in events if isinstance(event, Ticks)]


@pytest.mark.parametrize("count", [300, MAX_SUBSCRIBED_NAMES, MAX_SUBSCRIBED_NAMES + 1, 5000])
def test_every_named_stream_comes_before_and_after_a_restart(count):
    names, endpoint = named(count), ANY_PORT
    into = None
    try:
        for life in range(2):
            with Publisher(endpoint, columns=["x"], run_id=f"s{life}") as out:
                endpoint = out.endpoint
                if into is None:
                    into = Subscriber(
                        FeedConfig(connect=(endpoint,), columns=("x",), streams=names)
                    )
                assert sorted(round_of(out, into, names)) == sorted(names)
                assert out.security.counts() == {}
        assert (into.counters.refused, into.counters.streams) == (0, count)
    finally:
        if into is not None:
            into.close()


@pytest.mark.parametrize("count", [300, 5000])
def test_predictions_of_every_named_stream_come_before_and_after_a_restart(count):
    names, endpoint = named(count), ANY_PORT
    into = None
    try:
        for life in range(2):
            with PredictionPublisher(endpoint, send_hwm=3 * count) as out:
                endpoint = out.endpoint
                into = into or PredictionSubscriber(endpoint, streams=names, receive_hwm=3 * count)
                assert join(out, into, names[-1]) == 1
                for name in (*names, "other"):
                    out.publish(Prediction(name, 1, NO_TIME, 0.5, session=f"s{life}"))
                out.end(names[-1])
                events = gather(into, lambda events: any(isinstance(e, End) for e in events))
                assert [e.stream for e in events if isinstance(e, Prediction)] == list(names)
    finally:
        if into is not None:
            into.close()
