"""Models of Keras: the order of layers, exact conversion, and errors for every other file."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from stream_lstm.config import build
from stream_lstm.core.session import Session
from stream_lstm.errors import DataError, InputMissingError, OutputError, UsageError
from stream_lstm.events import Prediction, Ticks
from stream_lstm.interop import keras_model
from stream_lstm.interop.keras_model import chain, keras_network, read_keras
from stream_lstm.interop.source import pack

from .keras_files import (
    H5PY_MISSING,
    dense,
    described,
    lstm,
    other,
    scores,
    sigmoid,
    write_h5,
    write_keras,
)

h5py = pytest.importorskip("h5py", reason=H5PY_MISSING)

MODEL = (lstm(), dense())
WRITERS = {
    "keras-3": (".keras", write_keras, {}),
    "keras-3.0": (".keras", write_keras, {"names": False, "version": "3.0.5"}),
    "keras-2": (".keras", write_keras, {"names": False, "version": "2.15.0"}),
    "keras-2.12": (
        ".keras",
        write_keras,
        {"names": False, "version": "2.12.0", "home": "_layer_checkpoint_dependencies"},
    ),
    "h5-2": (".h5", write_h5, {}),
    "h5-3": (".hdf5", write_h5, {"version": "3.15.1", "as_bytes": False}),
}

STACK = (
    lstm("first", 4, seed=1, sequences=True),
    other("Dropout", rate=0.3),
    lstm("second", 3, inputs=4, seed=2),
    dense("out", inputs=3),
)

MODELS = {
    "one layer": (lstm(), dense()),
    "no bias": (lstm(use_bias=False), dense(use_bias=False)),
    "unequal layers": STACK,
    "smaller first": (lstm("a", 2, sequences=True), lstm("b", 5, inputs=2), dense(inputs=5)),
    "softmax": (lstm(), dense(units=2, activation="softmax")),
    "linear": (lstm(), dense(activation="linear")),
    "activation layer": (
        lstm(),
        dense(activation="linear"),
        other("Activation", activation="sigmoid"),
    ),
}


def read(path):
    return keras_network(read_keras(path))


def logits(layers, windows):
    """Logits (B,) by the test's own Keras."""
    found = scores(layers, windows)
    return found[:, -1] - (found[:, 0] if found.shape[1] == 2 else 0)


@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize(
    ("model", "writer"),
    [*((model, "keras-3") for model in MODELS), *(("unequal layers", name) for name in WRITERS)],
)
def test_a_network_computes_what_keras_computes(tmp_path, model, writer, functional):
    suffix, write, how = WRITERS[writer]
    file = write(tmp_path / f"m{suffix}", MODELS[model], functional=functional, window=7, **how)
    network = read(file)
    windows = np.random.default_rng(5).normal(size=(20, 7, 2))
    wanted = logits(MODELS[model], windows)
    np.testing.assert_allclose(network.logits(windows)[:, -1], wanted, rtol=0, atol=1e-12)
    assert (network.window, network.stateful) == (7, False)


def test_a_group_with_the_name_of_a_layer_belongs_to_it(tmp_path):
    """Whatever its group is called: here the groups are in another order than the layers."""
    layers = (lstm("a", 3, seed=1, sequences=True), lstm("b", 3, inputs=3, seed=2), dense())
    path = write_keras(tmp_path / "m.keras", layers)
    wanted = read(path).layers
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    data = io.BytesIO(members["model.weights.h5"])
    with h5py.File(data, "a") as file:
        for old_name, new_name in (("lstm", "x"), ("lstm_1", "lstm"), ("x", "lstm_1")):
            file.move(f"layers/{old_name}", f"layers/{new_name}")
    with zipfile.ZipFile(path, "w") as new:
        for name, body in (members | {"model.weights.h5": data.getvalue()}).items():
            new.writestr(name, body)
    for ours, theirs in zip(read(path).layers, wanted, strict=True):
        assert np.array_equal(ours.kernel, theirs.kernel)


def test_mode_window_is_the_stateless_model_on_rolling_windows(tmp_path):
    """Through the whole session, as `replay --mode window --scaling none` runs it."""
    weights = pack(read(write_keras(tmp_path / "m.keras", STACK, window=12)))
    series = np.random.default_rng(6).normal(size=(200, 2))
    how = {"mode": "window", "window": 12, "stride": 1, "hidden": 4, "layers": 2}
    events = []
    config = build({"features": ["a", "b"], "scaling": "none", **how})
    session = Session(config, ("a", "b"), events.append, weights=weights)
    session.push(Ticks("s", np.zeros(200, np.int64), series))
    ours = [event.p for event in events if isinstance(event, Prediction)]
    windows = np.lib.stride_tricks.sliding_window_view(series, 12, axis=0).transpose(0, 2, 1)
    wanted = sigmoid(logits(STACK, windows))
    assert len(ours) == len(wanted) == 189
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-6)
    assert np.ptp(wanted) > 0.02


