"""A model's file to our weights: read, convert, prove, and only then write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from ..errors import UsageError
from ..store.weights import save_weights
from . import keras_file, torch_file
from .frameworks import FrameworkParity, against_keras, against_torch
from .keras_model import keras_network
from .packing import Kernels, pack
from .parity import Parity, prove, require
from .source import SourceNetwork
from .torch_state import torch_network

SUFFIXES = (*keras_file.SUFFIXES, *torch_file.SUFFIXES)


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
    if suffix in keras_file.SUFFIXES:
        return keras_network(keras_file.read_keras(path))
    if suffix in torch_file.SUFFIXES:
        origin = "PyTorch state_dict"
        return torch_network(path, torch_file.read_tensors(path), origin)
    raise UsageError(f"{path}: a model is a file of {', '.join(SUFFIXES)}, not {suffix or 'none'}")


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
        keras = path.suffix.lower() in keras_file.SUFFIXES
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
