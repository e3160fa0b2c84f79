"""All figures of a track: each is made once and filled again whenever the track changes.

A `Panel` is a figure with the text around it and the bands behind it. It shows a bounded number
of points, since a track is bounded. A panel without data says why in its note.

The colours are those of Okabe and Ito ("Color universal design", 2008) that are visible on white
and on near black; lines also differ by their dashes, marks by their shapes. The page sets what
depends on a theme: a figure's canvas reads the variables `--bk-...` of the page's style sheet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

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
from ..typing import Float64s
from .track import RECENT, Interval, Track
from .words import refusals, seconds

BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE, GREY = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#888888",
)  # fmt: skip

HEIGHT = 260

Dash = Literal["solid", "dashed", "dotted", "dotdash"]

DASHES: tuple[Dash, ...] = ("solid", "dashed", "dotted")

LINES = ("model", "base", "last")
"""Columns of a figure over the whole run."""

LN2, LN10 = math.log(2.0), math.log(10.0)

UNDRAWN = 30
"""First labels, whose means are not drawn: they mean little and would set the scale."""

Z = 1.959963984540054
"""Of a pointwise interval of 95 %."""

TIMES = partial(
    DatetimeTickFormatter,
    milliseconds="%M:%S.%1N", seconds="%H:%M:%S", minsec="%H:%M:%S", minutes="%H:%M",
    hourmin="%H:%M", hours="%H:%M", days="%d %b", months="%b %Y",
)  # fmt: skip
"""A formatter whose ticks can be read one by one."""


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
OUTCOMES = (
    Key("came true", BLUE, "mark"),
    Key("did not", VERMILION, "mark"),
    Key("pending", GREY, "mark"),
)


def plot(y_label: str, x_label: str = "", **options: Any) -> Any:
    """Return an empty figure in the common style."""
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
        # the wheel, and a finger on a phone, scroll the page until a tool is chosen
        tools=[PanTool(), WheelZoomTool(), ResetTool(), SaveTool()],
        active_drag=None,
        active_scroll=None,
        output_backend="canvas",
        **options,
    )
    plotted.toolbar.logo = None
    plotted.toolbar.autohide = True
    # visible while the pointer is over the figure, and without room of its own
    plotted.toolbar_inner = True
    plotted.axis.axis_label_text_font_style = "normal"
    plotted.axis.axis_label_text_font_size = "12px"
    plotted.axis.major_label_text_font_size = "11px"
    plotted.axis.minor_tick_line_color = None
    plotted.grid.grid_line_alpha = 0.5
    return plotted


def hover(plotted: Any, renderer: Any, tips: list[tuple[str, str]]) -> None:
    """Show the values of the nearest point of `renderer`."""
    plotted.add_tools(HoverTool(renderers=[renderer], tooltips=tips, mode="mouse"))


def set_powers(axis: Any, low: float, high: float) -> None:
    """Give a logarithmic axis from `low` to `high` a few round ticks."""
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
        # once: for each change of models Bokeh searches the whole document
        axis.ticker, axis.formatter = FixedTicker(), BasicTickFormatter()
    axis.ticker.ticks = ticks


def set_axis(plotted: Any, by_time: bool) -> None:
    """Label the x axis with times in UTC, or with the numbers of elements."""
    wanted = "time (UTC)" if by_time else "element n"
    (axis,) = plotted.xaxis
    if axis.axis_label == wanted:
        return
    axis.axis_label = wanted
    axis.ticker = DatetimeTicker(desired_num_ticks=3) if by_time else BasicTicker()
    axis.formatter = TIMES() if by_time else NumeralTickFormatter(format="0,0")


def columns(*names: str) -> ColumnDataSource:
    """Return an empty source with columns."""
    return ColumnDataSource(data={name: [] for name in names})


class Panel:
    """A figure with the text around it; a subclass draws a figure.

    `note` is a sentence about the figure, or why it is empty; `has_data` says which. `bands` is
    None for a figure whose x axis is not that of the run, else they are behind it.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    about: str
    keys: tuple[Key, ...]

    def __init__(self, plotted: Any, *, bands: bool = True) -> None:
        self.figure = plotted
        self.bands = Bands(plotted) if bands else None

    def fill(self, track: Track) -> None:
        """Show a track that has data."""
        self._draw(track)
        if self.bands is not None:
            self.bands.fill(track)
            set_axis(self.figure, track.by_time)

    def has_data(self, track: Track) -> bool:
        """Return whether the figure has something to show."""
        return self._size(track) > 0

    def note(self, track: Track) -> str:
        """Return the sentence above the figure, or ""."""
        return self._remark(track) if self.has_data(track) else self._reason(track)

    def _draw(self, track: Track) -> None:
        raise NotImplementedError

    def _size(self, track: Track) -> int:
        return track.scores.labels

    def _remark(self, track: Track) -> str:  # noqa: ARG002 - for those that need it
        return ""

    def _reason(self, track: Track) -> str:  # noqa: ARG002 - for those that need it
        return "No prediction has its label yet."


