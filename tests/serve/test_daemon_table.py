"""A daemon with its streams in tables gives what one with objects gives, on real sockets."""

import numpy as np

from stream_lstm.events import Prediction, Score
from stream_lstm.feed.publisher import Publisher
from stream_lstm.serve.daemon import Daemon
from stream_lstm.serve.stop import StopSwitch

from ..engines import engine_for, settings

ANY_PORT = "tcp://127.0.0.1:*"
WAIT_S = 30.0
LATE_S = 120.0
NAMES = [f"s{k}" for k in range(40)]


def served(table, *, lost=(), seed=3):
    """The events of a daemon that 40 streams are sent to, one tick a message, some of it lost."""
    rng, events = np.random.default_rng(seed), []
    with StopSwitch() as stop, Publisher(ANY_PORT, columns=("x",), session="s1") as feed:
        config = settings(connect=[feed.endpoint], table=table, stride=3)
        engine = engine_for(config)
        with Daemon(config, ("x",), stop=stop, observers=[events.append], engine=engine) as daemon:
            feed.wait_for_subscribers(1, WAIT_S)
            daemon.every(LATE_S, stop.set)
            for place in rng.integers(0, len(NAMES), 3000):
                values = rng.normal(size=(1, 1))
                feed.publish(NAMES[place], np.zeros(1, np.int64), values)
            for name in NAMES:
                feed.end(name)
            daemon.run(until_end=True)
            return events, daemon.session


def test_many_streams_in_tables_are_served_as_in_objects():
    one, two = served(table=False), served(table=True)
    kinds = (Prediction, Score)
    told = [[event for event in run if isinstance(event, kinds)] for run, _ in (one, two)]
    assert len(told[0]) > 1000
    assert told[0] == told[1]
    assert list(one[1].streams) == list(two[1].streams)
