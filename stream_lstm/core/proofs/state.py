"""Check what carrying the state changes: predictions from three states, and how soon it forgets.

The weights do not change. Each due prediction is made three times: from the state carried since
the first element, from a zero state at the start of the last W elements, as a stateless model does
it, and from a state that is reset to zero every N elements. All are scored on the same labels, and
the differences of their log losses have a band that is valid at every number of labels with 95 %.

A fourth state is reset to random values where the third is reset to zero. The forgetting length of
such a segment of N elements is the number of elements after which the three probabilities stay
within `AGREE` of each other to its end.

Elements come in blocks; the check stores sums, one window and the lengths.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from ...config import Config
from ...events import Ticks
from ...model.engine import Probe
from ...model.network import Shape, Weights, causal_scaler
from ...typing import Bools, Float32s
from ..elements import ElementMaker, OnRefused
from ..evidence import Bet
from ..losses import log_loss

AGREE = 1e-6
"""Some ten roundings of a float32 probability."""

SEGMENT = 1000
"""Least N: long enough for most memories, short enough for a series of a few thousand elements."""

SEGMENT_WINDOWS = 10
"""N is also at least this many windows."""

MAX_SEGMENTS = 1000
"""Forgetting lengths that are stored: more add nothing."""

BLOCK = 1024
"""Elements of a call."""

BATCH_NUMBERS = 2**20
"""Numbers in a batch of windows, which are some 64 windows at the usual sizes."""

MAX_BATCH = 64

STATES = ("carried", "windowed", "fresh")


class Prediction(NamedTuple):
    """The probabilities of the prediction after element n, from the states in their order."""

    n: int
    p: tuple[float, float, float]


class Comparison:
    """Sums over predictions and labels so far.

    `excess` are the differences of the log losses of the windowed and the fresh state from the
    carried one's, label by label cut to [-1, 1].
    """

    def __init__(self) -> None:
        self.predictions = self.labels = 0
        self.correct, self.losses = [0, 0, 0], [0.0, 0.0, 0.0]
        self.excess = {"windowed": Bet(), "fresh": Bet()}
        self.abs_dp = self.max_dp = 0.0
        self.max_dp_n: int | None = None

    def add(self, one: Prediction) -> None:
        """Count a prediction."""
        dp = abs(one.p[0] - one.p[1])
        self.predictions += 1
        self.abs_dp += dp
        if dp > self.max_dp or self.max_dp_n is None:
            self.max_dp, self.max_dp_n = dp, one.n

    def score(self, one: Prediction, label: int) -> None:
        """Count the label of a prediction."""
        self.labels += 1
        losses = [log_loss(p, label) for p in one.p]
        for k, p in enumerate(one.p):
            self.correct[k] += (p > 0.5) == label
            self.losses[k] += losses[k]
        for bet, loss in zip(self.excess.values(), losses[1:], strict=True):
            bet.add(loss - losses[0])

    def scores(self) -> dict[str, Any]:
        """Return the figures of each state, and the differences with their bands."""

        def mean(total: float) -> float | None:
            return total / self.labels if self.labels else None

        out: dict[str, Any] = {
            name: {"accuracy": mean(self.correct[k]), "log_loss": mean(self.losses[k])}
            for k, name in enumerate(STATES)
        }
        for loss, (name, bet) in zip(self.losses[1:], self.excess.items(), strict=True):
            low, high = bet.interval() or (None, None)
            out[f"{name}_more"] = {
                "log_loss": mean(loss - self.losses[0]),
                "mean": bet.mean(),
                "low": low,
                "high": high,
                "cut": bet.cut,
            }
        return out


class StateCheck:
    """The check of one stream.

    maker: makes the elements. weights: of the network. scaler: the initial state (1 + 2F,) of its
    scaler, by default an empty one. seed: of the random states. queries: bool (n,), whether the
    label of the prediction after element 1, 2, ... belongs to a separate score. Compiles on
    construction.
    """

    def __init__(
        self,
        config: Config,
        maker: ElementMaker,
        weights: Weights,
        *,
        scaler: npt.ArrayLike | None = None,
        seed: int = 0,
        queries: Bools | None = None,
    ) -> None:
        stream, model = config.stream, config.model
        self.elements = 0
        self.window, self.stride, self.horizon = stream.window, stream.stride, stream.horizon
        self.segment = max(SEGMENT, SEGMENT_WINDOWS * self.window)
        self._maker, self._weights, self._seed = maker, weights, seed
        self._memory = maker.empty()
        shape = Shape(len(maker), model.hidden, model.layers)
        probe = Probe(shape, causal_scaler(shape.features, config.scaling))
        start = probe.scaler.init() if scaler is None else scaler
        self._scaler: Any = np.asarray(start, np.float32)
        self._states: Any = np.zeros((3, shape.state), np.float32)
        width = self.window * max(4 * shape.hidden, shape.features)
        self._batch = int(np.clip(BATCH_NUMBERS // width, 1, MAX_BATCH))
        xs = np.zeros((BLOCK, shape.features), np.float32)
        block = self._weights, self._scaler, self._states, xs, np.int32(0)
        self._block = jax.jit(probe.block).lower(*block).compile()
        windows = np.zeros((self._batch, self.window, shape.features), np.float32)
        self._windows = jax.jit(probe.windows).lower(self._weights, windows).compile()
        self._tail, self._first = xs[:0], self.window
        self._start, self._resets = self._scaler, stream.on_pause == "reset"
        self._pending: deque[Prediction] = deque()
        self._all, self._queries = Comparison(), queries
        self._queried = None if queries is None else Comparison()
        self._lengths: list[int] = []
        self._differ = 0  # elements of this segment up to the last at which the states differ

    def push(self, ticks: Ticks, refused: OnRefused = lambda *_: None) -> None:
        """Take a block of ticks; `refused` receives those that make no element."""
        for sifted in self._maker.sift(self._memory, ticks.t_ns, ticks.values):
            for _, index, reason in sifted.refused:
                refused(index, reason)
            if sifted.paused and self._resets:
                self._restart()
            start, elements = 0, sifted.elements
            while start < len(elements):
                stop = start + min(BLOCK, self._until_reset())
                self._step(elements[start:stop])
                start = stop

    def _restart(self) -> None:
        """Reset all states after a pause, as a session does, with a new warm-up."""
        self._scaler, self._states = self._start, np.zeros_like(self._states)
        self._first = self.elements + self.window
        self._pending.clear()

    def _until_reset(self) -> int:
        """Return how many elements come before the next reset of the other states."""
        if self.elements < self.window:
            return self.window - self.elements
        return self.segment - (self.elements - self.window) % self.segment

    def _step(self, chunk: Float32s) -> None:
        self._reset()
        xs = np.zeros((BLOCK, chunk.shape[1]), np.float32)
        xs[: len(chunk)] = chunk
        self._scaler, self._states, scaled, p = self._block(
            self._weights, self._scaler, self._states, xs, np.int32(len(chunk))
        )
        before, self.elements = self.elements, self.elements + len(chunk)
        known = np.asarray(p)[: len(chunk)]
        self._measure_forgetting(before, known)
        inputs = np.concatenate([self._tail, np.asarray(scaled)[: len(chunk)]])
        due = self._due(before)
        positive = chunk[:, 0] > 0
        for n, windowed in zip(due, self._windowed(inputs, due), strict=True):
            carried, fresh = known[n - before - 1, :2].tolist()
            prediction = Prediction(n, (carried, windowed, fresh))
            self._pending.append(prediction)
            for comparison in self._comparisons(n):
                comparison.add(prediction)
        while self._pending and self._pending[0].n + self.horizon <= self.elements:
            prediction = self._pending.popleft()
            label = int(positive[prediction.n + self.horizon - before - 1])
            for comparison in self._comparisons(prediction.n):
                comparison.score(prediction, label)
        self._tail = inputs[-(self.window - 1) :] if self.window > 1 else inputs[:0]

    def _reset(self) -> None:
        if self.elements < self.window or (self.elements - self.window) % self.segment:
            return
        number = (self.elements - self.window) // self.segment
        random = np.random.default_rng([self._seed, number])
        states = np.array(self._states)
        states[1] = 0.0
        states[2] = random.uniform(-1.0, 1.0, states.shape[1])
        self._states, self._differ = states, 0

    def _measure_forgetting(self, before: int, p: Float32s) -> None:
        """Note how long the three states differ in p (m, 3)."""
        if before < self.window:
            return
        done = (before - self.window) % self.segment
        apart = np.flatnonzero(np.ptp(p, axis=1) >= AGREE)
        if len(apart):
            self._differ = done + int(apart[-1]) + 1
        if done + len(p) == self.segment and len(self._lengths) < MAX_SEGMENTS:
            self._lengths.append(self._differ)

    def _due(self, before: int) -> list[int]:
        """Return the n of the predictions due after `before` and up to now."""
        first = max(before + 1, self._first)
        first += -(first - self.window) % self.stride
        return list(range(first, self.elements + 1, self.stride))

    def _windowed(self, inputs: Float32s, due: list[int]) -> Iterator[float]:
        """Yield p from the last W of `inputs`, which end with element n, for each n in `due`."""
        first = self.elements - len(inputs)  # the element before them
        for start in range(0, len(due), self._batch):
            part = due[start : start + self._batch]
            many = np.zeros((self._batch, self.window, inputs.shape[1]), np.float32)
            for k, n in enumerate(part):
                many[k] = inputs[n - first - self.window : n - first]
            yield from map(float, np.asarray(self._windows(self._weights, many))[: len(part)])

    def _comparisons(self, n: int) -> Iterator[Comparison]:
        yield self._all
        if self._queried is not None and self._queries is not None and self._queries[n - 1]:
            yield self._queried

    def record(self) -> dict[str, Any]:
        """Return the results so far: losses in nats, lengths in elements, None without any."""
        every, queried = self._all, self._queried
        queries = None
        if queried is not None:
            queries = {"labels": queried.labels, **queried.scores()}
        return {
            "predictions": every.predictions,
            "labels": every.labels,
            "window": self.window,
            **every.scores(),
            "queries": queries,
            "mean_abs_dp": every.abs_dp / every.predictions if every.predictions else None,
            "max_abs_dp": every.max_dp if every.predictions else None,
            "max_abs_dp_n": every.max_dp_n,
            "forgetting": forgetting(self._lengths, self.segment),
        }


def forgetting(lengths: list[int], limit: int) -> dict[str, Any]:
    """Return the median and the largest of forgetting lengths.

    A length of `limit` means that the states still differed; the median and the largest are None
    for such a length, or without any.
    """
    ordered = sorted(lengths)
    median = ordered[(len(ordered) - 1) // 2] if ordered else limit
    largest = ordered[-1] if ordered else limit
    return {
        "agree_within": AGREE,
        "limit": limit,
        "positions": len(lengths),
        "not_within_limit": sum(length >= limit for length in lengths),
        "median": median if median < limit else None,
        "max": largest if largest < limit else None,
    }


# ---- what a record says, in words -----------------------------------------------------------


SAME = 1e-4
"""A difference of probabilities that is too small to act on."""


def verdict(check: dict[str, Any]) -> str:
    """Return one plain sentence about the record of a `StateCheck`."""
    return f"{_forgetting(check)}; {_difference(check)}"


def _forgetting(check: dict[str, Any]) -> str:
    found = check["forgetting"]
    limit, positions, longer = found["limit"], found["positions"], found["not_within_limit"]
    if not positions:
        need = check["window"] + limit
        return f"the series is too short to measure the memory of the state ({need:,} elements)"
    if longer == positions:
        return f"the state remembers its start for more than {limit:,} elements"
    if longer:
        return (
            f"the state remembers its start for more than {limit:,} elements at {longer:,} of "
            f"{positions:,} positions"
        )
    return f"the state forgets its start within {found['max']:,} elements"


def _difference(check: dict[str, Any]) -> str:
    if not check["predictions"]:
        return "there were no predictions to compare"
    window = check["window"]
    if check["max_abs_dp"] < SAME:
        return (
            f"carrying the state does not matter here: windows of {window:,} give the same "
            f"predictions (within {check['max_abs_dp']:.1g})"
        )
    if not check["labels"]:
        return f"windows of {window:,} give other predictions, and there was no label to score"
    than = f"than from windows of {window:,}"
    overall = _compared(check["windowed_more"], than)
    queries = check["queries"]
    if queries is None or not 0 < queries["labels"] < check["labels"]:
        return overall
    predictable = _compared(queries["windowed_more"], than)
    return f"{overall}; on the {queries['labels']:,} predictable labels, {predictable}"


def effect(check: dict[str, Any]) -> str:
    """Return `helps`, `hurts`, `does not matter` or, without labels, `unknown`.

    Where only some labels are predictable, they decide.
    """
    if check["predictions"] and check["max_abs_dp"] < SAME:
        return "does not matter"
    queries = check["queries"]
    band = (queries if queries is not None and queries["labels"] else check)["windowed_more"]
    if band["mean"] is None:
        return "unknown"
    return "helps" if band["low"] > 0 else "hurts" if band["high"] < 0 else "does not matter"


def _compared(band: dict[str, float], than: str) -> str:
    """Return what the excess loss of another state says about the carried one."""
    low, high, mean = band["low"], band["high"], band["log_loss"]
    word = "lower" if mean >= 0 else "higher"
    loss = f"log loss {abs(mean):.4f} {word} {than}"
    cut = f", {band['cut']:,} differences cut at 1 nat" if band["cut"] else ""
    where = f"(windowed less carried: {band['mean']:+.4f}, band {low:+.4f} to {high:+.4f}{cut})"
    if low > 0:
        return f"carried state helps here: {loss} {where}"
    if high < 0:
        return f"carried state hurts here: {loss} {where}"
    return f"no evidence that carrying the state matters: {loss} {where}"
