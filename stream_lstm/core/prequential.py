"""The prequential loop of a stream: score known labels, publish the prediction, then learn.

Elements are stepped in chunks. A chunk is reported in segments that end where a prediction is due,
in this order: the labels that its elements bring, the prediction that is due after it, the updates
for all labels known since the last publication. For external labels, predictions that expire and
labels that are settled follow. A stream with a `StreamExtras` is stepped in chunks of at most one
segment, since its next prediction depends on the labels and the updates before it.

Twins are further forecasts of what is published. They are scored on the same labels and never
published:

* `frozen` has the weights that learning started from, and carries a state of its own;
* `stateless` has the present weights, and starts from a zero state W elements back.

The first shows what learning is worth, the second what the carried state is worth.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import Config
from ..events import Expiry, Prediction, Refusal
from ..model.engine import Engine
from ..model.forecaster import Params
from ..model.runtime import Packed, SharedArray, aligned_zeros
from ..model.stepper import MAX_STRIDES_HORIZON, STRIDES_BLOCK
from ..typing import Float32s
from .labels import LedgerEntry
from .losses import log_loss
from .outcome import LabelledRow, score_of
from .scores import plain_forecasts
from .stream import MAX_QUEUED, DueUpdate, Stream
from .table import FLAG_UNTIL, PendingPrediction

if TYPE_CHECKING:
    from .session import Session

MIN_STRIDES = 2
"""A single stride is faster stepped by itself."""


def further_forecasts(config: Config) -> tuple[str, ...]:
    """Return the names of the further forecasts that are scored, in the scoreboard's order."""
    raw = ("raw",) if config.scoring.calibrate else ()
    return raw + tuple(n for n in ("frozen", "stateless") if n in config.scoring.twins)


class Twins:
    """The twins of a session's streams.

    initial: the weights that learning starts from, None for random ones. Attributes: `frozen`, the
    weights of the frozen twin, None without one; `carried`, whether it carries a state.
    """

    def __init__(self, config: Config, engine: Engine, initial: Params | None) -> None:
        self.frozen: Packed | None = None
        if "frozen" in config.scoring.twins:
            self.frozen = engine.pack(initial or engine.init_weights())
        self.carried = self.frozen is not None and config.model.mode != "window"
        self._stateless = "stateless" in config.scoring.twins
        self._engine, self._window = engine, config.stream.window

    def step(self, stream: Stream, xs: Float32s) -> float | None:
        """Carry the frozen twin over elements xs (m, F); return its p, None without one."""
        if stream.twin is None or self.frozen is None:
            return None
        self._engine.advance_in_place(self.frozen, stream.twin, xs)
        return float(stream.twin.host[self._engine.scaler_size])

    def forecasts(self, stream: Stream, p: float | None) -> tuple[float | None, float | None]:
        """Return p of the frozen and the stateless twin, None without; p: of the carried one."""
        if p is None and self.frozen is not None:
            p = self._over_window(stream, self.frozen)
        return p, self._over_window(stream, stream.learner.weights) if self._stateless else None

    def _over_window(self, stream: Stream, weights: Packed) -> float:
        assert stream.extras is not None
        assert stream.extras.tape is not None
        return self._engine.window(weights, stream.extras.tape.inputs(stream.n, self._window))


