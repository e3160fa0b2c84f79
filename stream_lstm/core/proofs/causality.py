"""Check that nothing that comes after element n changes a byte of the past.

A session is deterministic and continues from a snapshot, so the check is a comparison of arrays. A
trial cuts a block of ticks at one position into a past and a future. The session processes the
past alone, where it cannot look ahead. Then, for the future that came and for each altered one,
two runs start from snapshots:

* split: the past first, then the future in a second call;
* joined: past and future in one call, where a look-ahead can use the future.

Three comparisons follow. The features, and the rows that the engine computes for them, are pure
functions of arrays: the future must not change those of the past. The joined run must start
with the records that the past alone gave. Both runs must end in the same state: carry, scaler,
weights, optimiser, tape, scores and counters.

A trial costs a few blocks and not a replay, however long the series is. A leak is in the stage
that differs at the earliest element, and of several in the first of `STAGES`. Features and scaler
depend on no later stage, so a difference there is always theirs. A difference of the state alone
ranks after those of entries.

Check whether a column of the data contains the label in advance, which no replay shows.

A column, or its change from tick to tick, is compared with the target of its own element and with
that of the labelled one, h elements later, in two ways: the correlation, and how often column and
target are both positive or both not. A column looks ahead if one of them is above 0.99 for the
labelled element, and falls short of 1 by less than a tenth of what it does for its own: a target
that hardly changes is related to the past as closely as to the future.

The check stores sums only. It finds a column that is the label, the next target or the next price,
but not a column that is a mean over both sides.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np

from ...events import Output, Refusal, Ticks
from ...typing import Bools, Float64s, Int64s
from ..elements import ElementMaker
from ..learning import copies
from ..session import Session
from ..snapshot import freeze, restore, take
from ..stream import StreamExtras

CLOSE = 0.99
"""A relation above this is not that of a forecast."""

SHARE = 0.1
"""Of the distance from 1 of a column's relation with its own element."""

LEAST_PAIRS = 100

KINDS = ("value", "change")


class LookAhead:
    """The check of one series.

    maker: makes the target from the columns of the ticks. horizon: elements from an element to its
    label.
    """

    def __init__(self, maker: ElementMaker, horizon: int) -> None:
        self.columns = maker.columns
        self.pairs = 0
        self._maker, self._horizon = maker, horizon
        self._memory = maker.empty()
        width = len(KINDS) * len(self.columns)
        self._last = np.full((1, len(self.columns)), np.nan)
        self._unlabelled = np.zeros((0, width + 1))
        self._origin: Float64s | None = None
        self._next, self._own = _Relations(width), _Relations(width)

    def push(self, ticks: Ticks) -> None:
        """Take a block of ticks; those that make no element are left out."""
        good = np.ones(len(ticks.values), np.bool_)

        def refused(index: int, _: str) -> None:
            good[index] = False

        made = self._maker.make(self._memory, ticks.t_ns, ticks.values, refused)
        target = np.concatenate([np.zeros(0), *(elements[:, 0] for _, elements in made)])
        values = ticks.values[good]
        changes = np.diff(values, axis=0, prepend=self._last)
        if not len(target):
            self._last = values[-1:] if len(values) else self._last
            return
        self._last = values[-1:]
        rows = np.column_stack([values, changes])[-len(target) :]
        if self._origin is None:
            self._origin = np.nan_to_num(rows[0])
        both = np.concatenate([self._unlabelled, np.column_stack([rows, target])])
        columns, own, ahead = both[:, :-1], both[:, -1], both[self._horizon :, -1]
        columns, own = columns[: len(ahead)], own[: len(ahead)]
        whole = np.isfinite(columns).all(axis=1)  # the first tick has no change
        columns, own, ahead = columns[whole], own[whole], ahead[whole]
        self.pairs += len(columns)
        self._next.add(columns - self._origin, columns > 0, ahead)
        self._own.add(columns - self._origin, columns > 0, own)
        self._unlabelled = both[-self._horizon :]

    def found(self) -> list[dict[str, Any]]:
        """Return the columns that contain the label, each with the closest relation.

        `kind` is `value` or `change`, `relation` is `correlation` or `sign`, `next` and `own` are
        its sizes with the labelled and with the column's own element, 0 to 1.
        """
        out: dict[str, dict[str, Any]] = {}
        for relation in ("correlation", "sign") if self.pairs >= LEAST_PAIRS else ():
            ahead, own = (getattr(r, relation)() for r in (self._next, self._own))
            short = 1.0 - ahead
            close = (short < 1.0 - CLOSE) & (short < SHARE * (1.0 - own))
            if relation == "sign":  # a constant agrees with a rare sign as often
                close &= short < SHARE * self._next.rarer()
            for k in np.flatnonzero(close).tolist():
                kind, column = divmod(k, len(self.columns))
                name = self.columns[column]
                sizes = {"next": float(ahead[k]), "own": float(own[k])}
                found = {"column": name, "kind": KINDS[kind], "relation": relation, **sizes}
                out.setdefault(name, found)
        return list(out.values())


