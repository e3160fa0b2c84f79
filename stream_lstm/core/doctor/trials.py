"""Checks by trial: what plain forecasters find, what the network does, whether it could at all.

Three trials tell "nothing to learn" from "not learning": the plain forecasters and the network on
the series, and the network on the series with a signal planted in it.

A known signal planted in the user's own series, to see whether the pipeline learns it.

Everything stays as it is but the signs of the target: they follow a chain that repeats the sign
`horizon` elements back with probability `STAY`. Magnitudes, other features, scaling, network,
learner and settings are the user's, and labels come from where they came from. A target of 0 has
no sign to set: it takes the magnitude of the element before it. A short series is repeated until
it is long enough.

A trial: a session along a part of the series, and what its forecasts were worth.

A series can be longer than anyone wants to wait: a trial takes its beginning, as many elements as
bring `labels_tried` labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np

from ...config import Config, LogisticMember, Members, TableMember
from ...events import Output, Prediction, Rollback, Score, Ticks, Update
from ...typing import Bools, Float32s, Float64s
from ..evidence import PROVEN, Bet
from ..losses import log_loss
from ..replay import LateLabels, Replay, ReplayRows
from ..session import Session
from ..verdict import count, odds
from .labels import entropy
from .series import Finding, Level, percent

STAY = 0.8
"""What the best forecast has for an accuracy: far from a coin, and far from certain."""

PLANTED = 2_000
"""Labels of the planted series: enough for every learner that works."""

MOST_PLANTED = 60_000

SHARE = 0.5
"""Of what there is to gain over the base rate, in the last half, from which on it was learned."""


class Planted(NamedTuple):
    """The series and the settings under which the pipeline is to learn it."""

    ticks: Ticks
    labels: Float64s | None  # (m,), in the rows in which a label column has them
    config: Config
    columns: tuple[str, ...]


def plant(elements: Float32s, config: Config, *, seed: int = 0) -> Planted | None:
    """Return elements (n, F) with planted signs; None where the target has no magnitude at all.

    Learning is then on.
    """
    stream = config.stream
    horizon = max(stream.horizon, 1)
    count = min(stream.window + horizon + PLANTED * stream.stride, MOST_PLANTED)
    count = max(count, 3 * stream.window)
    values = np.resize(elements, (count, elements.shape[1])).astype(np.float64)
    magnitudes = _filled(np.abs(values[:, 0]))
    if not magnitudes.any():
        return None
    values[:, 0] = magnitudes * _signs(count, horizon, seed)
    names = tuple(f"f{k}" for k in range(elements.shape[1]))
    times = np.arange(count, dtype=np.int64) * 1_000_000_000
    ticks = Ticks("planted", times, values)
    return Planted(ticks, _labels(values[:, 0] > 0, config), _learning(config, names), names)


def _labels(positive: Bools, config: Config) -> Float64s | None:
    """Return a column of labels of planted signs (m,), None where they come from the series."""
    stream = config.stream
    if stream.labels == "series":
        return None
    if not stream.horizon:
        positive = np.roll(positive, -1)  # a prediction is about the element after it all the same
    if stream.threshold is None:
        return positive.astype(np.float64)
    return np.where(positive, stream.threshold + 1.0, stream.threshold - 1.0)


BEST = entropy(STAY)


def _learning(config: Config, names: tuple[str, ...]) -> Config:
    replace = msgspec.structs.replace
    stream = replace(config.stream, features=names)
    bptt = min(config.learning.bptt, config.stream.window)
    learning = replace(config.learning, learn=True, learn_until=0, bptt=bptt)
    scoring = replace(config.scoring, twins=())
    return replace(config, stream=stream, learning=learning, scoring=scoring)


def _signs(count: int, horizon: int, seed: int) -> Float64s:
    """Return signs (count,) that repeat those `horizon` before them with probability `STAY`."""
    random = np.random.default_rng(seed)
    rounds = math.ceil(count / horizon)
    turns = np.where(random.random((rounds, horizon)) < STAY, 1.0, -1.0)
    signs: Float64s = np.cumprod(turns, axis=0, dtype=np.float64).reshape(-1)[:count]
    return signs


def _filled(magnitudes: Float64s) -> Float64s:
    """Return magnitudes with each 0 replaced by the last one, or else the first one, above 0."""
    above = np.flatnonzero(magnitudes > 0)
    if not len(above):
        return magnitudes
    last = np.searchsorted(above, np.arange(len(magnitudes)), side="right") - 1
    return magnitudes[above[np.maximum(last, 0)]]


def share_learned(log_loss: float, base_rate: float) -> float:
    """Return what of the gap between base rate and best a log loss has closed."""
    return (base_rate - log_loss) / (base_rate - BEST)


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
        labels: Float64s | None = None,
        delays: Mapping[str, Any] | None = None,
        progress: Progress = lambda *_: None,
    ) -> Trial:
        """Push ticks, with the labels of their rows where they come from outside."""
        late = None if labels is None else LateLabels(self.session, **(delays or {}))
        rows, count = ReplayRows(ticks.t_ns, ticks.values, labels=labels), len(ticks.values)
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


REFUSED = 0.1
"""A share of updates that are refused above which learning is not what it was meant to be."""

LITTLE = 0.1
"""What of a planted signal random weights may hit on."""


def learning_set(config: Config, weights: bool) -> Finding:
    """Look whether anything is to learn at all."""
    if config.learning.learn:
        how = f"{config.learning.optimizer}, gradient {config.gradient()}"
        if config.learning.bank != "none":
            how = f"the bank {config.learning.bank}"
        told = f"learning is on: {how}"
        return Finding("learning", "ok", told)
    if weights:
        return Finding("learning", "ok", "learning is off, and weights are given")
    return Finding(
        "learning",
        "fault",
        "learning is off and no weights are given: the network keeps its random weights",
        "--learn, or --weights FILE",
    )


def updates_made(trial: Trial, config: Config) -> Finding:
    """Look for updates that were refused, and for weights that were rolled back."""
    name, figures = "updates", {
        "updates": trial.updates,
        "refused": trial.refused,
        "rollbacks": trial.rollbacks,
    }  # fmt: skip
    told = (
        f"{count(trial.updates, 'updates')}, {trial.refused:,} refused, weights rolled back "
        f"{count(trial.rollbacks, 'times')}"
    )
    many = trial.refused > REFUSED * max(trial.updates, 1)
    if not (many or trial.rollbacks):
        return Finding(name, "ok", told, "", figures)
    rate = f"--learning-rate {config.learning.learning_rate / 10:g}"
    remedy = (
        rate if config.learning.optimizer != "dekf" else "a lower p0 (--optimizer-args p0=0.1)"
    )
    return Finding(
        name, "fault" if many else "warning", told, f"{remedy}, or --scaling sd", figures
    )


def baselines(found: Sequence[Forecast]) -> Finding:
    """Tell what plain forecasters reach; the first is the base rate."""
    others = found[1:]
    best = max(others, key=lambda one: one.better)
    told = "; ".join(f"{one.name} {one.log_loss:.4f} ({one.accuracy:.3f})" for one in found)
    told = f"log loss (accuracy) over {count(best.labels, 'labels')}: {told}"
    figures = {one.name.replace(" ", "_"): one._asdict() for one in found}
    if best.proven(len(others)):
        told += f"; {best.name} beats the base rate (evidence {odds(best.better)})"
        return Finding("baselines", "ok", told, "", figures)
    return Finding(
        "baselines",
        "note",
        f"{told}; none is shown to beat the base rate",
        "if no forecaster finds anything, there may be nothing to learn: other features, another "
        "target or more labels",
        figures,
    )


def planted_signal(trial: Trial | None) -> Finding:
    """Tell whether a planted signal was learned; there is no trial where none could be planted."""
    name = "planted_signal"
    half = None if trial is None else trial.forecast("planted", skip=0.5)
    if half is None:
        told = "the target has no size but 0, so that no sign could be planted in it"
        return Finding(name, "fault", told, "choose a target that changes")
    gained = share_learned(half.log_loss, half.base_rate_log_loss)
    figures = {"stay": STAY, "best_log_loss": BEST, "gained": gained, **half._asdict()}
    told = (
        f"signs that repeat {percent(STAY)} of the time, planted in this series: over the last "
        f"{count(half.labels, 'labels')} log loss {half.log_loss:.4f}, base rate "
        f"{half.base_rate_log_loss:.4f}, best possible {BEST:.4f} ({percent(max(gained, 0.0))} of "
        "what there is to gain)"
    )
    if gained >= SHARE:
        return Finding(name, "ok", f"this pipeline learns: {told}", "", figures)
    level: Level = "warning" if half.proven() and gained >= LITTLE else "fault"
    return Finding(
        name,
        level,
        f"this pipeline {'hardly learns' if level == 'warning' else 'does not learn'}: {told}",
        "see to the other findings first; then --learning-rate (1e-3), --optimizer dekf, or "
        "--bank default, which needs no choice",
        figures,
    )


def model(
    found: Forecast | None, plain: Sequence[Forecast], config: Config, learns: bool
) -> Finding:
    """Hold the model against the base rate and the best plain forecaster on the same labels."""
    name = "model"
    if found is None:
        return Finding(
            name, "note", "there were no labels to score the model on", "give more rows"
        )
    best = max(plain[1:], key=lambda one: one.better)
    some = best.proven(len(plain) - 1)
    figures: dict[str, Any] = found._asdict()
    told = (
        f"log loss {found.log_loss:.4f} over {count(found.labels, 'labels')}, accuracy "
        f"{found.accuracy:.3f}; base rate {found.base_rate_log_loss:.4f}"
    )
    bank = "--bank default"
    if found.proven():
        told += f"; better than the base rate (evidence {odds(found.better)})"
        behind = some and found.log_loss > best.log_loss + 0.01
        if not behind:
            return Finding(name, "ok", told, "", figures)
        told += f", but {best.name} has {best.log_loss:.4f}"
        return Finding(name, "note", told, f"{bank}, which holds both", figures)
    worse = found.log_loss > found.base_rate_log_loss
    told += "; worse than the base rate so far" if worse else "; not better than the base rate"
    if some and config.learning.bank == "none":
        told += f", while {best.name} is ({best.log_loss:.4f}, evidence {odds(best.better)})"
        return Finding(
            name, "warning" if learns else "note", told, f"{bank}, which holds both", figures
        )
    remedy = f"{bank} is never much worse than the base rate" if worse else ""
    return Finding(name, "note", told, remedy, figures)
