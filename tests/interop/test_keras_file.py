"""Files of Keras that are missing, damaged, or hold something else."""

import json
import zipfile

import numpy as np
import pytest

from stream_lstm.errors import DataError, InputMissingError, OutputError, UsageError
from stream_lstm.interop import keras_model
from stream_lstm.interop.keras_model import keras_network, read_keras

from .keras_files import H5PY_MISSING, dense, lstm, write_h5, write_keras

h5py = pytest.importorskip("h5py", reason=H5PY_MISSING)
MODEL = (lstm(), dense())


def test_missing_and_unreadable_files_are_told_apart(tmp_path):
    with pytest.raises(InputMissingError, match=r"no such model: .*m\.keras"):
        read_keras(tmp_path / "m.keras")
    (tmp_path / "d.keras").mkdir()
    with pytest.raises(OutputError, match="directory"):
        read_keras(tmp_path / "d.keras")


@pytest.mark.parametrize("kind", ["keras", "packed", "h5"])
def test_a_file_cut_anywhere_or_changed_at_random_is_refused_or_whole(tmp_path, kind):
    if kind == "h5":
        path = write_h5(tmp_path / "m.h5", MODEL)
    else:
        path = write_keras(tmp_path / "m.keras", MODEL, packed=kind == "packed")
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for length in range(0, len(whole), max(len(whole) // 40, 1)):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"m\.(keras|h5)"):
            keras_network(read_keras(path))
    for _ in range(60):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), 3):
            data[at] = rng.integers(256)
        path.write_bytes(data)
        try:
            keras_network(read_keras(path))
        except DataError:
            continue


def test_weights_alone_do_not_say_what_they_are(tmp_path):
    path = tmp_path / "m.weights.h5"
    with h5py.File(path, "w") as file:
        file["layers/lstm/cell/vars/0"] = np.zeros((2, 12))
    with pytest.raises(DataError, match=r"save the whole model with model\.save"):
        read_keras(path)


def test_a_zip_without_its_members_names_what_is_missing(tmp_path):
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(DataError, match=r"holds no model\.weights\.h5"):
        read_keras(path)


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"class_name": "Sequential", "config": 3}', "[" * 10**5]
)
def test_a_description_that_is_none_is_refused(tmp_path, text):
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


def test_without_h5py_the_line_that_installs_it_is_named(tmp_path, monkeypatch):
    path = write_keras(tmp_path / "m.keras", MODEL)
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(UsageError, match=r"pip install 'stream-lstm\[keras\]'"):
        read_keras(path)


def test_a_version_that_is_not_told_does_not_matter(tmp_path):
    path = write_keras(tmp_path / "m.keras", MODEL)
    with zipfile.ZipFile(path) as old:
        kept = {name: old.read(name) for name in old.namelist() if name != "metadata.json"}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in kept.items():
            new.writestr(name, data)
    assert json.loads(kept["config.json"])["class_name"] == "Sequential"
    assert keras_network(read_keras(path)).origin == "Keras of unknown version Sequential"
