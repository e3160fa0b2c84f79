"""A daemon on real sockets, with its feed in the same thread, and a store and pages if asked.

What the feed publishes waits in the sockets until the daemon runs, or a task of the daemon's own
loop publishes it, a tick at a time.
"""

from __future__ import annotations

import contextlib
import http.client
from contextlib import ExitStack

import msgspec
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from stream_lstm.config import ServeConfig, StoreConfig
from stream_lstm.core.replay import Digest
from stream_lstm.core.session import Session
from stream_lstm.core.table import N
from stream_lstm.events import Label, Prediction, Ticks
from stream_lstm.feed.protocol import Heartbeat, encode_heartbeat, encode_label, encode_ticks
from stream_lstm.feed.publisher import Publisher
from stream_lstm.serve.daemon import Daemon
from stream_lstm.serve.monitor import Monitor
from stream_lstm.serve.signals import StopSwitch
from stream_lstm.store.reading import Setup
from stream_lstm.store.store import Store

from ..engines import engine_for, settings
from ..store.stores import COLUMNS, of

ANY_PORT = "tcp://127.0.0.1:*"
WAIT_S = 30.0
LATE_S = 120.0


class Clock:
    """A clock that advances by `step` seconds at each reading."""

    def __init__(self, now=0.0):
        self.now, self.step = now, 0.0

    def __call__(self):
        self.now += self.step
        return self.now


def get(address, path, **headers):
    """Return the status, the kind and the body of a page."""
    with contextlib.closing(http.client.HTTPConnection(address, timeout=WAIT_S)) as connection:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.getheader("Content-Type"), answer.read().decode()


def feed_of(run_id="s1", bind=ANY_PORT, **more):
    return Publisher(bind, heartbeats=False, columns=COLUMNS, run_id=run_id, **more)


def digest(events):
    total = Digest()
    for prediction in of(Prediction, events):
        total.add(prediction)
    return total.hexdigest()


def direct(config, values, stream="a"):
    """Return the events of a session that takes `values` as one block."""
    events = []
    session = Session(config, COLUMNS, events.append, engine=engine_for(config))
    session.push(Ticks(stream, np.zeros(len(values), np.int64), values))
    session.settle()
    return events


class Live:
    """A daemon, its feed and the events that its observers receive; a context manager.

    feed: made here unless given. connect: further endpoints. store: path of one. pages: whether
    there is a monitor; health_clock: its clock. The other settings are the configuration's.
    """

    def __init__(
        self,
        *,
        feed=None,
        run_id="s1",
        connect=(),
        clock=None,
        observers=(),
        store=None,
        options=None,
        members=None,
        republish=False,
        pages=False,
        health_clock=None,
        **values,
    ):
        self.events, self.sent = [], {}
        with ExitStack() as stack:
            enter = stack.enter_context
            self.monitor = None
            if pages:
                more = {} if health_clock is None else {"clock": health_clock}
                self.monitor = enter(Monitor(ServeConfig(metrics="127.0.0.1:0"), **more))
            self.stop = enter(StopSwitch())
            self.feed = feed or enter(feed_of(run_id))
            self.config = config = settings(connect=[self.feed.endpoint, *connect], **values)
            self.store = None
            if store is not None:
                setup = Setup(config, COLUMNS, members=members)
                options = options or StoreConfig(commit_ms=10)
                self.store = enter(Store(store, setup, options, command="run", blocking=False))
            more = {} if clock is None else {"clock": clock}
            self.daemon = enter(
                Daemon(
                    config,
                    COLUMNS,
                    stop=self.stop,
                    observers=[self.events.append, *observers],
                    store=self.store,
                    republish=republish,
                    members=members,
                    engine=engine_for(config, len(config.stream.features), members),
                    **more,
                )
            )
            self.feed.wait_for_subscribers(1, WAIT_S)
            # what a test waits for may never come; then it fails and does not hang
            self.daemon.every(LATE_S, self.stop.set)
            if self.monitor is not None:
                self.monitor.attach(self.daemon)
            self._stack = stack.pop_all()

    # ---- the feed ---------------------------------------------------------------------

    def send(self, *frames):
        """Send any bytes as a message of the feed."""
        self.feed._socket.send_multipart(frames)

    def ticks(self, values, first=1, stream="a", run_id=None):
        """Send ticks with the numbers from `first`."""
        times = np.arange(first, first + len(values)) * 10**9
        run_id = run_id or self.feed.run_id
        self.send(*encode_ticks(stream, times, values, run_id=run_id, seq=first))
        self.sent[stream] = first + len(values)

    def label(self, n, y, stream="a"):
        self.send(*encode_label(Label(stream, n, y)))

    def end(self, stream, seq, run_id="s1"):
        self.send(*encode_heartbeat(Heartbeat(stream, seq, run_id, end=True)))

    # ---- the daemon -------------------------------------------------------------------

    def stream(self, name="a"):
        return self.daemon.session.streams[name]

    def elements(self, name="a"):
        """Return how many elements a stream has, without stepping over what waits."""
        table = self.daemon.session.table
        return int(table.view[table.places[name], N]) if name in table.places else 0

    def of(self, kind):
        return of(kind, self.events)

    def each_turn(self, *work, last=lambda: None):
        """Call one of `work` in each turn of the loop, and then `last` in every further one."""
        steps = iter(work)

        def step():
            next(steps, last)()

        self.daemon.every(0.0, step)

    def until(self, reached):
        """Serve until `reached()`."""
        self.daemon.every(0.0, lambda: reached() and self.stop.set())
        self.daemon.run()
        assert reached(), "it did not happen in time"

    def finish(self):
        """End the feed, and serve until its end."""
        for stream, seq in self.sent.items():
            self.end(stream, seq)
        self.feed.end()
        self.daemon.run(until_end=True)

    # ---- the pages --------------------------------------------------------------------

    def page(self, path, **headers):
        return get(self.monitor.address, path, **headers)

    def health(self, path):
        status, _, body = self.page(path)
        return status, msgspec.json.decode(body)

    def families(self):
        return list(text_string_to_metric_families(self.page("/metrics")[2]))

    def samples(self):
        """Return {(name of a metric, *values of its labels): value} of all but the buckets."""
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in self.families()
            for sample in family.samples
            if "le" not in sample.labels
        }

    def close(self):
        self._stack.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
