"""Memory that Python writes and compiled functions read, and the other way round, as it stands.

NumPy's arrays are copied at each call, and JAX's are wrapped before NumPy sees them: both take
longer than a step. `Shared` is memory that is an array of NumPy and of JAX at the same time, so
that handing it over costs nothing. `read` and `move` take results from their address.

Sharing is for a CPU alone, and right once the call that reads or writes the memory has ended:
`settle` waits for that.

A tree of many small arrays as a few flat ones, which are cheaper to hand over.

Each array costs a call into a compiled function more than a microsecond, whatever its size. A
packing puts all leaves of one type behind each other, in the order of `jax.tree.leaves`. Inside a
compiled function taking them apart again costs next to nothing.
"""

from __future__ import annotations

import ctypes
import functools
import math
import threading
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from ..typing import Float32s
from . import runtime as runtime

ALIGNMENT = 64
"""Bytes; XLA copies what is not aligned so."""

LINE = ALIGNMENT // 4
"""Float32 numbers of an aligned line."""

_FLOAT = ctypes.c_float


def aligned(shape: tuple[int, ...]) -> Any:
    """Return aligned zeros, float32; rows are aligned where a row is a multiple of `LINE`."""
    size = 4 * math.prod(shape)
    raw = np.zeros(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(np.float32).reshape(shape)


class Shared:
    """One piece of float32 memory: `host` is read and written, `device` is handed over.

    array: aligned and contiguous. Where memory cannot be shared, `device` is `host` itself, which
    is copied at each call.
    """

    __slots__ = ("address", "device", "host")

    def __init__(self, array: Any) -> None:
        self.host: Any = array
        self.address: int = array.ctypes.data
        self.device: Any = array
        if in_place():
            self.device = jax.dlpack.from_dlpack(array)


class Windows(threading.local):
    """Shared memory of the shapes that are given, as attributes; each thread has its own."""

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        for name, shape in shapes.items():
            setattr(self, name, Shared(aligned(shape)))

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Shared: ...


@functools.cache
def in_place() -> bool:
    """Return whether memory can be shared with compiled functions here: on a CPU."""
    host = aligned((1,))
    shared = jax.dlpack.from_dlpack(host)
    on_cpu = all(device.platform == "cpu" for device in shared.devices())
    return on_cpu and bool(shared.unsafe_buffer_pointer() == host.ctypes.data)


def settle(array: Any) -> None:
    """Wait until a call's result is there, and its arguments have been read.

    A call may return sooner: XLA has threads of its own for what has several kernels.
    """
    if not array.is_ready():
        array.block_until_ready()


def read(array: Any, offset: int, count: int) -> Float32s:
    """Return a copy of `count` numbers of a settled result from `offset` on, in C order."""
    if not in_place():
        return np.array(np.asarray(array).reshape(-1)[offset : offset + count])
    address = array.unsafe_buffer_pointer() + 4 * offset
    return np.array((_FLOAT * count).from_address(address))


def move(array: Any, target: Shared, count: int) -> None:
    """Copy the first `count` numbers of a settled result to the beginning of `target`."""
    if in_place():
        ctypes.memmove(target.address, array.unsafe_buffer_pointer(), 4 * count)
    else:
        target.host[:count] = np.asarray(array).reshape(-1)[:count]


Packed: TypeAlias = tuple[Any, ...]
"""Flat arrays, one for each type of leaf."""


class Leaf(NamedTuple):
    """Where a leaf lies: the flat array, its place there, its shape, whether it is a key."""

    group: int
    start: int
    shape: tuple[int, ...]
    key: bool


class Packing:
    """How the trees that look like `tree` are packed.

    Attributes: `sizes`, {type: elements of its flat array}, in their order.
    """

    def __init__(self, tree: Any) -> None:
        leaves, self._structure = jax.tree.flatten(tree)
        self.sizes: dict[str, int] = {}
        self._leaves: list[Leaf] = []
        for leaf in leaves:
            key = is_key(leaf)
            data = plain(leaf)
            kind = np.dtype(data.dtype).str
            start = self.sizes.setdefault(kind, 0)
            self._leaves.append(Leaf(list(self.sizes).index(kind), start, data.shape, key))
            self.sizes[kind] += math.prod(data.shape)

    def pack(self, tree: Any) -> Packed:
        """Return a tree's flat arrays; for use in a compiled function."""
        return self._join(tree, jnp)

    def unpack(self, packed: Packed) -> Any:
        """Return the tree of flat arrays; for use in a compiled function."""
        parts = [self._part(packed, leaf) for leaf in self._leaves]
        return jax.tree.unflatten(self._structure, parts)

    def host_pack(self, tree: Any) -> Packed:
        """Return a tree's flat arrays, of NumPy, without compiling anything."""
        held = jax.tree.map(lambda leaf: np.asarray(plain(leaf)), tree)
        return self._join(held, np)

    def host_unpack(self, packed: Packed) -> Any:
        """Return the tree of flat arrays as copies of NumPy, but for random keys."""
        flat = tuple(np.array(array) for array in packed)
        parts = [self._part(flat, leaf) for leaf in self._leaves]
        return jax.tree.unflatten(self._structure, parts)

    def _join(self, tree: Any, xp: Any) -> Packed:
        groups: list[list[Any]] = [[] for _ in self.sizes]
        for leaf, part in zip(self._leaves, jax.tree.leaves(tree), strict=True):
            groups[leaf.group].append(plain(part).reshape(-1))
        return tuple(xp.concatenate(group) for group in groups)

    def _part(self, packed: Packed, leaf: Leaf) -> Any:
        end = leaf.start + math.prod(leaf.shape)
        part = packed[leaf.group][leaf.start : end].reshape(leaf.shape)
        return jax.random.wrap_key_data(part) if leaf.key else part


def plain(leaf: Any) -> Any:
    """Return a leaf, a random key (some optimisers hold one) as the numbers behind it."""
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def is_key(leaf: Any) -> bool:
    """Return whether a leaf is a random key."""
    return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))
