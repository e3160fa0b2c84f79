"""Trees of arrays as flat ones, and back."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_lstm.model.buffers import Packing, plain

SHAPES = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 3)), min_size=1, max_size=4)


def bits(tree: Any) -> list[tuple[tuple[int, ...], bytes]]:
    arrays = [np.asarray(plain(leaf)) for leaf in jax.tree.leaves(tree)]
    return [(array.shape, array.tobytes()) for array in arrays]


@settings(max_examples=25, deadline=None)
@given(shapes=SHAPES, seed=st.integers(0, 1000))
def test_what_is_packed_comes_back(shapes: list[tuple[int, int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    tree = {
        "floats": [rng.normal(size=shape).astype(np.float32) for shape in shapes],
        "count": np.int32(seed),
        "flag": np.array([True, False]),
    }
    packing = Packing(tree)
    packed = packing.host_pack(tree)
    assert len(packed) == len(packing.sizes) == 3
    assert bits(packing.host_unpack(packed)) == bits(tree)
    assert bits(packing.unpack(packing.pack(tree))) == bits(tree)


def test_random_keys_are_packed_as_their_numbers() -> None:
    tree = {"key": jax.random.key(7), "x": jnp.ones(2)}
    packing = Packing(tree)
    back = packing.host_unpack(packing.host_pack(tree))
    assert bits(back) == bits(tree)
    assert jax.random.uniform(back["key"]) == jax.random.uniform(tree["key"])


def test_it_is_the_same_inside_a_compiled_function() -> None:
    tree = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.float32(5)}
    packing = Packing(tree)
    twice = jax.jit(
        lambda packed: packing.pack(jax.tree.map(lambda x: 2 * x, packing.unpack(packed)))
    )
    back = packing.host_unpack(twice(packing.host_pack(tree)))
    assert back["a"].tolist() == (2 * tree["a"]).tolist()
    assert back["b"] == 10
