"""A daemon with its monitor on real sockets, and what it says after a feed full of mistakes."""

from __future__ import annotations

import contextlib
import http.client
from contextlib import ExitStack

import msgspec
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from stream_lstm.config import ServeConfig, StoreConfig
from stream_lstm.events import Label
from stream_lstm.feed.protocol import Heartbeat, encode_heartbeat, encode_label, encode_ticks
from stream_lstm.feed.publisher import Publisher
from stream_lstm.serve.daemon import Daemon
from stream_lstm.serve.monitor import Monitor
from stream_lstm.serve.signals import StopSwitch
from stream_lstm.store.reading import Setup
from stream_lstm.store.store import Store

from ..engines import engine_for, settings

ANY_PORT = "tcp://127.0.0.1:*"
COLUMNS = ("x",)
WAIT_S = 30.0
LATE_S = 20.0


def series(n, seed=3):
    return np.random.default_rng(seed).normal(size=(n, 1))


def asked(address, path, **headers):
    """What a page answers: its status, its kind and its body."""
    with contextlib.closing(http.client.HTTPConnection(address, timeout=WAIT_S)) as connection:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.getheader("Content-Type"), answer.read().decode()


class Monitored:
    """A daemon that is watched; a context manager, within which `publisher` can be heard.

    path: of a store, if there is to be one. clock: of the monitor's health. more: endpoints that
    it is connected to besides the publisher's.
    """

    def __init__(self, *, path=None, clock=None, streams=(), more=(), **values):
        self.stack = ExitStack()
        enter = self.stack.enter_context
        self.events, self.sent, self.streams = [], {}, streams
        serve = ServeConfig(metrics="127.0.0.1:0")
        self.monitor = enter(Monitor(serve, **({} if clock is None else {"clock": clock})))
        self.stop = enter(StopSwitch())
        self.publisher = enter(Publisher(ANY_PORT, heartbeats=False, columns=COLUMNS, run_id="s1"))
        config = settings(
            connect=[self.publisher.endpoint, *more],
            **({"publish": ANY_PORT, "streams": list(streams)} | values),
        )
        self.store = None
        if path is not None:
            options = StoreConfig(commit_ms=10)
            self.store = enter(
                Store(path, Setup(config, COLUMNS), options, command="run", blocking=False)
            )
        self.daemon = enter(
            Daemon(
                config,
                COLUMNS,
                stop=self.stop,
                observers=[self.events.append],
                store=self.store,
                engine=engine_for(config),
            )
        )
        self.publisher.wait_for_subscribers(1, WAIT_S)
        self.daemon.every(LATE_S, self.stop.set)
        self.monitor.attach(self.daemon)

    def send(self, topic, payload):
        """Send any bytes as a message of the feed."""
        self.publisher._socket.send_multipart([topic, payload])

    def ticks(self, values, first, stream="a"):
        """Send ticks as those numbered from `first`."""
        times = np.arange(first, first + len(values)) * 10**9
        frames = encode_ticks(stream, times, values, run_id="s1", seq=first)
        self.publisher._socket.send_multipart(frames)
        self.sent[stream] = first + len(values)

    def label(self, n, y, stream="a"):
        self.publisher._socket.send_multipart(encode_label(Label(stream, n, y)))

    def run(self):
        """Serve until the feed ends, which it does now."""
        for stream, due in {**dict.fromkeys(self.streams, 1), **self.sent}.items():
            end = Heartbeat(stream, due, "s1", end=True)
            self.publisher._socket.send_multipart(encode_heartbeat(end))
        self.publisher.end()
        self.daemon.run(until_end=True)

    def page(self, path, **headers):
        return asked(self.monitor.address, path, **headers)

    def verdict(self, path):
        status, _, body = self.page(path)
        return status, msgspec.json.decode(body)

    def families(self):
        return list(text_string_to_metric_families(self.page("/metrics")[2]))

    def samples(self):
        """{name, or name of a metric with its label: value} of all but the buckets."""
        out = {}
        for family in self.families():
            for sample in family.samples:
                if "le" not in sample.labels:
                    out[(sample.name, *sample.labels.values())] = sample.value
        return out

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stack.close()
