"""`stream-lstm report`: stores and files of results as one page of figures, for any browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from ..errors import OutputError, UsageError
from .input_file import JsonOption
from .progress import step_progress

SUFFIXES = (".html", ".htm")


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
        Path, typer.Option(metavar="FILE.html", help="Write the report here; it may be there.")
    ],
    streams: Annotated[
        list[str] | None,
        typer.Option("--stream", metavar="NAME", help="Show this stream; may be repeated."),
    ] = None,
    title: Annotated[
        str, typer.Option("--title", metavar="TEXT", help="What stands at its top.")
    ] = "stream-lstm report",
    as_json: JsonOption = False,
) -> None:
    """Make one page of what a run did: figures, verdict, tables and settings, of several beside.

    The page is one file that opens without a network. Needs the extra `view`.

    Example: stream-lstm report monday.db tuesday.db --out week.html
    """
    _check(out, sources)
    from ..interop.extras import need_for

    need_for("a report", "bokeh", "view")
    from ..view.report import report
    from ..view.runs import read_runs

    with step_progress(out.name, "rows") as progress:
        runs, left_out = read_runs(sources, tuple(streams or ()), progress)
    _write(out, report(runs, title, left_out))
    if as_json:
        told = [{"name": run.name, "verdict": run.verdict} for run in runs]
        typer.echo(msgspec.json.encode({"out": str(out), "runs": told}).decode())
        return
    for run in runs:
        typer.echo(f"{run.name}: {run.verdict}")
    for line in left_out:
        typer.echo(line)
    typer.echo(f"written to {out}; open it in a browser")


def _check(out: Path, sources: list[Path]) -> None:
    """Raise UsageError or OutputError for a report that cannot be written."""
    if out.suffix.lower() in (".png", ".svg", ".pdf"):
        raise UsageError(
            f"--out {out}: a report is a .html file; above each figure of it is a button "
            "that saves the figure as a .png, and a browser prints the page as a .pdf"
        )
    if out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--out {out}: a report is a .html file; give it that suffix")
    if not out.parent.is_dir():
        raise OutputError(f"cannot write {out}: there is no directory {out.parent}")
    if out.is_dir():
        raise OutputError(f"cannot write {out}: it is a directory")
    if any(source.resolve() == out.resolve() for source in sources):
        raise UsageError(f"--out {out} is one of the files that the report is made of")


def _write(out: Path, html: str) -> None:
    partial = out.with_name(out.name + ".partial")
    try:
        partial.write_text(html, encoding="utf-8")
        partial.replace(out)
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror or error}") from None
