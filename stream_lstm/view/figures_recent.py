"""The figures of the last predictions, one by one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource

from .panel import Bands, Panel, needs_store
from .style import BLUE, GAP, GREY, STALE, VERMILION, Key, hover, plot, set_axis
from .track import RECENT, Track

OUTCOMES = (
    Key("came true", BLUE, "mark"),
    Key("did not", VERMILION, "mark"),
    Key("waits", GREY, "mark"),
)


def series() -> Panel:
    """Return the target itself, with each prediction of late at the element that it came of."""
    plotted = plot("target (its own unit)")
    bands, line = Bands(plotted), ColumnDataSource()
    line.data = {"x": [], "y": []}
    plotted.line("x", "y", source=line, color=GREY, line_width=1, line_alpha=0.7)
    marks = Marks(plotted)

    def fill(track: Track) -> None:
        targets = track.targets()
        line.data = {"x": track.x(targets.n, targets.t_ns), "y": targets.value}
        known = dict(zip(targets.n.tolist(), targets.value.tolist(), strict=True))
        marks.fill(track, lambda shown: known.get(shown.n, math.nan))
        bands.fill(track, since_recent=True)
        set_axis(plotted, track.by_time)

    def note(track: Track) -> str:
        return "" if len(track.targets().n) else needs_store(track, "element")

    return Panel(
        "series",
        "Series",
        f"The target and the last {RECENT} predictions, each where it was made: a triangle points "
        "to where the next value was said to lie, above zero or not.",
        OUTCOMES,
        plotted,
        fill,
        note,
        lambda track: len(track.targets().n) > 0,
    )


def probability() -> Panel:
    """Return p of each prediction of late, and whether it came true."""
    plotted = plot("P(next is positive)")
    marks, bands, line = Marks(plotted), Bands(plotted), ColumnDataSource()
    line.data = {"x": [], "y": []}
    plotted.hspan(y=0.5, line_color=GREY, line_width=1)
    plotted.line("x", "y", source=line, color=GREY, line_alpha=0.5, level="underlay")

    def fill(track: Track) -> None:
        shown = track.recent()
        x = track.x([s.n for s in shown], [s.t_ns for s in shown])
        line.data = {"x": x, "y": np.array([s.p for s in shown])}
        marks.fill(track, lambda one: one.p)
        bands.fill(track, since_recent=True)
        set_axis(plotted, track.by_time)

    return Panel(
        "probability",
        "Probabilities",
        f"The last {RECENT} predictions. Above the line a positive next value was the likelier.",
        (*OUTCOMES, GAP, STALE),
        plotted,
        fill,
        lambda track: "" if track.predictions else "No prediction yet: the stream is warming up.",
        lambda track: track.predictions > 0,
    )


class Marks:
    """The last predictions as triangles: filled blue, open vermilion or grey by what became."""

    def __init__(self, plotted: Any) -> None:
        self._source = ColumnDataSource()
        self._source.data = {name: [] for name in ("x", "y", "p", "n", "color", "fill", "marker")}
        drawn = plotted.scatter(
            "x", "y", source=self._source, marker="marker", size=7,
            line_color="color", fill_color="color", fill_alpha="fill",
        )  # fmt: skip
        hover(plotted, drawn, [("element", "@n{0,0}"), ("p", "@p{0.0000}")])

    def fill(self, track: Track, y: Callable[[Any], float]) -> None:
        """Show the last predictions, each at its height `y`."""
        shown = track.recent()
        right = [None if s.label is None else (s.p > 0.5) == (s.label == 1) for s in shown]
        colors = {True: BLUE, False: VERMILION, None: GREY}
        self._source.data = {
            "x": track.x([s.n for s in shown], [s.t_ns for s in shown]),
            "y": np.array([y(s) for s in shown], np.float64),
            "p": np.array([s.p for s in shown]),
            "n": np.array([s.n for s in shown]),
            "color": [colors[one] for one in right],
            "fill": [0.9 if one else 0.1 for one in right],
            "marker": ["triangle" if s.p > 0.5 else "inverted_triangle" for s in shown],
        }
