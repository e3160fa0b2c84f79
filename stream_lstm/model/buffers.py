"""Float32 memory that NumPy and compiled functions share, and trees packed into one array.

JAX copies a NumPy argument at each call, and NumPy wraps a JAX result before it reads it. Both
take longer than a step of the network. `SharedArray` is one piece of memory that is an array of
both, so handing it over is free; `copy_out` and `copy_into` read a result at its address. This
works on a CPU only, and the memory is valid after the call that uses it has ended: `wait_ready`
waits for it.

Each argument costs a call more than a microsecond, whatever its size. `Packing` therefore puts the
leaves of a tree into one flat array, in the order of `jax.tree.leaves`. Taking the array apart
inside a compiled function is nearly free.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import math
import threading
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from ..typing import Float32s
from . import runtime as runtime

ALIGNMENT = 64
"""Bytes; XLA copies arrays with a smaller alignment."""

LINE = ALIGNMENT // 4
"""Float32 numbers in an aligned line."""


def aligned_zeros(shape: tuple[int, ...]) -> Any:
    """Return aligned float32 zeros; each row is aligned if its length is a multiple of `LINE`."""
    size = 4 * math.prod(shape)
    raw = np.zeros(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(np.float32).reshape(shape)


class SharedArray:
    """Float32 memory with two views: `host` for NumPy, `device` as an argument of a call.

    array: aligned and contiguous. Without shared memory, `device` is `host` itself, and each call
    copies it.
    """

    __slots__ = ("address", "device", "host")

    def __init__(self, array: Any) -> None:
        self.host: Any = array
        self.address: int = array.ctypes.data
        self.device: Any = jax.dlpack.from_dlpack(array) if in_place() else array


class ThreadBuffers(threading.local):
    """Shared arrays of the given shapes as attributes; each thread has its own."""

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        for name, shape in shapes.items():
            setattr(self, name, SharedArray(aligned_zeros(shape)))

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> SharedArray: ...


@functools.cache
def in_place() -> bool:
    """Return whether compiled functions can share memory with NumPy here."""
    host = aligned_zeros((1,))
    shared = jax.dlpack.from_dlpack(host)
    on_cpu = all(device.platform == "cpu" for device in shared.devices())
    return on_cpu and bool(shared.unsafe_buffer_pointer() == host.ctypes.data)


def wait_ready(array: Any) -> None:
    """Wait until a call has written its result and read its arguments.

    XLA runs some kernels in threads of its own, so a call may return before that.
    """
    if not array.is_ready():
        array.block_until_ready()


def copy_out(array: Any, offset: int, count: int) -> Float32s:
    """Return a copy of `count` numbers of a finished result, from `offset` on, in C order."""
    if not in_place():
        return np.array(np.asarray(array).reshape(-1)[offset : offset + count])
    address = array.unsafe_buffer_pointer() + 4 * offset
    return np.array((ctypes.c_float * count).from_address(address))


def copy_into(array: Any, target: SharedArray, count: int) -> None:
    """Copy the first `count` numbers of a finished result to the start of `target`."""
    if in_place():
        ctypes.memmove(target.address, array.unsafe_buffer_pointer(), 4 * count)
    else:
        target.host[:count] = np.asarray(array).reshape(-1)[:count]


Packed: TypeAlias = tuple[Any]
"""One flat float32 array (P,), as a tree."""


class Packing:
    """Pack float32 trees with the shapes of `tree` into one array of `size` numbers, and back."""

    def __init__(self, tree: Any) -> None:
        leaves, self._structure = jax.tree.flatten(tree)
        assert all(leaf.dtype == np.float32 for leaf in leaves)
        self._shapes = [leaf.shape for leaf in leaves]
        ends = itertools.accumulate((math.prod(shape) for shape in self._shapes), initial=0)
        self._slices = [slice(*pair) for pair in itertools.pairwise(ends)]
        self.size: int = self._slices[-1].stop

    def pack(self, tree: Any) -> Packed:
        """Pack a tree inside a compiled function."""
        return (jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(tree)]),)

    def unpack(self, packed: Packed) -> Any:
        """Return the tree; its leaves are of the same library as the flat array."""
        pairs = zip(self._slices, self._shapes, strict=True)
        parts = [packed[0][part].reshape(shape) for part, shape in pairs]
        return jax.tree.unflatten(self._structure, parts)

    def host_pack(self, tree: Any) -> Packed:
        """Pack a tree with NumPy, which compiles nothing."""
        return (np.concatenate([np.asarray(leaf).reshape(-1) for leaf in jax.tree.leaves(tree)]),)

    def host_unpack(self, packed: Packed) -> Any:
        """Return the tree as a NumPy copy."""
        return self.unpack((np.array(packed[0]),))


def key_data(leaf: Any) -> Any:
    """Return the numbers of a leaf if it is a random key, as in some optimisers; else the leaf."""
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def is_key(leaf: Any) -> bool:
    """Return whether a leaf is a random key."""
    return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))
