"""The frameworks themselves, where they are installed: Keras on files that it wrote, PyTorch."""

import importlib
import os

import numpy as np
import pytest

from stream_lstm.interop.conversion import convert, read_network
from stream_lstm.interop.parity import against_keras, against_torch
from stream_lstm.interop.source import pack

from .keras_files import dense, lstm, write_h5, write_keras
from .networks import network

pytestmark = pytest.mark.filterwarnings("ignore")  # a framework's warnings are its own


@pytest.fixture(scope="module")
def keras():
    os.environ.setdefault("KERAS_BACKEND", "jax")
    pytest.importorskip("h5py")
    pytest.importorskip("keras")
    return importlib.import_module("keras")


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("kind", ["stack", "softmax", "stateful"])
def test_files_that_keras_wrote_give_what_keras_computes(keras, tmp_path, kind, suffix):
    L = keras.layers
    keras.utils.set_random_seed(3)
    if kind == "stack":
        layers = [L.LSTM(5, return_sequences=True, dropout=0.2), L.Dropout(0.1), L.LSTM(3)]
        model = keras.Sequential([L.Input((20, 2)), *layers, L.Dense(1, activation="sigmoid")])
    elif kind == "softmax":
        start = L.Input((None, 3))
        end = L.Dense(2, activation="softmax")(L.LSTM(4, use_bias=False)(start))
        model = keras.Model(start, end)
    else:
        first = L.Input(batch_shape=(1, 4, 2))
        model = keras.Sequential([first, L.LSTM(5, stateful=True), L.Dense(1)])
    path = tmp_path / f"m{suffix}"
    model.save(path)
    done = convert(path)
    assert done.framework.framework == f"Keras {keras.__version__}"
    assert done.framework.p < 1e-5
    assert done.framework.compared == (12 if kind == "stateful" else 1000)
    assert done.parity.worst < 1e-5
    assert done.source.stateful == (kind == "stateful")


@pytest.mark.parametrize("write", [write_keras, write_h5])
def test_files_that_the_tests_write_are_files_of_keras(keras, tmp_path, write):
    layers = (lstm("a", 4, sequences=True), lstm("b", 3, inputs=4), dense())
    suffix = ".keras" if write is write_keras else ".h5"
    path = write(tmp_path / f"m{suffix}", layers, window=9)
    if write is write_h5:
        # Keras 3 asks for this list, and takes `batch_shape` alone.
        import h5py

        path = write(path, layers, window=9, version="3.15.1")
        with h5py.File(path, "a") as file:
            file["model_weights"].attrs["layer_names"] = [b"a", b"b", b"dense"]
    source = read_network(path)
    found = against_keras(path, pack(source), source)
    assert found.why == ""
    assert found.p < 1e-5


def test_a_file_that_keras_cannot_run_is_reported_with_the_reason(keras, tmp_path):
    path = write_h5(tmp_path / "m.h5", (lstm(time_major=False), dense()), window=5)
    done = convert(path)
    assert done.framework.p is None
    assert done.framework.why


def test_pytorchs_own_layers_give_what_ours_give():
    pytest.importorskip("torch")
    for biases, outputs in ((0, 1), (1, 2), (2, 1)):
        source = network((3, 5), outputs=outputs, biases=biases)
        found = against_torch(pack(source), source)
        assert (found.compared, found.why) == (1000, "")
        assert found.p < 1e-5
    head = source.head._replace(bias=source.head.bias + 0.1)
    assert against_torch(pack(source._replace(head=head)), source).p > 1e-3


def test_without_a_framework_there_is_no_comparison(tmp_path, monkeypatch):
    for name in ("torch", "keras"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    source = network()
    assert against_torch(pack(source), source) is None
    assert against_keras(tmp_path / "m.keras", pack(source), source) is None
    assert np.isfinite(source.logits(np.zeros((1, 1, 2)))).all()
