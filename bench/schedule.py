"""When ticks are meant to be sent, and what their answers' delays are, counted from then.

The times are fixed beforehand and do not wait for answers (an open loop). Whatever stalls, the
sender, the network or the subject, delays every tick that falls into the stall, and since delays
count from the intended times, all of them show it. Counting from the actual sending instead, or
sending only once an answer is there, would hide all but one (Tene, "How NOT to measure latency",
2013, calls it coordinated omission).

Ticks are numbered from 1, and so are elements; with a return as the feature, element n comes with
tick n + 1. Messages hold `block` ticks each and are numbered from 0. Times are nanoseconds.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

WINDOW, STRIDE = 100, 10

WARM_UP = 0.1
"""Share of the time at the beginning whose delays are not counted."""

GROWTH = 0.02
"""A delay that grows by more than this share of the time is not one that a queue works off:
the subject is slower than the feed by that share."""

Ns: TypeAlias = npt.NDArray[np.int64]


def recorded(times: Ns, *, speed: float, seconds: float) -> Ns:
    """Return offsets (n,) of the recorded times at `speed` times their pace, for `seconds`."""
    offsets = ((times - times[0]) / speed).astype(np.int64)
    return offsets[: np.searchsorted(offsets, int(seconds * 1e9))]


def constant(rate: float, *, seconds: float, block: int = 1) -> Ns:
    """Return offsets (n,) of messages of `block` ticks at `rate` ticks a second."""
    count = max(1, int(rate * seconds / block))
    return (np.arange(count) * (block * 1e9 / rate)).astype(np.int64)


def due_ticks(count: int) -> Ns:
    """Return the numbers of those of `count` ticks after which a prediction is due."""
    return np.arange(WINDOW + 1, count + 1, STRIDE, dtype=np.int64)


def due_messages(count: int, block: int) -> Ns:
    """Return which of `count` messages hold a tick after which a prediction is due."""
    return np.unique((due_ticks(count * block) - 1) // block)


def delays(offsets: Ns, begin: int, messages: Ns, arrivals: Ns) -> tuple[Ns, Ns]:
    """Return (intended times, delays) of answers that arrived, the warm-up left out.

    `messages` (m,) are the messages answered, `arrivals` (m,) when the answers came.
    """
    intended = begin + offsets[messages]
    counted = intended >= begin + int(WARM_UP * offsets[-1])
    return intended[counted], (arrivals - intended)[counted]


def growing(intended: Ns, delayed: Ns) -> bool:
    """Return whether delays grow from the second to the last quarter of the answers."""
    quarters = np.array_split(np.arange(len(intended)), 4)
    middles = [float(np.median(intended[part])) for part in quarters]
    medians = [float(np.median(delayed[part])) for part in quarters]
    return medians[3] - medians[1] > GROWTH * (middles[3] - middles[1])
