"""Labels to score, and the scores of them."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from stream_lstm.core.scores import Scores

Rows: TypeAlias = list[tuple[float, int, int]]
"""(p, label, last label known when p was given, -1 for none)."""


def scored(rows: Rows, scores: Scores | None = None, row: int = 0) -> Scores:
    """Score labels of a stream against `p` and the plain forecasters."""
    scores = scores or Scores()
    for p, label, last in rows:
        scores.add(row, label, last, p, *scores.plain(row, last))
    return scores


def many(count: int, seed: int = 3) -> Rows:
    """Return labels of calibrated forecasts."""
    rng = np.random.default_rng(seed)
    ps = rng.random(count).astype(np.float32).tolist()
    return [(p, int(rng.random() < p), int(rng.integers(-1, 2))) for p in ps]
