"""Streams that keep more than their row: they learn, have a bank, or take labels from outside.

Their chunks end with a publication at the latest, since what is predicted next depends on the
labels and the updates before it. A chunk just stepped is reported in this order: the labels of the
series that it brings, the prediction that is due after it, the updates for all labels known since
the last publication; then, for labels from outside, what expires and what counts from now on.

Twins: further forecasts of what is published, scored on the same labels, never published.

* `frozen` has the weights that learning started from, and carries a state of its own.
* `stateless` has the weights of the moment, and starts from a zero state at the start of the
  last W elements.

The first shows what learning brings, the second what the carried state brings.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..config import Config
from ..events import Expiry, Prediction, Refusal
from ..model.buffers import Packed
from ..model.engine import Engine
from ..model.forecaster import Params
from ..model.stepper import MAX_STRIDES_HORIZON, STRIDES_BLOCK
from ..typing import Float32s
from .losses import log_loss
from .outcome import score_of
from .stream import ROOM as MOST_WAITING
from .stream import Owed, Pending, Stream, Waiting
from .table import FLAG_UNTIL

if TYPE_CHECKING:
    from .session import Session


class Forecasts(NamedTuple):
    """What the twins give for one prediction; None for one that is not there."""

    frozen: float | None = None
    stateless: float | None = None


NO_FORECASTS = Forecasts()


class Twins:
    """The twins of a session's streams.

    initial: the weights that learning starts from, if not from random ones. Attributes: `frozen`,
    the weights of the frozen twin, None where there is none.
    """

    def __init__(self, config: Config, engine: Engine, initial: Params | None) -> None:
        self.frozen: Packed | None = None
        if "frozen" in config.scoring.twins:
            self.frozen = engine.pack(initial or engine.init_weights())
        self._stateless = "stateless" in config.scoring.twins
        self._engine, self._window = engine, config.stream.window
        self._windowed = config.model.mode == "window"

    @property
    def carried(self) -> bool:
        """Whether a second state is carried."""
        return self.frozen is not None and not self._windowed

    def step(self, stream: Stream, xs: Float32s) -> float | None:
        """Carry the frozen twin over elements xs (m, F); return its p, None without one."""
        if stream.twin is None or self.frozen is None:
            return None
        self._engine.advance_in_place(self.frozen, stream.twin, xs)
        return float(stream.twin.host[self._engine.scaler_size])

    def forecasts(self, stream: Stream, weights: Packed, p: float | None, n: int) -> Forecasts:
        """Return what the twins give after element n; p: what the frozen one carried gave."""
        frozen, stateless = p, None
        if frozen is None and self.frozen is not None:
            frozen = self._over_window(stream, self.frozen, n)
        if self._stateless:
            stateless = self._over_window(stream, weights, n)
        return Forecasts(frozen, stateless)

    def _over_window(self, stream: Stream, weights: Packed, n: int) -> float:
        assert stream.side is not None
        assert stream.side.tape is not None
        return self._engine.window(weights, stream.side.tape.inputs(n, self._window))


def names(config: Config) -> tuple[str, ...]:
    """Return the names under which further forecasts are scored, in the scoreboard's order."""
    raw = ("raw",) if config.scoring.calibrate else ()
    return raw + tuple(n for n in ("frozen", "stateless") if n in config.scoring.twins)


LEAST_STRIDES = 2
"""One stride alone is better stepped by itself."""


