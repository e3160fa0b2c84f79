"""State dicts of PyTorch: names, the order of gates, and what is refused by name."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_lstm.errors import DataError
from stream_lstm.interop.torch_state import torch_network


def state_dict(features=2, hidden=3, layers=1, outputs=1, *, seed=0, module="lstm.", head="fc."):
    """Arrays as torch.nn.LSTM and torch.nn.Linear name them."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for k in range(layers):
        inputs = hidden if k else features
        tensors[f"{module}weight_ih_l{k}"] = rng.normal(size=(4 * hidden, inputs))
        tensors[f"{module}weight_hh_l{k}"] = rng.normal(size=(4 * hidden, hidden))
        tensors[f"{module}bias_ih_l{k}"] = rng.normal(size=4 * hidden)
        tensors[f"{module}bias_hh_l{k}"] = rng.normal(size=4 * hidden)
    tensors[f"{head}weight"] = rng.normal(size=(outputs, hidden))
    tensors[f"{head}bias"] = rng.normal(size=outputs)
    return {name: array.astype(np.float32) for name, array in tensors.items()}


def evaluated(tensors, xs, layers, module="lstm.", head="fc."):
    """Outputs (T, outputs) as the manual of torch.nn.LSTM defines them."""
    held = {name: np.float64(array) for name, array in tensors.items()}
    sigmoid = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    for k in range(layers):
        W, U = held[f"{module}weight_ih_l{k}"], held[f"{module}weight_hh_l{k}"]
        hidden = U.shape[1]
        h = c = np.zeros(hidden)
        out = []
        for x in xs:
            z = W @ x + U @ h
            z = z + held.get(f"{module}bias_ih_l{k}", 0) + held.get(f"{module}bias_hh_l{k}", 0)
            i, f, g, o = (z[n * hidden : (n + 1) * hidden] for n in range(4))
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            out.append(h)
        xs = np.array(out)
    return xs @ held[f"{head}weight"].T + held.get(f"{head}bias", 0)


def network(tensors):
    return torch_network("m.safetensors", tensors, "PyTorch state_dict")


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
        ({"lstm.weight_ih_x": np.zeros((2, 3))}, "'lstm.weight_ih_x' is of no known layer"),
        ({"lstm.weight_hh_l0": np.zeros((9, 3))}, "lstm layer 0 is a GRU"),
        ({"lstm.weight_hh_l0": np.zeros((3, 3))}, "lstm layer 0 is a plain RNN"),
        ({"lstm.weight_hh_l0": np.zeros(3)}, "no matrix weight_hh"),
        ({"lstm.weight_ih_l0": np.zeros((8, 2))}, "weight_ih has the shape"),
        ({"lstm.bias_ih_l0": np.zeros((12, 1))}, "bias has the shape"),
        ({"bn.running_mean": np.zeros(3)}, "'bn.running_mean' belongs to a layer that is not"),
        ({"fc2.weight": np.zeros((1, 1))}, "belongs to a layer that is not ours"),
        ({"fc.weight": np.zeros((3, 3))}, "'fc.weight' has 3 outputs"),
        ({"fc.weight": np.zeros((1, 4))}, "'fc' takes 4 inputs"),
        ({"fc.bias": np.zeros(2)}, r"'fc.bias' has the shape \(2,\)"),
        ({"decoder.weight_ih_l0": np.zeros((12, 3))}, "modules decoder, lstm"),
    ],
)
def test_what_has_no_place_in_our_network_is_named(change, words):
    with pytest.raises(DataError, match=words):
        network(state_dict() | change)


def test_a_dict_without_lstm_or_without_head_is_refused():
    tensors = state_dict()
    with pytest.raises(DataError, match=r"no LSTM: its tensors are fc\.bias, fc\.weight"):
        network({name: array for name, array in tensors.items() if "fc" in name})
    with pytest.raises(DataError, match="no linear layer"):
        network({name: array for name, array in tensors.items() if "fc" not in name})
