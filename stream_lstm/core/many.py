"""The ticks of many streams in columns: the way through a session for blocks of any mixture.

Streams that neither learn nor take labels from outside do not act on each other, so a block is
worked off column by column: elements of all ticks, one compiled loop over the carries of the
block's streams, then the predictions that fall due and the labels that the elements bring.

The predictions of a stream are one sequence: those that waited before the block, then those that
fall due in it. Labels come in the same order, so the k-th label of a stream in a block is that of
the k-th of the sequence. What the plain forecasters give for a prediction follows from whole
numbers, the labels that were known by then, which are running counts.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from ..errors import ConfigurationError
from ..events import OldTimes, Prediction, Refusal, Score, Ticks
from ..records import Batch
from ..typing import Bools, Float64s, Int64s
from .elements import GroupedTicks, TableMaker
from .old_times import Old
from .table import (
    BASE_P,
    FIRST,
    FLAG_UNTIL,
    LABELS,
    LAST,
    LAST_P,
    OLD_TICKS,
    POSITIVES,
    PREDICTIONS,
    REFUSED_TICKS,
    REPEATS,
    TICKS,
    VISIBLE,
    N,
    P,
)

if TYPE_CHECKING:
    from .session import Session


PIECE = 16_384
"""Arrivals worked off at a time: the columns of more would not stay in a cache."""


class Arrivals(msgspec.Struct, frozen=True):
    """Ticks of many streams in the order of their arrival.

    `streams` int64 (m,) are rows as `Session.place` gives them; `t_ns` is int64 (m,) and `values`
    float64 (m, C) in the order of the session's columns; `session` is their publisher's run,
    `numbered` says whether it numbers them, so that gaps are seen. `origins` are (first tick, name
    for messages), in order.
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


class _Due(NamedTuple):
    """Elements that make a prediction due or bring a label, stream by stream.

    `at` are the arrivals, `local` which of the block's streams each is of, `n` its element count,
    `positive` (0 or 1) the sign of its target, `p` what the network gave after it.
    """

    at: Int64s
    local: Int64s
    n: Int64s
    positive: Int64s
    t_ns: Int64s
    p: Float64s
    due: Bools
    labelled: Bools


