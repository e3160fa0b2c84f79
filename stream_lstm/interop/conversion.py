"""Our weights to a file of another framework: write beside, prove on what was written, rename.

A model's file to our weights: read, convert, prove, and only then write.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec
import numpy as np
import safetensors.numpy

from ..errors import OutputError, UsageError
from ..store.weights import SUFFIX, load_weights, save_weights
from . import keras_model, torch_state
from .extras import need
from .keras_model import keras_bytes, keras_network, read_keras
from .onnx_graph import onnx_bytes, onnx_logits
from .parity import FrameworkParity, Parity, against_keras, against_torch, prove, prove_by, require
from .source import Kernels, SourceNetwork, flax_logits, flax_tensors, pack, torch_tensors
from .torch_state import read_tensors, torch_network

IMPORT_SUFFIXES = (*keras_model.SUFFIXES, *torch_state.SUFFIXES)


class Imported(NamedTuple):
    """A conversion and its proofs; `framework` is None where the framework is not installed."""

    source: SourceNetwork
    weights: Kernels
    parity: Parity
    framework: FrameworkParity | None


def read_network(path: Path) -> SourceNetwork:
    """Return the network in a file of Keras or PyTorch, by its suffix.

    Raises UsageError for any other suffix, and what the readers raise.
    """
    suffix = path.suffix.lower()
    if suffix in keras_model.SUFFIXES:
        return keras_network(keras_model.read_keras(path))
    if suffix in torch_state.SUFFIXES:
        origin = "PyTorch state_dict"
        return torch_network(path, torch_state.read_tensors(path), origin)
    known = ", ".join(IMPORT_SUFFIXES)
    raise UsageError(f"{path}: a model is a file of {known}, not {suffix or 'none'}")


def convert(path: Path) -> Imported:
    """Return a model's weights in our form, proved.

    Raises what `read_network` and `pack` raise, and StreamLSTMError where the proof fails.
    """
    source = read_network(path)
    weights = pack(source)
    parity = prove(weights, source)
    require(parity.worst, parity.reference)
    framework = None
    if source.exact:
        keras = path.suffix.lower() in keras_model.SUFFIXES
        framework = (
            against_keras(path, weights, source) if keras else against_torch(weights, source)
        )
    if framework is not None and framework.p is not None:
        require(framework.p, framework.framework)
    return Imported(source, weights, parity, framework)


def keep(path: Path, imported: Imported, features: Sequence[str]) -> None:
    """Write imported weights, and the features that they are for where these are known.

    Raises UsageError where there are not as many as the network takes, and OutputError.
    """
    source = imported.source
    if features and len(features) != source.features:
        raise UsageError(
            f"the model takes {source.features} features for each element, and {len(features)} "
            "are named with --feature"
        )
    # Nothing is known of how its inputs were scaled, so they are taken as they are given.
    metadata = {"origin": source.origin, "scaling": "none"}
    if features:
        metadata["features"] = msgspec.json.encode(list(features)).decode()
    save_weights(path, imported.weights, metadata)


Layout: TypeAlias = Literal["torch", "flax", "keras", "onnx"]
Proof: TypeAlias = tuple[Parity, FrameworkParity | None]
Weights: TypeAlias = Mapping[str, Mapping[str, Any]]

EXPORT_SUFFIXES: Mapping[Layout, str] = {
    "torch": SUFFIX,
    "flax": SUFFIX,
    "keras": ".keras",
    "onnx": ".onnx",
}

WINDOWS = 20
"""Windows of a proof whose reference takes one step at a time."""

WINDOW = 100


class Exported(NamedTuple):
    """What was written, and its proofs; `features` is a JSON list, "" where not known."""

    layout: Layout
    parity: Parity
    framework: FrameworkParity | None
    features: str


def layout_of(out: Path, layout: str | None) -> Layout:
    """Return the layout of a file, by its suffix and by what was asked for.

    Raises UsageError for a suffix that no layout has, or that this one has not.
    """
    fitting: list[Layout] = [
        name for name, suffix in EXPORT_SUFFIXES.items() if suffix == out.suffix.lower()
    ]
    if not fitting:
        known = ", ".join(sorted(set(EXPORT_SUFFIXES.values())))
        raise UsageError(f"{out}: weights are exported to {known}, not {out.suffix or 'none'}")
    if layout is None:
        return fitting[0]
    if layout not in fitting:
        raise UsageError(f"--layout {layout} is not for {out}; its layouts: {', '.join(fitting)}")
    return fitting[fitting.index(layout)]


def export(path: Path, out: Path, layout: Layout) -> Exported:
    """Write the weights in `path` to `out` in a layout, proved.

    Raises what `load_weights` raises, UsageError where a package is missing, StreamLSTMError
    where the proof fails, and OutputError where nothing can be written. What `out` held stays
    unless all goes well.
    """
    weights, metadata = load_weights(path)
    weights = {name: body for name, body in weights.items() if name.startswith(("layer_", "head"))}
    features = metadata.get("features", "")
    data, check = WRITERS[layout](weights, features, out)
    with _partial(out) as partial:
        try:
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            parity, framework = check(partial)
        except OSError as error:
            raise OutputError(f"cannot write {out}: {error.strerror or error}") from None
        require(parity.worst, parity.reference)
        if framework is not None and framework.p is not None:
            require(framework.p, framework.framework)
        partial.replace(out)
    return Exported(layout, parity, framework, features)


@contextlib.contextmanager
def _partial(out: Path) -> Iterator[Path]:
    """Give a place beside `out`, with its suffix; what is left there at the end goes."""
    partial = out.with_name(f"{out.stem}.partial{out.suffix}")
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def _metadata(features: str) -> dict[str, str]:
    # "pt" is what libraries of the field write and some ask for.
    return {"format": "pt", "producer": "stream-lstm", "scaling": "not included"} | (
        {"features": features} if features else {}
    )


def _torch(weights: Weights, features: str, out: Path) -> tuple[bytes, Callable[[Path], Proof]]:  # noqa: ARG001
    def check(partial: Path) -> Proof:
        source = torch_network(partial, read_tensors(partial), "PyTorch state_dict")
        return prove(weights, source), against_torch(weights, source)

    return safetensors.numpy.save(torch_tensors(weights), metadata=_metadata(features)), check


def _flax(weights: Weights, features: str, out: Path) -> tuple[bytes, Callable[[Path], Proof]]:  # noqa: ARG001
    def check(partial: Path) -> Proof:
        tensors = read_tensors(partial)
        name = "flax.linen.OptimizedLSTMCell"
        run = lambda xs: flax_logits(tensors, xs)  # noqa: E731
        return prove_by(weights, run, name, windows=WINDOWS, window=WINDOW), None

    metadata = _metadata(features) | {"format": "flax"}
    return safetensors.numpy.save(flax_tensors(weights), metadata=metadata), check


def _keras(weights: Weights, features: str, out: Path) -> tuple[bytes, Callable[[Path], Proof]]:  # noqa: ARG001
    h5py = need("h5py", "keras", out)

    def check(partial: Path) -> Proof:
        source = keras_network(read_keras(partial))
        return prove(weights, source), against_keras(partial, weights, source)

    return keras_bytes(h5py, weights), check


def _onnx(weights: Weights, features: str, out: Path) -> tuple[bytes, Callable[[Path], Proof]]:
    onnx = need("onnx", "onnx", out)

    def check(partial: Path) -> Proof:
        data = partial.read_bytes()
        name, _ = onnx_logits(onnx, data, np.zeros((0, 0, 0), np.float32))
        run = lambda xs: onnx_logits(onnx, data, xs)[1]  # noqa: E731
        return prove_by(weights, run, name, windows=WINDOWS, window=WINDOW), None

    return onnx_bytes(onnx, weights, features), check


WRITERS: Mapping[Layout, Callable[[Weights, str, Path], tuple[bytes, Callable[[Path], Proof]]]] = {
    "torch": _torch,
    "flax": _flax,
    "keras": _keras,
    "onnx": _onnx,
}