class Prequential:
    """Scores, predicts and learns for the streams of a session."""

    def __init__(self, session: Session) -> None:
        self.session = session
        config, engine = session.config, session.engine
        self._stride, self._horizon = config.stream.stride, config.stream.horizon
        self._windowed = config.model.mode == "window"
        by_strides = session.learning.length > 0 and not session.external
        by_strides &= self._stride * MIN_STRIDES <= STRIDES_BLOCK
        by_strides &= self._horizon <= MAX_STRIDES_HORIZON
        self._by_strides = by_strides and not config.scoring.twins
        self._members, self._spare = (
            engine.stepper.members,
            SharedArray(aligned_zeros((engine.width,))),
        )
        self._p = slice(engine.scaler_size, engine.scaler_size + self._members)
        # Publish as early as possible: before labels are scored and the tape is extended, unless
        # the prediction depends on either.
        on_scores = session.members is not None or config.scoring.calibrate
        on_tape = session.external or engine.windowed or bool(config.scoring.twins)
        self._publish_first = not on_scores and not on_tape

    # ---- stepping ---------------------------------------------------------------------

    def whole_strides(self, stream: Stream, count: int) -> int:
        """Return how many whole strides of the next `count` elements can be one call, or 0."""
        extras, stride = stream.extras, self._stride
        if extras is None or not self._by_strides:
            return 0
        oldest = stream.due - -(-self._horizon // stride) * stride
        begins = stream.due - stream.n == stride and not extras.updates
        waits = bool(stream.pending) and stream.pending[0].n == oldest
        if not (begins and waits and self.session.engine.exact_strides):
            return 0
        if until := self.session.config.learning.learn_until:
            count = min(count, until - stream.n)
        whole = min(count, STRIDES_BLOCK) // stride
        if (monitor := stream.learner.monitor) is not None:
            whole = min(whole, monitor.updates_left)
        return whole if whole >= MIN_STRIDES else 0

    def step_strides(self, stream: Stream, times: list[int], xs: Float32s) -> None:
        """Step over whole strides, with the updates at their ends, in one call."""
        extras, learner, stride = stream.extras, stream.learner, self._stride
        assert extras is not None
        assert extras.tape is not None
        self._users(stream)
        self.session.learning.preserve(learner)
        state = learner.weights, learner.optimizer, extras.trace
        past = extras.tape.newest(self.session.engine.strides.past)
        moved, rows, infos = self.session.engine.run_strides(
            state, stream.carry, past, xs, (stride, self._horizon)
        )
        learner.weights, learner.optimizer, extras.trace = moved
        positive = xs[:, 0] > 0
        extras.tape.append(rows[:, self._members :], positive)
        signs = positive.tolist()
        for k, info in enumerate(infos):
            part = slice(k * stride, (k + 1) * stride)
            stream.n += stride
            p = rows[part.stop - 1, : self._members]
            self._report(stream, times[part], signs[part], p, info=info)

    def report(self, stream: Stream, times: list[int], xs: Float32s, out: Any) -> None:
        """Report a chunk xs (m, F) that was just stepped; out: what `Engine.rows` reads."""
        session, extras = self.session, stream.extras
        before, end = stream.n, stream.n + len(xs)
        positive, start = (xs[:, 0] > 0).tolist(), 0
        if stream.due < end:
            rows = session.engine.rows(out, len(xs))
            while stream.due < end:
                stop = stream.due - before
                stream.n = stream.due
                self._report(stream, times[start:stop], positive[start:stop], rows[stop - 1])
                start = stop
        stream.n = end
        p = stream.carry.host[self._p]  # the last element left it in the carry
        twin = None if extras is None else session.twins.step(stream, xs)
        taped = None if extras is None or extras.tape is None else out
        self._report(stream, times[start:], positive[start:], p, twin=twin, out=taped)
        if session.external:
            for entry in session.labels.expired(stream, times[-1]):
                session.report_refused(stream, stream.n)
                session.out.append(Expiry(stream.name, entry.n))
            self.settle(stream)

    def _report(
        self,
        stream: Stream,
        times: list[int],
        positive: list[bool],
        p: Float32s,
        *,
        twin: float | None = None,
        info: Float32s | None = None,
        out: Any = None,
    ) -> None:
        """Report a segment that ends with element `stream.n`.

        p: the members' probabilities (M,) after it. twin: that of the frozen twin. info: the
        result of an update that was made already. out: what is still to be put on the tape.
        """
        session, pending, horizon = self.session, stream.pending, self._horizon
        first, due = stream.n - len(times) + 1, stream.due == stream.n
        labelled, records = [], list[Any]()
        while pending and pending[0].n + horizon <= stream.n:
            one = pending.popleft()
            k = one.n + horizon - first
            label = 1 if positive[k] else 0
            labelled.append((one, label, times[k]))
            stream.labelled(label, one.last_label)
        last = 1 if positive and positive[-1] else 0
        if due and self._publish_first:
            records = self._predict(stream, times[-1], last, p, twin)
        if out is not None:
            assert stream.extras is not None
            assert stream.extras.tape is not None
            rows = session.engine.rows(out, len(times))
            stream.extras.tape.append(rows[:, self._members :], np.array(positive))
        for one, label, t_ns in labelled:
            self._score(stream, one, label, t_ns, one.n + horizon)
        if due:
            if not self._publish_first:
                records = self._predict(stream, times[-1], last, p, twin)
            session.report_refused(stream, stream.n)
            session.out += records
            self.learn(stream, info)
        stream.moved(int(due))
        stream.room = min(stream.due - stream.n, MAX_QUEUED)

    # ---- predictions ------------------------------------------------------------------

    def _predict(
        self, stream: Stream, t_ns: int, last: int, p: Float32s, twin: float | None
    ) -> list[Any]:
        """Make and publish the prediction that is due; return the records of it, in order.

        last: the last label of the series, 0 or 1.
        """
        session, extras, n = self.session, stream.extras, stream.n
        raw = experts = None
        twins: tuple[float | None, float | None] = None, None
        shown: Any = ()
        if extras is None:
            published = float(p[0])
        else:
            inputs = None
            if self._windowed:
                assert extras.tape is not None
                inputs = extras.tape.inputs(n, session.config.stream.window)
            published, raw = self.combined(stream, p, inputs)
            if session.config.scoring.twins:
                twins = session.twins.forecasts(stream, twin)
            if extras.mixture is not None:
                experts = p.copy()
                if session.config.learning.publish_experts:
                    shown = extras.mixture.experts(session.engine.names, p)
        last = stream.last_label if session.external else last
        plain = plain_forecasts(stream.labels, stream.positives, stream.repeats, last)
        one = PendingPrediction(n, published, *plain, last, stream.run_id, raw, *twins, experts)
        expired = self._add(stream, one, t_ns)
        flagged = n <= stream.view[stream.row, FLAG_UNTIL]
        prediction = Prediction(
            stream.name, n, t_ns, published, stream.run_id, stream.numbered, flagged, shown
        )
        stream.due += self._stride
        if session.publish is not None:
            session.publish(prediction)
        records: list[Any] = [] if expired is None else [Expiry(stream.name, expired.n)]
        records.append(prediction)
        for missed in session.labels.predicted(stream, n) if session.external else ():
            reason = "no prediction was made there: it fell into a gap"
            records.append(Refusal(stream.name, "label", reason, where=f"n={missed}"))
        return records

    def combined(
        self, stream: Stream, p: Float32s, inputs: Float32s | None
    ) -> tuple[float, float | None]:
        """Return the probability to publish, and the one before recalibration if there is any.

        p: the members' probabilities (M,). inputs: the scaled window (W, F) in mode `window`.
        """
        extras = stream.extras
        assert extras is not None
        if inputs is not None:
            published = self.session.engine.window(stream.learner.weights, inputs)
        else:
            published = float(p[0]) if extras.mixture is None else extras.mixture.mix(p)
        if extras.recalibration is None:
            return published, None
        return extras.recalibration.apply(published), published

    def peek(self, stream: Stream, x: Float32s, carry: Float32s) -> float:
        """Return the p that would be published after element x (1, F) behind `carry` (width,)."""
        engine, extras = self.session.engine, stream.extras
        self._spare.host[:] = carry
        out = engine.advance_in_place(stream.learner.weights, self._spare, x)
        p, inputs = self._spare.host[self._p], None
        if extras is None:
            return float(p[0])
        if self._windowed:
            assert extras.tape is not None
            past = extras.tape.inputs(stream.n, self.session.config.stream.window - 1)
            scaled = engine.rows(out, 1)[:, self._members : self._members + x.shape[1]]
            inputs = np.concatenate([past, scaled])
        return self.combined(stream, p, inputs)[0]

    def _add(self, stream: Stream, one: PendingPrediction, t_ns: int) -> LedgerEntry | None:
        """Let a prediction wait for its label; return the one that expired for it, if any."""
        if not self.session.external:
            stream.pending.append(one)
            return None
        entry = LedgerEntry(*one[:6], t_ns, *one[6:])
        assert stream.extras is not None
        tape = stream.extras.tape
        if self.session.learning.length and tape is not None:
            entry.inputs, entry.state = self.session.learning.tape(tape, one.n)
        return stream.ledger.add(entry, self.session.labels.limit)

    # ---- labels -----------------------------------------------------------------------

    def _score(
        self,
        stream: Stream,
        one: PendingPrediction | LedgerEntry,
        label: int,
        t_ns: int,
        at: int,
    ) -> None:
        """Score a prediction whose label became known at element `at`."""
        session, extras = self.session, stream.extras
        session.report_refused(stream, at)
        if extras is None:
            assert isinstance(one, PendingPrediction)
            session.out.append(LabelledRow(stream.row, stream.name, t_ns, label, one))
            return
        due = session.learning.due(at)
        if extras.mixture is not None and one.experts is not None and due:
            extras.mixture.update(one.experts, label)
        aside = tuple(p for p in (one.raw_p, one.frozen_p, one.stateless_p) if p is not None)
        loss, *log_e = session.scores.add(
            stream.row, label, one.last_label, one.p, one.base_rate_p, one.last_label_p, aside
        )
        tape = (one.inputs, one.state) if isinstance(one, LedgerEntry) else (None, None)
        if due and (tape[0] is not None or not session.external):
            base_loss = log_loss(one.base_rate_p, label)
            extras.updates.append(DueUpdate(one.n, label, loss, base_loss, *tape))
        if extras.recalibration is not None and one.raw_p is not None:
            extras.recalibration.update(one.raw_p, label)
        if session.wants_scores:
            session.out.append(score_of(stream.name, one, t_ns, label, loss, log_e))

    def settle(self, stream: Stream, *, all_of_them: bool = False) -> None:
        """Score the external labels that are settled now."""
        if self.session.external:
            for one in self.session.labels.settled(stream, all_of_them=all_of_them):
                stream.last_label = one.label.y
                stream.labelled(one.label.y, one.entry.last_label)
                self._score(stream, one.entry, one.label.y, one.label.t_ns, stream.n)
            stream.moved(0)

    def learn(self, stream: Stream, info: Float32s | None = None) -> None:
        """Make the updates of a stream that are due."""
        if stream.extras is not None and stream.extras.updates:
            users = self._users(stream)
            self.session.out += self.session.learning.learn(stream, users, info)

    def _users(self, stream: Stream) -> Collection[Stream]:
        """Return the streams that share a stream's weights, after stepping their queued ticks.

        Those came before the update, so they are stepped with the weights before it.
        """
        if not self.session.shared:
            return [stream]
        self.session.flush_all()
        return self.session.active.values()
