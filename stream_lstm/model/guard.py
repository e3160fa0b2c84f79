"""The guard that keeps what is not finite out of the weights.

`optax.apply_if_finite` looks at the gradients only, and lets a bad update through once it has
refused a number of them. This guard looks at everything that an update touches, and never does.
"""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from .cell import Array

Tree = TypeVar("Tree")


def all_finite(*trees: Any) -> Array:
    """Return a boolean () that is True where every floating-point leaf is finite."""
    leaves = [leaf for leaf in jax.tree.leaves(trees) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    # x * 0 is 0 for finite x alone, and a sum is one pass where isfinite().all() is two.
    total = sum(jnp.sum(leaf * 0.0) for leaf in leaves)
    return jnp.asarray(total == 0.0)


def choose(accepted: Array, new: Tree, old: Tree) -> Tree:
    """Return `new` where `accepted` (), else `old`, leaf by leaf."""
    chosen: Tree = jax.tree.map(lambda a, b: jnp.where(accepted, a, b), new, old)
    return chosen
