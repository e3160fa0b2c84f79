"""What the demo showed: four forecasters on the same labels, and two sentences about them.

The best possible is computed afterwards, from the series drawn once more from its seed: the
model never sees it, and it is scored on exactly the labels that the model was scored on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from ..errors import StreamLSTMError
from ..events import Score
from ..feed.synthetic import SyntheticSource
from .best_possible import log_loss

Figures: TypeAlias = dict[str, dict[str, float]]

NEXT = "stream-lstm replay FILE.csv --feature 'log_return(price)' --learn"

TITLES = {
    "model": "the model",
    "last_label": "the last sign again",
    "base_rate": "the base rate",
    "best": "best possible",
}


def compare(scores: Sequence[Score], source: SyntheticSource) -> dict[str, Figures]:
    """Return {"all" and "second_half": {forecaster: {accuracy, log_loss (nats)}}}.

    source: fresh from the seed of the series that was scored. Raises StreamLSTMError where it is
    not that series.
    """
    if not scores:
        return {}
    n = np.array([score.n for score in scores])
    label = np.array([score.label for score in scores])
    values = source.block(int(n[-1]) + 1)
    positive = values[:, 0] > 0
    if not np.array_equal(positive[n], label == 1):
        raise StreamLSTMError("the series that was scored is not the one that the seed gives")
    p = {
        "model": np.array([score.p for score in scores]),
        "last_label": np.array([score.last_label_p for score in scores]),
        "base_rate": np.array([score.base_rate_p for score in scores]),
        "best": source.best(values)[n - 1],
    }
    said = {name: given > 0.5 for name, given in p.items()}
    said["last_label"] = positive[n - 1]  # the bare repetition, as everywhere
    right = {name: claim == (label == 1) for name, claim in said.items()}
    loss = {name: log_loss(given, label == 1) for name, given in p.items()}
    parts = {"all": slice(0, None), "second_half": slice(len(n) // 2, None)}
    return {
        title: {
            name: {
                "accuracy": float(right[name][part].mean()),
                "log_loss": float(loss[name][part].mean()),
            }
            for name in p
        }
        for title, part in parts.items()
    }


def lines(labels: int, figures: dict[str, Figures]) -> list[str]:
    """Return the report as lines of text, at most 80 characters wide but for the sentences."""
    if not figures:
        return ["Nothing was scored: the first predictions come after 100 elements.", *_next()]
    half = f"last {labels - labels // 2:,}"
    out = [
        f"{'':<20}  {f'all {labels:,} labels':^19}  {half:^19}",
        f"{'':<20}  {'right':>8} {'log loss':>10}  {'right':>8} {'log loss':>10}",
    ]
    for name, title in TITLES.items():
        cells = (figures[part][name] for part in ("all", "second_half"))
        numbers = "  ".join(f"{c['accuracy']:>8.1%} {c['log_loss']:>10.4f}" for c in cells)
        out.append(f"{title:<20}  {numbers}")
    return [*out, "", *sentences(labels, figures["all"]), *_next()]


def sentences(labels: int, figures: Figures) -> list[str]:
    """Return two sentences about what was seen."""
    model, last, base, best = (figures[name] for name in TITLES)
    first = (
        f"The model started from nothing and got {model['accuracy']:.1%} of {labels:,} signs "
        f"right, where repeating the last sign gets {last['accuracy']:.1%} and the base rate "
        f"{base['accuracy']:.1%}."
    )
    top = (
        f"The best that anyone could do on these very labels, knowing how the series is made, is "
        f"{best['accuracy']:.1%}"
    )
    gain = base["log_loss"] - model["log_loss"]
    if gain <= 0:
        return [first, f"{top}; in log loss the model does not beat the base rate yet."]
    share = gain / (base["log_loss"] - best["log_loss"])
    closing = f"{top}; in log loss the model came {share:.0%} of the way there from the base rate."
    return [first, closing]


def _next() -> list[str]:
    return ["", f"Next, a file of yours: {NEXT}"]
