"""The summary of a replay or a daemon: one flat record, fit for JSON, with a verdict.

The verdict is one plain sentence about the figures, for tables, JSON and reports alike. It says
better or worse only if that holds at every look: evidence of 20 : 1 at some label, which does not
go away, see `evidence`. Figures that need a label are None without labels.
"""

from __future__ import annotations

import math
from statistics import fmean
from typing import TYPE_CHECKING, Any

import msgspec

from .. import __version__
from ..quoting import count
from .evidence import PROVEN, labels_needed
from .features import waiting_for

if TYPE_CHECKING:
    from .replay import Digest
    from .session import Session

EDGES = (0.51, 0.505, 0.502, 0.501, 0.5005, 0.5002, 0.5001)
"""Accuracies worth finding; the verdict names the first that these labels could not show."""

PLAIN_ODDS = 6
"""Odds below this power of ten are written out."""


def verdict(summary: dict[str, Any]) -> str:
    """Return one sentence about a record of `summarize`."""
    if not summary["predictions"]:
        return _why_none(summary)
    if not summary["labels"]:
        return f"no scores: {_without_labels(summary)}"
    if summary.get("base_rate") in (0.0, 1.0):
        return _one_class(summary)
    return comparison(summary["evidence"], summary["labels"])


def comparison(evidence: dict[str, Any], labels: int) -> str:
    """Return the sentence for `Evidence.figures` over that many labels."""
    base, last = (_proven(evidence[other]) for other in ("base_rate", "last_label"))
    after = f" after {count(labels, 'labels')}"
    if not base:
        first = f"no evidence yet{after}{_would_need(labels)}"
    elif "worse" in base and "better" in base:
        first = f"better than the base rate at times, worse at others ({_both(base)}{after})"
    else:
        (side, log_e), *_ = base.items()
        whole = _on_the_whole(side, evidence["base_rate"]["difference"])
        first = f"{side} than the base rate{whole} (evidence {odds(log_e)}{after})"
    return first + _beside(last, asked=list(base) == ["better"])


def _beside(last: dict[str, float], *, asked: bool) -> str:
    """Return the part about the last label; asked: whether it follows a better."""
    if "better" in last and "worse" in last:
        return f"; better than repeating the last label at times, worse at others ({_both(last)})"
    if "worse" in last:
        return f"; worse than repeating the last label (evidence {odds(last['worse'])})"
    if not asked:
        return ""
    if "better" in last:
        return f", and than repeating the last label (evidence {odds(last['better'])})"
    return "; not shown to be better than repeating the last label"


def _on_the_whole(side: str, difference: float) -> str:
    """Return the words for a bet that was won although the mean says otherwise."""
    return "" if (difference > 0) == (side == "better") else " at times, not on the whole"


def _proven(bet: dict[str, Any]) -> dict[str, float]:
    """Return {side: highest log W} of each side that was proven."""
    found = {side: bet[side]["highest_log_e"] for side in ("better", "worse")}
    return {side: log_e for side, log_e in found.items() if log_e >= PROVEN}


def _both(proven: dict[str, float]) -> str:
    return f"evidence {odds(proven['better'])} and {odds(proven['worse'])}"


def _would_need(labels: int) -> str:
    for accuracy in EDGES:
        if (needed := labels_needed(accuracy)) > labels:
            return f"; an accuracy of {accuracy} would need about {_rounded(needed, 3):,}"
    return ""


def odds(log_e: float) -> str:
    """Return evidence of `log_e` nats as odds: `4,100 : 1`, or `10^2,173 : 1`; rounded down."""
    power = log_e / math.log(10) + 1e-9  # or 20 : 1 could be written as 19
    if power >= PLAIN_ODDS:
        return f"10^{math.floor(power):,} : 1"
    whole = math.floor(10**power)
    scale = 10 ** max(len(str(whole)) - 2, 0)
    return f"{whole // scale * scale:,} : 1"


def _rounded(number: int, digits: int) -> int:
    return round(number, digits - len(str(number)))


def _without_labels(summary: dict[str, Any]) -> str:
    refused = summary["refused_labels"]
    if not refused:
        return "no prediction has its label yet"
    kinds = {kind: summary.get(f"labels_{kind}", 0) for kind in ("late", "bad", "unknown")}
    listed = ", ".join(f"{number:,} {kind}" for kind, number in kinds.items() if number)
    return f"every label was refused ({listed or count(refused, 'labels')})"


def _one_class(summary: dict[str, Any]) -> str:
    label = int(summary["base_rate"])
    what = "is always" if label else "is never"
    return (
        f"every label is {label}: the target {what} above zero, so there is nothing to predict; "
        "the target is the first feature, usually a difference or a return"
    )


def _why_none(summary: dict[str, Any]) -> str:
    if not summary["ticks"]:
        return "no predictions: there were no ticks"
    if summary["refused_ticks"] == summary["ticks"]:
        return "no predictions: every tick was refused"
    if "waits_for" in summary:
        return f"no predictions: {summary['waits_for']}"
    window = summary["window"]
    if summary["streams"] == 1:
        have = f"the series has {count(summary['elements'], 'elements')}"
        return f"no predictions: {have} and the warm-up is {window:,}"
    return f"no predictions: no series has reached the warm-up of {window:,} elements"


def summarize(
    session: Session, digest: Digest, *, wall_s: float, compile_s: float, earlier: int = 0
) -> dict[str, Any]:
    """Return the counts and scores of all streams of a session together.

    wall_s: seconds of reading and stepping. compile_s: seconds of making the session. earlier:
    elements of an earlier run, which are not in these times. `elements_per_s` is None if `wall_s`
    is 0.
    """
    session.look()
    table, scores = session.table, session.scores.total()
    counters, elements = table.totals(), int(table.column("n").sum())
    expired = int(table.column("expired").sum()) + sum(
        extras.ledger.expired for extras in session.extras.values()
    )
    counters.refused_labels += session.stray_labels
    counters.labels_unknown += session.stray_labels
    config = session.config
    experts = {} if session.members is None else {"experts": _experts(session)}
    summary = {
        "version": __version__,
        "streams": len(table),
        "elements": elements,
        **msgspec.structs.asdict(counters),
        "labels": scores.labels,
        **scores.figures(),
        **experts,
        "expired": expired,
        "window": config.stream.window,
        "stride": config.stream.stride,
        "horizon": config.stream.horizon,
        "learn": config.learning.learn,
        "wall_s": wall_s,
        "compile_s": compile_s,
        "elements_per_s": (elements - earlier) / wall_s if wall_s > 0 else None,
        "digest": digest.hexdigest(),
    }
    if session.refused_by_feature:
        summary["refused_by_feature"] = dict(session.refused_by_feature)
    if missing := session.waits_for():
        summary["waits_for"] = waiting_for(missing, table.names)
    return summary | {"verdict": verdict(summary)}


def _experts(session: Session) -> dict[str, dict[str, float | None]]:
    """Return {member: weight (mean over the streams) and mean log loss (nats)} of a bank."""
    mixtures = [one.mixture for one in session.extras.values() if one.mixture is not None]
    labels = sum(mixture.labels for mixture in mixtures)
    return {
        name: {
            "weight": fmean([float(m.weights[k]) for m in mixtures]) if mixtures else None,
            "log_loss": sum(float(m.losses[k]) for m in mixtures) / labels if labels else None,
        }
        for k, name in enumerate(session.engine.names)
    }
