"""What a block of bad ticks costs: `python -m bench.refusals [--json]`.

One stream gets blocks of 65,536 ticks, the largest that a message can have: good ones, ones in
which every other tick is NaN, and ones in which every other tick is too large. The median of five
blocks of each, in milliseconds, by turns, after one of each that is not counted.
"""

from __future__ import annotations

import json
import statistics
import sys
import time

import numpy as np

ROWS, REPEATS = 65_536, 5
KINDS = {"good": None, "every other NaN": np.nan, "every other 1e300": 1e300}


def measured(feature: str, *, learn: bool) -> dict[str, float]:
    """Return {kind of block: milliseconds} of a session with this feature."""
    from stream_lstm.config import build
    from stream_lstm.core.session import Session
    from stream_lstm.events import Ticks

    session = Session(build({"features": [feature], "learn": learn}), ["x"], lambda _: None)
    rng, first = np.random.default_rng(0), 0
    took: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(REPEATS + 1):
        for kind, bad in KINDS.items():
            x = np.exp(np.cumsum(rng.normal(size=(ROWS, 1)) / 1000, axis=0))
            if bad is not None:
                x[1::2] = bad
            t_ns = np.arange(first, first + ROWS) * 10**9
            first += ROWS
            start = time.perf_counter()
            session.push(Ticks("a", t_ns, x))
            session.catch_up()
            took[kind].append((time.perf_counter() - start) * 1e3)
    return {kind: round(statistics.median(times[1:]), 1) for kind, times in took.items()}


def main() -> None:
    figures = {
        f"{feature}{', learning' * learn}": measured(feature, learn=learn)
        for feature in ("x", "diff(x)", "log_return(x)")
        for learn in (False, True)
    }
    if "--json" in sys.argv:
        print(json.dumps(figures))
        return
    print(f"{'milliseconds a block':<26}" + "".join(f"{kind:>20}" for kind in KINDS))
    for name, row in figures.items():
        print(f"{name:<26}" + "".join(f"{row[kind]:>20.1f}" for kind in KINDS))


if __name__ == "__main__":
    main()
