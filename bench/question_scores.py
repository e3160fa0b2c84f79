"""Scores of the rows of `python -m bench question`, all on the same labels."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

WINDOW, STRIDE, HELD_OUT = 100, 10, 0.1

Array = npt.NDArray[Any]


class Cut(NamedTuple):
    """Where the last tenth of N elements begins, as `stream-lstm train` has it.

    `due` int64 (m,) is the n of each labelled prediction, which is that of the last element of its
    window, and `label` bool (m,) whether element n + 1 is positive.
    """

    train: int
    due: Array
    label: Array

    @property
    def held_out(self) -> Array:
        """Whether a prediction comes after an element of the last tenth, bool (m,)."""
        return np.asarray(self.due > self.train)

    @property
    def trained(self) -> Array:
        """Whether a prediction's label comes before the last tenth, bool (m,)."""
        return np.asarray(self.due < self.train)


def cut(elements: Array) -> Cut:
    """Return the cut of elements (N,)."""
    count = len(elements)
    due = np.arange(WINDOW, count, STRIDE)
    return Cut(count - max(round(count * HELD_OUT), 1), due, elements[due] > 0)


def scores(p: Array, label: Array, prefix: str = "") -> dict[str, Any]:
    """Return labels, accuracy and mean log loss (nats) of forecasts p (m,)."""
    from stream_lstm.core.training import held_out_accuracy, held_out_log_loss

    figures = {
        "labels": len(label),
        "accuracy": held_out_accuracy(p, label),
        "log_loss": held_out_log_loss(p, label),
    }
    return {prefix + name: value for name, value in figures.items()}


def both(p: Array, where: Cut) -> dict[str, Any]:
    """Return the scores on the last tenth, and those of all predictions (m,)."""
    late = where.held_out
    return scores(p[late], where.label[late]) | scores(p, where.label, "all_")
