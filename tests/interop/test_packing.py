"""Packing: padding is exact, sums are made before rounding, and what does not fit is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_lstm.errors import DataError
from stream_lstm.interop.parity import our_logits, our_window_logits, rolling
from stream_lstm.interop.source import SourceHead, SourceLayer, SourceNetwork, pack, unpack

from ..model import oracle


def network(units=(3,), features=2, outputs=1, *, seed=0, biases=1):
    rng = np.random.default_rng(seed)
    layers, inputs = [], features
    for k, size in enumerate(units):
        arrays = [rng.normal(size=(rows, 4 * size)) for rows in (inputs, size)]
        held = tuple(rng.normal(size=4 * size) for _ in range(biases))
        layers.append(SourceLayer(f"l{k}", *arrays, held))
        inputs = size
    kind = "softmax" if outputs == 2 else "linear"
    head = SourceHead("head", rng.normal(size=(inputs, outputs)), rng.normal(size=outputs), kind)
    return SourceNetwork("test", tuple(layers), head)


@given(
    units=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    features=st.integers(1, 3),
    outputs=st.integers(1, 2),
    biases=st.integers(0, 2),
)
def test_a_packed_network_computes_what_the_source_computes(units, features, outputs, biases):
    source = network(units, features, outputs, biases=biases)
    packed = pack(source)
    hidden, xs = max(units), np.random.default_rng(1).normal(size=(30, features))
    assert packed["layer_0"]["kernel"].shape == (features + hidden + 1, 4 * hidden)
    logits, states = oracle.run(oracle.kernels(packed), xs, np.zeros(2 * hidden * len(units)))
    # The only difference is the rounding of the weights.
    np.testing.assert_allclose(logits, source.logits(xs[None])[0], rtol=0, atol=1e-5)
    for k, size in enumerate(units):
        h, c = np.split(states[:, 2 * hidden * k : 2 * hidden * (k + 1)], 2, axis=1)
        assert not h[:, size:].any()
        assert not c[:, size:].any()


def test_padding_is_exact_in_our_own_network_and_in_both_modes():
    source = network((2, 5))
    xs = np.random.default_rng(2).normal(size=(300, 2)).astype(np.float32)
    packed = pack(source)
    carried, wanted = our_logits(packed, xs), source.logits(xs[None])[0]
    np.testing.assert_allclose(carried, wanted, rtol=0, atol=2e-6)
    windows = rolling(xs, 20)
    windowed = our_window_logits(packed, windows)
    np.testing.assert_allclose(windowed, source.logits(windows)[:, -1], rtol=0, atol=2e-6)


def test_sums_and_differences_are_rounded_once():
    one = 1.0 + 2.0**-24  # halfway between two numbers of float32
    source = network(outputs=2, biases=2)
    layer = source.layers[0]._replace(biases=(np.full(12, one), np.full(12, 2.0**-24)))
    head = source.head._replace(kernel=np.array([[-(2.0**-24), one]] * 3))
    packed = pack(source._replace(layers=(layer,), head=head))
    assert (packed["layer_0"]["kernel"][-1] == np.float32(1 + 2**-23)).all()
    assert (packed["head"]["kernel"][:-1] == np.float32(1 + 2**-23)).all()


@given(units=st.lists(st.just(3), min_size=1, max_size=3))
def test_unpacking_gives_the_same_weights_back(units):
    packed = pack(network(units))
    again = pack(unpack(packed, "ours"))
    assert {n: b["kernel"].tobytes() for n, b in packed.items()} == {
        n: b["kernel"].tobytes() for n, b in again.items()
    }


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e39])
def test_numbers_that_are_not_finite_in_float32_are_refused(bad):
    source = network()
    source.layers[0].kernel[0, 0] = bad
    with pytest.raises(DataError, match="layer_0 hold a number that is not finite in float32"):
        pack(source)


def test_more_than_can_be_configured_is_refused():
    with pytest.raises(DataError, match=r"5 LSTM layers \(l0, l1, l2, l3, l4\).* 4 at most"):
        pack(network((1,) * 5))
    huge = SourceLayer("big", np.zeros((1, 4)), np.zeros((8193, 4)), ())
    with pytest.raises(DataError, match="8193 units"):
        pack(network()._replace(layers=(huge,)))
