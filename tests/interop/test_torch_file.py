"""Files of tensors: what is read, and that nothing in them is run."""

import sys

import numpy as np
import pytest
import safetensors.numpy

from stream_lstm.errors import DataError, InputMissingError, OutputError, UsageError
from stream_lstm.interop.torch_state import read_tensors
from stream_lstm.store.weights import save_weights


def test_tensors_come_back_as_they_are(tmp_path):
    held = {"a": np.float32([[1, 2]]), "b": np.float64([0.1]), "c": np.float16([3])}
    safetensors.numpy.save_file(held, tmp_path / "m.safetensors")
    found = read_tensors(tmp_path / "m.safetensors")
    assert set(found) == set(held)
    for name, array in held.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)


def test_our_own_weights_are_sent_to_where_they_belong(tmp_path):
    path = tmp_path / "w.safetensors"
    kernels = {"layer_0": np.zeros((3, 4)), "head": np.zeros(2)}
    save_weights(path, {name: {"kernel": kernel} for name, kernel in kernels.items()}, {})
    with pytest.raises(UsageError, match="of this program already: give it to --weights"):
        read_tensors(path)


def test_missing_unreadable_and_damaged_files_are_told_apart(tmp_path):
    with pytest.raises(InputMissingError):
        read_tensors(tmp_path / "m.safetensors")
    (tmp_path / "d.safetensors").mkdir()
    with pytest.raises(OutputError):
        read_tensors(tmp_path / "d.safetensors")
    safetensors.numpy.save_file({"a": np.zeros(9, "f4")}, tmp_path / "m.safetensors")
    whole = (tmp_path / "m.safetensors").read_bytes()
    for length in range(0, len(whole), 5):
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
    with pytest.raises(DataError, match="'epoch' is no tensor"):
        read_tensors(tmp_path / "m.pt")
    torch.save(lstm, tmp_path / "m.pt")
    with pytest.raises(DataError, match=r"more than tensors, which is not run here") as refused:
        read_tensors(tmp_path / "m.pt")
    assert "trust" not in str(refused.value)
    (tmp_path / "m.pt").write_bytes(b"junk")
    with pytest.raises(DataError, match="damaged"):
        read_tensors(tmp_path / "m.pt")
