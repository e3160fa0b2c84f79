"""Stacked cells and the head, against a float64 oracle."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from jax import lax

from stream_lstm.model.network import Shape, apply, init_weights, seed_key

from . import oracle


@functools.partial(jax.jit, static_argnums=0)
def _scan(shape: Shape, weights: object, state: jax.Array, xs: jax.Array) -> object:
    def step(state: jax.Array, x: jax.Array) -> object:
        state, logit = apply(shape, weights, state, x)
        return state, (logit, state)

    return lax.scan(step, state, xs)[1]


@pytest.mark.parametrize("shape", [Shape(3, 1, 2), Shape(1, 32, 1), Shape(3, 8, 4)], ids=str)
def test_equals_a_float64_oracle_over_1000_steps(shape: Shape) -> None:
    rng = np.random.default_rng(0)
    weights = init_weights(shape, key=seed_key(0))
    weights = jax.tree.map(lambda w: w + 0.1 * rng.normal(size=w.shape).astype("f4"), weights)
    xs = rng.normal(size=(1000, shape.features)).astype(np.float32)
    state = rng.normal(size=shape.state).astype(np.float32)
    logits, states = (np.asarray(a) for a in _scan(shape, weights, state, xs))
    wanted = oracle.run(oracle.kernels(weights), xs, state.astype(np.float64))
    # Roundings of float32 (6e-8) of numbers up to a few units, times the fan-in of the head.
    np.testing.assert_allclose(logits, wanted[0], rtol=0, atol=4e-6)
    np.testing.assert_allclose(states, wanted[1], rtol=0, atol=8e-6)


def test_weights_have_the_declared_shapes() -> None:
    shape = Shape(3, 8, 3)
    weights = init_weights(shape, key=seed_key(0))
    assert {name: layer["kernel"].shape for name, layer in weights.items()} == shape.weights()
    assert shape.weights() == {
        "layer_0": (12, 32),
        "layer_1": (17, 32),
        "layer_2": (17, 32),
        "head": (9,),
    }
    assert shape.state == 48
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(weights))
    assert weights["head"]["kernel"][-1] == 0


def bits(weights: object) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(weights)]


def test_a_seed_is_a_set_of_weights() -> None:
    shape = Shape(2, 4, 2)
    first, again = (init_weights(shape, key=seed_key(7)) for _ in range(2))
    other = init_weights(shape, key=seed_key(8))
    assert bits(first) == bits(again)
    assert not set(bits(first)) & set(bits(other))
    assert len(set(bits(first))) == 3, "two layers were drawn alike"


@pytest.mark.parametrize("shape", [Shape(2, 32, 2)], ids=str)
@pytest.mark.parametrize("horizon", [3.0, 300.0])
def test_chrono_biases_are_logarithms_of_times_up_to_the_horizon(
    shape: Shape, horizon: float
) -> None:
    plain = init_weights(shape, key=seed_key(1))
    chrono = init_weights(shape, key=seed_key(1), horizon=horizon)
    drawn = []
    for layer in range(shape.layers):
        one, two = (np.asarray(w[f"layer_{layer}"]["kernel"]) for w in (plain, chrono))
        assert np.array_equal(one[:-1], two[:-1]), "only biases differ"
        i, f, g, o = np.split(two[-1].astype(np.float64), 4)
        assert np.array_equal(i, -f)
        assert not g.any()
        assert not o.any()
        drawn.append(np.exp(f))
    assert np.array_equal(plain["head"]["kernel"], chrono["head"]["kernel"])
    times = np.concatenate(drawn)
    assert times.min() >= 1 - 1e-6
    assert times.max() <= horizon - 1 + 1e-4
    # Uniform over (1, T - 1): mean and deviation within five standard errors.
    width, count = horizon - 2, len(times)
    assert times.mean() == pytest.approx(horizon / 2, abs=5 * width / np.sqrt(12 * count))
    assert times.std() == pytest.approx(width / np.sqrt(12), rel=0.3)
    assert not np.array_equal(*drawn)
    other = init_weights(shape, key=seed_key(2), horizon=horizon)["layer_0"]["kernel"][-1]
    assert not np.array_equal(other, chrono["layer_0"]["kernel"][-1])
