"""Memory that is an array of NumPy and of JAX at once, and numbers read where they lie."""

from __future__ import annotations

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stream_lstm.model.buffers import Shared, Windows, aligned, in_place, move, read, settle

on_cpu = pytest.mark.skipif(jax.default_backend() != "cpu", reason="arrays are not on a CPU here")


@on_cpu
def test_what_is_written_is_what_a_function_reads() -> None:
    shared, double = Shared(aligned((3, 2))), jax.jit(lambda x: 2 * x)
    assert in_place()
    assert shared.device is not shared.host
    for k in range(3):
        shared.host[:] = k
        assert np.array_equal(double(shared.device), np.full((3, 2), 2.0 * k))


@on_cpu
@pytest.mark.parametrize("shares", [True, False])
def test_numbers_are_read_by_their_place(shares: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream_lstm.model.buffers.in_place", lambda: shares)
    array = jax.jit(lambda: jnp.arange(12.0).reshape(3, 4))()
    settle(array)
    some = read(array, 4, 4)
    assert some.tolist() == [4.0, 5.0, 6.0, 7.0]
    some[:] = 0  # a copy
    assert read(array, 5, 1).tolist() == [5.0]
    target = Shared(aligned((8,)))
    move(array, target, 3)
    assert target.host.tolist() == [0.0, 1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0]


def test_threads_do_not_share_their_windows() -> None:
    windows = Windows(x=(2,))
    windows.x.host[:] = 1.0
    seen: list[list[float]] = []

    def other() -> None:
        seen.append(windows.x.host.tolist())
        windows.x.host[:] = 2.0

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen == [[0.0, 0.0]]
    assert windows.x.host.tolist() == [1.0, 1.0]