class Bands:
    """Gaps and silences as shaded bands behind a figure.

    recent: those that the last predictions have seen, and not all.
    """

    def __init__(self, plotted: Any) -> None:
        self.recent = False
        self._source = columns("x0", "x1", "color", "hatch")
        plotted.vstrip(
            x0="x0", x1="x1", source=self._source, fill_color="color", fill_alpha=0.25,
            line_color=None, hatch_color="color", hatch_pattern="hatch", hatch_alpha=0.6,
            level="underlay",
        )  # fmt: skip

    def fill(self, track: Track) -> None:
        """Show the intervals of a track."""
        first = min((one.n for one in track.recent()), default=0) if self.recent else 0
        intervals = [one for one in track.intervals if one.end is None or one.end[0] >= first]
        starts = [(max(one.start[0], first), one.start[1]) for one in intervals]
        if self.recent and intervals:
            earliest = min(one.t_ns for one in track.recent())
            starts = [(n, max(t_ns, earliest)) for n, t_ns in starts]
        x0 = [float(track.x(*start)) for start in starts]
        self._source.data = {
            "x0": x0,
            "x1": [self._end(track, one, x) for one, x in zip(intervals, x0, strict=True)],
            "color": [{"gap": GAP, "stale": STALE}[one.kind].color for one in intervals],
            "hatch": [{"gap": "/", "stale": "x"}[one.kind] for one in intervals],
        }

    @staticmethod
    def _end(track: Track, interval: Interval, x0: float) -> float:
        if interval.end is not None and interval.end != interval.start:
            return float(track.x(*interval.end))
        # an interval without an end must be visible too
        recent = track.recent()
        span = x0 - float(track.x(recent[0].n, recent[0].t_ns)) if recent else 0.0
        return max(float(track.x(*track.last)), x0) + 0.04 * max(span, 1.0)


def needs_store(track: Track, content: str) -> str:
    """Return why a figure of an "element" or "update", which only a store has, is empty."""
    if track.has_store:
        learning = "" if content == "element" else ", or the model does not learn (--learn)"
        return f"The store has no {content} yet{learning}."
    return (
        f"A store contains each {content}, and published records do not: run the daemon with "
        "--store FILE, and start watch with --store FILE to see it, or report FILE."
    )


# ---- the last predictions --------------------------------------------------------------------


class RecentPanel(Panel):
    """The last predictions as triangles: filled blue if true, open vermilion if not, else grey."""

    keys: tuple[Key, ...] = OUTCOMES

    def __init__(self, y_label: str) -> None:
        super().__init__(plot(y_label))
        assert self.bands is not None
        self.bands.recent = True
        self.line = columns("x", "y")
        self.figure.line("x", "y", source=self.line, color=GREY, line_alpha=0.6, level="underlay")
        self._source = columns("x", "y", "p", "n", "color", "fill", "marker")
        drawn = self.figure.scatter(
            "x", "y", source=self._source, marker="marker", size=7,
            line_color="color", fill_color="color", fill_alpha="fill",
        )  # fmt: skip
        hover(self.figure, drawn, [("element", "@n{0,0}"), ("p", "@p{0.0000}")])

    def _draw_predictions(self, track: Track, heights: Mapping[int, float]) -> None:
        recent = track.recent()
        right = [None if one.label is None else (one.p > 0.5) == one.label for one in recent]
        n = [one.n for one in recent]
        self._source.data = {
            "x": track.x(n, [one.t_ns for one in recent]),
            "y": np.array([heights.get(k, math.nan) for k in n]),
            "p": np.array([one.p for one in recent]),
            "n": np.array(n),
            "color": [GREY if one is None else BLUE if one else VERMILION for one in right],
            "fill": [0.9 if one else 0.1 for one in right],
            "marker": ["triangle" if one.p > 0.5 else "inverted_triangle" for one in recent],
        }


