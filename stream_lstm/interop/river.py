"""A classifier for River, a library for learning from streams, around a `Predictor`.

River asks a model for `predict_one` or `predict_proba_one` before it shows the truth with
`learn_one`. How often it asks, and with which x, depends on what is around the model: a pipeline
asks with x as it was scaled then and learns with x as it is scaled now, an ensemble asks again
within `learn_one`, a sampler learns from one x several times or never. So an x cannot be told by
its values or its identity, and one of two rules says what moves the network along the series:

| rule | the series moves by | a prediction |
|---|---|---|
| without `key` | each `learn_one`, by one example | is a step on trial, which leaves no trace |
| with `key` | the first call with a new `x[key]` | is the same however often it is asked for |

The first is River's own contract, that only learning changes a model. It needs each label before
the next x. The second is for labels that come late or never.

River knows its models by their class, so that the class is made when there is a River to make it
for.

Notices labels that come late, from the values of what was asked about and what is learned.

A transformer that learns changes the values of an x between the question and its label, but less
than the series does meanwhile. So the distance of each label's values to those of the last
question, the one before it, and so on, is averaged for each lag. Labels are late where the values
of an older question are far nearer than those of the last.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from ..core.predictor import Predictor
from ..errors import DataError, InputWarning, UsageError
from .extras import installed

RECENT = 100
"""Questions whose values are kept, and so the latest labels that are noticed."""

LEAST = 20
"""Labels, after a question each, before the distances tell anything; they fade over as many."""

NEARER = 0.25
"""Distance of the question that is meant, at most, as part of that of the last question."""

Values = tuple[float, ...]


class Lateness:
    """The questions since the last label, and the values of the last ones.

    `unanswered` counts the questions since the last label.
    """

    def __init__(self, columns: int) -> None:
        self.unanswered = 0
        self._recent = np.zeros((RECENT, columns))
        self._count = 0  # of all questions
        self._since: dict[Values, None] = {}  # since the last label, the newest one last
        self._away = np.zeros(RECENT)  # by lag
        self._labels = 0

    def asked(self, values: Values) -> None:
        """Take a question."""
        self.unanswered += 1
        if self._since and next(reversed(self._since)) == values:
            return  # asked once more
        self._since.pop(values, None)
        self._since[values] = None
        if len(self._since) > RECENT:
            del self._since[next(iter(self._since))]
        self._recent[self._count % RECENT] = values
        self._count += 1

    def is_late(self, values: Values) -> bool:
        """Return whether a label belongs to an older question than the last."""
        if not self.unanswered:
            return False  # nobody asks before each label: the last question is not of this one
        if values in self._since:
            return next(reversed(self._since)) != values
        return self._by_distance(values)

    def _by_distance(self, values: Values) -> bool:
        lags = (self._count - 1 - np.arange(RECENT)) % RECENT
        with np.errstate(invalid="ignore", over="ignore"):
            away = np.abs(self._recent[lags] - values).sum(1)
        away[self._count :] = away[: self._count].max()
        self._labels += 1
        self._away += (away - self._away) / min(self._labels, LEAST)
        late = self._away.min() < NEARER * self._away[0]
        return self._labels >= LEAST and bool(late)

    def answered(self) -> None:
        """Take the label: what is asked from now on is about a later x."""
        self.unanswered = 0
        self._since.clear()


WINDOW = 50
"""Warm-up by default: examples before the first prediction of the network."""

MAX_PENDING = 1000
"""Examples that may wait for a label by default, as in the configuration."""

AHEAD = 50
"""Predictions asked for without a label between them before a warning. A sampler may leave out a
few in a row; so many have most probably labels that come late or never."""

REMEDY = "name a field of x that identifies an example, as in key='id'"


class PendingExample(msgspec.Struct):
    """An example of a key: its prediction's p and n, None before the first, and its label."""

    p: float | None
    n: int | None
    labelled: bool = False


