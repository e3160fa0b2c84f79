"""`import` from the command line, and that `replay` then runs what the model computed."""

import json
import sys

import numpy as np
import pytest
import safetensors.numpy

from stream_lstm.interop import conversion
from stream_lstm.interop.source import pack
from stream_lstm.store.weights import load_weights

from ..interop.keras_files import dense, lstm, scores, sigmoid, write_keras
from ..interop.test_torch_state import evaluated, state_dict
from ..test_manual import documented_keys, mentioned_keys

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


def test_a_keras_model_is_taken_over_and_replayed_to_the_same_p(cli, tmp_path):
    pytest.importorskip("h5py")
    file, out = write_keras(tmp_path / "m.keras", STACK, window=12), tmp_path / "w.safetensors"
    done = cli("import", file, "--out", out, "--feature", "a", "--feature", "diff(b)", "--json")
    assert done.code == 0
    told = done.json()
    assert set(told) == documented_keys("import")
    assert (told["origin"], told["window"]) == ("Keras 3.15.1 Sequential", 12)
    assert told["layers"] == [{"name": "first", "units": 4}, {"name": "second", "units": 3}]
    assert set(told["parity"]) == documented_keys("parity")
    assert set(told["parity"]["carried"]) <= mentioned_keys("parity")
    assert max(*told["parity"]["carried"].values(), *told["parity"]["windowed"].values()) < 1e-5

    series = np.random.default_rng(1).normal(size=(80, 2))
    lines = "".join(f"{a!r},{b!r}\n" for a, b in series.tolist())
    (tmp_path / "s.csv").write_text(f"a,b\n{lines}")
    rows = tmp_path / "rows.jsonl"
    line = ("--weights", out, "--mode", "window", "--window", 12, "--scaling", "none")
    assert cli("replay", tmp_path / "s.csv", *line, "--stride", 1, "--out", rows).code == 0
    ours = [json.loads(row)["p"] for row in rows.read_text().splitlines()]
    elements = np.column_stack([series[1:, 0], np.diff(series[:, 1])])
    windows = np.lib.stride_tricks.sliding_window_view(elements, 12, axis=0).transpose(0, 2, 1)
    wanted = sigmoid(scores(STACK, windows)[:, 0])
    assert len(ours) == len(wanted) == 68
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-5)


def test_a_state_dict_is_taken_over_in_words_for_people(cli, tmp_path, model):
    out = tmp_path / "w.safetensors"
    tensors = {name: array.astype("f8") for name, array in state_dict().items()}
    safetensors.numpy.save_file(tensors, model)
    text = cli("import", model, "--out", out).out
    for words in (
        "PyTorch state_dict; 2 features, lstm layer 0 (3 units), head fc (linear)",
        "the output of 'fc' is taken as the logit",
        "its float64 weights are rounded to float32",
        "1,000 steps, state carried: ",
        "1,000 rolling windows of 100 from a zero state: ",
        "--scaling none",
    ):
        assert words in text
    weights, metadata = load_weights(out)
    assert metadata["origin"] == "PyTorch state_dict"
    xs = np.random.default_rng(0).normal(size=(5, 2))
    assert weights["layer_0"]["kernel"].shape == (6, 12)
    assert np.isfinite(evaluated(tensors, xs, 1)).all()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("nowhere.keras",), 66, "no such model: nowhere.keras"),
        (("{model}", "--feature", "x"), 2, "takes 2 features for each element, and 1 are named"),
        (("{model}", "--feature", "log("), 2, "--feature: "),
        (("{odd}",), 2, "a model is a file of .keras, .h5, .hdf5, .safetensors, .pt, .pth"),
        (("{damaged}",), 65, "is damaged or no .safetensors file"),
        (("{gru}",), 65, "is a GRU"),
    ],
)
def test_what_cannot_be_taken_over_is_said_in_one_line(
    cli, tmp_path, model, arguments, code, words
):
    out, whole = tmp_path / "w.safetensors", model.read_bytes()
    (tmp_path / "m.pb").write_bytes(b"x")
    (tmp_path / "d.safetensors").write_bytes(whole[:50])
    gru = state_dict() | {"lstm.weight_hh_l0": np.zeros((9, 3), "f4")}
    safetensors.numpy.save_file(gru, tmp_path / "g.safetensors")
    names = {"model": model, "odd": "m.pb", "damaged": "d.safetensors", "gru": "g.safetensors"}
    places = {name: tmp_path / file for name, file in names.items()}
    done = cli("import", *(str(a).format(**places) for a in arguments), "--out", out)
    assert done.code == code
    assert words in done.err
    assert done.err.count("\n") <= 3
    assert not out.exists()


def test_nothing_is_overwritten_unless_asked_for(cli, tmp_path, model):
    out = tmp_path / "w.safetensors"
    out.write_bytes(b"mine")
    refused = cli("import", model, "--out", out)
    assert refused.code == 2
    assert "is there already; --overwrite replaces it" in refused.err
    assert out.read_bytes() == b"mine"
    same = cli("import", model, "--out", model, "--overwrite")
    assert same.code == 2
    assert "is the file that is read" in same.err
    assert cli("import", model, "--out", tmp_path / "no" / "w.safetensors").code == 74
    assert cli("import", model, "--out", out, "--overwrite").code == 0
    assert load_weights(out)[1]["hidden"] == "3"


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
