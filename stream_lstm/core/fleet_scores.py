"""The scores of many streams, a label each, in whole columns: `scoring` for a fleet.

Every operation is the one of `Scoreboard`, `Grades`, `Evidence` and `Reliability`, in the same
order on each stream's own sums, so the figures of a stream are the same bits. Logarithms are
those of `math`: NumPy has its own, which differ in the last digit. What only makes sense of all
streams together is kept once for all: the counts of the bins, the ranking and the last labels.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .fleet_tables import BOARD, GIVEN, WAYS, Rows, Streams, Table
from .ranking import KEYS, Ranking, keys_of
from .reliability import BINS
from .rolling import Ring, layout
from .skill import CAUTION, MAX_STAKE, PROVEN
from .tally import EPSILON

Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]

RING_ROW = np.dtype(layout(0))
"""A row of `rolling.Ring`."""


class Scored(NamedTuple):
    """What came of labels (m,): the model's log losses in nats, and log W as in `events.Score`."""

    log_loss: Doubles
    coin_evidence: Doubles
    base_rate_evidence: Doubles
    last_label_evidence: Doubles


class FleetScores:
    """The scores of the streams of a fleet, and of all together over the last `window` labels."""

    def __init__(self, capacity: int, window: int) -> None:
        self.board = Table(capacity, BOARD)
        self.given = Table(capacity, GIVEN)
        self.bins = np.zeros((2, len(WAYS), BINS), np.int64)  # labels, and positive ones
        self.ranks = np.zeros((len(WAYS), KEYS), np.int64)
        self.ring = np.zeros(window, RING_ROW)
        self.ringed = 0  # labels that have gone into the ring

    def add(
        self, streams: Streams, board: Rows, label: Counts, last: Counts, p: Doubles
    ) -> Scored:
        """Score a label of each stream; `board` (m,) is what was gathered of them.

        label: 0 or 1 (m,); last: the last label known when the predictions were made (m,);
        p: the probabilities given (3, m), those of the model first.
        """
        true = label == 1
        losses = log_losses(p, true)
        calls = p > 0.5
        correct = calls == true
        correct[2] = np.maximum(last, 0) == label
        board["labels"] += 1
        board["positives"] += label
        board["repeats"] += label == last
        off = p - label
        off *= off
        called = correct == true
        for k, way in enumerate(WAYS):
            grades = board[way]
            grades["correct"] += correct[k]
            grades["log_loss"] += losses[k]
            grades["brier"] += off[k]
            grades["calls"] += called[k]
        self._reliability(streams, p, label)
        self._ranking(p, label)
        _evidence(board, correct[0], losses)
        evidence = (board[bet]["better"]["log_e"].copy() for bet in BETS)
        return Scored(losses[0], *evidence)

    def _reliability(self, streams: Streams, p: Doubles, label: Counts) -> None:
        k = np.minimum((p * BINS).astype(np.int64), BINS - 1)
        for way in range(len(WAYS)):
            self.given.rows[streams, way, k[way]] += p[way]
            self.bins[0, way] += np.bincount(k[way], minlength=BINS)
            self.bins[1, way] += np.bincount(k[way], label, minlength=BINS).astype(np.int64)

    def _ranking(self, p: Doubles, label: Counts) -> None:
        keys = keys_of(p, label == 1).astype(np.intp)
        np.add.at(self.ranks, (np.arange(len(WAYS))[:, None], keys), 1)

    def roll(self, label: Counts, last: Counts, p: Doubles) -> None:
        """Let labels (m,), in the order in which they came, into the ring of the last ones."""
        window = len(self.ring)
        if not window:
            return
        kept = slice(max(len(label) - window, 0), None)
        slots = (self.ringed + np.arange(len(label))[kept]) % window
        rows = np.empty(len(slots), RING_ROW)
        rows["label"], rows["last"], rows["p"] = label[kept], last[kept], p.T[kept]
        self.ring[slots] = rows
        self.ringed += len(label)

    def recent(self) -> Ring:
        """Return the ring of the last labels of all streams."""
        window = len(self.ring)
        held = self.ring[: min(self.ringed, window)]
        return Ring(window, self.ringed % window if window else 0, bytearray(held.tobytes()))

    def ranking(self, way: int) -> Ranking:
        """Return the ranking of a forecaster over all streams."""
        return Ranking.tabulated(self.ranks[way])


BETS = ("coin_bet", "base_bet", "last_bet")


def log_losses(p: Doubles, true: Bools) -> Doubles:
    """Return the losses in nats of giving `p` (w, m) to labels (m,); see `tally.log_loss`."""
    q = np.where(true, p, 1.0 - p)
    return np.abs(_log(np.maximum(q, EPSILON)))


def _log(x: Doubles) -> Doubles:
    out = np.fromiter(map(math.log, x.reshape(-1).tolist()), np.float64, x.size)
    return out.reshape(x.shape)


def _evidence(board: Rows, correct: Bools, losses: Doubles) -> None:
    """Take labels into `skill.Evidence` of each stream."""
    labels = board["labels"]
    _bet(board["coin_bet"], np.where(correct, 1.0, -1.0), labels)
    for name, loss in (("base", losses[1]), ("last", losses[2])):
        d = loss - losses[0]
        cut = np.clip(d, -1.0, 1.0)
        _band(board[name + "_band"], cut, cut != d, labels)
        _bet(board[name + "_bet"], cut, labels)


def _bet(bet: Any, d: Doubles, labels: Counts) -> None:
    total = bet["total"]
    doubt = bet["squares"] + CAUTION
    sides = ((bet["better"], total, d), (bet["worse"], -total, -d))
    for wealth, lead, gain in sides:
        at = np.flatnonzero(lead > 0.0)
        if len(at):
            stake = np.minimum(lead[at] / doubt[at], MAX_STAKE)
            _grow(wealth, at, 1.0 + stake * gain[at], labels[at])
    bet["total"] += d
    bet["squares"] += d * d


def _grow(wealth: Any, at: Counts, factor: Doubles, labels: Counts) -> None:
    log_e = wealth["log_e"][at] + _log(factor)
    highest, reached = wealth["highest"][at], wealth["reached"][at]
    higher = log_e > highest
    wealth["log_e"][at] = log_e
    wealth["highest"][at] = np.where(higher, log_e, highest)
    proven = higher & (log_e >= PROVEN) & (reached == 0)
    wealth["reached"][at] = np.where(proven, labels, reached)


def _band(band: Any, d: Doubles, was_cut: Bools, labels: Counts) -> None:
    before = labels - 1
    mean = np.divide(band["total"], before, np.zeros_like(d), where=before > 0)
    off = d - mean
    band["spread"] += off * off
    band["total"] += d
    band["cut"] += was_cut
