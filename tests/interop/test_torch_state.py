"""PyTorch: names and the order of gates, files without execution, and errors by name."""

import sys

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from stream_lstm.errors import DataError, InputMissingError, OutputError, UsageError
from stream_lstm.interop.torch_state import read_tensors, torch_network
from stream_lstm.store.weights import save_weights

from .networks import evaluated, state_dict


def network(tensors):
    return torch_network("m.safetensors", tensors, "PyTorch state_dict")


@hypothesis_settings(max_examples=30)
@given(
    features=st.integers(1, 3),
    hidden=st.integers(1, 4),
    layers=st.integers(1, 3),
    outputs=st.integers(1, 2),
    module=st.sampled_from(["", "lstm.", "model.rnn."]),
)
def test_a_network_computes_what_torch_computes(features, hidden, layers, outputs, module):
    tensors = state_dict(features, hidden, layers, outputs, module=module)
    xs = np.random.default_rng(1).normal(size=(9, features))
    wanted = evaluated(tensors, xs, layers, module)
    wanted = wanted[:, -1] - (wanted[:, 0] if outputs == 2 else 0)
    np.testing.assert_allclose(network(tensors).logits(xs[None])[0], wanted, atol=1e-12)


def test_cells_numbered_modules_and_missing_biases_are_understood():
    tensors = state_dict(hidden=3, layers=2)
    xs = np.random.default_rng(1).normal(size=(1, 6, 2))
    wanted = network(tensors).logits(xs)
    cells = {
        name.replace("lstm.", f"cells.{name[-1]}.").removesuffix("_l0").removesuffix("_l1")
        if name.startswith("lstm")
        else name: array
        for name, array in reversed(tensors.items())
    }
    assert "cells.1.weight_ih" in cells
    assert np.array_equal(network(cells).logits(xs), wanted)
    bare = {name: array for name, array in tensors.items() if "bias" not in name}
    assert network(bare).layers[0].biases == ()
    np.testing.assert_allclose(network(bare).logits(xs)[0], evaluated(bare, xs[0], 2)[:, 0])


def test_ten_layers_keep_their_order():
    names = [f"lstm{k}." for k in range(12)]
    tensors = {}
    for k, module in enumerate(names):
        part = state_dict(1 if k == 0 else k, k + 1, module=module, seed=k)
        tensors |= {name: array for name, array in part.items() if not name.startswith("fc")}
    tensors |= {"fc.weight": np.ones((1, 12), "f4")}
    assert [layer.units for layer in network(tensors).layers] == list(range(1, 13))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lstm.weight_ih_l0_reverse": np.zeros((12, 2))}, "_reverse' belongs to a bidirectional"),
        ({"lstm.weight_hr_l0": np.zeros((2, 3))}, "proj_size"),
        (
            {"lstm.weight_ih_x": np.zeros((2, 3))},
            "'lstm.weight_ih_x' does not belong to a known layer",
        ),
        ({"lstm.weight_hh_l0": np.zeros((9, 3))}, "lstm layer 0 is a GRU"),
        ({"lstm.weight_hh_l0": np.zeros((3, 3))}, "lstm layer 0 is a plain RNN"),
        ({"lstm.weight_hh_l0": np.zeros(3)}, "no matrix weight_hh"),
        ({"lstm.weight_ih_l0": np.zeros((8, 2))}, "weight_ih has the shape"),
        ({"lstm.bias_ih_l0": np.zeros((12, 1))}, "bias has the shape"),
        ({"bn.running_mean": np.zeros(3)}, "'bn.running_mean' belongs to an unsupported layer"),
        ({"fc2.weight": np.zeros((1, 1))}, "belongs to an unsupported layer"),
        ({"fc.weight": np.zeros((3, 3))}, "'fc.weight' has 3 outputs, not one or two"),
        ({"fc.weight": np.zeros((1, 4))}, "'fc' takes 4 inputs"),
        ({"fc.bias": np.zeros(2)}, r"'fc.bias' has the shape \(2,\)"),
        ({"decoder.weight_ih_l0": np.zeros((12, 3))}, "modules decoder, lstm"),
    ],
)
def test_an_unsupported_part_is_named(change, words):
    with pytest.raises(DataError, match=words):
        network(state_dict() | change)


