"""The sans-IO state machine: ticks, labels and gaps in, frozen events out.

No clock, socket, file or thread is known here: the same calls serve a live feed and a replay.
Events go to the `emit` callback at the moment they come to be, so that a prediction is out
before the update that its predecessor's label causes.

At element n + h, in this order: it is checked; the prediction made after element n is scored
with it; the network steps; a prediction is emitted if due; then, if learning is on, one update
is made from the tape that ends with element n. The new weights serve from element n + h + 1 on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..config import Config
from ..errors import ConfigurationError
from ..events import (
    Expiry,
    Gap,
    Label,
    Output,
    Prediction,
    Refusal,
    Score,
    SessionStart,
    Ticks,
)
from ..members import Members, bank_members
from ..model.engine import Engine
from ..model.forecaster import Params
from .elements import ElementMaker
from .labels import LabelPolicy
from .ledger import Pending
from .opening import Opening
from .rollback import SPELL, Learned
from .stepping import Stepping
from .stream import StreamState
from .twins import NO_FORECASTS, Forecasts, Twins
from .updates import Given, Updates

Emit: TypeAlias = Callable[[Output], None]
Floats: TypeAlias = npt.NDArray[np.float32]
Bools: TypeAlias = npt.NDArray[np.bool_]
Times: TypeAlias = npt.NDArray[np.int64]

MAX_STREAMS = 100_000
"""Streams of one session: a bound on what a feed that invents names can take."""

SHARED = ""
"""Name under which shared weights are held."""


class Session:
    """The state machine of a daemon or a replay.

    config: what to do. columns: names of the values of a tick, in order. emit: called with each
    event. weights: what to start from instead of random weights. scaler: the state (1 + 2F,) that
    the scaler of each new stream starts from, as `model.scaling` lays it out. members: those of
    the bank, where the configuration names a file for them. engine: what was compiled for an
    equal configuration before; it holds no state, so sessions may share it.

    Everything is compiled on construction. Raises ConfigurationError (ExpressionError) for
    features that do not fit, an unknown optimiser, or weights or a scaler of another shape.
    """

    def __init__(
        self,
        config: Config,
        columns: Sequence[str],
        emit: Emit,
        *,
        weights: Mapping[str, Mapping[str, Any]] | None = None,
        scaler: npt.ArrayLike | None = None,
        members: Members | None = None,
        engine: Engine | None = None,
    ) -> None:
        self.config = config
        self.columns = tuple(columns)
        self.emit = emit
        self.maker = ElementMaker(config.stream.features, columns)
        self.members = bank_members(config, members)
        self.engine = engine or Engine(config, len(self.maker), self.members)
        self.streams: dict[str, StreamState] = {}
        self.learned: dict[str, Learned] = {}
        self._initial = None if weights is None else self.engine.check_weights(weights)
        self._external = config.stream.labels == "external"
        self._labels = LabelPolicy(config.stream)
        self.stray_labels = 0
        self.updates = Updates(config, self.engine, self._initial)
        self._opening = Opening(config, self.engine, self.columns, scaler)
        self.twins = Twins(config, self.engine, self._initial)
        self._stepping = Stepping(
            config,
            learns=self.updates.length > 0,
            labels=self._labels if self._external else None,
            alone=not config.scoring.twins,
        )
        self._window = config.stream.window if config.model.mode == "window" else 0
        if config.model.sharing == "shared":
            self.learned_for(SHARED)

    # ---- what comes in ----------------------------------------------------------------

    def push(self, ticks: Ticks) -> None:
        """Take a block of ticks of one stream."""
        if ticks.values.shape[1] != len(self.columns):
            raise ConfigurationError(
                f"ticks of {ticks.stream!r} have {ticks.values.shape[1]} values, "
                f"the session has columns {', '.join(self.columns)}"
            )
        stream = self.stream(ticks.stream)
        if stream is None:
            self._refuse_stream(ticks)
            return
        stream.session, stream.gaps_visible = ticks.session, ticks.seq is not None
        stream.counters.ticks += len(ticks.values)

        def refused(index: int, reason: str) -> None:
            stream.counters.refused_ticks += 1
            self.emit(Refusal(stream.name, "tick", reason, index, ticks.where))

        for t_ns, elements in self.maker.make(stream.memory, ticks.t_ns, ticks.values, refused):
            self._advance(stream, t_ns, elements)

    def label(self, label: Label) -> None:
        """Take the truth for a published prediction, where labels come from outside."""
        stream = self.streams.get(label.stream)
        if stream is None:
            self.stray_labels += 1
            self._refuse_label(label, f"there is no stream {label.stream!r}")
            return
        reason = (
            self._labels.receive(stream, label)
            if self._external
            else "labels come from the series itself; set labels = 'external' to send them"
        )
        if reason:
            stream.counters.refused_labels += 1
            self._refuse_label(label, reason)
        self._settle(stream)

    def settle(self) -> None:
        """Let the labels that may still be revised count now, for there will be no more."""
        for stream in self.streams.values():
            self._settle(stream, all_of_them=True)

    def gap(self, gap: Gap) -> None:
        """Take notice of lost ticks: predictions are flagged, and the policy applies."""
        stream = self.stream(gap.stream)
        if stream is not None:
            stream.counters.gaps += 1
            stream.counters.missed += gap.missed
            self._interrupt(stream)

    def session_start(self, start: SessionStart) -> None:
        """Take notice of a publisher's restart: labels may be lost, and no prediction waits on."""
        stream = self.stream(start.stream)
        if stream is None or stream.session == start.session:
            return
        restarted, stream.session = stream.n > 0, start.session
        if restarted:
            self._interrupt(stream, restarted=True)

    # ---- what it holds ----------------------------------------------------------------

    def stream(self, name: str) -> StreamState | None:
        """Return the state of a stream, opened if it is new; None where there are too many."""
        found = self.streams.get(name)
        if found is None and len(self.streams) < MAX_STREAMS:
            found = self.streams[name] = self._opening.open(name)
        return found

    def weights_for(self, name: str) -> Params:
        """Return copies of the weights that a stream uses."""
        return self.engine.weights.host_unpack(self.learned_for(name).weights)

    def learned_for(self, name: str) -> Learned:
        """Return what a stream uses and learns into, made if it is the first to need it."""
        key = SHARED if self.config.model.sharing == "shared" else name
        found = self.learned.get(key)
        if found is None:
            weights: Params = self._initial or self.engine.init_weights()
            optimizer = self.engine.init_optimizer(weights) if self.updates.length else None
            packed = self.engine.pack(weights)
            found = self.learned[key] = Learned(packed, optimizer, self.updates.guard.watch())
        return found

    def scaler_of(self, name: str) -> Floats | None:
        """Return the state (1 + 2F,) of a stream's scaler, None where there is no such stream."""
        stream = self.streams.get(name)
        size = 1 + 2 * self.engine.shape.features
        return None if stream is None else np.array(stream.carry[:size], np.float32)

    # ---- stepping ---------------------------------------------------------------------

    def _advance(self, stream: StreamState, t_ns: npt.NDArray[np.int64], elements: Floats) -> None:
        start, count = 0, len(elements)
        positive = elements[:, 0] > 0
        while start < count:
            strides = self._stepping.strides(self.engine, stream, count - start)
            if strides and (watch := self.learned_for(stream.name).watch):
                strides = min(strides, watch.room)
            if strides:
                stop = start + strides * self.config.stream.stride
                part = slice(start, stop)
                self._advance_strides(stream, t_ns[part], elements[part], positive[part])
            else:
                stop = start + self._stepping.uncut(self.engine, stream, t_ns[start:])
                part = slice(start, stop)
                self._advance_chunk(stream, t_ns[part], elements[part], positive[part])
            start = stop

    def _advance_chunk(
        self, stream: StreamState, t_ns: Times, chunk: Floats, positive: Bools
    ) -> None:
        twin = self.twins.step(stream, chunk)
        learned = self.learned_for(stream.name)
        p = self._stepping.step(self.engine, learned, stream, chunk, positive)
        self._report(stream, t_ns, positive, p, twin, None)
        if self._external:
            for pending in self._labels.expired(stream, int(t_ns[-1])):
                self.emit(Expiry(stream.name, pending.n))
            self._settle(stream)

    def _advance_strides(
        self, stream: StreamState, t_ns: Times, elements: Floats, positive: Bools
    ) -> None:
        learned, stride = self.learned_for(stream.name), self.config.stream.stride
        p, infos = self._stepping.step_strides(self.engine, learned, stream, elements, positive)
        for k, info in enumerate(infos):
            part = slice(k * stride, (k + 1) * stride)
            self._report(stream, t_ns[part], positive[part], p[part], None, info)

    def _probability(self, stream: StreamState, p: Floats | None, n: int, k: int) -> float:
        """Return the p of element n, which is entry k of the chunk just stepped."""
        if p is not None:
            return float(p[k, 0]) if stream.mixture is None else stream.mixture.mix(p[k])
        assert stream.tape is not None
        weights = self.learned_for(stream.name).weights
        return self.engine.window(weights, stream.tape.inputs(n, self._window))

    def _report(
        self,
        stream: StreamState,
        t_ns: npt.NDArray[np.int64],
        positive: npt.NDArray[np.bool_],
        p: Floats | None,
        twin: Floats | None,
        info: Floats | None,
    ) -> None:
        """Score and predict over a chunk just stepped, then learn where a label ended it.

        info: what came of the update (3,) where it has been made already.
        """
        before, after = stream.n, stream.n + len(positive)
        stream.n = after
        oldest = stream.ledger.oldest()
        waits = oldest is None or self._external or oldest + self.config.stream.horizon > after
        if waits and stream.next_due > after:
            return
        labelled = -1
        while stream.next_due <= after:
            due = stream.next_due
            for n, k in self._labelled(stream, before, due):
                labelled = self._score_series(stream, n, int(positive[k]), int(t_ns[k]))
            k = due - before - 1
            known = self._probability(stream, p, due, k)
            experts = None if stream.mixture is None or p is None else p[k]
            aside = NO_FORECASTS
            if self.config.scoring.twins:
                weights = self.learned_for(stream.name).weights
                aside = self.twins.forecasts(stream, weights, twin, due, k)
            self._predict(stream, due, known, int(positive[k]), int(t_ns[k]), experts, aside)
            stream.next_due += self.config.stream.stride
        for n, k in self._labelled(stream, before, after):
            labelled = self._score_series(stream, n, int(positive[k]), int(t_ns[k]))
        if info is not None:
            self._update(stream, labelled, info)
        elif labelled > 0 and self.updates.due(stream):
            self._update(stream, labelled, self.updates.from_series(stream, labelled))

    def _labelled(self, stream: StreamState, before: int, until: int) -> Iterator[tuple[int, int]]:
        """Yield (n, index in the chunk of its label) of predictions labelled up to `until`."""
        if self._external:
            return
        horizon = self.config.stream.horizon
        while (n := stream.ledger.oldest()) is not None and n + horizon <= until:
            yield n, n + horizon - before - 1

    def _predict(
        self,
        stream: StreamState,
        n: int,
        p: float,
        positive: int,
        t_ns: int,
        experts: Floats | None,
        aside: Forecasts,
    ) -> None:
        raw = None
        if stream.recalibration is not None:
            raw, p = p, stream.recalibration.apply(p)
        last = stream.last_label if self._external else positive
        scores = stream.scores
        plain = scores.base_rate_p(), scores.last_label_p(last), last
        pending = Pending(n, p, *plain, stream.session, t_ns, raw, *aside)
        if experts is not None:
            pending.experts = experts.copy()
        if self._external and self.updates.length and stream.tape is not None:
            pending.inputs, pending.state = self.updates.tape(stream, n)
        expired = stream.ledger.add(
            pending, self.config.stream.max_pending if self._external else n
        )
        if expired is not None:
            self.emit(Expiry(stream.name, expired.n))
        stream.counters.predictions += 1
        flags = stream.gaps_visible, n <= stream.flag_until
        mixture = stream.mixture if self.config.learning.publish_experts else None
        said = (
            mixture.experts(self.engine.names, experts) if mixture and experts is not None else ()
        )
        self.emit(Prediction(stream.name, n, t_ns, p, stream.session, *flags, said))
        for missed in self._labels.predicted(stream, n) if self._external else ():
            reason = "no prediction was made there: it fell into a gap"
            self._refuse_label(Label(stream.name, missed, 0), reason)

    # ---- labels -----------------------------------------------------------------------

    def _score_series(self, stream: StreamState, n: int, label: int, t_ns: int) -> int:
        pending = stream.ledger.take(n)
        assert pending is not None
        self._score(stream, pending, label, t_ns)
        return n

    def _score(self, stream: StreamState, pending: Pending, label: int, t_ns: int) -> None:
        base_p, last_p = pending.base_rate_p, pending.last_label_p
        if stream.mixture is not None and pending.experts is not None and self.updates.due(stream):
            stream.mixture.update(pending.experts, label)
        aside = pending.raw_p, pending.frozen_p, pending.stateless_p
        others = tuple(p for p in aside if p is not None)
        loss = stream.scores.add(label, pending.last_label, pending.p, base_p, last_p, others)
        if self.updates.length:
            self.updates.scored(self.learned_for(stream.name), stream, label, loss, base_p)
        if stream.recalibration is not None and pending.raw_p is not None:
            stream.recalibration.update(pending.raw_p, label)
        plain = base_p, last_p, pending.session, *stream.scores.evidence.log_e(), *aside
        self.emit(Score(stream.name, pending.n, t_ns, pending.p, label, loss, *plain))

    def _settle(self, stream: StreamState, *, all_of_them: bool = False) -> None:
        """Score, and learn from, the labels from outside that count now."""
        for held in self._labels.settled(stream, all_of_them=all_of_them):
            pending, truth = held.pending, held.truth
            stream.last_label = truth.label
            self._score(stream, pending, truth.label, truth.t_ns)
            if pending.inputs is not None and pending.state is not None:
                tape = pending.inputs, pending.state
                if self.updates.due(stream):
                    given = self.updates.from_label(*tape, truth.label)
                    self._update(stream, pending.n, given)

    def _refuse_label(self, label: Label, reason: str) -> None:
        self.emit(Refusal(label.stream, "label", reason, where=f"n={label.n}"))

    # ---- learning ---------------------------------------------------------------------

    def _update(self, stream: StreamState, n: int, made: Given | Floats) -> None:
        """Learn from the label of prediction n; see `Updates.make`."""
        learned = self.learned_for(stream.name)
        if told := self.updates.make(self.engine, learned, stream, n, made):
            self.emit(told)
        if learned.watch is None or learned.watch.count < SPELL:
            return
        if back := self.updates.guard.look(learned, self.streams, stream, n):
            self.emit(back)

    # ---- gaps -------------------------------------------------------------------------

    def _interrupt(self, stream: StreamState, *, restarted: bool = False) -> None:
        stream.flag_until = stream.n + self.config.stream.window
        resets = self.config.stream.on_gap == "reset"
        if resets or restarted:
            self._settle(stream, all_of_them=True)
            for expired in stream.ledger.expire_all(self._labels.limit):
                self.emit(Expiry(stream.name, expired.n))
        if resets:
            stream.counters.resets += 1
            self._opening.reset(stream)

    def _refuse_stream(self, ticks: Ticks) -> None:
        reason = f"{MAX_STREAMS} streams are open, which is the limit"
        self.emit(Refusal(ticks.stream, "tick", reason, 0, ticks.where))
