"""Files as Keras 2 and Keras 3 lay them out, written here, and what Keras computes with them.

The layouts are those of files that Keras 2.15 and 3.15 wrote; `test_frameworks` compares with
Keras itself where it is installed.
"""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np

H5PY_MISSING = "reading a file of Keras needs h5py"


def lstm(name="lstm", units=3, inputs=2, *, seed=0, sequences=False, **settings):
    """(kind, settings, arrays) of an LSTM layer."""
    rng = np.random.default_rng(seed)
    config = {
        "name": name, "trainable": True, "dtype": "float32", "return_sequences": sequences,
        "return_state": False, "go_backwards": False, "stateful": False, "unroll": False,
        "units": units, "activation": "tanh", "recurrent_activation": "sigmoid",
        "use_bias": True, "unit_forget_bias": True, "dropout": 0.0, "recurrent_dropout": 0.0,
    } | settings  # fmt: skip
    arrays = {
        "kernel": rng.normal(size=(inputs, 4 * units)),
        "recurrent_kernel": rng.normal(size=(units, 4 * units)) / np.sqrt(units),
        "bias": rng.normal(size=4 * units),
    }
    if not config["use_bias"]:
        del arrays["bias"]
    return "LSTM", config, {name: array.astype(np.float32) for name, array in arrays.items()}


def dense(name="dense", units=1, inputs=3, *, seed=9, **settings):
    rng = np.random.default_rng(seed)
    config = {"name": name, "dtype": "float32", "units": units, "activation": "sigmoid"}
    config |= {"use_bias": True} | settings
    arrays = {"kernel": rng.normal(size=(inputs, units)), "bias": rng.normal(size=units)}
    if not config["use_bias"]:
        del arrays["bias"]
    return "Dense", config, {name: array.astype(np.float32) for name, array in arrays.items()}


def other(kind, name=None, **settings):
    return kind, {"name": name or kind.lower(), "dtype": "float32"} | settings, {}


def described(layers, *, version=3, functional=False, window=None, batch=None, inputs=2):
    """The description of a model, as config.json and model_config have it."""
    key = "batch_shape" if version == 3 else "batch_input_shape"
    shape = [batch, window, inputs]
    entries = [("InputLayer", {key: shape, "dtype": "float32", "name": "input"}, {}), *layers]
    out, before = [], None
    for kind, config, _ in entries:
        entry = {"module": "keras.layers", "class_name": kind, "config": config}
        entry["registered_name"] = None
        if functional:
            entry["name"] = config["name"]
            entry["inbound_nodes"] = [] if before is None else [_node(before, version)]
        before = config["name"]
        out.append(entry)
    body = {"name": "model", "layers": out}
    if functional:
        ends = [["input", 0, 0]], [[before, 0, 0]]
        one = version == 3
        body["input_layers"] = ends[0][0] if one else ends[0]
        body["output_layers"] = ends[1][0] if one else ends[1]
    kind = "Functional" if functional else "Sequential"
    return {"module": "keras", "class_name": kind, "config": body, "registered_name": kind}


def _node(before, version):
    if version == 2:
        return [[before, 0, 0, {}]]
    history = {"shape": [None, 2], "dtype": "float32", "keras_history": [before, 0, 0]}
    tensor = {"class_name": "__keras_tensor__", "config": history}
    return {"args": [tensor], "kwargs": {"training": False, "mask": None}}


def write_keras(
    path, layers, *, version="3.15.1", names=True, config=None, home="layers", packed=False, **how
):
    """A .keras file; `names` as newer files of Keras 3: groups say the layer's own name."""
    import h5py

    counts, weights = {}, io.BytesIO()
    order = {"LSTM": ("kernel", "recurrent_kernel", "bias"), "Dense": ("kernel", "bias")}
    with h5py.File(weights, "w") as file:
        for kind, settings, arrays in layers:
            k = counts[kind] = counts.get(kind, -1) + 1
            group = file.create_group(f"{home}/{kind.lower()}" + (f"_{k}" if k else ""))
            group.create_group("vars")
            if names:
                group["vars"].attrs["name"] = settings["name"]
            inner = group.create_group("cell/vars") if kind == "LSTM" else group["vars"]
            for n, name in enumerate(order.get(kind, ())):
                if name in arrays:
                    inner[str(n)] = arrays[name]
    about = config or described(layers, version=int(version[0]), **how)
    way = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", way) as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": version}))
        archive.writestr("config.json", json.dumps(about))
        archive.writestr("model.weights.h5", weights.getvalue())
    return path


def write_h5(path, layers, *, version="2.15.0", config=None, as_bytes=True, **how):
    """A legacy .h5 file, as Keras 2 writes it, or Keras 3 with `version` 3."""
    import h5py

    old = version[0] != "3"
    about = json.dumps(config or described(layers, version=2 if old else 3, **how))
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = about.encode() if as_bytes else about
        file.attrs["keras_version"] = version.encode() if as_bytes else version
        top = file.create_group("model_weights")
        for kind, settings, arrays in layers:
            name = settings["name"]
            home = top.create_group(name)
            inner = f"{name}/lstm_cell" if kind == "LSTM" else name
            stem = inner if old else f"sequential/{inner}"
            paths = [f"{stem}/{part}" + (":0" if old else "") for part in arrays]
            for at, array in zip(paths, arrays.values(), strict=True):
                home[at] = array
            home.attrs["weight_names"] = [at.encode() for at in paths] if as_bytes else paths
    return path


def scores(layers, windows):
    """What Keras computes before the last activation, for windows (B, T, F): (B, units)."""
    xs = np.asarray(windows, np.float64)
    for kind, settings, arrays in layers:
        held = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
        if kind == "LSTM":
            xs = _keras_lstm(settings["units"], held, xs)
        elif kind == "Dense":
            xs = xs @ held["kernel"] + held.get("bias", 0.0)
    return xs[:, -1]


def _keras_lstm(units, held, xs):
    gate = {name: slice(n * units, (n + 1) * units) for n, name in enumerate("ifco")}
    bias = held.get("bias", np.zeros(4 * units))
    h = c = np.zeros((len(xs), units))
    out = []
    for t in range(xs.shape[1]):

        def pre(name, x=xs[:, t], h=h):
            at = gate[name]
            kernel, recurrent = held["kernel"][:, at], held["recurrent_kernel"][:, at]
            return x @ kernel + h @ recurrent + bias[at]

        c = sigmoid(pre("f")) * c + sigmoid(pre("i")) * np.tanh(pre("c"))
        h = sigmoid(pre("o")) * np.tanh(c)
        out.append(h)
    return np.stack(out, axis=1)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))
