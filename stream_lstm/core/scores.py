"""Prequential scores: each prediction is scored once, when its label comes.

Two plain forecasters are scored beside the model on the same labels. Each uses only what was known
when the prediction was made:

* base rate: the share of positive labels so far, (k + 1/2) / (m + 1);
* last label: the last label repeats. Its accuracy is that of the repetition itself; its
  probability is the share of labels so far that repeated, (r + 1/2) / (m + 1), or 1 minus it.

The scores of a stream are a row of float64 in a table with the columns `BOARD`, in which whole
numbers are exact up to 2^53. Its sums run in the order of the stream's labels; `counts.Counts`,
which is one for all streams, runs in the order of arrival. `Scores.add` takes one label and
`Scores.extend` many, of any streams; both give the same bits.

Sources: Dawid, "Prequential analysis", 1984; Krichevsky and Trofimov, 1981, for the half counts.

How close a model came to the best forecast of a series whose best forecast is known.

The model never sees the best forecast. It is computed afterwards from the seed, and scored on
exactly the labels that the model was scored on. Some streams are coin flips at most of their
labels; a query is a label for which the best forecast is not 1/2.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Any, NamedTuple, Protocol, TypeAlias

import msgspec
import numpy as np

from ..config import Config
from ..errors import StreamLSTMError
from ..events import Score
from ..records import Batch
from ..typing import Bools, Float64s, Int8s, Int64s
from .counts import BATCH, FORECASTERS, PLAIN, ROWS, Counts, grades
from .evidence import BET, Evidence, play, play_many, together
from .losses import Grid, grids, log_loss, log_losses, means, running

NAMES = ("raw", "frozen", "stateless")
"""Further forecasts: before recalibration; of a twin that does not learn; of a twin that sees the
last W elements only."""

WAYS = ("model", "base", "last")
"""The forecasters of each label, in the order of every axis of three."""

SUMS = ("correct", "calls", "log_loss", "brier")
"""Of each forecaster: right calls, calls of 1, log losses in nats, squared errors."""

BOARD = (
    "labels",
    "positives",
    "repeats",
    *(f"{way}_{name}" for name in SUMS for way in WAYS),
    *(f"{bet}_{name}" for bet in ("coin", "base", "last") for name in BET),
)
"""The columns of a stream's scores, see `evidence.BET`. `ASIDE` of each further name follows."""

ASIDE = ("labels", "correct", "log_loss", "brier")
"""Of each further forecast; it may be missing for some labels."""

FIRST_BET = BOARD.index("coin_total")

COIN, BASE, LAST = (slice(at, at + len(BET)) for at in range(FIRST_BET, len(BOARD), len(BET)))

HEAD = Struct("3d")
"""The first columns of a row: labels, positives, repeats."""


class Forecaster(NamedTuple):
    """Sums of one forecaster; `log_loss` is in nats."""

    correct: int
    calls: int
    log_loss: float
    brier: float


@dataclass(frozen=True, slots=True)
class Scoreboard:
    """The scores of one stream, or of several together, at one moment.

    `ways` are the model, the base rate and the last label; `asides` are (labels, correct, log
    loss, Brier score) of `names`. `counts` is None if they include labels of other streams; the
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
        """Return {name: figure} over all labels, None without labels.

        `rolling` contains the figures over the last labels, `evidence` those of the bets, and
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
    """The whole state of `Scores`: the board float64 (rows, columns), and the counts."""

    board: np.ndarray
    counts: Counts


