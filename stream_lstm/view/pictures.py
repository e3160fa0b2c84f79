"""Pictures of a report, drawn by a Chromium of this machine through Playwright, without a network.

Pictures use the light theme, since they are for paper and for other pages. A picture of one figure
starts as an SVG in every form: the figure as Bokeh draws it, below its title and its key.

`bokeh.io.export` would need Selenium and a driver for the browser, and makes neither a PDF nor a
figure with its key.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

from bokeh.embed import file_html
from bokeh.resources import Resources
from playwright.sync_api import Error, sync_playwright

from ..errors import DataError, OutputError, UsageError, nearest
from .figures import HEIGHT, Key, Panel
from .report import NAMES, ReportedRun, figure_template, panels_of, shared_panels

Form: TypeAlias = Literal["png", "svg", "pdf"]

KNOWN = ", ".join(NAMES)

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable",
            "microsoft-edge")  # fmt: skip
"""Searched in PATH, in this order."""

PAGE, FIGURE = 1280, 640
"""Default widths in CSS pixels, of a page and of a figure."""

SHARP = 2
"""Pixels of a .png for each CSS pixel."""

TALLEST = 16_384
"""Pixels; in a taller picture Chromium repeats the top, or leaves it white."""

PAPER, MARGIN = 210 / 25.4 * 96, 10 / 25.4 * 96
"""CSS pixels of the width of A4, and of its margins."""

DRAWN = "() => window.Bokeh?.documents[0]?.is_idle"

EXPORT = "() => Bokeh.index.roots[0].export('svg').ctx.get_serialized_svg(true)"
"""The script of `bokeh.io.export`."""

DASHES = {"solid": "none", "dashed": "6", "dotted": "2 3", "dotdash": "2 3 6 3"}


def check_figure(figure: str | None, form: Form) -> None:
    """Raise UsageError for an unknown figure, and for an .svg without one."""
    if figure is None:
        if form == "svg":
            raise UsageError(f"an .svg shows one figure; name it with --figure: {KNOWN}")
    elif figure not in NAMES:
        raise UsageError(
            f"there is no figure {figure!r}{nearest(figure, NAMES)}; there are: {KNOWN}"
        )


def page_picture(html: str, form: Form, width: int | None, browser: str | None) -> bytes:
    """Return the picture of a page; a .pdf is on A4, scaled to `width`.

    browser: its path, None to search for one.

    Raises UsageError for a page that is too long for a .png, or without a browser, and OutputError
    if the browser fails.
    """
    width = width or PAGE
    with _browser(browser) as running, _tab(running, html, width, DRAWN) as tab:
        if form == "pdf":
            scale = (PAPER - 2 * MARGIN) / width
            around = dict.fromkeys(("top", "right", "bottom", "left"), f"{MARGIN}px")
            return bytes(tab.pdf(format="A4", scale=scale, margin=around, print_background=True))
        if SHARP * tab.evaluate("document.documentElement.scrollHeight") > TALLEST:
            raise UsageError(
                "the page is too long for a .png: make a .pdf, or name fewer streams with --stream"
            )
        return bytes(tab.screenshot(full_page=True))


def figure_picture(
    runs: list[ReportedRun], name: str, form: Form, width: int | None, browser: str | None
) -> bytes:
    """Return the picture of a figure of a run, or of one that several runs share.

    Raises what `page_picture` raises, UsageError for a figure that they do not share, and
    DataError for one without data.
    """
    panel, title = _panel_of(runs, name)
    width = width or FIGURE
    height = max(HEIGHT, round(0.45 * width))
    panel.figure.update(
        sizing_mode="fixed",
        width=width,
        height=height,
        output_backend="svg",
        toolbar_location=None,
    )
    html = file_html(panel.figure, Resources(mode="inline"), title)
    with _browser(browser) as running:
        with _tab(running, html, width, DRAWN) as tab:
            plot = tab.evaluate(EXPORT)
        keys, top = _places(panel.keys, width)
        size = {"width": width, "height": top + height}
        svg = figure_template().render(
            title=title, keys=keys, top=top, plot=plot, dashes=DASHES, **size
        )
        if form == "svg":
            return svg.encode()
        html = f"<!DOCTYPE html><style>body{{margin:0}} svg{{display:block}}</style>{svg}"
        with _tab(running, html, width, "true") as tab:
            if form == "png":
                return bytes(tab.locator("svg").first.screenshot())
            paper = {name: f"{length}px" for name, length in size.items()}
            return bytes(tab.pdf(**paper, page_ranges="1", print_background=True))


def _panel_of(runs: list[ReportedRun], name: str) -> tuple[Panel, str]:
    """Return a filled panel and its title."""
    if len(runs) > 1:
        shared = {panel.name: panel for panel in shared_panels(runs)}
        if name not in shared:
            raise UsageError(
                f"--figure {name} shows one stream, and there are {len(runs)}: name one with "
                f"--stream, or use a figure that they share: {', '.join(shared)}"
            )
        return shared[name], shared[name].title
    (run,) = runs
    panel = next(panel for panel in panels_of(run) if panel.name == name)
    if not panel.has_data(run.track):
        raise DataError(f"nothing to draw: {panel.note(run.track)}")
    return panel, f"{panel.title}: {run.name}"


@contextmanager
def _browser(path: str | None) -> Iterator[Any]:
    """Start the browser at `path`, else one in PATH, else Playwright's own."""
    path = path or next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path)
        except Error as error:
            if path is not None:
                why = f"the browser {path} does not start ({_first_line(error)})"
            else:
                why = "a picture needs a browser, and PATH has no Chromium or Chrome"
            raise UsageError(
                f"{why}: apt-get install chromium, or playwright install chromium, or name one "
                "with --browser PATH"
            ) from None
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def _tab(browser: Any, html: str, width: int, drawn: str) -> Iterator[Any]:
    """Open a page and wait until the script `drawn` returns true."""
    context = browser.new_context(
        viewport={"width": width, "height": 800},
        device_scale_factor=SHARP,
        color_scheme="light",
        offline=True,
    )
    try:
        tab = context.new_page()
        tab.set_content(html)
        tab.wait_for_function(drawn)
        yield tab
    except Error as error:
        raise OutputError(f"the browser made no picture: {_first_line(error)}") from None
    finally:
        context.close()


def _places(keys: tuple[Key, ...], width: int) -> tuple[list[tuple[Key, int, int]], int]:
    """Return the position of each entry of a key, in columns, and the top of the figure."""
    column = 44 + 7 * max(len(key.text) for key in keys)
    columns = max(1, min(len(keys), (width - 12) // column))
    places = [
        (key, 12 + k % columns * column, 46 + k // columns * 18) for k, key in enumerate(keys)
    ]
    return places, 38 + 18 * math.ceil(len(keys) / columns)


def _first_line(error: Error) -> str:
    return (error.message.splitlines() or ["it ended"])[0]
