"""A network between frameworks: its arithmetic, exact padding, and the cell of Flax."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from stream_lstm.errors import DataError
from stream_lstm.interop.parity import our_logits, our_window_logits, rolling
from stream_lstm.interop.source import SourceLayer, from_flax, pack, sigmoid, to_flax, unpack
from stream_lstm.model.flax_network import PackedLSTMCell

from ..model import oracle
from .networks import network


def test_logits_are_those_of_the_textbook():
    source = network((4,), features=3)
    layer = source.layers[0]
    kernel = np.concatenate([layer.kernel, layer.recurrent, layer.biases[0][None]])
    head = np.append(source.head.kernel, source.head.bias)
    xs = np.random.default_rng(0).normal(size=(40, 3))
    wanted, _ = oracle.run({"layer_0": kernel, "head": head}, xs, np.zeros(8))
    np.testing.assert_allclose(source.logits(xs[None])[0], wanted, rtol=0, atol=1e-12)
    # Series of a batch are independent.
    both = source.logits(np.stack([xs, xs[::-1]]))
    np.testing.assert_allclose(both[0], wanted, rtol=0, atol=1e-12)


def test_sigmoid_neither_overflows_nor_loses_its_ends():
    z = np.array([-1e4, -700.0, 0.0, 700.0, 1e4])
    np.testing.assert_allclose(sigmoid(z), [0.0, np.exp(-700), 0.5, 1.0, 1.0], rtol=1e-9)


@hypothesis_settings(max_examples=30)
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
def test_numbers_that_are_not_finite_in_float32_are_rejected(bad):
    source = network()
    source.layers[0].kernel[0, 0] = bad
    with pytest.raises(DataError, match="layer_0 have a number that is not finite in float32"):
        pack(source)


def test_too_many_layers_or_units_are_rejected():
    with pytest.raises(DataError, match=r"5 LSTM layers \(l0, l1, l2, l3, l4\); the limit is 4"):
        pack(network((1,) * 5))
    huge = SourceLayer("big", np.zeros((1, 4)), np.zeros((8193, 4)), ())
    with pytest.raises(DataError, match="8193 units"):
        pack(network()._replace(layers=(huge,)))


@pytest.mark.slow
@pytest.mark.parametrize(("inputs", "hidden"), [(3, 8)])
def test_both_cells_agree_over_a_thousand_steps_and_convert_back(inputs, hidden):
    """Within 1e-6 for states of order one, or about ten roundings of float32."""
    cell = nn.OptimizedLSTMCell(hidden)
    zero = jnp.zeros(hidden), jnp.zeros(hidden)
    params = cell.init(jax.random.key(1), zero, jnp.zeros(inputs))["params"]
    noise = iter(jax.random.split(jax.random.key(2), 99))
    params = jax.tree.map(lambda w: w + 0.1 * jax.random.normal(next(noise), w.shape), params)
    kernel = from_flax(params)
    xs = np.random.default_rng(0).normal(size=(1000, inputs)).astype(np.float32)
    ours = PackedLSTMCell(hidden)

    @jax.jit
    def run(params, kernel):
        theirs = jax.lax.scan(lambda s, x: cell.apply({"params": params}, s, x), zero, xs)[1]
        packed = {"params": {"kernel": kernel}}
        return theirs, jax.lax.scan(lambda s, x: ours.apply(packed, s, x), zero, xs)[1]

    theirs, mine = run(params, kernel)
    np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-6)
    back = to_flax(kernel)
    assert jax.tree.structure(back) == jax.tree.structure(dict(params))
    same = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), back, dict(params))
    assert all(jax.tree.leaves(same))


def test_an_invalid_kernel_is_rejected():
    with pytest.raises(ValueError, match=r"\(I \+ H \+ 1, 4H\), not \(3, 8\)"):
        to_flax(np.zeros((3, 8)))
