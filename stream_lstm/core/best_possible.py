"""How close a model came to the best forecast of a series whose best forecast is known.

The model never sees the best forecast. It is computed afterwards from the seed, and scored on
exactly the labels that the model was scored on. Some streams are coin flips at most of their
labels; a query is a label for which the best forecast is not 1/2.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from ..config import Config
from ..errors import StreamLSTMError
from ..events import Score
from ..records import Batch
from ..typing import Bools, Float64s
from .losses import log_losses

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
