"""Our kernel in Flax's own cell, over a thousand steps."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stream_lstm.interop.source import from_flax, to_flax
from stream_lstm.model.network import PackedLSTMCell


@pytest.mark.parametrize(("inputs", "hidden"), [(1, 1), (3, 8)])
def test_both_cells_agree_over_a_thousand_steps_and_convert_back(inputs, hidden):
    """Within 1e-6 for states of order one: some ten roundings of float32."""
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


def test_a_kernel_of_no_such_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(I \+ H \+ 1, 4H\), not \(3, 8\)"):
        to_flax(np.zeros((3, 8)))
