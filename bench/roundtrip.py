"""From a tick published to its prediction received, over ZeroMQ on loopback, in an open loop.

A sender, which is a process of its own, sends ticks at times fixed beforehand: at the pace of a
recorded order book, bursts and pauses included, at 10 and 100 times that pace, and at constant
rates up to saturation. Delays count from the INTENDED time of the tick after which a prediction
is due to that prediction's arrival, so that a pause shows in every tick queued behind it; see
`bench.schedule`. A plain ZeroMQ echo is timed at the same ticks in the same run, and `p50 / echo`
is the ratio to it. `late_p99_us` says how late the sender was itself: where it is of the size of
the delays, the machine and not the subject is at its end. `growing` is the share of runs in which
the delays grew to the end, so that their percentiles tell how long the run was; `lost` answers
never came.

`back to back` is a closed loop: the ten ticks of a stride together, timed from the tenth, and the
next ten when their prediction has come.

Sender, subject and receiver share the machine. On two cores the sender spins up to 80
microseconds before each tick and the receiver wakes with each answer, so from some thousand ticks
a second on the subject has less than a core for itself, and with `--busy-poll`, which
keeps a core to itself, the other two share one.

With `--beside` each daemon runs once more with each trouble of `bench.troubles` beside it, which
`p50 / without` and `p99 / without` compare with the run without it just before.

    python -m bench roundtrip --ways recorded,1000 --seconds 5 --hdr histograms/
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from stream_lstm.config import KEYS

from . import troubles
from .exchange import Run, exchange
from .report import medians
from .schedule import STRIDE, WINDOW, growing
from .timing import enough

SPEEDS = {"recorded": 1.0, "10x": 10.0, "100x": 100.0}
RATES = "1000,10000,30000,100000"
BACK_TO_BACK = "back to back"
STRIDES = 800
LONGEST_NS = 3_600_000_000_000
RATIOS = ("p50", "p99")
COUNTED = ("late_p99_us", "lost", "growing")


SWITCHES = (("learning", "both"), ("busy-poll", "both"), ("store", "off"), ("metrics", "off"))
"""What a daemon of it may have, and which of them are run unless it is said."""

SWITCH = {"off": (False,), "on": (True,), "both": (False, True)}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be chosen on the command line."""
    ways = ",".join([*SPEEDS, BACK_TO_BACK])
    parser.add_argument(
        "--ways", type=_ways, default=f"{ways},{RATES}", help=f"of roundtrip: {ways} or ticks/s"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="length of its runs (5)")
    for name, default in SWITCHES:
        told = f"{name} of its daemon: off, on or both ({default})"
        parser.add_argument(f"--{name}", choices=SWITCH, default=default, help=told)
    told = f"what is beside its daemon: {', '.join(troubles.NAMES)} or all (nothing)"
    parser.add_argument("--beside", type=_troubles, default=[], help=told)
    parser.add_argument("--hdr", type=_hdr, help="folder for its HDR histograms")


def _ways(text: str) -> list[str]:
    ways = [way.strip() for way in text.split(",")]
    for way in ways:
        if way not in SPEEDS and way != BACK_TO_BACK and not re.fullmatch(r"[1-9]\d*", way):
            raise argparse.ArgumentTypeError(
                f"{way!r} is not a way: use {', '.join(SPEEDS)}, {BACK_TO_BACK} or ticks a second"
            )
    return ways


def _troubles(text: str) -> list[str]:
    names = list(troubles.NAMES) if text == "all" else [name.strip() for name in text.split(",")]
    for name in names:
        if name not in troubles.NAMES:
            raise argparse.ArgumentTypeError(
                f"{name!r} is not a trouble: use {', '.join(troubles.NAMES)} or all"
            )
    return names


def _hdr(text: str) -> Path:
    if importlib.util.find_spec("hdrh") is None:
        raise argparse.ArgumentTypeError(
            "histograms need a package that is not installed: pip install hdrhistogram"
        )
    return Path(text)


def plan(way: str, seconds: float) -> dict[str, Any]:
    """Return the sender's plan for a way."""
    if way == BACK_TO_BACK:
        return {"way": "closed", "block": 1, "messages": WINDOW + STRIDES * STRIDE}
    told = {"speed": SPEEDS[way]} if way in SPEEDS else {"rate": float(way)}
    return {"way": "open", "block": 1, "seconds": seconds} | told


