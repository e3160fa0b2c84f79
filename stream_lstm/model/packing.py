"""A tree of many small arrays as a few flat ones, which are cheaper to hand over.

Each array costs a call into a compiled function more than a microsecond, whatever its size. A
packing puts all leaves of one type behind each other, in the order of `jax.tree.leaves`. Inside a
compiled function taking them apart again costs next to nothing.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

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
