"""A trial: a session along a part of the series, and what its forecasts were worth.

A series can be longer than anyone wants to wait: a trial takes its beginning, as many elements as
bring `labels_tried` labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from ..config import Config
from ..events import Output, Prediction, Rollback, Score, Ticks, Update
from ..members import LogisticMember, Members, TableMember
from .evidence import PROVEN, Bet
from .late_labels import LateLabels
from .losses import log_loss
from .replay import Replay, Rows
from .session import Session

Doubles = npt.NDArray[np.float64]

Progress: TypeAlias = Callable[[int, int], None]
"""Takes what is done and of how much."""

Make: TypeAlias = Callable[[Callable[[Output], None]], Session]
"""Makes a session that emits to what it is given."""

TRIED, BANK_TRIED = 8_000, 2_000
"""Labels of a trial of one small network, and of a bank: some seconds."""

SMALL = 64
"""Hidden units up to which a label costs about the same."""

LEAST_TRIED = 1_000
MOST_ELEMENTS = 400_000

BASELINES: Members = (
    TableMember("base rate"),
    TableMember("last label", signs=1),
    TableMember("sign table", signs=6, targets="every"),
    LogisticMember("logistic on lags", lags=10, signs=10, q=1e-6),
)
"""Forecasters that need no network; the first is what the others must beat."""


class Forecast(NamedTuple):
    """Scores of one forecaster, its advantage over the base rate as evidence in nats."""

    name: str
    labels: int
    accuracy: float
    log_loss: float
    base_rate_log_loss: float
    better: float
    worse: float

    def proven(self, looks: int = 1) -> bool:
        """Tell whether it beats the base rate, on the whole too, as the best of `looks`."""
        on_the_whole = self.log_loss < self.base_rate_log_loss
        return on_the_whole and self.better >= PROVEN + float(np.log(looks))


class Trial:
    """What came of a session; `session` is as it was at the end."""

    def __init__(self, make: Make) -> None:
        self.scores: list[Score] = []
        self.experts: dict[int, tuple[float, ...]] = {}
        self.updates = self.refused = self.rollbacks = 0
        self.session = make(self._take)

    def _take(self, event: Output) -> None:
        match event:
            case Score():
                self.scores.append(event)
            case Prediction() if event.experts:
                self.experts[event.n] = tuple(expert.p for expert in event.experts)
            case Update():
                self.updates += 1
                self.refused += not event.accepted
            case Rollback():
                self.rollbacks += 1

    def run(
        self,
        ticks: Ticks,
        labels: Doubles | None = None,
        delays: Mapping[str, Any] | None = None,
        progress: Progress = lambda *_: None,
    ) -> Trial:
        """Push ticks, with the labels of their rows where they come from outside."""
        late = None if labels is None else LateLabels(self.session, **(delays or {}))
        rows, count = Rows(ticks.t_ns, ticks.values, labels=labels), len(ticks.values)
        Replay(self.session, ticks.stream, late=late).run(
            [rows], lambda done: progress(done, count)
        )
        return self

    def forecast(self, name: str, *, skip: float = 0.0) -> Forecast | None:
        """Return the scores of what was published, without the first share `skip` of labels."""
        scores = self.scores[int(skip * len(self.scores)) :]
        return _forecast(name, [score.p for score in scores], scores)

    def members(self) -> list[Forecast]:
        """Return the scores of each member of a bank."""
        names, scores = self.session.engine.names, [s for s in self.scores if s.n in self.experts]
        found = [
            _forecast(name, [self.experts[score.n][k] for score in scores], scores)
            for k, name in enumerate(names)
        ]
        return [one for one in found if one is not None]


def _forecast(name: str, ps: list[float], scores: list[Score]) -> Forecast | None:
    if not scores:
        return None
    bet, loss, base, right = Bet(), 0.0, 0.0, 0
    for p, score in zip(ps, scores, strict=True):
        own, theirs = log_loss(p, score.label), log_loss(score.base_rate_p, score.label)
        bet.add(theirs - own)
        loss, base, right = loss + own, base + theirs, right + ((p > 0.5) == score.label)
    count = len(scores)
    highest = bet.better.highest, bet.worse.highest
    return Forecast(name, count, right / count, loss / count, base / count, *highest)


def labels_tried(config: Config) -> int:
    """Return how many labels a trial of a configuration takes, so that it takes some seconds."""
    most = BANK_TRIED if config.learning.bank != "none" else TRIED
    share = min(1.0, (SMALL / config.model.hidden) ** 2) / config.model.layers
    return max(LEAST_TRIED, int(most * share))


def elements_tried(config: Config) -> int:
    """Return the elements that bring so many labels."""
    stream = config.stream
    tried = stream.window + stream.horizon + labels_tried(config) * stream.stride
    return min(tried, max(MOST_ELEMENTS, 2 * stream.window))


def baseline_config(config: Config) -> Config:
    """Return the configuration under which `BASELINES` stand beside each other."""
    replace = msgspec.structs.replace
    return replace(
        config,
        model=replace(config.model, mode="carry", hidden=1, layers=1, weights=None),
        learning=replace(
            type(config.learning)(bptt=1), learn=True, bank="baselines", publish_experts=True
        ),
        scoring=replace(config.scoring, twins=(), calibrate=False),
    )