class _Relations:
    """Sums over pairs of K columns and one target."""

    def __init__(self, width: int) -> None:
        self._n = self._positive = 0
        self._x, self._xx, self._xy, self._same = np.zeros((4, width))
        self._y = self._yy = 0.0

    def add(self, x: Float64s, positive: Bools, y: Float64s) -> None:
        """Take columns x (m, K), which of them are positive, and targets y (m,)."""
        self._n += len(y)
        self._x += x.sum(axis=0)
        self._xx += (x * x).sum(axis=0)
        self._xy += x.T @ y
        self._y += float(y.sum())
        self._yy += float(y @ y)
        self._same += (positive == (y > 0)[:, None]).sum(axis=0)
        self._positive += int((y > 0).sum())

    def correlation(self) -> Float64s:
        """Return |r| (K,), 0 for a constant."""
        n = max(self._n, 1)
        covariance = self._xy - self._x * self._y / n
        variances = np.maximum(self._xx - self._x**2 / n, 0.0) * max(
            self._yy - self._y**2 / n, 0.0
        )
        return np.clip(
            np.abs(covariance) / np.sqrt(np.where(variances > 0, variances, np.inf)), 0.0, 1.0
        )

    def sign(self) -> Float64s:
        """Return how often (K,) the signs agree, or disagree if that is more often."""
        share = self._same / max(self._n, 1)
        return np.maximum(share, 1.0 - share)

    def rarer(self) -> float:
        """Return the share of the rarer sign of the target."""
        return min(self._positive, self._n - self._positive) / max(self._n, 1)


Future: TypeAlias = Callable[[np.random.Generator, Int64s, Float64s], tuple[Int64s, Float64s]]
"""Other ticks instead of those at `t_ns` (m,) with `values` (m, C), from a seeded generator."""

SPREAD = 0.3
"""Standard deviation of the logarithm of the factor between a value and its replacement."""


def other_values(
    random: np.random.Generator, t_ns: Int64s, values: Float64s
) -> tuple[Int64s, Float64s]:
    """Return later times, and values of the same sign and magnitude: a price stays a price."""
    delays = np.cumsum(random.integers(1, 10**9, len(t_ns)))
    return t_ns + delays, values * random.lognormal(0.0, SPREAD, values.shape)


def shuffled(
    random: np.random.Generator, t_ns: Int64s, values: Float64s
) -> tuple[Int64s, Float64s]:
    """Return the same ticks in another order."""
    order = random.permutation(len(t_ns))
    return t_ns[order], values[order]


def scaled(random: np.random.Generator, t_ns: Int64s, values: Float64s) -> tuple[Int64s, Float64s]:
    """Return values times 1000, or times 1000, 10^6 and 10^9 in turn."""
    steps = 1000.0 if random.integers(2) else 1000.0 ** (1 + np.arange(len(values)) % 3)[:, None]
    return t_ns, values * steps


def turned(random: np.random.Generator, t_ns: Int64s, values: Float64s) -> tuple[Int64s, Float64s]:
    """Return values whose steps have the opposite sign."""
    return t_ns, values[:1] * random.uniform(1.0, 2.0) - (values - values[:1])


def not_finite(
    random: np.random.Generator, t_ns: Int64s, values: Float64s
) -> tuple[Int64s, Float64s]:
    """Return values of which the first row and 30 % of the others are NaN or infinite."""
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
"""The altered futures."""