class Series(RecentPanel):
    """The target, with each recent prediction at its element."""

    name, title = "series", "Series"
    about = (
        f"The target and the last {RECENT} predictions, each at its element: a triangle points up "
        "if the next value was predicted to be positive, and down if not."
    )

    def __init__(self) -> None:
        super().__init__("target (its own unit)")

    def _draw(self, track: Track) -> None:
        targets = track.targets()
        self.line.data = {"x": track.x(targets.n, targets.t_ns), "y": targets.value}
        heights = dict(zip(targets.n.tolist(), targets.value.tolist(), strict=True))
        self._draw_predictions(track, heights)

    def _size(self, track: Track) -> int:
        return len(track.targets().n)

    def _reason(self, track: Track) -> str:
        return needs_store(track, "element")


class Probability(RecentPanel):
    """p of each recent prediction, and whether it came true."""

    name, title = "probability", "Probabilities"
    about = f"The last {RECENT} predictions. Above the line a positive next value is more likely."
    keys = (*OUTCOMES, GAP, STALE)

    def __init__(self) -> None:
        super().__init__("P(next is positive)")
        self.figure.hspan(y=0.5, line_color=GREY, line_width=1)

    def _draw(self, track: Track) -> None:
        p = {one.n: one.p for one in track.recent()}
        times = [one.t_ns for one in track.recent()]
        self.line.data = {"x": track.x(list(p), times), "y": np.array(list(p.values()))}
        self._draw_predictions(track, p)

    def _size(self, track: Track) -> int:
        return track.predictions

    def _reason(self, track: Track) -> str:  # noqa: ARG002
        return "No prediction yet: the stream is warming up."


# ---- the whole run ---------------------------------------------------------------------------


class RunPanel(Panel):
    """Lines of model, base rate and last label over the whole run."""

    keys: tuple[Key, ...] = (MODEL, BASE, LAST)

    def __init__(self, y_label: str, *more: str) -> None:
        super().__init__(plot(y_label))
        self.source = columns("x", "n", *LINES, *more)
        colors = (BLUE, VERMILION, GREEN)
        lines = [
            self.figure.line(
                "x", name, source=self.source, color=color, line_dash=dash,
                line_width=2 if name == "model" else 1.8,
            )
            for name, color, dash in zip(LINES, colors, DASHES, strict=True)
        ]  # fmt: skip
        tips = [("element", "@n{0,0}"), *((name, f"@{name}{{0.0000}}") for name in LINES)]
        hover(self.figure, lines[0], tips)

    def _draw_lines(self, track: Track, rows: Float64s, three: Float64s, **more: Float64s) -> None:
        named = dict(zip(LINES, three.T, strict=True))
        n, t_ns = rows[:, 0], rows[:, 1]
        self.source.data = {"x": track.x(n, t_ns), "n": n, **named, **more}


class Accuracy(RunPanel):
    """The rolling accuracies, the model's with its band."""

    name, title = "accuracy", "Rolling accuracy"
    about = (
        "Over the last {window} labels, with a 95 % band that is valid for all windows together: "
        "where the base rate leaves it, the difference is not chance."
    )
    keys = (MODEL, Key("its band", BLUE, "band"), BASE, LAST)

    def __init__(self) -> None:
        super().__init__("accuracy (%)", "low", "high")
        self.figure.varea("x", "low", "high", source=self.source, color=BLUE, alpha=0.25)

    def _draw(self, track: Track) -> None:
        rows = settled(track)
        labels = rows[:, 11].astype(np.int64).tolist()
        half = np.array([window_half_width(min(t, track.window), t) for t in labels])
        low, high = np.maximum(rows[:, 2] - half, 0.0), np.minimum(rows[:, 2] + half, 1.0)
        self._draw_lines(track, rows, rows[:, 2:5] * 100.0, low=low * 100.0, high=high * 100.0)


