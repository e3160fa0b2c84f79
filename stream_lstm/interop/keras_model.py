"""Files of Keras: models as a `SourceNetwork`, and our weights as a model.

```
.keras        a zip of metadata.json (version), config.json (layers) and model.weights.h5, where
              layers/NAME/cell/vars/0, 1, 2 are kernel, recurrent kernel and bias of an LSTM, and
              layers/NAME/vars/0, 1 kernel and bias of a dense layer. NAME counts the layers of
              a class (lstm, lstm_1, ...); newer files also have the layer's own name.
.h5, .hdf5    attributes model_config and keras_version, and model_weights/LAYER, whose attribute
              weight_names lists paths that end in kernel:0 (Keras 2) or kernel (Keras 3).
```

Reading executes nothing and follows no link: it reads arrays and JSON only, up to a limit.

A model must be a chain of layers: a `Sequential` model, or a functional model in which each layer
is used once and has one input. LSTM layers with tanh and sigmoid and one dense head convert
exactly. Layers that do nothing outside training are skipped. An error names any other layer.

The hard sigmoid, an old default of Keras for the gates, is two functions: clip(0.2 x + 0.5, 0, 1)
until Keras 2, and relu6(x + 3) / 6 from Keras 3. Neither is a sigmoid; the error names the one.

An exported `.keras` file, for Keras 3, takes windows of any length and starts each from a zero
state, as mode `window` does.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeAlias

import numpy as np

from ..errors import DataError, InputMissingError, OutputError
from ..feed.reader import check_plain
from ..typing import Float64s
from .extras import need
from .source import HeadActivation, SourceHead, SourceLayer, SourceNetwork, check_sizes, unpack


class Layer(NamedTuple):
    """A layer: its class, name and settings; `k` counts the layers of its class from 0."""

    kind: str
    name: str
    config: dict[str, Any]
    k: int

    def __str__(self) -> str:
        return f"{self.kind} layer {self.name!r}"


def chain(path: Path, config: dict[str, Any]) -> list[Layer]:
    """Return the layers of a model in order; DataError if they are not a chain."""
    kind, body = config.get("class_name"), config.get("config")
    entries = body.get("layers") if isinstance(body, dict) else body  # a list in Keras 2.0 to 2.2
    if kind not in ("Sequential", "Functional", "Model") or not isinstance(entries, list):
        raise DataError(
            f"{path} has a {kind}, which is not a Sequential or functional model of layers"
        )
    layers: list[Layer] = []
    for entry in entries:
        name = str(entry["config"].get("name", entry.get("name", "")))
        own = str(entry.get("registered_name"))  # "PACKAGE>CLASS" for a user's class
        layer_kind = own if ">" in own else str(entry["class_name"])
        k = sum(layer.kind == layer_kind for layer in layers)
        layers.append(Layer(layer_kind, name, entry["config"], k))
    if kind == "Sequential":
        return layers
    outputs = body.get("output_layers", []) if isinstance(body, dict) else []
    if sum(1 for _ in _histories(outputs)) > 1:
        raise DataError(f"{path}: the model has several outputs; one is supported")
    sources = {
        str(entry.get("name", layer.name)): _source(path, layer, entry)
        for layer, entry in zip(layers, entries, strict=True)
    }
    return _ordered(path, {layer.name: layer for layer in layers}, sources)


def _source(path: Path, layer: Layer, entry: dict[str, Any]) -> str | None:
    """Return the name of the layer whose output this one takes; None for an input."""
    nodes = entry.get("inbound_nodes", [])
    names = list(_histories(nodes))
    if not nodes and layer.kind == "InputLayer":
        return None
    if len(nodes) != 1 or len(names) != 1:
        raise DataError(
            f"{path}: the {layer} takes {len(names)} inputs in {len(nodes)} places; only a chain "
            "of layers is supported"
        )
    return names[0]


def _histories(value: Any) -> Iterator[str]:
    """Yield the names of layers in a record of inputs, in the forms of Keras 2 and 3."""
    if isinstance(value, dict):
        if "keras_history" in value:
            yield str(value["keras_history"][0])
            return
        for part in value.values():
            yield from _histories(part)
    elif isinstance(value, list):
        if len(value) >= 3 and isinstance(value[0], str) and value[1:3] == [int(value[1]), 0]:
            yield value[0]
            value = value[3:]
        for part in value:
            yield from _histories(part)


def _ordered(path: Path, layers: dict[str, Layer], sources: dict[str, str | None]) -> list[Layer]:
    followers = {source: name for name, source in sources.items()}
    order: list[Layer] = []
    name = followers.get(None)
    while name is not None and len(order) < len(layers):
        order.append(layers[name])
        name = followers.get(name)
    if len(order) != len(layers) or len(followers) != len(layers):
        raise DataError(f"{path}: its layers branch; only a chain of layers is supported")
    return order


HDF5_SUFFIXES = (".h5", ".hdf5")
SUFFIXES = (".keras", *HDF5_SUFFIXES)

MAX_TEXT = 64 * 1024 * 1024
"""Bytes of a description: a real one has kilobytes, but a zip may unpack to any size."""

MAX_BYTES = 2 * 1024**3
"""Bytes of all arrays together, far above those of the largest supported network."""

Arrays: TypeAlias = dict[str, np.ndarray]
Lookup: TypeAlias = Callable[[str, str, int], Arrays]


class KerasFile(NamedTuple):
    """`arrays(class, layer name, k)` gives the arrays of the k-th layer of a class by name."""

    path: Path
    version: str
    config: dict[str, Any]
    arrays: Lookup


def read_keras(path: Path) -> KerasFile:
    """Return the content of a file.

    Raises InputMissingError and OutputError if it cannot be read, UsageError if h5py is missing,
    and DataError if it is damaged or has weights without layers.
    """
    h5py = need("h5py", "keras", path)
    check_plain(path, directories=False)
    try:
        path.open("rb").close()
        read = _read_hdf5 if path.suffix.lower() in HDF5_SUFFIXES else _read_zip
        return read(h5py, path)
    except FileNotFoundError:
        raise InputMissingError(f"no such model: {path}") from None
    except (IsADirectoryError, PermissionError) as error:
        raise OutputError(f"cannot read {path}: {error.strerror}") from None
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise DataError(f"{path} is damaged or not a Keras file: {error}") from None
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"incomplete Keras file {path}: {error}") from None


def _read_zip(h5py: Any, path: Path) -> KerasFile:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        for wanted in ("config.json", "model.weights.h5"):
            if wanted not in names:
                raise DataError(f"incomplete Keras file {path}: it has no {wanted}")
        config = _json(path, _member(archive, "config.json", MAX_TEXT))
        about = _member(archive, "metadata.json", MAX_TEXT) if "metadata.json" in names else b"{}"
        weights = _member(archive, "model.weights.h5", MAX_BYTES)
    with h5py.File(io.BytesIO(weights), "r") as file:
        arrays, groups = _contents(h5py, path, file)
    version = str(_json(path, about).get("keras_version", "of unknown version"))
    return KerasFile(path, version, config, _counted(arrays, groups))


def _member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    with archive.open(name) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"{name} is larger than {limit} bytes")
    return data


def _json(path: Path, text: bytes | str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise DataError(f"incomplete Keras file {path}: its description is not a JSON object")
    return value


def _contents(h5py: Any, path: Path, top: Any) -> tuple[Arrays, dict[str, dict[str, Any]]]:
    """Return ({path: array}, {path of a group: attributes}), following hard links only."""
    arrays: Arrays = {}
    groups: dict[str, dict[str, Any]] = {}
    left = MAX_BYTES

    def visit(name: str, node: Any) -> None:
        nonlocal left
        if not isinstance(node, h5py.Dataset):
            groups[name] = dict(node.attrs)
            return
        if node.dtype.kind not in "fiu":
            return  # text and other objects are not weights
        left -= node.size * node.dtype.itemsize
        if left < 0 or node.external or node.is_virtual:
            raise DataError(
                f"{path}: {name} has more than {MAX_BYTES} bytes, or is in another file"
            )
        arrays[name] = np.asarray(node[()])

    top.visititems(visit)
    return arrays, groups


def _counted(arrays: Arrays, groups: dict[str, dict[str, Any]]) -> Lookup:
    """Return the lookup of a .keras file."""
    homes = [re.escape(home) for home in ("layers", "_layer_checkpoint_dependencies")]
    pattern = re.compile(rf"(?:{'|'.join(homes)})/([^/]+)/vars")
    named = {
        str(about["name"]): match[1]
        for group, about in groups.items()
        if (match := pattern.fullmatch(group)) and "name" in about
    }
    names = {"LSTM": ("kernel", "recurrent_kernel", "bias"), "Dense": ("kernel", "bias")}

    def lookup(kind: str, layer: str, k: int) -> Arrays:
        group = named.get(layer) or kind.lower() + (f"_{k}" if k else "")
        inner = "cell/vars" if kind == "LSTM" else "vars"
        tail = re.compile(rf"(?:{'|'.join(homes)})/{re.escape(group)}/{inner}/(\d+)")
        found = {
            int(match[1]): array for at, array in arrays.items() if (match := tail.fullmatch(at))
        }
        return {name: found[n] for n, name in enumerate(names[kind]) if n in found}

    return lookup


def _read_hdf5(h5py: Any, path: Path) -> KerasFile:
    with h5py.File(path, "r") as file:
        about = dict(file.attrs)
        if "model_config" not in about or "model_weights" not in file:
            raise DataError(
                f"{path} has weights without their layers; save the whole model with model.save"
            )
        config = _json(path, _text(about["model_config"]))
        arrays, groups = _contents(h5py, path, file["model_weights"])
    version = _text(about.get("keras_version", "of unknown version"))

    def lookup(kind: str, layer: str, k: int) -> Arrays:  # noqa: ARG001
        weights = groups.get(layer, {}).get("weight_names", ())
        paths = [_text(name) for name in weights]
        return {
            at.rsplit("/", 1)[-1].removesuffix(":0"): arrays[f"{layer}/{at}"]
            for at in paths
            if f"{layer}/{at}" in arrays
        }

    return KerasFile(path, version, config, lookup)


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


NOTHING = (
    "ActivityRegularization", "AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise",
    "InputLayer", "SpatialDropout1D",
)  # fmt: skip
"""Layers that pass their input on unchanged outside training."""

HELP = "see 'stream-lstm help interop'"

FULL_PRECISION = ("float32", "float64")

BACKWARDS = "it also reads the series backwards, and a live series has no end to start from"
CELL = "its cell is not an LSTM's"
NORMALISATION = "normalisation between layers is not supported"

REASONS = {
    "Bidirectional": BACKWARDS,
    "GRU": CELL,
    "SimpleRNN": CELL,
    "RNN": "it may have any cell; use LSTM",
    "CuDNNLSTM": "its weights are in another order; save the model with LSTM layers",
    "ConvLSTM1D": CELL,
    "Masking": "a masked element leaves the state unchanged; remove such elements from the series",
    "BatchNormalization": NORMALISATION,
    "LayerNormalization": NORMALISATION,
    "Normalization": "inputs are not centred here; normalise the series itself",
}


def keras_network(file: KerasFile) -> SourceNetwork:
    """Return the network of a file; DataError names an unsupported layer."""
    try:
        return _network(file)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"{file.path} has an unknown description of its layers: {error!r}"
        ) from None


def _network(file: KerasFile) -> SourceNetwork:
    path, order = file.path, chain(file.path, file.config)
    working = [layer for layer in order if layer.kind not in NOTHING]
    recurrent = [layer for layer in working if layer.kind == "LSTM"]
    heads = working[len(recurrent) :]
    for layer in working:
        if layer.kind not in ("LSTM", "Dense", "TimeDistributed", "Activation"):
            why = REASONS.get(layer.kind, "the network must have LSTM layers and one dense output")
            _refuse(path, layer, why)
    if not recurrent or working[: len(recurrent)] != recurrent:
        _refuse(path, working[0] if working else None, "the first layer must be an LSTM")
    layers = tuple(_lstm(file, layer) for layer in recurrent)
    head = _head(file, heads)
    check_sizes(path, layers, head)
    batch, window = _input_shape(order)
    stateful = any(layer.config.get("stateful") for layer in recurrent)
    arrays = [file.arrays(layer.kind, layer.name, layer.k) for layer in recurrent]
    dtypes = sorted({str(array.dtype) for layer in arrays for array in layer.values()})
    exact = all(_policy(layer) in FULL_PRECISION for layer in working)
    origin = f"Keras {file.version} {file.config['class_name']}"
    return SourceNetwork(
        origin,
        layers,
        head,
        window,
        stateful,
        tuple(dtypes),
        exact,
        _notes(working, head, stateful, batch),
    )


def _refuse(path: Path, layer: Layer | None, why: str) -> NoReturn:
    subject = "the model" if layer is None else f"the {layer}"
    raise DataError(f"{path}: {subject} is not supported: {why}; {HELP}")


def activation(layer: Layer, key: str) -> str:
    """Return the name of an activation; that of a user's function is "PACKAGE>NAME"."""
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
            _refuse(path, layer, f"it has no {key}, like files of Keras 1")
        if (found := activation(layer, key)) != wanted:
            _refuse(path, layer, f"its {key} is {_meaning(found, file.version)}, not {wanted}")
    for key in ("go_backwards", "return_state", "time_major"):
        if config.get(key):
            _refuse(path, layer, f"{key} is not possible on a live series")
    _check_policy(path, layer)
    units, bias = int(config["units"]), bool(config["use_bias"])
    arrays = file.arrays("LSTM", layer.name, layer.k)
    kernel = _array(path, layer, arrays, "kernel", (None, 4 * units))
    recurrent = _array(path, layer, arrays, "recurrent_kernel", (units, 4 * units))
    biases = (_array(path, layer, arrays, "bias", (4 * units,)),) if bias else ()
    return SourceLayer(layer.name, kernel, recurrent, biases)