AS_IT_WAS = "as it was"
"""The future that came."""

STAGES = ("features", "scaler", "predictions", "updates", "calibration", "scores")
"""In the order in which one depends on the other.

`predictions` are raw; a bank or a recalibration makes the published ones of them in `calibration`.
"""

UPSTREAM = STAGES[:2]
"""Stages that depend on no later one."""

CONTINUED = (("features", "element"), ("scaler", "input"))
"""Entries that do not depend on weights, so that those of the future can be compared too."""

RECORDS: Mapping[str, str] = MappingProxyType(
    {
        "Prediction": "calibration",
        "Expiry": "calibration",
        "Score": "scores",
        "Update": "updates",
        "Rollback": "updates",
    }
)
"""The stage of each record; what is refused is compared with the features."""


class Entry(NamedTuple):
    """What a stage computed for element `n`."""

    n: int
    data: bytes


Entries: TypeAlias = dict[tuple[str, str], list[Entry]]
"""By stage and by kind."""

State: TypeAlias = dict[str, bytes]
"""By stage."""


class Leak(msgspec.Struct, frozen=True):
    """The first byte of a stage that another future changed.

    tick: ticks of the series before the change. element: the last element before it. n: the first
    element that differs. future: what came instead.
    """

    stage: str
    tick: int
    element: int
    n: int
    future: str


class CausalCheck:
    """The check of one series.

    main: the session that processes the whole series; nothing is added to it. other: an equal
    session that runs the trials, best with the same engine. seed: of the futures.
    """

    def __init__(self, main: Session, other: Session, *, seed: int = 0) -> None:
        self.leak: Leak | None = None
        self.trials = self.comparisons = self.predictions = 0
        self.compared = dict.fromkeys(STAGES, 0)
        self.differing = dict.fromkeys(STAGES, 0)
        self._main, self._other, self._seed = main, other, seed
        self._ticks = 0

    def push(self, ticks: Ticks, places: Sequence[int] = ()) -> None:
        """Push a block of the series, and cut it at `places`, from 1 to its length - 1."""
        start = take(self._main) if places else b""
        self._main.push(ticks)
        for place in places:
            self._try(ticks, place, start)
        self._ticks += len(ticks.values)

    def _try(self, ticks: Ticks, place: int, start: bytes) -> None:
        session = self._other

        def push(snapshot: bytes, t_ns: Int64s, values: Float64s) -> Entries:
            restore(session, snapshot)
            entries = _computed(session, ticks.stream, t_ns, values)
            outputs: list[Output] = []
            session.emit = outputs.append
            session.push(msgspec.structs.replace(ticks, t_ns=t_ns, values=values))
            session.look()  # steps over ticks that wait
            return _with_records(entries, outputs, session)

        past = ticks.t_ns[:place], ticks.values[:place]
        known, after, n = push(start, *past), take(session), session.streams[ticks.stream].n
        self.trials += 1
        self.predictions += len(known["calibration", "Prediction"])
        for name in (AS_IT_WAS, *FUTURES):
            future = ticks.t_ns[place:], ticks.values[place:]
            if name != AS_IT_WAS:
                random = np.random.default_rng([self._seed, self._ticks + place])
                future = FUTURES[name](random, *future)
            rest = push(after, *future)
            split = _state(session)
            t_ns, values = (np.concatenate(pair) for pair in zip(past, future, strict=True))
            joined = push(start, t_ns, values)
            wanted = {
                key: entries + rest[key] if key in CONTINUED else entries
                for key, entries in known.items()
            }
            found = self._compare((wanted, joined), (split, _state(session)), n)
            if found is not None and self.leak is None:
                stage, first = found
                self.leak = Leak(stage, self._ticks + place, n, first, name)

    def _compare(
        self, entries: tuple[Entries, Entries], states: tuple[State, State], last: int
    ) -> tuple[str, int] | None:
        """Return the stage of a leak and the first element that differs, None if there is none.

        entries: those that the joined run must start with, and its own. states: after the split
        run, and after the joined one. last: the last element of the past.
        """
        self.comparisons += 1
        differing: dict[str, tuple[int, int]] = {}  # the first element, and what ties break by
        for (stage, kind), wanted in entries[0].items():
            self.compared[stage] += sum(len(entry.data) for entry in wanted)
            n = _first_difference(wanted, entries[1][stage, kind])
            if n is not None:
                found = n, STAGES.index(stage)
                differing[stage] = min(found, differing.get(stage, found))
        for rank, (stage, state) in enumerate(states[0].items()):
            self.compared[stage] += len(state)
            if state != states[1][stage]:
                differing.setdefault(stage, (last + 1, rank))
        for stage in differing:
            self.differing[stage] += 1
        if not differing:
            return None
        leak = min(differing, key=lambda stage: (stage not in UPSTREAM, differing[stage]))
        return leak, min(last, *(n for n, _ in differing.values()))

    def record(self) -> dict[str, Any]:
        """Return the results so far; `leak` is None if nothing looks ahead."""
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


