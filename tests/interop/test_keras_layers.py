"""The order of layers, in the ways that Keras describes it."""

from pathlib import Path

import pytest

from stream_lstm.errors import DataError
from stream_lstm.interop.keras_model import chain

from .keras_files import dense, described, lstm

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
def test_what_is_no_chain_is_refused(version):
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
def test_a_model_that_is_no_list_of_layers_is_refused(config):
    with pytest.raises(DataError, match="not a Sequential or functional model"):
        chain(PATH, config)