def _meaning(name: str, version: str) -> str:
    if name != "hard_sigmoid":
        return name
    major = re.match(r"\d+", version)
    if major is None:
        return "hard_sigmoid (of an unknown version of Keras)"
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
        raise DataError(f"{path}: a dense layer with one output must follow the LSTM layers")
    dense, arrays = layers[0], file.arrays("Dense", layers[0].name, layers[0].k)
    if dense.kind == "TimeDistributed":
        _refuse(path, dense, "save the model with a Dense layer, which computes the same")
    if dense.kind != "Dense":
        _refuse(path, dense, "a dense layer must follow the LSTM layers")
    kinds = [activation(layer, "activation") for layer in layers]
    for layer in layers[1:]:
        if layer.kind != "Activation" or kinds[0] != "linear" or len(layers) > 2:
            _refuse(path, layer, "only one dense layer can follow the LSTM layers")
    units, last = int(dense.config["units"]), kinds[-1]
    allowed = {1: ("linear", "sigmoid"), 2: ("softmax",)}.get(units, ())
    if last not in allowed:
        _refuse(
            path,
            dense,
            f"it has {units} unit{'s' * (units > 1)} and the activation {last}; the output must "
            "be one unit, linear or sigmoid, or two with a softmax",
        )
    _check_policy(path, dense)
    kernel = _array(path, dense, arrays, "kernel", (None, units))
    zero = np.zeros(units)
    bias = _array(path, dense, arrays, "bias", (units,)) if dense.config["use_bias"] else zero
    kind: HeadActivation = last  # type: ignore[assignment]
    return SourceHead(dense.name, kernel, bias, kind)


