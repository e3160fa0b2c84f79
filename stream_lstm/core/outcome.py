"""What comes out of a session: records in the order of a stream's elements, or columns of them.

Within a stream the order is that of its elements, and at one element: expiries and scores of
labels that are known, the prediction, updates and roll-backs. Streams do not wait for each other,
so between two streams no order is promised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ..events import OldTimes, Output, Prediction, Refusal, Score
from ..records import Batch, fields_of
from .old_times import Old
from .scores import Scores
from .stream import Pending, Stream, Waiting

BATCH = 512
"""Labels that are scored together where nobody asks for scores as they come."""

FEW = 32
"""Records that are handed over one by one: so many labels are scored faster alone."""

Emit: TypeAlias = Callable[[Output], object]


class Labelled(NamedTuple):
    """A label of the series that has come to a prediction, to be scored."""

    row: int
    stream: str
    t_ns: int
    label: int
    waiting: Waiting


def score_of(
    stream: str, one: Waiting | Pending, t_ns: int, label: int, loss: float, log_e: Sequence[float]
) -> Score:
    """Return the score of a prediction; loss and the three kinds of evidence are in nats."""
    coin, base_rate, last_label = log_e
    return Score(
        stream,
        one.n,
        t_ns,
        one.p,
        label,
        loss,
        one.base_rate_p,
        one.last_label_p,
        one.session,
        coin,
        base_rate,
        last_label,
        one.raw_p,
        one.frozen_p,
        one.stateless_p,
    )


class Outcome(NamedTuple):
    """What came of some ticks, as columns; `others` are all records of other kinds, in order.

    `scores` is empty where nobody asked for scores as they come.
    """

    predictions: Batch[Prediction]
    scores: Batch[Score]
    others: Sequence[Output]


Deliver: TypeAlias = Callable[[Outcome], object]

NAMES = tuple(field.name for field in fields_of(Prediction))


def predictions_of(rows: Sequence[tuple[Any, ...]]) -> Batch[Prediction]:
    """Return predictions, each a tuple in declared order, as columns."""
    lists = list(zip(*rows, strict=True)) or [()] * len(NAMES)
    given = dict(zip(NAMES, lists, strict=True))
    if not any(given["experts"]):
        del given["experts"]
    return Batch.from_lists(Prediction, given)


def scores_of(labelled: Sequence[Labelled], losses: Any, log_e: Any) -> Batch[Score]:
    """Return scored labels as columns; `losses` is (m,) and `log_e` (m, 3)."""
    waiting = [one.waiting for one in labelled]
    lists = list(zip(*waiting, strict=True)) or [()] * len(Waiting._fields)
    of = dict(zip(Waiting._fields, lists, strict=True))
    plain = {name: of[name] for name in ("n", "p", "base_rate_p", "last_label_p", "session")}
    told: dict[str, Any] = {
        "stream": [one.stream for one in labelled],
        "t_ns": [one.t_ns for one in labelled],
        "label": [one.label for one in labelled],
        **plain,
    }
    columns = Batch.from_lists(Score, told | {"log_loss": []}) if not labelled else None
    if columns is not None:
        return columns
    arrays = {name: _array(values) for name, values in told.items()}
    evidence = np.asarray(log_e, np.float64)
    arrays["log_loss"] = np.asarray(losses, np.float64)
    arrays["coin_evidence"] = evidence[:, 0]
    arrays["base_rate_evidence"] = evidence[:, 1]
    arrays["last_label_evidence"] = evidence[:, 2]
    return Batch(Score, arrays)


def _array(values: Sequence[Any]) -> Any:
    if isinstance(values[0], str):
        return np.fromiter(values, object, len(values))
    return np.array(values)


class Outlet:
    """What comes out of a session, scored and handed over to those who asked for it.

    emit, deliver, scored, publish: see `Session`. `out` gathers what is still to be handed over,
    in order: a prediction as a tuple of its fields, a label that is to be scored, or a record.
    `on_old`, which may be set, is called with the old ticks of a stream in each block.
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
        self.later: list[Labelled] = []
        self.on_old: Callable[[OldTimes], object] | None = None

    def count_old(self, stream: Stream, old: Old | None, where: str) -> None:
        """Count the old ones among ticks of a stream, and report them."""
        if old is None:
            return
        stream.count("old_ticks", len(old.at))
        if self.on_old is not None:
            times = int(old.t_ns[0]), int(old.latest_ns[0])
            self.on_old(OldTimes(stream.name, len(old.at), *times, where))

    def forget(self) -> None:
        """Drop what has not been handed over."""
        self.out, self.later = [], []

    @property
    def wants_scores(self) -> bool:
        """Whether somebody wants scores as they come."""
        return self.emit is not None or (self.deliver is not None and self.scored)

    def hand_over_columns(
        self,
        predictions: tuple[npt.NDArray[np.int64], Batch[Prediction]],
        scores: tuple[npt.NDArray[np.int64], Batch[Score] | None],
        refusals: Sequence[tuple[int, Refusal]],
    ) -> None:
        """Hand over what came of a block of many streams, each record with its arrival."""
        if self.deliver is not None:
            told = scores[1] if scores[1] is not None else scores_of([], None, None)
            self.deliver(Outcome(predictions[1], told, [refusal for _, refusal in refusals]))
        if self.publish is not None or self.emit is not None:
            made = predictions[1].events()
            if self.publish is not None:
                for prediction in made:
                    self.publish(prediction)
            if self.emit is None:
                return
            # An arrival scores before it predicts, and is refused if it does neither.
            keyed: list[tuple[int, Any]] = [(2 * at, refusal) for at, refusal in refusals]
            if scores[1] is not None:
                keyed += zip((2 * scores[0]).tolist(), scores[1].events(), strict=True)
            keyed += zip((2 * predictions[0] + 1).tolist(), made, strict=True)
            for _, event in sorted(keyed, key=lambda one: one[0]):
                self.emit(event)

    def hand_over(self) -> None:
        """Hand over what has come out, and score the labels in it."""
        out = self.out
        if not out:
            return
        self.out = []
        if self.emit is not None and self.deliver is None and len(out) < FEW:
            self._emit_few(self.emit, out)
            return
        labelled = [item for item in out if type(item) is Labelled]
        losses = log_e = None
        if self.wants_scores:
            losses, log_e = self._scored(labelled)
        else:
            self.later += labelled
            if len(self.later) >= BATCH:
                self.score_later()
        if self.emit is not None:
            self._emit_all(self.emit, out, losses, log_e)
        if self.deliver is not None:
            rows = [item for item in out if type(item) is tuple]
            rows += [tuple(_values(item)) for item in out if type(item) is Prediction]
            scores = [] if losses is None else labelled
            batch = scores_of(scores, losses, log_e)
            others = [i for i in out if type(i) not in (tuple, Prediction, Labelled, Score)]
            if scored := [item for item in out if type(item) is Score]:
                batch = batch.join(Score, [batch, batch.of(Score, scored)])
            self.deliver(Outcome(predictions_of(rows), batch, others))

    def _emit_few(self, emit: Emit, out: list[Any]) -> None:
        """Hand over what came of a tick or two, without lists in between."""
        if self.later:
            self.score_later()
        add = self.scores.add
        for item in out:
            kind = type(item)
            if kind is Labelled:
                row, stream, t_ns, label, one = item
                plain = one.p, one.base_rate_p, one.last_label_p
                loss, *log_e = add(row, label, one.last_label, *plain)
                item = score_of(stream, one, t_ns, label, loss, log_e)
            elif kind is tuple:
                item = Prediction(*item)
            emit(item)

    def _emit_all(self, emit: Emit, out: list[Any], losses: Any, log_e: Any) -> None:
        k = 0
        for item in out:
            kind = type(item)
            if kind is Labelled:
                _, stream, t_ns, label, one = item
                item = score_of(stream, one, t_ns, label, float(losses[k]), log_e[k].tolist())
                k += 1
            elif kind is tuple:
                item = Prediction(*item)
            emit(item)

    def score_later(self) -> None:
        """Score the labels that nobody has asked for yet."""
        later, self.later = self.later, []
        if later:
            self._scored(later)

    def _scored(self, labelled: Sequence[Labelled]) -> tuple[Any, Any]:
        """Score labels; return the model's log losses (m,) and the evidence (m, 3)."""
        if self.later:
            self.score_later()
        if len(labelled) < FEW:
            add = self.scores.add
            told = [
                add(row, label, one.last_label, one.p, one.base_rate_p, one.last_label_p)
                for row, _, _, label, one in labelled
            ]
            table = np.array(told, np.float64).reshape(-1, 4)
            return table[:, 0], table[:, 1:]
        rows, _, _, labels, waiting = zip(*labelled, strict=True)
        _, p, base, last_p, lasts, *_ = zip(*waiting, strict=True)
        return self.scores.extend(
            np.array(rows, np.int64),
            np.array(labels, np.int8),
            np.array(lasts, np.int8),
            np.array([p, base, last_p], np.float64),
        )


def _values(prediction: Prediction) -> Iterator[Any]:
    return (getattr(prediction, name) for name in prediction.__struct_fields__)