class Loss(RunPanel):
    """The rolling log losses."""

    name, title = "loss", "Rolling log loss"
    about = "Over the last {window} labels; lower is better. A coin has ln 2 = 0.6931."
    keys = (MODEL, BASE, LAST, Key("ln 2", PURPLE, "dotdash"))

    def __init__(self) -> None:
        super().__init__("log loss (nats)")
        self.figure.hspan(y=LN2, line_color=PURPLE, line_dash="dotdash", line_width=1.5)

    def _draw(self, track: Track) -> None:
        rows = settled(track)
        self._draw_lines(track, rows, rows[:, 5:8])


class Evidence(RunPanel):
    """The evidence that the model is better, as powers of ten."""

    name, title = "evidence", "Evidence that the model is better"
    about = (
        "The odds (e-value) against the statement that it is not better; 3 means 1000 : 1. They "
        "are valid however often you look. Above the grey line, 20 : 1, it counts as shown."
    )
    keys = (
        Key("than a coin", BLUE),
        BASE._replace(text="than the base rate"),
        LAST._replace(text="than the last label"),
        Key("20 : 1", GREY, "dotdash"),
    )

    def __init__(self) -> None:
        super().__init__("log\u2081\u2080 of the odds")
        self.figure.hspan(y=PROVEN / LN10, line_color=GREY, line_dash="dotdash")

    def _draw(self, track: Track) -> None:
        rows = track.lines.rows()
        self._draw_lines(track, rows, rows[:, 8:11] / LN10)


def settled(track: Track) -> Float64s:
    """Return the rows of the whole run without the first means."""
    rows = track.lines.rows()
    return rows[rows[:, 11] >= min(UNDRAWN, track.scores.labels / 4)]


# ---- calibration, learning, latency ----------------------------------------------------------


class Reliability(Panel):
    """How often each probability came true."""

    name, title = "reliability", "Reliability"
    about = (
        f"How often predictions came true, by their probability, in {BINS} bins over all labels. "
        "On the dashed line both agree. Bars: 95 % of each bin alone; larger dots: more labels."
    )
    keys = (Key("model", BLUE, "mark"), Key("agreement", GREY, "dashed"))

    def __init__(self) -> None:
        ranges = {"x_range": (-3, 103), "y_range": (-3, 103)}
        super().__init__(plot("came true (%)", "probability given (%)", **ranges), bands=False)
        self._source = source = columns("x", "y", "low", "high", "labels", "size")
        self.figure.line([0, 100], [0, 100], color=GREY, line_dash="dashed")
        self.figure.segment("x", "low", "x", "high", source=source, color=BLUE, line_width=2)
        dots = self.figure.scatter(
            "x", "y", source=source, size="size", color=BLUE, fill_alpha=0.6
        )
        tips = {"given": "@x{0.0} %", "came true": "@y{0.0} %", "labels": "@labels{0,0}"}
        hover(self.figure, dots, list(tips.items()))

    def _draw(self, track: Track) -> None:
        bins = [one for one in track.scores.figures()["reliability"] or [] if one["labels"]]
        labels, share, mean_p = (
            np.array([one[key] for one in bins], np.float64)
            for key in ("labels", "positive", "mean_p")
        )
        # Wilson's interval, which stays within 0 and 1
        center = (share + Z**2 / (2 * labels)) / (1 + Z**2 / labels)
        half = Z / (1 + Z**2 / labels)
        half = half * np.sqrt(share * (1 - share) / labels + Z**2 / (4 * labels**2))
        self._source.data = {
            "x": mean_p * 100,
            "y": share * 100,
            "low": (center - half) * 100,
            "high": (center + half) * 100,
            "labels": labels,
            "size": 5 + 15 * np.sqrt(labels / max(track.scores.labels, 1)),
        }


