"""The product as one object, for one stream and a caller's own loop."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import build
from ..errors import ConfigurationError, DataError, InputWarning, UsageError
from ..events import NO_TIME, Label, Output, Prediction, Refusal, Score, Update
from .atomic import AtomicSession
from .clipped import LOOK, Clipped
from .expressions import columns_of
from .scores import Scoreboard
from .session import Session
from .trial import Trial

STREAM = "series"
"""Name of a predictor's one stream."""


class Predictor:
    """An LSTM carried along one series.

    features: expressions over the fields of a tick, the first being the target.
    columns: names of the fields, in order; by default those that the features use, in the order
    of their first use.
    weights: weights to start from, {layer: {"kernel": array}}.
    scaler: the state (1 + 2F,) that the scaler starts from, where a file of weights holds one.
    settings: any key of the configuration's tables stream, model, scaling and learning, such as
    `window=100`, `hidden=32`, `learn=True`, `labels="external"`.

    Attributes: `columns`; `last_update`, the latest `Update` or None; `last_score`, the latest
    `Score` or None.

    Raises ConfigurationError for a setting or a feature that is wrong. Compiles on construction,
    which takes a few seconds; nothing is compiled afterwards.
    """

    def __init__(
        self,
        features: Sequence[str] | str,
        columns: Sequence[str] | str | None = None,
        *,
        weights: Mapping[str, Mapping[str, Any]] | None = None,
        scaler: npt.ArrayLike | None = None,
        **settings: Any,
    ) -> None:
        if weights is not None and not isinstance(weights, Mapping):
            raise ConfigurationError(
                f"weights are a mapping of layers to kernels, not {type(weights).__name__}",
                key="weights",
            )
        named = [features] if isinstance(features, str) else list(features)
        given = [columns] if isinstance(columns, str) else columns
        self.columns = tuple(given or columns_of(named))
        self.last_update: Update | None = None
        self.last_score: Score | None = None
        self._prediction: Prediction | None = None
        self._refusal: Refusal | None = None
        # NumPy's numbers are as good as Python's.
        plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in settings.items()}
        config = build({"features": named, **plain})
        self._session = AtomicSession(
            config, self.columns, self._take, weights=weights, scaler=scaler, echo=True
        )
        self._trial = self._session.reading(Trial)
        self._clipped, self._unseen = Clipped(config), 0

    def step(
        self, fields: Mapping[str, float] | Sequence[float], t_ns: int = NO_TIME
    ) -> Prediction | None:
        """Take one tick; return the prediction where one is due, else None.

        fields: the tick's values by column name, or in the order of `columns`.
        t_ns: its time in nanoseconds since 1970, for `elapsed()` and for the record.

        Raises DataError for a tick that is not let in (a field that is missing or not a number,
        a feature that is not finite); the predictor is then as it was before. Warns
        (InputWarning), once for each, of features of which the scaler leaves nothing.
        """
        values, time = self.row(fields), _time(t_ns)
        self._prediction = self._refusal = None
        self._session.tick(STREAM, time, values, seq=0)
        if self._refusal is not None:
            raise DataError(f"the tick is refused: {self._refusal.reason}")
        self._unseen += 1
        if self._unseen >= LOOK:
            self._look()
        return self._prediction

    def peek(
        self, fields: Mapping[str, float] | Sequence[float], t_ns: int = NO_TIME
    ) -> float | None:
        """Return the p that `step` would predict of a tick, None where none is due.

        The arguments are those of `step`. The predictor stays as it is, and `step` of the same
        tick gives the same bits.

        Raises DataError for a tick that `step` would not let in, and UsageError where labels come
        from the series itself: the tick would bring a label first.
        """
        if self._session.config.stream.labels != "external":
            raise UsageError('peek is for labels from outside; construct with labels="external"')
        values, time = self.row(fields), _time(t_ns)
        return self._session.reading(lambda _: self._trial.tick(STREAM, time, values))

    def learn(self, label: float | bool, n: int | None = None) -> Score | None:
        """Give the truth for a prediction, score it, and learn from it where `learn=True`.

        label: 1 (or True) if it came true that the target is positive, else 0; any number where
        there is a `threshold`.
        n: the prediction's n; by default the oldest one that waits for its label.

        Returns the score; None while the label can still be revised (`revisions="last"`) or its
        prediction is not there yet. `settle` ends the waiting.

        Raises UsageError where labels come from the series itself (the default, where `step`
        scores and learns; construct with `labels="external"`), and DataError for a label that
        is not 0 or 1, or where no such prediction waits.
        """
        if self._session.config.stream.labels != "external":
            message = 'labels come from the series itself; construct with labels="external"'
            raise UsageError(message)
        try:
            y = float(label)
        except (TypeError, ValueError):
            raise DataError(f"the label is refused: {label!r} is not a number") from None
        stream = self._session.streams.get(STREAM)
        oldest = None if stream is None else stream.ledger.oldest()
        wanted = oldest if n is None else n
        if wanted is None:
            raise DataError("no prediction waits for a label")
        self._refusal = None
        before = self.last_score
        self._session.label(Label(STREAM, wanted, y))
        if self._refusal is not None:
            raise DataError(f"the label is refused: {self._refusal.reason}")
        return None if self.last_score is before else self.last_score

    def settle(self) -> None:
        """Score, and learn from, the labels that could still be revised."""
        self._session.settle()

    def scores(self) -> dict[str, Any]:
        """Return the figures so far (log loss in nats), beside base rate and last label."""
        scores = self._session.reading(_scores)
        return {"labels": scores.labels, **scores.figures()}

    def weights(self) -> dict[str, dict[str, np.ndarray]]:
        """Return copies of the current weights, {layer: {"kernel": float32 array}}."""
        held: dict[str, dict[str, np.ndarray]] = self._session.weights_for(STREAM)
        return held

    def snapshot(self) -> bytes:
        """Return the whole state as bytes."""
        return self._session.snapshot()

    def restore(self, data: bytes) -> None:
        """Go on from a `snapshot` of a predictor with the same settings.

        Raises SnapshotError where the bytes are damaged or belong to other settings.
        """
        self._session.restore(data)

    def row(self, fields: Mapping[str, float] | Sequence[float]) -> list[float]:
        """Return the values of a tick in the order of `columns`; DataError where one lacks."""
        if isinstance(fields, Mapping):
            missing = [name for name in self.columns if name not in fields]
            if missing:
                raise DataError(
                    f"the tick has no field {missing[0]!r} (it has {', '.join(fields)})"
                )
            fields = [fields[name] for name in self.columns]
        if not isinstance(fields, Sequence | np.ndarray) or isinstance(fields, str | bytes):
            raise DataError(
                f"a tick is a mapping or a sequence of values, not {type(fields).__name__}"
            )
        if len(fields) != len(self.columns):
            raise DataError(
                f"a tick has the {len(self.columns)} fields {', '.join(self.columns)}, "
                f"not {len(fields)}"
            )
        try:
            return [_number(value) for value in fields]
        except (TypeError, ValueError) as error:
            raise DataError(f"a field of the tick is not a number: {error}") from None

    def _look(self) -> None:
        self._unseen = 0
        for line in self._clipped.look(self._session.table):
            warnings.warn(line, InputWarning, stacklevel=3)

    def _take(self, event: Output) -> None:
        if isinstance(event, Prediction):
            self._prediction = None if self._session.mending else event
        elif isinstance(event, Score):
            self.last_score = event
        elif isinstance(event, Update):
            self.last_update = event
        elif isinstance(event, Refusal):
            self._refusal = event


def _scores(session: Session) -> Scoreboard:
    session.look()
    return session.scores.total()


def _time(t_ns: Any) -> int:
    """Return a time as an int; DataError for what is not one of 64 bits."""
    try:
        time = operator.index(t_ns)
    except TypeError as error:
        raise DataError(f"t_ns is a whole number of nanoseconds: {error}") from None
    if not -(2**63) <= time < 2**63:
        raise DataError(f"t_ns is a whole number of nanoseconds: {time} takes over 64 bits")
    return time


def _number(value: Any) -> float:
    """Return a field as float; TypeError for text, which float() would read."""
    if isinstance(value, str | bytes):
        raise TypeError(f"{value!r} is text")
    return float(value)
