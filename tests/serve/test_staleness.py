"""A feed that has fallen silent is noticed, said and published, and so is that it is back."""

import msgspec
import pytest

from stream_lstm.events import End, Fresh, Stale
from stream_lstm.feed.predictions import PredictionSubscriber
from stream_lstm.feed.protocol import Heartbeat, encode_heartbeat, encode_ticks
from stream_lstm.feed.publisher import Publisher
from stream_lstm.feed.subscriber import Subscriber
from stream_lstm.schema import FeedConfig
from stream_lstm.serve.daemon import Daemon
from stream_lstm.serve.logs import EventLog, Staleness
from stream_lstm.serve.signals import StopSwitch

from ..engines import engine_for, settings

ANY_PORT = "tcp://127.0.0.1:*"
COLUMNS = ("x",)
WAIT_S = 30.0
LATE_S = 200.0


class Feed:
    """A feed, a subscriber to it, and what is said of its silence; `now` is their time."""

    def __init__(self, **more):
        self.now, self.said, self.over = 100.0, [], False
        self.out = Publisher(ANY_PORT, heartbeats=False, columns=COLUMNS)
        config = FeedConfig(connect=(self.out.endpoint,), columns=COLUMNS, **more)
        self.into = Subscriber(config, clock=lambda: self.now)
        self.staleness = Staleness(self.into, config, self.said.append, lambda: self.over)
        self.out.wait_for_subscribers(1, WAIT_S)

    def sends(self, frames):
        self.out._socket.send_multipart(frames)
        before = self.into.counters.messages
        while self.into.counters.messages == before:
            self.into.receive(WAIT_S)
        self.staleness.check()

    def waits(self, seconds):
        self.now += seconds
        self.staleness.check()

    def close(self):
        self.into.close()
        self.out.close()


@pytest.fixture
def feed():
    made = []

    def make(**more):
        made.append(Feed(**more))
        return made[-1]

    yield make
    for each in made:
        each.close()


BEAT = encode_heartbeat(Heartbeat("a", 1))
TICK = encode_ticks("a", 1, [1.0])


def test_three_heartbeats_missed_are_a_silence_until_anything_comes(feed):
    silent = feed(heartbeat_s=5.0)
    silent.sends(BEAT)
    silent.waits(14.9)
    assert not silent.staleness.stale
    silent.waits(0.1)
    assert silent.staleness.stale
    silent.waits(20.0)
    silent.sends(TICK)
    assert not silent.staleness.stale
    assert silent.said == [Stale(15.0), Fresh(35.0)]
    silent.waits(15.0)
    assert silent.said[2:] == [Stale(15.0)]
    assert silent.into.counters.stale == 2


def test_a_feed_that_sends_no_heartbeats_may_be_silent(feed):
    quiet = feed()
    quiet.sends(TICK)
    quiet.waits(1e6)
    assert quiet.said == []


def test_unless_it_is_said_for_how_long(feed):
    timed = feed(stale_after=60.0)
    timed.waits(59.0)
    assert timed.said == []
    timed.waits(1.0)
    assert timed.said == [Stale(60.0)], "even if nothing has ever come"
    timed.sends(BEAT)
    timed.waits(59.0)
    assert timed.said[1:] == [Fresh(60.0)], "the heartbeats do not count then"


def test_what_waits_in_the_socket_is_no_silence(feed):
    busy = feed()
    busy.sends(BEAT)
    busy.out._socket.send_multipart(TICK)
    while not busy.into.waiting:
        pass
    busy.waits(1e3)
    assert busy.said == []


def test_after_the_end_silence_is_to_be_expected(feed):
    over = feed()
    over.sends(BEAT)
    over.over = True
    over.waits(1e3)
    assert over.said == []


def test_looks_are_as_frequent_as_the_heartbeats(feed):
    assert feed(heartbeat_s=0.2).staleness.period_s == 0.2
    assert feed(heartbeat_s=9.0).staleness.period_s == 1.0
    assert feed(heartbeat_s=9.0, stale_after=0.5).staleness.period_s == 0.5


def test_lines_say_it():
    lines = []
    log = EventLog(lines.append, lambda: 0.0)
    for event in (Stale(3.04), End("a"), Fresh(12.34)):
        log(event)
    assert lines == [
        "stale: no message from the feed for 3.0 s; waiting",
        "fresh: the feed is back after 12.3 s of silence",
    ]


def test_a_daemon_publishes_it_and_lives():
    now, events = [0.0], []
    with StopSwitch() as stop, Publisher(ANY_PORT, heartbeats=False, columns=COLUMNS) as out:
        config = settings(connect=[out.endpoint], publish=ANY_PORT)
        with Daemon(
            config,
            COLUMNS,
            stop=stop,
            observers=[events.append],
            engine=engine_for(config),
            clock=lambda: now[0],
        ) as daemon:
            seen = set()

            def pass_on():
                """Let time pass at each turn of the daemon, and a tick end the silence."""
                now[0] += 0.5
                if now[0] > LATE_S:
                    stop.set()
                listener.receive(0.01)
                seen.add(listener.stale)
                if Fresh in map(type, events) and not listener.stale:
                    out.end()
                elif listener.stale:
                    out.publish("a", 2, [1.0])

            out.wait_for_subscribers(1, WAIT_S)
            out.publish("a", 1, [1.0])
            out._socket.send_multipart(encode_heartbeat(Heartbeat("a", 2, out.run_id)))
            with PredictionSubscriber(daemon.publisher.endpoint) as listener:
                daemon.publisher.wait_for_subscribers(1, WAIT_S)
                daemon.every(0.0, pass_on)
                daemon.run(until_end=True)
    assert seen == {True, False}
    assert [type(event) for event in events if isinstance(event, Stale | Fresh)][:2] == [
        Stale,
        Fresh,
    ]
    assert daemon.subscriber.counters.stale >= 1


def test_a_heartbeat_that_is_not_stale_says_nothing_of_it():
    _, payload = encode_heartbeat(Heartbeat("a", 1, "s"))
    assert "stale" not in msgspec.msgpack.decode(payload)
    _, payload = encode_heartbeat(Heartbeat("a", 1, "s", stale=True))
    assert msgspec.msgpack.decode(payload)["stale"] is True
