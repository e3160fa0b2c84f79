"""From a tick published to its prediction received, over ZeroMQ on loopback.

A driver sends the same ready-made records to a plain echo and to the daemon, each a fresh
process, one after the other in each repeat, and takes the time from sending the tick after which
a prediction is due to receiving what it caused. Three ways of sending:

* recorded: at the pace of the file, bursts and pauses included. Latency counts from the INTENDED
  time of sending, so that a stall shows in every tick queued behind it. The echo is timed at the
  same ticks.
* steady: the same, at one tick each millisecond.
* burst: back to back. The ten ticks of a stride at once, timed from the tenth, and the next ten
  when it is answered. With learning on, the update after the first tick stands before the tenth.

The driver sleeps until shortly before it sends, and an answer wakes it, so that it takes no core
from its subject.
"""

from __future__ import annotations

import argparse
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import zmq

from .report import medians, percentiles

STREAM, WINDOW, STRIDE = "bench", 100, 10
TICKS, WARM_UP = 8_000, 2_000
SEED = 11
PATIENCE_MS = 20_000
STEADY_NS = 1_000_000
SPIN_NS = 80_000

STORE = "STORE"
"""Stands for a file that is new at each start."""

SUBJECTS: dict[str, list[str]] = {
    "echo": [],
    "learning off": [],
    "learning on": ["--learn"],
    "learning on, store": ["--learn", "--store", STORE],
    "learning on, busy poll": ["--learn", "--busy-poll", "0.1"],
}

TICK_PORT, ANSWER_PORT = 5755, 5756


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be chosen on the command line."""
    parser.add_argument("--seconds", type=float, default=20.0, help="length of a paced run (20)")


def run(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return {way, subject: figures}."""
    times, values = series()
    rows: dict[str, list[dict[str, Any]]] = {}
    for _ in range(arguments.repeats):
        for way in ("recorded", "steady", "burst"):
            floor: dict[str, float] = {}
            for subject in SUBJECTS:
                with started(subject) as driver:
                    ns = driver.drive(way, times, values, arguments.seconds)
                figures = percentiles(ns)
                if subject == "echo":
                    floor = figures
                ratio = {f"{q} / echo": round(figures[q] / floor[q], 3) for q in ("p50", "p99")}
                rows.setdefault(f"{way}, {subject}", []).append(figures | ratio)
    return {name: medians(runs) for name, runs in rows.items()}


def series() -> tuple[np.ndarray, np.ndarray]:
    """Return times (ns) and quotes: real ones where they are, else bursts of a random walk."""
    folder = Path(os.environ.get("STREAM_LSTM_DATA", Path(__file__).parents[2] / "shared/data"))
    path = folder / "btcusdt_book.csv.gz"
    if path.exists():
        from pyarrow import csv

        read = csv.read_csv(path)
        columns = [read[name].to_numpy() for name in ("bid_px", "ask_px")]
        return read["time_ns"].to_numpy(), np.stack(columns, axis=1).astype(np.float64)
    rng = np.random.default_rng(SEED)
    mid = 100.0 * np.exp(np.cumsum(rng.normal(size=60_000)) * 1e-5)
    gaps = rng.lognormal(mean=-7.0, sigma=2.0, size=60_000)
    return (np.cumsum(gaps) * 1e9).astype(np.int64), np.stack([mid - 0.01, mid + 0.01], axis=1)


@contextmanager
def started(subject: str) -> Iterator[Driver]:
    """Start a subject in a process of its own, and end it afterwards."""
    ticks, answers = (f"tcp://127.0.0.1:{port}" for port in (TICK_PORT, ANSWER_PORT))
    folder = tempfile.TemporaryDirectory()
    if subject == "echo":
        command = [sys.executable, "-m", "bench.echo", ticks, answers]
    else:
        command = [str(Path(sys.executable).with_name("stream-lstm")), "run"]
        command += ["--connect", ticks, "--publish", answers, "--columns", "bid,ask"]
        command += ["--feature", "log_return(mid(bid, ask))", "--until-end", "--json"]
        file = str(Path(folder.name) / "s.db")
        command += [file if word == STORE else word for word in SUBJECTS[subject]]
    context = zmq.Context()
    driver = Driver(context, ticks, answers, each=subject == "echo")
    pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, text=True, **pipes)
    try:
        assert process.stderr is not None
        while "ready" not in (line := process.stderr.readline()):
            if not line:
                raise RuntimeError(f"{subject} ended before it was ready")
        driver.connect()
        yield driver
        driver.end()
        process.wait(10)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
        context.destroy(linger=0)
        folder.cleanup()


