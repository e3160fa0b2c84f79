"""kill -9 of a learning daemon at random instants, on a feed that can replay.

A publisher sends at a steady pace and answers requests for lost ticks. A daemon with a store
starts on it, is killed at a random instant (while it starts, catches up, learns or waits), and is
restarted, many times; the last one runs to the end. Then every prediction in its store is compared
with that of one session that saw the same ticks undisturbed, by identity and bit for bit, and so
is every prediction that a subscriber received.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import zmq

from stream_lstm.config import build
from stream_lstm.core.session import Session
from stream_lstm.events import Output, Prediction, Ticks
from stream_lstm.feed.publisher import Publisher
from stream_lstm.store import schema
from stream_lstm.store.reading import history

STREAM = "a"
RATE = 300.0
"""Ticks a second: a few starts later there are some thousands behind a snapshot."""

LATEST_S = 0.5
"""After it is ready, when a daemon is killed at the latest."""

EARLY = 0.25
"""Share of the kills that come while a daemon is starting."""

SETTINGS: dict[str, Any] = {
    "features": ("x",),
    "hidden": 4,
    "learn": True,
    "window": 20,
    "bptt": 10,
    "stride": 5,
}
COMMAND = "from stream_lstm.cli.main import main; main()"
PATIENCE_S = 120.0


class Feed(threading.Thread):
    """Publishes the next tick of a random series until told that it is enough.

    `values` are the ticks so far; `until(n)` ends the stream and keeps answering.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(daemon=True)
        self.values: list[float] = []
        self._rng = np.random.default_rng(seed)
        self._enough, self._over = threading.Event(), threading.Event()
        self.ticks, self.recovery = f"ipc://{folder}/ticks", f"ipc://{folder}/recovery"

    def run(self) -> None:
        with Publisher(
            self.ticks, columns=("x",), recovery=self.recovery, heartbeat_s=0.2
        ) as publisher:
            begun = time.perf_counter()
            while not self._enough.is_set():
                while len(self.values) < (time.perf_counter() - begun) * RATE:
                    self.values.append(float(self._rng.standard_normal()))
                    publisher.publish(STREAM, len(self.values), [self.values[-1]])
                time.sleep(0.5 / RATE)
            while not self._over.wait(0.2):
                publisher.end()  # again, for who was not there yet

    def end(self) -> None:
        """Send no more ticks, and say so."""
        self._enough.set()

    def close(self) -> None:
        """Stop answering."""
        self._over.set()
        self.join(10)


class Listener(threading.Thread):
    """Hears what is published; `p` of each prediction, and how many were heard with another."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(daemon=True)
        self.heard: dict[int, float] = {}
        self.differing = 0
        self._over = threading.Event()
        self._endpoint = endpoint

    def run(self) -> None:
        context: zmq.Context[Any] = zmq.Context()
        socket = context.socket(zmq.SUB)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 200)
        socket.subscribe(b"prediction/")
        socket.connect(self._endpoint)
        while not self._over.is_set():
            if socket.poll(100):
                record = msgspec.msgpack.decode(socket.recv_multipart()[1])
                known = self.heard.setdefault(record["n"], record["p"])
                self.differing += known != record["p"]
        context.destroy(linger=0)

    def close(self) -> None:
        """Stop listening."""
        self._over.set()
        self.join(10)


def kills(count: int, seed: int = 0) -> dict[str, Any]:
    """Kill so many daemons; return figures, of which `differing` and `lost` must be 0."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="sl") as name:
        folder = Path(name)
        feed, listener = Feed(folder, seed), Listener(f"ipc://{folder}/out")
        feed.start()
        listener.start()
        early, startup = 0, 8.0
        try:
            for _ in range(count):
                process, begun = start(folder, feed), time.perf_counter()
                if chance.random() < EARLY:
                    early += 1
                    wait(process, chance.uniform(0.2, startup))
                else:
                    until_ready(process)
                    startup = time.perf_counter() - begun
                    wait(process, chance.uniform(0.0, LATEST_S))
                kill(process)
            process = start(folder, feed)
            until_ready(process)
            feed.end()
            out, _ = process.communicate(timeout=PATIENCE_S)
        finally:
            feed.close()
            listener.close()
        told = msgspec.json.decode(out)
        return {
            "kills": count,
            "while_starting": early,
            "ticks": len(feed.values),
            "recovered": told["feed"]["recovered"],
            "snapshots_set_aside": told["store"]["snapshots_set_aside"],
            **compared(folder / "s.db", feed.values, listener),
        }


def compared(store: Path, values: list[float], listener: Listener) -> dict[str, int]:
    """Compare what is stored, and what was heard, with one uninterrupted session."""
    connection = schema.connect_reader(store)
    stored: dict[int, float] = {}
    for made, _ in history(connection):
        stored |= zip(made["n"].tolist(), made["p"].tolist(), strict=True)
    connection.close()
    expected = uninterrupted(values)
    return {
        "predictions": len(expected),
        "differing": sum(stored[n] != p for n, p in expected.items() if n in stored),
        "lost": len(expected.keys() - stored.keys()),
        "surplus": len(stored.keys() - expected.keys()),
        "heard": len(listener.heard),
        "heard_differing": listener.differing
        + sum(expected.get(n) != p for n, p in listener.heard.items()),
    }


def uninterrupted(values: list[float]) -> dict[int, float]:
    """Return n and p of each prediction of a session that saw all ticks in one block."""
    made: dict[int, float] = {}

    def take(event: Output) -> None:
        if isinstance(event, Prediction):
            made[event.n] = event.p

    session = Session(build(SETTINGS), ("x",), take)
    times = np.arange(1, len(values) + 1, dtype=np.int64)
    session.push(Ticks(STREAM, times, np.array(values)[:, None], "s", 1))
    return made


def start(folder: Path, feed: Feed) -> subprocess.Popen[str]:
    """Start a daemon on the feed and the store."""
    flags = {
        "connect": feed.ticks,
        "recovery": feed.recovery,
        "publish": f"ipc://{folder}/out",
        "store": folder / "s.db",
        "snapshot-every": 500,
        "columns": "x",
        "feature": "x",
        "compile-cache": folder / "cache",
        "window": SETTINGS["window"],
        "bptt": SETTINGS["bptt"],
        "stride": SETTINGS["stride"],
        "hidden": SETTINGS["hidden"],
    }
    line = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, "run", *line, "--learn", "--until-end", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={key: value for key, value in os.environ.items() if key != "STREAM_LSTM_STORE"},
    )


def until_ready(process: subprocess.Popen[str]) -> None:
    """Wait for the line that says so."""
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("ready:"):
            return
    raise SystemExit(f"bench: a daemon ended with {process.wait()} before it was ready")


def wait(process: subprocess.Popen[str], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return
    assert process.stderr is not None
    raise SystemExit(f"bench: a daemon ended by itself: {process.stderr.read()[-500:]}")


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()
