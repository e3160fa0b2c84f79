"""What carrying the state changes: predictions from three states side by side, and forgetting.

For weights that stay as they are, each prediction that is due is made three times: from the state
carried since the first element, from a zero state at the start of the last W elements, which is
what a stateless model computes, and from a state that starts afresh from zero every N elements.
All are scored on the same labels, and the differences of their log losses have a band that holds
at every count of labels with 95 %.

A fourth state starts at random where the third starts from zero. The forgetting length of such a
stretch is the number of elements after which the three probabilities stay within `AGREE` of each
other to its end.

Elements come in blocks and nothing but sums, one window and the lengths is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import msgspec
import numpy as np
import numpy.typing as npt

from ...config import Config
from ...events import Ticks
from ...model.network import Shape, Weights
from ...model.probe import Probe
from ...model.scaling import causal_scaler
from ...typing import Float32s
from ..elements import ElementMaker, Memory, OnRefused
from ..evidence import Bet
from ..losses import Tally, log_loss

AGREE = 1e-6
"""Some ten roundings of a float32 probability."""

STRETCH = 1000
"""Least N: long enough for most memories, short enough for a series of a few thousand elements."""

STRETCH_WINDOWS = 10
"""N is also no less than this many windows."""

MAX_STRETCHES = 1000
"""Forgetting lengths that are kept: more say nothing new."""

BLOCK = 1024
"""Elements of a call."""

BATCH_NUMBERS = 2**20
"""Numbers that a batch of windows may take, of which there are some 64 at the usual sizes."""

MAX_BATCH = 64


STATES = ("carried", "windowed", "fresh")


class Trio(NamedTuple):
    """The probabilities of the prediction after element n."""

    n: int
    carried: float
    windowed: float
    fresh: float


class Sums(msgspec.Struct):
    """Sums over predictions and labels so far.

    `windowed_more` and `fresh_more` are how much higher the log losses of these states are than
    the carried one's: plain, and label by label cut to [-1, 1], which is what has a band.
    """

    predictions: int = 0
    labels: int = 0
    carried: Tally = msgspec.field(default_factory=Tally)
    windowed: Tally = msgspec.field(default_factory=Tally)
    fresh: Tally = msgspec.field(default_factory=Tally)
    windowed_more: Bet = msgspec.field(default_factory=Bet)
    fresh_more: Bet = msgspec.field(default_factory=Bet)
    abs_dp: float = 0.0
    max_dp: float = 0.0
    max_dp_n: int | None = None

    def add(self, trio: Trio) -> None:
        """Count a prediction."""
        dp = abs(trio.carried - trio.windowed)
        self.predictions += 1
        self.abs_dp += dp
        if dp > self.max_dp or self.max_dp_n is None:
            self.max_dp, self.max_dp_n = dp, trio.n

    def score(self, trio: Trio, label: int) -> None:
        """Count the label of a prediction."""
        self.labels += 1
        losses = []
        for name in STATES:
            p, tally = getattr(trio, name), getattr(self, name)
            losses.append(log_loss(p, label))
            tally.add(p, label, losses[-1], (p > 0.5) == label)
        self.windowed_more.add(losses[1] - losses[0])
        self.fresh_more.add(losses[2] - losses[0])

    def scores(self) -> dict[str, Any]:
        """Return the figures of each state, and the differences with their bands."""
        found: dict[str, Any] = {}
        for name in STATES:
            plain = getattr(self, name).means(self.labels)
            found[name] = {key: plain[key] for key in ("accuracy", "log_loss")}
        for name in ("windowed_more", "fresh_more"):
            band = getattr(self, name)
            low, high = band.interval() or (None, None)
            other = getattr(self, name.removesuffix("_more")).log_loss - self.carried.log_loss
            plain = other / self.labels if self.labels else None
            bounds = {"low": low, "high": high, "cut": band.cut}
            found[name] = {"log_loss": plain, "mean": band.mean(), **bounds}
        return found


class StateCheck:
    """The check of one stream; `maker` makes its elements, `weights` are those of the network.

    scaler: the state (1 + 2F,) that its scaler starts from, if not from nothing. seed: of the
    random starting states. queries: bool (n,), whether the label of the prediction after element
    1, 2, ... is asked for in particular; those are also scored apart. Compiles on construction.
    """

    def __init__(
        self,
        config: Config,
        maker: ElementMaker,
        weights: Weights,
        *,
        scaler: npt.ArrayLike | None = None,
        seed: int = 0,
        queries: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        stream, model = config.stream, config.model
        self.window, self.stride, self.horizon = stream.window, stream.stride, stream.horizon
        self.stretch = max(STRETCH, STRETCH_WINDOWS * self.window)
        self._maker, self._weights, self._seed = maker, weights, seed
        self._memory = Memory.empty(len(maker.columns))
        shape = Shape(len(maker), model.hidden, model.layers)
        probe = Probe(shape, causal_scaler(shape.features, config.scaling))
        start = probe.scaler.init() if scaler is None else scaler
        self._scaler: Any = np.asarray(start, np.float32)
        self._states: Any = np.zeros((3, shape.state), np.float32)
        width = self.window * max(4 * shape.hidden, shape.features)
        self._batch = int(np.clip(BATCH_NUMBERS // width, 1, MAX_BATCH))
        self._compile(probe)
        self._n = 0
        self._tail = np.zeros((0, shape.features), np.float32)
        self._pending: deque[Trio] = deque()
        self._sums, self._queries = Sums(), queries
        self._asked = None if queries is None else Sums()
        self._lengths: list[int] = []
        self._differs = 0

    def _compile(self, probe: Probe) -> None:
        features = probe.shape.features
        xs = np.zeros((BLOCK, features), np.float32)
        many = np.zeros((self._batch, self.window, features), np.float32)
        block = self._weights, self._scaler, self._states, xs, np.int32(0)
        self._block = jax.jit(probe.block).lower(*block).compile()
        self._windows = jax.jit(probe.windows).lower(self._weights, many).compile()

    @property
    def elements(self) -> int:
        """The elements so far."""
        return self._n

    def push(self, ticks: Ticks, refused: OnRefused = lambda *_: None) -> None:
        """Take a block of ticks; those that make no element are left out, and told of."""
        made = self._maker.make(self._memory, ticks.t_ns, ticks.values, refused)
        for _, elements in made:
            start = 0
            while start < len(elements):
                stop = start + min(BLOCK, self._until_restart())
                self._step(elements[start:stop])
                start = stop

    def _until_restart(self) -> int:
        """Return how many elements come before the other states start afresh."""
        if self._n < self.window:
            return self.window - self._n
        return self.stretch - (self._n - self.window) % self.stretch

    def _step(self, chunk: Float32s) -> None:
        self._restart()
        xs = np.zeros((BLOCK, chunk.shape[1]), np.float32)
        xs[: len(chunk)] = chunk
        self._scaler, self._states, scaled, p = self._block(
            self._weights, self._scaler, self._states, xs, np.int32(len(chunk))
        )
        before, self._n = self._n, self._n + len(chunk)
        known = np.asarray(p)[: len(chunk)]
        self._forget(before, known)
        inputs = np.concatenate([self._tail, np.asarray(scaled)[: len(chunk)]])
        due = self._due(before)
        positive = chunk[:, 0] > 0
        carried, fresh = ([float(known[n - before - 1, k]) for n in due] for k in (0, 1))
        trios = map(Trio, due, carried, self._windowed(inputs, due), fresh)
        self._report(before, positive, trios)
        self._tail = inputs[-(self.window - 1) :] if self.window > 1 else inputs[:0]

    def _restart(self) -> None:
        if self._n < self.window or (self._n - self.window) % self.stretch:
            return
        number = (self._n - self.window) // self.stretch
        random = np.random.default_rng([self._seed, number])
        states = np.array(self._states)
        states[1] = 0.0
        states[2] = random.uniform(-1.0, 1.0, states.shape[1])
        self._states, self._differs = states, 0

    def _forget(self, before: int, p: Float32s) -> None:
        """Take note of how long the three starts differ, from p (m, 3)."""
        if before < self.window:
            return
        done = (before - self.window) % self.stretch
        apart = np.flatnonzero(np.ptp(p, axis=1) >= AGREE)
        if len(apart):
            self._differs = done + int(apart[-1]) + 1
        if done + len(p) == self.stretch and len(self._lengths) < MAX_STRETCHES:
            self._lengths.append(self._differs)

    def _due(self, before: int) -> list[int]:
        """Return the n of the predictions due after `before` and up to now."""
        first = max(before + 1, self.window)
        first += -(first - self.window) % self.stride
        return list(range(first, self._n + 1, self.stride))

    def _windowed(self, inputs: Float32s, due: list[int]) -> Iterator[float]:
        """Yield p from the last W of `inputs`, which end with element n, for each n in `due`."""
        first = self._n - len(inputs)  # the element before them
        for start in range(0, len(due), self._batch):
            part = due[start : start + self._batch]
            many = np.zeros((self._batch, self.window, inputs.shape[1]), np.float32)
            for k, n in enumerate(part):
                many[k] = inputs[n - first - self.window : n - first]
            yield from map(float, np.asarray(self._windows(self._weights, many))[: len(part)])

    def _report(self, before: int, positive: npt.NDArray[np.bool_], trios: Iterator[Trio]) -> None:
        for trio in trios:
            for sums in self._sums_of(trio):
                sums.add(trio)
            self._pending.append(trio)
        while self._pending and self._pending[0].n + self.horizon <= self._n:
            trio = self._pending.popleft()
            for sums in self._sums_of(trio):
                sums.score(trio, int(positive[trio.n + self.horizon - before - 1]))

    def _sums_of(self, trio: Trio) -> Iterator[Sums]:
        yield self._sums
        if self._asked is not None and self._queries is not None and self._queries[trio.n - 1]:
            yield self._asked

    def record(self) -> dict[str, Any]:
        """Return what was found so far; figures are None where there is nothing to count.

        Losses are in nats, and forgetting lengths in elements.
        """
        sums = self._sums
        asked = None if self._asked is None else {"labels": self._asked.labels}
        if self._asked is not None and asked is not None:
            asked |= self._asked.scores()
        return {
            "predictions": sums.predictions,
            "labels": sums.labels,
            "window": self.window,
            **sums.scores(),
            "queries": asked,
            "mean_abs_dp": sums.abs_dp / sums.predictions if sums.predictions else None,
            "max_abs_dp": sums.max_dp if sums.predictions else None,
            "max_abs_dp_n": sums.max_dp_n,
            "forgetting": forgetting(self._lengths, self.stretch),
        }


def forgetting(lengths: list[int], limit: int) -> dict[str, Any]:
    """Return the median and the largest of forgetting lengths.

    A length of `limit` means that it was not over by then; the median and the largest are None
    where they would be such a length, or where there is none.
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