class SidedStreams:
    """Reports and learns for the streams of a session that have a `stream.Side`."""

    def __init__(self, session: Session) -> None:
        self.session = session
        config = session.config
        self._stride, self._horizon = config.stream.stride, config.stream.horizon
        by_strides = session.learning.length > 0 and not session.external
        by_strides &= (
            self._stride * LEAST_STRIDES <= STRIDES_BLOCK and self._horizon <= MAX_STRIDES_HORIZON
        )
        self._by_strides = by_strides and not config.scoring.twins
        start = session.engine.scaler_size
        self._given = slice(start, start + session.engine.stepper.members)
        # What is predicted follows from the tape, from labels that were scored, or from neither.
        scored_first = session.members is not None or config.scoring.calibrate
        taped_first = session.external or session.engine.windowed or bool(config.scoring.twins)
        self._publish_first = not scored_first and not taped_first

    def whole_strides(self, stream: Stream, count: int) -> int:
        """Return how many whole strides of the next elements can be one call, or 0."""
        if not self._by_strides:
            return 0
        stride, side = self._stride, stream.side
        assert side is not None
        oldest = stream.due - -(-self._horizon // stride) * stride
        begins = stream.due - stream.n == stride and not side.owed
        waits = bool(stream.waiting) and stream.waiting[0].n == oldest
        if not (begins and waits and self.session.engine.exact_strides):
            return 0
        if until := self.session.config.learning.learn_until:
            count = min(count, until - stream.n)
        whole = min(count, STRIDES_BLOCK) // stride
        if (watch := stream.learned.watch) is not None:
            whole = min(whole, watch.room)
        return whole if whole >= LEAST_STRIDES else 0

    def chunk_of_strides(self, stream: Stream, times: list[int], xs: Float32s) -> None:
        """Step over whole strides with the updates at their ends, in one call."""
        side, learned, stride = stream.side, stream.learned, self._stride
        assert side is not None
        assert side.tape is not None
        self._users(stream)
        self.session.learning.preserve(learned)
        given = learned.weights, learned.optimizer, side.trace
        past = side.tape.newest(self.session.engine.strides.past)
        moved, rows, infos = self.session.engine.run_strides(
            given, stream.carry, past, xs, (stride, self._horizon)
        )
        learned.weights, learned.optimizer, side.trace = moved
        positive = xs[:, 0] > 0
        members = self.session.engine.stepper.members
        side.tape.append(rows[:, members:], positive)
        before, signs = stream.n, positive.tolist()
        for k, info in enumerate(infos):
            part = slice(k * stride, (k + 1) * stride)
            stream.n = before + part.stop
            last = rows[part.stop - 1, :members]
            self._report(stream, before + part.start, times[part], signs[part], last, None, info)

    def report_chunk(
        self,
        stream: Stream,
        before: int,
        times: list[int],
        positive: list[bool],
        out: Any,
        xs: Float32s,
    ) -> None:
        """Report a chunk just stepped, which ends with a publication or before it."""
        # The last element left what the members gave in the carry.
        last = stream.carry.host[self._given]
        if self._publish_first:
            self._report(stream, before, times, positive, last, None, None, out)
            return
        twin = self.session.twins.step(stream, xs)
        self._keep(stream, positive, out)
        self._report(stream, before, times, positive, last, twin, None)
        if self.session.external:
            for pending in self.session.labels.expired(stream, times[-1]):
                self.session.reach(stream, stream.n)
                self.session.out.append(Expiry(stream.name, pending.n))
            self.settle(stream)

    def _keep(self, stream: Stream, positive: list[bool], out: Any) -> None:
        """Put a chunk just stepped on the tape."""
        side, members = stream.side, self.session.engine.stepper.members
        assert side is not None
        if side.tape is not None:
            rows = self.session.engine.rows(out, len(positive))
            side.tape.append(rows[:, members:], np.array(positive))

    def _report(
        self,
        stream: Stream,
        before: int,
        times: list[int],
        positive: list[bool],
        p: Float32s | None,
        twin: float | None,
        info: Float32s | None,
        out: Any = None,
    ) -> None:
        """Score and predict over a chunk just stepped, then learn where a prediction ended it.

        p: what the members gave after its last element. info: what came of the update (3,), where
        it has been made already. out: what is still to be put on the tape, None for nothing.
        """
        made, records = int(stream.due == stream.n), list[Any]()
        waiting, horizon, known = stream.waiting, self._horizon, []
        while waiting and waiting[0].n + horizon <= stream.n:
            one = waiting.popleft()
            k = one.n + horizon - before - 1
            known.append((one, k, 1 if positive[k] else 0))
            stream.labelled(known[-1][2], one.last_label)
        if made and self._publish_first:
            records = self._predict(stream, times[-1], 1 if positive[-1] else 0, p, twin)
        if out is not None:
            self._keep(stream, positive, out)
        for one, k, label in known:
            self._score(stream, one, label, times[k], one.n + horizon)
        if made and not self._publish_first:
            records = self._predict(stream, times[-1], 1 if positive[-1] else 0, p, twin)
        if made:
            self.session.reach(stream, stream.n)
        self.session.out += records
        if made:
            self.learn(stream, info)
        stream.moved(0, made)
        stream.left = min(stream.due - stream.n, MOST_WAITING)

    def _predict(
        self, stream: Stream, t_ns: int, positive: int, p: Float32s | None, twin: float | None
    ) -> list[Any]:
        """Make and publish the prediction that is due; return what is to be reported, in order."""
        side, n, weights = stream.side, stream.n, stream.learned.weights
        assert side is not None
        assert p is not None
        inputs = None
        if self.session.config.model.mode == "window":
            assert side.tape is not None
            inputs = side.tape.inputs(n, self.session.config.stream.window)
        known, raw = self.combined(stream, p, inputs)
        aside = NO_FORECASTS
        if self.session.config.scoring.twins:
            aside = self.session.twins.forecasts(stream, weights, twin, n)
        last = stream.last_label if self.session.external else positive
        labels = stream.labels + 1.0
        repeat = (stream.repeats + 0.5) / labels
        last_p = 0.5 if last < 0 else repeat if last else 1.0 - repeat
        base_p = (stream.positives + 0.5) / labels
        experts = None if side.mixture is None else p.copy()
        one = Waiting(n, known, base_p, last_p, last, stream.source, raw, *aside, experts)
        expired = self._await(stream, one, t_ns)
        reported: Any = ()
        if side.mixture is not None and self.session.config.learning.publish_experts:
            reported = side.mixture.experts(self.session.engine.names, p)
        flagged = n <= stream.view[stream.row, FLAG_UNTIL]
        prediction: Any = (
            stream.name, n, t_ns, known, stream.source, stream.visible, flagged, reported
        )  # fmt: skip
        stream.due += self._stride
        if self.session.publish is not None:
            prediction = Prediction(*prediction)
            self.session.publish(prediction)
        records: list[Any] = [] if expired is None else [Expiry(stream.name, expired.n)]
        records.append(prediction)
        for missed in self.session.labels.predicted(stream, n) if self.session.external else ():
            reason = "no prediction was made there: it fell into a gap"
            records.append(Refusal(stream.name, "label", reason, where=f"n={missed}"))
        return records

    def combined(
        self, stream: Stream, p: Float32s, inputs: Float32s | None
    ) -> tuple[float, float | None]:
        """Return the probability to publish, and the one before recalibration if there is any.

        p: what the members gave, (M,). inputs: the scaled window (W, F), where it counts instead.
        """
        side = stream.side
        assert side is not None
        if inputs is not None:
            known = self.session.engine.window(stream.learned.weights, inputs)
        else:
            known = float(p[0]) if side.mixture is None else side.mixture.mix(p)
        if side.recalibration is None:
            return known, None
        return side.recalibration.apply(known), known

    def _await(self, stream: Stream, one: Waiting, t_ns: int) -> Pending | None:
        """Enter a prediction that waits for its label; return one that had to leave for it."""
        if not self.session.external:
            stream.waiting.append(one)
            return None
        pending = Pending(*one[:6], t_ns, *one[6:])
        side = stream.side
        assert side is not None
        if self.session.learning.length and side.tape is not None:
            pending.inputs, pending.state = self.session.learning.tape(side.tape, one.n)
        return side.ledger.add(pending, self.session.config.stream.max_pending)

    def _score(
        self,
        stream: Stream,
        one: Waiting | Pending,
        label: int,
        t_ns: int,
        at: int,
        tape: tuple[Any, Any] = (None, None),
    ) -> None:
        """Score a prediction whose label became known at element `at`."""
        side, due = stream.side, self.session.learning.due(at)
        assert side is not None
        if side.mixture is not None and one.experts is not None and due:
            side.mixture.update(one.experts, label)
        plain = one.base_rate_p, one.last_label_p
        aside = one.raw_p, one.frozen_p, one.stateless_p
        others = tuple(p for p in aside if p is not None)
        loss, *log_e = self.session.scores.add(
            stream.row, label, one.last_label, one.p, *plain, others
        )
        if due and (tape[0] is not None or not self.session.external):
            base_loss = log_loss(one.base_rate_p, label)
            side.owed.append(Owed(one.n, label, loss, base_loss, *tape))
        if side.recalibration is not None and one.raw_p is not None:
            side.recalibration.update(one.raw_p, label)
        self.session.reach(stream, at)
        if self.session.wants_scores:
            self.session.out.append(score_of(stream.name, one, t_ns, label, loss, log_e))

    def settle(self, stream: Stream, *, all_of_them: bool = False) -> None:
        """Score the labels from outside that count now."""
        if not self.session.external:
            return
        for held in self.session.labels.settled(stream, all_of_them=all_of_them):
            pending, truth = held.pending, held.truth
            stream.last_label = truth.label
            tape = pending.inputs, pending.state
            stream.labelled(truth.label, pending.last_label)
            self._score(stream, pending, truth.label, truth.t_ns, stream.n, tape)
        stream.moved(0, 0)

    def learn(self, stream: Stream, info: Float32s | None = None) -> None:
        """Make the updates that a stream is owed."""
        side = stream.side
        if side is not None and side.owed:
            users = self._users(stream)
            self.session.out += self.session.learning.learn(stream, users, info)

    def _users(self, stream: Stream) -> Collection[Stream]:
        """Return the streams that have a stream's weights, before these are changed.

        Ticks that came before an update are stepped with the weights before it.
        """
        if not self.session.shared:
            return [stream]
        self.session.flush_all()
        return self.session.active.values()
