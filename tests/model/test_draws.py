"""Keys and numbers of NumPy, against those of JAX, bit for bit."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_lstm.model import network

SEEDS = st.integers(0, 2**32 - 1)


def words(key: jax.Array) -> np.ndarray:
    return np.asarray(jax.random.key_data(key))


@settings(max_examples=30, deadline=None)
@given(SEEDS, SEEDS)
def test_keys_are_those_of_jax(seed: int, number: int) -> None:
    ours, theirs = network.seeded(seed), jax.random.key(seed, impl="threefry2x32")
    assert np.array_equal(ours, words(theirs))
    assert np.array_equal(network.split(ours, 8), words(jax.random.split(theirs, 8)))
    folded = jax.random.fold_in(theirs, np.uint32(number))
    assert np.array_equal(network.fold_in(ours, number), words(folded))


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (1.0, 299.0), (1.0, 12.3)])
@pytest.mark.parametrize("shape", [(1,), (3, 5), (32, 32)])
def test_uniform_numbers_are_those_of_jax(shape: tuple[int, ...], low: float, high: float) -> None:
    for seed in range(5):
        key = jax.random.key(seed, impl="threefry2x32")
        wanted = np.asarray(jax.random.uniform(key, shape, minval=low, maxval=high))
        drawn = network.uniform(network.seeded(seed), shape, low, high)
        assert drawn.dtype == np.float32
        assert drawn.tobytes() == wanted.tobytes()