class Many:
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
            raise IndexError(f"rows are 0 to {len(self._table) - 1}: ask for them with `place`")
        if not session.plain:
            self._in_runs(arrivals, streams)
            return
        if session.active:
            session.release(np.unique(streams).tolist())
        for start in range(0, len(streams), PIECE):
            self._piece(streams, arrivals, slice(start, start + PIECE))

    def _in_runs(self, arrivals: Arrivals, streams: Int64s) -> None:
        """Push each run of ticks of one stream: streams that learn may share weights."""
        ends = np.flatnonzero(np.diff(streams, append=-1)) + 1
        start, seq = 0, 0 if arrivals.numbered else None
        for stop in ends.tolist():
            name, part = self._table.names[streams[start]], slice(start, stop)
            where = _origin(arrivals, start)[1]
            values = arrivals.values[part]
            ticks = Ticks(name, arrivals.t_ns[part], values, arrivals.session, seq, where)
            self._session.first = start - _origin(arrivals, start)[0]
            self._session.push(ticks)
            start = stop
        self._session.first = 0

    def _piece(self, streams: Int64s, arrivals: Arrivals, part: slice) -> None:
        session, ints = self._session, self._table.ints
        streams, t_ns, values = streams[part], arrivals.t_ns[part], arrivals.values[part]
        block = self._maker.group(streams)
        rows = ints.take(block.streams, 0)
        rows[:, TICKS] += block.counts
        rows[:, VISIBLE] = arrivals.numbered
        self._table.sources[block.streams] = arrivals.session
        made = self._maker.make(block, rows, t_ns, values)
        refused = np.array([at for at, _ in made.refused], np.int64)
        rows[:, REFUSED_TICKS] += np.bincount(block.local[refused], minlength=len(rows))
        if made.old is not None:
            self._old(block, rows, made.old, arrivals, part.start)
        predictions, scores = self._step(block, rows, made.made, made.elements, t_ns)
        ints[block.streams] = rows
        names = self._table.called[streams[refused]].tolist()
        begins = np.array([first for first, _ in arrivals.origins])
        of = (np.searchsorted(begins, refused + part.start, side="right") - 1).tolist()
        refusals = []
        for (at, reason), name, k in zip(made.refused, names, of, strict=True):
            first, where = arrivals.origins[k]
            refusals.append((at, Refusal(name, "tick", reason, at + part.start - first, where)))
        session.hand_over_columns(predictions, scores, refusals)

    def _old(
        self, block: GroupedTicks, rows: Int64s, old: Old, arrivals: Arrivals, start: int
    ) -> None:
        """Count ticks that are old, and report them for each stream."""
        of, first, counts = np.unique(block.local[old.at], return_index=True, return_counts=True)
        rows[of, OLD_TICKS] += counts
        if self._session.on_old is None:
            return
        for k, at, count in zip(of.tolist(), first.tolist(), counts.tolist(), strict=True):
            name = self._table.names[block.streams[k]]
            where = _origin(arrivals, int(old.at[at]) + start)[1]
            times = int(old.t_ns[at]), int(old.latest_ns[at])
            self._session.on_old(OldTimes(name, count, *times, where))

    def _step(
        self, block: GroupedTicks, rows: Int64s, made: Bools, xs: Any, t_ns: Int64s
    ) -> tuple[tuple[Int64s, Batch[Prediction]], tuple[Int64s, Batch[Score] | None]]:
        """Step over the elements of a piece, and bring `rows` up to date."""
        order, count = block.order, len(block.streams)
        if not made.all():
            order = order[made[order]]
        local = block.local[order]
        counts = np.bincount(local, minlength=count)
        starts = np.cumsum(counts) - counts
        n = rows[local, N] + (np.arange(len(order)) - starts[local]) + 1
        p = self._network(block, xs, made)[order]
        due, labelled = self._falls(n, rows[local, FIRST])
        waited = self._waiting(rows)
        rows[:, N] += counts
        rows[:, PREDICTIONS] += np.bincount(local[due], minlength=count)
        told = np.flatnonzero(due | labelled)
        of = order[told]
        events = _Due(
            of,
            local[told],
            n[told],
            (xs[of, 0] > 0).astype(np.int64),
            t_ns[of],
            p[told].astype(np.float64),
            due[told],
            labelled[told],
        )
        return self._report(block, rows, events, waited)

    def _network(self, block: GroupedTicks, xs: Any, made: Bools) -> npt.NDArray[np.float32]:
        """Step over the elements among xs (m, F), in order of arrival; return p (m,)."""
        session, table = self._session, self._table
        engine = session.engine
        at = np.flatnonzero(made)
        p = np.zeros(len(xs), np.float32)
        if len(block.streams) == 1:
            p[at] = self._alone(int(block.streams[0]), xs[at])
            return p
        streams, size = block.streams[block.local], engine.table.size
        weights: Any = None if table.own.shape[1] else session.learned_for("").weights
        for start in range(0, len(at), size):
            part = at[start : start + size]
            group = self._maker.group(streams[part])
            if table.own.shape[1]:
                weights = table.own.take(group.streams, 0)[:, : engine.table.weight_width]
            carries, index = table.carry.take(group.streams, 0), group.local.astype(np.int32)
            if engine.exact_table:
                moved, out = engine.table.step(weights, carries, index, xs[part])
                p[part] = out[:, 0]
            else:
                moved = carries
                for k, row in enumerate(index.tolist()):
                    own = (weights[row],) if table.own.shape[1] else weights
                    moved[row], rows = engine.advance(own, moved[row], xs[part[k]][None])
                    p[part[k]] = rows[0, 0]
            table.carry[group.streams] = moved
        return p

    def _alone(self, row: int, xs: Any) -> npt.NDArray[np.float32]:
        """Step one stream over elements xs (m, F); return p (m,)."""
        session, table = self._session, self._table
        weights = session.learned_for(table.names[row]).weights
        table.carry[row], rows = session.engine.advance(weights, table.carry[row], xs)
        return rows[:, 0]

    def _falls(self, n: Int64s, first: Int64s) -> tuple[Bools, Bools]:
        """Return after which elements a prediction is due, and which bring the label of one."""
        stream = self._stream
        phase = (n - stream.window) % stream.stride
        due = (phase == 0) & (n >= first)
        label_phase = stream.horizon % stream.stride
        return due, (phase == label_phase) & (n - stream.horizon >= first)

    def _waiting(self, rows: Int64s) -> Int64s:
        """Return how many predictions of each stream wait (d,)."""
        stream = self._stream
        n, first = rows[:, N], rows[:, FIRST]
        oldest = n - stream.horizon + 1
        oldest = oldest + (stream.window - oldest) % stream.stride
        return np.maximum((n - np.maximum(first, oldest)) // stream.stride + 1, 0)

    def _report(
        self, block: GroupedTicks, rows: Int64s, events: _Due, waited: Int64s
    ) -> tuple[tuple[Int64s, Batch[Prediction]], tuple[Int64s, Batch[Score] | None]]:
        """Enter the predictions and score the labels of `events`, stream by stream."""
        table, stream, local = self._table, self._stream, events.local
        labelled, due = events.labelled, events.due
        # Of each labelled element: which prediction it is about.
        label_n = events.n[labelled] - stream.horizon
        of = local[labelled]
        before = _rank(of, len(waited))  # labels of its stream in this block before it
        new = before >= waited[of]
        dues = np.flatnonzero(due)
        due_counts = np.bincount(local[dues], minlength=len(waited))
        due_starts = np.cumsum(due_counts) - due_counts
        which = dues[(due_starts[of] + before - waited[of])[new]]
        slots = table.slot(label_n)
        old = table.pending[block.streams[of], slots]
        sources = table.pending_sources[block.streams[of], slots]
        last = old[:, LAST].astype(np.int64)
        last[new] = events.positive[which]
        truth = events.positive[labelled]
        # What was known at each element, the label that it brings included.
        known = [
            _so_far(local, labelled, one, rows[:, column])
            for one, column in (
                (np.ones_like(truth), LABELS),
                (truth, POSITIVES),
                ((truth == last).astype(np.int64), REPEATS),
            )
        ]
        ends = np.flatnonzero(np.diff(local, append=-1))
        for column, counts in zip((LABELS, POSITIVES, REPEATS), known, strict=True):
            rows[local[ends], column] = counts[ends]
        labels = known[0][due] + 1.0
        repeat = (known[2][due] + 0.5) / labels
        entered = np.empty((len(dues), 4))
        entered[:, P], entered[:, LAST] = events.p[due], events.positive[due]
        entered[:, BASE_P] = (known[1][due] + 0.5) / labels
        entered[:, LAST_P] = np.where(events.positive[due] == 1, repeat, 1.0 - repeat)
        where = np.zeros(len(due), np.int64)
        where[dues] = np.arange(len(dues))
        old[new] = entered[where[which]]
        sent = table.sources[block.streams[local]]
        sources[new] = sent[which]
        waits = events.n[due] > rows[local[due], N] - stream.horizon
        spot = block.streams[local[due]][waits], table.slot(events.n[due][waits])
        table.pending[spot] = entered[waits]
        table.pending_sources[spot] = sent[due][waits]
        made = self._predictions(block, rows, events, sent)
        return made, self._scores(block, events, old, sources, last, label_n)

    def _predictions(
        self, block: GroupedTicks, rows: Int64s, events: _Due, sent: Any
    ) -> tuple[Int64s, Batch[Prediction]]:
        due = np.flatnonzero(events.due)
        due = due[np.argsort(events.at[due], kind="stable")]
        p, of = events.p[due], events.local[due]
        wrong = ~((p >= 0.0) & (p <= 1.0))
        if wrong.any():
            k = int(np.argmax(wrong))
            raise ValueError(
                f"prediction {events.n[due[k]]} of a stream: p={p[k]} is not in [0, 1]"
            )
        columns = {
            "stream": self._table.called[block.streams[of]],
            "n": events.n[due],
            "t_ns": events.t_ns[due],
            "p": p,
            "session": sent[due],
            "gaps_visible": rows[of, VISIBLE] == 1,
            "after_gap": events.n[due] <= rows[of, FLAG_UNTIL],
        }
        return events.at[due], Batch(Prediction, columns)

    def _scores(
        self,
        block: GroupedTicks,
        events: _Due,
        pending: Float64s,
        sources: Any,
        last: Int64s,
        label_n: Int64s,
    ) -> tuple[Int64s, Batch[Score] | None]:
        labelled = np.flatnonzero(events.labelled)
        turn = np.argsort(events.at[labelled], kind="stable")
        at = labelled[turn]
        pending, sources, last, label_n = pending[turn], sources[turn], last[turn], label_n[turn]
        streams, truth = block.streams[events.local[at]], events.positive[at]
        p = np.ascontiguousarray(pending[:, [P, BASE_P, LAST_P]].T)
        session = self._session
        session.score_later()
        losses, log_e = session.scores.extend(
            streams, truth.astype(np.int8), last.astype(np.int8), p
        )
        if not session.wants_scores:
            return events.at[at], None
        columns = {
            "stream": self._table.called[streams],
            "n": label_n,
            "t_ns": events.t_ns[at],
            "p": p[0],
            "label": truth,
            "log_loss": losses,
            "base_rate_p": p[1],
            "last_label_p": p[2],
            "session": sources,
            "coin_evidence": log_e[:, 0],
            "base_rate_evidence": log_e[:, 1],
            "last_label_evidence": log_e[:, 2],
        }
        return events.at[at], Batch(Score, columns)


def _origin(arrivals: Arrivals, at: int) -> tuple[int, str]:
    """Return (first tick, name for messages) of the part that holds tick `at`."""
    return arrivals.origins[bisect_right(arrivals.origins, at, key=lambda one: one[0]) - 1]


def _rank(local: Int64s, streams: int) -> Int64s:
    """Return how many entries of the same stream come before each, entries being grouped."""
    counts = np.bincount(local, minlength=streams)
    starts = np.cumsum(counts) - counts
    return np.arange(len(local)) - starts[local]


def _so_far(local: Int64s, which: Bools, add: Int64s, before: Int64s) -> Int64s:
    """Return a count at each entry: `before` (d,) its stream's, plus what `which` have added."""
    added = np.zeros(len(local) + 1, np.int64)
    added[1:][which] = add
    sums = np.cumsum(added)  # what was added before each entry, and in all
    counts = np.bincount(local, minlength=len(before))
    base = sums[np.cumsum(counts) - counts]
    out: Int64s = before[local] + sums[1:] - base[local]
    return out
