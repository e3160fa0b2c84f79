"""The sans-IO state machine: ticks, labels and gaps in, records out.

No clock, socket, file or thread is known here: the same calls serve a live feed and a replay.

A stream is a row of a table (see `table`). At element n, in this order: it is checked; the
predictions whose labels it brings are scored; the network steps; a prediction is published if due;
then, if learning is on, the updates are made for all labels that have become known since the
stream's last publication, in the order in which they came. So an update is never between a tick
and the prediction that it leads to, and the new weights serve from element n + 1 on.

A tick that publishes nothing is checked when it comes and waits: it is stepped together with the
publishing tick in one call, or by `catch_up`. However ticks are cut into blocks, and whenever they
are stepped, the bits are the same (see `outcome` for the order of what comes out).

There are two ways through a block, held together by tests: `_walk` for one stream, with plain
Python numbers around each call into the network, and `many` for the ticks of many streams, in
columns. The second is for streams that do not learn and whose labels come from the series.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import Config, Members, bank_members
from ..errors import ConfigurationError
from ..events import Expiry, Gap, Label, Prediction, Refusal, SessionStart, Ticks
from ..model.buffers import SharedArray, aligned_zeros
from ..model.engine import Engine
from ..model.forecaster import Params, slack
from ..model.scaling import check_scaler
from ..typing import Float32s, Int64s
from .elements import maker_of
from .forecasts import Mixture, Recalibration
from .labels import LabelPolicy
from .learning import LearnerState, Learning
from .many import Arrivals, Many
from .outcome import Deliver, Emit, Labelled, Outlet
from .scores import Scores
from .sided import SidedStreams, Twins, names
from .stream import ROOM as MOST_WAITING
from .stream import Side, Stream, Tape, Waiting
from .table import COUNTED, FLAG_UNTIL, MAX_STREAMS, StreamTable
from .view import Streams

SHARED = ""
"""Name under which shared weights are held."""

MOST_ACTIVE = 4096
"""Streams that can be worked on tick by tick at a time; each takes some 2 KB beside its row."""


TAPE_BLOCK = 16
"""Elements that a tape is usually grown by; it is moved to its beginning every few of them."""

LAST_KNOWN = Waiting._fields.index("last_label")
"""Where a waiting prediction has the last label that was known."""

_new = tuple.__new__
"""Makes named tuples in half the time that their own constructors take."""

FROM_SERIES = "labels come from the series itself; set labels = 'external' to send them"


class Session(Outlet):
    """The state machine of a daemon or a replay.

    config: what to do. columns: names of the values of a tick, in order. emit: called with each
    record. deliver: called with an `Outcome` for each block, for those who want columns; scored
    says whether it wants scores as they come. publish: called with a prediction before anything
    else is done with it. weights: what to start from instead of random weights. scaler: the state
    (1 + 2F,) that the scaler of each new stream starts from, as `model.scaling` lays it out.
    members: those of the bank, where the configuration names a file for them. engine: what was
    compiled for an equal configuration before; it holds no state, so sessions may share it. limit:
    streams at most.

    Everything is compiled on construction, but for the loop over many streams, which the first
    `arrive` compiles. Raises ConfigurationError (ExpressionError) for
    features that do not fit, an unknown optimiser, or weights or a scaler of another shape.
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
        self.learned: dict[str, LearnerState] = {}
        self.stray_labels = 0
        self.first = 0  # where the ticks that are pushed begin in what messages count by
        self._initial = None if weights is None else self.engine.check_weights(weights)
        self.learning = Learning(config, self.engine, self._initial)
        self.twins = Twins(config, self.engine, self._initial)
        self.labels = LabelPolicy(config.stream)
        self.external = config.stream.labels == "external"
        self.shared = config.model.sharing == "shared"
        self._stride, self._horizon = config.stream.stride, config.stream.horizon
        learns, scoring = self.learning.length > 0, config.scoring
        needs = learns or self.external or self.members is not None or self.engine.windowed
        self.plain = not (needs or scoring.calibrate or scoring.twins)
        start = self.engine.init_carry()
        if scaler is not None:
            known = check_scaler(self.engine.shape.features, scaler)
            start[: len(known)] = known
        self._start = start
        own = None
        if self.plain and not self.shared:
            (own,) = self.engine.weights.host_pack(self._initial or self.engine.init_weights())
        lag = self.maker.features.lag
        self.table = StreamTable(config, start, lag, len(columns), own=own, limit=limit)
        self.sides: dict[int, Side] = {}
        scores = Scores(scoring.score_window, names(config), self.table.capacity)
        super().__init__(scores, emit, deliver=deliver, scored=scored, publish=publish)
        self.active: dict[str, Stream] = {}
        self._behind: dict[Stream, None] = {}
        self._many, self._sided = Many(self), SidedStreams(self)
        self._pack = struct.Struct(f"{len(columns)}d").pack_into
        self._tick_bytes = 8 * len(columns)
        self._good = self.maker.features.good
        if self.shared:
            self.learned_for(SHARED)

    # ---- ticks ------------------------------------------------------------------------

    def tick(
        self,
        name: str,
        t_ns: int,
        values: Sequence[float | None],
        session: str = "",
        seq: int | None = None,
        where: str = "",
    ) -> int:
        """Take one tick of one stream; return how many elements it made, 0 or 1.

        values: one number for each column, None for one that lacks. session: the publisher's run.
        """
        stream = self.active.get(name) or self._activate(name)
        if stream is None:
            self._refuse_stream(name, where)
            return 0
        if session != stream.source or (seq is not None) != stream.visible:
            stream.sent_by(session, numbered=seq is not None)
        at = stream.lag + stream.k
        try:
            self._pack(stream.buffer, at * self._tick_bytes, *values)
            stream.t[at] = t_ns
            good = stream.held == stream.lag and self._good(stream.v, stream.t, at)
        except (ArithmeticError, ValueError, TypeError, struct.error):
            good = False
        if not good:
            return self._odd_tick(stream, t_ns, values, where)
        if t_ns > stream.latest:
            stream.latest = t_ns
        elif t_ns and stream.is_old(t_ns, values):
            return self._odd_tick(stream, t_ns, values, where)
        stream.k += 1
        if stream.k == 1:
            self._behind[stream] = None
        if stream.k >= stream.left:
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
        stream.count("ticks", count)
        made = self._make(stream, ticks.t_ns, ticks.values, ticks.where)
        self.hand_over()
        return made

    def arrive(self, arrivals: Arrivals) -> None:
        """Take ticks of any streams, in the order of their arrival.

        Raises ConfigurationError for values that are not the session's columns, and IndexError for
        a row that no stream has.
        """
        self._many.arrive(arrivals)

    def _odd_tick(
        self, stream: Stream, t_ns: int, values: Sequence[float | None], where: str
    ) -> int:
        """Take a tick that is not surely good, or that has too few before it."""
        self.flush(stream)
        stream.count("ticks")
        row = np.array([[np.nan if value is None else value for value in values]], np.float64)
        made = self._make(stream, np.array([t_ns], np.int64), row, where)
        self.hand_over()
        return made

    def _make(
        self, stream: Stream, t_ns: Int64s, values: npt.NDArray[np.float64], where: str
    ) -> int:
        """Make elements of ticks and step over them; return how many."""
        made, memory = 0, stream.memory()
        for sifted in self.maker.sift(memory, t_ns, values):
            stream.remember(memory)
            stream.late = [
                (stream.n + before, self._refused(stream, index, reason, where))
                for before, index, reason in reversed(sifted.refused)
            ]
            self._walk(stream, sifted.t_ns, sifted.elements)
            self.reach(stream, stream.n + 1)
            made += len(sifted.elements)
        stream.remember(memory)
        self.count_old(stream, memory.old, where)
        return made

    def _refused(self, stream: Stream, index: int, reason: str, where: str) -> Refusal:
        stream.count("refused_ticks")
        return Refusal(stream.name, "tick", reason, self.first + index, where)

    def reach(self, stream: Stream, n: int) -> None:
        """Report the ticks that were refused before element `n`, of which something comes now."""
        late = stream.late
        while late and late[-1][0] < n:
            self.out.append(late.pop()[1])

    def catch_up(self) -> None:
        """Step over all ticks that wait."""
        self.flush_all()
        self.hand_over()

    def flush_all(self) -> None:
        """Step over all ticks that wait; what comes out is still to be handed over."""
        behind, self._behind = self._behind, {}
        for stream in behind:
            self.flush(stream)

    # ---- labels and gaps --------------------------------------------------------------

    def label(self, label: Label) -> None:
        """Take the truth for a published prediction, where labels come from outside."""
        if label.stream not in self.table.places:
            self.stray_labels += 1
            self.refuse_label(label, f"there is no stream {label.stream!r}")
            self.hand_over()
            return
        stream = self._stream(label.stream)
        assert stream is not None
        self.flush(stream)
        reason = self.labels.receive(stream, label) if self.external else FROM_SERIES
        if reason:
            stream.count("refused_labels")
            self.refuse_label(label, reason)
        self._sided.settle(stream)
        self.hand_over()

    def settle(self) -> None:
        """Let labels that may be revised count now, and learn from all that are known."""
        self.catch_up()
        for stream in [] if self.plain else list(self.active.values()):
            self._sided.settle(stream, all_of_them=True)
            self._sided.learn(stream)
        self.hand_over()

    def gap(self, gap: Gap) -> None:
        """Take notice of lost ticks: predictions are flagged, and the policy applies."""
        stream = self._stream(gap.stream)
        if stream is not None:
            self.flush(stream)
            stream.count("gaps")
            stream.count("missed", gap.missed)
            self._interrupt(stream)
            self.hand_over()

    def session_start(self, start: SessionStart) -> None:
        """Take notice of a publisher's restart: labels may be lost, and no prediction waits on."""
        stream = self._stream(start.stream)
        if stream is None or stream.source == start.session:
            return
        self.flush(stream)
        stream.sent_by(start.session, numbered=stream.visible)
        if stream.n > 0:
            self._interrupt(stream, restarted=True)
        self.hand_over()

    # ---- what it holds ----------------------------------------------------------------

    @property
    def streams(self) -> Streams:
        """The streams by name, as they are now: ticks that wait are stepped."""
        self.look()
        return Streams(self)

    def look(self) -> None:
        """Step and score all that waits, and write all of it to the table."""
        self.catch_up()
        self.score_later()
        for stream in self.active.values():
            stream.store()

    def weights_for(self, name: str) -> Params:
        """Return copies of the weights that a stream uses."""
        self.catch_up()
        return self.engine.weights.host_unpack(self.learned_for(name).weights)

    def learned_for(self, name: str) -> LearnerState:
        """Return what a stream uses and learns into, made if it is the first to need it."""
        if self.plain and not self.shared:
            row = self.table.open(name)
            return LearnerState((self._own_weights(row),), None)
        key = SHARED if self.shared else name
        found = self.learned.get(key)
        if found is None:
            weights: Params = self._initial or self.engine.init_weights()
            learns = self.learning.length > 0
            optimizer = self.engine.init_optimizer(weights) if learns else None
            packed = self.engine.pack(weights)
            found = self.learned[key] = LearnerState(
                packed, optimizer, self.learning.guard.watch()
            )
        return found

    def _own_weights(self, row: int) -> Any:
        width = self.engine.weights.size
        return SharedArray(self.table.own[row, :width]).device

    def set_weights(self, name: str, weights: Mapping[str, Mapping[str, Any]]) -> None:
        """Give a stream weights of its own, opening it if it is new.

        Raises ConfigurationError for weights that do not fit, where weights are shared, and
        where there are too many streams.
        """
        if self.shared:
            raise ConfigurationError(
                "a stream has weights of its own with sharing=per-stream alone", key="sharing"
            )
        stream = self._stream(name)
        if stream is None:
            raise ConfigurationError(self._too_many(), key="streams")
        self.flush(stream)
        packed = self.engine.pack(self.engine.check_weights(weights))
        if self.plain:
            self.table.own[stream.row, : len(packed[0])] = np.asarray(packed[0])
        else:
            stream.learned.weights = packed

    def scaler_of(self, name: str) -> Float32s | None:
        """Return the state (1 + 2F,) of a stream's scaler, None where there is no such stream."""
        self.catch_up()
        row = self.table.places.get(name)
        return None if row is None else self.table.carry[row, : self.engine.scaler_size].copy()

    def place(self, name: str) -> int:
        """Return the row of a stream, opened if it is new; -1 where there are too many."""
        capacity = self.table.capacity
        row = self.table.open(name)
        if self.table.capacity != capacity:
            self._rebind()
        return row

    # ---- streams at work --------------------------------------------------------------

    def _stream(self, name: str) -> Stream | None:
        return self.active.get(name) or self._activate(name)

    def _activate(self, name: str) -> Stream | None:
        """Return a stream to work on; None where there are too many."""
        if self.plain and len(self.active) >= MOST_ACTIVE:
            self.release([stream.row for stream in self.active.values()])
        row = self.place(name)
        if row < 0:
            return None
        side = None if self.plain else self.sides.get(row)
        if side is None and not self.plain:
            side = self.sides[row] = self._new_side()
        stream = Stream(self.table, row, self.maker.features.lag, len(self.columns), side)
        stream.learned = self.learned_for(name)
        if side is not None and side.twin is not None:
            stream.twin = SharedArray(aligned_zeros((self.engine.width,)))
            stream.twin.host[:] = side.twin
        self.active[name] = stream
        return stream

    def release(self, rows: Sequence[int]) -> None:
        """Step over what waits of some streams, and leave them to their rows alone."""
        active, names = self.active, self.table.names
        found = [active[name] for row in rows if (name := names[row]) in active]
        for stream in found:
            self.flush(stream)
            stream.store()
            self._behind.pop(stream, None)
            if self.plain:
                del active[stream.name]
        self.hand_over()

    def reload(self) -> None:
        """Restart from a table and sides that were restored."""
        self.active.clear()
        self._behind.clear()
        self.forget()
        for name in [] if self.plain else list(self.table.names):
            self._activate(name)

    def _rebind(self) -> None:
        self.scores.grow(self.table.capacity)
        for stream in self.active.values():
            stream.bind()
            if self.plain and not self.shared:
                stream.learned = self.learned_for(stream.name)

    def _new_side(self) -> Side:
        members = None
        if self.members is not None:
            members = Mixture.uniform(len(self.engine.names), self.config.learning.share)
        return Side(
            tape=self.new_tape(0),
            trace=self.engine.init_trace() if self.learning.length else None,
            mixture=members,
            twin=self._start.copy() if self.twins.carried else None,
            recalibration=Recalibration() if self.config.scoring.calibrate else None,
        )

    def new_tape(self, n: int) -> Tape | None:
        """Return the tape of a stream at element n, None where this configuration needs none."""
        window = self.config.stream.window if self.engine.windowed else 0
        length = max(self.learning.length, window)
        if not length:
            return None
        return Tape.start(
            n,
            keep=length + (0 if self.external else self._horizon) + slack(self.config) + 1,
            block=TAPE_BLOCK,
            features=self.engine.shape.features,
            state=0 if self.config.model.mode == "window" else self.engine.state,
        )

    # ---- stepping ---------------------------------------------------------------------

    def flush(self, stream: Stream) -> None:
        """Step over the ticks of a stream that wait."""
        k = stream.k
        if not k:
            return
        lag, values, times = stream.lag, stream.values, stream.times
        end = lag + k
        elements = self.maker.features.evaluate(times[:end], values[:end])
        t_ns = times[lag:end].copy()
        stream.last = stream.latest_values()
        stream.k = 0
        if lag:
            values[:lag], times[:lag] = values[k:end].copy(), times[k:end].copy()
        if self.plain:
            self._chunk(stream, t_ns.tolist(), elements, k)
        else:
            stream.count("ticks", k)
            self._walk(stream, t_ns, elements)

    def _walk(self, stream: Stream, t_ns: Int64s, elements: Float32s) -> None:
        """Step over elements (m, F) at times (m,), cut where something falls due."""
        start, count = 0, len(elements)
        while start < count:
            strides = 0 if self.plain else self._sided.whole_strides(stream, count - start)
            if strides:
                stop = start + strides * self._stride
                self._sided.chunk_of_strides(
                    stream, t_ns[start:stop].tolist(), elements[start:stop]
                )
            else:
                size = min(self.engine.block, count - start)
                if not self.plain:
                    size = min(size, stream.due - stream.n)
                if self.external:
                    size = self.labels.uncut(stream, size, t_ns[start:])
                stop = start + size
                self._chunk(stream, t_ns[start:stop].tolist(), elements[start:stop])
            start = stop

    def _chunk(self, stream: Stream, times: list[int], xs: Float32s, ticks: int = 0) -> None:
        """Step over elements with one set of weights, and report what falls due."""
        out = self.engine.advance_in_place(stream.learned.weights, stream.carry, xs)
        before, count = stream.n, len(xs)
        stream.n = after = before + count
        positive = (xs[:, 0] > 0).tolist()
        if stream.side is not None:
            self._sided.report_chunk(stream, before, times, positive, out, xs)
            return
        made = self._report(stream, before, times, positive, out)
        stream.moved(ticks, made)
        left = stream.due - after
        stream.left = left if left < MOST_WAITING else MOST_WAITING

    def _report(
        self, stream: Stream, before: int, times: list[int], positive: list[bool], out: Any
    ) -> int:
        """Give labels to predictions and make those that are due; return how many were made.

        One loop over both, in the order of elements, on local numbers: it is what a block costs
        beside the network.
        """
        after, due, stride, horizon = stream.n, stream.due, self._stride, self._horizon
        name, source, visible = stream.name, stream.source, stream.visible
        labels, positives, repeats = stream.labels, stream.positives, stream.repeats
        waiting, gathered, publish = stream.waiting, self.out, self.publish
        listens, late = self.emit is not None or self.deliver is not None, stream.late
        ps: list[float] = []
        if due < after:
            ps = self.engine.rows(out, after - before)[:, 0].tolist()
        elif due == after:  # the last element left its p in the carry
            ps = [float(stream.carry.host[self.engine.scaler_size])]
        first = after - before - len(ps)
        flagged, made = stream.view[stream.row, FLAG_UNTIL], 0
        labelled = waiting[0].n + horizon if waiting else after + 1
        while True:
            if labelled <= due and labelled <= after:
                one, k = waiting.popleft(), labelled - before - 1
                label = 1 if positive[k] else 0
                labels += 1
                positives += label
                repeats += label == one[LAST_KNOWN]
                if late:
                    self.reach(stream, labelled)
                gathered.append(_new(Labelled, (stream.row, name, times[k], label, one)))
                labelled = waiting[0].n + horizon if waiting else due + horizon
                continue
            if due > after:
                break
            if late:
                self.reach(stream, due)
            k = due - before - 1
            p = ps[k - first]
            if not 0.0 <= p <= 1.0:
                raise ValueError(f"prediction {due} of {name!r}: p={p} is not in [0, 1]")
            last = 1 if positive[k] else 0
            repeat = (repeats + 0.5) / (labels + 1.0)
            base_p = (positives + 0.5) / (labels + 1.0)
            last_p = repeat if last else 1.0 - repeat
            if not waiting:
                labelled = due + horizon
            waiting.append(
                _new(Waiting, (due, p, base_p, last_p, last, source, None, None, None, None))
            )
            item: Any = (name, due, times[k], p, source, visible, due <= flagged, ())
            if publish is not None:
                item = Prediction(*item)
                publish(item)
            if listens:
                gathered.append(item)
            due += stride
            made += 1
        stream.due, stream.labels = due, labels
        stream.positives, stream.repeats = positives, repeats
        return made

    # ---- gaps and refusals ------------------------------------------------------------

    def _interrupt(self, stream: Stream, *, restarted: bool = False) -> None:
        window = self.config.stream.window
        resets = self.config.stream.on_gap == "reset"
        stream.interrupted(window)
        if resets or restarted:
            self._sided.settle(stream, all_of_them=True)
            self._expire(stream)
        if not resets:
            stream.plan()
            return
        self._sided.learn(stream)
        stream.count("resets")
        stream.carry.host[:] = self._start
        if stream.twin is not None:
            stream.twin.host[:] = self._start
        stream.restart()
        if stream.side is not None:
            stream.side.tape = self.new_tape(stream.n)
            stream.side.trace = self.engine.init_trace() if self.learning.length else None

    def _expire(self, stream: Stream) -> None:
        """Let all predictions of a stream that wait go without a label."""
        while stream.waiting:
            one = stream.waiting.popleft()
            stream.expired(one.n + self._stride)
            self.out.append(Expiry(stream.name, one.n))
        if self.external:
            for expired in stream.ledger.expire_all(self.labels.limit):
                self.out.append(Expiry(stream.name, expired.n))

    def _too_many(self) -> str:
        return f"{self.table.limit} streams are open, which is the limit"

    def _refuse_stream(self, name: str, where: str) -> None:
        self.out.append(Refusal(name, "tick", self._too_many(), 0, where))
        self.hand_over()

    def refuse_label(self, label: Label, reason: str) -> None:
        """Report a label that is refused."""
        self.out.append(Refusal(label.stream, "label", reason, where=f"n={label.n}"))


def fallbacks(session: Session) -> list[str]:
    """Return what is slower than it could be, since compiled code gave other bits; mostly none."""
    engine, out = session.engine, []
    if engine.learning and not engine.windowed and not engine.exact_strides:
        out.append("strides are stepped and learned from call by call: one call gave other bits")
    if not engine.exact_table:
        out.append("streams are stepped one by one: the loop over tables gave other bits")
    return out


__all__ = ["COUNTED", "MAX_STREAMS", "SHARED", "Arrivals", "Session", "fallbacks"]
