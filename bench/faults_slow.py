"""A subscriber that stops taking what the daemon publishes, and what the others notice of it.

Two runs of the same plan, each in fresh processes, with a second subscriber beside the one that is
timed. In the second run it is stopped with SIGSTOP as soon as it has connected, and woken at the
end. `p99_ratio` is that of the delays from an intended tick to its prediction at the first one.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .exchange import Subject, exchange
from .soak import resident
from .troubles import HEAR, line, script

RATE = 2_000.0


def slow_subscriber(repeats: int, seconds: float = 20.0) -> dict[str, Any]:
    """Return medians over so many pairs of runs."""
    plan = {"way": "open", "block": 1, "rate": RATE, "seconds": seconds}
    pairs = []
    for _ in range(repeats):
        pair = []
        for stopped in (False, True):
            beside = _Beside(stopped)
            found = exchange(plan, ["--learn"], beside=beside.entered)
            p99 = float(np.percentile(found.delays, 99)) / 1e3
            pair.append((p99, beside.grown_mb, found.lost))
        pairs.append(pair)
    healthy, slow = ([pair[k] for pair in pairs] for k in (0, 1))
    return {
        "runs": repeats,
        "seconds": seconds,
        "p99_us": round(statistics.median(one[0] for one in healthy), 1),
        "p99_us_slow": round(statistics.median(one[0] for one in slow), 1),
        "p99_ratio": round(statistics.median(b[0] / a[0] for a, b in pairs), 3),
        "grown_mb": round(statistics.median(one[1] for one in healthy), 1),
        "grown_mb_slow": round(statistics.median(one[1] for one in slow), 1),
        "lost": sum(one[2] for pair in pairs for one in pair),
    }


class _Beside:
    """A second subscriber in a process of its own, stopped or not, during a run."""

    def __init__(self, stopped: bool) -> None:
        self.grown_mb = 0.0
        self._stopped = stopped

    @contextmanager
    def entered(self, subject: Subject) -> Iterator[None]:
        with script(HEAR, subject.answers) as process:
            over = threading.Event()
            watched = process, subject.pid, over
            watch = threading.Thread(target=self._watch, args=watched, daemon=True)
            watch.start()
            try:
                yield
            finally:
                over.set()
        watch.join(5)

    def _watch(self, process: subprocess.Popen[str], pid: int, over: threading.Event) -> None:
        line(process)
        if self._stopped and not over.is_set():
            os.kill(process.pid, signal.SIGSTOP)
        first = resident(pid)
        while not over.wait(0.2):
            try:
                self.grown_mb = max(self.grown_mb, (resident(pid) - first) / 1e6)
            except OSError:
                return
