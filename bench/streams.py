"""Many streams in one process, learning off: elements a second, and the memory of a stream.

`columns` gives a session arrivals of any streams in one call: here in random order, 4,000 at a
time. `runs` pushes ten ticks of one stream at a time. `learning, shared` and `learning, per
stream` are `runs` with K = 10, over as many streams as --learners says. Warm-up and
stride are ten, and every stream gets at least 21 elements: two predictions and a score. The first
ten of each open the streams and are not timed. Weights are shared but in the last of them.

`rss_per_stream` is how much the resident set grew over the whole run, `traced_per_stream` what
Python's allocator and NumPy hold at its end above what they held before the first stream,
measured in another process, bytes. They are printed from 100 streams on: below, they are noise.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .report import fresh, medians

COUNTS = "1,10,100,1000,10000,100000"
ELEMENTS = 400_000
SEED = 7
LEAST = 21
BLOCK = 4_000
STRIDE = 10
TOLD_FROM = 100
LEARNING = 10_000
LEARNERS = ("learning, shared", "learning, per stream")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be chosen on the command line."""
    parser.add_argument("--counts", type=_counts, default=COUNTS, help=f"of streams ({COUNTS})")
    parser.add_argument(
        "--arrivals", type=int, default=ELEMENTS, help=f"at least, of streams ({ELEMENTS:,})"
    )
    parser.add_argument(
        "--learners",
        type=int,
        default=LEARNING,
        help=f"streams that learn, 0 for none ({LEARNING:,})",
    )


def _counts(text: str) -> list[int]:
    counts = [int(part) for part in text.split(",") if part.strip().isdigit()]
    if len(counts) != len(text.split(",")) or not all(0 < count <= 100_000 for count in counts):
        raise argparse.ArgumentTypeError(
            f"{text!r}: counts of streams are whole numbers from 1 to 100000, with commas"
        )
    return counts


def run(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return {number of streams and subject: figures}."""
    rows: dict[str, dict[str, Any]] = {}
    for count in options.counts:
        for name in ("columns", "runs"):
            rows[f"{count:,} streams, {name}"] = measured(name, count, options)
    for name in LEARNERS if options.learners else ():
        options.arrivals = 0  # the least that each stream gets: updates are what takes the time
        rows[f"{options.learners:,} streams, {name}"] = measured(name, options.learners, options)
    return rows


def measured(name: str, count: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return the medians of one subject."""
    told = name, str(count), str(options.arrivals)
    runs = [fresh("bench.streams", *told, "timed") for _ in range(options.repeats)]
    if count < TOLD_FROM:
        return medians([{"elements_per_s": run["elements_per_s"]} for run in runs])
    return medians(runs) | fresh("bench.streams", *told, "traced")


Blocks = list[tuple[np.ndarray, np.ndarray]]


def arrivals(count: int, elements: int, *, together: bool) -> tuple[Blocks, Blocks]:
    """Return a warm-up of ten elements of every stream, and what is timed, at least `elements`.

    Both are blocks of (streams (n,), values (n, 1)). In each round of ten elements of every
    stream the order is random, of elements or, `together`, of streams.
    """
    rng = np.random.default_rng(SEED)
    rounds = max(LEAST - STRIDE, -(-elements // count)) // STRIDE + 1
    orders = [np.repeat(rng.permutation(count), STRIDE) for _ in range(1 + rounds)]
    if not together:
        orders = [rng.permutation(order) for order in orders]
    return _blocks(orders[0], rng), _blocks(np.concatenate(orders[1:]), rng)


def _blocks(order: np.ndarray, rng: np.random.Generator) -> Blocks:
    values = rng.normal(size=(len(order), 1))
    return [(order[k : k + BLOCK], values[k : k + BLOCK]) for k in range(0, len(order), BLOCK)]


class Subject(NamedTuple):
    """What takes a block, what opens the streams first, and what was compiled for it."""

    push: Callable[[np.ndarray, np.ndarray], object]
    opened: Callable[[], None]
    engine: Any


def config(**more: Any) -> Any:
    """Return the configuration of every stream."""
    from .ours import config

    return config(window=STRIDE, stride=STRIDE, **more)


def columns(count: int, engine: Any = None) -> Subject:
    """Return a session that takes arrivals in any order."""
    from stream_lstm.core.session import Arrivals, Session

    session = Session(config(), ("x",), deliver=_nothing, engine=engine)
    times = np.zeros(BLOCK, np.int64)
    places = np.zeros(count, np.int64)

    def opened() -> None:
        places[:] = [session.place(f"s{k}") for k in range(count)]

    def push(which: np.ndarray, values: np.ndarray) -> None:
        session.arrive(Arrivals(places[which], times[: len(which)], values))

    return Subject(push, opened, session.engine)


def runs(_count: int, engine: Any = None, **more: Any) -> Subject:
    """Return a session that takes ten ticks of one stream at a time."""
    from stream_lstm.core.session import Session
    from stream_lstm.events import Ticks

    session = Session(config(**more), ("x",), deliver=_nothing, engine=engine)
    times = np.zeros(STRIDE, np.int64)

    def push(which: np.ndarray, values: np.ndarray) -> None:
        for k in range(0, len(which), STRIDE):
            part = values[k : k + STRIDE]
            session.push(Ticks(f"s{which[k]}", times[: len(part)], part))

    return Subject(push, lambda: None, session.engine)


def _nothing(_outcome: object) -> None:
    """Take what came out, and keep nothing."""


SUBJECTS: dict[str, Callable[..., Subject]] = {
    "columns": columns,
    "runs": runs,
    "learning, shared": partial(runs, learn=True, bptt=STRIDE),
    "learning, per stream": partial(runs, learn=True, bptt=STRIDE, sharing="per-stream"),
}


def resident() -> int:
    """Return the bytes of this process that are in memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def one(name: str, count: int, elements: int, *, traced: bool) -> dict[str, Any]:
    """Return the figures of one run: its speed, or what its streams hold."""
    make = SUBJECTS[name]
    first, timed = arrivals(count, elements, together=name != "columns")
    engine = make(1).engine  # what is compiled is no stream's memory
    if name == "columns":
        assert engine.table.size
    gc.collect()
    if traced:
        tracemalloc.start()
    before = resident()
    subject = make(count, engine)
    subject.opened()
    for block in first:
        subject.push(*block)
    begin = time.perf_counter()
    for block in timed:
        subject.push(*block)
    seconds, grown = time.perf_counter() - begin, resident() - before
    if traced:
        gc.collect()
        return {"traced_per_stream": round(tracemalloc.get_traced_memory()[0] / count)}
    total = sum(len(which) for which, _ in timed)
    return {"elements_per_s": round(total / seconds), "rss_per_stream": round(grown / count)}


if __name__ == "__main__":
    name, count, elements, how = sys.argv[1:]
    print(json.dumps(one(name, int(count), int(elements), traced=how == "traced")))
