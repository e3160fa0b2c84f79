"""From separate arrays to our packed kernels and back.

Layers of unequal size are padded with units that do nothing: their columns are zero, so g =
tanh(0) = 0, c stays 0 and h = 0, and the rows that read them are zero too. That is exact. Two
biases are added up, and two scores subtracted, in float64 before the one rounding to float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..config import build
from ..errors import ConfigurationError, DataError
from ..tables import MAX_LAYERS
from .source import F64, SourceHead, SourceLayer, SourceNetwork

Kernels: TypeAlias = dict[str, dict[str, npt.NDArray[np.float32]]]


def pack(source: SourceNetwork) -> Kernels:
    """Return {layer: {"kernel": float32 array}} in the form of `model.network`.

    Raises DataError for a number that is not finite in float32, and for more layers or units than
    can be configured.
    """
    hidden = max(layer.units for layer in source.layers)
    if len(source.layers) > MAX_LAYERS:
        raise DataError(
            f"the model has {len(source.layers)} LSTM layers ({_names(source)}); this program "
            f"runs {MAX_LAYERS} at most"
        )
    try:
        build({"hidden": hidden})
    except ConfigurationError as error:
        raise DataError(f"the model has layers of {hidden} units: {error}") from None
    wide = {
        f"layer_{k}": _pack_layer(layer, hidden, padded=k > 0)
        for k, layer in enumerate(source.layers)
    }
    wide["head"] = _pack_head(source.head, hidden)
    return {name: {"kernel": _narrow(name, kernel)} for name, kernel in wide.items()}


def _names(source: SourceNetwork) -> str:
    return ", ".join(layer.name for layer in source.layers)


def _pack_layer(layer: SourceLayer, hidden: int, *, padded: bool) -> F64:
    """Return (I + H + 1, 4H); `padded` where the input is the output of a layer as wide."""
    units, inputs = layer.units, len(layer.kernel)
    rows = hidden if padded else inputs
    packed = np.zeros((rows + hidden + 1, 4, hidden))
    packed[:inputs, :, :units] = layer.kernel.reshape(inputs, 4, units)
    packed[rows : rows + units, :, :units] = layer.recurrent.reshape(units, 4, units)
    packed[-1, :, :units] = sum(layer.biases, np.zeros(4 * units)).reshape(4, units)
    return packed.reshape(rows + hidden + 1, 4 * hidden)


def _pack_head(head: SourceHead, hidden: int) -> F64:
    packed = np.zeros(hidden + 1)
    two = head.kernel.shape[1] == 2
    packed[: len(head.kernel)] = head.kernel[:, -1] - head.kernel[:, 0] * two
    packed[-1] = head.bias[-1] - head.bias[0] * two
    return packed


def _narrow(name: str, kernel: F64) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):
        single = kernel.astype(np.float32)
    if not np.isfinite(single).all():
        raise DataError(f"the weights of {name} hold a number that is not finite in float32")
    return single


def unpack(weights: Mapping[str, Mapping[str, Any]], origin: str) -> SourceNetwork:
    """Return packed weights as separate arrays in float64, one bias for each layer."""
    head = np.asarray(weights["head"]["kernel"], np.float64)
    hidden = len(head) - 1
    layers: list[SourceLayer] = []
    while (name := f"layer_{len(layers)}") in weights:
        kernel = np.asarray(weights[name]["kernel"], np.float64)
        cut = len(kernel) - hidden - 1
        layers.append(SourceLayer(name, kernel[:cut], kernel[cut:-1], (kernel[-1],)))
    linear = SourceHead("head", head[:-1, None], head[-1:], "linear")
    return SourceNetwork(origin, tuple(layers), linear)
