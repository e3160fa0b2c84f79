"""A Keras model as a `SourceNetwork`, or the layer that our cell cannot compute, and why.

LSTM layers with tanh and sigmoid, and one dense head, are taken over exactly. Layers that do
nothing outside training are passed over. The old standard of Keras for the gates, the hard
sigmoid, is two functions: clip(0.2 x + 0.5, 0, 1) until Keras 2 and relu6(x + 3) / 6 from Keras
3; neither is a sigmoid, and which one is meant is said.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ..errors import DataError
from .keras_file import KerasFile
from .keras_layers import Layer, chain
from .source import F64, HeadActivation, SourceHead, SourceLayer, SourceNetwork, check_sizes

NOTHING = (
    "ActivityRegularization", "AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise",
    "InputLayer", "SpatialDropout1D",
)  # fmt: skip
"""Layers that pass their input on unchanged outside training."""

FULL_PRECISION = ("float32", "float64")

WHY = {
    "Bidirectional": "it reads the series backwards too, and a live series has no end to start at",
    "GRU": "its cell is not an LSTM's",
    "SimpleRNN": "its cell is not an LSTM's",
    "RNN": "it may hold any cell; use LSTM",
    "CuDNNLSTM": "it holds its weights in an order of its own; save the model with LSTM layers",
    "ConvLSTM1D": "its cell is not a plain LSTM's",
    "Masking": "a masked element leaves the state alone; leave such elements out of the series",
    "BatchNormalization": "our network has no normalisation between its layers",
    "LayerNormalization": "our network has no normalisation between its layers",
    "Normalization": "our network does not centre; normalise the series itself",
}


def keras_network(file: KerasFile) -> SourceNetwork:
    """Return the network of a file; DataError names the layer that has no place in it."""
    try:
        return _network(file)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{file.path} describes its layers in an unknown way: {error!r}") from None


def _network(file: KerasFile) -> SourceNetwork:
    path, order = file.path, chain(file.path, file.config)
    working = [layer for layer in order if layer.kind not in NOTHING]
    recurrent = [layer for layer in working if layer.kind == "LSTM"]
    heads = working[len(recurrent) :]
    for layer in working:
        if layer.kind not in ("LSTM", "Dense", "TimeDistributed", "Activation"):
            why = WHY.get(layer.kind, "our network is LSTM layers and one dense output")
            _refuse(path, layer, why)
    if not recurrent or working[: len(recurrent)] != recurrent:
        _refuse(path, working[0] if working else None, "the first layer must be an LSTM")
    layers = tuple(_lstm(file, layer) for layer in recurrent)
    head = _head(file, heads)
    check_sizes(path, layers, head)
    batch, window = _input_shape(order)
    stateful = any(layer.config.get("stateful") for layer in recurrent)
    arrays = [file.arrays(layer.kind, layer.name, layer.k) for layer in recurrent]
    dtypes = sorted({str(array.dtype) for held in arrays for array in held.values()})
    notes = (*_notes(working, head), *_stateful_note(stateful, batch))
    exact = all(_policy(layer) in FULL_PRECISION for layer in working)
    origin = f"Keras {file.version} {file.config['class_name']}"
    return SourceNetwork(origin, layers, head, window, stateful, tuple(dtypes), exact, notes)


def _refuse(path: Path, layer: Layer | None, why: str) -> NoReturn:
    subject = "the model" if layer is None else f"the {layer}"
    raise DataError(f"{path}: {subject} cannot be taken over: {why}")


def activation(layer: Layer, key: str) -> str:
    """Return the name of an activation; a function of the user's own is "PACKAGE>NAME"."""
    value = layer.config[key]
    if isinstance(value, dict):
        own = value.get("registered_name") not in (None, "function", value.get("config"))
        body = value.get("config")
        name = body if isinstance(body, str) else value.get("class_name")
        return str(value["registered_name"] if own else name).lower()
    return "linear" if value is None else str(value)


def _lstm(file: KerasFile, layer: Layer) -> SourceLayer:
    path, config = file.path, layer.config
    for key, wanted in (("activation", "tanh"), ("recurrent_activation", "sigmoid")):
        if key not in config:
            _refuse(path, layer, f"it does not say its {key}, as files of Keras 1 do not")
        if (found := activation(layer, key)) != wanted:
            _refuse(path, layer, f"its {key} is {_meaning(found, file.version)}, not {wanted}")
    for key in ("go_backwards", "return_state", "time_major"):
        if config.get(key):
            _refuse(path, layer, f"{key} is set, and there is no such thing on a live series")
    _check_policy(path, layer)
    units, bias = int(config["units"]), bool(config["use_bias"])
    held = file.arrays("LSTM", layer.name, layer.k)
    kernel = _array(path, layer, held, "kernel", (None, 4 * units))
    recurrent = _array(path, layer, held, "recurrent_kernel", (units, 4 * units))
    biases = (_array(path, layer, held, "bias", (4 * units,)),) if bias else ()
    return SourceLayer(layer.name, kernel, recurrent, biases)


