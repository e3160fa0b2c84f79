"""Models of Keras: what is taken over computes the same, and what is not is named."""

import numpy as np
import pytest

from stream_lstm.config import build
from stream_lstm.core.session import Session
from stream_lstm.errors import DataError
from stream_lstm.events import Prediction, Ticks
from stream_lstm.interop.keras_model import keras_network, read_keras
from stream_lstm.interop.source import pack

from .keras_files import H5PY_MISSING, dense, lstm, other, scores, sigmoid, write_h5, write_keras

pytest.importorskip("h5py", reason=H5PY_MISSING)

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
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("model", MODELS)
def test_a_network_computes_what_keras_computes(tmp_path, model, writer, functional):
    suffix, write, how = WRITERS[writer]
    file = write(tmp_path / f"m{suffix}", MODELS[model], functional=functional, window=7, **how)
    network = read(file)
    windows = np.random.default_rng(5).normal(size=(20, 7, 2))
    wanted = logits(MODELS[model], windows)
    np.testing.assert_allclose(network.logits(windows)[:, -1], wanted, rtol=0, atol=1e-12)
    assert (network.window, network.stateful) == (7, False)


def test_a_group_that_says_its_layers_name_is_that_layers(tmp_path):
    """Whatever the groups are called: here they stand in another order than the layers."""
    import io
    import zipfile

    import h5py

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
    settings = {"mode": "window", "window": 12, "stride": 1, "hidden": 4, "layers": 2}
    events = []
    config = build({"features": ["a", "b"], "scaling": "none", **settings})
    session = Session(config, ("a", "b"), events.append, weights=weights)
    session.push(Ticks("s", np.zeros(200, np.int64), series))
    ours = [event.p for event in events if isinstance(event, Prediction)]
    windows = np.lib.stride_tricks.sliding_window_view(series, 12, axis=0).transpose(0, 2, 1)
    wanted = sigmoid(logits(STACK, windows))
    assert len(ours) == len(wanted) == 189
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-6)
    assert np.ptp(wanted) > 0.02


def test_shape_state_and_precision_are_told(tmp_path):
    layers = (lstm(stateful=True), dense(activation="linear", dtype="mixed_float16"))
    network = read(write_h5(tmp_path / "m.h5", layers, window=1, batch=1))
    assert (network.window, network.stateful, network.exact) == (1, True, False)
    assert network.origin == "Keras 2.15.0 Sequential"
    assert [note.split(":")[0] for note in network.notes] == [
        "the output of 'dense' has no activation",
        "the layer 'dense' was computed in mixed_float16; here it is in float32",
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
        ((other("Masking"), lstm(), dense()), "Masking layer 'masking' .*leave such elements"),
        ((other("Bidirectional"), dense()), "Bidirectional layer .*backwards"),
        ((other("GRU"), dense()), "GRU layer 'gru' .*not an LSTM's"),
        ((other("Conv1D"), lstm(), dense()), "Conv1D layer 'conv1d' cannot be taken over"),
        ((other("BatchNormalization"), lstm(), dense()), "BatchNormalization"),
        ((dense("in", inputs=2, units=2), lstm(), dense()), "Dense layer 'in' .*must be an LSTM"),
        ((lstm(),), "no dense layer"),
        ((lstm(), dense(units=2)), "2 units and the activation sigmoid"),
        ((lstm(), dense(units=1, activation="softmax")), "1 unit and the activation softmax"),
        ((lstm(), dense(activation="tanh")), "activation tanh"),
        (
            (lstm(), dense("mid", units=4, activation="linear"), dense("end", inputs=4)),
            "'end' .*only one dense layer",
        ),
        ((lstm(), other("TimeDistributed"), dense()), "TimeDistributed"),
        ((lstm(), dense(inputs=4)), "'dense' takes 4 inputs, and 'lstm' before it has 3 units"),
        (
            (lstm(activation={"config": "tanh", "registered_name": "mine>tanh"}), dense()),
            "mine>tanh",
        ),
    ],
)
def test_a_layer_that_our_cell_cannot_compute_is_named(tmp_path, layers, words):
    with pytest.raises(DataError, match=words):
        read(write_keras(tmp_path / "m.keras", layers))


def test_the_two_hard_sigmoids_are_told_apart(tmp_path):
    layers = (lstm(recurrent_activation="hard_sigmoid"), dense())
    with pytest.raises(DataError, match=r"Keras 2 clip\(0\.2 x \+ 0\.5, 0, 1\)"):
        read(write_h5(tmp_path / "m.h5", layers))


def test_a_class_of_the_users_own_is_not_taken_for_kerass(tmp_path):
    from .keras_files import described

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
