"""Find where two runs over what should be the same series part, and why.

A `Recording` stores a run: its ticks, the weights it starts from, its updates and its predictions,
each in order. The cause of the first difference is the `input` if a tick was missing, added or
changed before it, the `weights` if the runs started from different ones or an update differs, and
else the `runtime`: the same input and weights gave other bits.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np

from ...events import Input, Notice, Output, Prediction, Refusal, Run, Ticks, Update
from ...typing import Float32s, Float64s, Int64s
from ..elements import ElementMaker
from ..outcome import Outcome
from ..replay import Digest, weights_digest
from ..session import SHARED, Session

Cause: TypeAlias = Literal["input", "weights", "runtime"]

AHEAD = 8
"""Ticks that must agree again for a tick to count as missing or added, and not as changed."""


class Recording:
    """One run of a session of one stream.

    A tick takes 8 (C + 1) bytes, a prediction 12. `updates` are (n, loss, norm of the gradient,
    accepted) of each, `complaints` the reasons of refused messages.
    """

    def __init__(self) -> None:
        self.digest = Digest()
        self.weights = ""
        self.complaints: list[str] = []
        self.updates: list[tuple[int, float, float, bool]] = []
        self.ticks = 0
        self._maker: ElementMaker | None = None
        self._n: list[int] = []
        self._p: list[float] = []
        self._t_ns: list[Int64s] = []
        self._values: list[Float64s] = []

    def start(self, session: Session) -> None:
        """Note how a session makes elements, and the weights it starts from."""
        self.weights = weights_digest(session.weights_for(SHARED))
        self._maker = session.maker

    def take(self, event: Input) -> None:
        """Record the ticks of an input."""
        ticks = event.block() if isinstance(event, Run) else event
        if isinstance(ticks, Ticks):
            self._t_ns.append(ticks.t_ns.copy())
            self._values.append(ticks.values.copy())
            self.ticks += len(ticks.t_ns)

    def __call__(self, event: Input | Output | Notice) -> None:
        """Record an output; everything else is ignored."""
        if isinstance(event, Prediction):
            self.digest.add(event)
            self._n.append(event.n)
            self._p.append(event.p)
        elif isinstance(event, Update):
            self.updates.append((event.n, event.loss, event.grad_norm, event.accepted))
        elif isinstance(event, Refusal) and event.kind != "tick":
            self.complaints.append(event.reason)

    def deliver(self, outcome: Outcome) -> None:
        """Record outputs that come in columns."""
        self.digest.add_batch(outcome.predictions)
        self._n += outcome.predictions["n"].tolist()
        self._p += outcome.predictions["p"].tolist()
        for event in outcome.others:
            self(event)

    @property
    def maker(self) -> ElementMaker:
        """The element maker of the recorded session."""
        assert self._maker is not None
        return self._maker

    def values(self) -> Float64s:
        """Return the ticks' values (m, C)."""
        return np.concatenate([np.zeros((0, len(self.maker.columns))), *self._values])

    def times(self) -> Int64s:
        """Return the ticks' times (m,)."""
        return np.concatenate([np.zeros(0, np.int64), *self._t_ns])

    def predictions(self) -> tuple[Int64s, Float32s]:
        """Return n (k,) and p (k,) of the predictions."""
        return np.array(self._n, np.int64), np.array(self._p, np.float32)

    def elements_of(self, ticks: int) -> int:
        """Return how many elements the first `ticks` ticks made."""
        sifted = self.maker.sift(self.maker.empty(), self.times()[:ticks], self.values()[:ticks])
        return sum(len(part.elements) for part in sifted)

    def bits(self) -> Int64s:
        """Return the bits of the ticks (m, C), and of their times if anything depends on them."""
        bits = np.ascontiguousarray(self.values()).view(np.int64)
        timed = self.maker.features.uses_time or self.maker.pauses.ns
        return np.column_stack([bits, self.times()]) if timed else bits


class RunDifference(msgspec.Struct, frozen=True):
    """The first difference of two runs.

    what: a sentence. tick: the number of the tick, from 1, if the input differs. n: the first
    prediction that differs, None if none does.
    """

    cause: Cause
    what: str
    tick: int | None = None
    n: int | None = None


def first_difference(live: Recording, replayed: Recording) -> RunDifference | None:
    """Return where a live run first differs from the replay of its series; None if nowhere."""
    n, ticks = _prediction(live, replayed), (live.bits(), replayed.bits())
    at = _first(*ticks)
    if at is not None and (n is None or n > replayed.elements_of(at)):
        return RunDifference("input", _input(live, replayed, *ticks, at), at + 1, n)
    if live.weights != replayed.weights:
        return RunDifference("weights", "the two runs start from other weights", None, n)
    k = _first(live.updates, replayed.updates)
    if k is not None:
        differing = [run.updates[k] for run in (live, replayed) if k < len(run.updates)]
        update_n = min(update[0] for update in differing)
        if n is None or update_n < n:
            losses = [
                repr(run.updates[k][1]) if k < len(run.updates) else "none"
                for run in (live, replayed)
            ]
            what = (
                f"the update from the label of prediction {update_n:,} differs "
                f"(loss: {' and '.join(losses)})"
            )
            return RunDifference("weights", what, None, n)
    if n is not None:
        what = f"the prediction after element {n:,} has other bits from the same input and weights"
        return RunDifference("runtime", what, None, n)
    return None


def _first(one: Any, other: Any) -> int | None:
    """Return the first index where two sequences differ, or where one ends; None if nowhere."""
    k = min(len(one), len(other))
    if isinstance(one, list):
        differing = [at for at in range(k) if one[at] != other[at]]
    else:
        differing = np.flatnonzero((one[:k] != other[:k]).any(axis=1)).tolist()
    if differing:
        return int(differing[0])
    return None if len(one) == len(other) else k


def _prediction(live: Recording, replayed: Recording) -> int | None:
    """Return the n of the first prediction that differs or is missing."""
    (n, p), (m, q) = live.predictions(), replayed.predictions()
    pairs = [np.column_stack([a, b.view(np.int32)]) for a, b in ((n, p), (m, q))]
    k = _first(*pairs)
    return None if k is None else min(int(each[k]) for each in (n, m) if k < len(each))


def _input(live: Recording, replayed: Recording, a: Int64s, b: Int64s, at: int) -> str:
    """Return what differs at tick `at` of two runs with the bits a and b."""
    refused = f"; the feed refused: {live.complaints[0]}" if live.complaints else ""
    if at == len(a):
        return f"the live feed ended after {at:,} of {len(b):,} ticks{refused}"
    if at == len(b):
        return f"the live feed continued after the {at:,} ticks of the file{refused}"
    tick = f"tick {at + 1:,}"
    if _agree(a[at:], b[at + 1 :]):
        return f"{tick} was missing in the live feed{refused}"
    if _agree(a[at + 1 :], b[at:]):
        return f"{tick} of the live feed is not in the file{refused}"
    column = int(np.flatnonzero(a[at] != b[at])[0])
    columns = live.maker.columns
    if column == len(columns):
        return f"{tick} had another time in the live feed{refused}"
    came, wanted = (float(run.values()[at, column]) for run in (live, replayed))
    return (
        f"{tick} differed: {columns[column]} was {came!r} in the live feed and is {wanted!r} "
        "in the file"
    )


def _agree(a: Int64s, b: Int64s) -> bool:
    """Return whether two series start with the same ticks, or are both at their end."""
    k = min(len(a), len(b), AHEAD)
    same = bool(np.array_equal(a[:k], b[:k]))
    return same and (k > 0 or len(a) == len(b))
