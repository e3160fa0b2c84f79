"""Files for other frameworks compute the same, and come back the same."""

import json
import zipfile

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from stream_lstm.errors import OutputError, StreamLSTMError, UsageError
from stream_lstm.interop import conversion
from stream_lstm.interop.conversion import convert, export, layout_of, save_imported
from stream_lstm.interop.source import pack
from stream_lstm.store.weights import load_weights, save_weights

from .networks import network

LAYOUTS = {"torch": ".safetensors", "flax": ".safetensors", "keras": ".keras", "onnx": ".onnx"}
NEEDS = {"keras": "h5py", "onnx": "onnx"}


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, pack(network((3, 3))), {"features": '["x", "elapsed()"]'})
    return path


def skip_without(layout):
    if layout in NEEDS:
        pytest.importorskip(NEEDS[layout])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of frameworks are theirs
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_is_compared_and_the_only_one_written(tmp_path, weights, layout):
    skip_without(layout)
    out = tmp_path / "out" / f"m{LAYOUTS[layout]}"
    out.parent.mkdir()
    done = export(weights, out, layout)
    assert done.features == '["x", "elapsed()"]'
    assert done.parity.worst < 2e-6
    assert done.framework is None or done.framework.p < 2e-6
    assert [file.name for file in out.parent.iterdir()] == [out.name]
    if out.suffix != ".safetensors":  # whose library writes its metadata in any order
        first = out.read_bytes()
        export(weights, out, layout)
        assert out.read_bytes() == first


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layout", ["torch", "keras"])
def test_out_and_in_again_gives_the_same_weights(tmp_path, weights, layout):
    skip_without(layout)
    out, back = tmp_path / f"m{LAYOUTS[layout]}", tmp_path / "back.safetensors"
    export(weights, out, layout)
    save_imported(back, convert(out), ["x", "elapsed()"])
    (ours, about), (theirs, imported) = load_weights(weights), load_weights(back)
    assert imported["features"] == '["x","elapsed()"]'
    assert about["layers"] == imported["layers"] == "2"
    for name, body in ours.items():
        assert body["kernel"].tobytes() == theirs[name]["kernel"].tobytes()


def test_the_layout_of_torch_is_that_of_its_modules(tmp_path, weights):
    out = tmp_path / "m.safetensors"
    export(weights, out, "torch")
    shapes = {name: array.shape for name, array in safetensors.numpy.load_file(out).items()}
    assert shapes == {
        "lstm.weight_ih_l0": (12, 2), "lstm.weight_hh_l0": (12, 3),
        "lstm.bias_ih_l0": (12,), "lstm.bias_hh_l0": (12,),
        "lstm.weight_ih_l1": (12, 3), "lstm.weight_hh_l1": (12, 3),
        "lstm.bias_ih_l1": (12,), "lstm.bias_hh_l1": (12,),
        "fc.weight": (1, 3), "fc.bias": (1,),
    }  # fmt: skip
    with safetensors.safe_open(out, framework="numpy") as file:
        assert file.metadata()["scaling"] == "not included"


def test_all_but_the_last_layer_of_keras_return_sequences(tmp_path, weights):
    skip_without("keras")
    out = tmp_path / "m.keras"
    export(weights, out, "keras")
    config = json.loads(zipfile.ZipFile(out).read("config.json"))
    layers = [entry["config"] for entry in config["config"]["layers"]]
    assert [layer.get("return_sequences") for layer in layers] == [None, True, False, None]


def test_pytorch_loads_what_was_written(tmp_path, weights):
    torch = pytest.importorskip("torch")
    out = tmp_path / "m.safetensors"
    export(weights, out, "torch")
    tensors = {n: torch.from_numpy(a) for n, a in safetensors.numpy.load_file(out).items()}
    module = torch.nn.ModuleDict({"lstm": torch.nn.LSTM(2, 3, 2), "fc": torch.nn.Linear(3, 1)})
    module.load_state_dict(tensors)
    xs = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    with torch.no_grad():
        logits = module["fc"](module["lstm"](torch.from_numpy(xs))[0])[:, 0].numpy()
    wanted = network((3, 3)).logits(xs[None])[0]
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-5)


def test_a_failed_comparison_leaves_the_old_file(tmp_path, weights, monkeypatch):
    out = tmp_path / "m.safetensors"
    out.write_bytes(b"old")
    right = conversion.torch_tensors

    def wrong(weights):
        return {name: array + 0.01 for name, array in right(weights).items()}

    monkeypatch.setattr(conversion, "torch_tensors", wrong)
    with pytest.raises(StreamLSTMError, match="nothing was written"):
        export(weights, out, "torch")
    assert out.read_bytes() == b"old"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.safetensors", "w.safetensors"]


def test_a_full_disk_leaves_the_old_file(tmp_path, weights, monkeypatch):
    out = tmp_path / "m.safetensors"
    out.write_bytes(b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        export(weights, out, "torch")
    assert out.read_bytes() == b"old"
    assert not list(tmp_path.glob("*partial*"))


def test_layouts_follow_the_suffix(tmp_path):
    for layout, suffix in LAYOUTS.items():
        assert layout_of(tmp_path / f"m{suffix}", layout) == layout
    assert layout_of(tmp_path / "m.safetensors", None) == "torch"
    with pytest.raises(UsageError, match=r"exported to .*, not \.pt"):
        layout_of(tmp_path / "m.pt", None)
    with pytest.raises(UsageError, match="its layouts: torch, flax"):
        layout_of(tmp_path / "m.safetensors", "onnx")


@pytest.mark.parametrize(("layout", "package"), NEEDS.items())
def test_a_missing_package_is_named(tmp_path, weights, monkeypatch, layout, package):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(UsageError, match=rf"pip install 'stream-lstm\[{layout}\]'"):
        export(weights, tmp_path / f"m{LAYOUTS[layout]}", layout)
