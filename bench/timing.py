"""How calls are timed: in turns, back to back or at a pace, and over long series."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .peers.given import series
from .report import QUANTILES, percentiles

TURN_NS = 50_000_000
"""Calls in one process take turns of about this long, so that what the machine does meanwhile
falls on all of them."""

MOST_TURN = 500

PACED_S = 2.0
"""Seconds that the calls of a subject take at a pace, at most."""

LEAST = 100

BLOCK = 4096
"""Elements of a block of a long series, for every subject; a replay's pieces are as long."""

MS = 1_000_000


def ways(
    calls: Mapping[str, Callable[[np.ndarray], object]], *, gaps: Sequence[float], count: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Return {way: {name: percentiles in microseconds}}, a way for each gap in milliseconds.

    `count` calls back to back, and no more than fit into `PACED_S` at a pace; a tenth of them
    in front is warm-up.
    """
    return {way(gap): _turns(calls, gap, _count(count, gap)) for gap in gaps}


def way(gap: float) -> str:
    """Return what a gap in milliseconds is called."""
    return f"{gap:g} ms" if gap else "back to back"


def _count(count: int, gap: float) -> int:
    return min(count, max(LEAST, int(PACED_S * 1e3 / gap))) if gap else count


def _turns(
    calls: Mapping[str, Callable[[np.ndarray], object]], gap: float, count: int
) -> dict[str, dict[str, float]]:
    warm_up, gap_ns = count // 10, int(gap * MS)
    spent: dict[str, list[int]] = {name: [] for name in calls}
    xs = list(series(count + warm_up))
    turn = max(1, min(MOST_TURN, TURN_NS // max(gap_ns, 1)))
    for start in range(0, len(xs), turn):
        for name, call in calls.items():
            spent[name] += _spent(call, xs[start : start + turn], gap_ns)
    return {name: _enough(durations[warm_up:]) for name, durations in spent.items()}


def _spent(call: Callable[[np.ndarray], object], xs: list[np.ndarray], gap_ns: int) -> list[int]:
    """Return what each call took in nanoseconds, the process asleep in the gaps."""
    clock, durations = time.perf_counter_ns, []
    due = clock()
    for x in xs:
        if gap_ns:
            due += gap_ns
            time.sleep(max(0, due - clock()) / 1e9)
        before = clock()
        call(x)
        durations.append(clock() - before)
    return durations


def _enough(durations: list[int]) -> dict[str, float]:
    """Return the percentiles that at least one duration lies above."""
    found = percentiles(durations)
    return {q: found[q] for q in found if len(durations) * (100 - QUANTILES[q]) >= 99.99}


def rate(call: Callable[[np.ndarray], Any], *, elements: int) -> dict[str, float]:
    """Return elements per second of a call for blocks, a tenth of them in front as warm-up."""
    xs = series(elements)
    _over(call, xs[: max(BLOCK, elements // 10)])
    start = time.perf_counter()
    _over(call, xs)
    seconds = time.perf_counter() - start
    return {
        "elements_per_s": round(elements / seconds),
        "us_per_element": round(seconds / elements * 1e6, 4),
    }


def _over(call: Callable[[np.ndarray], Any], xs: np.ndarray) -> None:
    for start in range(0, len(xs), BLOCK):
        call(xs[start : start + BLOCK])