def _computed(session: Session, stream: str, t_ns: Int64s, values: Float64s) -> Entries:
    """Return what the pure functions of a session compute for ticks: features, engine's rows.

    The engine steps with the weights of now: a learning session replaces them between elements.
    """
    entries: Entries = defaultdict(list)
    session.place(stream)
    view, engine = session.streams[stream], session.engine
    n, carry = view.n, view.carry
    weights = session.learner_for(stream).weights
    features, refused = entries["features", "element"], entries["features", "refusal"]
    sifted = list(session.maker.sift(view.memory, t_ns, values))
    for part in sifted:
        for before, index, reason in part.refused:
            refused.append(Entry(n + len(features) + before + 1, f"{index} {reason}".encode()))
        for k, element in enumerate(part.elements, n + len(features) + 1):
            features.append(Entry(k, element.tobytes()))
    elements = [part.elements for part in sifted if len(part.elements)]
    if elements:
        members, width = engine.stepper.members, engine.shape.features
        _, rows = engine.advance(weights, carry, np.concatenate(elements))
        for k, row in enumerate(rows, n + 1):
            entries["scaler", "input"].append(Entry(k, row[members : members + width].tobytes()))
            entries["predictions", "row"].append(Entry(k, row.tobytes()))
    return entries


def _with_records(entries: Entries, outputs: list[Output], session: Session) -> Entries:
    """Return entries with those of the records of a session added."""
    calibrated = session.config.scoring.calibrate
    raw = {"Score": "raw_p"} if calibrated else {} if session.members else {"Prediction": "p"}
    for event in outputs:
        if isinstance(event, Refusal):
            continue
        kind, encoded = type(event).__name__, msgspec.msgpack.encode(event)
        entries[RECORDS[kind], kind].append(Entry(event.n, encoded))
        if kind in raw:
            p = np.float64(getattr(event, raw[kind]))
            entries["predictions", kind].append(Entry(event.n, p.tobytes()))
    return entries


def _state(session: Session) -> State:
    """Return the state of a session of one stream, by stage: weights before what they change."""
    frozen = freeze(session)
    table, size = frozen.table, session.engine.scaler_size
    extras = frozen.extras.get(0, StreamExtras())
    state: dict[str, Any] = {
        "features": (
            table.memory_t,
            table.memory_v,
            table.last,
            frozen.memories,
            frozen.board,
        ),
        "scaler": table.carry[:, :size],
    }
    if session.config.learning.learn:
        weights = [
            (copies(learner.weights), copies(learner.optimizer), learner.monitor)
            for learner in session.learners.values()
        ]
        state["updates"] = weights, extras.trace, extras.updates
    state |= {
        "predictions": (table.carry[:, size:], extras.tape, extras.twin),
        "calibration": (
            table.pending,
            extras.pending,
            extras.ledger,
            extras.mixture,
            extras.recalibration,
        ),
        "scores": (frozen.scores, table.ints),
    }
    return {stage: _encode(part) for stage, part in state.items()}


_encode = msgspec.msgpack.Encoder(enc_hook=lambda array: np.asarray(array).tobytes()).encode


def _first_difference(wanted: list[Entry], found: list[Entry]) -> int | None:
    """Return the first element where `found` does not start with `wanted`; None if it does."""
    for k, entry in enumerate(wanted):
        if k >= len(found) or found[k].data != entry.data:
            return entry.n
    return None
