"""`stream-lstm report` and `watch`: what a run did, as a page for the browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from ..errors import InputMissingError, OutputError, UsageError
from ..platform import replace
from ..schema import SecurityConfig
from ..serve.service import PeerLog
from .console import note, result, step_progress, warn
from .options import JsonOption, ShownStreams, options
from .run import need_page

if TYPE_CHECKING:
    from ..view.report import ReportedRun

Form: TypeAlias = Literal["html", "png", "svg", "pdf"]

FORMS: dict[str, Form] = {
    ".html": "html",
    ".htm": "html",
    ".png": "png",
    ".svg": "svg",
    ".pdf": "pdf",
}


@options()
def report(
    *,
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="STORE|OUT.parquet...",
            help="Files of --store, which may be in use, or Parquet files of --out.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE.html|.png|.svg|.pdf", help="Output file; overwritten if it exists."
        ),
    ],
    streams: ShownStreams = None,
    title: Annotated[
        str, typer.Option("--title", metavar="TEXT", help="Report title.")
    ] = "stream-lstm report",
    figure: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A picture of this figure alone: series, probability, accuracy, loss, evidence, "
            "reliability or updates.",
        ),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(
            min=400,
            max=4000,
            metavar="PIXELS",
            help="Width of a picture in pixels; a .png has twice as many.",
            show_default="1280, of a figure 640",
        ),
    ] = None,
    browser: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            envvar="STREAM_LSTM_BROWSER",
            help="Chromium or Chrome, for pictures.",
            show_default="the first in PATH, else Playwright's",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make one page of one or more runs: figures, verdict, tables and settings.

    The page is one file that opens without a network. Needs the extra `view`, and for pictures
    `pictures` and a browser.

    Example: stream-lstm report monday.db tuesday.db --out week.html
    """
    form = _form(out, sources, figure, width)
    from ..interop.extras import need_for

    need_for("a report", "bokeh", "view")
    if form != "html":
        need_for(f"a picture of a report (.{form})", "playwright", "pictures")
    from ..view.report import report as page

    if form == "html":
        runs, left_out = _read(sources, streams)
        data = page(runs, title, left_out).encode()
    else:
        from ..view.pictures import check_figure, figure_picture, page_picture

        check_figure(figure, form)
        runs, left_out = _read(sources, streams)
        if figure is not None:
            data = figure_picture(runs, figure, form, width, browser)
        else:
            data = page_picture(page(runs, title, left_out, still=True), form, width, browser)
    _write(out, data)
    hint = "; open it in a browser" if form == "html" else ""
    lines = [f"{run.name}: {run.verdict}" for run in runs]
    verdicts = [{"name": run.name, "verdict": run.verdict} for run in runs]
    result(
        {"out": str(out), "runs": verdicts},
        [*lines, *left_out, f"written to {out}{hint}"],
        as_json=as_json,
    )


def _read(sources: list[Path], streams: list[str] | None) -> tuple[list[ReportedRun], list[str]]:
    from ..view.report import read_runs

    with step_progress("report", "rows") as progress:
        return read_runs(sources, tuple(streams or ()), progress)


def _form(out: Path, sources: list[Path], figure: str | None, width: int | None) -> Form:
    """Return the form of a report; UsageError or OutputError if it cannot be written."""
    form = FORMS.get(out.suffix.lower())
    if form is None:
        raise UsageError(
            f"--out {out}: a report is a .html file, or a picture: .png, .svg or .pdf; use one "
            "of these suffixes"
        )
    if form == "html" and (figure, width) != (None, None):
        raise UsageError("--figure and --width are for pictures: --out FILE.png, .svg or .pdf")
    if not out.parent.is_dir():
        raise OutputError(f"cannot write {out}: there is no directory {out.parent}")
    if out.is_dir():
        raise OutputError(f"cannot write {out}: it is a directory")
    if any(source.resolve() == out.resolve() for source in sources):
        raise UsageError(f"--out {out} is one of the report's input files")
    return form


def _write(out: Path, data: bytes) -> None:
    partial = out.with_name(out.name + ".partial")
    try:
        partial.write_bytes(data)
        replace(partial, out)
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror or error}") from None


@options()
def watch(
    *,
    connect: Annotated[
        str, typer.Option(metavar="ENDPOINT", help="The daemon's --publish endpoint.")
    ],
    store: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The daemon's --store: show its past first, and the series, updates and lost "
            "ticks, which are not published.",
        ),
    ] = None,
    streams: ShownStreams = None,
    port: Annotated[
        int,
        typer.Option(
            min=0,
            max=65_535,
            metavar="N",
            help="Port of the page, on loopback; 0 takes a free one.",
        ),
    ] = 5006,
    curve_dir: Annotated[
        str | None, typer.Option(metavar="DIR", help="Keys, if the daemon has --curve-dir.")
    ] = None,
) -> None:
    """Show a running daemon in the browser: predictions, scores, evidence, latency, learning.

    The page does not slow the daemon, which may start and stop meanwhile. Needs the extra `view`.
    Ctrl-C ends it.

    Example: stream-lstm watch --connect tcp://127.0.0.1:5556 --store quotes.db
    """
    need_page()
    from ..feed.predictions import PredictionSubscriber
    from ..feed.security import Security
    from ..view.history import History
    from ..view.live import serve
    from ..view.watcher import Watcher

    security, names = Security(SecurityConfig(curve_dir=curve_dir)), tuple(streams or ())
    security.check_connect(connect)
    if store is not None:
        if not store.exists():
            raise InputMissingError(
                f"no such store: {store}; run --store creates it: start watch after it is ready"
            )
        History(store).close()  # its errors are reported before anything is opened
    subscriber = PredictionSubscriber(connect, streams=names, security=security)
    peers = PeerLog(security, warn)

    def ready(address: str) -> None:
        note(f"ready: open {address} in a browser; Ctrl-C ends it")

    with Watcher(subscriber, connect, store, names) as watcher:
        serve(watcher, connect, port, ready, peers.tend)
