"""The option `--spreadsheet` of `run`, `replay` and `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from ..errors import UsageError

SpreadsheetOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--spreadsheet",
        help="In CSV files of --out, put ' before text that begins with = + - @, a tab or a "
        "carriage return, which a spreadsheet would run as a formula.",
    ),
]


def check_spreadsheet(out: Path | None, *, spreadsheet: bool) -> None:
    """Raise UsageError for the option without a file."""
    if spreadsheet and out is None:
        raise UsageError("--spreadsheet is for a .csv file of --out: name one")
