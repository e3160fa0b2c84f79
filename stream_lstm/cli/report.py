"""`stream-lstm report`: stores and files of results as one page of figures, for any browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from ..errors import OutputError, UsageError
from .input_file import JsonOption
from .process import say, say_json
from .progress import step_progress

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


def command(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="STORE|OUT.parquet...",
            help="Files of --store, which may be in use, or Parquet files of --out.",
        ),
    ],
    *,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE.html|.png|.svg|.pdf",
            help="Write the report, or a picture of it, here; it may be there.",
        ),
    ],
    streams: Annotated[
        list[str] | None,
        typer.Option("--stream", metavar="NAME", help="Show this stream; may be repeated."),
    ] = None,
    title: Annotated[
        str, typer.Option("--title", metavar="TEXT", help="What stands at the top of the report.")
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
            help="The Chromium or Chrome that makes pictures.",
            show_default="the first in PATH, else Playwright's",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make one page of what a run did: figures, verdict, tables and settings, of several beside.

    The page is one file that opens without a network. Needs the extra `view`, and for pictures
    `pictures` and a browser.

    Example: stream-lstm report monday.db tuesday.db --out week.html
    """
    form = _form(out, sources, figure, width)
    from ..interop.extras import need_for

    need_for("a report", "bokeh", "view")
    if form != "html":
        need_for(f"a picture of a report (.{form})", "playwright", "pictures")
    from ..view.report import report

    if form == "html":
        runs, left_out = _read(sources, streams)
        data = report(runs, title, left_out).encode()
    else:
        from ..view.pictures import check_figure, figure_picture, page_picture

        check_figure(figure, form)
        runs, left_out = _read(sources, streams)
        if figure is not None:
            data = figure_picture(runs, figure, form, width, browser)
        else:
            data = page_picture(report(runs, title, left_out, still=True), form, width, browser)
    _write(out, data)
    if as_json:
        told = [{"name": run.name, "verdict": run.verdict} for run in runs]
        say_json({"out": str(out), "runs": told})
        return
    for run in runs:
        say(f"{run.name}: {run.verdict}")
    for line in left_out:
        say(line)
    say(f"written to {out}{'; open it in a browser' if form == 'html' else ''}")


def _read(sources: list[Path], streams: list[str] | None) -> tuple[list[ReportedRun], list[str]]:
    from ..view.report import read_runs

    with step_progress("report", "rows") as progress:
        return read_runs(sources, tuple(streams or ()), progress)


def _form(out: Path, sources: list[Path], figure: str | None, width: int | None) -> Form:
    """Return what a report becomes; UsageError or OutputError where it cannot be written."""
    form = FORMS.get(out.suffix.lower())
    if form is None:
        raise UsageError(
            f"--out {out}: a report is a .html file, or a picture: .png, .svg or .pdf; give it "
            "such a suffix"
        )
    if form == "html" and (figure, width) != (None, None):
        raise UsageError("--figure and --width are of pictures: --out FILE.png, .svg or .pdf")
    if not out.parent.is_dir():
        raise OutputError(f"cannot write {out}: there is no directory {out.parent}")
    if out.is_dir():
        raise OutputError(f"cannot write {out}: it is a directory")
    if any(source.resolve() == out.resolve() for source in sources):
        raise UsageError(f"--out {out} is one of the files that the report is made of")
    return form


def _write(out: Path, data: bytes) -> None:
    partial = out.with_name(out.name + ".partial")
    try:
        partial.write_bytes(data)
        partial.replace(out)
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror or error}") from None
