"""Prequential scores: each prediction is scored once, when its label comes, and never again.

Two plain forecasters are scored beside the model on the same labels, each knowing only what was
known when the prediction was made:

* base rate: the share of positive labels so far, (k + 1/2) / (m + 1);
* last label: the last label will come again. Its accuracy is that of the bare repetition; its
  probability is the share of labels so far that did repeat, (r + 1/2) / (m + 1), or one minus it.

The scores of a stream are a row of float64 in a table, `BOARD`, in which whole numbers are exact
up to 2^53. Sums run in the order of the stream's labels; what is kept once for all streams,
`counts.Counts`, runs in the order of arrival. `Scores.add` takes one label and `Scores.extend`
many, of any mixture of streams: both give the same bits, which a test checks.

Sources: Dawid, "Prequential analysis", 1984; Krichevsky and Trofimov, 1981, for the half counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from struct import Struct
from typing import Any, NamedTuple

import msgspec
import numpy as np

from ..typing import Float64s, Int8s, Int64s
from .counts import BATCH, FORECASTERS, PLAIN, ROWS, Counts, grades
from .evidence import BET, Evidence, play, play_many, together
from .losses import Grid, grids, log_loss, log_losses, means, running

NAMES = ("raw", "frozen", "stateless")
"""Further forecasts that may be scored beside the published one: before it was recalibrated; of a
twin that does not learn; of a twin that sees the last W elements alone."""

WAYS = ("model", "base", "last")
"""The forecasters that are scored on each label, in the order of every axis of three."""

SUMS = ("correct", "calls", "log_loss", "brier")
"""Of each forecaster: right calls, calls of 1, log losses in nats, squared errors."""

BOARD = (
    "labels",
    "positives",
    "repeats",
    *(f"{way}_{name}" for name in SUMS for way in WAYS),
    *(f"{bet}_{name}" for bet in ("coin", "base", "last") for name in BET),
)
"""The columns of a stream's scores; see `evidence.BET`. `ASIDE` of each further name follow."""

ASIDE = ("labels", "correct", "log_loss", "brier")
"""Of each further forecast, which may lack for some labels."""

FIRST_BET = BOARD.index("coin_total")

COIN, BASE, LAST = (slice(at, at + len(BET)) for at in range(FIRST_BET, len(BOARD), len(BET)))

HEAD = Struct("3d")
"""Of a row: labels, positives, repeats."""


class Forecaster(NamedTuple):
    """Sums of one forecaster; `log_loss` is in nats."""

    correct: int
    calls: int
    log_loss: float
    brier: float


@dataclass(frozen=True, slots=True)
class Scoreboard:
    """The scores of one stream, or of several together, as they were when it was made.

    `ways` are the model, the base rate and the last label; `asides` (labels, correct, log loss,
    Brier score) of `names`. `counts` is None where they are not those of this stream alone:
    figures that need them are None then.
    """

    labels: int
    positives: int
    repeats: int
    ways: tuple[Forecaster, ...]
    asides: tuple[tuple[int, int, float, float], ...]
    evidence: Evidence
    names: tuple[str, ...]
    counts: Counts | None

    @property
    def losses(self) -> list[float]:
        """Sums of log losses in nats, of the model, the base rate, the last label and `names`."""
        return [way.log_loss for way in self.ways] + [aside[2] for aside in self.asides]

    def means(self) -> dict[str, float | None]:
        """Return accuracy, log loss and Brier score of the model and the plain forecasters."""
        n, found = self.labels, dict[str, float | None]()
        for prefix, (correct, _, loss, brier) in zip(FORECASTERS, self.ways, strict=True):
            found |= means(n, correct, loss, brier, prefix)
            if not prefix:
                found["base_rate"] = self.positives / n if n else None
        return found

    def figures(self) -> dict[str, Any]:
        """Return {name: figure} over all labels; None where there was no label.

        `rolling` contains the figures over the last labels, `evidence` those of the bets,
        `reliability` the bins of the model.
        """
        counts, figures = self.counts or Counts.empty(0, len(self.names)), dict[str, Any]()
        counts.settle()
        figures |= self.means()
        for k, (prefix, way) in enumerate(zip(FORECASTERS, self.ways, strict=True)):
            figures |= grades(
                self.labels,
                self.positives,
                self.ways[-1].correct,
                way.calls,
                way.correct,
                way.log_loss,
                way.brier,
                prefix=prefix,
                auc=counts.rankings[k].auc(),
                ece=counts.calibration_error(k),
            )
        for k, (name, aside) in enumerate(zip(self.names, self.asides, strict=True), PLAIN):
            figures |= means(*aside, name + "_")
            if name == "raw":
                figures["raw_ece"] = counts.calibration_error(k)
        return figures | {
            "accuracy_band": self.evidence.accuracy_band(),
            "evidence": self.evidence.figures(),
            "reliability": counts.reliability(),
            "rolling": counts.rolling(self.names),
        }


