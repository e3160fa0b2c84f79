"""Millions of elements through one daemon, over loopback at full speed: what grows with time.

The daemon learns and keeps a store unless told otherwise. Its memory, its file descriptors and
what it compiled are watched from outside. `slope_kb` is how much the resident memory grows with
a million elements, fitted to the samples after the first fifth, and `noise_kb` the standard error
of that; `store_mb` is the size of the store at the end.

    python -m bench soak --elements 20000000
    python -m bench soak --faults --seconds 3600 --rate 2000
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from stream_lstm.feed.publisher import Publisher

BLOCK, WAITING = 256, 50
"""Ticks of a message, and messages that may wait at either end."""

SAMPLES = 400
"""Over the whole run."""

WARM_UP = 0.2
COMMAND = "from stream_lstm.cli.main import main; main()"
COMPILED = "Finished XLA compilation"
"""What JAX logs of each compilation, where it is asked to."""

PAGE = os.sysconf("SC_PAGE_SIZE")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be chosen on the command line."""
    parser.add_argument("--elements", type=int, default=20_000_000, help="how many (20,000,000)")
    parser.add_argument("--plain", action="store_true", help="without learning and store")
    parser.add_argument("--faults", action="store_true", help="by time, with a fault every 5 s")
    parser.add_argument("--seconds", type=float, default=3600.0, help="of --faults (3600)")
    parser.add_argument("--rate", type=float, default=2000.0, help="ticks/s of --faults (2000)")


def run(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return {what ran: figures}."""
    if options.faults:
        from . import soak_faults  # it builds on this module

        return {"faults": soak_faults.soak(options.seconds, options.rate)}
    name = "plain" if options.plain else "learning, store"
    return {name: soak(options.elements, plain=options.plain)}


def soak(elements: int, *, plain: bool) -> dict[str, Any]:
    """Send so many elements through a daemon, and return figures."""
    rng = np.random.default_rng(0)
    with (
        tempfile.TemporaryDirectory() as folder,
        Publisher("tcp://127.0.0.1:*", columns=("x",), send_hwm=WAITING, linger_s=60.0) as out,
    ):
        store = Path(folder) / "s.db"
        flags = [] if plain else ["--learn", "--store", str(store)]
        with daemon(out.endpoint, flags) as (process, lines):
            out.wait_for_subscribers(1, 30.0)
            before = len([line for line in lines if COMPILED in line])
            samples, begun, next_at = [], time.perf_counter(), 0
            for sent in range(0, elements, BLOCK):
                times = np.arange(sent, sent + BLOCK, dtype=np.int64)
                out.publish("soak", times, rng.standard_normal((BLOCK, 1)))
                if sent >= next_at:
                    samples.append((sent, resident(process.pid), descriptors(process.pid)))
                    next_at += max(elements // SAMPLES, BLOCK)
            out.end()
            told = msgspec.json.decode(process.communicate()[0])
            wall_s = time.perf_counter() - begun
        size = store.stat().st_size / 1e6 if store.exists() else 0.0
    compiled = len([line for line in lines if COMPILED in line]) - before
    return {
        "elements": told["elements"],
        "elements_per_s": round(told["elements"] / wall_s),
        **growth(samples),
        "compilations": compiled,
        "refused": told["feed"]["refused"],
        "missed": told["feed"]["missed"],
        "store_mb": round(size, 1),
    }


def growth(samples: list[tuple[int, int, int]]) -> dict[str, float | int]:
    """Return how memory and descriptors went, from (elements, bytes, descriptors)."""
    kept = np.array(samples[int(WARM_UP * len(samples)) :], np.float64)
    millions, kilobytes = kept[:, 0] / 1e6, kept[:, 1] / 1e3
    (slope, _), covariance = np.polyfit(millions, kilobytes, 1, cov=True)
    return {
        "slope_kb": round(float(slope), 2),
        "noise_kb": round(float(np.sqrt(covariance[0, 0])), 2),
        "first_mb": round(float(kilobytes[0]) / 1e3, 1),
        "last_mb": round(float(kilobytes[-1]) / 1e3, 1),
        "descriptors_min": int(kept[:, 2].min()),
        "descriptors_max": int(kept[:, 2].max()),
    }


def resident(pid: int) -> int:
    """Return the resident memory of a process, bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def descriptors(pid: int) -> int:
    """Return how many file descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


@contextmanager
def daemon(connect: str, flags: list[str]) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Start a daemon and wait until it is ready; yield it and the lines of its standard error."""
    command = ["run", "--connect", connect, "--columns", "x", "--feature", "x", "--until-end"]
    # The sender is the faster one: what waits in the socket would look like growth.
    command += ["--receive-hwm", str(WAITING), "--publish", "tcp://127.0.0.1:*", "--json", *flags]
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"JAX_LOG_COMPILES": "1"},
    )
    lines: list[str] = []
    ready = threading.Event()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if re.match("ready:", line):
                ready.set()
        ready.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        ready.wait(120)
        if process.poll() is not None:
            raise SystemExit(f"bench: the daemon ended: {''.join(lines[-3:])}")
        yield process, lines
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        reader.join(5)
