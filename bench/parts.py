"""Where the time of a tick goes: the call into JAX, the network, features, scores, the rest.

The call is that of an empty jitted function with the same inputs, the network what ours costs
above it. Features (`bid` and `ask` of one tick to one element) and scores (one label) are timed
alone, in a process of their own; the rest is what else a session does: it is what is left, so it
carries the noise of all the others. All are microseconds, with hot caches.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .report import fresh

FEATURE, COLUMNS = "log_return(mid(bid, ask))", ("bid", "ask")
CALLS = 20_000
BATCH = 500


def explained(
    empty: float, ours: float, session: float, *, share: float, repeats: int, columns: str
) -> dict[str, dict[str, Any]]:
    """Return the rows that split `session`, microseconds a tick, of which `share` is scored."""
    runs = [fresh("bench.parts", columns) for _ in range(repeats)]
    features, score = (statistics.median(run[name] for run in runs) for name in TIMED)
    parts = {
        "call into JAX": empty,
        "network and scaler": ours - empty,
        "features": features,
        "scores": score * share,
        "the rest of the session": session - ours - features - score * share,
    }
    return {
        f"where it goes: {name}": {"us": round(us, 3), "of the session": round(us / session, 3)}
        for name, us in parts.items()
    }


def features_call(feature: str, columns: tuple[str, ...]) -> Callable[[int], object]:
    """Return the call that makes the element of one tick."""
    from stream_lstm.core.elements import ElementMaker, Memory

    maker, memory = ElementMaker((feature,), columns), Memory.empty(len(columns))
    times = np.zeros(CALLS, np.int64)
    values = np.random.default_rng(0).uniform(1.0, 1.1, (CALLS, len(columns)))

    def refused(_index: int, reason: str) -> None:
        raise AssertionError(reason)

    def call(k: int) -> object:
        return list(maker.make(memory, times[k : k + 1], values[k : k + 1], refused))

    return call


def scores_call() -> Callable[[int], object]:
    """Return the call that scores one label."""
    from stream_lstm.core.scoring import Scoreboard

    board = Scoreboard.empty(1000)
    labels = np.random.default_rng(0).integers(0, 2, CALLS).tolist()

    def call(k: int) -> object:
        base, last = board.base_rate_p(), board.last_label_p(labels[k - 1])
        return board.add(labels[k], labels[k - 1], 0.51, base, last)

    return call


TIMED = ("features", "scores")


def main(columns: str) -> None:
    quotes = columns == "quotes"
    made = features_call(FEATURE, COLUMNS) if quotes else features_call("x", ("x",))
    found = {}
    for name, call in zip(TIMED, (made, scores_call()), strict=True):
        batches = []
        for start in range(0, CALLS, BATCH):
            begin = time.perf_counter_ns()
            for k in range(start, start + BATCH):
                call(k)
            batches.append((time.perf_counter_ns() - begin) / BATCH / 1e3)
        found[name] = round(statistics.median(batches[len(batches) // 10 :]), 3)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
