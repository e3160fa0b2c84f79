"""The product as one object, for one stream and a caller's own loop.

What the next tick would be predicted with, while everything stays as it is.

The tick is stepped over in a copy of the carry. The result has the bits of the prediction that
`Session.tick` makes of the same tick. That holds where labels come from outside: a tick of a
series with labels of its own first brings a label, which may change what is predicted.
"""

from __future__ import annotations

import datetime
import operator
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import build
from ..errors import ConfigurationError, DataError, InputWarning, UsageError
from ..events import NO_TIME, Label, OldTimes, Output, Prediction, Refusal, Score, Update
from ..model.buffers import SharedArray, aligned_zeros
from .atomic import AtomicSession
from .expressions import columns_of
from .features import LOOK, Clipped
from .old_times import moment, reason
from .scores import Scoreboard
from .session import Session
from .stream import Stream


class Trial:
    """Steps over ticks of a session on trial."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._carry = SharedArray(aligned_zeros((session.engine.width,)))

    def tick(self, name: str, t_ns: int, values: Sequence[float]) -> float | None:
        """Return the p that a tick would be predicted with, None where no prediction is due.

        Raises DataError for a tick that would be refused, and ConfigurationError for a stream
        more than there may be.
        """
        session, reasons = self._session, list[str]()
        session.catch_up()
        stream = session._stream(name)
        if stream is None:
            raise ConfigurationError(session._too_many(), key="streams")
        row, at = np.array([values], np.float64), np.array([t_ns], np.int64)
        runs = session.maker.make(stream.memory(), at, row, lambda _, why: reasons.append(why))
        elements = [made for _, made in runs]
        if reasons:
            raise DataError(f"the tick is refused: {reasons[0]}")
        if not elements or stream.n + 1 != stream.due:
            return None
        return self._step(stream, elements[0])

    def _step(self, stream: Stream, x: np.ndarray) -> float:
        session, engine = self._session, self._session.engine
        self._carry.host[:] = stream.carry.host
        out = engine.advance_in_place(stream.learned.weights, self._carry, x)
        members, start = engine.stepper.members, engine.scaler_size
        if stream.side is None:
            return float(self._carry.host[start])
        inputs = None
        if session.config.model.mode == "window":
            assert stream.side.tape is not None
            past = stream.side.tape.inputs(stream.n, session.config.stream.window - 1)
            scaled = engine.rows(out, 1)[:, members : members + x.shape[1]]
            inputs = np.concatenate([past, scaled])
        given = self._carry.host[start : start + members]
        return session._sided.combined(stream, given, inputs)[0]


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
        self._made = (features, columns, weights, scaler, settings)
        named = [features] if isinstance(features, str) else list(features)
        given = [columns] if isinstance(columns, str) else columns
        self.columns = tuple(given or columns_of(named))
        self.last_update: Update | None = None
        self.last_score: Score | None = None
        self._prediction: Prediction | None = None
        self._refusal: Refusal | None = None
        self._old: OldTimes | None = None
        # NumPy's numbers are as good as Python's.
        plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in settings.items()}
        config = build({"features": named, **plain})
        self._session = AtomicSession(
            config, self.columns, self._take, weights=weights, scaler=scaler, echo=True
        )
        self._trial = self._session.reading(Trial)
        self._clipped, self._unseen = Clipped(config), 0
        if config.stream.on_old_time == "warn":
            self._session.hear_old(self._note_old)

    def step(
        self, fields: Mapping[str, float] | Sequence[float], t_ns: int = NO_TIME
    ) -> Prediction | None:
        """Take one tick; return the prediction where one is due, else None.

        fields: the tick's values by column name, or in the order of `columns`.
        t_ns: its time in nanoseconds since 1970, for `elapsed()` and for the record.

        Warns (InputWarning), once, of a tick that is old: its time is before that of an earlier
        one, or it repeats time and values; with `on_old_time="refuse"` it is refused.

        Raises DataError for a tick that is refused (a field that is missing or not a number,
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
        if self._old is not None:
            self._warn(self._old)
        return self._prediction

    def peek(
        self, fields: Mapping[str, float] | Sequence[float], t_ns: int = NO_TIME
    ) -> float | None:
        """Return the p that `step` would predict of a tick, None where none is due.

        The arguments are those of `step`. The predictor stays as it is, and `step` of the same
        tick gives the same bits.

        Raises DataError for a tick that `step` would refuse, and UsageError where labels come
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
            y = _number(label)
        except (TypeError, ValueError, OverflowError):
            raise DataError(f"the label is refused: {label!r:.60} is not a number") from None
        if n is not None:
            n = _place(n)
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

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy is made of: arguments, and a snapshot; no code is in it."""
        latest = self.last_update, self.last_score
        return {"made": self._made, "snapshot": self.snapshot(), "latest": latest}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        features, columns, weights, scaler, settings = state["made"]
        self.__init__(features, columns, weights=weights, scaler=scaler, **settings)  # type: ignore[misc]
        self.restore(state["snapshot"])
        self.last_update, self.last_score = state["latest"]

    def row(self, fields: Mapping[str, float] | Sequence[float]) -> list[float]:
        """Return the values of a tick in the order of `columns`; DataError where one lacks."""
        values: Any = fields if type(fields) is list else self._values(fields)
        if len(values) != len(self.columns):
            raise DataError(
                f"a tick has the {len(self.columns)} fields {', '.join(self.columns)}, "
                f"not {len(values)}"
            )
        try:
            return [_number(value) for value in values]
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(f"a field of the tick is not a number: {error}") from None

    def _values(self, fields: Any) -> Any:
        """Return what can be counted and walked; a mapping in the order of `columns`."""
        if isinstance(fields, Mapping) or hasattr(fields, "to_dict"):  # a row of pandas
            missing = [name for name in self.columns if name not in fields]
            if missing:
                has = ", ".join(map(str, fields.keys()))
                raise DataError(f"the tick has no field {missing[0]!r} (it has {has})")
            return [fields[name] for name in self.columns]
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

    def _look(self) -> None:
        self._unseen = 0
        for line in self._clipped.look(self._session.table):
            warnings.warn(line, InputWarning, stacklevel=3)

    def _note_old(self, old: OldTimes) -> None:
        self._old = old

    def _warn(self, old: OldTimes) -> None:
        """Warn of the first old tick, and of none after it."""
        self._session.hear_old(None)
        self._old = None
        why = reason(moment(old.t_ns), moment(old.latest_ns))
        told = f'the tick is taken though {why}; on_old_time="refuse" refuses such ticks'
        warnings.warn(told, InputWarning, stacklevel=3)

    def _take(self, event: Output) -> None:
        if isinstance(event, Prediction):
            self._prediction = None if self._session.mending else event
        elif isinstance(event, Score):
            self.last_score = event
        elif isinstance(event, Update):
            self.last_update = event
        elif isinstance(event, Refusal):
            self._refusal = event


def _place(n: Any) -> int:
    """Return the number of a prediction as an int; DataError for what is not one."""
    try:
        return -1 if isinstance(n, bool | np.bool_) else operator.index(n)
    except TypeError:
        if isinstance(n, float) and n.is_integer():
            return int(n)
        raise DataError(
            f"the label is refused: n = {n!r:.60} is not the number of a prediction"
        ) from None


def _scores(session: Session) -> Scoreboard:
    session.look()
    return session.scores.total()


def _time(t_ns: Any) -> int:
    """Return a time as an int; DataError for what is not one of 64 bits.

    A date that knows its zone counts, as one of pandas does; one of NumPy is in UTC.
    """
    if isinstance(t_ns, np.datetime64) and not np.isnat(t_ns):
        t_ns = t_ns.astype("datetime64[ns]").astype(np.int64)
    elif isinstance(t_ns, datetime.datetime):
        t_ns = _since_1970(t_ns)
    try:
        time = operator.index(t_ns)
    except TypeError as error:
        raise DataError(
            f"t_ns is a whole number of nanoseconds since 1970, or a datetime: {error}"
        ) from None
    if not -(2**63) <= time < 2**63:
        raise DataError(f"t_ns is a whole number of nanoseconds: {time} takes over 64 bits")
    return time


def _since_1970(time: datetime.datetime) -> int:
    if time != time:  # NaT
        raise DataError("t_ns is NaT, which is no time")
    if time.tzinfo is None:
        raise DataError(
            f"t_ns = {time!r} has no time zone: write {time:%Y-%m-%d %H:%M} with "
            "tzinfo=datetime.UTC, or pass nanoseconds"
        )
    passed = time - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    whole = (passed.days * 86_400 + passed.seconds) * 10**9 + passed.microseconds * 1000
    return whole + getattr(time, "nanosecond", 0)  # which pandas has


def _number(value: Any) -> float:
    """Return a field as float; TypeError for what float() would read or cut."""
    if type(value) is float:
        return value
    if isinstance(value, str | bytes):
        raise TypeError(f"{value!r:.60} is text")
    if isinstance(value, complex | np.complexfloating):
        raise TypeError(f"{value!r:.60} is complex")
    return float(value)
