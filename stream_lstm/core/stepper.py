"""One stream through a session, for a caller's own loop."""

from __future__ import annotations

import datetime
import math
import operator
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import Config, Members
from ..errors import DataError, InputWarning, UsageError
from ..events import NO_TIME, Label, OldTimes, Output, Prediction, Refusal, Score, Update
from .atomic import AtomicSession
from .features import CHECK_EVERY, FeatureMonitor, check_streams
from .missing import optional_columns
from .old_ticks import moment, reason

STREAM = "series"
"""Name of the one stream by default."""


class Stepper:
    """One stream through a session, one tick at a time; the base of `Predictor`.

    config, columns, weights, scaler, members: as in `Session`. stream: the name of the stream.

    Attributes: `columns`; `stream`; `last_update`, the latest `Update` or None; `last_score`, the
    latest `Score` or None.

    Raises what `Session` raises.
    """

    def __init__(
        self,
        config: Config,
        columns: Sequence[str],
        *,
        stream: str = STREAM,
        weights: Mapping[str, Mapping[str, Any]] | None = None,
        scaler: npt.ArrayLike | None = None,
        members: Members | None = None,
    ) -> None:
        self.columns, self.stream = tuple(columns), stream
        self.last_update: Update | None = None
        self.last_score: Score | None = None
        self._prediction: Prediction | None = None
        self._refusal: Refusal | None = None
        self._old: OldTimes | None = None
        self._optional = frozenset(optional_columns(config.stream, self.columns))
        self._session = AtomicSession(
            config,
            self.columns,
            self._take,
            weights=weights,
            scaler=scaler,
            members=members,
            echo=True,
        )
        check_streams(self._session.others, [stream])
        self._clipping, self._unchecked = FeatureMonitor(config), 0
        self._watch_order(config.stream.on_old_time == "warn")

    def step(
        self, fields: Mapping[str, float] | Sequence[float], t_ns: int = NO_TIME
    ) -> Prediction | None:
        """Take one tick; return the prediction where one is due, else None.

        fields: the tick's values by column name, or in the order of `columns`. A column with a
        policy of `on_missing` may be None, NaN or, by name, absent.
        t_ns: its time in nanoseconds since 1970, for `elapsed()` and for the record.

        Warns (InputWarning) once about old ticks, whose time is before that of an earlier one or
        which repeat time and values; with `on_old_time="refuse"` they are refused. Warns once
        about each feature that the scaler cuts to a constant.

        Raises DataError for a refused tick, such as one with a missing field, a field that is not
        a number or a feature that is not finite. The predictor is then as it was before.
        """
        values, time = self.row(fields), _time(t_ns)
        self._prediction = self._refusal = None
        self._session.tick(self.stream, time, values, seq=0)
        if self._refusal is not None:
            raise DataError(f"the tick is refused: {self._refusal.reason}")
        self._unchecked += 1
        if self._unchecked >= CHECK_EVERY:
            self._unchecked = 0
            for line in self._session.read(self._clipping.check):
                warnings.warn(line, InputWarning, stacklevel=2)
        if self._old is not None:
            self._warn(self._old)
        return self._prediction

    def peek(
        self, fields: Mapping[str, float] | Sequence[float], t_ns: int = NO_TIME
    ) -> float | None:
        """Return the p that `step` would predict for a tick, None where none is due.

        The arguments are those of `step`. The predictor does not change, and `step` with the same
        tick gives the same bits.

        Raises DataError for a tick that `step` would refuse, and UsageError if labels come from
        the series: the tick would bring a label first.
        """
        if self._session.config.stream.labels != "external":
            raise UsageError('peek needs external labels; construct with labels="external"')
        values, time = self.row(fields), _time(t_ns)
        return self._session.read(lambda session: session.peek(self.stream, time, values))

    def learn(self, label: float | bool, n: int | None = None) -> Score | None:
        """Label a prediction, score it, and learn from it if `learn=True`.

        label: 1 or True if the target is positive, else 0; any number if there is a `threshold`.
        n: the prediction's n; by default the oldest one that waits for its label.

        Returns the score, or None if the label can still be revised (`revisions="last"`) or its
        prediction is not made yet; `settle` ends the waiting.

        Raises UsageError if labels come from the series, where `step` scores and learns, and
        DataError for a label that is not 0 or 1, or if no such prediction waits.
        """
        if self._session.config.stream.labels != "external":
            message = 'labels come from the series; construct with labels="external"'
            raise UsageError(message)
        try:
            y = _number(label)
        except (TypeError, ValueError, OverflowError):
            raise DataError(f"the label is refused: {label!r:.60} is not a number") from None
        if n is not None:
            n = _prediction_number(n)
        stream = self._session.streams.get(self.stream)
        oldest = None if stream is None else stream.ledger.oldest()
        if n is None:
            if oldest is None:
                raise DataError("no prediction waits for a label")
            n = oldest.n
        self._refusal = None
        before = self.last_score
        self._session.label(Label(self.stream, n, y))
        if self._refusal is not None:
            raise DataError(f"the label is refused: {self._refusal.reason}")
        return None if self.last_score is before else self.last_score

    def settle(self) -> None:
        """Score the labels that could still be revised, and learn from them."""
        self._session.settle()

    def scores(self) -> dict[str, Any]:
        """Return the figures so far (log loss in nats), beside base rate and last label."""
        self._session.look()
        scores = self._session.read(lambda session: session.scores.total())
        return {"labels": scores.labels, **scores.figures()}

    def weights(self) -> dict[str, dict[str, np.ndarray]]:
        """Return copies of the current weights, {layer: {"kernel": float32 array}}."""
        weights: dict[str, dict[str, np.ndarray]] = self._session.weights_for(self.stream)
        return weights

    def snapshot(self) -> bytes:
        """Return the whole state as bytes."""
        return self._session.snapshot()

    def restore(self, data: bytes) -> None:
        """Continue from a `snapshot` of a predictor with the same settings.

        Raises SnapshotError if the bytes are damaged or belong to other settings.
        """
        self._session.restore(data)

    def row(self, fields: Mapping[str, float] | Sequence[float]) -> list[float]:
        """Return the values of a tick in the order of `columns`; DataError for a missing one."""
        values: Any = fields if type(fields) is list else self._values(fields)
        if len(values) != len(self.columns):
            raise DataError(
                f"a tick has the {len(self.columns)} fields {', '.join(self.columns)}, "
                f"not {len(values)}"
            )
        try:
            if self._optional:
                named = zip(self.columns, values, strict=True)
                values = [
                    math.nan if name in self._optional and _is_missing(value) else value
                    for name, value in named
                ]
            return [_number(value) for value in values]
        except (TypeError, ValueError, OverflowError) as error:
            for name, value in zip(self.columns, values, strict=True):
                if value is None:
                    why = f'not a number; on_missing=["{name}=last"] accepts missing values'
                    raise DataError(f"the field {name!r} of the tick is None, {why}") from None
            raise DataError(f"a field of the tick is not a number: {error}") from None

    def _values(self, fields: Any) -> Any:
        """Return a sequence; for a mapping, the values in the order of `columns`."""
        if isinstance(fields, Mapping) or hasattr(fields, "to_dict"):  # a row of pandas
            missing = [name for name in self.columns if name not in fields]
            if missing and (missing == [*self.columns] or not self._optional.issuperset(missing)):
                has = ", ".join(map(str, fields.keys()))
                raise DataError(f"the tick has no field {missing[0]!r} (it has {has})")
            return [fields.get(name) for name in self.columns]
        if isinstance(fields, str | bytes) or not hasattr(fields, "__getitem__"):
            raise DataError(
                "a tick is a mapping or a sequence of values, such as [1.5], not "
                f"{type(fields).__name__}"
            )
        if getattr(fields, "ndim", 1) != 1:
            raise DataError(
                f"a tick is one row of values, and this array has the shape {fields.shape}: "
                "write [x] for a number x, and step over the rows of a table one by one"
            )
        return fields

    def _watch_order(self, watches: bool) -> None:
        """Warn about the next old tick, or about none from now on."""
        self._watches_order, self._old = watches, None
        self._session.on_old_ticks(self._note_old if watches else None)

    def _note_old(self, old: OldTimes) -> None:
        self._old = old

    def _warn(self, old: OldTimes) -> None:
        """Warn about the first old tick only."""
        self._watch_order(False)
        why = reason(moment(old.t_ns), moment(old.latest_ns))
        text = f'the tick is taken although {why}; on_old_time="refuse" refuses such ticks'
        warnings.warn(text, InputWarning, stacklevel=3)

    def _take(self, event: Output) -> None:
        if isinstance(event, Prediction):
            self._prediction = None if self._session.repeating else event
        elif isinstance(event, Score):
            self.last_score = event
        elif isinstance(event, Update):
            self.last_update = event
        elif isinstance(event, Refusal):
            self._refusal = event


