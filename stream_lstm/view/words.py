"""Figures of a track as text: numbers with their units, and the row of health figures."""

from __future__ import annotations

import math
import time
from typing import NamedTuple

from ..core.evidence import PROVEN
from ..core.verdict import odds
from ..core.verdict import verdict as sentence
from ..quoting import count
from .track import Track

REFUSED = {
    "not-finite": "a part of it was not finite",
    "update-too-large": "it would have changed the weights too much",
    "weights-too-large": "it would have made the weights too large",
}


class Fact(NamedTuple):
    """A figure with its name; `more` explains it, and `bad` draws attention to it."""

    name: str
    value: str
    more: str = ""
    bad: bool = False


def facts(track: Track) -> list[Fact]:
    """Return the health figures of a track, the same for the live page and the report."""
    labels = track.scores.labels
    found = [
        Fact(
            "Predictions",
            f"{track.predictions:,}",
            f"{labels:,} have their label",
            not track.predictions,
        )
    ]
    if labels:
        means, band = track.scores.means(), track.scores.evidence.accuracy_band()
        assert band is not None
        accuracy = (
            f"{percent(band[0])} to {percent(band[1])} with 95 % at every look; base rate "
            f"{percent(means['base_rate_accuracy'])}"
        )
        loss = f"base rate {nats(means['base_rate_log_loss'])}, ln 2 is {math.log(2):.4f}"
        log_e = float(track.lines.rows()[-1, 9])
        shown = "" if log_e >= PROVEN else "; 20 : 1 is needed"
        found += [
            Fact("Accuracy", percent(means["accuracy"]), accuracy),
            Fact("Log loss", nats(means["log_loss"]), loss),
            Fact(
                "Evidence",
                odds(log_e) if log_e > 0 else "none",
                f"that it beats the base rate{shown}",
            ),
        ]
    if track.updates or track.refused:
        learning = f"{track.refused:,} refused, {track.rollbacks:,} roll-backs"
        bad = bool(track.refused or track.rollbacks)
        found.append(Fact("Updates", f"{track.updates:,}", learning, bad))
    gaps = sum(interval.kind == "gap" for interval in track.intervals)
    missed = f"{count(track.missed, 'ticks')} missed" if track.missed else ""
    return [*found, Fact("Gaps", f"{gaps:,}", missed, bool(gaps))]


def refusals(track: Track) -> list[str]:
    """Return a sentence about why updates were refused, if the reasons are known."""
    reasons = [
        f"{times:,} since {REFUSED.get(reason, reason)}"
        for reason, times in track.refused_for.most_common()
        if reason
    ]
    return [f"Refused: {', '.join(reasons)}."] if reasons else []


def verdict(track: Track, **counts: int) -> str:
    """Return the sentence of `core.verdict`; counts: those that a track does not have."""
    if not (track.predictions or counts):
        return "no predictions yet"
    missing = ("refused_ticks", "refused_labels", "elements", "window")
    return sentence(
        {
            **dict.fromkeys(missing, 0),
            "ticks": 1,
            **counts,
            "streams": 1,
            "predictions": track.predictions,
            "labels": track.scores.labels,
            **track.scores.figures(),
        }
    )


def percent(share: float | None) -> str:
    """Return a share as a percentage with two decimals."""
    return "-" if share is None else f"{100 * share:.2f} %"


def nats(loss: float | None) -> str:
    """Return a loss with its unit."""
    return "-" if loss is None else f"{loss:.4f} nats"


def seconds(value: float) -> str:
    """Return a time with three digits and its unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-6:.3g} µs"


def moment(t_ns: int) -> str:
    """Return a date and time in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(t_ns / 1e9))
