"""`import` and `export` from the command line, and that `replay` runs what the model computed."""

import json
import sys

import numpy as np
import pytest
import safetensors.numpy

from stream_lstm.interop import conversion
from stream_lstm.interop.source import pack
from stream_lstm.store.weights import load_weights, save_weights

from ..interop.keras_files import dense, lstm, scores, sigmoid, write_keras
from ..interop.networks import evaluated, network, state_dict
from ..test_manual import documented_keys, mentioned_keys
from .lines import write_csv

STACK = (lstm("first", 4, sequences=True), lstm("second", 3, inputs=4), dense())


@pytest.fixture(autouse=True)
def no_frameworks(monkeypatch):
    """Other tests run the frameworks; starting one takes seconds."""
    for name in ("keras", "torch"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def model(tmp_path):
    safetensors.numpy.save_file(state_dict(), tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, pack(network()), {"features": '["x","diff(x)"]'})
    return path


def test_a_keras_model_is_imported_and_replayed_to_the_same_p(cli, tmp_path):
    pytest.importorskip("h5py")
    file, out = write_keras(tmp_path / "m.keras", STACK, window=12), tmp_path / "w.safetensors"
    done = cli("import", file, "--out", out, "--feature", "a", "--feature", "diff(b)", "--json")
    assert done.code == 0
    found = done.json()
    assert set(found) == documented_keys("import")
    assert (found["origin"], found["window"]) == ("Keras 3.15.1 Sequential", 12)
    assert found["layers"] == [{"name": "first", "units": 4}, {"name": "second", "units": 3}]
    assert set(found["parity"]) == documented_keys("parity")
    assert set(found["parity"]["carried"]) <= mentioned_keys("parity")
    differences = (*found["parity"]["carried"].values(), *found["parity"]["windowed"].values())
    assert max(differences) < 1e-5

    a, b = np.random.default_rng(1).normal(size=(2, 80))
    rows = tmp_path / "rows.jsonl"
    line = ("--weights", out, "--mode", "window", "--window", 12, "--scaling", "none")
    file = write_csv(tmp_path / "s.csv", a=a, b=b)
    assert cli("replay", file, *line, "--stride", 1, "--out", rows).code == 0
    ours = [json.loads(row)["p"] for row in rows.read_text().splitlines()]
    elements = np.column_stack([a[1:], np.diff(b)])
    windows = np.lib.stride_tricks.sliding_window_view(elements, 12, axis=0).transpose(0, 2, 1)
    assert len(ours) == 68
    np.testing.assert_allclose(ours, sigmoid(scores(STACK, windows)[:, 0]), rtol=0, atol=1e-5)


def test_a_state_dict_is_imported_in_words_for_people(cli, tmp_path, model):
    out = tmp_path / "w.safetensors"
    tensors = {name: array.astype("f8") for name, array in state_dict().items()}
    safetensors.numpy.save_file(tensors, model)
    text = cli("import", model, "--out", out).out
    for words in (
        "PyTorch state_dict; 2 features, lstm layer 0 (3 units), head fc (linear)",
        "the output of 'fc' is used as the logit",
        "its float64 weights are rounded to float32",
        "1,000 steps, state carried: ",
        "1,000 rolling windows of 100 from a zero state: ",
        "--scaling none",
    ):
        assert words in text
    found, metadata = load_weights(out)
    assert metadata["origin"] == "PyTorch state_dict"
    assert found["layer_0"]["kernel"].shape == (6, 12)
    xs = np.random.default_rng(0).normal(size=(5, 2))
    assert np.isfinite(evaluated(tensors, xs, 1)).all()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("import", "nowhere.keras"), 66, "no such model: nowhere.keras"),
        (("import", "m.safetensors", "--feature", "x"), 2, "takes 2 features for each element, "),
        (("import", "m.safetensors", "--feature", "log("), 2, "--feature: "),
        (("import", "m.pb"), 2, "a model file ends in .keras, .h5, .hdf5, .safetensors, .pt"),
        (("import", "d.safetensors"), 65, "is damaged or not a .safetensors file"),
        (("import", "g.safetensors"), 65, "is a GRU"),
        (("export", "no.safetensors"), 66, "no such file of weights: no.safetensors"),
        (("export", "w.safetensors", "--out", "o.pb"), 2, "to .keras, .onnx, .safetensors, not"),
        (("export", "w.safetensors", "--layout", "flax"), 2, "its layouts: onnx"),
        (("export", "w.safetensors", "--out", "w.safetensors"), 2, "is the file that is read"),
        (("export", "w.safetensors", "--out", "nowhere/m.onnx"), 74, "no directory nowhere"),
        (("export", "d.safetensors"), 65, "damaged"),
    ],
)
def test_a_mistake_is_one_sentence_and_an_exit_code(
    cli, tmp_path, model, weights, monkeypatch, arguments, code, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.pb").write_bytes(b"x")
    (tmp_path / "d.safetensors").write_bytes(model.read_bytes()[:50])
    gru = state_dict() | {"lstm.weight_hh_l0": np.zeros((9, 3), "f4")}
    safetensors.numpy.save_file(gru, "g.safetensors")
    out = ("--out", "o.safetensors" if arguments[0] == "import" else "o.onnx")
    done = cli(*arguments, *(() if "--out" in arguments else out))
    assert done.code == code
    assert words in done.err
    assert done.err.count("\n") <= 3
    assert not (tmp_path / out[1]).exists()


@pytest.mark.parametrize("command", ["import", "export"])
def test_nothing_is_overwritten_unless_asked_for(cli, tmp_path, model, weights, command):
    source, out = model if command == "import" else weights, tmp_path / "o.safetensors"
    out.write_bytes(b"mine")
    refused = cli(command, source, "--out", out)
    assert (refused.code, out.read_bytes()) == (2, b"mine")
    assert "exists; --overwrite replaces it" in refused.err
    same = cli(command, source, "--out", source, "--overwrite")
    assert same.code == 2
    assert "is the file that is read" in same.err
    assert cli(command, source, "--out", tmp_path / "no" / "w.safetensors").code == 74
    assert cli(command, source, "--out", out, "--overwrite").code == 0
    assert out.read_bytes() != b"mine"


def test_a_failed_proof_ends_with_70_and_writes_nothing(cli, tmp_path, model, monkeypatch):
    def wrong(source):
        kernels = pack(source)
        kernels["head"]["kernel"][0] += 0.1
        return kernels

    monkeypatch.setattr(conversion, "pack", wrong)
    out = tmp_path / "w.safetensors"
    out.write_bytes(b"mine")
    done = cli("import", model, "--out", out, "--overwrite")
    assert done.code == 70
    assert "nothing was written" in done.err
    assert out.read_bytes() == b"mine"


def test_exported_weights_have_a_record_and_words(cli, tmp_path, weights):
    out = tmp_path / "m.safetensors"
    found = cli("export", weights, "--out", out, "--json").json()
    assert set(found) == {"out", "layout", "features", "parity"}
    assert (found["layout"], found["features"]) == ("torch", ["x", "diff(x)"])
    assert found["parity"]["framework"] is None
    text = cli("export", weights, "--out", out, "--layout", "flax", "--overwrite").out
    assert "compared with flax.linen.OptimizedLSTMCell" in text
    assert "The file does not contain the scaling" in text
    assert "layer_0.hi.kernel" in safetensors.numpy.load_file(out)


def test_an_onnx_graph_is_written_and_proved(cli, tmp_path, weights):
    onnx = pytest.importorskip("onnx")
    out = tmp_path / "step.onnx"
    found = cli("export", weights, "--out", out, "--json").json()
    assert found["layout"] == "onnx"
    assert "ONNX" in found["parity"]["reference"]
    assert found["parity"]["carried"]["p"] < 1e-5
    onnx.checker.check_model(onnx.load(out))
