"""One layer, against a float64 oracle and against Flax's own cell."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from stream_lstm.model.network import FORGET_BIAS, PackedLSTMCell, packed_init

from . import oracle

STEPS = 1000


def random_kernel(inputs: int, hidden: int, seed: int = 0) -> np.ndarray:
    """A kernel with biases too, so that a lost bias shows."""
    drawn = np.random.default_rng(seed).normal(size=(inputs + hidden + 1, 4 * hidden))
    return (drawn / np.sqrt(inputs + hidden)).astype(np.float32)


def run_cell(cell: nn.Module, params: Any, xs: np.ndarray, hidden: int) -> np.ndarray:
    """Outputs (T, H) of a Flax cell from a zero state."""

    @jax.jit
    def scan(params: Any, xs: jax.Array) -> jax.Array:
        zero = jnp.zeros(hidden)
        return lax.scan(lambda s, x: cell.apply({"params": params}, s, x), (zero, zero), xs)[1]

    return np.asarray(scan(params, xs))


def as_flax(kernel: np.ndarray, inputs: int) -> dict[str, dict[str, np.ndarray]]:
    """The parameters of `flax.linen.OptimizedLSTMCell` that a packed kernel stands for."""
    parts: dict[str, dict[str, np.ndarray]] = {}
    for gate, columns in zip("ifgo", np.split(kernel, 4, axis=1), strict=True):
        parts[f"i{gate}"] = {"kernel": columns[:inputs]}
        parts[f"h{gate}"] = {"kernel": columns[inputs:-1], "bias": columns[-1]}
    return parts


@pytest.mark.parametrize("features", [1, 3])
@pytest.mark.parametrize("hidden", [1, 8, 32])
def test_equals_a_float64_oracle_over_1000_steps(features: int, hidden: int) -> None:
    kernel = random_kernel(features, hidden)
    xs = np.random.default_rng(1).normal(size=(STEPS, features)).astype(np.float32)
    ours = run_cell(PackedLSTMCell(hidden), {"kernel": kernel}, xs, hidden)
    h, c, wanted = np.zeros(hidden), np.zeros(hidden), []
    for x in xs.astype(np.float64):
        h, c = oracle.cell(kernel.astype(np.float64), x, h, c)
        wanted.append(h)
    # float32 has 6e-8 a rounding; what a step adds decays with the state, it does not pile up.
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("features", "hidden"), [(1, 32), (3, 8)])
def test_equals_the_cell_of_flax_with_the_same_weights(features: int, hidden: int) -> None:
    kernel = random_kernel(features, hidden, seed=2)
    xs = np.random.default_rng(3).normal(size=(STEPS, features)).astype(np.float32)
    ours = run_cell(PackedLSTMCell(hidden), {"kernel": kernel}, xs, hidden)
    theirs = run_cell(nn.OptimizedLSTMCell(hidden), as_flax(kernel, features), xs, hidden)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def test_initial_kernel_is_glorot_orthogonal_and_remembers() -> None:
    inputs, hidden = 3, 8
    shape = (inputs + hidden + 1, 4 * hidden)
    kernel = np.asarray(packed_init(inputs, hidden)(jax.random.key(0), shape))
    assert kernel.dtype == np.float32
    for block in np.split(kernel[inputs:-1], 4, axis=1):
        np.testing.assert_allclose(block @ block.T, np.eye(hidden), atol=1e-5)
    bound = np.sqrt(6 / (inputs + hidden))
    assert 0.5 * bound < np.abs(kernel[:inputs]).max() <= bound
    bias = kernel[-1].reshape(4, hidden)
    assert (bias[1] == FORGET_BIAS).all()
    assert (bias[[0, 2, 3]] == 0).all()
    blocks = np.split(kernel, 4, axis=1)
    assert not any(np.array_equal(blocks[0], other) for other in blocks[1:])


def test_a_kernel_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(12, 32\).*\(11, 32\)"):
        packed_init(3, 8)(jax.random.key(0), (11, 32))