class Updates(Panel):
    """The norms of the gradients, refused updates and roll-backs."""

    name, title = "updates", "Learning"
    about = "The norm of each update's gradient before it was clipped."
    keys = (
        Key("update", BLUE, "mark"),
        Key("refused", VERMILION, "dotted"),
        Key("rolled back", PURPLE),
    )

    def __init__(self) -> None:
        # a range of its own: vertical lines over the whole height break a logarithmic axis
        self._heights = Range1d(start=0.1, end=10.0)
        super().__init__(plot("gradient norm", y_axis_type="log", y_range=self._heights))
        self._source, self._refused, self._back = (
            columns("x", "y", "n"),
            columns("x"),
            columns("x"),
        )
        dots = self.figure.scatter("x", "y", source=self._source, size=3, color=BLUE, alpha=0.6)
        hover(self.figure, dots, [("element", "@n{0,0}"), ("norm", "@y{0.000}")])
        self.figure.vspan(x="x", source=self._refused, line_color=VERMILION, line_dash="dotted")
        self.figure.vspan(x="x", source=self._back, line_color=PURPLE, line_width=2)

    def _draw(self, track: Track) -> None:
        rows = track.norms.rows()
        rows = rows[rows[:, 2] > 0.0]
        self._source.data = {
            "x": track.x(rows[:, 0], rows[:, 1]),
            "y": rows[:, 2],
            "n": rows[:, 0],
        }
        if len(rows):
            low, high = rows[:, 2].min() / 1.3, rows[:, 2].max() * 1.3
            self._heights.update(start=low, end=high)
            set_powers(self.figure.yaxis[0], low, high)
        self._refused.data = {"x": [float(track.x(*at)) for at in track.refusals]}
        self._back.data = {"x": [float(track.x(one.n, one.t_ns)) for one in track.rolled_back]}

    def _size(self, track: Track) -> int:
        return track.updates + track.refused

    def _remark(self, track: Track) -> str:
        sentences = refusals(track)
        if track.rolled_back:
            last = track.rolled_back[-1]
            sentences.append(f"Last roll-back after element {last.n:,}: {last.reason}.")
        return " ".join(sentences)

    def _reason(self, track: Track) -> str:
        return needs_store(track, "update")


class Latency(Panel):
    """The times from tick to watcher."""

    name, title = "latency", "Latency"
    about = "From the time that a tick carries to the arrival of its prediction here."
    keys = tuple(
        Key(name, VERMILION, dash)
        for name, dash in zip(("p50", "p99", "p99.9"), DASHES, strict=True)
    )

    def __init__(self) -> None:
        self._times = Range1d(start=1.0, end=100.0)  # as in `Updates`
        options = {"x_axis_type": "log", "x_range": self._times}
        super().__init__(plot("predictions (%)", "milliseconds", **options), bands=False)
        self._source, self._lines = columns("left", "right", "top"), columns("x", "dash")
        self.figure.quad(
            left="left", right="right", bottom=0, top="top", source=self._source,
            color=BLUE, fill_alpha=0.5,
        )  # fmt: skip
        self.figure.vspan(
            x="x", source=self._lines, line_color=VERMILION, line_dash="dash", line_width=1.5
        )
        self.figure.y_range.start = 0

    def _draw(self, track: Track) -> None:
        ms = np.maximum(np.array(track.latencies), 1e-6) * 1e3
        low, high = ms.min() / 1.1, ms.max() * 1.1
        counts, edges = np.histogram(ms, np.geomspace(low, high, 41))
        top = counts * (100.0 / len(ms))
        self._source.data = {"left": edges[:-1], "right": edges[1:], "top": top}
        self._times.update(start=low, end=high)
        set_powers(self.figure.xaxis[0], low, high)
        quantiles = track.latency_quantiles() or ()
        self._lines.data = {"x": [q * 1e3 for q in quantiles], "dash": list(DASHES)}

    def _size(self, track: Track) -> int:
        return len(track.latencies)

    def _remark(self, track: Track) -> str:
        named = zip(self.keys, track.latency_quantiles() or (), strict=True)
        return ", ".join(f"{key.text} {seconds(value)}" for key, value in named)

    def _reason(self, track: Track) -> str:  # noqa: ARG002
        return (
            "No latencies: only ticks of a live feed carry the present time, and stored "
            "predictions have no time of arrival."
        )


PANELS: tuple[Any, ...] = (
    Series, Probability, Accuracy, Loss, Evidence, Reliability, Updates, Latency,
)  # fmt: skip
"""In their order on a page."""


def panels() -> list[Panel]:
    """Return new empty panels."""
    return [kind() for kind in PANELS]
