"""Starting weights are those that Flax draws, bit for bit."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stream_lstm.model.network import Network, Shape, apply, init_weights, seed_key

SHAPES = [Shape(1, 1, 1), Shape(3, 3, 2), Shape(1, 32, 1), Shape(2, 33, 3), Shape(1, 64, 1)]


def drawn_by_flax(shape: Shape, key: jax.Array) -> dict[str, np.ndarray]:
    zeros = jnp.zeros((shape.state,)), jnp.zeros((shape.features,))
    params: Any = Network(shape).init(key, *zeros)["params"]
    return {name: np.asarray(layer["kernel"]) for name, layer in params.items()}


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_weights_are_those_of_flax(shape: Shape, seed: int) -> None:
    wanted = drawn_by_flax(shape, jax.random.key(seed, impl="threefry2x32"))
    weights = init_weights(shape, key=seed_key(seed))
    assert list(weights) == list(wanted)
    for name, kernel in wanted.items():
        assert np.asarray(weights[name]["kernel"]).tobytes() == kernel.tobytes()


@pytest.mark.parametrize("hidden", [3, 8, 32])
def test_chrono_biases_are_those_of_the_generator_of_jax(hidden: int) -> None:
    key, horizon = seed_key(1), 300.0
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
    ours = jax.jit(lambda *given: apply(shape, *given))(weights, state, x)
    theirs: Any = jax.jit(lambda w, *given: Network(shape).apply({"params": w}, *given))
    for one, two in zip(ours, theirs(weights, state, x), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(two).tobytes()