class Examples:
    """The methods of a classifier of examples x, mappings of names to numbers, in their order.

    features: expressions over the names in x; a name with spaces or signs is written in double
    quotes of its own, '"Close Price (USD)"'. key: a field of x that identifies an example, such as
    its time or number. settings: any key of the configuration's tables stream, model, scaling,
    learning and scoring; `stride` is 1, since every x is to be predicted, `window` is 50 and
    `learn` is True unless they are given.

    Without a key each `learn_one` is one step of the series, and predictions change nothing. A
    label must come before the next x.

    With a key the first call with a new `x[key]` is the step. Labels may come late, in any order
    or never; each is learned from with the state of its own example. The newest `max_pending`
    examples are remembered.

    Before the network predicts, the base rate of the labels so far is given.

    Pickling and copying keep the whole state: the settings and a snapshot, from which the same
    bits follow.

    Raises ConfigurationError for settings that cannot be, DataError for an x that lacks a name or
    has a feature that is not finite, for a y that is not a bool, 0 or 1, and for a label whose
    example is labelled, forgotten or, without a key, not the last one. Warns (InputWarning) where
    labels seem to come late and there is no key.
    """

    def __init__(
        self, features: str | Sequence[str], key: str | None = None, **settings: Any
    ) -> None:
        if "labels" in settings or "horizon" in settings:
            raise UsageError("the label of an x is its y: leave labels and horizon out")
        self.features, self.key, self.settings = features, key, settings
        given = {"window": WINDOW, "stride": 1, "learn": True} | settings
        self.predictor = Predictor(features, **given, labels="external", horizon=0)
        self._threshold = given.get("threshold")
        self._room = int(given.get("max_pending", MAX_PENDING))
        self._labels = self._positives = 0
        self._window = min(int(given["window"]), AHEAD)
        self._lateness = Lateness(len(self.predictor.columns))
        self._warned = False
        self._examples: dict[Hashable, PendingExample] = {}  # by key, the oldest first
        self._lost = False  # an example that waited for its label was forgotten

    def predict_proba_one(self, x: Mapping[str, float]) -> dict[bool, float]:
        """Return {False: probability, True: probability}."""
        p = self._probability(x)
        return {False: 1.0 - p, True: p}

    def predict_one(self, x: Mapping[str, float]) -> bool:
        """Return whether True is more probable than not."""
        return self._probability(x) > 0.5

    def learn_one(self, x: Mapping[str, float], y: bool | int) -> None:
        """Take the label of an x."""
        positive = self._class_of(y)
        n = self._moved(x) if self.key is None else self._labelled(x)
        if n is not None:
            self.predictor.learn(y, n)
        self._labels += 1
        self._positives += positive

    def clone(
        self, new_params: Mapping[str, Any] | None = None, include_attributes: bool = False
    ) -> Any:
        """Return a classifier of the same parameters, or of new ones, that has seen nothing.

        include_attributes: with the state of this one. Raises SnapshotError where that does not
        fit the new parameters.
        """
        own = {"features": self.features, "key": self.key, **self.settings}
        made = type(self)(**(own | dict(new_params or {})))
        if include_attributes:
            made.__setstate__(self.__getstate__())
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        made = _restored, (type(self) is Examples, self.features, self.key, self.settings)
        return *made, self.__getstate__()

    def __getstate__(self) -> dict[str, Any]:
        examples = {key: msgspec.structs.astuple(one) for key, one in self._examples.items()}
        state = {name: getattr(self, name) for name in _PLAIN}
        return {**state, "examples": examples, "snapshot": self.predictor.snapshot()}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.predictor.restore(state["snapshot"])
        self._examples = {key: PendingExample(*one) for key, one in state["examples"].items()}
        for name in _PLAIN:
            setattr(self, name, state[name])

    def _probability(self, x: Mapping[str, float]) -> float:
        p = self._on_trial(x) if self.key is None else self._example(x).p
        return (self._positives + 0.5) / (self._labels + 1.0) if p is None else p

    # ---- without a key ----------------------------------------------------------------

    def _on_trial(self, x: Mapping[str, float]) -> float | None:
        values, late = self.predictor.row(x), self._lateness
        p = self.predictor.peek(values)
        late.asked(tuple(values))
        if late.unanswered > (AHEAD if self._labels else self._window) and not self._warned:
            self._warned = True
            warnings.warn(
                f"{late.unanswered} predictions were asked for since the last label, and only "
                f"learn_one moves the series: where labels come late or never, {REMEDY}",
                InputWarning,
                stacklevel=4,  # the caller of predict_one or predict_proba_one
            )
        return p

    def _moved(self, x: Mapping[str, float]) -> int | None:
        """Step over an x that has its label; return the number of its prediction."""
        values = self.predictor.row(x)
        if self._lateness.is_late(tuple(values)):
            raise DataError(
                "the label comes late: another x was asked about after this one, and only "
                f"learn_one moves the series; {REMEDY}, or ask about x again before its label"
            )
        prediction = self.predictor.step(values)
        self._lateness.answered()
        return None if prediction is None else prediction.n

    # ---- with a key -------------------------------------------------------------------

    def _example(self, x: Mapping[str, float]) -> PendingExample:
        """Return the example of an x, stepped over if it is new."""
        key = self._key(x)
        found = self._examples.get(key)
        if found is None:
            prediction = self.predictor.step(x)
            p, n = (None, None) if prediction is None else (prediction.p, prediction.n)
            found = self._examples[key] = PendingExample(p, n)
            if len(self._examples) > self._room:
                oldest = self._examples.pop(next(iter(self._examples)))
                self._lost |= not oldest.labelled
        return found

    def _labelled(self, x: Mapping[str, float]) -> int | None:
        """Note that the example of an x has its label; return the number of its prediction."""
        key = self._key(x)
        if key not in self._examples and self._lost:
            raise DataError(
                f"the example {self.key}={key!r} is not among the {self._room} newest: it was "
                "forgotten before its label came, or nobody asked about it; raise max_pending, or "
                "ask about each x before its label"
            )
        example = self._example(x)
        if example.labelled:
            raise DataError(
                f"the example {self.key}={key!r} has its label already; bagging and over-sampling "
                "learn from an example several times: leave key out there"
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
            raise DataError(f"the key {self.key}={key!r} cannot be told from others") from None
        if key != key:
            raise DataError(f"the key {self.key} is not a number: {key!r}")
        return key  # type: ignore[no-any-return]

    # ---- labels -----------------------------------------------------------------------

    def _class_of(self, y: Any) -> bool:
        """Return whether a label is positive; DataError for what is no label."""
        try:
            number = float(y)
        except (TypeError, ValueError):
            number = math.nan
        if self._threshold is not None and math.isfinite(number):
            return number > float(self._threshold)
        if self._threshold is not None or number not in (0, 1):
            wanted = "a bool, 0 or 1" if self._threshold is None else "a finite number"
            raise DataError(f"a label is {wanted}, not {y!r}")
        return number == 1


_PLAIN = ("_labels", "_positives", "_warned", "_lost")
"""What a classifier holds beside its predictor and its examples."""


def _restored(
    plain: bool, features: str | Sequence[str], key: str | None, settings: Mapping[str, Any]
) -> Any:
    """Return a classifier to put a state into, of River's class where it was one."""
    return (Examples if plain else _class())(features, key, **settings)


@functools.cache
def _class() -> type:
    base = installed("river.base")
    if base is None:
        raise UsageError("there is no River to make a classifier for: pip install river")
    about = {"__doc__": Examples.__doc__, "__module__": __name__}
    return type("StreamLSTMClassifier", (Examples, base.Classifier), about)


def river_classifier(
    features: str | Sequence[str], key: str | None = None, **settings: Any
) -> Any:
    """Return a `river.base.Classifier`; see `Examples`, whose arguments these are.

    Raises UsageError where River is not installed, and what `Examples` raises.
    """
    return _class()(features, key, **settings)
