"""Pictures of a report, drawn by a browser of this machine, with its network off.

The browser is a Chromium that Playwright drives. Pictures are in the light theme, since they go on
paper and into other pages. A picture of one figure is made as SVG, whatever its form: what Bokeh
draws, with its title and its key above it.
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
from .page import figure_template
from .report import NAMES, ReportedRun, panels_beside, panels_of

Form: TypeAlias = Literal["png", "svg", "pdf"]

KNOWN = ", ".join(NAMES)

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable",
            "microsoft-edge")  # fmt: skip
"""Looked for in PATH, in this order."""

PAGE, FIGURE = 1280, 640
"""Widths in CSS pixels, of a page and of a figure, unless others are asked for."""

SHARP = 2
"""Pixels of a .png for each CSS pixel."""

TALLEST = 16_384
"""Pixels; beyond these Chromium repeats the top of a picture, or leaves it white."""

PAPER, MARGIN = 210 / 25.4 * 96, 10 / 25.4 * 96
"""CSS pixels of A4, and of what is left free around."""

DRAWN = "() => window.Bokeh?.documents[0]?.is_idle"

EXPORT = "() => Bokeh.index.roots[0].export('svg').ctx.get_serialized_svg(true)"
"""What `bokeh.io.export` asks of a page."""

DASHES = {"solid": "none", "dashed": "6", "dotted": "2 3", "dotdash": "2 3 6 3"}


def check_figure(figure: str | None, form: Form) -> None:
    """Raise UsageError for a figure that there is not, or one that must be named."""
    if figure is None:
        if form == "svg":
            raise UsageError(f"an .svg is of one figure; name it with --figure: {KNOWN}")
    elif figure not in NAMES:
        raise UsageError(
            f"there is no figure {figure!r}{nearest(figure, NAMES)}; there are: {KNOWN}"
        )


def page_picture(html: str, form: Form, width: int | None, browser: str | None) -> bytes:
    """Return the picture of a page; a .pdf is on A4, its text as small as `width` asks for.

    browser: where it is, None for one that is found.

    Raises UsageError for a page that is too long for a .png, or without a browser, and OutputError
    where the browser fails.
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

    Raises what `page_picture` raises, UsageError where several do not share it, and DataError
    where it has no data.
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
        shared = {panel.name.removesuffix("-beside"): panel for panel in panels_beside(runs)}
        if name not in shared:
            raise UsageError(
                f"--figure {name} is of one stream, and here are {len(runs)}: name one with "
                f"--stream, or take a figure that they share: {', '.join(shared)}"
            )
        return shared[name], shared[name].title
    (run,) = runs
    panel = next(panel for panel in panels_of(run) if panel.name == name)
    if not panel.has_data(run.track):
        raise DataError(f"there is nothing to draw: {panel.note(run.track)}")
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
                why = "a picture needs a browser, and there is no Chromium or Chrome in PATH"
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
    """Give a page that is drawn in full, as the script `drawn` tells."""
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
    """Return where each entry of a key stands, in columns, and where the figure begins."""
    column = 44 + 7 * max(len(key.text) for key in keys)
    columns = max(1, min(len(keys), (width - 12) // column))
    places = [
        (key, 12 + k % columns * column, 46 + k // columns * 18) for k, key in enumerate(keys)
    ]
    return places, 38 + 18 * math.ceil(len(keys) / columns)


def _first_line(error: Error) -> str:
    return (error.message.splitlines() or ["it ended"])[0]
