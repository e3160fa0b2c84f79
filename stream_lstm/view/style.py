"""Colours, the key of a figure, and the looks that all figures share.

The colours are those of Okabe and Ito ("Color universal design", 2008) that stand out on white as
well as on near black; lines also differ by their dashes, marks by their shapes. What a theme
changes, text, axes and grids, is set by the page: a figure's canvas reads the variables `--bk-...`
of the page's style sheet.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

from bokeh.models import (
    BasicTicker,
    BasicTickFormatter,
    DatetimeTicker,
    DatetimeTickFormatter,
    FixedTicker,
    HoverTool,
    NumeralTickFormatter,
    PanTool,
    ResetTool,
    SaveTool,
    WheelZoomTool,
)
from bokeh.plotting import figure

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