def test_a_dict_without_lstm_or_without_head_is_rejected():
    tensors = state_dict()
    with pytest.raises(DataError, match=r"has no LSTM: its tensors are fc\.bias, fc\.weight"):
        network({name: array for name, array in tensors.items() if "fc" in name})
    with pytest.raises(DataError, match="no linear layer"):
        network({name: array for name, array in tensors.items() if "fc" not in name})


# ---- files ----------------------------------------------------------------------------------


def test_tensors_come_back_as_they_are(tmp_path):
    held = {"a": np.float32([[1, 2]]), "b": np.float64([0.1]), "c": np.float16([3])}
    safetensors.numpy.save_file(held, tmp_path / "m.safetensors")
    found = read_tensors(tmp_path / "m.safetensors")
    assert set(found) == set(held)
    for name, array in held.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)


def test_our_own_weights_are_rejected_with_the_right_option(tmp_path):
    path = tmp_path / "w.safetensors"
    kernels = {"layer_0": np.zeros((3, 4)), "head": np.zeros(2)}
    save_weights(path, {name: {"kernel": kernel} for name, kernel in kernels.items()}, {})
    with pytest.raises(UsageError, match="of this program already: use it with --weights"):
        read_tensors(path)


def test_missing_unreadable_and_damaged_files_are_different_errors(tmp_path):
    with pytest.raises(InputMissingError):
        read_tensors(tmp_path / "m.safetensors")
    (tmp_path / "d.safetensors").mkdir()
    with pytest.raises(OutputError):
        read_tensors(tmp_path / "d.safetensors")
    safetensors.numpy.save_file({"a": np.zeros(9, "f4")}, tmp_path / "m.safetensors")
    whole = (tmp_path / "m.safetensors").read_bytes()
    for length in range(0, len(whole), 9):
        (tmp_path / "m.safetensors").write_bytes(whole[:length])
        with pytest.raises(DataError, match="damaged"):
            read_tensors(tmp_path / "m.safetensors")


def test_a_pt_file_without_pytorch_says_how_to_convert_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "m.pt").write_bytes(b"PK")
    with pytest.raises(UsageError, match=r"safetensors\.torch\.save_file"):
        read_tensors(tmp_path / "m.pt")


def test_pytorchs_own_file_is_read_without_running_it(tmp_path):
    torch = pytest.importorskip("torch")
    lstm = torch.nn.LSTM(2, 3)
    held = {name: tensor.numpy() for name, tensor in lstm.state_dict().items()}
    torch.save(lstm.state_dict(), tmp_path / "m.pt")
    torch.save({"epoch": 3, "state_dict": lstm.state_dict()}, tmp_path / "m.pth")
    for name in ("m.pt", "m.pth"):
        found = read_tensors(tmp_path / name)
        assert {k: v.tolist() for k, v in found.items()} == {
            k: v.tolist() for k, v in held.items()
        }
    torch.save({"epoch": 3}, tmp_path / "m.pt")
    with pytest.raises(DataError, match="'epoch' is not a tensor"):
        read_tensors(tmp_path / "m.pt")
    torch.save(lstm, tmp_path / "m.pt")
    with pytest.raises(
        DataError, match=r"more than tensors, which is not executed here"
    ) as refused:
        read_tensors(tmp_path / "m.pt")
    assert "trust" not in str(refused.value)
    (tmp_path / "m.pt").write_bytes(b"junk")
    with pytest.raises(DataError, match="damaged"):
        read_tensors(tmp_path / "m.pt")
