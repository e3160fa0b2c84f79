"""Memory that NumPy and JAX share, and trees packed into one array."""

from __future__ import annotations

import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stream_lstm.model.runtime import (
    Packing,
    SharedArray,
    ThreadBuffers,
    aligned_zeros,
    copy_into,
    copy_out,
    in_place,
    wait_ready,
)

on_cpu = pytest.mark.skipif(jax.default_backend() != "cpu", reason="arrays are not on a CPU here")


@on_cpu
def test_a_function_reads_what_numpy_writes() -> None:
    shared, double = SharedArray(aligned_zeros((3, 2))), jax.jit(lambda x: 2 * x)
    assert in_place()
    assert shared.device is not shared.host
    for k in range(3):
        shared.host[:] = k
        assert np.array_equal(double(shared.device), np.full((3, 2), 2.0 * k))


@on_cpu
@pytest.mark.parametrize("shares", [True, False])
def test_results_are_copied_from_their_address(
    shares: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream_lstm.model.runtime.in_place", lambda: shares)
    array = jax.jit(lambda: jnp.arange(12.0).reshape(3, 4))()
    wait_ready(array)
    some = copy_out(array, 4, 4)
    assert some.tolist() == [4.0, 5.0, 6.0, 7.0]
    some[:] = 0  # a copy
    assert copy_out(array, 5, 1).tolist() == [5.0]
    target = SharedArray(aligned_zeros((8,)))
    copy_into(array, target, 3)
    assert target.host.tolist() == [0.0, 1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0]


def test_each_thread_has_its_own_buffers() -> None:
    buffers = ThreadBuffers(x=(2,))
    buffers.x.host[:] = 1.0
    seen: list[list[float]] = []

    def other() -> None:
        seen.append(buffers.x.host.tolist())
        buffers.x.host[:] = 2.0

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen == [[0.0, 0.0]]
    assert buffers.x.host.tolist() == [1.0, 1.0]


def bits(tree: Any) -> list[tuple[tuple[int, ...], bytes]]:
    return [(np.shape(leaf), np.asarray(leaf).tobytes()) for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("shapes", [[(2, 3)], [(0, 3), (4, 1), (1, 2)]], ids=str)
def test_a_packed_tree_comes_back(shapes: list[tuple[int, int]]) -> None:
    rng = np.random.default_rng(len(shapes))
    tree = {
        "a": [rng.normal(size=shape).astype(np.float32) for shape in shapes],
        "b": np.ones(2, "f4"),
    }
    packing = Packing(tree)
    (flat,) = packing.host_pack(tree)
    assert flat.shape == (packing.size,)
    assert bits(packing.host_unpack((flat,))) == bits(tree)
    flat[:] = 0
    twice = jax.jit(
        lambda packed: packing.pack(jax.tree.map(lambda x: 2 * x, packing.unpack(packed)))
    )
    doubled = packing.host_unpack(twice(packing.host_pack(tree)))
    assert bits(doubled) == bits(jax.tree.map(lambda x: 2 * x, tree))
