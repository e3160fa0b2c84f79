"""Weights from a file of another framework, and to one.

Import: read, convert, compare, and only then write. Export: write beside the target, compare what
was written, and rename.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec
import numpy as np
import safetensors.numpy

from ..errors import OutputError, UsageError
from ..platform import replace
from ..store.weights import SUFFIX, load_weights, save_weights
from . import keras_model, torch_state
from .extras import need
from .keras_model import keras_bytes, keras_network, read_keras
from .onnx_graph import onnx_bytes, onnx_logits
from .parity import (
    FrameworkParity,
    Parity,
    Reference,
    against_keras,
    against_torch,
    compare,
    compare_with,
)
from .source import Kernels, SourceNetwork, flax_logits, flax_tensors, pack, torch_tensors
from .torch_state import read_tensors, torch_network

IMPORT_SUFFIXES = (*keras_model.SUFFIXES, *torch_state.SUFFIXES)


class Imported(NamedTuple):
    """A conversion and its comparisons; `framework` is None where the framework is missing."""

    source: SourceNetwork
    weights: Kernels
    parity: Parity
    framework: FrameworkParity | None


def read_network(path: Path) -> SourceNetwork:
    """Return the network in a file of Keras or PyTorch, by its suffix.

    Raises UsageError for any other suffix, and the errors of the readers.
    """
    suffix = path.suffix.lower()
    if suffix in keras_model.SUFFIXES:
        return keras_network(read_keras(path))
    if suffix in torch_state.SUFFIXES:
        return torch_network(path, read_tensors(path), "PyTorch state_dict")
    known = ", ".join(IMPORT_SUFFIXES)
    raise UsageError(f"{path}: a model file ends in {known}, not {suffix or 'nothing'}")


def convert(path: Path) -> Imported:
    """Return the compared weights of a model file.

    Raises the errors of `read_network` and `pack`, and StreamLSTMError if the comparison fails.
    """
    source = read_network(path)
    weights = pack(source)
    parity = compare(weights, source)
    parity.require()
    framework = None
    if source.exact:
        keras = path.suffix.lower() in keras_model.SUFFIXES
        framework = (
            against_keras(path, weights, source) if keras else against_torch(weights, source)
        )
    if framework is not None:
        framework.require()
    return Imported(source, weights, parity, framework)


def save_imported(path: Path, imported: Imported, features: Sequence[str]) -> None:
    """Write imported weights, with the features that they are for, if known.

    Raises UsageError for a wrong number of features, and OutputError.
    """
    source = imported.source
    if features and len(features) != source.features:
        raise UsageError(
            f"the model takes {source.features} features for each element, but --feature "
            f"names {len(features)}"
        )
    # The scaling of the inputs is unknown, so they are not scaled.
    metadata = {"origin": source.origin, "scaling": "none"}
    if features:
        metadata["features"] = msgspec.json.encode(list(features)).decode()
    save_weights(path, imported.weights, metadata)


Layout: TypeAlias = Literal["torch", "flax", "keras", "onnx"]
Weights: TypeAlias = Mapping[str, Mapping[str, Any]]
Proof: TypeAlias = tuple[Parity, FrameworkParity | None]

EXPORT_SUFFIXES: Mapping[Layout, str] = {
    "torch": SUFFIX,
    "flax": SUFFIX,
    "keras": ".keras",
    "onnx": ".onnx",
}

WINDOWS, WINDOW = 20, 100
"""Windows of a comparison with a reference that takes one step at a time, and their length."""


class Exported(NamedTuple):
    """The layout written, and its comparisons; `features` is a JSON list, "" if unknown."""

    layout: Layout
    parity: Parity
    framework: FrameworkParity | None
    features: str


def layout_of(out: Path, layout: str | None) -> Layout:
    """Return the layout of a file, by its suffix and the requested layout.

    Raises UsageError for an unknown suffix, and for a layout with another suffix.
    """
    fitting = [name for name, end in EXPORT_SUFFIXES.items() if end == out.suffix.lower()]
    if not fitting:
        known = ", ".join(sorted(set(EXPORT_SUFFIXES.values())))
        raise UsageError(
            f"{out}: weights are exported to {known}, not {out.suffix or 'a file without suffix'}"
        )
    for name in fitting:
        if layout in (None, name):
            return name
    raise UsageError(f"--layout {layout} is not for {out}; its layouts: {', '.join(fitting)}")


def export(path: Path, out: Path, layout: Layout) -> Exported:
    """Write the weights in `path` to `out` in a layout, after comparing what was written.

    Raises the errors of `load_weights`, UsageError for a missing package, StreamLSTMError if the
    comparison fails, and OutputError if writing fails. On an error `out` is unchanged.
    """
    weights, metadata = load_weights(path)
    weights = {name: body for name, body in weights.items() if name.startswith(("layer_", "head"))}
    features = metadata.get("features", "")
    data, check = _prepare(layout, weights, features, out)
    partial = out.with_name(f"{out.stem}.partial{out.suffix}")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        parity, framework = check(partial)
        parity.require()
        if framework is not None:
            framework.require()
        replace(partial, out)
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)
    return Exported(layout, parity, framework, features)


def _prepare(
    layout: Layout, weights: Weights, features: str, out: Path
) -> tuple[bytes, Callable[[Path], Proof]]:
    """Return the bytes of a file, and the comparison of the written file."""

    def against(run: Reference, name: str) -> Proof:
        return compare_with(weights, run, name, windows=WINDOWS, window=WINDOW), None

    def check(partial: Path) -> Proof:
        if layout == "flax":
            tensors = read_tensors(partial)
            return against(lambda xs: flax_logits(tensors, xs), "flax.linen.OptimizedLSTMCell")
        if layout == "onnx":
            data = partial.read_bytes()
            name, _ = onnx_logits(onnx, data, np.zeros((0, 0, 0), np.float32))
            return against(lambda xs: onnx_logits(onnx, data, xs)[1], name)
        source = read_network(partial)
        parity = compare(weights, source)
        if layout == "keras":
            return parity, against_keras(partial, weights, source)
        return parity, against_torch(weights, source)

    if layout == "keras":
        return keras_bytes(need("h5py", "keras", out), weights), check
    if layout == "onnx":
        onnx = need("onnx", "onnx", out)
        return onnx_bytes(onnx, weights, features), check
    # "pt" is the value that other libraries write, and some need.
    metadata = {"format": "pt" if layout == "torch" else "flax", "producer": "stream-lstm"}
    metadata |= {"scaling": "not included"} | ({"features": features} if features else {})
    tensors = torch_tensors(weights) if layout == "torch" else flax_tensors(weights)
    return safetensors.numpy.save(tensors, metadata=metadata), check