class ScoresState(msgspec.Struct, frozen=True):
    """Everything that `Scores` contain: the board float64 (rows, columns), and the counts."""

    board: np.ndarray
    counts: Counts


class Scores:
    """The scores of a table of streams, one row each.

    window: labels at the end over which figures are given once more, 0 for none. names: those of
    `NAMES` whose forecasts come with the labels. `board` float64 (rows, columns) contains all
    numbers of a stream, in the order of `BOARD`.
    """

    def __init__(self, window: int = 0, names: tuple[str, ...] = (), rows: int = 1) -> None:
        self.names = names
        width = len(BOARD) + len(ASIDE) * len(names)
        self._row, self._pack = Struct(f"{width}d"), ROWS[len(names)].pack
        self._counts = Counts.empty(window, len(names))
        self._batch = BATCH * self._counts.row_size
        self._hold(np.zeros((rows, width)))

    def _hold(self, board: Float64s) -> None:
        self.board = board
        self._bytes = board.data.cast("B") if board.size else memoryview(bytearray())

    def grow(self, rows: int) -> None:
        """Make it `rows` rows, zeros behind the present ones."""
        board = np.zeros((rows, self.board.shape[1]))
        board[: len(self.board)] = self.board
        self._hold(board)

    # ---- plain forecasters ------------------------------------------------------------

    def plain(self, row: int, last: int) -> tuple[float, float]:
        """Return what base rate and repetition give for the next label of a stream.

        last: the last label that is known, -1 where none is.
        """
        labels, positives, repeats = HEAD.unpack_from(self._bytes, row * self._row.size)
        base = (positives + 0.5) / (labels + 1.0)
        if last < 0:
            return base, 0.5
        repeat = (repeats + 0.5) / (labels + 1.0)
        return base, repeat if last else 1.0 - repeat

    # ---- labels -----------------------------------------------------------------------

    def add(
        self,
        row: int,
        label: int,
        last: int,
        p: float,
        base_p: float,
        last_p: float,
        others: tuple[float | None, ...] = (),
    ) -> tuple[float, float, float, float]:
        """Score one label of a stream against the probabilities given for it.

        last: the last label known when the prediction was made, -1 where there was none.
        others: the forecasts of `names`, None for one that lacks; empty where all do.
        Returns the model's log loss in nats, and log W in nats after it that the model is better
        than coin, base rate and last label. Raises ValueError where `others` are more or fewer
        than the names.
        """
        at = row * self._row.size
        state = self._row.unpack_from(self._bytes, at)
        (
            labels, positives, repeats,
            right, base_right, last_right,
            calls, base_calls, last_calls,
            total, base_total, last_total,
            brier, base_brier, last_brier,
        ) = state[:FIRST_BET]  # fmt: skip
        aside, given = (), ()  # type: tuple[float, ...], tuple[float, ...]
        if self.names:
            aside, given = self._aside(label, others, state[len(BOARD) :])
        loss, base_loss = log_loss(p, label), log_loss(base_p, label)
        last_loss = log_loss(last_p, label)
        call, base_call, last_call = p > 0.5, base_p > 0.5, last == 1
        off, base_off, last_off = p - label, base_p - label, last_p - label
        coin = play(labels, 1.0 if call == label else -1.0, *state[COIN])
        base = play(labels, base_loss - loss, *state[BASE])
        repeat = play(labels, last_loss - loss, *state[LAST])
        self._row.pack_into(
            self._bytes, at,
            labels + 1.0, positives + label, repeats + (label == last),
            right + (call == label), base_right + (base_call == label),
            last_right + (last_call == label),
            calls + call, base_calls + base_call, last_calls + last_call,
            total + loss, base_total + base_loss, last_total + last_loss,
            brier + off * off, base_brier + base_off * base_off, last_brier + last_off * last_off,
            *coin, *base, *repeat, *aside,
        )  # fmt: skip
        counts = self._counts
        counts.waiting += self._pack(label, last, p, base_p, last_p, *given)
        if len(counts.waiting) >= self._batch:
            counts.settle()
        return loss, coin[4], base[4], repeat[4]

    def _aside(
        self, label: int, others: tuple[float | None, ...], sums: tuple[float, ...]
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the sums of further forecasts after a label, and these, NaN where one lacks."""
        others = others or (None,) * len(self.names)
        if len(others) != len(self.names):
            raise ValueError(f"{len(others)} further forecasts come for {', '.join(self.names)}")
        after: list[float] = []
        for k, p in enumerate(others):
            labels, correct, loss, brier = sums[len(ASIDE) * k : len(ASIDE) * (k + 1)]
            if p is None:
                after += labels, correct, loss, brier
                continue
            off, right = p - label, (p > 0.5) == label
            after += labels + 1.0, correct + right, loss + log_loss(p, label), brier + off * off
        return tuple(after), tuple(math.nan if p is None else p for p in others)

    def extend(
        self, rows: Int64s, labels: Int8s, lasts: Int8s, p: Float64s
    ) -> tuple[Float64s, Float64s]:
        """Score n labels of any mixture of streams, in order of arrival, to the bits of `add`.

        rows (n,); labels (n,); lasts (n,), -1 where none was known; p (3 + names, n) are the
        forecasts of the model, the base rate, the last label and `names`, NaN for one that lacks.
        Returns the model's log losses (n,), and log W (n, 3) as `add` does. Faster than `add`
        from some 35 labels on.
        """
        losses, log_e = log_losses(p, labels == 1), np.empty((PLAIN, len(rows)))
        for grid in grids(rows):
            at = grid.order
            log_e[:, at] = self._extend(grid, labels[at], lasts[at], p[:, at], losses[:, at])
        if len(rows):
            self._counts.extend(labels, lasts, p)
        return losses[0], log_e.T

    def _extend(
        self, grid: Grid, label: Int8s, last: Int8s, p: Float64s, losses: Float64s
    ) -> Float64s:
        """Score the labels of a grid; return log W (3, n) after each."""
        before = self.board[grid.streams].T
        after, count = np.empty_like(before), len(label)
        terms = np.empty((FIRST_BET, count))
        terms[0], terms[1], terms[2] = 1.0, label, label == last
        correct, calls, loss, brier = terms[3:].reshape(len(SUMS), PLAIN, count)
        calls[:] = p[:PLAIN] > 0.5
        calls[2] = last == 1
        correct[:] = calls == label
        loss[:], brier[:] = losses[:PLAIN], np.square(p[:PLAIN] - label)
        after[:FIRST_BET] = running(before[:FIRST_BET], grid.pad(terms))[..., -1]
        bets = before[FIRST_BET : len(BOARD)].reshape(PLAIN, len(BET), -1)
        gains = np.empty((PLAIN, count))
        gains[0], gains[1:] = 2.0 * correct[0] - 1.0, loss[1:] - loss[0]
        bets, log_e = play_many(grid, before[0], bets, gains)
        after[FIRST_BET : len(BOARD)] = bets.reshape(PLAIN * len(BET), -1)
        if self.names:
            further = self._asides(label, p[PLAIN:], losses[PLAIN:])
            after[len(BOARD) :] = running(before[len(BOARD) :], grid.pad(further))[..., -1]
        self.board[grid.streams] = after.T
        return log_e

    def _asides(self, label: Int8s, p: Float64s, losses: Float64s) -> Float64s:
        """Return what each label adds to the columns of the further forecasts."""
        terms = np.empty((len(self.names), len(ASIDE), len(label)))
        terms[:, 0], terms[:, 1], terms[:, 2] = 1.0, (p > 0.5) == label, losses
        terms[:, 3] = np.square(p - label)
        terms = np.where(np.isnan(p)[:, None], 0.0, terms)
        return terms.reshape(-1, len(label))

    # ---- what they contain ------------------------------------------------------------

    def of(self, row: int) -> Scoreboard:
        """Return the scores of one stream, in full where all labels are its own."""
        board, counts = self.board[row : row + 1], self._counts
        taken = counts.labels + len(counts.waiting) // counts.row_size
        return self._scoreboard(board, counts.copy() if board[0, 0] == taken else None)

    def total(self) -> Scoreboard:
        """Return the scores of all streams together.

        Sums are added in the order of the rows, and the evidence is that of the mean of the
        streams' capitals.
        """
        return self._scoreboard(self.board, self._counts.copy())

    def _scoreboard(self, board: Float64s, counts: Counts | None) -> Scoreboard:
        sums = np.add.accumulate(board)[-1] if len(board) else np.zeros(board.shape[1])
        labels, positives, repeats = (int(value) for value in sums[:3])
        ways = sums[3:FIRST_BET].reshape(len(SUMS), PLAIN).T.tolist()
        asides = sums[len(BOARD) :].reshape(-1, len(ASIDE)).tolist()
        bets = board[:, FIRST_BET : len(BOARD)].reshape(-1, PLAIN, len(BET))
        return Scoreboard(
            labels,
            positives,
            repeats,
            tuple(Forecaster(int(right), int(calls), *rest) for right, calls, *rest in ways),
            tuple((int(n), int(right), loss, brier) for n, right, loss, brier in asides),
            Evidence(*(together(board[:, 0], bets[:, k]) for k in range(PLAIN))),
            self.names,
            counts,
        )

    # ---- snapshots --------------------------------------------------------------------

    def state(self, rows: int) -> ScoresState:
        """Return everything, of the board the first `rows` rows; the same bits for any cut."""
        self._counts.settle()
        return ScoresState(self.board[:rows].copy(), self._counts.copy())

    def restore(self, state: ScoresState) -> None:
        """Put a state back. Raises ValueError where it is not one of such a table."""
        board = np.asarray(state.board)
        if board.dtype != np.float64 or board.shape[1:] != self.board.shape[1:]:
            raise ValueError(f"scores {board.shape} of {board.dtype} are not of this table")
        if state.counts.bins.shape != self._counts.bins.shape:
            raise ValueError(f"counts of {len(state.counts.bins)} forecasters do not fit")
        held = np.zeros((max(len(board), len(self.board)), board.shape[1]))
        held[: len(board)] = board
        self._hold(held)
        self._counts = state.counts.copy()


def plain_p(
    labels: Float64s, positives: Float64s, repeats: Float64s, lasts: Int8s
) -> tuple[Float64s, Float64s]:
    """Return `Scores.plain` for arrays (n,) of counts and last labels, to the same bits."""
    repeat = (repeats + 0.5) / (labels + 1.0)
    base = (positives + 0.5) / (labels + 1.0)
    return base, np.where(lasts < 0, 0.5, np.where(lasts == 1, repeat, 1.0 - repeat))
