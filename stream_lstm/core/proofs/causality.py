"""Whether anything that comes after element n changes a byte of what was there at n.

A session runs along a series in blocks. Before a block that holds a place to try, everything that
the session holds is written down. After it, another session goes on from there once for each
future: with the ticks of the block that come before the place and then nothing (the reference),
or the ones that came, or others, in ONE block together with those before, since what looks ahead
can do so only within a block. The books that a `Witness` kept are compared: those of the
reference must be the beginnings of all others, and of those of the session that runs on.

So a trial costs a few blocks, not a replay, however long the series is. Where books differ, the
leak is in the stage whose book differs at the earliest element, and of those that do at the same
one in the first in the order of `STAGES`: what comes later takes from it.

Other futures: what might have come in the place of the ticks that did come.

Each takes a seeded generator, the times int64 (m,) and the values float64 (m, C) of the ticks that
came, and returns others of the same number. None looks at what was before, which stays as it was.

What each stage of a session did, written down byte by byte, so that two runs can be compared.

A witness observes a session and listens to it, changes nothing, and enters in the book of a stage

* `features`: each element, and each tick that made none;
* `scaler`: the scaler's state before each call of the engine, and the elements of the call;
* `predictions`: the raw probabilities (and, while learning, what else a row holds) of each
  element, or of each window;
* `updates`: the inputs of each update, and the weights that it returned;
* `calibration`: each published prediction, which a mixture or a calibration may have made of raw
  ones, and each that expired;
* `scores`: each score, which holds what the plain forecasters gave.

Updates and roll-backs are reported at the end of a block, and so have a book of their own.
Where a block is cut has no meaning, so that the books of a run that ends after element n are the
beginnings of those of any run that had the same elements up to n, if nothing looks ahead.

What one run took in and made, kept whole, so that a second run can be held against it.

Where two runs over what should be the same series part, and why.

A run is its ticks, the weights it starts from, its updates and its predictions, each in order.
The cause of a difference is the `input` where a tick was missing, added or another before it, the
`weights` where the runs started from others or an update came out otherwise, and else the
`runtime`: the same input and weights gave other bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import msgspec
import numpy as np
import numpy.typing as npt

from ...events import (
    Expiry,
    Input,
    Notice,
    Output,
    Prediction,
    Refusal,
    Rollback,
    Score,
    Ticks,
    Update,
)
from ...typing import Float32s, Float64s, Int64s
from ..outcome import Outcome
from ..replay import Digest
from ..session import SHARED, Session
from ..snapshot import restore, take

Future: TypeAlias = Callable[[np.random.Generator, Int64s, Float64s], tuple[Int64s, Float64s]]

SPREAD = 0.3
"""Standard deviation of the logarithm of the factor between a value and its other."""


def other_values(
    random: np.random.Generator, t_ns: Int64s, values: Float64s
) -> tuple[Int64s, Float64s]:
    """Return values of the same order and sign, so that a price stays one, at later times."""
    late = np.cumsum(random.integers(1, 10**9, len(t_ns)))
    return t_ns + late, values * random.lognormal(0.0, SPREAD, values.shape)


def shuffled(
    random: np.random.Generator, t_ns: Int64s, values: Float64s
) -> tuple[Int64s, Float64s]:
    """Return the same ticks in another order."""
    order = random.permutation(len(t_ns))
    return t_ns[order], values[order]


def scaled(random: np.random.Generator, t_ns: Int64s, values: Float64s) -> tuple[Int64s, Float64s]:
    """Return values a thousand times as large, all of them or in turns of three."""
    steps = 1000.0 if random.integers(2) else 1000.0 ** (1 + np.arange(len(values)) % 3)[:, None]
    return t_ns, values * steps


def turned(random: np.random.Generator, t_ns: Int64s, values: Float64s) -> tuple[Int64s, Float64s]:
    """Return values whose steps go the other way."""
    return t_ns, values[:1] * random.uniform(1.0, 2.0) - (values - values[:1])


def not_finite(
    random: np.random.Generator, t_ns: Int64s, values: Float64s
) -> tuple[Int64s, Float64s]:
    """Return values of which some, and the first, are no numbers."""
    out = values.copy()
    bad = random.random(values.shape) < 0.3
    bad[0] = True
    out[bad] = random.choice([np.nan, np.inf, -np.inf], int(bad.sum()))
    return t_ns, out


FUTURES: Mapping[str, Future] = MappingProxyType(
    {
        "other values": other_values,
        "shuffled": shuffled,
        "scaled": scaled,
        "turned": turned,
        "not finite": not_finite,
    }
)
"""By name; beside them stand the ticks that came, and none at all."""


STAGES = ("features", "scaler", "predictions", "updates", "calibration", "scores")
"""In the order in which one takes from the other."""


BOOKS = {stage: (stage,) for stage in STAGES} | {"updates": ("updates", "reports")}
"""The books of each stage."""


class Entry(NamedTuple):
    """What a stage did for element `n`, or when that was the last one stepped."""

    n: int
    data: bytes


class Call(NamedTuple):
    """One call of the engine: elements `before` + 1 and after it."""

    before: int
    weights: Any
    carry: Float32s
    xs: Float32s


Books: TypeAlias = dict[str, list[Entry]]


class Witness:
    """Watches one session; `books` holds what was entered since `open`.

    session: of one stream; this becomes its listener. While `writing` is False nothing is entered.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.books: Books = {}
        self.calls: list[Call] = []
        self.elements = 0
        self.writing = True
        self._scaler = 1 + 2 * session.engine.shape.features
        session.emit = self._event
        session.watch(self)
        self.open(0)

    def open(self, n: int, *, writing: bool = True) -> None:
        """Begin new books after element `n`, or none."""
        self.writing = writing
        self.books = {name: [] for names in BOOKS.values() for name in names}
        self.calls = []
        self.elements = n

    def state_at(self, n: int) -> tuple[bytes, bytes]:
        """Return the scaler's state and the network's after element `n`.

        They are made from the start of the call that held it; nothing where no call did.
        """
        for call in self.calls:
            if call.before < n <= call.before + len(call.xs):
                xs = call.xs[: n - call.before]
                body, _ = self.session.engine.advance(call.weights, call.carry, xs)
                return body[: self._scaler].tobytes(), body[self._scaler :].tobytes()
        return b"", b""

    # ---- what the session reports -----------------------------------------------------

    def took(self, t_ns: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> None:
        """Take ticks, which the books of a run over the same series need not contain."""

    def made(self, elements: Float32s) -> None:
        """Take elements (m, F) of the maker."""
        if not self.writing:
            return
        book = self.books["features"]
        for row in elements:
            self.elements += 1
            book.append(Entry(self.elements, row.tobytes()))

    def stepped(
        self, before: int, weights: Any, carry: Float32s, xs: Float32s, rows: Float32s
    ) -> None:
        """Take a step over elements xs (m, F) from `carry`, and its rows (m, R)."""
        if not self.writing:
            return
        self.calls.append(Call(before, weights, carry, xs))
        inputs, raw = self.books["scaler"], self.books["predictions"]
        inputs.append(Entry(before + 1, carry[: self._scaler].tobytes()))
        for n, (x, row) in enumerate(zip(xs, rows, strict=True), before + 1):
            inputs.append(Entry(n, x.tobytes()))
            raw.append(Entry(n, row.tobytes()))

    def windowed(self, n: int, p: float) -> None:
        """Take the probability of one window."""
        if self.writing:
            self.books["predictions"].append(Entry(n, np.float32(p).tobytes()))

    def updated(self, n: int, given: tuple[Any, ...], weights: Any, info: Float32s) -> None:
        """Take what an update was given, and made of it."""
        if not self.writing:
            return
        hashed = hashlib.sha256()
        for leaf in jax.tree.leaves((given, weights, info)):
            hashed.update(np.asarray(leaf).tobytes())
        self.books["updates"].append(Entry(n, hashed.digest()))

    def refused(self, index: int, reason: str) -> None:
        """Take a tick that the maker made nothing of."""
        if not self.writing:
            return
        self.books["features"].append(Entry(self.elements + 1, f"{index} {reason}".encode()))

    def _event(self, event: Output) -> None:
        match event:
            case Prediction() | Expiry():
                stage = "calibration"
            case Score():
                stage = "scores"
            case Update() | Rollback():
                stage = "reports"
            case Refusal():
                stage = ""  # the maker has told of it
        if stage and self.writing:
            self.books[stage].append(Entry(event.n, msgspec.msgpack.encode(event)))  # type: ignore[union-attr]


class Recording:
    """Observes a session of one stream, and listens to it.

    Ticks take 8 (C + 1) bytes each, a prediction 12. `refused_ticks` holds the indexes of ticks
    that made no element, `complaints` the reasons of refused messages, `updates` (n, loss, norm
    of the gradient, accepted) of each.
    """

    def __init__(self) -> None:
        self.digest = Digest()
        self.weights = ""
        self.refused_ticks: list[int] = []
        self.complaints: list[str] = []
        self.updates: list[tuple[int, float, float, bool]] = []
        self.ticks = self.lag = 0
        self.uses_time = False
        self.columns: tuple[str, ...] = ()
        self._begin = 0
        self._n: list[int] = []
        self._p: list[float] = []
        self._t_ns: list[npt.NDArray[np.int64]] = []
        self._values: list[npt.NDArray[np.float64]] = []

    def watch(self, session: Session) -> None:
        """Take note of the ticks that come to a session, and of the weights it starts from."""
        self.weights = weights_digest(session.weights_for(SHARED))
        features = session.maker.features
        self.columns, self.lag, self.uses_time = session.columns, features.lag, features.uses_time
        session.watch(self)

    def __call__(self, event: Input | Output | Notice) -> None:
        """Take an event."""
        if isinstance(event, Prediction):
            self.digest.add(event)
            self._n.append(event.n)
            self._p.append(event.p)
        elif isinstance(event, Update):
            self.updates.append((event.n, event.loss, event.grad_norm, event.accepted))
        elif isinstance(event, Refusal) and event.kind != "tick":
            self.complaints.append(event.reason)

    def deliver(self, outcome: Outcome) -> None:
        """Take what came of some ticks."""
        self.digest.add_batch(outcome.predictions)
        self._n += outcome.predictions["n"].tolist()
        self._p += outcome.predictions["p"].tolist()
        for event in outcome.others:
            self(event)

    def took(self, t_ns: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> None:
        """Take ticks that came in."""
        self._t_ns.append(t_ns.copy())
        self._values.append(values.copy())
        self._begin, self.ticks = self.ticks, self.ticks + len(values)

    def refused(self, index: int, reason: str) -> None:
        """Take note of a tick that made no element."""
        del reason
        self.refused_ticks.append(self._begin + index)

    def made(self, elements: Any) -> None:
        """Leave elements to the digest of what came of them, as all that follows."""

    def stepped(self, before: int, weights: Any, carry: Any, xs: Any, rows: Any) -> None:
        """Leave a step."""

    def windowed(self, n: int, p: float) -> None:
        """Leave a window."""

    def updated(self, n: int, given: Any, weights: Any, info: Any) -> None:
        """Leave an update, whose event says what is compared."""

    def values(self) -> npt.NDArray[np.float64]:
        """Return the ticks' values (m, C)."""
        return np.concatenate([np.zeros((0, len(self.columns))), *self._values])

    def times(self) -> npt.NDArray[np.int64]:
        """Return the ticks' times (m,)."""
        return np.concatenate([np.zeros(0, np.int64), *self._t_ns])

    def predictions(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Return n (k,) and p (k,) of the predictions."""
        return np.array(self._n, np.int64), np.array(self._p, np.float32)

    def elements_of(self, ticks: int) -> int:
        """Return how many elements the first so many ticks made."""
        return max(ticks - self.lag - sum(index < ticks for index in self.refused_ticks), 0)


def weights_digest(weights: Any) -> str:
    """Return a digest of the bits of weights."""
    hashed = hashlib.sha256()
    for leaf in jax.tree.leaves(weights):
        hashed.update(np.asarray(leaf).tobytes())
    return hashed.hexdigest()


Cause: TypeAlias = Literal["input", "weights", "runtime"]

AHEAD = 8
"""Ticks that must agree again for a tick to be called missing or added, and not changed."""


class RunDifference(msgspec.Struct, frozen=True):
    """The first difference of two runs.

    tick: the number of the tick, from 1, where the input differs. n: the first prediction that
    does, None where none does. what: it in words.
    """

    cause: Cause
    what: str
    tick: int | None = None
    n: int | None = None


def first_difference(live: Recording, replayed: Recording) -> RunDifference | None:
    """Return where a live run first differs from the replay of its series; None if nowhere."""
    n = _prediction(live, replayed)
    at = _tick(live, replayed)
    if at is not None and (n is None or n > replayed.elements_of(at)):
        return RunDifference("input", _input(live, replayed, at), at + 1, n)
    if live.weights != replayed.weights:
        return RunDifference("weights", "the two runs start from other weights", None, n)
    update = _first(live.updates, replayed.updates)
    if update is not None and (n is None or _update_n(live, replayed, update) < n):
        return RunDifference("weights", _update(live, replayed, update), None, n)
    if n is not None:
        what = f"the prediction after element {n:,} has other bits from the same input and weights"
        return RunDifference("runtime", what, None, n)
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


AS_IT_WAS = "as it was"
"""The run over the whole series, whose block goes on behind the place."""


class Leak(msgspec.Struct, frozen=True):
    """The first byte of a stage that another future changed.

    tick: how many ticks of the series come before the change. element: the n of the last element
    before it. n: the element whose entry differs. future: what came instead.
    """

    stage: str
    tick: int
    element: int
    n: int
    future: str


class CausalCheck:
    """The check of one series.

    main: the session that runs over the whole series; it may deliver to a listener. other: an
    equal one, which goes through the trials, best with the same engine. seed: of the futures.
    """

    def __init__(self, main: Session, other: Session, *, seed: int = 0) -> None:
        self.main = Witness(main)
        self.leak: Leak | None = None
        self.trials = self.comparisons = 0
        self.compared = dict.fromkeys(STAGES, 0)
        self.differing = dict.fromkeys(STAGES, 0)
        self.predictions = 0
        self._other = Witness(other)
        self._seed = seed
        self._ticks = 0

    def push(self, ticks: Ticks, places: Sequence[int] = ()) -> None:
        """Take a block of the series; `places` in it, from 1 to its length - 1, are tried.

        Place k stands for what comes after k ticks of the block.
        """
        session = self.main.session
        held = take(session) if places else b""
        stream = session.streams.get(ticks.stream)
        n = stream.n if stream is not None else 0
        self.main.open(n, writing=bool(places))
        session.push(ticks)
        for place in places:
            self._try(ticks, place, held, n)
        self._ticks += len(ticks.values)

    def _try(self, ticks: Ticks, place: int, held: bytes, n: int) -> None:
        past = ticks.t_ns[:place], ticks.values[:place]
        known = self._run(msgspec.structs.replace(ticks, t_ns=past[0], values=past[1]), held, n)
        at, state = self._other.elements, self._other.state_at(self._other.elements)
        self.trials += 1
        self.predictions += len(known["calibration"])
        self._compare(known, state, self.main, AS_IT_WAS, at, place)
        for kind, future in FUTURES.items():
            random = np.random.default_rng([self._seed, self._ticks + place])
            came = future(random, ticks.t_ns[place:], ticks.values[place:])
            t_ns, values = (np.concatenate(parts) for parts in zip(past, came, strict=True))
            self._run(msgspec.structs.replace(ticks, t_ns=t_ns, values=values), held, n)
            self._compare(known, state, self._other, kind, at, place)

    def _run(self, ticks: Ticks, held: bytes, n: int) -> Books:
        restore(self._other.session, held)
        self._other.open(n)
        self._other.session.push(ticks)
        return self._other.books

    def _compare(
        self,
        known: Books,
        state: tuple[bytes, bytes],
        witness: Witness,
        future: str,
        at: int,
        place: int,
    ) -> None:
        """Compare the books of the reference with those of a run that went on."""
        self.comparisons += 1
        scaler, network = witness.state_at(at) if state[0] else (b"", b"")
        last = {"scaler": (state[0], scaler), "predictions": (state[1], network)}
        found: list[tuple[int, int]] = []
        for index, stage in enumerate(STAGES):
            one, other = last.get(stage, (b"", b""))
            places = [] if one == other else [at]
            self.compared[stage] += len(one)
            for name in BOOKS[stage]:
                self.compared[stage] += sum(len(entry.data) for entry in known[name])
                n = _first_difference(known[name], witness.books[name])
                places += [] if n is None else [n]
            if places:
                self.differing[stage] += 1
                found.append((min(places), index))
        if found and self.leak is None:
            n, index = min(found)
            self.leak = Leak(STAGES[index], self._ticks + place, at, n, future)

    def record(self) -> dict[str, Any]:
        """Return what was found so far; `leak` is None where nothing looks ahead."""
        return {
            "trials": self.trials,
            "futures": [AS_IT_WAS, *FUTURES],
            "comparisons": self.comparisons,
            "predictions_compared": self.predictions,
            "bytes_compared": sum(self.compared.values()),
            "stages": {
                stage: {"bytes": self.compared[stage], "differing": self.differing[stage]}
                for stage in STAGES
            },
            "leak": msgspec.structs.asdict(self.leak) if self.leak else None,
        }


def _first_difference(wanted: list[Entry], found: list[Entry]) -> int | None:
    """Return the element where `found` does not begin as `wanted`; None where it does."""
    for k, entry in enumerate(wanted):
        if k >= len(found) or found[k].data != entry.data:
            return entry.n
    return None