def _array(
    path: Path, layer: Layer, arrays: Arrays, name: str, shape: tuple[int | None, ...]
) -> Float64s:
    if name not in arrays:
        raise DataError(f"{path}: the {name} of the {layer} is missing")
    array = np.asarray(arrays[name], np.float64)
    fits = len(array.shape) == len(shape) and all(
        size in (None, own) for size, own in zip(shape, array.shape, strict=True)
    )
    if not fits or not array.size:
        wanted = tuple("any" if size is None else size for size in shape)
        raise DataError(
            f"{path}: the {name} of the {layer} has the shape {array.shape}, not {wanted}"
        )
    return array


def _input_shape(order: list[Layer]) -> tuple[int | None, int | None]:
    """Return (batch, elements) of the input; None is any number."""
    for layer in order[:2]:
        for key in ("batch_shape", "batch_input_shape"):
            if isinstance(shape := layer.config.get(key), list) and len(shape) == 3:
                return shape[0], shape[1]
    return None, None


def _notes(
    working: list[Layer], head: SourceHead, stateful: bool, batch: int | None
) -> tuple[str, ...]:
    notes = []
    if head.activation == "linear":
        notes.append(
            f"the output of {head.name!r} has no activation: it is used as the logit of a "
            "positive next element"
        )
    if head.activation == "softmax":
        notes.append(f"the second output of {head.name!r} is used as positive")
    for layer in working:
        if (policy := _policy(layer)) not in FULL_PRECISION:
            notes.append(f"the layer {layer.name!r} was computed in {policy}; now in float32")
            break
    if stateful:
        size = f" over a batch of {batch}" if batch else ""
        notes.append(f"the model is stateful{size}: mode carry keeps its state too")
    return tuple(notes)


