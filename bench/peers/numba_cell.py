"""The cell as loops, compiled by numba with its fast mathematics."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from .workload import HIDDEN as H
from .workload import Workload

ONE = np.float32(1.0)


@numba.njit(fastmath=True)
def _step(kernel: Any, head: Any, state: Any, z: Any, x: Any) -> Any:
    """Move state (2, H), h and c, by one element x; z (4H,) is room to work in."""
    for j in range(4 * H):
        z[j] = kernel[H + 1, j] + x * kernel[0, j]
    for k in range(H):
        h = state[0, k]
        for j in range(4 * H):
            z[j] += h * kernel[k + 1, j]
    logit = head[H]
    for j in range(H):
        i = ONE / (ONE + math.exp(-z[j]))
        f = ONE / (ONE + math.exp(-z[H + j]))
        o = ONE / (ONE + math.exp(-z[3 * H + j]))
        state[1, j] = f * state[1, j] + i * math.tanh(z[2 * H + j])
        state[0, j] = o * math.tanh(state[1, j])
        logit += state[0, j] * head[j]
    return ONE / (ONE + math.exp(-logit))


@numba.njit(fastmath=True)
def _sequence(kernel: Any, head: Any, state: Any, z: Any, xs: Any, p: Any) -> None:
    for t in range(len(xs)):
        p[t] = _step(kernel, head, state, z, xs[t, 0])


def step(given: Workload) -> Callable[[np.ndarray], float]:
    """Return the call for one element."""
    kernel, head = given.kernel, given.head
    state, z = np.zeros((2, H), np.float32), np.zeros(4 * H, np.float32)
    return lambda x: float(_step(kernel, head, state, z, x[0]))


def sequence(given: Workload) -> Callable[[np.ndarray], np.ndarray]:
    """Return the call for a block."""
    state, z = np.zeros((2, H), np.float32), np.zeros(4 * H, np.float32)

    def block(xs: np.ndarray) -> np.ndarray:
        p = np.empty(len(xs), np.float32)
        _sequence(given.kernel, given.head, state, z, xs, p)
        return p

    return block
