"""`export` from the command line."""

import sys

import pytest
import safetensors.numpy

from stream_lstm.interop.source import pack
from stream_lstm.store.weights import save_weights

from ..interop.test_packing import network


@pytest.fixture(autouse=True)
def no_frameworks(monkeypatch):
    for name in ("keras", "torch"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, pack(network()), {"features": '["x","diff(x)"]'})
    return path


def test_the_record_and_the_words(cli, tmp_path, weights):
    out = tmp_path / "m.safetensors"
    told = cli("export", weights, "--out", out, "--json").json()
    assert set(told) == {"out", "layout", "features", "parity"}
    assert (told["layout"], told["features"]) == ("torch", ["x", "diff(x)"])
    assert told["parity"]["framework"] is None
    text = cli("export", weights, "--out", out, "--layout", "flax", "--overwrite").out
    assert "compared with flax.linen.OptimizedLSTMCell" in text
    assert "Scaling is not in the file" in text
    assert "layer_0.hi.kernel" in safetensors.numpy.load_file(out)


def test_an_onnx_graph_is_written_and_proved(cli, tmp_path, weights):
    onnx = pytest.importorskip("onnx")
    out = tmp_path / "step.onnx"
    told = cli("export", weights, "--out", out, "--json").json()
    assert told["layout"] == "onnx"
    assert "ONNX" in told["parity"]["reference"]
    assert told["parity"]["carried"]["p"] < 1e-5
    onnx.checker.check_model(onnx.load(out))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("no.safetensors", "--out", "m.onnx"), 66, "no such file of weights: no.safetensors"),
        (("{w}", "--out", "m.pb"), 2, "exported to .keras, .onnx, .safetensors, not .pb"),
        (("{w}", "--out", "m.onnx", "--layout", "flax"), 2, "its layouts: onnx"),
        (("{w}", "--out", "{w}"), 2, "is the file that is read"),
        (("{w}", "--out", "nowhere/m.onnx"), 74, "there is no directory nowhere"),
        (("{junk}", "--out", "m.onnx"), 65, "damaged"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    cli, tmp_path, weights, arguments, code, words, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    places = {"w": weights, "junk": tmp_path / "junk.safetensors"}
    done = cli("export", *(argument.format(**places) for argument in arguments))
    assert done.code == code
    assert words in done.err
    assert done.err.count("\n") == 1


def test_a_file_that_is_there_stays(cli, tmp_path, weights):
    out = tmp_path / "m.safetensors"
    out.write_bytes(b"mine")
    refused = cli("export", weights, "--out", out)
    assert (refused.code, out.read_bytes()) == (2, b"mine")
    assert "--overwrite" in refused.err
