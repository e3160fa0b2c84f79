"""Predictions and their labels for a fleet: `ledger` and the reporting of a session, in columns.

Streams do not touch each other, so the predictions and labels of a block are worked off in turns
that hold each stream once: what a stream's second label of a block does starts from what its
first one has left.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..config import Config
from .fleet_events import Predictions, Scores
from .fleet_scores import FleetScores
from .fleet_tables import PENDING, WAYS, Streams, Table

Longs = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Sessions = npt.NDArray[np.object_]


class Stepped(NamedTuple):
    """Elements just stepped that make a prediction due or bring a label, in order of arrival.

    `at` are the arrivals, `streams` places, `positive` the signs (0 or 1) of the targets, `p`
    what the network gave after them, `flag_until` and `gaps_visible` what the streams have.
    """

    at: Longs
    streams: Streams
    n: Longs
    positive: Longs
    t_ns: Longs
    p: Doubles
    flag_until: Longs
    gaps_visible: Bools

    due: Bools
    labelled: Bools

    def some(self, which: Bools) -> Stepped:
        """Return those elements alone."""
        at = np.flatnonzero(which)
        return Stepped._make(column.take(at) for column in self)


class FleetBook:
    """The waiting predictions of all streams, and their scores.

    A stream has a slot for each prediction that can wait at a time; they come a stride apart and
    wait for `horizon` elements. Attributes: `pending` and `sessions` (capacity, slots), `scores`.
    """

    def __init__(self, config: Config, capacity: int) -> None:
        self._stream = config.stream
        self.slots = -(-config.stream.horizon // config.stream.stride)
        self.pending = Table(capacity, PENDING, (self.slots,))
        self.sessions: Sessions = np.full((capacity, self.slots), "", np.object_)
        self.scores = FleetScores(capacity, config.scoring.score_window)

    def waiting(self, n: int, first: int) -> range:
        """Return the predictions that wait after element n, where they began at `first`."""
        stream = self._stream
        oldest = n - stream.horizon + 1
        oldest += (stream.window - oldest) % stream.stride
        return range(max(first, oldest), n + 1, stream.stride)

    def falls(self, n: Longs, first: Longs) -> tuple[Bools, Bools]:
        """Tell after which elements a prediction is due, and which bring the label of one."""
        stream = self._stream
        phase = (n - stream.window) % stream.stride
        due = (phase == 0) & (n >= first)
        label_phase = stream.horizon % stream.stride
        return due, (phase == label_phase) & (n - stream.horizon >= first)

    def take(self, stepped: Stepped, sessions: Sessions) -> tuple[Predictions, Scores]:
        """Score and predict over elements; `sessions` are the streams' by place."""
        due, labelled = stepped.due, stepped.labelled
        scored = _Scored.empty(len(due))
        for turn in _turns(stepped.streams):
            brings = turn[labelled[turn]]
            if len(brings):
                self._score(stepped, brings, scored)
            makes = turn[due[turn]]
            if len(makes):
                self._predict(stepped, makes, sessions)
        return _predictions(stepped.some(due), sessions), self._scores(stepped, labelled, scored)

    def _slot(self, n: Longs) -> Longs:
        return (n - self._stream.window) // self._stream.stride % self.slots

    def _predict(self, stepped: Stepped, at: Longs, sessions: Sessions) -> None:
        """Enter predictions after elements `at`, and what the plain forecasters give."""
        streams, last = stepped.streams[at], stepped.positive[at]
        slots = self._slot(stepped.n[at])
        board = self.scores.board.rows
        labels = board["labels"][streams] + 1.0
        repeat = (board["repeats"][streams] + 0.5) / labels
        rows = np.empty(len(at), PENDING)
        rows["p"], rows["last"] = stepped.p[at], last
        rows["base_p"] = (board["positives"][streams] + 0.5) / labels
        rows["last_p"] = np.where(last == 1, repeat, 1.0 - repeat)
        self.pending.rows[streams, slots] = rows
        self.sessions[streams, slots] = sessions[streams]

    def _score(self, stepped: Stepped, at: Longs, scored: _Scored) -> None:
        """Score the predictions whose labels elements `at` bring."""
        streams, label = stepped.streams[at], stepped.positive[at]
        slots = self._slot(stepped.n[at] - self._stream.horizon)
        rows = self.pending.rows[streams, slots]
        p = np.stack([rows["p"], rows["base_p"], rows["last_p"]])
        board = self.scores.board.gather(streams)
        scored.out[:, at] = self.scores.add(streams, board, label, rows["last"], p)
        self.scores.board.put(streams, board)
        scored.p[:, at], scored.last[at] = p, rows["last"]
        scored.sessions[at] = self.sessions[streams, slots]

    def _scores(self, stepped: Stepped, labelled: Bools, scored: _Scored) -> Scores:
        """Return the scores in the order of arrival, and let them into the ring."""
        of = stepped.some(labelled)
        p, out = scored.p[:, labelled], scored.out[:, labelled]
        self.scores.roll(of.positive, scored.last[labelled], p)
        n = of.n - self._stream.horizon
        plain = p[1], p[2], scored.sessions[labelled]
        return Scores(of.at, of.streams, n, of.t_ns, p[0], of.positive, out[0], *plain, *out[1:])


class _Scored(NamedTuple):
    """Columns that the turns fill in: of the elements that bring a label."""

    out: Doubles  # (4, m): a `fleet_scores.Scored`
    p: Doubles  # (3, m)
    last: Longs
    sessions: Sessions

    @classmethod
    def empty(cls, count: int) -> _Scored:
        return cls(
            np.zeros((4, count)),
            np.zeros((len(WAYS), count)),
            np.zeros(count, np.int64),
            np.full(count, "", np.object_),
        )


def _predictions(of: Stepped, sessions: Sessions) -> Predictions:
    wrong = ~((of.p >= 0.0) & (of.p <= 1.0))
    if wrong.any():
        k = int(np.argmax(wrong))
        raise ValueError(f"prediction {of.n[k]} of a stream: p={of.p[k]} is not in [0, 1]")
    flags = of.gaps_visible, of.n <= of.flag_until
    return Predictions(of.at, of.streams, of.n, of.t_ns, of.p, sessions[of.streams], *flags)


def _turns(streams: Streams) -> Iterator[Longs]:
    """Yield where each stream comes for the first time, for the second, and so on."""
    count = len(streams)
    order = np.argsort(streams, kind="stable")
    grouped = streams[order]
    begins = np.ones(count, np.bool_)
    begins[1:] = grouped[1:] != grouped[:-1]
    if begins.all():
        if count:
            yield np.arange(count)
        return
    starts = np.flatnonzero(begins)
    time = np.arange(count) - np.repeat(starts, np.diff(starts, append=count))
    by_time = np.argsort(time, kind="stable")
    for turn in np.split(order[by_time], np.cumsum(np.bincount(time))[:-1]):
        yield np.sort(turn)
