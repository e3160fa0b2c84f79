"""The output of a session: records in the order of a stream's elements, or columns of them.

Within a stream, records come in the order of its elements, and at one element in this order:
expiries and scores of known labels, the prediction, updates and rollbacks. Streams do not wait
for each other, so the order between two streams is not defined.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..events import OldTimes, Output, Prediction, Refusal, Score
from ..records import Batch
from ..typing import Int64s
from .labels import LedgerEntry
from .old_ticks import OldTicks
from .scores import Scores
from .stream import Stream
from .table import PendingPrediction

BATCH = 512
"""Labels that are scored together if no caller wants scores as they come."""

FEW = 32
"""Labels up to which scoring one at a time is faster."""


class LabelledRow(NamedTuple):
    """A label of the series for a prediction, to be scored; `row` is the stream's."""

    row: int
    stream: str
    t_ns: int
    label: int
    prediction: PendingPrediction


def score_of(
    stream: str,
    one: PendingPrediction | LedgerEntry,
    t_ns: int,
    label: int,
    loss: float,
    log_e: Sequence[float],
) -> Score:
    """Return the score of a prediction; loss and the three kinds of evidence are in nats."""
    coin, base, last = log_e
    plain, aside = (one.base_rate_p, one.last_label_p), (one.raw_p, one.frozen_p, one.stateless_p)
    evidence = coin, base, last
    return Score(stream, one.n, t_ns, one.p, label, loss, *plain, one.run_id, *evidence, *aside)


class Outcome(NamedTuple):
    """The records of some ticks: predictions and scores as columns, `others` in order.

    `scores` is empty if the session was not asked for scores.
    """

    predictions: Batch[Prediction]
    scores: Batch[Score]
    others: Sequence[Output]


Emit: TypeAlias = Callable[[Output], object]
Deliver: TypeAlias = Callable[[Outcome], object]


class OutputQueue:
    """Gathers the output of a session, scores the labels in it and hands it over.

    emit, deliver, scored, publish: see `Session`. `out` contains what is not handed over yet, in
    order: records, and a `LabelledRow` for each label that is not scored. `on_old`, which may be
    set, is called with the old ticks of a stream in each block.
    """

    def __init__(
        self,
        scores: Scores,
        emit: Emit | None,
        *,
        deliver: Deliver | None,
        scored: bool,
        publish: Callable[[Prediction], object] | None,
    ) -> None:
        self.scores = scores
        self.emit, self.deliver, self.publish, self.scored = emit, deliver, publish, scored
        self.out: list[Any] = []
        self.unscored: list[LabelledRow] = []
        self.on_old: Callable[[OldTimes], object] | None = None

    @property
    def wants_scores(self) -> bool:
        """Whether a caller wants scores as they come."""
        return self.emit is not None or (self.deliver is not None and self.scored)

    def clear(self) -> None:
        """Drop what has not been handed over."""
        self.out, self.unscored = [], []

    def report_old(self, stream: Stream, old: OldTicks | None, where: str) -> None:
        """Count and report the old ticks of a stream."""
        if old is not None:
            stream.count("old_ticks", len(old.at))
            if self.on_old is not None:
                times = int(old.t_ns[0]), int(old.latest_ns[0])
                self.on_old(OldTimes(stream.name, len(old.at), *times, where))

    def hand_over(self) -> None:
        """Hand over the output, with the labels in it scored."""
        if not self.out:
            return
        out, self.out = self.out, []
        rows = [item for item in out if type(item) is LabelledRow]
        if self.wants_scores:
            scores = iter(self._score(rows))
            out = [next(scores) if type(item) is LabelledRow else item for item in out]
        elif rows:
            out = [item for item in out if type(item) is not LabelledRow]
            self.unscored += rows
            if len(self.unscored) >= BATCH:
                self.score_later()
        if self.emit is not None:
            for item in out:
                self.emit(item)
        if self.deliver is not None:
            predictions = [item for item in out if type(item) is Prediction]
            scored = [item for item in out if type(item) is Score]
            others = [item for item in out if type(item) not in (Prediction, Score)]
            self.deliver(
                Outcome(Batch.of(Prediction, predictions), Batch.of(Score, scored), others)
            )

    def hand_over_columns(
        self,
        predictions: tuple[Int64s, Batch[Prediction]],
        scores: tuple[Int64s, Batch[Score] | None],
        refusals: Sequence[tuple[int, Refusal]],
    ) -> None:
        """Hand over the output of a block of many streams, each record with its arrival."""
        batch = Batch.of(Score, []) if scores[1] is None else scores[1]
        if self.deliver is not None:
            self.deliver(Outcome(predictions[1], batch, [refusal for _, refusal in refusals]))
        if self.publish is None and self.emit is None:
            return
        made = predictions[1].events()
        if self.publish is not None:
            for prediction in made:
                self.publish(prediction)
        if self.emit is not None:
            # At one arrival a score or a refusal comes before the prediction.
            keyed: list[tuple[int, Any]] = [(2 * at, refusal) for at, refusal in refusals]
            keyed += zip((2 * scores[0]).tolist(), batch.events(), strict=True)
            keyed += zip((2 * predictions[0] + 1).tolist(), made, strict=True)
            for _, event in sorted(keyed, key=lambda one: one[0]):
                self.emit(event)

    def score_later(self) -> None:
        """Score the labels that no caller wanted as they came."""
        if self.unscored:
            unscored, self.unscored = self.unscored, []
            self._score(unscored)

    def _score(self, rows: Sequence[LabelledRow]) -> list[Score]:
        self.score_later()
        losses: Any
        log_e: Any
        if len(rows) < FEW:
            results = [
                self.scores.add(row, label, one.last_label, *one[1:4])
                for row, _, _, label, one in rows
            ]
            losses, log_e = [one[0] for one in results], [one[1:] for one in results]
        else:
            places, _, _, labels, predictions = zip(*rows, strict=True)
            _, p, base, last_p, lasts, *_ = zip(*predictions, strict=True)
            losses, log_e = (
                found.tolist()
                for found in self.scores.extend(
                    np.array(places, np.int64),
                    np.array(labels, np.int8),
                    np.array(lasts, np.int8),
                    np.array([p, base, last_p], np.float64),
                )
            )
        return [
            score_of(row.stream, row.prediction, row.t_ns, row.label, loss, evidence)
            for row, loss, evidence in zip(rows, losses, log_e, strict=True)
        ]
