"""Checks by trial: what plain forecasters find, what the network does, whether it could at all.

Three trials tell "nothing to learn" from "not learning": the plain forecasters and the network on
the series, and the network on the series with a signal planted in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..config import Config
from .doctor_plant import BEST, SHARE, STAY, share_learned
from .doctor_trial import Forecast, Trial
from .finding import Finding, Level, percent
from .verdict import count, odds

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
