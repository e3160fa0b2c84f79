"""A figure with what is written around it, and the bands that lie behind every figure.

What a panel shows is bounded, since a track is. A panel without data says why, in its note.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from bokeh.models import ColumnDataSource

from .style import GAP, STALE, Key
from .track import Spell, Track

NOTHING_SCORED = "No prediction has its label yet."
NOT_LEARNING = ", or the model does not learn (--learn)."


class Panel(NamedTuple):
    """A figure with what is written around it.

    `fill` shows the track; `note` is a sentence about what is shown, or why nothing is; `has_data`
    tells which.
    """

    name: str
    title: str
    about: str
    keys: tuple[Key, ...]
    figure: Any
    fill: Callable[[Track], None]
    note: Callable[[Track], str]
    has_data: Callable[[Track], bool]


class Bands:
    """Gaps and silences as shaded bands behind a figure."""

    def __init__(self, plotted: Any) -> None:
        self._source = ColumnDataSource()
        self._source.data = {"x0": [], "x1": [], "color": [], "hatch": []}
        plotted.vstrip(
            x0="x0", x1="x1", source=self._source, fill_color="color", fill_alpha=0.25,
            line_color=None, hatch_color="color", hatch_pattern="hatch", hatch_alpha=0.6,
            level="underlay",
        )  # fmt: skip

    def fill(self, track: Track, *, since_recent: bool = False) -> None:
        """Show the spells; since_recent: those alone that the last predictions have seen."""
        first = min((s.n for s in track.recent()), default=0) if since_recent else 0
        spells = [s for s in track.spells if s.end is None or s.end[0] >= first]
        starts = [(max(s.start[0], first), s.start[1]) for s in spells]
        if since_recent and spells:
            earliest = min(s.t_ns for s in track.recent())
            starts = [(n, max(t_ns, earliest)) for n, t_ns in starts]
        x0 = [float(track.x(*start)) for start in starts]
        x1 = [self._end(track, spell, x) for spell, x in zip(spells, x0, strict=True)]
        color = {"gap": GAP.color, "stale": STALE.color}
        self._source.data = {
            "x0": x0,
            "x1": x1,
            "color": [color[s.kind] for s in spells],
            "hatch": [{"gap": "/", "stale": "x"}[s.kind] for s in spells],
        }

    @staticmethod
    def _end(track: Track, spell: Spell, x0: float) -> float:
        if spell.end is not None and spell.end != spell.start:
            return float(track.x(*spell.end))
        # What lasts has no end yet, but is to be seen.
        shown = track.recent()
        span = x0 - float(track.x(shown[0].n, shown[0].t_ns)) if shown else 0.0
        return max(float(track.x(*track.last)), x0) + 0.04 * max(span, 1.0)


def has_labels(track: Track) -> bool:
    """Return whether a figure of scores has something to show."""
    return track.scores.labels > 0


def needs_labels(track: Track) -> str:
    """Return the note of a figure of scores."""
    return "" if track.scores.labels else NOTHING_SCORED


def needs_store(track: Track, what: str) -> str:
    """Return the note of a figure of what a store alone has: an "element" or "update"."""
    if track.has_store:
        return f"The store has no {what} yet" + ("." if what == "element" else NOT_LEARNING)
    return (
        f"What is published has no {what}, and a store has: let the daemon run with --store FILE, "
        "and start watch with --store FILE to see it, or report FILE."
    )
