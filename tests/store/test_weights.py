"""Files of weights: what is written comes back, and nothing else is believed."""

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from stream_lstm.errors import DataError, InputMissingError, OutputError, UsageError
from stream_lstm.store.weights import FORMAT, check_target, load_weights, save_weights


def network(features=2, hidden=3, layers=2):
    random = np.random.default_rng(0)
    rows = [features, *[hidden] * (layers - 1)]
    kernels = {
        f"layer_{k}": random.normal(size=(row + hidden + 1, 4 * hidden))
        for k, row in enumerate(rows)
    }
    kernels["head"] = random.normal(size=hidden + 1)
    return {name: {"kernel": kernel.astype(np.float32)} for name, kernel in kernels.items()}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "w.safetensors"


@given(features=st.integers(1, 4), hidden=st.integers(1, 5), layers=st.integers(1, 4))
def test_weights_come_back_bit_for_bit(tmp_path_factory, features, hidden, layers):
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    weights = network(features, hidden, layers)
    save_weights(path, weights, {"features": '["x"]'})
    loaded, metadata = load_weights(path)
    assert list(loaded) == list(weights)
    for name, body in weights.items():
        assert loaded[name]["kernel"].dtype == np.float32
        assert loaded[name]["kernel"].tobytes() == body["kernel"].tobytes()
    assert metadata == {
        "format": FORMAT,
        "version": "1",
        "gate_order": "i,f,g,o",
        "features": '["x"]',
        "hidden": str(hidden),
        "layers": str(layers),
    }
    assert [file.name for file in path.parent.iterdir()] == ["w.safetensors"]


def test_a_kernel_that_lies_across_memory_is_saved_as_it_reads(path):
    weights = network()
    kernel = weights["layer_0"]["kernel"]
    save_weights(path, weights | {"layer_0": {"kernel": np.asfortranarray(kernel)}}, {})
    assert np.array_equal(load_weights(path)[0]["layer_0"]["kernel"], kernel)


def write(path, *, about=None, **changed):
    """A file like ours, but for what is changed; None takes a tensor away."""
    tensors = {f"{name}.kernel": body["kernel"] for name, body in network().items()}
    tensors |= {name.replace("__", "."): value for name, value in changed.items()}
    kept = {name: value for name, value in tensors.items() if value is not None}
    metadata = {"format": FORMAT, "version": "1", "gate_order": "i,f,g,o"} | (about or {})
    path.write_bytes(safetensors.numpy.save(kept, metadata=metadata))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layer_1__kernel": None, "layer_2__kernel": np.zeros(3, "f4")}, "whole network"),
        ({"head__kernel": None}, "whole network"),
        ({"extra": np.zeros(3, "f4")}, "whole network"),
        ({"head__kernel": np.zeros(4, "f8")}, "head.kernel is float64"),
        ({"head__kernel": np.zeros(5, "f4")}, r"layer_\d.kernel has the shape"),
        ({"head__kernel": np.zeros((2, 2), "f4")}, "head.kernel has the shape"),
        ({"layer_0__kernel": np.zeros((4, 12), "f4")}, r"layer_0.kernel has the shape \(4, 12\)"),
        ({"layer_1__kernel": np.zeros((8, 12), "f4")}, r"layer_1.kernel has the shape \(8, 12\)"),
        ({"head__kernel": np.array([0, np.nan, 0, 0], "f4")}, "not finite"),
        ({"about": {"format": "pt"}}, "has the format 'pt'"),
        ({"about": {"version": "4"}}, "version '4'"),
        ({"about": {"gate_order": "i,f,o,g"}}, "gate_order 'i,f,o,g'"),
    ],
)
def test_what_is_not_a_whole_finite_network_of_this_format_is_refused(path, change, words):
    write(path)
    load_weights(path)
    write(path, **change)
    with pytest.raises(DataError, match=words):
        load_weights(path)


def test_a_file_cut_at_any_length_is_damaged(path):
    save_weights(path, network(), {})
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"w\.safetensors"):
            load_weights(path)


@given(junk=st.binary(max_size=200))
def test_any_other_bytes_are_refused(tmp_path_factory, junk):
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    path.write_bytes(junk)
    with pytest.raises(DataError):
        load_weights(path)


def test_missing_and_unreadable_files_are_told_apart(tmp_path, path):
    with pytest.raises(InputMissingError, match=r"w\.safetensors"):
        load_weights(path)
    with pytest.raises(OutputError, match="directory"):
        load_weights(tmp_path)


def test_a_failed_save_leaves_the_old_file(path, monkeypatch):
    save_weights(path, network(), {"features": "[]"})
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        save_weights(path, network(hidden=5), {})
    assert path.read_bytes() == before


def test_targets_are_checked_before_any_work(tmp_path):
    check_target(tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match=r"\.safetensors"):
        check_target(tmp_path / "w.npz")
    with pytest.raises(OutputError, match="no directory"):
        check_target(tmp_path / "no" / "w.safetensors")
    (tmp_path / "d.safetensors").mkdir()
    with pytest.raises(OutputError, match="is a directory"):
        check_target(tmp_path / "d.safetensors")
