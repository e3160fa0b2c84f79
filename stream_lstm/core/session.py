"""The sans-IO state machine: ticks, labels and gaps in, records out.

There is no clock, socket, file or thread here: the same calls serve a live feed and a replay.

A stream is a row of a table, see `table`. At element n, in this order: the tick is checked; the
predictions whose labels it brings are scored; the network steps; a prediction is published if it
is due; then, with learning, the updates are made for all labels that became known since the
stream's last publication, in their order. So no update is between a tick and its prediction, and
the new weights serve from element n + 1 on.

A tick that publishes nothing is checked when it comes, and queued. It is stepped together with
the publishing tick in one call, or by `catch_up`. The bits do not depend on how ticks are cut into
blocks or when they are stepped. `outcome` defines the order of the records.

A block can take two ways, and tests hold them together: `prequential` for one stream, with plain
Python numbers around each call into the network, and `columnar` for the ticks of many streams, in
columns. The second is for streams that do not learn and whose labels come from the series.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import Config, Members, bank_members
from ..errors import ConfigurationError, DataError
from ..events import Expiry, Gap, Label, Prediction, Refusal, SessionStart, Ticks
from ..model.engine import Engine
from ..model.forecaster import Params, slack
from ..model.network import check_scaler
from ..model.runtime import SharedArray, aligned_zeros
from ..typing import Float32s, Float64s, Int64s
from .columnar import Arrivals, ColumnarPath
from .features import SAFE
from .labels import LabelPolicy
from .learning import LearnerState, Learning
from .losses import Mixture, Recalibration
from .machine import Machine, without_tiny
from .outcome import Deliver, Emit, OutputQueue
from .prequential import Prequential, Twins, further_forecasts
from .scores import Scores
from .stateful import StatefulMaker, maker_of
from .stream import Stream, StreamExtras, Streams, Tape
from .table import MAX_STREAMS, StreamTable

SHARED = ""
"""Name of the shared weights."""

MAX_ACTIVE = 4096
"""Streams that are worked on tick by tick at a time; each takes some 2 KB beside its row."""

TAPE_BLOCK = 16
"""Elements that a tape usually grows by; it is moved to its beginning every few of them."""

FROM_SERIES = "labels come from the series; set labels = 'external' to send them"


class Session(OutputQueue):
    """The state machine of a daemon or a replay.

    config: what to do. columns: names of the values of a tick, in order. emit: called with each
    record. deliver: called with an `Outcome` for each block, for callers that want columns;
    scored: whether it wants scores as they come. publish: called with a prediction before anything
    else is done with it. weights: what to start from instead of random weights. scaler: the state
    (1 + 2F,) that the scaler of each new stream starts from, see `model.scaling`. members: those
    of the bank, if the configuration names a file for them. engine: the compiled functions of an
    equal configuration; it has no state, so sessions may share it. limit: streams at most.

    Everything is compiled on construction, except the loop over many streams, which the first
    `arrive` compiles. Raises ConfigurationError (ExpressionError) for features that do not fit the
    columns, an unknown optimiser, or weights or a scaler of another shape.
    """

    def __init__(
        self,
        config: Config,
        columns: Sequence[str],
        emit: Emit | None = None,
        *,
        deliver: Deliver | None = None,
        scored: bool = True,
        publish: Callable[[Prediction], object] | None = None,
        weights: Mapping[str, Mapping[str, Any]] | None = None,
        scaler: npt.ArrayLike | None = None,
        members: Members | None = None,
        engine: Engine | None = None,
        limit: int = MAX_STREAMS,
    ) -> None:
        self.config = config
        self.columns = tuple(columns)
        self.maker = maker_of(config.stream, columns)
        self.members = bank_members(config, members)
        self.engine = engine or Engine(config, len(self.maker), self.members)
        self.learners: dict[str, LearnerState] = {}
        self.stray_labels = 0
        # by feature, the ticks that were refused because it had no finite value
        self.refused_by_feature: Counter[str] = Counter()
        # what gives (index, name for messages) of a refused tick of a block, where that differs
        self.origin: Callable[[int], tuple[int, str]] | None = None
        self._initial = None if weights is None else self.engine.check_weights(weights)
        self.learning = Learning(config, self.engine, self._initial)
        self.twins = Twins(config, self.engine, self._initial)
        self.labels = LabelPolicy(config.stream)
        self.external = config.stream.labels == "external"
        self.shared = config.model.sharing == "shared"
        scoring = config.scoring
        extras = self.learning.length > 0 or self.external or self.members is not None
        extras = extras or self.engine.windowed or scoring.calibrate or bool(scoring.twins)
        self.plain = not extras
        self.stateful = isinstance(self.maker, StatefulMaker)
        self.columnar = self.plain and not self.stateful
        self.machines: dict[str, Machine] = {}
        self._start = self.engine.init_carry()
        if scaler is not None:
            known = check_scaler(self.engine.shape.features, scaler)
            self._start[: len(known)] = known
        own = None
        if self.plain and not self.shared:
            (own,) = self.engine.weights.host_pack(self._initial or self.engine.init_weights())
        lag = self.maker.features.lag
        self.table = StreamTable(config, self._start, lag, len(columns), own=own, limit=limit)
        self.extras: dict[int, StreamExtras] = {}
        scores = Scores(scoring.score_window, further_forecasts(config), self.table.capacity)
        super().__init__(scores, emit, deliver=deliver, scored=scored, publish=publish)
        self.active: dict[str, Stream] = {}
        self._queued: dict[Stream, None] = {}
        self._columnar, self._prequential = ColumnarPath(self), Prequential(self)
        row = struct.Struct(f"{len(columns)}d")
        self._pack, self._unpack, self._tick_bytes = row.pack_into, row.unpack_from, row.size
        element = struct.Struct(f"{len(self.maker)}f")
        self._pack_element, self._element_bytes = element.pack_into, element.size
        self._good, self._hides = self.maker.good_tick(), bool(self.maker.hidden)
        self._pause_ns = config.stream.pause_ns
        if self.shared:
            self.learner_for(SHARED)

    @property
    def independent(self) -> bool:
        """Whether streams do not affect each other, so that only the order within each counts."""
        return not self.others and (not self.config.learning.learn or not self.shared)

    # ---- ticks ------------------------------------------------------------------------

    def tick(
        self,
        name: str,
        t_ns: int,
        values: Sequence[float | None],
        run_id: str = "",
        seq: int | None = None,
        where: str = "",
    ) -> int:
        """Take one tick of one stream; return how many elements it made, 0 or 1.

        values: one number for each column, None for a missing one. run_id: the publisher's.
        """
        stream = self.active.get(name) or self._activate(name)
        if stream is None:
            self._refuse_stream(name, where)
            return 0
        if run_id != stream.run_id or (seq is not None) != stream.numbered:
            stream.sent_by(run_id, numbered=seq is not None)
        at, packed = stream.lag + stream.queued, True
        try:
            self._pack(stream.buffer, at * self._tick_bytes, *values)
            stream.time_view[at] = t_ns
            good = stream.memory_size == stream.lag
            good = good and self._good(stream.flat_values, stream.time_view, at)
        except (ArithmeticError, ValueError, TypeError, struct.error):
            good = packed = False
        latest = stream.latest
        if not good or (t_ns <= latest and t_ns and stream.is_old(t_ns, values)):
            if self.stateful:
                return self._machine_tick(stream, t_ns, values, where, packed=packed)
            return self._unusual_tick(stream, t_ns, values, where)
        if t_ns > latest:
            if self._pause_ns and t_ns - latest > self._pause_ns:
                return self._unusual_tick(stream, t_ns, values, where)
            stream.latest = t_ns
        stream.queued += 1
        if stream.queued == 1:
            self._queued[stream] = None
        if stream.queued >= stream.room:
            self.flush(stream)
            self.hand_over()
        return 1

    def _machine_tick(
        self,
        stream: Stream,
        t_ns: int,
        values: Sequence[float | None],
        where: str,
        *,
        packed: bool,
    ) -> int:
        """Take a tick whose features have memory: its element is queued with it.

        packed: whether it is in the row buffer; a tick with a missing value is not.
        """
        machine, at = stream.machine, stream.queued
        try:
            if not packed:
                self._pack(stream.buffer, at * self._tick_bytes, *map(_number, values))
                stream.time_view[at] = t_ns
        except (ArithmeticError, ValueError, TypeError, struct.error):
            return self._unusual_tick(stream, t_ns, values, where)
        latest = stream.latest
        if not machine.ready or (t_ns <= latest and t_ns and stream.is_old(t_ns, values)):
            return self._unusual_tick(stream, t_ns, values, where)
        if self._pause_ns and t_ns - latest > self._pause_ns:
            return self._unusual_tick(stream, t_ns, values, where)
        row = self._unpack(stream.buffer, at * self._tick_bytes)
        made = machine.step(t_ns, row)
        bad = not sum(map(abs, made)) < SAFE  # NaN too
        if bad or (self._hides and not self.maker.seems_good(row)):
            machine.undo()
            return self._unusual_tick(stream, t_ns, values, where)
        machine.accept(t_ns, row)
        self._pack_element(stream.elements, at * self._element_bytes, *made)
        stream.latest = max(stream.latest, t_ns)
        stream.queued += 1
        if stream.queued == 1:
            self._queued[stream] = None
        if stream.queued >= stream.room:
            self.flush(stream)
            self.hand_over()
        return 1

    def push(self, ticks: Ticks) -> int:
        """Take a block of ticks of one stream; return how many elements it made."""
        count = len(ticks.t_ns)
        if ticks.values.shape[1] != len(self.columns):
            raise ConfigurationError(
                f"ticks of {ticks.stream!r} have {ticks.values.shape[1]} values, "
                f"the session has columns {', '.join(self.columns)}"
            )
        if count == 1:
            t_ns, values = int(ticks.t_ns[0]), ticks.values[0].tolist()
            return self.tick(ticks.stream, t_ns, values, ticks.session, ticks.seq, ticks.where)
        stream = self.active.get(ticks.stream) or self._activate(ticks.stream)
        if stream is None:
            self._refuse_stream(ticks.stream, ticks.where)
            return 0
        self.flush(stream)
        stream.sent_by(ticks.session, numbered=ticks.seq is not None)
        return self._take(stream, ticks.t_ns, ticks.values, ticks.where)

    def arrive(self, arrivals: Arrivals) -> None:
        """Take ticks of any streams, in the order of their arrival.

        Raises ConfigurationError for values that are not the session's columns, and IndexError for
        a row that no stream has.
        """
        self._columnar.arrive(arrivals)

    def _unusual_tick(
        self, stream: Stream, t_ns: int, values: Sequence[float | None], where: str
    ) -> int:
        """Take a tick that may be bad, old or after a pause, or has too few ticks before it."""
        self.flush(stream)
        row = np.array([[np.nan if value is None else value for value in values]], np.float64)
        return self._take(stream, np.array([t_ns], np.int64), row, where)

    def _take(self, stream: Stream, t_ns: Int64s, values: Float64s, where: str) -> int:
        """Make elements of ticks and step over them; return how many."""
        stream.count("ticks", len(t_ns))
        made, memory = 0, stream.memory()
        for sifted in self.maker.sift(memory, t_ns, values):
            if sifted.paused:
                self._pause(stream)
            stream.remember(memory)
            stream.refused = [
                (stream.n + before, self._refused(stream, index, reason, where))
                for before, index, reason in reversed(sifted.refused)
            ]
            self._walk(stream, sifted.t_ns, sifted.elements)
            self.report_refused(stream, stream.n + 1)
            made += len(sifted.elements)
        stream.remember(memory)
        self.report_old(stream, memory.old, where)
        self.hand_over()
        return made

    def _refused(self, stream: Stream, index: int, reason: str, where: str) -> Refusal:
        stream.count("refused_ticks")
        if self.origin is not None:
            index, where = self.origin(index)
        return self.refusal(stream.name, reason, index, where)

    def refusal(self, name: str, reason: str, index: int, where: str) -> Refusal:
        """Return the record of a refused tick of a stream, and count the feature in its reason."""
        for feature in self.maker.features.names:
            if reason.startswith(f"feature {feature} is "):
                self.refused_by_feature[feature] += 1
                break
        return Refusal(name, "tick", reason, index, where)

    def report_refused(self, stream: Stream, n: int) -> None:
        """Report the ticks that were refused before element `n`, a record of which comes next."""
        refused = stream.refused
        while refused and refused[-1][0] < n:
            self.out.append(refused.pop()[1])

    def catch_up(self) -> None:
        """Step over all queued ticks."""
        self.flush_all()
        self.hand_over()

    def flush_all(self) -> None:
        """Step over all queued ticks, without handing over the output."""
        queued, self._queued = self._queued, {}
        for stream in queued:
            self.flush(stream)

    def peek(self, name: str, t_ns: int, values: Sequence[float]) -> float | None:
        """Return the p that `tick` would predict with this tick, None where none is due.

        The state does not change. The bits are those of `tick` if labels come from outside: a tick
        of a series with labels of its own first brings a label. Raises DataError for a tick that
        would be refused, and ConfigurationError at the limit of streams.
        """
        self.catch_up()
        stream = self._stream(name)
        if stream is None:
            raise ConfigurationError(self._too_many(), key="streams")
        row, at = np.array([values], np.float64), np.array([t_ns], np.int64)
        sifted = list(self.maker.sift(self.maker.trial(stream.memory()), at, row))
        elements = [part.elements for part in sifted if len(part.elements)]
        for _, _, reason in (one for part in sifted for one in part.refused):
            raise DataError(f"the tick is refused: {reason}")
        due, carry = stream.due, stream.carry.host
        if self.config.stream.on_pause == "reset" and any(part.paused for part in sifted):
            due, carry = self.table.first_due(stream.n), self._start
        if not elements or stream.n + 1 != due:
            return None
        return self._prequential.peek(stream, elements[0], carry)

    # ---- labels and gaps --------------------------------------------------------------

    def label(self, label: Label) -> None:
        """Take the external label of a published prediction."""
        if label.stream not in self.table.places:
            self.stray_labels += 1
            self._refuse_label(label, f"there is no stream {label.stream!r}")
            self.hand_over()
            return
        stream = self._stream(label.stream)
        assert stream is not None
        self.flush(stream)
        reason = self.labels.receive(stream, label) if self.external else FROM_SERIES
        if reason:
            stream.count("refused_labels")
            self._refuse_label(label, reason)
        self._prequential.settle(stream)
        self.hand_over()

    def settle(self) -> None:
        """Settle labels that may still be revised, and make all updates that are due."""
        self.catch_up()
        for stream in [] if self.plain else list(self.active.values()):
            self._prequential.settle(stream, all_of_them=True)
            self._prequential.learn(stream)
        self.hand_over()

    def gap(self, gap: Gap) -> None:
        """Take lost ticks into account: predictions are flagged, and the policy applies."""
        stream = self._stream(gap.stream)
        if stream is not None:
            self.flush(stream)
            stream.count("gaps")
            stream.count("missed", gap.missed)
            self._interrupt(stream, resets=self.config.stream.on_gap == "reset")
            self.hand_over()

    def session_start(self, start: SessionStart) -> None:
        """Take a publisher's restart into account: waiting predictions expire, as after a gap."""
        stream = self._stream(start.stream)
        if stream is None or stream.run_id == start.session:
            return
        self.flush(stream)
        stream.sent_by(start.session, numbered=stream.numbered)
        if stream.n > 0:
            resets = self.config.stream.on_gap == "reset"
            self._interrupt(stream, resets=resets, restarted=True)
        self.hand_over()

    def _pause(self, stream: Stream) -> None:
        """Take a pause before the next tick into account; no tick is queued."""
        policy = self.config.stream.on_pause
        stream.count("pauses")
        forgets = not self.stateful  # a machine has done so, and has taken the next tick
        if policy == "forget" and forgets:
            self._forget(stream)
        self._interrupt(stream, resets=policy == "reset", forgets=forgets)

    def _forget(self, stream: Stream) -> None:
        """Empty the feature memory of a stream."""
        stream.memory_size = 0
        if stream.machine is not None:
            stream.machine.clear()

    def _interrupt(
        self, stream: Stream, *, resets: bool, restarted: bool = False, forgets: bool = True
    ) -> None:
        """Flag the next predictions of a stream, and reset its state if asked to.

        forgets: whether a reset empties the feature memory too.
        """
        stream.flag(self.config.stream.window)
        if resets or restarted:
            self._prequential.settle(stream, all_of_them=True)
            self._expire(stream)
        if not resets:
            stream.plan()
            return
        self._prequential.learn(stream)
        stream.count("resets")
        stream.carry.host[:] = self._start
        if stream.twin is not None:
            stream.twin.host[:] = self._start
        if forgets:
            self._forget(stream)
        stream.restart()
        if stream.extras is not None:
            stream.extras.tape = self.new_tape(stream.n)
            stream.extras.trace = self.engine.init_trace() if self.learning.length else None

    def _expire(self, stream: Stream) -> None:
        """Let all waiting predictions of a stream expire."""
        expired = [one.n for one in stream.pending]
        for n in expired:
            stream.expired(n + self.config.stream.stride)
        stream.pending.clear()
        while self.external and stream.ledger.waiting:
            expired.append(stream.ledger.expire(self.labels.limit).n)
        self.out += [Expiry(stream.name, n) for n in expired]

    # ---- state ------------------------------------------------------------------------

    @property
    def streams(self) -> Streams:
        """The streams by name, with all queued ticks stepped."""
        self.look()
        return Streams(self)

    def look(self) -> None:
        """Step all queued ticks, score all labels, and write everything to the table."""
        self.catch_up()
        self.score_later()
        for stream in self.active.values():
            stream.store()

    def weights_for(self, name: str) -> Params:
        """Return copies of the weights that a stream uses."""
        self.catch_up()
        return self.engine.weights.host_unpack(self.learner_for(name).weights)

    def learner_for(self, name: str) -> LearnerState:
        """Return the weights of a stream and their learning, made at the first call."""
        if self.plain and not self.shared:
            row, width = self.table.open(name), self.engine.weights.size
            return LearnerState((SharedArray(self.table.own[row, :width]).device,), None)
        key = SHARED if self.shared else name
        found = self.learners.get(key)
        if found is None:
            weights: Params = self._initial or self.engine.init_weights()
            learns = self.learning.length > 0
            optimizer = self.engine.init_optimizer(weights) if learns else None
            monitor = self.learning.rollback.monitor()
            found = LearnerState(self.engine.pack(weights), optimizer, monitor)
            self.learners[key] = found
        return found

    def set_weights(self, name: str, weights: Mapping[str, Mapping[str, Any]]) -> None:
        """Give a stream its own weights, opening it if it is new.

        Raises ConfigurationError for weights that do not fit, where weights are shared, and at the
        limit of streams.
        """
        if self.shared:
            raise ConfigurationError(
                "streams have their own weights with sharing=per-stream only", key="sharing"
            )
        stream = self._stream(name)
        if stream is None:
            raise ConfigurationError(self._too_many(), key="streams")
        self.flush(stream)
        packed = self.engine.pack(self.engine.check_weights(weights))
        if self.plain:
            self.table.own[stream.row, : len(packed[0])] = np.asarray(packed[0])
        else:
            stream.learner.weights = packed

    @property
    def others(self) -> tuple[str, ...]:
        """The streams that features refer to."""
        return self.maker.features.others

    def waits_for(self) -> tuple[str, ...]:
        """Return the streams that features refer to and that do not exist yet."""
        return tuple(name for name in self.others if name not in self.table.places)

    def scaler_of(self, name: str) -> Float32s | None:
        """Return the state (1 + 2F,) of a stream's scaler, None for an unknown stream."""
        self.catch_up()
        row = self.table.places.get(name)
        return None if row is None else self.table.carry[row, : self.engine.scaler_size].copy()

    def place(self, name: str) -> int:
        """Return the row of a stream, opening it if it is new; -1 at the limit."""
        capacity = self.table.capacity
        row = self.table.open(name)
        if self.table.capacity != capacity:
            self.scores.grow(self.table.capacity)
            for stream in self.active.values():
                stream.bind()
                if self.plain and not self.shared:
                    stream.learner = self.learner_for(stream.name)
        return row

    # ---- streams at work --------------------------------------------------------------

    def _stream(self, name: str) -> Stream | None:
        return self.active.get(name) or self._activate(name)

    def _activate(self, name: str) -> Stream | None:
        """Return a stream to work on; None at the limit of streams."""
        if self.plain and len(self.active) >= MAX_ACTIVE:
            self.release([stream.row for stream in self.active.values()])
        row = self.place(name)
        if row < 0:
            return None
        extras = None
        if not self.plain:
            extras = self.extras.get(row)
            if extras is None:
                extras = self.extras[row] = self._new_extras()
        stream = Stream(self.table, row, self.maker.features.lag, len(self.columns), extras)
        stream.learner = self.learner_for(name)
        if isinstance(self.maker, StatefulMaker):
            if name not in self.machines:
                self.machines[name] = self.maker.features.machine(name)
            stream.set_machine(self.machines[name], len(self.maker))
        if extras is not None and extras.twin is not None:
            stream.twin = SharedArray(aligned_zeros((self.engine.width,)))
            stream.twin.host[:] = extras.twin
        self.active[name] = stream
        return stream

    def release(self, rows: Sequence[int]) -> None:
        """Step the queued ticks of some streams, and write the streams to their rows."""
        active, names = self.active, self.table.names
        for stream in [active[name] for row in rows if (name := names[row]) in active]:
            self.flush(stream)
            stream.store()
            self._queued.pop(stream, None)
            if self.plain:
                del active[stream.name]
        self.hand_over()

    def reload(self) -> None:
        """Restart from a table and extras that were restored."""
        self.active.clear()
        self._queued.clear()
        self.clear()
        for name in [] if self.plain else list(self.table.names):
            self._activate(name)

    def _new_extras(self) -> StreamExtras:
        mixture = None
        if self.members is not None:
            mixture = Mixture.uniform(len(self.engine.names), self.config.learning.share)
        return StreamExtras(
            tape=self.new_tape(0),
            trace=self.engine.init_trace() if self.learning.length else None,
            mixture=mixture,
            twin=self._start.copy() if self.twins.carried else None,
            recalibration=Recalibration() if self.config.scoring.calibrate else None,
        )

    def new_tape(self, n: int) -> Tape | None:
        """Return the tape of a stream at element n, None where none is needed."""
        window = self.config.stream.window if self.engine.windowed else 0
        length = max(self.learning.length, window)
        if not length:
            return None
        horizon = 0 if self.external else self.config.stream.horizon
        return Tape.start(
            n,
            keep=length + horizon + slack(self.config) + 1,
            block=TAPE_BLOCK,
            features=self.engine.shape.features,
            state=0 if self.config.model.mode == "window" else self.engine.state,
        )

    # ---- stepping ---------------------------------------------------------------------

    def flush(self, stream: Stream) -> None:
        """Step over the queued ticks of a stream."""
        queued = stream.queued
        if not queued:
            return
        lag, values, times = stream.lag, stream.values, stream.times
        end = lag + queued
        if stream.machine is None:
            elements = self.maker.features.evaluate(times[:end], values[:end])
        else:
            elements = without_tiny(stream.elements[:queued].copy())
        t_ns = times[lag:end].copy()
        stream.last = stream.latest_values()
        stream.queued = 0
        if lag:
            values[:lag], times[:lag] = values[queued:end].copy(), times[queued:end].copy()
        stream.count("ticks", queued)
        self._walk(stream, t_ns, elements)

    def _walk(self, stream: Stream, t_ns: Int64s, elements: Float32s) -> None:
        """Step over elements (m, F) at times (m,), in chunks with one set of weights each."""
        start, count, prequential = 0, len(elements), self._prequential
        while start < count:
            strides = prequential.whole_strides(stream, count - start)
            if strides:
                size = strides * self.config.stream.stride
                part = slice(start, start + size)
                prequential.step_strides(stream, t_ns[part].tolist(), elements[part])
            else:
                size = min(self.engine.block, count - start)
                if not self.plain:
                    size = min(size, stream.due - stream.n)
                if self.external:
                    size = self.labels.uncut(stream, size, t_ns[start:])
                part = slice(start, start + size)
                xs = elements[part]
                out = self.engine.advance_in_place(stream.learner.weights, stream.carry, xs)
                prequential.report(stream, t_ns[part].tolist(), xs, out)
            start += size

    # ---- refusals ---------------------------------------------------------------------

    def _too_many(self) -> str:
        return f"{self.table.limit} streams are open, which is the limit"

    def _refuse_stream(self, name: str, where: str) -> None:
        self.out.append(Refusal(name, "tick", self._too_many(), 0, where))
        self.hand_over()

    def _refuse_label(self, label: Label, reason: str) -> None:
        self.out.append(Refusal(label.stream, "label", reason, where=f"n={label.n}"))


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def fallbacks(session: Session) -> list[str]:
    """Return which faster ways are off since compiled code gave other bits; usually none."""
    engine, out = session.engine, []
    if engine.learning and not engine.windowed and not engine.exact_strides:
        out.append("strides are stepped and learned call by call: one call gave other bits")
    if not engine.exact_table:
        out.append("streams are stepped one at a time: the loop over tables gave other bits")
    return out


__all__ = ["MAX_STREAMS", "SHARED", "Arrivals", "Session", "fallbacks"]