def _prediction_number(n: Any) -> int:
    try:
        return -1 if isinstance(n, bool | np.bool_) else operator.index(n)
    except TypeError:
        if isinstance(n, float) and n.is_integer():
            return int(n)
        raise DataError(
            f"the label is refused: n = {n!r:.60} is not the number of a prediction"
        ) from None


def _time(t_ns: Any) -> int:
    """Return a time as an int; a `datetime` needs a time zone, and one of NumPy is in UTC."""
    if isinstance(t_ns, np.datetime64) and not np.isnat(t_ns):
        t_ns = t_ns.astype("datetime64[ns]").astype(np.int64)
    elif isinstance(t_ns, datetime.datetime):
        t_ns = _since_1970(t_ns)
    try:
        time = operator.index(t_ns)
    except TypeError as error:
        raise DataError(
            f"t_ns must be a whole number of nanoseconds since 1970, or a datetime: {error}"
        ) from None
    if not -(2**63) <= time < 2**63:
        raise DataError(f"t_ns must be a whole number of nanoseconds in 64 bits, not {time}")
    return time


def _since_1970(time: datetime.datetime) -> int:
    if time != time:  # NaT
        raise DataError("t_ns is NaT, not a time")
    if time.tzinfo is None:
        raise DataError(
            f"t_ns = {time!r} has no time zone: write {time:%Y-%m-%d %H:%M} with "
            "tzinfo=datetime.UTC, or pass nanoseconds"
        )
    passed = time - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    whole = (passed.days * 86_400 + passed.seconds) * 10**9 + passed.microseconds * 1000
    return whole + getattr(time, "nanosecond", 0)  # which pandas has


def _is_missing(value: Any) -> bool:
    return value is None or type(value).__name__ == "NAType"  # of pandas, which has no float


def _number(value: Any) -> float:
    """Return a field as float; TypeError for text and complex numbers."""
    if type(value) is float:
        return value
    if isinstance(value, str | bytes):
        raise TypeError(f"{value!r:.60} is text")
    if isinstance(value, complex | np.complexfloating):
        raise TypeError(f"{value!r:.60} is complex")
    return float(value)