def subjects(options: argparse.Namespace, folder: str) -> dict[str, list[str] | None]:
    """Return {name: flags of the daemon}, None for the echo, which comes first.

    Raises SystemExit where a store is asked for and the daemon has none.
    """
    if options.store != "off" and "store" not in KEYS:
        raise SystemExit("bench: --store: this daemon keeps no store, so there is none to time")
    found: dict[str, list[str] | None] = {"echo": None}
    chosen = options.learning, options.store, options.busy_poll, options.metrics
    for learning, store, busy, metrics in itertools.product(*(SWITCH[one] for one in chosen)):
        name = f"learning {'on' if learning else 'off'}{', store' * store}{', busy poll' * busy}"
        name += ", metrics" * metrics
        flags = ["--learn"] * learning + ["--busy-poll", "0.1"] * busy
        flags += ["--metrics", "127.0.0.1:0"] * metrics
        # A store that is there is gone on with: each run has its own.
        found[name] = flags + ["--store", f"{folder}/{{}}.db"] * store
    return found


def run(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return {way, subject: figures}."""
    rows: dict[str, list[dict[str, Any]]] = {}
    seen: dict[str, list[np.ndarray]] = {}
    with tempfile.TemporaryDirectory() as folder:
        wanted, runs = subjects(options, folder), itertools.count()

        def once(way: str, name: str, flags: list[str] | None, trouble: str) -> dict[str, Any]:
            beside, number = troubles.Trouble(), next(runs)
            if trouble:
                beside = troubles.make(trouble, Path(folder) / str(number))
            own = None if flags is None else [flag.format(number) for flag in flags]
            more = None if own is None else [*own, *beside.flags]
            found = exchange(
                plan(way, options.seconds), more, beside=beside.beside, keys=beside.keys
            )
            seen.setdefault(f"{way}, {name}", []).append(found.delays)
            return figures(found)

        for _ in range(options.repeats):
            for way in options.ways:
                floor: dict[str, Any] = {}
                for name, flags in wanted.items():
                    plain: dict[str, Any] = {}
                    for trouble in ("", *(options.beside if flags is not None else ())):
                        full = f"{name}, {trouble}" if trouble else name
                        row = once(way, full, flags, trouble)
                        floor, plain = floor or row, plain or row
                        ratio = ratios(row, floor, "echo")
                        if trouble:
                            ratio |= ratios(row, plain, "without")
                        counts = {key: row[key] for key in COUNTED}
                        times = {key: row[key] for key in row if key not in COUNTED}
                        rows.setdefault(f"{way}, {full}", []).append(times | ratio | counts)
    if options.hdr is not None:
        for name, delays in seen.items():
            write_histogram(options.hdr, name, np.concatenate(delays))
    return {named(name): medians(found) for name, found in rows.items()}


def ratios(row: dict[str, Any], to: dict[str, Any], name: str) -> dict[str, float]:
    """Return what percentiles of a run are to those of another, which is called `name`."""
    return {f"{q} / {name}": round(row[q] / to[q], 3) for q in RATIOS if q in row}


def named(row: str) -> str:
    """Return the name of a row, whose way says what its number is."""
    way, rest = row.split(", ", 1)
    return f"{int(way):,} ticks/s, {rest}" if way.isdigit() else row


def figures(found: Run) -> dict[str, Any]:
    """Return the figures of a run, microseconds."""
    top = {"max": round(float(found.delays.max()) / 1e3, 2)}
    grows = len(found.intended) >= 8 and growing(found.intended, found.delays)
    late = {"late_p99_us": found.late_p99_us, "lost": found.lost, "growing": int(grows)}
    return enough(found.delays.tolist()) | top | late


def write_histogram(folder: Path, name: str, delayed: np.ndarray) -> None:
    """Write how delays (ns) are distributed, in microseconds, as HdrHistogram's plotters read."""
    from hdrh.histogram import HdrHistogram

    histogram = HdrHistogram(1, LONGEST_NS, 3)
    for delay in delayed.tolist():
        histogram.record_value(delay)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{re.sub('[^a-z0-9]+', '-', name)}.hgrm"
    with path.open("wb") as out:
        histogram.output_percentile_distribution(out, 1000.0)
