"""`stream-lstm import` and `export`: networks of other frameworks, and the tables of a store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from ..errors import ConfigurationError, InputMissingError, OutputError, UsageError, nearest
from .console import result, step_progress
from .options import AllowPluginsOption, JsonOption, OverwriteOption, SpreadsheetOption, options

if TYPE_CHECKING:
    from ..interop.conversion import Imported
    from ..interop.parity import FrameworkParity, Parity


def check_free(out: Path, source: Path | None, overwrite: bool, option: str = "--out") -> None:
    """Raise UsageError if `out` is the input or exists, OutputError if it cannot be written.

    source: the input, if there is one. option: the flag that names it.
    """
    if not out.parent.is_dir():
        raise OutputError(f"cannot write {out}: there is no directory {out.parent}")
    if out.is_dir():
        raise OutputError(f"cannot write {out}: it is a directory")
    if not os.access(out.parent, os.W_OK):
        raise OutputError(f"cannot write {out}: no permission to write in {out.parent}")
    if source is not None and out.exists() and source.exists() and out.samefile(source):
        raise UsageError(f"{option} {out} is the file that is read; name another")
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists; --overwrite replaces it")


def _parity(parity: Parity, framework: FrameworkParity | None) -> dict[str, Any]:
    """Return the record of a comparison."""
    return {
        "reference": parity.reference,
        "steps": parity.steps,
        "windows": parity.windows,
        "window": parity.window,
        "carried": parity.carried._asdict(),
        "windowed": parity.windowed._asdict(),
        "framework": None if framework is None else framework._asdict(),
    }


def _parity_lines(parity: Parity, framework: FrameworkParity | None) -> Iterator[str]:
    yield f"compared with {parity.reference}, largest difference of p (and of the logit):"
    many = f"{parity.windows:,} rolling windows of {parity.window:,} from a zero state"
    pairs = (f"{parity.steps:,} steps, state carried", parity.carried), (many, parity.windowed)
    for what, found in pairs:
        yield f"  {what}: {found.p:.1e} ({found.logit:.1e})"
    if framework is not None and framework.p is not None:
        yield f"  {framework.framework} itself, {framework.compared:,} outputs: {framework.p:.1e}"
    elif framework is not None:
        yield f"  {framework.framework} could not run the model: {framework.why}"


# ---- import -----------------------------------------------------------------------------------


@options()
def import_(
    *,
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL", help="A file of Keras (.keras, .h5) or PyTorch (.safetensors, .pt)."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE.safetensors", help="Write the weights here.")],
    feature: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="The model's inputs, one expression each; saved with the weights, so that "
            "replay and run need no --feature.",
        ),
    ] = None,
    plugin: Annotated[
        list[str] | None,
        typer.Option("--plugin", metavar="TEXT", help="Functions of your own for --feature."),
    ] = None,
    allow_plugins: AllowPluginsOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Turn a trained LSTM of Keras or PyTorch into weights for --weights, and prove it on numbers.

    Example: stream-lstm import model.keras --out weights.safetensors
    """
    from ..core.expressions import columns_of
    from ..core.feature_sets import compile_features
    from ..interop.plugins import load_plugins
    from ..store.weights import check_target

    load_plugins(plugin or (), allowed=allow_plugins)
    texts, names = feature or [], []
    try:
        names = list(compile_features(texts, columns_of(texts)).names) if texts else []
    except ConfigurationError as error:
        raise UsageError(*error.within("--feature: ")) from None
    check_target(out)
    check_free(out, model, overwrite)
    if not model.exists():
        raise InputMissingError(f"no such model: {model}")
    from ..interop.conversion import convert, save_imported

    imported = convert(model)
    save_imported(out, imported, names)
    result(_imported(out, imported), _import_lines(model, out, imported), as_json=as_json)


def _imported(out: Path, imported: Imported) -> dict[str, Any]:
    source = imported.source
    return {
        "out": str(out),
        "origin": source.origin,
        "features": source.features,
        "hidden": len(imported.weights["head"]["kernel"]) - 1,
        "layers": [{"name": layer.name, "units": layer.units} for layer in source.layers],
        "head": {"name": source.head.name, "activation": source.head.activation},
        "window": source.window,
        "stateful": source.stateful,
        "dtypes": source.dtypes,
        "notes": source.notes,
        "parity": _parity(imported.parity, imported.framework),
    }


