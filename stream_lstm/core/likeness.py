"""Where two runs over what should be the same series part, and why.

A run is its ticks, the weights it starts from, its updates and its predictions, each in order.
The cause of a difference is the `input` where a tick was missing, added or another before it, the
`weights` where the runs started from others or an update came out otherwise, and else the
`runtime`: the same input and weights gave other bits.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from .recording import Recording

Cause: TypeAlias = Literal["input", "weights", "runtime"]

AHEAD = 8
"""Ticks that must agree again for a tick to be called missing or added, and not changed."""


class Difference(msgspec.Struct, frozen=True):
    """The first difference of two runs.

    tick: the number of the tick, from 1, where the input differs. n: the first prediction that
    does, None where none does. what: it in words.
    """

    cause: Cause
    what: str
    tick: int | None = None
    n: int | None = None


def first_difference(live: Recording, replayed: Recording) -> Difference | None:
    """Return where a live run first differs from the replay of its series; None if nowhere."""
    n = _prediction(live, replayed)
    at = _tick(live, replayed)
    if at is not None and (n is None or n > replayed.elements_of(at)):
        return Difference("input", _input(live, replayed, at), at + 1, n)
    if live.weights != replayed.weights:
        return Difference("weights", "the two runs start from other weights", None, n)
    update = _first(live.updates, replayed.updates)
    if update is not None and (n is None or _update_n(live, replayed, update) < n):
        return Difference("weights", _update(live, replayed, update), None, n)
    if n is not None:
        what = f"the prediction after element {n:,} has other bits from the same input and weights"
        return Difference("runtime", what, None, n)
    return None


def _prediction(live: Recording, replayed: Recording) -> int | None:
    """Return the n of the first prediction that differs or is missing."""
    (n, p), (m, q) = live.predictions(), replayed.predictions()
    k = min(len(n), len(m))
    bits = p[:k].view(np.int32) != q[:k].view(np.int32)
    apart = np.flatnonzero((n[:k] != m[:k]) | bits)
    if len(apart):
        return int(min(n[apart[0]], m[apart[0]]))
    longer = n if len(n) > len(m) else m
    return int(longer[k]) if len(longer) > k else None


def _tick(live: Recording, replayed: Recording) -> int | None:
    """Return how many ticks come before the first that differs."""
    a, b = _rows(live), _rows(replayed)
    k = min(len(a), len(b))
    apart = np.flatnonzero((a[:k] != b[:k]).any(axis=1))
    if len(apart):
        return int(apart[0])
    return None if len(a) == len(b) else k


def _rows(run: Recording) -> npt.NDArray[np.int64]:
    """Return the bits of the ticks (m, C), with their times where those are read."""
    bits = np.ascontiguousarray(run.values()).view(np.int64)
    return np.column_stack([bits, run.times()]) if run.uses_time else bits


def _input(live: Recording, replayed: Recording, at: int) -> str:
    a, b = _rows(live), _rows(replayed)
    said = f"; the feed refused: {live.complaints[0]}" if live.complaints else ""
    if at == len(a):
        return f"the live feed ended after {at:,} of {len(b):,} ticks{said}"
    if at == len(b):
        return f"the live feed went on after the {at:,} ticks of the file{said}"
    number = f"tick {at + 1:,}"
    if _agree(a[at:], b[at + 1 :]):
        return f"{number} was missing in the live feed{said}"
    if _agree(a[at + 1 :], b[at:]):
        return f"{number} of the live feed is not in the file{said}"
    column = int(np.flatnonzero(a[at] != b[at])[0])
    if column == len(live.columns):
        return f"{number} had another time in the live feed{said}"
    name = live.columns[column]
    came, wanted = (float(run.values()[at, column]) for run in (live, replayed))
    return f"{number} differed: {name} was {came!r} in the live feed and is {wanted!r} in the file"


def _agree(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> bool:
    """Return whether two stretches begin alike, or are both at their end."""
    k = min(len(a), len(b), AHEAD)
    same = bool(np.array_equal(a[:k], b[:k]))
    return same and (k > 0 or len(a) == len(b))


def _first(live: list[Any], replayed: list[Any]) -> int | None:
    """Return the first index where two lists differ; None if nowhere."""
    if live == replayed:
        return None
    pairs = zip(live, replayed, strict=False)
    return next((k for k, (a, b) in enumerate(pairs) if a != b), min(len(live), len(replayed)))


def _update_n(live: Recording, replayed: Recording, k: int) -> int:
    """Return the label's n of update k, the smaller where they differ."""
    return min(run.updates[k][0] for run in (live, replayed) if k < len(run.updates))


def _update(live: Recording, replayed: Recording, k: int) -> str:
    n = _update_n(live, replayed, k)
    losses = [run.updates[k][1] if k < len(run.updates) else None for run in (live, replayed)]
    told = " and ".join("none" if loss is None else f"{loss!r}" for loss in losses)
    return f"the update from the label of prediction {n:,} differs (loss: {told})"
