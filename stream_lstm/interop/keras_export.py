"""Our weights as a `.keras` file that Keras 3 loads: input, LSTM layers, one dense sigmoid.

The model takes windows of any length and starts each from a zero state, as mode `window` does.
The layout is that of `keras_file`.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from .packing import unpack
from .source import SourceLayer

VERSION = "3.0.0"
"""The first version that reads this layout."""

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The same weights give the same bytes, whatever the hour."""


def keras_bytes(h5py: Any, weights: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Return the file."""
    network = unpack(weights, "")
    last = len(network.layers) - 1
    layers = [_input(network.features)]
    layers += [_lstm(k, layer, every=k < last) for k, layer in enumerate(network.layers)]
    layers.append(_entry("Dense", name="head", units=1, activation="sigmoid", use_bias=True))
    shape = [None, None, network.features]
    config = _entry("Sequential", name="stream_lstm", layers=layers, build_input_shape=shape)
    arrays: dict[str, Any] = {
        "layers/dense/vars/0": network.head.kernel,
        "layers/dense/vars/1": network.head.bias,
    }
    for k, layer in enumerate(network.layers):
        home = "layers/lstm" + (f"_{k}" if k else "") + "/cell/vars"
        parts = layer.kernel, layer.recurrent, layer.biases[0]
        arrays |= {f"{home}/{n}": part for n, part in enumerate(parts)}
    members = {
        "metadata.json": json.dumps({"keras_version": VERSION}).encode(),
        "config.json": json.dumps(config | {"module": "keras"}).encode(),
        "model.weights.h5": _hdf5(h5py, arrays),
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, EPOCH), data)
    return out.getvalue()


def _entry(kind: str, **config: Any) -> dict[str, Any]:
    return {
        "module": "keras.layers",
        "class_name": kind,
        "config": config,
        "registered_name": None,
    }


def _input(features: int) -> dict[str, Any]:
    shape = [None, None, features]
    return _entry("InputLayer", name="elements", batch_shape=shape, dtype="float32")


def _lstm(k: int, layer: SourceLayer, *, every: bool) -> dict[str, Any]:
    return _entry(
        "LSTM",
        name=f"layer_{k}",
        units=layer.units,
        activation="tanh",
        recurrent_activation="sigmoid",
        use_bias=True,
        return_sequences=every,
    )


def _hdf5(h5py: Any, arrays: Mapping[str, Any]) -> bytes:
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=np.asarray(array, np.float32))
    return out.getvalue()
