"""`stream-lstm metrics-dashboard`: the Grafana dashboard over the metrics of `run --metrics`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from ..errors import OutputError


def command(
    *,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="Write it here instead of to standard output."),
    ] = None,
) -> None:
    """Write a Grafana dashboard over the metrics that `run --metrics` serves.

    Example: stream-lstm metrics-dashboard --out dashboard.json
    """
    text = (files("stream_lstm") / "data" / "grafana.json").read_text(encoding="utf-8")
    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror}") from None
    typer.echo(f"stream-lstm: wrote {out}; import it in Grafana", err=True)