class Scores:
    """The scores of a table of streams, one row each.

    window: last labels with figures of their own, 0 for none. names: those of `NAMES` whose
    forecasts come with the labels. `board` is float64 (rows, columns) in the order of `BOARD`.
    """

    def __init__(self, window: int = 0, names: tuple[str, ...] = (), rows: int = 1) -> None:
        self.names = names
        width = len(BOARD) + len(ASIDE) * len(names)
        self._row, self._pack = Struct(f"{width}d"), ROWS[len(names)].pack
        self._counts = Counts.empty(window, len(names))
        self._batch = BATCH * self._counts.row_size
        self._set_board(np.zeros((rows, width)))

    def _set_board(self, board: Float64s) -> None:
        self.board = board
        self._bytes = board.data.cast("B") if board.size else memoryview(bytearray())

    def grow(self, rows: int) -> None:
        """Grow to `rows` rows of zeros."""
        board = np.zeros((rows, self.board.shape[1]))
        board[: len(self.board)] = self.board
        self._set_board(board)

    def plain(self, row: int, last: int) -> tuple[float, float]:
        """Return p of base rate and last label for the next label of a stream.

        last: the last known label, -1 without one.
        """
        labels, positives, repeats = HEAD.unpack_from(self._bytes, row * self._row.size)
        return plain_forecasts(labels, positives, repeats, last)

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

        last: the last label known when the prediction was made, -1 without one. others: the
        forecasts of `names`, None for a missing one; empty if all are missing. Returns the model's
        log loss in nats, and log W in nats after it that the model is better than coin, base rate
        and last label. Raises ValueError for a wrong number of `others`.
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
        """Return the sums of further forecasts after a label, and these, NaN for a missing one."""
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

        rows (n,); labels (n,); lasts (n,), -1 without one; p (3 + names, n): the forecasts of the
        model, the base rate, the last label and `names`, NaN for a missing one. Returns the
        model's log losses (n,), and log W (n, 3) as `add` does. Faster than `add` from some 35
        labels on.
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

    def of(self, row: int) -> Scoreboard:
        """Return the scores of one stream, complete if all labels are its own."""
        board, counts = self.board[row : row + 1], self._counts
        total = counts.labels + len(counts.waiting) // counts.row_size
        return self._scoreboard(board, counts.copy() if board[0, 0] == total else None)

    def total(self) -> Scoreboard:
        """Return the scores of all streams together.

        Sums are added in the order of the rows; the evidence is that of the mean of the streams'
        capitals.
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

    def state(self, rows: int) -> ScoresState:
        """Return the whole state with the first `rows` rows; the same bits for any cut."""
        self._counts.settle()
        return ScoresState(self.board[:rows].copy(), self._counts.copy())

    def restore(self, state: ScoresState) -> None:
        """Replace the state; raises ValueError for a state of another table."""
        board = np.asarray(state.board)
        if board.dtype != np.float64 or board.shape[1:] != self.board.shape[1:]:
            raise ValueError(f"scores {board.shape} of {board.dtype} are not of this table")
        if state.counts.bins.shape != self._counts.bins.shape:
            raise ValueError(f"counts of {len(state.counts.bins)} forecasters do not fit")
        grown = np.zeros((max(len(board), len(self.board)), board.shape[1]))
        grown[: len(board)] = board
        self._set_board(grown)
        self._counts = state.counts.copy()


def plain_forecasts(
    labels: float, positives: float, repeats: float, last: int
) -> tuple[float, float]:
    """Return p of base rate and last label from counts; last: -1 without a label."""
    base = (positives + 0.5) / (labels + 1.0)
    if last < 0:
        return base, 0.5
    repeat = (repeats + 0.5) / (labels + 1.0)
    return base, repeat if last else 1.0 - repeat


def plain_p(labels: Any, positives: Any, repeats: Any, lasts: Any) -> tuple[Float64s, Float64s]:
    """Return `plain_forecasts` of arrays (n,), to the same bits."""
    repeat = (repeats + 0.5) / (labels + 1.0)
    base = (positives + 0.5) / (labels + 1.0)
    return base, np.where(lasts < 0, 0.5, np.where(lasts == 1, repeat, 1.0 - repeat))


FIGURES = (
    *("best_accuracy", "best_log_loss"),
    *("query_labels", "query_accuracy", "best_query_accuracy"),
)

Forecasts: TypeAlias = dict[str, dict[str, dict[str, float]]]


class KnownSeries(Protocol):
    """A seeded series with a known best forecast, such as `feed.synthetic.Source`."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the values, C of them."""
        ...

    def block(self, n: int) -> Float64s:
        """Return the next `n` elements, float64 (n, C)."""
        ...

    def best(self, values: Float64s) -> Float64s:
        """Return the best forecast after each element, float64 (n,)."""
        ...


class BestPossible:
    """Keeps the scores of one replay, 17 bytes each, and compares them at the end.

    source: freshly made from the seed of the series that is replayed.
    """

    def __init__(self, source: KnownSeries) -> None:
        self._source = source
        self._n, self._label, self._p = array("q"), array("b"), array("d")

    def add(self, scores: Batch[Score]) -> None:
        """Add scores."""
        self._n.frombytes(scores["n"].tobytes())
        self._label.frombytes(scores["label"].astype(np.int8).tobytes())
        self._p.frombytes(scores["p"].tobytes())

    def figures(self, config: Config, summary: dict[str, Any]) -> dict[str, Any]:
        """Return `best_accuracy`, `best_log_loss` (nats) and the figures of the queries.

        Figures are None without scores, and where the labels are not the signs of the next
        element of the series: another target, another horizon, or ticks without an element.
        """
        known = (
            config.stream.features[0] == self._source.columns[0]
            and config.stream.horizon == 1
            and summary["ticks"] == summary["elements"]
        )
        if not known or not self._n:
            return dict.fromkeys(FIGURES)
        label, p = np.array(self._label) == 1, np.array(self._p)
        best, _ = _best(self._source, np.array(self._n), label)
        right, query = (best > 0.5) == label, best != 0.5
        some = bool(query.any())
        return {
            "best_accuracy": float(right.mean()),
            "best_log_loss": float(log_losses(best, label).mean()),
            "query_labels": int(query.sum()),
            "query_accuracy": float(((p > 0.5) == label)[query].mean()) if some else None,
            "best_query_accuracy": float(right[query].mean()) if some else None,
        }


def compare_forecasters(scores: Sequence[Score], source: KnownSeries) -> Forecasts:
    """Return {"all", "second_half": {forecaster: {accuracy, log_loss (nats)}}}.

    source: freshly made from the seed of the series that was scored. Raises StreamLSTMError for
    another series.
    """
    if not scores:
        return {}
    n = np.array([score.n for score in scores])
    label = np.array([score.label for score in scores]) == 1
    best, positive = _best(source, n, label)
    p = {
        "model": np.array([score.p for score in scores]),
        "last_label": np.array([score.last_label_p for score in scores]),
        "base_rate": np.array([score.base_rate_p for score in scores]),
        "best": best,
    }
    predicted = {name: forecast > 0.5 for name, forecast in p.items()}
    predicted["last_label"] = positive[n - 1]  # the bare repetition, as everywhere
    parts = {"all": slice(0, None), "second_half": slice(len(n) // 2, None)}
    return {
        title: {
            name: {
                "accuracy": float((predicted[name] == label)[part].mean()),
                "log_loss": float(log_losses(p[name], label)[part].mean()),
            }
            for name in p
        }
        for title, part in parts.items()
    }


def _best(source: KnownSeries, n: Any, label: Bools) -> tuple[Float64s, Bools]:
    """Return the best forecasts of the labels of elements `n`, and the signs of the series."""
    values = source.block(int(n[-1]) + 1)
    positive = values[:, 0] > 0
    if not np.array_equal(positive[n], label):
        raise StreamLSTMError("the scored series is not the one that the seed gives")
    return source.best(values)[n - 1], positive
