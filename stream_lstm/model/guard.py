"""The guard that keeps what is not finite out of the weights.

`optax.apply_if_finite` looks at the gradients only, and lets a bad update through once it has
refused a number of them. This guard looks at everything that an update touches, and never does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from .cell import Array

Tree = TypeVar("Tree")


def all_finite(*trees: Any) -> Array:
    """Return a boolean () that is True where every floating-point leaf is finite."""
    leaves = [leaf for leaf in jax.tree.leaves(trees) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    # x * 0 is 0 for finite x alone, and a sum is one pass where isfinite().all() is two.
    return jnp.asarray(sum(total(leaf, lambda row: row * 0.0) for leaf in leaves) == 0.0)


def norm(tree: Any) -> Array:
    """Return the Euclidean norm () of all leaves together."""
    return jnp.sqrt(sum(total(leaf, jnp.square) for leaf in jax.tree.leaves(tree)))


def total(array: Array, of: Callable[[Array], Array]) -> Array:
    """Return the sum () of `of` over an array, which it takes in parts of equal shape.

    Row by row, so that many sums grow side by side: what XLA makes of one large sum within a
    loop takes ten times as long.
    """
    if array.ndim < 2:
        return jnp.sum(of(array))
    rows = array.reshape(-1, array.shape[-1])

    def add(k: Array, sums: Array) -> Array:
        return sums + of(lax.dynamic_index_in_dim(rows, k, 0, keepdims=False))

    return jnp.sum(lax.fori_loop(0, len(rows), add, jnp.zeros_like(rows[0])))


def choose(accepted: Array, new: Tree, old: Tree) -> Tree:
    """Return `new` where `accepted` (), else `old`, leaf by leaf."""
    chosen: Tree = jax.tree.map(lambda a, b: jnp.where(accepted, a, b), new, old)
    return chosen
