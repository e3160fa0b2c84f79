"""How far a replay came towards the best possible, on a stream whose best forecast is known.

The model never sees the best forecast. It is computed afterwards from the seed, and scored on
exactly the labels that the model was scored on. Some streams are coins at most of their labels;
a query is a label that is not: one for which the best forecast is other than 1/2.
"""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import Config
from ..core.losses import EPSILON
from ..errors import StreamLSTMError
from ..events import Score
from ..feed.synthetic import SyntheticSource
from ..records import Batch
from ..typing import Float64s


class BestPossible:
    """Keeps the scores of one replay, 17 bytes each, and compares them in the end.

    source: fresh from the seed of the series that is replayed.
    """

    def __init__(self, source: SyntheticSource) -> None:
        self._source = source
        self._n, self._label, self._p = array("q"), array("b"), array("d")

    def add(self, scores: Batch[Score]) -> None:
        """Take scores."""
        self._n.frombytes(scores["n"].tobytes())
        self._label.frombytes(scores["label"].astype(np.int8).tobytes())
        self._p.frombytes(scores["p"].tobytes())

    def figures(self, config: Config, summary: dict[str, Any]) -> dict[str, Any]:
        """Return `best_accuracy`, `best_log_loss` (nats) and what is known of the queries.

        Figures are None where nothing was scored, and where the labels are not the signs of the
        next element of the series: another target, another horizon, or ticks without an element.
        """
        alike = (
            config.stream.features[0] == self._source.columns[0]
            and config.stream.horizon == 1
            and summary["ticks"] == summary["elements"]
        )
        if not alike or not self._n:
            return {
                **dict.fromkeys(("best_accuracy", "best_log_loss", "query_labels")),
                **dict.fromkeys(("query_accuracy", "best_query_accuracy")),
            }
        return self._compare(np.array(self._n), np.array(self._label) == 1, np.array(self._p))

    def _compare(
        self, n: npt.NDArray[np.int64], label: npt.NDArray[np.bool_], p: Float64s
    ) -> dict[str, Any]:
        values = self._source.block(int(n[-1]) + 1)
        if not np.array_equal(values[n, 0] > 0, label):
            raise StreamLSTMError("the series that was scored is not the one that the seed gives")
        best = self._source.best(values)[n - 1]
        right = (best > 0.5) == label
        query = best != 0.5
        some = bool(query.any())
        return {
            "best_accuracy": float(right.mean()),
            "best_log_loss": float(log_loss(best, label).mean()),
            "query_labels": int(query.sum()),
            "query_accuracy": float(((p > 0.5) == label)[query].mean()) if some else None,
            "best_query_accuracy": float(right[query].mean()) if some else None,
        }


def log_loss(p: Float64s, label: npt.NDArray[np.bool_]) -> Float64s:
    """Return the log loss in nats of each forecast, float64 (n,)."""
    losses: Float64s = -np.log(np.clip(np.where(label, p, 1.0 - p), EPSILON, 1.0))
    return losses


def best_lines(summary: dict[str, Any]) -> list[str]:
    """Return what a summary with the figures above says to people; nothing without them."""
    if summary.get("best_accuracy") is None:
        return []
    accuracy, loss = summary["best_accuracy"], summary["best_log_loss"]
    lines = [f"best possible on these labels: accuracy {accuracy:.4f}, log loss {loss:.4f}"]
    queries = summary["query_labels"]
    if 0 < queries < summary["labels"]:
        lines.append(
            f"on the {queries:,} labels that are no coins: accuracy "
            f"{summary['query_accuracy']:.4f}, at best {summary['best_query_accuracy']:.4f}"
        )
    return lines
