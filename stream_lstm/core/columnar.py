"""Blocks of ticks of many streams, in columns.

Streams that neither learn nor take external labels do not affect each other, so a block is worked
off column by column: the elements of all ticks, one compiled loop over the carries of the block's
streams, then the predictions that fall due and the labels that the elements bring.

The predictions of a stream are one sequence: those that waited before the block, then those that
fall due in it. Labels come in the same order, so the k-th label of a stream in a block belongs to
the k-th prediction of the sequence. The plain forecasts of a prediction follow from the numbers of
labels that were known by then, which are running counts.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from ..errors import ConfigurationError
from ..events import OldTimes, Prediction, Score, Ticks
from ..records import Batch
from ..typing import Bools, Float32s, Float64s, Int64s
from .elements import GroupedTicks, TableMaker
from .old_ticks import OldTicks
from .scores import plain_p
from .table import (
    BASE_P,
    FIRST,
    FLAG_UNTIL,
    LABELS,
    LAST,
    LAST_P,
    LATEST,
    NUMBERED,
    OLD_TICKS,
    POSITIVES,
    PREDICTIONS,
    REFUSED_TICKS,
    REPEATS,
    TICKS,
    N,
    P,
)

if TYPE_CHECKING:
    from .session import Session

PIECE = 16_384
"""Arrivals that are worked off together: the columns of more would not stay in the cache."""

SHORT_RUN = 16
"""Ticks of a run from which a block is faster: shorter ones wait until a prediction is due."""


class Arrivals(msgspec.Struct, frozen=True):
    """Ticks of many streams in the order of their arrival.

    `streams` int64 (m,) are rows as `Session.place` returns them; `t_ns` is int64 (m,) and
    `values` float64 (m, C) in the order of the session's columns. `session` is the publisher's run
    id, and `numbered` says whether it numbers the ticks, which makes gaps visible. `origins` are
    (first tick, name for messages), in order.
    """

    streams: npt.NDArray[np.int64]
    t_ns: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    session: str = ""
    numbered: bool = False
    origins: Sequence[tuple[int, str]] = ((0, ""),)

    def __post_init__(self) -> None:
        count = len(self.streams)
        if self.values.ndim != 2 or self.t_ns.shape != (count,) or len(self.values) != count:
            raise ValueError(
                f"arrivals: streams and t_ns must be (m,) and values (m, C), not "
                f"{self.streams.shape}, {self.t_ns.shape} and {self.values.shape}"
            )

    def origin(self, at: int) -> tuple[int, str]:
        """Return (first tick, name for messages) of the part that contains tick `at`."""
        return self.origins[bisect_right(self.origins, at, key=lambda one: one[0]) - 1]


class _Events(NamedTuple):
    """Elements after which a prediction is due or that bring a label, stream by stream.

    `at` are the arrivals, `local` the block's stream of each, `n` its element count, `positive`
    (0 or 1) the sign of its target, `p` the network's probability after it.
    """

    at: Int64s
    local: Int64s
    n: Int64s
    positive: Int64s
    t_ns: Int64s
    p: Float64s
    due: Bools
    labelled: Bools


class ColumnarPath:
    """Works off blocks of many streams for a session."""

    def __init__(self, session: Session) -> None:
        self._session, self._table = session, session.table
        self._maker = TableMaker(session.maker, session.table)
        self._stream = session.config.stream

    def arrive(self, arrivals: Arrivals) -> None:
        """Take ticks of any streams; see `Session.arrive`."""
        session = self._session
        if arrivals.values.shape[1] != len(session.columns):
            raise ConfigurationError(
                f"arrivals have {arrivals.values.shape[1]} values, "
                f"the session has columns {', '.join(session.columns)}"
            )
        streams = np.ascontiguousarray(arrivals.streams, np.int64)
        if len(streams) and not 0 <= streams.min() <= streams.max() < len(self._table):
            raise IndexError(f"rows are 0 to {len(self._table) - 1}: get them from `place`")
        if not session.columnar:
            self._in_runs(arrivals, streams)
            return
        if session.active:
            session.release(np.unique(streams).tolist())
        for start in range(0, len(streams), PIECE):
            part = slice(start, start + PIECE)
            if not self._maker.maker.pauses.ns or not self._with_pauses(streams, arrivals, part):
                self._piece(streams, arrivals, part)

    def _with_pauses(self, every: Int64s, arrivals: Arrivals, part: slice) -> bool:
        """Take a piece in which a stream may pause, each such stream by itself; else False.

        Streams do not affect each other here, so their order does not matter.
        """
        t_ns, block = arrivals.t_ns[part], self._maker.group(every[part])
        pauses, latest = self._maker.maker.pauses, self._table.ints[block.streams, LATEST]
        possible = pauses.possible(latest, block.starts, t_ns[block.order])
        if not possible.any():
            return False
        rows = block.streams[possible].tolist()
        for k, row in zip(np.flatnonzero(possible).tolist(), rows, strict=True):
            self._push(arrivals, part.start + block.of(k), self._table.names[row])
        self._session.release(rows)
        rest = part.start + np.flatnonzero(~possible[block.local])
        if len(rest):
            self._piece(every, arrivals, rest)
        return True

    def _in_runs(self, arrivals: Arrivals, streams: Int64s) -> None:
        """Push each run of ticks of one stream: streams that learn may share weights."""
        ends = np.flatnonzero(np.diff(streams, append=-1)) + 1
        start, at, seq = 0, 0, 0 if arrivals.numbered else None
        session, times, rows = self._session, arrivals.t_ns.tolist(), arrivals.values.tolist()

        def origin(index: int) -> tuple[int, str]:
            first, where = arrivals.origin(at + index)
            return at + index - first, where

        session.origin = origin
        for stop in ends.tolist():
            name = self._table.names[streams[start]]
            sent = arrivals.session, seq, arrivals.origin(start)[1]
            if stop - start < SHORT_RUN:
                for at in range(start, stop):
                    session.tick(name, times[at], rows[at], *sent)
            else:
                at, part = start, slice(start, stop)
                session.push(Ticks(name, arrivals.t_ns[part], arrivals.values[part], *sent))
            start = stop
        session.origin = None

    def _push(self, arrivals: Arrivals, at: Int64s, name: str) -> None:
        """Push the arrivals `at` (k,), which are of one stream."""
        session, seq = self._session, 0 if arrivals.numbered else None
        places, where = at.tolist(), arrivals.origin(int(at[0]))[1]

        def origin(index: int) -> tuple[int, str]:
            first, where = arrivals.origin(places[index])
            return places[index] - first, where

        session.origin = origin
        t_ns, values = arrivals.t_ns[at], arrivals.values[at]
        session.push(Ticks(name, t_ns, values, arrivals.session, seq, where))
        session.origin = None

    def _piece(self, streams: Int64s, arrivals: Arrivals, part: slice | Int64s) -> None:
        """Work off the arrivals `part` of all."""
        session, ints = self._session, self._table.ints

        def origin(at: int) -> tuple[int, str]:
            place = part.start + at if isinstance(part, slice) else int(part[at])
            first, where = arrivals.origin(place)
            return place - first, where

        streams, t_ns, values = streams[part], arrivals.t_ns[part], arrivals.values[part]
        block = self._maker.group(streams)
        rows = ints.take(block.streams, 0)
        rows[:, TICKS] += block.counts
        rows[:, NUMBERED] = arrivals.numbered
        self._table.sources[block.streams] = arrivals.session
        made = self._maker.make(block, rows, t_ns, values)
        refused = np.array([at for at, _ in made.refused], np.int64)
        rows[:, REFUSED_TICKS] += np.bincount(block.local[refused], minlength=len(rows))
        if made.old is not None:
            self._report_old(block, rows, made.old, origin)
        predictions, scores = self._step(block, rows, made.accepted, made.elements, t_ns)
        ints[block.streams] = rows
        refusals = []
        for at, reason in made.refused:
            name = self._table.names[streams[at]]
            refusals.append((at, session.refusal(name, reason, *origin(at))))
        session.hand_over_columns(predictions, scores, refusals)

    def _report_old(
        self,
        block: GroupedTicks,
        rows: Int64s,
        old: OldTicks,
        origin: Callable[[int], tuple[int, str]],
    ) -> None:
        """Count and report the old ticks of each stream."""
        of, first, counts = np.unique(block.local[old.at], return_index=True, return_counts=True)
        rows[of, OLD_TICKS] += counts
        if self._session.on_old is not None:
            for k, at, count in zip(of.tolist(), first.tolist(), counts.tolist(), strict=True):
                name = self._table.names[block.streams[k]]
                where = origin(int(old.at[at]))[1]
                times = int(old.t_ns[at]), int(old.latest_ns[at])
                self._session.on_old(OldTimes(name, count, *times, where))

    def _step(
        self, block: GroupedTicks, rows: Int64s, accepted: Bools, xs: Float32s, t_ns: Int64s
    ) -> tuple[tuple[Int64s, Batch[Prediction]], tuple[Int64s, Batch[Score] | None]]:
        """Step over the elements of a piece, and update `rows`."""
        order, count, stream = block.order, len(block.streams), self._stream
        if not accepted.all():
            order = order[accepted[order]]
        local = block.local[order]
        counts = np.bincount(local, minlength=count)
        n = rows[local, N] + _rank(local, counts) + 1
        p = self._network(block, xs, accepted)[order]
        first, phase = rows[local, FIRST], (n - stream.window) % stream.stride
        due = (phase == 0) & (n >= first)
        labelled = phase == stream.horizon % stream.stride
        labelled &= n - stream.horizon >= first
        waited = self._waiting(rows)
        rows[:, N] += counts
        rows[:, PREDICTIONS] += np.bincount(local[due], minlength=count)
        some = np.flatnonzero(due | labelled)
        at, positive = order[some], (xs[order[some], 0] > 0).astype(np.int64)
        marks = due[some], labelled[some]
        events = _Events(
            at, local[some], n[some], positive, t_ns[at], p[some].astype(np.float64), *marks
        )
        return self._report(block, rows, events, waited)

    def _network(self, block: GroupedTicks, xs: Float32s, accepted: Bools) -> Float32s:
        """Step over the elements among xs (m, F), in order of arrival; return p (m,)."""
        session, table = self._session, self._table
        engine = session.engine
        at = np.flatnonzero(accepted)
        p = np.zeros(len(xs), np.float32)
        if len(block.streams) == 1:
            row = int(block.streams[0])
            weights: Any = session.learner_for(table.names[row]).weights
            table.carry[row], rows = engine.advance(weights, table.carry[row], xs[at])
            p[at] = rows[:, 0]
            return p
        own = table.own.shape[1] > 0
        streams, size = block.streams[block.local], engine.table.size
        weights = None if own else session.learner_for("").weights
        for start in range(0, len(at), size):
            part = at[start : start + size]
            group = self._maker.group(streams[part])
            if own:
                weights = table.own.take(group.streams, 0)[:, : engine.table.weight_width]
            carries, index = table.carry.take(group.streams, 0), group.local.astype(np.int32)
            if engine.exact_table:
                carries, out = engine.table.step(weights, carries, index, xs[part])
                p[part] = out[:, 0]
            else:
                for k, row in enumerate(index.tolist()):
                    of = (weights[row],) if own else weights
                    carries[row], rows = engine.advance(of, carries[row], xs[part[k]][None])
                    p[part[k]] = rows[0, 0]
            table.carry[group.streams] = carries
        return p

    def _waiting(self, rows: Int64s) -> Int64s:
        """Return how many predictions of each stream wait (d,)."""
        stream = self._stream
        n, first = rows[:, N], rows[:, FIRST]
        oldest = n - stream.horizon + 1
        oldest = oldest + (stream.window - oldest) % stream.stride
        return np.maximum((n - np.maximum(first, oldest)) // stream.stride + 1, 0)

    def _report(
        self, block: GroupedTicks, rows: Int64s, events: _Events, waited: Int64s
    ) -> tuple[tuple[Int64s, Batch[Prediction]], tuple[Int64s, Batch[Score] | None]]:
        """Store the predictions and score the labels of `events`, stream by stream."""
        table, stream, local = self._table, self._stream, events.local
        labelled, due = events.labelled, events.due
        dues = np.flatnonzero(due)
        # The prediction of each label: one that waited before the block, or a new one.
        label_n, of = events.n[labelled] - stream.horizon, local[labelled]
        before = _rank(of, np.bincount(of, minlength=len(waited)))
        new = before >= waited[of]
        due_counts = np.bincount(local[dues], minlength=len(waited))
        due_starts = np.cumsum(due_counts) - due_counts
        which = (due_starts[of] + before - waited[of])[new]  # among the new ones
        places = block.streams[of], table.slot(label_n)
        pending, sources = table.pending[places], table.pending_sources[places]
        last = pending[:, LAST].astype(np.int64)
        last[new] = events.positive[dues[which]]
        # The labels known at each element, with the one that it brings.
        label = events.positive[labelled]
        columns = (LABELS, np.ones_like(label)), (POSITIVES, label), (REPEATS, label == last)
        known = [_so_far(local, labelled, add, rows[:, column]) for column, add in columns]
        ends = np.flatnonzero(np.diff(local, append=-1))
        for (column, _), counts in zip(columns, known, strict=True):
            rows[local[ends], column] = counts[ends]
        entered = np.empty((len(dues), 4))
        entered[:, P], entered[:, LAST] = events.p[due], events.positive[due]
        labels, positives, repeats = (counts[due] for counts in known)
        plain = plain_p(labels, positives, repeats, events.positive[due])
        entered[:, BASE_P], entered[:, LAST_P] = plain
        sent = table.sources[block.streams[local]]
        pending[new], sources[new] = entered[which], sent[dues[which]]
        waits = events.n[due] > rows[local[due], N] - stream.horizon
        spot = block.streams[local[due]][waits], table.slot(events.n[due][waits])
        table.pending[spot], table.pending_sources[spot] = entered[waits], sent[due][waits]
        predictions = self._predictions(block, rows, events, sent)
        return predictions, self._scores(block, events, pending, sources, last, label_n)

    def _predictions(
        self, block: GroupedTicks, rows: Int64s, events: _Events, sent: Any
    ) -> tuple[Int64s, Batch[Prediction]]:
        due = np.flatnonzero(events.due)
        due = due[np.argsort(events.at[due], kind="stable")]
        p, of = events.p[due], events.local[due]
        wrong = ~((p >= 0.0) & (p <= 1.0))
        if wrong.any():
            k = int(np.argmax(wrong))
            raise ValueError(f"prediction {events.n[due[k]]}: p={p[k]} is not in [0, 1]")
        columns = {
            "stream": self._table.called[block.streams[of]],
            "n": events.n[due],
            "t_ns": events.t_ns[due],
            "p": p,
            "session": sent[due],
            "gaps_visible": rows[of, NUMBERED] == 1,
            "after_gap": events.n[due] <= rows[of, FLAG_UNTIL],
        }
        return events.at[due], Batch(Prediction, columns)

    def _scores(
        self,
        block: GroupedTicks,
        events: _Events,
        pending: Float64s,
        sources: Any,
        last: Int64s,
        label_n: Int64s,
    ) -> tuple[Int64s, Batch[Score] | None]:
        session, labelled = self._session, np.flatnonzero(events.labelled)
        turn = np.argsort(events.at[labelled], kind="stable")
        at = labelled[turn]
        streams, label = block.streams[events.local[at]], events.positive[at]
        p = np.ascontiguousarray(pending[turn][:, [P, BASE_P, LAST_P]].T)
        session.score_later()
        losses, log_e = session.scores.extend(
            streams, label.astype(np.int8), last[turn].astype(np.int8), p
        )
        if not session.wants_scores:
            return events.at[at], None
        columns = {
            "stream": self._table.called[streams],
            "n": label_n[turn],
            "t_ns": events.t_ns[at],
            "p": p[0],
            "label": label,
            "log_loss": losses,
            "base_rate_p": p[1],
            "last_label_p": p[2],
            "session": sources[turn],
            "coin_evidence": log_e[:, 0],
            "base_rate_evidence": log_e[:, 1],
            "last_label_evidence": log_e[:, 2],
        }
        return events.at[at], Batch(Score, columns)


def _rank(local: Int64s, counts: Int64s) -> Int64s:
    """Return how many entries of the same stream come before each; entries are grouped."""
    return np.arange(len(local)) - (np.cumsum(counts) - counts)[local]


def _so_far(local: Int64s, which: Bools, add: Any, before: Int64s) -> Int64s:
    """Return a count at each entry: `before` (d,) its stream's, plus what `which` have added."""
    added = np.zeros(len(local) + 1, np.int64)
    added[1:][which] = add
    sums = np.cumsum(added)  # before each entry, and in all
    counts = np.bincount(local, minlength=len(before))
    base = sums[np.cumsum(counts) - counts]
    out: Int64s = before[local] + sums[1:] - base[local]
    return out
