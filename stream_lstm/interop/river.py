"""A classifier for River, a library for learning from streams, around a `Predictor`.

River asks a model for `predict_one` or `predict_proba_one` before `learn_one` has the label. How
often it asks, and with which x, depends on the objects around the model: a pipeline asks with x as
it was scaled then and learns with x as it is scaled now, an ensemble asks again within
`learn_one`, a sampler learns from one x several times or never. So neither the values nor the
identity of an x identify an example. One of two rules moves the network along the series:

| rule | the series moves by | a prediction |
|---|---|---|
| without `key` | each `learn_one`, by one example | is a trial step without any effect |
| with `key` | the first call with a new `x[key]` | is the same for each call |

The first rule is River's own contract: only learning changes a model. It needs each label before
the next x. The second rule is for labels that are late or missing.

Without a key, `Lateness` detects late labels. A transformer that learns changes the values of an x
between the prediction and its label, but less than the series does meanwhile. So for each lag, the
distance of a label's values to those of the prediction so many predictions ago is averaged. Labels
are late if the values of an older prediction are much nearer than those of the last one.

River identifies models by their class, so the class is created once River is installed.
"""

from __future__ import annotations

import functools
import math
import os
import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from ..errors import DataError, InputWarning, UsageError
from .extras import installed
from .predictor import Predictor

RECENT = 100
"""Predictions whose values are stored, and so the longest lag that is detected."""

LEAST = 20
"""Labels with a prediction before the distances are used; the averages fade over as many."""

NEARER = 0.25
"""Largest distance to the older prediction, relative to that of the last one."""

Values = tuple[float, ...]


class Lateness:
    """Detector of late labels.

    `unanswered` counts the predictions since the last label.
    """

    def __init__(self, columns: int) -> None:
        self.unanswered = 0
        self._recent = np.zeros((RECENT, columns))
        self._count = 0  # of all predictions
        self._since: dict[Values, None] = {}  # since the last label, the newest one last
        self._distances = np.zeros(RECENT)  # by lag
        self._labels = 0

    def predicted(self, values: Values) -> None:
        """Add a prediction."""
        self.unanswered += 1
        if self._since and next(reversed(self._since)) == values:
            return  # the same x again
        self._since.pop(values, None)
        self._since[values] = None
        if len(self._since) > RECENT:
            del self._since[next(iter(self._since))]
        self._recent[self._count % RECENT] = values
        self._count += 1

    def is_late(self, values: Values) -> bool:
        """Return whether a label belongs to an older prediction than the last."""
        if not self.unanswered:
            return False  # no prediction before this label
        if values in self._since:
            return next(reversed(self._since)) != values
        lags = (self._count - 1 - np.arange(RECENT)) % RECENT
        with np.errstate(invalid="ignore", over="ignore"):
            distances = np.nansum(np.abs(self._recent[lags] - values), 1)
        distances[self._count :] = distances[: self._count].max()
        self._labels += 1
        self._distances += (distances - self._distances) / min(self._labels, LEAST)
        late = self._distances.min() < NEARER * self._distances[0]
        return self._labels >= LEAST and bool(late)

    def labelled(self) -> None:
        """Add the label: later predictions are for a later x."""
        self.unanswered = 0
        self._since.clear()


def _compared(values: Sequence[float]) -> Values:
    """Return values of which equal ones are equal, with one object for all missing ones."""
    return tuple(math.nan if value != value else value for value in values)


WINDOW = 50
"""Warm-up by default: examples before the first prediction of the network."""

DEFAULTS: dict[str, Any] = {"window": WINDOW, "stride": 1, "learn": True}

MAX_PENDING = 1000
"""Examples that may wait for a label by default, as in the configuration."""

MAX_UNANSWERED = 50
"""Predictions without a label between them before a warning. A sampler may skip a few labels in a
row; so many predictions most probably mean that labels are late or missing."""

REMEDY = "name a field of x that identifies an example, as in key='id'"


class PendingExample(msgspec.Struct):
    """An example of a key: p and n of its prediction, None before the first, and its label."""

    p: float | None
    n: int | None
    labelled: bool = False


