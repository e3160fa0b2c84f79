"""What a replay or a daemon has to say at its end: one flat record, fit for JSON.

Figures that need a label are None where none came. Times are the shell's to measure, so they are
passed in.
"""

from __future__ import annotations

from statistics import fmean
from typing import Any

import msgspec

from .. import __version__
from .digest import Digest
from .session import Session
from .table import EXPIRED, N
from .verdict import verdict


def summarize(
    session: Session, digest: Digest, *, wall_s: float, compile_s: float, held: int = 0
) -> dict[str, Any]:
    """Return the counts and scores of all streams of a session together.

    wall_s: seconds spent on reading and stepping; compile_s: seconds spent before that, on
    making the session; held: elements of an earlier run, which took none of that. `elements_per_s`
    is None where `wall_s` is 0.
    """
    session.look()
    table, scores = session.table, session.scores.total()
    counters, count = table.totals(), len(table)
    elements, expired = (int(table.ints[:count, column].sum()) for column in (N, EXPIRED))
    expired += sum(side.ledger.expired for side in session.sides.values())
    counters.refused_labels += session.stray_labels
    counters.labels_unknown += session.stray_labels
    config = session.config
    experts = {} if session.members is None else {"experts": _experts(session)}
    summary = {
        "version": __version__,
        "streams": count,
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
        "elements_per_s": (elements - held) / wall_s if wall_s > 0 else None,
        "digest": digest.hexdigest(),
    }
    return summary | {"verdict": verdict(summary)}


def _experts(session: Session) -> dict[str, dict[str, float | None]]:
    """Return {member: weight, averaged over the streams, and mean log loss (nats)} of a bank."""
    mixtures = [side.mixture for side in session.sides.values() if side.mixture is not None]
    labels = sum(mixture.labels for mixture in mixtures)
    return {
        name: {
            "weight": fmean([float(m.weights[k]) for m in mixtures]) if mixtures else None,
            "log_loss": sum(float(m.losses[k]) for m in mixtures) / labels if labels else None,
        }
        for k, name in enumerate(session.engine.names)
    }
