"""Random weights and steps in NumPy and JAX are those of the Flax modules, bit for bit."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_lstm.model import network
from stream_lstm.model.flax_network import Network, packed_init
from stream_lstm.model.network import FORGET_BIAS, Shape, apply, init_weights, seed_key

SEEDS = st.integers(0, 2**32 - 1)
SHAPES = [Shape(1, 1, 1), Shape(2, 33, 2)]
"""The second one draws more orthogonal numbers than a compiled call has."""


def key_of(seed: int) -> jax.Array:
    return jax.random.key(seed, impl="threefry2x32")


def words(key: jax.Array) -> np.ndarray:
    return np.asarray(jax.random.key_data(key))


@settings(max_examples=20)
@given(SEEDS, SEEDS)
def test_keys_are_those_of_jax(seed: int, number: int) -> None:
    ours, theirs = network.seeded(seed), key_of(seed)
    assert np.array_equal(ours, words(theirs))
    assert np.array_equal(network.split(ours, 8), words(jax.random.split(theirs, 8)))
    folded = jax.random.fold_in(theirs, np.uint32(number))
    assert np.array_equal(network.fold_in(ours, number), words(folded))


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (1.0, 299.0), (1.0, 12.3)])
@pytest.mark.parametrize("shape", [(1,), (32, 32)])
def test_uniform_numbers_are_those_of_jax(shape: tuple[int, ...], low: float, high: float) -> None:
    for seed in range(3):
        wanted = np.asarray(jax.random.uniform(key_of(seed), shape, minval=low, maxval=high))
        drawn = network.uniform(network.seeded(seed), shape, low, high)
        assert drawn.dtype == np.float32
        assert drawn.tobytes() == wanted.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_weights_are_those_of_flax(shape: Shape) -> None:
    zeros = jnp.zeros((shape.state,)), jnp.zeros((shape.features,))
    for seed in (0, 2**32 - 1):
        wanted: Any = Network(shape).init(key_of(seed), *zeros)["params"]
        weights = init_weights(shape, key=seed_key(seed))
        assert list(weights) == list(wanted)
        for name, layer in wanted.items():
            kernel = np.asarray(weights[name]["kernel"])
            assert kernel.tobytes() == np.asarray(layer["kernel"]).tobytes()


def test_chrono_biases_are_logarithms_of_uniform_numbers_of_jax() -> None:
    key, horizon, hidden = seed_key(1), 300.0, 8
    weights = init_weights(Shape(1, hidden, 2), key=key, horizon=horizon)
    for layer, drawn in enumerate(jax.random.split(jax.random.fold_in(key, 1), 2)):
        times = jax.random.uniform(drawn, (hidden,), minval=1, maxval=horizon - 1)
        bias = np.asarray(weights[f"layer_{layer}"]["kernel"])[-1]
        assert bias[hidden : 2 * hidden].tobytes() == np.asarray(jnp.log(times)).tobytes()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_step_is_that_of_the_flax_network(shape: Shape) -> None:
    rng = np.random.default_rng(0)
    weights = init_weights(shape, key=seed_key(3))
    state = rng.normal(size=shape.state).astype(np.float32)
    x = rng.normal(size=shape.features).astype(np.float32)
    ours = jax.jit(lambda *args: apply(shape, *args))(weights, state, x)
    theirs: Any = jax.jit(lambda w, *args: Network(shape).apply({"params": w}, *args))
    for one, two in zip(ours, theirs(weights, state, x), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(two).tobytes()


@pytest.mark.slow
def test_initial_kernel_is_glorot_orthogonal_and_remembers() -> None:
    inputs, hidden = 3, 8
    shape = (inputs + hidden + 1, 4 * hidden)
    kernel = np.asarray(packed_init(inputs, hidden)(jax.random.key(0), shape))
    blocks = np.split(kernel, 4, axis=1)
    for block in blocks:
        rows = block[inputs:-1]
        np.testing.assert_allclose(rows @ rows.T, np.eye(hidden), atol=1e-5)
    bound = np.sqrt(6 / (inputs + hidden))
    assert 0.5 * bound < np.abs(kernel[:inputs]).max() <= bound
    bias = kernel[-1].reshape(4, hidden)
    assert (bias[1] == FORGET_BIAS).all()
    assert not bias[[0, 2, 3]].any()
    assert not any(np.array_equal(blocks[0], other) for other in blocks[1:])
    with pytest.raises(ValueError, match=r"\(12, 32\).*\(11, 32\)"):
        packed_init(3, 8)(jax.random.key(0), (11, 32))
