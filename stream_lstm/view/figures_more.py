"""The figures of calibration, of latency and of what the optimiser does."""

from __future__ import annotations

import numpy as np
from bokeh.models import ColumnDataSource, Range1d

from ..core.counts import BINS
from .panel import Bands, Panel, has_labels, needs_labels, needs_store
from .style import BLUE, DASHES, GREY, PURPLE, VERMILION, Key, hover, plot, set_axis, set_powers
from .track import Track
from .words import refusals, seconds

Z = 1.959963984540054
"""Of a pointwise interval of 95 %."""


def reliability() -> Panel:
    """Return how often each probability came true."""
    plotted = plot("came true (%)", "probability given (%)", x_range=(-3, 103), y_range=(-3, 103))
    source = ColumnDataSource()
    source.data = {name: [] for name in ("x", "y", "low", "high", "labels", "size")}
    plotted.line([0, 100], [0, 100], color=GREY, line_dash="dashed")
    plotted.segment("x", "low", "x", "high", source=source, color=BLUE, line_width=2)
    drawn = plotted.scatter("x", "y", source=source, size="size", color=BLUE, fill_alpha=0.6)
    hover(plotted, drawn, [("given", "@x{0.0} %"), ("came true", "@y{0.0} %"),
                           ("labels", "@labels{0,0}")])  # fmt: skip

    def fill(track: Track) -> None:
        bins = track.scores.figures()["reliability"] or []
        used = [b for b in bins if b["labels"]]
        labels = np.array([b["labels"] for b in used], np.float64)
        share = np.array([b["positive"] for b in used], np.float64)
        # Wilson's interval, which stays within 0 and 1
        middle = (share + Z**2 / (2 * labels)) / (1 + Z**2 / labels)
        half = Z / (1 + Z**2 / labels)
        half = half * np.sqrt(share * (1 - share) / labels + Z**2 / (4 * labels**2))
        source.data = {
            "x": np.array([b["mean_p"] for b in used], np.float64) * 100,
            "y": share * 100,
            "low": (middle - half) * 100,
            "high": (middle + half) * 100,
            "labels": labels,
            "size": 5 + 15 * np.sqrt(labels / max(track.scores.labels, 1)),
        }

    return Panel(
        "reliability",
        "Reliability",
        f"How often it was so, by the probability given, in {BINS} bins, over all labels. On the "
        "dashed line it is what was said. Bars: 95 % of each bin alone; larger dots: more labels.",
        (Key("model", BLUE, "mark"), Key("as said", GREY, "dashed")),
        plotted,
        fill,
        needs_labels,
        has_labels,
    )


def latency() -> Panel:
    """Return the times from tick to here."""
    # a range of its own: lines over the whole height have no place on a logarithmic axis
    times = Range1d(start=1.0, end=100.0)
    plotted = plot("predictions (%)", "milliseconds", x_axis_type="log", x_range=times)
    source, lines = ColumnDataSource(), ColumnDataSource()
    source.data = {"left": [], "right": [], "top": []}
    lines.data = {"x": [], "dash": []}
    plotted.quad(
        left="left", right="right", bottom=0, top="top", source=source, color=BLUE, fill_alpha=0.5
    )
    plotted.vspan(x="x", source=lines, line_color=VERMILION, line_dash="dash", line_width=1.5)
    plotted.y_range.start = 0

    def fill(track: Track) -> None:
        quantiles = track.latency_quantiles()
        if quantiles is None:
            return
        ms = np.maximum(np.array(track.latencies), 1e-6) * 1e3
        low, high = ms.min() / 1.1, ms.max() * 1.1
        counts, edges = np.histogram(ms, np.geomspace(low, high, 41))
        source.data = {
            "left": edges[:-1],
            "right": edges[1:],
            "top": counts * (100.0 / len(ms)),
        }
        times.update(start=low, end=high)
        set_powers(plotted.xaxis[0], low, high)
        lines.data = {"x": [q * 1e3 for q in quantiles], "dash": list(DASHES)}

    def note(track: Track) -> str:
        quantiles = track.latency_quantiles()
        if quantiles is None:
            return (
                "No times to tell: they are of a live feed, whose ticks carry the time of now. "
                "What is stored has no time of arrival."
            )
        named = zip(("p50", "p99", "p99.9"), quantiles, strict=True)
        return ", ".join(f"{name} {seconds(value)}" for name, value in named)

    return Panel(
        "latency",
        "Latency",
        "From the time that a tick carries to the arrival of its prediction here.",
        (Key("p50", VERMILION), Key("p99", VERMILION, "dashed"),
         Key("p99.9", VERMILION, "dotted")),
        plotted,
        fill,
        note,
        lambda track: bool(track.latencies),
    )  # fmt: skip


def updates() -> Panel:
    """Return the norms of the gradients, refusals and roll-backs."""
    # as above
    heights = Range1d(start=0.1, end=10.0)
    plotted = plot("gradient norm", y_axis_type="log", y_range=heights)
    source, refused, back = ColumnDataSource(), ColumnDataSource(), ColumnDataSource()
    source.data = {"x": [], "y": [], "n": []}
    refused.data, back.data = {"x": []}, {"x": []}
    drawn = plotted.scatter("x", "y", source=source, size=3, color=BLUE, alpha=0.6)
    hover(plotted, drawn, [("element", "@n{0,0}"), ("norm", "@y{0.000}")])
    plotted.vspan(x="x", source=refused, line_color=VERMILION, line_dash="dotted")
    plotted.vspan(x="x", source=back, line_color=PURPLE, line_width=2)
    bands = Bands(plotted)

    def fill(track: Track) -> None:
        rows = track.norms.rows()
        rows = rows[rows[:, 2] > 0.0]
        source.data = {"x": track.x(rows[:, 0], rows[:, 1]), "y": rows[:, 2], "n": rows[:, 0]}
        if len(rows):
            low, high = rows[:, 2].min() / 1.3, rows[:, 2].max() * 1.3
            heights.update(start=low, end=high)
            set_powers(plotted.yaxis[0], low, high)
        refused.data = {"x": [float(track.x(*at)) for at in track.refusals]}
        back.data = {"x": [float(track.x(at.n, at.t_ns)) for at in track.rolled_back]}
        bands.fill(track)
        set_axis(plotted, track.by_time)

    def note(track: Track) -> str:
        if not (track.updates or track.refused):
            return needs_store(track, "update")
        told = refusals(track)
        if track.rolled_back:
            last = track.rolled_back[-1]
            told.append(f"Last roll-back after element {last.n:,}: {last.reason}.")
        return " ".join(told)

    return Panel(
        "updates",
        "Learning",
        "The norm of each update's gradient before it was clipped.",
        (Key("update", BLUE, "mark"), Key("refused", VERMILION, "dotted"),
         Key("rolled back", PURPLE)),
        plotted,
        fill,
        note,
        lambda track: track.updates + track.refused > 0,
    )  # fmt: skip