def _import_lines(model: Path, out: Path, imported: Imported) -> Iterator[str]:
    source = imported.source
    layers = " and ".join(f"{layer.name} ({layer.units} units)" for layer in source.layers)
    inputs = f"{source.features} feature{'s' * (source.features > 1)}"
    head = f"{source.head.name} ({source.head.activation})"
    yield f"{model}: {source.origin}; {inputs}, {layers}, head {head}"
    yield from source.notes
    if len({layer.units for layer in source.layers}) > 1:
        widest = len(imported.weights["head"]["kernel"]) - 1
        yield f"smaller layers are padded to {widest} units that do nothing"
    if "float64" in source.dtypes:
        yield "its float64 weights are rounded to float32"
    yield from _parity_lines(imported.parity, imported.framework)
    width = "W" if source.window is None else str(source.window)
    mode = "carry" if source.stateful else f"window --window {width}"
    yield f"written to {out}. To run it as trained: --mode {mode}"
    yield (
        "A model does not contain the scaling of its inputs: give it what it was trained on, with "
        "--scaling none if you scale the series yourself."
    )


# ---- export -----------------------------------------------------------------------------------


@options()
def export(
    *,
    weights: Annotated[
        Path,
        typer.Argument(
            metavar="WEIGHTS|STORE", help="A file of --save-weights, of import or of --store."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE.safetensors|.keras|.onnx|DIR",
            help="Write the network here, in the format of the suffix; for a store, a file for "
            "each table in this folder.",
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
            help="Format of the tables of a store.",
            show_default="parquet",
        ),
    ] = None,
    spreadsheet: SpreadsheetOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write weights for PyTorch, Flax, Keras or ONNX, and prove them on numbers.

    For a store, write its tables as Parquet or CSV files.

    Example: stream-lstm export weights.safetensors --out step.onnx
    """
    from ..store.schema import is_store

    if is_store(weights):
        if layout is not None:
            raise UsageError("--layout is for weights; the tables of a store have one layout")
        rows = _export_tables(weights, out, form or "parquet", spreadsheet, overwrite)
        lines = [
            f"{out / name}.{form or 'parquet'}: {count:,} rows" for name, count in rows.items()
        ]
        result({"out": str(out), "rows": rows}, lines, as_json=as_json)
        return
    if form is not None or spreadsheet:
        raise UsageError("--format and --spreadsheet are for the tables of a store")
    check_free(out, weights, overwrite)
    from ..interop.conversion import export as exported
    from ..interop.conversion import layout_of

    done = exported(weights, out, layout_of(out, layout))
    record = {
        "out": str(out),
        "layout": done.layout,
        "features": msgspec.json.decode(done.features) if done.features else None,
        "parity": _parity(done.parity, done.framework),
    }
    notes = [
        f"written to {out}, layout {done.layout}.",
        "The file does not contain the scaling: scale the inputs as in training.",
    ]
    result(record, [*_parity_lines(done.parity, done.framework), *notes], as_json=as_json)


def _export_tables(
    store: Path, out: Path, form: str, spreadsheet: bool, overwrite: bool
) -> dict[str, int]:
    """Write the tables of a store into a folder, which is made if needed; return their rows."""
    from ..store.output import FORMS, export_store

    if form not in FORMS:
        raise UsageError(f"--format {form}: known are {', '.join(FORMS)}{nearest(form, FORMS)}")
    if spreadsheet and form != "csv":
        raise UsageError("--spreadsheet is for --format csv")
    if not out.parent.is_dir():
        raise OutputError(f"cannot write {out}: there is no directory {out.parent}")
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; the tables of a store are written to a folder")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise UsageError(f"{out} is not empty; --overwrite replaces the tables in it")
    with step_progress(store.name, "rows") as progress:
        return export_store(store, out, progress, form=form, spreadsheet=spreadsheet)