VERSION = "3.0.0"
"""The first version that reads this layout."""

EPOCH = (1980, 1, 1, 0, 0, 0)
"""A fixed time, so that the same weights give the same bytes."""


def keras_bytes(h5py: Any, weights: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Return the file."""
    network = unpack(weights, "")
    shape = [None, None, network.features]
    layers = [_entry("InputLayer", name="elements", batch_shape=shape, dtype="float32")]
    arrays: dict[str, Any] = {
        "layers/dense/vars/0": network.head.kernel,
        "layers/dense/vars/1": network.head.bias,
    }
    for k, layer in enumerate(network.layers):
        layers.append(
            _entry(
                "LSTM",
                name=f"layer_{k}",
                units=layer.units,
                activation="tanh",
                recurrent_activation="sigmoid",
                use_bias=True,
                return_sequences=k < len(network.layers) - 1,
            )
        )
        home = "layers/lstm" + (f"_{k}" if k else "") + "/cell/vars"
        parts = layer.kernel, layer.recurrent, layer.biases[0]
        arrays |= {f"{home}/{n}": part for n, part in enumerate(parts)}
    layers.append(_entry("Dense", name="head", units=1, activation="sigmoid", use_bias=True))
    config = _entry("Sequential", name="stream_lstm", layers=layers, build_input_shape=shape)
    hdf5 = io.BytesIO()
    with h5py.File(hdf5, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=np.asarray(array, np.float32))
    members = {
        "metadata.json": json.dumps({"keras_version": VERSION}).encode(),
        "config.json": json.dumps(config | {"module": "keras"}).encode(),
        "model.weights.h5": hdf5.getvalue(),
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