class Driver:
    """Sends ticks and takes answers; `each` where every tick is answered."""

    def __init__(self, context: zmq.Context[Any], ticks: str, answers: str, *, each: bool) -> None:
        self.each = each
        self.out, self.back = context.socket(zmq.XPUB), context.socket(zmq.SUB)
        self.out.bind(ticks)
        self.answers = answers
        self.sent = 0

    def connect(self) -> None:
        """Wait until the subject listens, and until its answers reach us."""
        if not self.out.poll(PATIENCE_MS):
            raise RuntimeError("the subject did not subscribe")
        self.back.subscribe(b"tick/" if self.each else b"prediction/")
        monitor = self.back.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self.back.connect(self.answers)
        if not monitor.poll(PATIENCE_MS):
            raise RuntimeError("the subject does not answer")
        self.back.disable_monitor()
        # Our subscription travels to the subject behind the handshake; a moment is enough for it.
        self.back.poll(200)

    def end(self) -> None:
        """Tell the subject that nothing more will come."""
        end = {"v": 1, "session": "bench", "seq": self.sent + 1, "t_ns": 0, "end": True}
        topic = b"tick/end/" if self.each else f"heartbeat/{STREAM}/".encode()
        self.out.send_multipart([topic, b"" if self.each else msgspec.msgpack.encode(end)])

    def send(self, t_ns: int, values: list[float]) -> None:
        """Send one tick."""
        self.sent += 1
        record = {"v": 1, "session": "bench", "seq": self.sent, "t_ns": t_ns, "values": values}
        self.out.send_multipart([f"tick/{STREAM}/".encode(), msgspec.msgpack.encode(record)])

    def due(self) -> bool:
        """Return whether the tick just sent is answered by the daemon: element n is tick n + 1."""
        return self.sent > WINDOW and (self.sent - 1 - WINDOW) % STRIDE == 0

    def answer(self) -> tuple[int, int]:
        """Return (number of the tick answered, when) of the next answer."""
        if not self.back.poll(PATIENCE_MS):
            raise RuntimeError(f"no answer came after tick {self.sent}")
        _, payload = self.back.recv_multipart()
        now = time.perf_counter_ns()
        record = msgspec.msgpack.decode(payload)
        return (record["seq"] if self.each else record["n"] + 1), now

    def drive(self, way: str, times: np.ndarray, values: np.ndarray, seconds: float) -> list[int]:
        """Send ticks in a way; return latencies (ns) at the ticks after which one is due."""
        rows = values.tolist()
        if way == "burst":
            return self.burst(times, rows)
        if way == "steady":
            times = np.arange(len(times), dtype=np.int64) * STEADY_NS
        return self.paced(times, rows, seconds)

    def paced(self, times: np.ndarray, rows: list[list[float]], seconds: float) -> list[int]:
        count = int(np.searchsorted(times - times[0], seconds * 1e9))
        warm_up = WINDOW * 2
        intended: dict[int, int] = {}
        latencies: list[int] = []
        begin = time.perf_counter_ns()
        for k in range(count):
            at = begin + int(times[k] - times[0])
            self.wait_until(at, lambda: self.take(intended, latencies, warm_up))
            self.send(int(times[k]), rows[k])
            if self.due():
                intended[self.sent] = at
        while intended:
            self.take(intended, latencies, warm_up)
        return latencies

    def wait_until(self, at: int, take: Callable[[], None]) -> None:
        """Wait for a time (ns), taking answers as they come; only the end of the wait is spun."""
        descriptor = self.back.getsockopt(zmq.FD)
        while True:
            while self.back.getsockopt(zmq.EVENTS) & zmq.POLLIN:
                take()
            left = at - time.perf_counter_ns()
            if left <= 0:
                return
            if left > SPIN_NS:
                select.select([descriptor], [], [], (left - SPIN_NS) / 1e9)

    def take(self, intended: dict[int, int], latencies: list[int], warm_up: int) -> None:
        number, now = self.answer()
        at = intended.pop(number, None)
        if at is not None and number > warm_up:
            latencies.append(now - at)

    def burst(self, times: np.ndarray, rows: list[list[float]]) -> list[int]:
        latencies: list[int] = []
        for k in range(TICKS):
            begin = time.perf_counter_ns()
            self.send(int(times[k]), rows[k])
            if not self.due():
                continue
            number = 0
            while number != self.sent:
                number, now = self.answer()
            if k > WARM_UP:
                latencies.append(now - begin)
        return latencies
