"""`stream-lstm import` takes over a network that another framework has trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConfigurationError, InputMissingError, UsageError
from .conversion import OverwriteOption, check_free, parity_lines, parity_record
from .input_file import JsonOption
from .process import say, say_json

if TYPE_CHECKING:
    from ..interop.conversion import Imported


def command(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL", help="A file of Keras (.keras, .h5) or PyTorch (.safetensors, .pt)."
        ),
    ],
    *,
    out: Annotated[Path, typer.Option(metavar="FILE.safetensors", help="Write the weights here.")],
    feature: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="What an element of the model is, one expression for each of its inputs; kept "
            "with the weights, so that replay and run need not be told.",
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Turn a trained LSTM of Keras or PyTorch into weights for --weights, and prove it on numbers.

    Example: stream-lstm import model.keras --out weights.safetensors
    """
    from ..store.weights import check_target

    features = _features(feature or [])
    check_target(out)
    check_free(out, model, overwrite)
    if not model.exists():
        raise InputMissingError(f"no such model: {model}")
    # JAX is imported here and not before.
    from ..interop.conversion import convert, keep

    imported = convert(model)
    keep(out, imported, features)
    if as_json:
        say_json(_record(out, imported))
        return
    for line in _lines(model, out, imported):
        say(line)


def _features(expressions: list[str]) -> list[str]:
    """Return the expressions as weights name them; UsageError for one that is wrong."""
    from ..core.expressions import columns_of
    from ..core.features import FeatureSet

    try:
        return list(FeatureSet(expressions, columns_of(expressions)).names) if expressions else []
    except ConfigurationError as error:
        raise UsageError(*error.within("--feature: ")) from None


def _record(out: Path, imported: Imported) -> dict[str, Any]:
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
        "parity": parity_record(imported.parity, imported.framework),
    }


def _lines(model: Path, out: Path, imported: Imported) -> list[str]:
    source = imported.source
    layers = " and ".join(f"{layer.name} ({layer.units} units)" for layer in source.layers)
    inputs = f"{source.features} feature{'s' * (source.features > 1)}"
    head = f"{source.head.name} ({source.head.activation})"
    lines = [f"{model}: {source.origin}; {inputs}, {layers}, head {head}", *source.notes]
    if len({layer.units for layer in source.layers}) > 1:
        widest = len(imported.weights["head"]["kernel"]) - 1
        lines.append(f"smaller layers are padded to {widest} units that do nothing")
    if wide := [name for name in source.dtypes if name == "float64"]:
        lines.append(f"its {wide[0]} weights are rounded to float32")
    lines += parity_lines(imported.parity, imported.framework)
    lines.append(f"written to {out}. {_how_to_run(source.window, source.stateful)}")
    lines.append(
        "A model does not hold the scaling of its inputs: give it what it was trained on, with "
        "--scaling none where you scale the series yourself."
    )
    return lines


def _how_to_run(window: int | None, stateful: bool) -> str:
    if stateful:
        return "As it ran: --mode carry"
    if window is None:
        return "As it ran on windows of W elements: --mode window --window W"
    return f"As it ran: --mode window --window {window}"
