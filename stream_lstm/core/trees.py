"""Trees of arrays as lists of their leaves, and back."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import SnapshotError
from ..model.packing import is_key, plain


def leaves(tree: Any) -> list[np.ndarray]:
    """Return the leaves of a tree as arrays, in the order of `jax.tree.leaves`."""
    return [np.asarray(plain(leaf)) for leaf in jax.tree.leaves(tree)]


def copies(tree: Any) -> list[np.ndarray]:
    """Return copies of the leaves of a tree."""
    return [np.array(plain(leaf)) for leaf in jax.tree.leaves(tree)]


def rebuild(like: Any, leaves: list[np.ndarray]) -> Any:
    """Return `leaves` in the structure of `like`.

    Raises SnapshotError where their shapes and types are not those of `like`.
    """
    olds, structure = jax.tree.flatten(like)
    if [(n.shape, n.dtype) for n in leaves] != [(plain(o).shape, plain(o).dtype) for o in olds]:
        raise SnapshotError("the snapshot's weights or optimiser state have other shapes")
    news = [
        jax.random.wrap_key_data(jnp.asarray(leaf)) if is_key(old) else jnp.asarray(leaf)
        for old, leaf in zip(olds, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, news)
