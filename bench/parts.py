"""Where the time of a tick goes: the call into JAX, the network, features, scores, the rest.

The call is that of an empty jitted function with the same inputs, the network what ours costs
above it. Features (the check of a tick, and its part of making elements) and scores (one label)
are timed alone, in a process of their own; the rest is what else a session does: it is what is
left, so it carries the noise of all the others. All are microseconds, with hot caches.
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


def features_call(feature: str, columns: tuple[str, ...], stride: int) -> Callable[[int], object]:
    """Return the call that checks one tick, and makes the elements of a stride with its last."""
    from stream_lstm.core.features import FeatureSet

    features = FeatureSet((feature,), columns)
    lag, times = features.lag, np.zeros(CALLS + features.lag, np.int64)
    values = np.random.default_rng(0).uniform(1.0, 1.1, (len(times), len(columns)))
    v: Any = memoryview(values).cast("B").cast("d")
    t: Any = memoryview(times)

    def call(k: int) -> object:
        good = features.good(v, t, lag + k)
        if (k + 1) % stride:
            return good
        part = slice(k + 1 - stride, lag + k + 1)
        return features.evaluate(times[part], values[part])

    return call


def scores_call() -> Callable[[int], object]:
    """Return the call that scores one label."""
    from stream_lstm.core.scores import Scores

    scores = Scores(1000)
    labels = np.random.default_rng(0).integers(0, 2, CALLS).tolist()

    def call(k: int) -> object:
        base, last = scores.plain(0, labels[k - 1])
        return scores.add(0, labels[k], labels[k - 1], 0.51, base, last)

    return call


TIMED = ("features", "scores")


def main(columns: str) -> None:
    quotes = columns == "quotes"
    made = features_call(FEATURE, COLUMNS, 1) if quotes else features_call("x", ("x",), 10)
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
