"""Checks by trial: plain forecasters, the model, and the model on a planted signal.

Three trials separate "nothing to learn" from "not learning": plain forecasters and the model on
the series, and the model on the series with a known signal planted in it.

Planting changes the signs of the target only: each repeats the sign `horizon` elements back with
probability `STAY`. Magnitudes, other features, scaling, network, learner, settings and the source
of labels stay the user's. A target of 0 has no sign: it takes the magnitude of the element before
it. A short series is repeated until it is long enough.

A trial takes the first elements of a series, as many as bring `labels_tried` labels: whole series
can take hours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np

from ...config import Config, LogisticMember, Members, TableMember
from ...events import Output, Prediction, Rollback, Score, Ticks, Update
from ...quoting import count
from ...typing import Float32s, Float64s
from ..evidence import PROVEN, Bet
from ..losses import log_loss
from ..replay import LateLabels, Replay, ReplayRows
from ..session import Session
from ..verdict import odds
from .advice import proposed, slower
from .inputs import Finding, Level, percent
from .labels import entropy

STAY = 0.8
"""Accuracy of the best forecast of a planted signal: far from a coin, and far from certain."""

BEST = entropy(STAY)
"""Its log loss in nats."""

PLANTED = 2_000
"""Labels of the planted series: enough for every learner that works."""

MAX_PLANTED = 60_000
"""Elements of the planted series."""

LEARNED = 0.5
"""Share of the possible gain over the base rate, in the last half, that counts as learned."""

GUESSED = 0.1
"""Share of the possible gain that random weights may reach."""

TRIED, BANK_TRIED = 8_000, 2_000
"""Labels of a trial of one small network, and of a bank: some seconds."""

SMALL = 64
"""Hidden units up to which a label costs about the same."""

LEAST_TRIED = 1_000
MAX_ELEMENTS = 400_000

REFUSED = 0.1
"""Share of refused updates above which learning does not work as intended."""

BASELINES: Members = (
    TableMember("base rate"),
    TableMember("last label", signs=1),
    TableMember("sign table", signs=6, targets="every"),
    LogisticMember("logistic on lags", lags=10, signs=10, q=1e-6),
)
"""Forecasters without a network; the others are compared with the first."""

Progress: TypeAlias = Callable[[int, int], None]
"""Takes how much is done, and of how much."""

Make: TypeAlias = Callable[[Callable[[Output], None]], Session]
"""Returns a session that emits to its argument."""


# ---- the planted signal ----------------------------------------------------------------------


class Planted(NamedTuple):
    """A series with a planted signal, and the settings to learn it with."""

    ticks: Ticks
    labels: Float64s | None  # (m,), as a label column has them
    config: Config
    columns: tuple[str, ...]


def plant(elements: Float32s, config: Config, *, seed: int = 0) -> Planted | None:
    """Return elements (n, F) with planted signs, learning on; None if all targets are 0."""
    stream, replace = config.stream, msgspec.structs.replace
    horizon = max(stream.horizon, 1)
    count = min(stream.window + horizon + PLANTED * stream.stride, MAX_PLANTED)
    count = max(count, 3 * stream.window)
    values = np.resize(elements, (count, elements.shape[1])).astype(np.float64)
    nonzero = np.flatnonzero(values[:, 0])
    if not len(nonzero):
        return None
    last = np.searchsorted(nonzero, np.arange(count), side="right") - 1
    magnitudes = np.abs(values[nonzero[np.maximum(last, 0)], 0])
    random = np.random.default_rng(seed)
    turns = np.where(random.random((math.ceil(count / horizon), horizon)) < STAY, 1.0, -1.0)
    signs: Float64s = np.cumprod(turns, axis=0, dtype=np.float64).reshape(-1)[:count]
    values[:, 0] = magnitudes * signs
    labels: Float64s | None = None
    if stream.labels != "series":
        # without a horizon, a prediction is still about the element after it
        ahead = signs if stream.horizon else np.roll(signs, -1)
        labels = (ahead > 0).astype(np.float64)
        if stream.threshold is not None:
            labels = stream.threshold + ahead
    names = tuple(f"f{k}" for k in range(elements.shape[1]))
    bptt = min(config.learning.bptt, stream.window)
    planted = replace(
        config,
        stream=replace(stream, features=names, on_missing=()),
        learning=replace(config.learning, learn=True, learn_until=0, bptt=bptt),
        scoring=replace(config.scoring, twins=()),
    )
    times = np.arange(count, dtype=np.int64) * 1_000_000_000
    return Planted(Ticks("planted", times, values), labels, planted, names)


# ---- trials ----------------------------------------------------------------------------------


class Forecast(NamedTuple):
    """Scores of one forecaster; `better` and `worse` than the base rate are evidence in nats."""

    name: str
    labels: int
    accuracy: float
    log_loss: float
    base_rate_log_loss: float
    better: float
    worse: float

    def proven(self, looks: int = 1) -> bool:
        """Return whether it beats the base rate, also in total, as the best of `looks`."""
        in_total = self.log_loss < self.base_rate_log_loss
        return in_total and self.better >= PROVEN + math.log(looks)


class Trial:
    """The results of a session; `session` is in its final state."""

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
        labels: Float64s | None = None,
        delays: Mapping[str, Any] | None = None,
        progress: Progress = lambda *_: None,
    ) -> Trial:
        """Push ticks, with the labels of their rows if labels come from outside."""
        late = None if labels is None else LateLabels(self.session, **(delays or {}))
        rows, count = ReplayRows(ticks.t_ns, ticks.values, labels=labels), len(ticks.values)
        Replay(self.session, ticks.stream, late=late).run(
            [rows], lambda done: progress(done, count)
        )
        return self

    def forecast(self, name: str, *, skip: float = 0.0) -> Forecast | None:
        """Return the scores of the published forecasts without the first share `skip`."""
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


def elements_tried(config: Config) -> int:
    """Return the elements of a trial of a configuration, so that it takes some seconds."""
    stream, model = config.stream, config.model
    most = BANK_TRIED if config.learning.bank != "none" else TRIED
    share = min(1.0, (SMALL / model.hidden) ** 2) / model.layers
    tried = stream.window + stream.horizon + max(LEAST_TRIED, int(most * share)) * stream.stride
    return min(tried, max(MAX_ELEMENTS, 2 * stream.window))


def baseline_config(config: Config) -> Config:
    """Return the configuration of a session whose bank is `BASELINES`."""
    replace = msgspec.structs.replace
    return replace(
        config,
        model=replace(config.model, mode="carry", hidden=1, layers=1, weights=None),
        learning=replace(
            type(config.learning)(bptt=1), learn=True, bank="baselines", publish_experts=True
        ),
        scoring=replace(config.scoring, twins=(), calibrate=False),
    )


# ---- findings --------------------------------------------------------------------------------


def learning_set(config: Config, weights: bool) -> Finding:
    """Check whether the model learns, or has given weights."""
    name, learning = "learning", config.learning
    if learning.learn:
        how = f"{learning.optimizer}, gradient {config.gradient()}"
        if learning.bank != "none":
            how = f"the bank {learning.bank}"
        return Finding(name, "ok", f"learning is on: {how}")
    if weights:
        return Finding(name, "ok", "learning is off, and weights are given")
    evidence = "learning is off and no weights are given: the network keeps its random weights"
    return Finding(name, "fault", evidence, "--learn, or --weights FILE")


def updates_made(trial: Trial, config: Config) -> Finding:
    """Check for refused updates, and for weights that were rolled back."""
    name = "updates"
    figures = {
        "updates": trial.updates,
        "refused": trial.refused,
        "rollbacks": trial.rollbacks,
    }
    evidence = (
        f"{count(trial.updates, 'updates')}, {trial.refused:,} refused, weights rolled back "
        f"{count(trial.rollbacks, 'times')}"
    )
    many = trial.refused > REFUSED * max(trial.updates, 1)
    if not (many or trial.rollbacks):
        return Finding(name, "ok", evidence, "", figures)
    scaled = proposed(config, "--scaling sd")
    remedy = slower(config) + (f", or {scaled}" if scaled else "")
    level: Level = "fault" if many else "warning"
    return Finding(name, level, evidence, remedy, figures)


def baselines(found: Sequence[Forecast]) -> Finding:
    """Report the scores of plain forecasters, of which the first is the base rate."""
    name, others = "baselines", found[1:]
    best = max(others, key=lambda one: one.better)
    scores = "; ".join(f"{one.name} {one.log_loss:.4f} ({one.accuracy:.3f})" for one in found)
    evidence = f"log loss (accuracy) over {count(best.labels, 'labels')}: {scores}"
    figures = {one.name.replace(" ", "_"): one._asdict() for one in found}
    if best.proven(len(others)):
        evidence += f"; {best.name} beats the base rate (evidence {odds(best.better)})"
        return Finding(name, "ok", evidence, "", figures)
    evidence += "; none is shown to beat the base rate"
    remedy = (
        "if no forecaster finds anything, there may be nothing to learn: use other features, "
        "another target or more labels"
    )
    return Finding(name, "note", evidence, remedy, figures)


def planted_signal(trial: Trial | None, config: Config) -> Finding:
    """Check whether a planted signal was learned; the trial is None if all targets are 0."""
    name = "planted_signal"
    half = None if trial is None else trial.forecast("planted", skip=0.5)
    if half is None:
        evidence = "every target is 0, and a 0 has no sign to plant"
        return Finding(name, "fault", evidence, "choose a target that changes")
    # luck may beat the best possible forecast
    gained = min((half.base_rate_log_loss - half.log_loss) / (half.base_rate_log_loss - BEST), 1.0)
    figures = {"stay": STAY, "best_log_loss": BEST, "gained": gained, **half._asdict()}
    level: Level = "ok"
    if gained < LEARNED:
        level = "warning" if half.proven() and gained >= GUESSED else "fault"
    result = {"ok": "learns", "warning": "hardly learns", "fault": "does not learn"}[level]
    evidence = (
        f"this pipeline {result}: signs that repeat {percent(STAY)} of the time, planted in this "
        f"series: over the last {count(half.labels, 'labels')} log loss {half.log_loss:.4f}, base "
        f"rate {half.base_rate_log_loss:.4f}, best possible {BEST:.4f} "
        f"({percent(max(gained, 0.0))} of what there is to gain)"
    )
    learning, others = config.learning, ["--bank default"]
    if learning.learn and learning.bank == "none":
        rate = [] if learning.optimizer == "dekf" else ["--learning-rate 1e-3"]
        others = [*rate, "--optimizer dekf", *others]
    remedy = "fix the other findings first"
    if tried := proposed(config, *others):
        remedy += f"; then try {tried}"
    return Finding(name, level, evidence, remedy if level != "ok" else "", figures)


def model(
    found: Forecast | None, plain: Sequence[Forecast], config: Config, learns: bool
) -> Finding:
    """Compare the model with the base rate and the best plain forecaster on the same labels.

    learns: whether it learned the planted signal.
    """
    name, bank = "model", proposed(config, "--bank default")
    if found is None:
        evidence = "there were no labels to score the model on"
        return Finding(name, "note", evidence, "give more rows")
    best = max(plain[1:], key=lambda one: one.better)
    best_proven = best.proven(len(plain) - 1)
    figures = found._asdict()
    evidence = (
        f"log loss {found.log_loss:.4f} over {count(found.labels, 'labels')}, accuracy "
        f"{found.accuracy:.3f}; base rate {found.base_rate_log_loss:.4f}"
    )
    if found.proven():
        evidence += f"; better than the base rate (evidence {odds(found.better)})"
        if not best_proven or found.log_loss <= best.log_loss + 0.01:
            return Finding(name, "ok", evidence, "", figures)
        evidence += f", but {best.name} has {best.log_loss:.4f}"
        return Finding(name, "note", evidence, bank and f"{bank}, which contains both", figures)
    worse = found.log_loss > found.base_rate_log_loss
    evidence += "; worse than the base rate so far" if worse else "; not better than the base rate"
    if best_proven and config.learning.bank == "none":
        evidence += f", while {best.name} is ({best.log_loss:.4f}, evidence {odds(best.better)})"
        level: Level = "warning" if learns else "note"
        return Finding(name, level, evidence, bank and f"{bank}, which contains both", figures)
    remedy = f"{bank} is never much worse than the base rate" if worse and bank else ""
    return Finding(name, "note", evidence, remedy, figures)
