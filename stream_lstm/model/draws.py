"""Random numbers of JAX's default generator, drawn with NumPy and without compiling anything.

JAX compiles a program for each kind of draw and each shape, which takes longer than all else that
starting weights need. The generator is integer arithmetic, so that its numbers are the same bits
here; a test compares them.

A key is two uint32. `threefry` turns a pair of counters into a pair of random numbers; what is
drawn for an array uses the index of each element as the counter.

Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Key: TypeAlias = npt.NDArray[np.uint32]
Words: TypeAlias = npt.NDArray[np.uint32]
Floats: TypeAlias = npt.NDArray[np.float32]

ROTATIONS = (13, 15, 26, 6), (17, 29, 16, 24)
PARITY = np.uint32(0x1BD11BDA)
ROUNDS = 5
"""Groups of four rotations, of the published variant with 20."""

MANTISSA = 23
ONE = np.uint32(0x3F800000)
"""The float32 1.0 as an integer."""


def seeded(seed: int) -> Key:
    """Return the key (2,) of a seed in [0, 2**32)."""
    return np.array([0, seed], np.uint32)


def threefry(key: Key, high: Words, low: Words) -> tuple[Words, Words]:
    """Return two arrays of random numbers for counters `high` and `low` of one shape."""
    keys = key[0], key[1], key[0] ^ key[1] ^ PARITY
    high, low = high + keys[0], low + keys[1]
    for group in range(ROUNDS):
        for turn in ROTATIONS[group % 2]:
            high = high + low
            low = (low << np.uint32(turn)) | (low >> np.uint32(32 - turn))
            low = high ^ low
        high = high + keys[(group + 1) % 3]
        low = low + keys[(group + 2) % 3] + np.uint32(group + 1)
    return high, low


def split(key: Key, count: int) -> Key:
    """Return `count` keys (count, 2)."""
    return np.stack(threefry(key, *_counters(count)), axis=1)


def fold_in(key: Key, number: int) -> Key:
    """Return the key (2,) of `key` and a number in [0, 2**32)."""
    high, low = threefry(key, np.zeros(1, np.uint32), np.array([number], np.uint32))
    return np.concatenate([high, low])


def uniform(key: Key, shape: tuple[int, ...], low: float, high: float) -> Floats:
    """Return float32 numbers from [low, high)."""
    first, second = threefry(key, *_counters(math.prod(shape)))
    bits = ((first ^ second) >> np.uint32(32 - MANTISSA)) | ONE
    unit = bits.view(np.float32) - np.float32(1.0)
    bottom, span = np.float32(low), np.float32(high) - np.float32(low)
    # One rounding for product and sum, as a fused instruction has.
    drawn = (unit.astype(np.float64) * span + bottom).astype(np.float32)
    return np.maximum(drawn, bottom).reshape(shape)


def _counters(count: int) -> tuple[Words, Words]:
    return np.zeros(count, np.uint32), np.arange(count, dtype=np.uint32)
