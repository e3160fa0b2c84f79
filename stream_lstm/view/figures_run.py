"""The figures that go over the whole run: accuracy, log loss and evidence."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource

from ..core.evidence import PROVEN, window_half_width
from .panel import Bands, Panel, has_labels, needs_labels
from .style import (
    BASE,
    BLUE,
    DASHES,
    GREEN,
    GREY,
    LAST,
    MODEL,
    PURPLE,
    VERMILION,
    Key,
    hover,
    plot,
    set_axis,
)
from .track import Track

LN2 = math.log(2.0)

OPENING = 30
"""Labels whose means are not drawn: they say nothing yet, and would set the scale."""


def accuracy() -> Panel:
    """Return the rolling accuracies, that of the model with its band."""
    plotted = plot("accuracy (%)")
    source, bands = _line_source("low", "high"), Bands(plotted)
    plotted.varea("x", "low", "high", source=source, color=BLUE, alpha=0.25)
    _three_lines(plotted, source)

    def fill(track: Track) -> None:
        line = drawn(track)
        looks = line[:, 11].astype(np.int64).tolist()
        half = [window_half_width(min(look, track.window), look) for look in looks]
        model = line[:, 2]
        source.data = {
            **_line_data(track, line, line[:, 2:5] * 100.0),
            "low": np.maximum(model - half, 0.0) * 100.0,
            "high": np.minimum(model + half, 1.0) * 100.0,
        }
        bands.fill(track)
        set_axis(plotted, track.by_time)

    return Panel(
        "accuracy",
        "Rolling accuracy",
        "Over the last {window} labels, with a band that holds at every look at once with 95 %: "
        "where the base rate leaves it, the difference is no chance.",
        (MODEL, Key("its band", BLUE, "band"), BASE, LAST),
        plotted,
        fill,
        needs_labels,
        has_labels,
    )


def loss() -> Panel:
    """Return the rolling log losses."""
    plotted = plot("log loss (nats)")
    source, bands = _line_source(), Bands(plotted)
    plotted.hspan(y=LN2, line_color=PURPLE, line_dash="dotdash", line_width=1.5)
    _three_lines(plotted, source)

    def fill(track: Track) -> None:
        line = drawn(track)
        source.data = _line_data(track, line, line[:, 5:8])
        bands.fill(track)
        set_axis(plotted, track.by_time)

    return Panel(
        "loss",
        "Rolling log loss",
        "Over the last {window} labels; lower is better. A coin has ln 2 = 0.6931.",
        (MODEL, BASE, LAST, Key("ln 2", PURPLE, "dotdash")),
        plotted,
        fill,
        needs_labels,
        has_labels,
    )


def evidence() -> Panel:
    """Return the evidence that the model is better, as powers of ten."""
    plotted = plot("log\u2081\u2080 of the odds")
    source, bands = _line_source(), Bands(plotted)
    plotted.hspan(y=PROVEN / math.log(10.0), line_color=GREY, line_dash="dotdash")
    _three_lines(plotted, source, (BLUE, VERMILION, GREEN))

    def fill(track: Track) -> None:
        line = track.lines.rows()
        powers = line[:, [8, 9, 10]] / math.log(10.0)
        source.data = _line_data(track, line, powers)
        bands.fill(track)
        set_axis(plotted, track.by_time)

    return Panel(
        "evidence",
        "Evidence that the model is better",
        "The odds (e-value) against its being no better; 3 means 1000 : 1. They hold however "
        "often one looks. Above the grey line, 20 : 1, it counts as shown.",
        (Key("than a coin", BLUE), BASE._replace(text="than the base rate"),
         LAST._replace(text="than the last label"), Key("20 : 1", GREY, "dotdash")),
        plotted,
        fill,
        needs_labels,
        has_labels,
    )  # fmt: skip


def drawn(track: Track) -> Any:
    """Return the rows of the line over the whole run that are drawn of rolling means."""
    line = track.lines.rows()
    return line[line[:, 11] >= min(OPENING, track.scores.labels / 4)]


def _line_source(*more: str) -> ColumnDataSource:
    source = ColumnDataSource()
    source.data = {name: [] for name in ("x", "n", "model", "base", "last", *more)}
    return source


def _three_lines(
    plotted: Any, source: ColumnDataSource, colors: tuple[str, ...] = (BLUE, VERMILION, GREEN)
) -> None:
    lines = [
        plotted.line(
            "x", name, source=source, color=color, line_dash=dash, line_width=2 if k == 0 else 1.8
        )
        for k, (name, color, dash) in enumerate(
            zip(("model", "base", "last"), colors, DASHES, strict=True)
        )
    ]
    tips = [("element", "@n{0,0}")]
    tips += [(name, f"@{name}{{0.0000}}") for name in ("model", "base", "last")]
    hover(plotted, lines[0], tips)


def _line_data(track: Track, line: Any, three: Any) -> dict[str, Any]:
    n, t_ns = line[:, 0], line[:, 1]
    named = dict(zip(("model", "base", "last"), three.T, strict=True))
    return {"x": track.x(n, t_ns), "n": n, **named}