def _meaning(name: str, version: str) -> str:
    if name != "hard_sigmoid":
        return name
    major = re.match(r"\d+", version)
    if major is None:
        return "hard_sigmoid (of a Keras that the file does not name)"
    new = int(major[0]) >= 3
    formula = "relu6(x + 3) / 6" if new else "clip(0.2 x + 0.5, 0, 1)"
    return f"hard_sigmoid, in Keras {major[0]} {formula}"


def _check_policy(path: Path, layer: Layer) -> None:
    name = _policy(layer)
    if re.search(r"int|float8|quant", name) or layer.config.get("quantization_config"):
        _refuse(path, layer, f"its weights are quantized ({name})")


def _policy(layer: Layer) -> str:
    value = layer.config.get("dtype")
    while isinstance(value, dict):
        value = value["config"]["name"] if "name" in value["config"] else value["config"]
    return str(value or "float32")


def _head(file: KerasFile, layers: list[Layer]) -> SourceHead:
    path = file.path
    if not layers:
        raise DataError(
            f"{path}: after its LSTM layers comes no dense layer that makes one output"
        )
    dense, shape = layers[0], file.arrays("Dense", layers[0].name, layers[0].k)
    if dense.kind == "TimeDistributed":
        _refuse(path, dense, "save the model with a plain Dense layer, which does the same")
    if dense.kind != "Dense":
        _refuse(path, dense, "a dense layer must come after the LSTM layers")
    kinds = [activation(layer, "activation") for layer in layers]
    for layer in layers[1:]:
        if layer.kind != "Activation" or kinds[0] != "linear" or len(layers) > 2:
            _refuse(path, layer, "only one dense layer can come after the LSTM layers")
    units, last = int(dense.config["units"]), kinds[-1]
    allowed = {1: ("linear", "sigmoid"), 2: ("softmax",)}.get(units, ())
    if last not in allowed:
        _refuse(
            path,
            dense,
            f"it has {units} unit{'s' * (units > 1)} and the activation {last}; the output is one "
            "unit, linear or sigmoid, or two with a softmax",
        )
    _check_policy(path, dense)
    kernel = _array(path, dense, shape, "kernel", (None, units))
    zero = np.zeros(units)
    bias = _array(path, dense, shape, "bias", (units,)) if dense.config["use_bias"] else zero
    kind: HeadActivation = last  # type: ignore[assignment]
    return SourceHead(dense.name, kernel, bias, kind)


def _array(
    path: Path, layer: Layer, found: dict[str, Any], name: str, shape: tuple[int | None, ...]
) -> F64:
    if name not in found:
        raise DataError(f"{path}: the {name} of the {layer} is missing")
    array = np.asarray(found[name], np.float64)
    fits = len(array.shape) == len(shape) and all(
        want in (None, have) for want, have in zip(shape, array.shape, strict=False)
    )
    if not fits or not array.size:
        wanted = tuple("any" if size is None else size for size in shape)
        raise DataError(
            f"{path}: the {name} of the {layer} has the shape {array.shape}, not {wanted}"
        )
    return array


def _input_shape(order: list[Layer]) -> tuple[int | None, int | None]:
    """Return (batch, elements) of the input, None where they are free."""
    for layer in order[:2]:
        for key in ("batch_shape", "batch_input_shape"):
            if isinstance(shape := layer.config.get(key), list) and len(shape) == 3:
                return shape[0], shape[1]
    return None, None


def _notes(working: list[Layer], head: SourceHead) -> list[str]:
    notes = []
    if head.activation == "linear":
        notes.append(
            f"the output of {head.name!r} has no activation: it is taken as the logit of a "
            "positive next element"
        )
    if head.activation == "softmax":
        notes.append(f"of the two outputs of {head.name!r}, the second is taken as positive")
    low = {layer.name: _policy(layer) for layer in working}
    if mixed := {name: policy for name, policy in low.items() if policy not in FULL_PRECISION}:
        name, policy = next(iter(mixed.items()))
        notes.append(f"the layer {name!r} was computed in {policy}; here it is in float32")
    return notes


def _stateful_note(stateful: bool, batch: int | None) -> list[str]:
    if not stateful:
        return []
    size = f" over a batch of {batch}" if batch else ""
    return [f"the model is stateful{size}: mode carry keeps its state as it did"]
