"""The option `--trace` of `run` and `replay`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

TraceOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--trace",
        metavar="FILE.json",
        help="Write a timeline of the stages here, for ui.perfetto.dev or chrome://tracing.",
    ),
]