def test_shape_state_and_precision_are_reported(tmp_path):
    layers = (lstm(stateful=True), dense(activation="linear", dtype="mixed_float16"))
    network = read(write_h5(tmp_path / "m.h5", layers, window=1, batch=1))
    assert (network.window, network.stateful, network.exact) == (1, True, False)
    assert network.origin == "Keras 2.15.0 Sequential"
    assert [note.split(":")[0] for note in network.notes] == [
        "the output of 'dense' has no activation",
        "the layer 'dense' was computed in mixed_float16; now in float32",
        "the model is stateful over a batch of 1",
    ]
    double = [(k, s, {n: a.astype("f8") for n, a in arrays.items()}) for k, s, arrays in layers]
    assert read(write_h5(tmp_path / "d.h5", double)).dtypes == ("float64",)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (
            (lstm(recurrent_activation="hard_sigmoid"), dense()),
            r"'lstm' .*hard_sigmoid, in Keras 3 relu6\(x \+ 3\) / 6, not sigmoid",
        ),
        ((lstm(activation="relu"), dense()), "'lstm' .*activation is relu, not tanh"),
        ((lstm(go_backwards=True), dense()), "'lstm' .*go_backwards"),
        ((lstm(return_state=True), dense()), "'lstm' .*return_state"),
        ((lstm(dtype="int8_from_float32"), dense()), "'lstm' .*quantized"),
        ((other("Masking"), lstm(), dense()), "Masking layer 'masking' .*remove such elements"),
        ((other("Bidirectional"), dense()), "Bidirectional layer .*backwards"),
        ((other("GRU"), dense()), "GRU layer 'gru' .*not an LSTM's"),
        ((other("Conv1D"), lstm(), dense()), "Conv1D layer 'conv1d' is not supported"),
        ((other("BatchNormalization"), lstm(), dense()), "BatchNormalization"),
        ((dense("in", inputs=2, units=2), lstm(), dense()), "Dense layer 'in' .*must be an LSTM"),
        ((lstm(),), "a dense layer with one output must follow"),
        ((lstm(), dense(units=2)), "2 units and the activation sigmoid"),
        ((lstm(), dense(units=1, activation="softmax")), "1 unit and the activation softmax"),
        ((lstm(), dense(activation="tanh")), "activation tanh"),
        (
            (lstm(), dense("mid", units=4, activation="linear"), dense("end", inputs=4)),
            "'end' .*only one dense layer",
        ),
        ((lstm(), other("TimeDistributed"), dense()), "TimeDistributed"),
        ((lstm(), dense(inputs=4)), "'dense' takes 4 inputs, but 'lstm' before it has 3 units"),
        (
            (lstm(activation={"config": "tanh", "registered_name": "mine>tanh"}), dense()),
            "mine>tanh",
        ),
    ],
)
def test_an_unsupported_layer_is_named(tmp_path, layers, words):
    with pytest.raises(DataError, match=words):
        read(write_keras(tmp_path / "m.keras", layers))


def test_the_two_hard_sigmoids_have_different_messages(tmp_path):
    layers = (lstm(recurrent_activation="hard_sigmoid"), dense())
    with pytest.raises(DataError, match=r"Keras 2 clip\(0\.2 x \+ 0\.5, 0, 1\)"):
        read(write_h5(tmp_path / "m.h5", layers))


def test_a_users_class_is_not_taken_for_one_of_keras(tmp_path):
    config = described((lstm(), dense()))
    config["config"]["layers"][1]["registered_name"] = "mine>LSTM"
    with pytest.raises(DataError, match="mine>LSTM layer 'lstm'"):
        read(write_keras(tmp_path / "m.keras", (lstm(), dense()), config=config))


@pytest.mark.parametrize("name", ["kernel", "recurrent_kernel", "bias"])
def test_arrays_that_are_missing_or_of_another_shape_are_named(tmp_path, name):
    kind, settings, arrays = lstm()
    for change, words in (({}, "missing"), ({name: np.zeros((2, 3, 5), "f4")}, "shape")):
        kept = {k: v for k, v in arrays.items() if k != name} | change
        layers = (kind, settings, kept), dense()
        with pytest.raises(DataError, match=f"the {name} of the LSTM layer 'lstm' .*{words}"):
            read(write_h5(tmp_path / "m.h5", layers))


# ---- files ----------------------------------------------------------------------------------


def test_missing_and_unreadable_files_are_different_errors(tmp_path):
    with pytest.raises(InputMissingError, match=r"no such model: .*m\.keras"):
        read_keras(tmp_path / "m.keras")
    (tmp_path / "d.keras").mkdir()
    with pytest.raises(OutputError, match="directory"):
        read_keras(tmp_path / "d.keras")


