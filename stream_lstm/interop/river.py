"""A classifier for River, a library for learning from streams, around a `Predictor`.

River asks a model for `predict_one` or `predict_proba_one` before it shows the truth with
`learn_one`, which may come at once or late. It knows its models by their class, so that the class
is made when there is a River to make it for.
"""

from __future__ import annotations

import functools
import math
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from typing import Any

from ..core.predictor import Predictor
from ..errors import DataError, UsageError
from .extras import installed

WINDOW = 50
"""Warm-up by default: examples before the first prediction of the network."""

Key = tuple[Any, ...]


class Examples:
    """The methods of a classifier of examples x, mappings of names to numbers, in their order.

    features: expressions over the names in x; a name with spaces or signs is written in double
    quotes of its own, '"Close Price (USD)"'. settings: any key of the configuration's tables
    stream, model, scaling, learning and scoring; `stride` is 1, since every x is to be predicted,
    `window` is 50 and `learn` is True unless they are said.

    An x carries the state once, however often it is asked about before its label comes; where
    nobody has asked, its label carries it. Labels may come late and in any order: each belongs to
    the oldest x of the same values that has none, and is learned from with the state of its own
    time. More than `max_pending` do not wait. Before the network predicts, the base rate of the
    labels so far is given.

    Raises ConfigurationError for settings that cannot be, DataError for an x that lacks a name or
    has a feature that is not finite, and for a y that is not a bool, 0 or 1.
    """

    def __init__(self, features: str | Sequence[str], **settings: Any) -> None:
        if "labels" in settings or "horizon" in settings:
            raise UsageError("the label of an x is its y: leave labels and horizon out")
        self.features, self.settings = features, settings
        given = {"window": WINDOW, "stride": 1, "learn": True} | settings
        self.predictor = Predictor(features, **given, labels="external", horizon=0)
        self._waiting: OrderedDict[Key, deque[int | None]] = OrderedDict()
        self._asked: Any = None
        self._p: float | None = None
        self._labels = self._positives = 0
        self._threshold = given.get("threshold")
        self._room = int(given.get("max_pending", 1000))
        self._count = 0

    def predict_proba_one(self, x: Mapping[str, float]) -> dict[bool, float]:
        """Return {False: probability, True: probability}."""
        if x is not self._asked:
            self._carry(x)
        p = self._p
        if p is None:
            p = (self._positives + 0.5) / (self._labels + 1.0)
        return {False: 1.0 - p, True: p}

    def predict_one(self, x: Mapping[str, float]) -> bool:
        """Return whether True is more probable than not."""
        return self.predict_proba_one(x)[True] > 0.5

    def learn_one(self, x: Mapping[str, float], y: bool | int) -> None:
        """Take the label of an x."""
        positive = self._class_of(y)
        key = self._key(x)
        if key not in self._waiting:
            self._carry(x)
        waiting = self._waiting[key]
        n = waiting.popleft()
        self._count -= 1
        if not waiting:
            del self._waiting[key]
        self._asked = None
        if n is not None:
            self.predictor.learn(y, n)
        self._labels += 1
        self._positives += positive

    def clone(self, *_: Any, **__: Any) -> Any:
        """Return a classifier of the same settings that has seen nothing."""
        return type(self)(self.features, **self.settings)

    def _carry(self, x: Mapping[str, float]) -> None:
        prediction = self.predictor.step(x)
        self._asked = x
        self._p = None if prediction is None else prediction.p
        n = None if prediction is None else prediction.n
        self._waiting.setdefault(self._key(x), deque()).append(n)
        self._count += 1
        if self._count > self._room:
            self._forget()

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

    def _forget(self) -> None:
        """Forget the x that waits first of those whose values were asked about first."""
        key, waiting = next(iter(self._waiting.items()))
        waiting.popleft()
        self._count -= 1
        if not waiting:
            del self._waiting[key]

    def _key(self, x: Mapping[str, float]) -> Key:
        return tuple(x.get(name) for name in self.predictor.columns)


@functools.cache
def _class() -> type:
    base = installed("river.base")
    if base is None:
        raise UsageError("there is no River to make a classifier for: pip install river")
    about = {"__doc__": Examples.__doc__, "__module__": __name__}
    return type("StreamLSTMClassifier", (Examples, base.Classifier), about)


def river_classifier(features: str | Sequence[str], **settings: Any) -> Any:
    """Return a `river.base.Classifier`; see `Examples`, whose arguments these are.

    Raises UsageError where River is not installed, and what `Examples` raises.
    """
    return _class()(features, **settings)
