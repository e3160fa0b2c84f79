"""`stream-lstm metrics-dashboard`: the Grafana dashboard over the metrics of `run --metrics`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from ..errors import OutputError
from ..serve.dashboard import dashboard


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
    text = msgspec.json.format(msgspec.json.encode(dashboard())).decode()
    if out is None:
        typer.echo(text)
        return
    try:
        out.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror}") from None
    typer.echo(f"stream-lstm: wrote {out}; import it in Grafana", err=True)
