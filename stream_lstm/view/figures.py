"""All figures of a track, each made once and filled as often as is wanted."""

from __future__ import annotations

from .figures_more import latency, reliability, updates
from .figures_recent import probability, series
from .figures_run import accuracy, evidence, loss
from .panel import Panel


def panels() -> list[Panel]:
    """Return new panels, empty, in the order in which they stand on a page."""
    return [
        series(),
        probability(),
        accuracy(),
        loss(),
        evidence(),
        reliability(),
        updates(),
        latency(),
    ]
