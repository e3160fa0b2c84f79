"""Figures of a track in words: numbers with their units, and the row of health figures."""

from __future__ import annotations

import math
import time
from typing import NamedTuple

from ..core.evidence import PROVEN
from ..core.verdict import count, odds
from ..core.verdict import verdict as told
from .track import Track


class Fact(NamedTuple):
    """A figure with its name; `more` is what it is to be read with; `bad` asks for a look."""

    name: str
    value: str
    more: str = ""
    bad: bool = False


def facts(track: Track) -> list[Fact]:
    """Return the health figures of a track, the same for the live page and the report."""
    labels = track.scores.labels
    waiting = f"{labels:,} have their label"
    told = [Fact("Predictions", f"{track.predictions:,}", waiting, not track.predictions)]
    if labels:
        means, band = track.scores.means(), track.scores.evidence.accuracy_band()
        assert band is not None
        told += [
            Fact(
                "Accuracy",
                percent(means["accuracy"]),
                f"{percent(band[0])} to {percent(band[1])} with 95 % at every look; base rate "
                f"{percent(means['base_rate_accuracy'])}",
            ),
            Fact(
                "Log loss",
                nats(means["log_loss"]),
                f"base rate {nats(means['base_rate_log_loss'])}, ln 2 is {math.log(2):.4f}",
            ),
            evidence(track),
        ]
    if track.updates or track.refused:
        told.append(_learning(track))
    gaps = sum(spell.kind == "gap" for spell in track.spells)
    missed = f"{count(track.missed, 'ticks')} missed" if track.missed else ""
    told.append(Fact("Gaps", f"{gaps:,}", missed, bool(gaps)))
    return told


def _learning(track: Track) -> Fact:
    learnt = f"{track.refused:,} refused, {track.rollbacks:,} roll-backs"
    return Fact("Updates", f"{track.updates:,}", learnt, bool(track.refused or track.rollbacks))


REFUSED = {
    "not-finite": "something of it was not finite",
    "update-too-large": "it would have changed the weights too much",
    "weights-too-large": "it would have made them too large",
}


def refusals(track: Track) -> list[str]:
    """Return a sentence about why updates were refused, if any were for a known reason."""
    known = [(times, why) for why, times in track.refused_for.most_common() if why]
    if not known:
        return []
    said = [f"{times:,} since {REFUSED.get(why, why)}" for times, why in known]
    return [f"Refused: {', '.join(said)}."]


def evidence(track: Track) -> Fact:
    """Return the present evidence that the model beats the base rate."""
    log_e = float(track.lines.rows()[-1, 9])
    proven = "that it beats the base rate"
    proven += "" if log_e >= PROVEN else "; 20 : 1 would do"
    return Fact("Evidence", odds(log_e) if log_e > 0 else "none", proven)


def verdict(track: Track, **known: int) -> str:
    """Return what `core.verdict` says; known: of its counts, those that a track has not."""
    if not (track.predictions or known):
        return "no predictions yet"
    return told(
        {
            "ticks": 1,
            "refused_ticks": 0,
            "refused_labels": 0,
            "elements": 0,
            "window": 0,
            **known,
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
    """Return a time with three digits, in the unit that suits it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-6:.3g} µs"


def moment(t_ns: int) -> str:
    """Return a time as people write it, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(t_ns / 1e9))
