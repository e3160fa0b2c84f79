"""All figures of a track, each made once and filled as often as is wanted.

Colours, the key of a figure, and the looks that all figures share.

The colours are those of Okabe and Ito ("Color universal design", 2008) that stand out on white as
well as on near black; lines also differ by their dashes, marks by their shapes. What a theme
changes, text, axes and grids, is set by the page: a figure's canvas reads the variables `--bk-...`
of the page's style sheet.

A figure with what is written around it, and the bands that lie behind every figure.

What a panel shows is bounded, since a track is. A panel without data says why, in its note.

The figures of the last predictions, one by one.

The figures that go over the whole run: accuracy, log loss and evidence.

The figures of calibration, of latency and of what the optimiser does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from bokeh.models import (
    BasicTicker,
    BasicTickFormatter,
    ColumnDataSource,
    DatetimeTicker,
    DatetimeTickFormatter,
    FixedTicker,
    HoverTool,
    NumeralTickFormatter,
    PanTool,
    Range1d,
    ResetTool,
    SaveTool,
    WheelZoomTool,
)
from bokeh.plotting import figure

from ..core.counts import BINS
from ..core.evidence import PROVEN, window_half_width
from .track import RECENT, Interval, Track
from .words import refusals, seconds

BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE, GREY = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#888888",
)  # fmt: skip

HEIGHT = 260

Dash = Literal["solid", "dashed", "dotted", "dotdash"]

DASHES: tuple[Dash, ...] = ("solid", "dashed", "dotted")


class Key(NamedTuple):
    """An entry of the key below a figure: a line with its dashes, a mark, or a shaded band."""

    text: str
    color: str
    look: str = "solid"


MODEL = Key("model", BLUE)
BASE = Key("base rate", VERMILION, "dashed")
LAST = Key("last label", GREEN, "dotted")
GAP = Key("ticks were lost", ORANGE, "band")
STALE = Key("nothing came", GREY, "band")


def plot(y_label: str, x_label: str = "", **options: Any) -> Any:
    """Return an empty figure in our looks."""
    plotted = figure(
        sizing_mode="stretch_width",
        height=HEIGHT,
        min_width=200,
        x_axis_label=x_label,
        y_axis_label=y_label,
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        toolbar_location="above",
        # the wheel scrolls the page until it is asked for; a finger on a phone does too
        tools=[PanTool(), WheelZoomTool(), ResetTool(), SaveTool()],
        active_drag=None,
        active_scroll=None,
        output_backend="canvas",
        **options,
    )
    plotted.toolbar.logo = None
    plotted.toolbar.autohide = True
    # it is seen while the pointer is there, and takes no room of its own
    plotted.toolbar_inner = True
    plotted.axis.axis_label_text_font_style = "normal"
    plotted.axis.axis_label_text_font_size = "12px"
    plotted.axis.major_label_text_font_size = "11px"
    plotted.axis.minor_tick_line_color = None
    plotted.grid.grid_line_alpha = 0.5
    return plotted


def hover(plotted: Any, renderer: Any, tips: list[tuple[str, str]]) -> None:
    """Show values of the nearest point of `renderer`."""
    plotted.add_tools(HoverTool(renderers=[renderer], tooltips=tips, mode="mouse"))


def set_powers(axis: Any, low: float, high: float) -> None:
    """Give a logarithmic axis from `low` to `high` a few round numbers as ticks."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if last - first <= 3 else (1,)
    every = max(1, round((last - first) / 6))
    powers = range(first - first % every, last + 1, every)
    ticks = [step * 10.0**power for power in powers for step in steps]
    ticks = [tick for tick in ticks if low <= tick <= high]
    if len(ticks) < 2:
        between = (low ** (1 - part) * high**part for part in (0.1, 0.5, 0.9))
        ticks = sorted({float(f"{tick:.2g}") for tick in between})
    if not isinstance(axis.ticker, FixedTicker):
        # once: for each change of models Bokeh looks through the whole document
        axis.ticker, axis.formatter = FixedTicker(), BasicTickFormatter()
    axis.ticker.ticks = ticks


def set_axis(plotted: Any, by_time: bool) -> None:
    """Let the axis of x be of times in UTC, or of the number of the element."""
    wanted = "time (UTC)" if by_time else "element n"
    (axis,) = plotted.xaxis
    if axis.axis_label == wanted:
        return
    axis.axis_label = wanted
    axis.ticker = DatetimeTicker(desired_num_ticks=3) if by_time else BasicTicker()
    axis.formatter = _times() if by_time else NumeralTickFormatter(format="0,0")


def _times() -> DatetimeTickFormatter:
    """Return a formatter under which no tick has to be read with its neighbours."""
    return DatetimeTickFormatter(
        milliseconds="%M:%S.%1N", seconds="%H:%M:%S", minsec="%H:%M:%S", minutes="%H:%M",
        hourmin="%H:%M", hours="%H:%M", days="%d %b", months="%b %Y",
    )  # fmt: skip


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
    def _end(track: Track, spell: Interval, x0: float) -> float:
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
