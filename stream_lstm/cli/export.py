"""`stream-lstm export` hands trained weights to other frameworks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from .conversion import OverwriteOption, check_free, parity_lines, parity_record
from .input_file import JsonOption


def command(
    weights: Annotated[
        Path, typer.Argument(metavar="WEIGHTS", help="A file of --save-weights or of import.")
    ],
    *,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE.safetensors|.keras|.onnx",
            help="Write the network here, in the form that the suffix says.",
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
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write weights for PyTorch, Flax, Keras or ONNX, and prove them on numbers.

    Example: stream-lstm export weights.safetensors --out step.onnx
    """
    check_free(out, weights, overwrite)
    # JAX is imported here and not before.
    from ..interop.exporting import export, layout_of

    done = export(weights, out, layout_of(out, layout))
    if as_json:
        record = {
            "out": str(out),
            "layout": done.layout,
            "features": msgspec.json.decode(done.features) if done.features else None,
            "parity": parity_record(done.parity, done.framework),
        }
        typer.echo(msgspec.json.encode(record).decode())
        return
    for line in parity_lines(done.parity, done.framework):
        typer.echo(line)
    typer.echo(f"written to {out}, layout {done.layout}.")
    typer.echo("Scaling is not in the file: what goes in must be scaled as the network knows it.")
