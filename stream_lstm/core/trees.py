"""Trees of arrays as lists of their leaves, and back."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from ..errors import SnapshotError
from ..model.packing import is_key, plain


def leaves(tree: Any) -> list[np.ndarray]:
    """Return the leaves of a tree as arrays, in the order of `jax.tree.leaves`."""
    return [np.asarray(plain(leaf)) for leaf in jax.tree.leaves(tree)]


def copies(tree: Any) -> list[np.ndarray]:
    """Return copies of the leaves of a tree."""
    return [np.array(plain(leaf)) for leaf in jax.tree.leaves(tree)]


def check_leaves(like: Any, leaves: list[np.ndarray]) -> None:
    """Raise SnapshotError where the shapes and types of `leaves` are not those of `like`."""
    olds = [plain(old) for old in jax.tree.leaves(like)]
    if [(n.shape, n.dtype) for n in leaves] != [(o.shape, o.dtype) for o in olds]:
        raise SnapshotError("the snapshot's weights or optimiser state have other shapes")


def rebuild(like: Any, leaves: list[np.ndarray]) -> Any:
    """Return `leaves` in the structure of `like`, where its arrays are, in memory of their own.

    A compiled function takes them as it takes `like`: for arrays on another device, or bound to
    one where `like` is not, JAX would compile it again. `like` is of JAX arrays.

    Raises SnapshotError where their shapes and types are not those of `like`.
    """
    check_leaves(like, leaves)
    olds, structure = jax.tree.flatten(like)
    news = [_placed(old, leaf) for old, leaf in zip(olds, leaves, strict=True)]
    return jax.tree.unflatten(structure, news)


def _placed(old: Any, leaf: np.ndarray) -> Any:
    # `jnp.asarray` would compile a copy for each shape.
    made = jax.device_put(np.array(leaf), old.sharding if old.committed else None)
    return jax.random.wrap_key_data(made, impl=jax.random.key_impl(old)) if is_key(old) else made