@pytest.mark.parametrize("kind", ["keras", "packed", "h5"])
def test_a_cut_file_is_rejected_and_a_changed_one_is_rejected_or_whole(tmp_path, kind):
    if kind == "h5":
        path = write_h5(tmp_path / "m.h5", MODEL)
    else:
        path = write_keras(tmp_path / "m.keras", MODEL, packed=kind == "packed")
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for length in range(0, len(whole), len(whole) // 15):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"m\.(keras|h5)"):
            keras_network(read_keras(path))
    for _ in range(20):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), 3):
            data[at] = rng.integers(256)
        path.write_bytes(data)
        try:
            keras_network(read_keras(path))
        except DataError:
            continue


def test_weights_without_layers_are_rejected(tmp_path):
    path = tmp_path / "m.weights.h5"
    with h5py.File(path, "w") as file:
        file["layers/lstm/cell/vars/0"] = np.zeros((2, 12))
    with pytest.raises(DataError, match=r"save the whole model with model\.save"):
        read_keras(path)


def test_a_zip_without_its_members_names_what_is_missing(tmp_path):
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(DataError, match=r"has no model\.weights\.h5"):
        read_keras(path)


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"class_name": "Sequential", "config": 3}', "[" * 10**5]
)
def test_an_invalid_description_is_rejected(tmp_path, text):
    path = tmp_path / "m.h5"
    write_h5(path, MODEL)
    with h5py.File(path, "a") as file:
        del file.attrs["model_config"]
        file["long"] = 0
        file.attrs.create("model_config", text[:60000])
    with pytest.raises(DataError, match=r"m\.h5"):
        keras_network(read_keras(path))


def test_no_link_leads_to_another_file(tmp_path):
    secret = tmp_path / "other.h5"
    with h5py.File(secret, "w") as file:
        file["kernel"] = np.zeros((2, 12))
    path = write_h5(tmp_path / "m.h5", MODEL)
    at = "model_weights/lstm/lstm/lstm_cell/kernel:0"
    with h5py.File(path, "a") as file:
        del file[at]
        file[at] = h5py.ExternalLink("other.h5", "kernel")
    with pytest.raises(DataError, match="the kernel of the LSTM layer 'lstm' is missing"):
        keras_network(read_keras(path))


def test_more_than_the_limit_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(keras_model, "MAX_BYTES", 100)
    with pytest.raises(DataError, match="more than 100 bytes"):
        read_keras(write_h5(tmp_path / "m.h5", MODEL))
    with pytest.raises(DataError, match="larger than 100 bytes"):
        read_keras(write_keras(tmp_path / "m.keras", MODEL))


def test_without_h5py_the_error_says_what_to_install(tmp_path, monkeypatch):
    path = write_keras(tmp_path / "m.keras", MODEL)
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(UsageError, match=r"pip install 'stream-lstm\[keras\]'"):
        read_keras(path)


def test_a_file_without_a_version_is_read(tmp_path):
    path = write_keras(tmp_path / "m.keras", MODEL)
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist() if name != "metadata.json"}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in members.items():
            new.writestr(name, data)
    assert json.loads(members["config.json"])["class_name"] == "Sequential"
    assert keras_network(read_keras(path)).origin == "Keras of unknown version Sequential"


# ---- the order of layers --------------------------------------------------------------------

PATH = Path("m.keras")
LAYERS = (lstm("a", sequences=True), lstm("b", inputs=3), dense("c"))


@pytest.mark.parametrize("version", [2, 3])
def test_a_functional_model_is_put_in_order(version):
    config = described(LAYERS, version=version, functional=True)
    config["config"]["layers"].reverse()
    assert [layer.name for layer in chain(PATH, config)] == ["input", "a", "b", "c"]


def test_layers_of_a_class_are_counted_and_a_bare_list_is_read():
    config = described(LAYERS)
    config["config"] = config["config"]["layers"]  # as Keras 2.0 wrote it
    assert [(layer.kind, layer.k) for layer in chain(PATH, config)] == [
        ("InputLayer", 0), ("LSTM", 0), ("LSTM", 1), ("Dense", 0),
    ]  # fmt: skip


def nodes(config, name):
    entries = config["config"]["layers"]
    return next(entry for entry in entries if entry["config"]["name"] == name)["inbound_nodes"]


@pytest.mark.parametrize("version", [2, 3])
def test_a_model_that_is_not_a_chain_is_rejected(version):
    def changed(change):
        config = described(LAYERS, version=version, functional=True)
        change(config)
        with pytest.raises(DataError) as refused:
            chain(PATH, config)
        return str(refused.value)

    shared = changed(lambda c: nodes(c, "b").append(nodes(c, "b")[0]))
    assert "LSTM layer 'b' takes 2 inputs in 2 places" in shared
    branch = changed(lambda c: nodes(c, "c").__setitem__(0, nodes(c, "b")[0]))
    assert "branch" in branch
    ends = [["b", 0, 0], ["c", 0, 0]]
    assert "several outputs" in changed(lambda c: c["config"].update(output_layers=ends))


@pytest.mark.parametrize("config", [{}, {"class_name": "MyModel", "config": {}}])
def test_a_model_that_is_not_a_list_of_layers_is_rejected(config):
    with pytest.raises(DataError, match="not a Sequential or functional model"):
        chain(PATH, config)
