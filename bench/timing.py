"""How calls are timed: in turns, back to back or at a pace, and over long series."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .peers.workload import series
from .report import QUANTILES, percentiles

TURN_NS = 50_000_000
"""Calls in one process take turns of about this long, so that what the machine does meanwhile
falls on all of them."""

MOST_TURN = 500

PACED_S = 2.0
"""Seconds that the calls of a subject take at a pace, at most."""

LEAST = 100

ROUNDS_TURN = 100
"""Rounds of a turn of `rounds`."""

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
    return {name: enough(durations[warm_up:]) for name, durations in spent.items()}


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


def enough(durations: list[int]) -> dict[str, float]:
    """Return the percentiles that at least one duration lies above."""
    found = percentiles(durations)
    return {q: found[q] for q in found if len(durations) * (100 - QUANTILES[q]) >= 99.99}


def durations(call: Callable[[], object], count: int) -> list[int]:
    """Return the nanoseconds of `count` calls, after a tenth of them as warm-up."""
    clock, spent = time.perf_counter_ns, []
    for _ in range(count + count // 10):
        before = clock()
        call()
        spent.append(clock() - before)
    return spent[count // 10 :]


def rounds(
    calls: Mapping[str, Callable[[np.ndarray], int]], *, length: int, count: int
) -> dict[str, dict[str, float]]:
    """Return {name: figures} of calls for `length` elements (length, 1) that end in a p.

    A call returns the nanoseconds that its last part took, which gives the p. `us_per_element` is
    the mean over a turn, the median of all turns; the others are percentiles of the last part.
    The calls take turns; a tenth of the `count` rounds in front is warm-up.
    """
    clock, warm_up = time.perf_counter_ns, count // 10
    means: dict[str, list[float]] = {name: [] for name in calls}
    lasts: dict[str, list[int]] = {name: [] for name in calls}
    xs = series((count + warm_up) * length).reshape(-1, length, 1)
    for start in range(0, len(xs), ROUNDS_TURN):
        turn = list(xs[start : start + ROUNDS_TURN])
        for name, call in calls.items():
            begin = clock()
            last = [call(one) for one in turn]
            spent = clock() - begin
            if start >= warm_up or len(xs) <= ROUNDS_TURN:
                means[name].append(spent / (len(turn) * length * 1e3))
                lasts[name] += last
    return {
        name: {"us_per_element": round(statistics.median(means[name]), 3)}
        | {f"last_{q}": value for q, value in enough(lasts[name]).items()}
        for name in calls
    }


def at_once(call: Callable[[np.ndarray], object]) -> Callable[[np.ndarray], int]:
    """Return the call of `rounds` that steps over all elements together."""

    def whole(xs: np.ndarray) -> int:
        before = time.perf_counter_ns()
        call(xs)
        return time.perf_counter_ns() - before

    return whole


def one_by_one(call: Callable[[np.ndarray], object]) -> Callable[[np.ndarray], int]:
    """Return the call of `rounds` that steps over each element alone."""

    def singly(xs: np.ndarray) -> int:
        *silent, due = xs
        for x in silent:
            call(x)
        before = time.perf_counter_ns()
        call(due)
        return time.perf_counter_ns() - before

    return singly


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
