"""`stream-lstm export`: trained weights for other frameworks, and the tables of a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from ..errors import OutputError, UsageError, nearest
from ..store.schema import is_store
from .conversion import OverwriteOption, check_free, parity_lines, parity_record
from .input_file import JsonOption
from .process import say, say_json
from .progress import step_progress
from .spreadsheet_option import SpreadsheetOption


def command(
    weights: Annotated[
        Path,
        typer.Argument(
            metavar="WEIGHTS|STORE", help="A file of --save-weights or of import, or of --store."
        ),
    ],
    *,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE.safetensors|.keras|.onnx|DIR",
            help="Write the network here, in the form that the suffix says; of a store, a "
            "file for each table into this folder.",
        ),
    ],
    layout: Annotated[
        str | None,
        typer.Option(
            metavar="torch|flax",
            help="Names and shapes of the tensors of a .safetensors file.",
            show_default="torch",
        ),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="parquet|csv",
            help="Files that the tables of a store become.",
            show_default="parquet",
        ),
    ] = None,
    spreadsheet: SpreadsheetOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write weights for PyTorch, Flax, Keras or ONNX, and prove them on numbers.

    Of a store, write its tables as Parquet or CSV files.

    Example: stream-lstm export weights.safetensors --out step.onnx
    """
    if is_store(weights):
        if layout is not None:
            raise UsageError("--layout is of weights; the tables of a store have one form")
        export_tables(weights, out, form or "parquet", spreadsheet, overwrite, as_json)
        return
    if form is not None or spreadsheet:
        raise UsageError("--format and --spreadsheet are for the tables of a store")
    check_free(out, weights, overwrite)
    # JAX is imported here and not before.
    from ..interop.conversion import export, layout_of

    done = export(weights, out, layout_of(out, layout))
    if as_json:
        record = {
            "out": str(out),
            "layout": done.layout,
            "features": msgspec.json.decode(done.features) if done.features else None,
            "parity": parity_record(done.parity, done.framework),
        }
        say_json(record)
        return
    for line in parity_lines(done.parity, done.framework):
        say(line)
    say(f"written to {out}, layout {done.layout}.")
    say("Scaling is not in the file: what goes in must be scaled as the network knows it.")


def export_tables(
    store: Path, out: Path, form: str, spreadsheet: bool, overwrite: bool, as_json: bool
) -> None:
    """Write the tables of a store into a folder, which is made if need be."""
    from ..store.table_files import FORMS, export_store

    if form not in FORMS:
        raise UsageError(f"--format {form}: known are {', '.join(FORMS)}{nearest(form, FORMS)}")
    if spreadsheet and form != "csv":
        raise UsageError("--spreadsheet is for --format csv")
    if not out.parent.is_dir():
        raise OutputError(f"cannot write {out}: there is no directory {out.parent}")
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; the tables of a store go into a folder")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise UsageError(f"{out} is not empty; --overwrite replaces the tables in it")
    with step_progress(store.name, "rows") as progress:
        rows = export_store(store, out, progress, form=form, spreadsheet=spreadsheet)
    if as_json:
        say_json({"out": str(out), "rows": rows})
        return
    for name, count in rows.items():
        say(f"{out / name}.{form}: {count:,} rows")