class ExampleClassifier:
    """A binary classifier of examples x, mappings of names to numbers, in their order.

    features: expressions over the names in x; a name with spaces or signs is written in double
    quotes of its own, '"Close Price (USD)"'. key: a field of x that identifies an example, such as
    its time or number. settings: any key of the configuration's tables stream, model, scaling,
    learning and scoring. Defaults here are `stride` 1, since each x has a prediction, `window` 50
    and `learn` True.

    Without a key each `learn_one` is one step of the series, and predictions change nothing. A
    label must come before the next x.

    With a key the first call with a new `x[key]` is the step. Labels may be late, in any order or
    missing; each is learned with the state of its own example. The newest `max_pending` examples
    are stored.

    Before the network's first prediction, predictions are the base rate of the labels so far.

    A pickle contains the bytes of the predictor and plain values, and a copy continues with the
    same bits. Nothing in this package unpickles.

    Raises ConfigurationError for invalid settings, DataError for an x without a name or with a
    feature that is not finite, for a y that is not a bool, 0 or 1, and for a label whose example
    has a label, is not stored or, without a key, is not the last one. Warns (InputWarning) if
    labels seem to be late and there is no key.
    """

    def __init__(
        self, features: str | Sequence[str], key: str | None = None, **settings: Any
    ) -> None:
        if "labels" in settings or "horizon" in settings:
            raise UsageError("the label of an x is its y: remove labels and horizon")
        if isinstance(settings.get("weights"), os.PathLike):
            settings["weights"] = os.fspath(settings["weights"])  # plain, in a pickle too
        fixed = {"labels": "external", "horizon": 0}
        self._set(features, key, settings, Predictor(features, **DEFAULTS | settings | fixed))

    def _set(
        self,
        features: str | Sequence[str],
        key: str | None,
        settings: Mapping[str, Any],
        predictor: Predictor,
    ) -> None:
        """Set the parameters and the predictor; no example is known."""
        self.features, self.key, self.settings = features, key, dict(settings)
        self.predictor = predictor
        settings = DEFAULTS | self.settings
        self._threshold = settings.get("threshold")
        self._max_pending = int(settings.get("max_pending", MAX_PENDING))
        self._labels = self._positives = 0
        self._window = min(int(settings["window"]), MAX_UNANSWERED)
        self._lateness = Lateness(len(predictor.columns))
        self._warned = False
        self._examples: dict[Hashable, PendingExample] = {}  # by key, the oldest first
        self._lost = False  # an example was evicted before its label

    def predict_proba_one(self, x: Mapping[str, float]) -> dict[bool, float]:
        """Return {False: probability, True: probability}."""
        p = self._probability(x)
        return {False: 1.0 - p, True: p}

    def predict_one(self, x: Mapping[str, float]) -> bool:
        """Return whether True is more probable than not."""
        return self._probability(x) > 0.5

    def learn_one(self, x: Mapping[str, float], y: bool | int) -> None:
        """Learn the label of an x."""
        positive = self._is_positive(y)
        n = self._step(x) if self.key is None else self._label(x)
        if n is not None:
            self.predictor.learn(y, n)
        self._labels += 1
        self._positives += positive

    def clone(
        self, new_params: Mapping[str, Any] | None = None, include_attributes: bool = False
    ) -> Any:
        """Return a new classifier of the same parameters, or of new ones.

        include_attributes: with the state of this one. Raises SnapshotError if it does not fit the
        new parameters.
        """
        own = {"features": self.features, "key": self.key, **self.settings}
        clone = type(self)(**(own | dict(new_params or {})))
        if include_attributes:
            clone.predictor.restore(self.predictor.snapshot())
            clone.__setstate__(self.__getstate__())
        return clone

    def __reduce__(self) -> tuple[Any, ...]:
        plain, data = type(self) is ExampleClassifier, self.predictor.to_bytes()
        made_from = plain, self.features, self.key, self.settings, data
        return _restored, made_from, self.__getstate__()

    def __getstate__(self) -> dict[str, Any]:
        examples = {key: msgspec.structs.astuple(one) for key, one in self._examples.items()}
        state = {name: getattr(self, name) for name in _PLAIN}
        return {**state, "examples": examples}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self._examples = {key: PendingExample(*one) for key, one in state["examples"].items()}
        for name in _PLAIN:
            setattr(self, name, state[name])

    def _probability(self, x: Mapping[str, float]) -> float:
        p = self._trial(x) if self.key is None else self._example(x).p
        return (self._positives + 0.5) / (self._labels + 1.0) if p is None else p

    # ---- without a key ----------------------------------------------------------------

    def _trial(self, x: Mapping[str, float]) -> float | None:
        values, lateness = self.predictor.row(x), self._lateness
        p = self.predictor.peek(values)
        lateness.predicted(_compared(values))
        most = MAX_UNANSWERED if self._labels else self._window
        if lateness.unanswered > most and not self._warned:
            self._warned = True
            warnings.warn(
                f"{lateness.unanswered} predictions since the last label, and only learn_one "
                f"moves the series. If labels are late or missing, {REMEDY}",
                InputWarning,
                stacklevel=4,  # the caller of predict_one or predict_proba_one
            )
        return p

    def _step(self, x: Mapping[str, float]) -> int | None:
        """Step over an x that has its label; return the number of its prediction."""
        values = self.predictor.row(x)
        if self._lateness.is_late(_compared(values)):
            raise DataError(
                "the label is late: another x had a prediction after this one, and only learn_one "
                f"moves the series; {REMEDY}, or predict x again before its label; see "
                "'stream-lstm help python'"
            )
        prediction = self.predictor.step(values)
        self._lateness.labelled()
        return None if prediction is None else prediction.n

    # ---- with a key -------------------------------------------------------------------

    def _example(self, x: Mapping[str, float]) -> PendingExample:
        """Return the example of an x, after a step over it if it is new."""
        key = self._key(x)
        example = self._examples.get(key)
        if example is None:
            prediction = self.predictor.step(x)
            p, n = (None, None) if prediction is None else (prediction.p, prediction.n)
            example = self._examples[key] = PendingExample(p, n)
            if len(self._examples) > self._max_pending:
                oldest = self._examples.pop(next(iter(self._examples)))
                self._lost |= not oldest.labelled
        return example

    def _label(self, x: Mapping[str, float]) -> int | None:
        """Mark the example of an x as labelled; return the number of its prediction."""
        key = self._key(x)
        if key not in self._examples and self._lost:
            raise DataError(
                f"the example {self.key}={key!r} is not among the {self._max_pending} newest: it "
                "was evicted before its label, or had no prediction; raise max_pending, or "
                "predict each x before its label"
            )
        example = self._example(x)
        if example.labelled:
            raise DataError(
                f"the example {self.key}={key!r} already has a label; bagging and over-sampling "
                "learn from an example several times: use no key there"
            )
        example.labelled = True
        return example.n

    def _key(self, x: Mapping[str, float]) -> Hashable:
        assert self.key is not None
        if self.key not in x:
            raise DataError(
                f"x has no field {self.key!r}, the key of an example (it has {', '.join(x)}); "
                "a pipeline must pass it on unchanged"
            )
        key: Any = x[self.key]
        try:
            hash(key)
        except TypeError:
            raise DataError(f"the key {self.key}={key!r} is not hashable") from None
        if key != key:
            raise DataError(f"the key {self.key} is not a number: {key!r}")
        return key  # type: ignore[no-any-return]

    def _is_positive(self, y: Any) -> bool:
        """Return whether a label is positive; DataError for an invalid one."""
        try:
            number = float(y)
        except (TypeError, ValueError):
            number = math.nan
        if self._threshold is not None and math.isfinite(number):
            return number > float(self._threshold)
        if self._threshold is not None or number not in (0, 1):
            valid = "a bool, 0 or 1" if self._threshold is None else "a finite number"
            raise DataError(f"a label is {valid}, not {y!r}")
        return number == 1


_PLAIN = ("_labels", "_positives", "_warned", "_lost")
"""State of a classifier besides its predictor and its examples."""


def _restored(
    plain: bool,
    features: str | Sequence[str],
    key: str | None,
    settings: Mapping[str, Any],
    data: bytes,
) -> Any:
    """Return a classifier around the predictor in `data`, of River's class if it was one."""
    kind: type[ExampleClassifier] = ExampleClassifier if plain else _class()
    made = kind.__new__(kind)
    made._set(features, key, settings, Predictor.from_bytes(data))
    return made


@functools.cache
def _class() -> type:
    base = installed("river.base")
    if base is None:
        raise UsageError("a classifier for River needs the package river: pip install river")
    about = {"__doc__": ExampleClassifier.__doc__, "__module__": __name__}
    return type("StreamLSTMClassifier", (ExampleClassifier, base.Classifier), about)


def river_classifier(
    features: str | Sequence[str], key: str | None = None, **settings: Any
) -> Any:
    """Return a `river.base.Classifier`; see `ExampleClassifier`, which has these arguments.

    Raises UsageError if River is not installed, and the errors of `ExampleClassifier`.
    """
    return _class()(features, key, **settings)
