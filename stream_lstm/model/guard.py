"""The guard that keeps out of the weights what is not finite, and what is too large.

`optax.apply_if_finite` looks at the gradients only, and lets a bad update through once it has
refused a number of them. This guard looks at everything that an update touches, and never does.

What is too large is refused, not scaled down: a step in a wrong direction is no better for being
shorter, the optimiser's state is as far off as the step is, and a refusal can be counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from ..tables import LearningConfig
from .cell import Array

Tree = TypeVar("Tree")

ACCEPTED, NOT_FINITE, UPDATE_TOO_LARGE, WEIGHTS_TOO_LARGE = 1.0, 0.0, -1.0, -2.0
"""What becomes of an update, as its info says it."""

LARGEST = 2.0**127


class Caps(NamedTuple):
    """The largest root mean square of an update's changes, and of the weights; infinite for none.

    Root mean squares are norms over the root of the number of weights, so that a cap means the
    same for a network of any size.
    """

    update: float
    weights: float

    @classmethod
    def of(cls, config: LearningConfig) -> Caps:
        """Return those of a configuration."""
        return cls(config.max_update or math.inf, config.max_weights or math.inf)

    def judge(self, sound: Array, changes: Array, weights: Array, count: int) -> Array:
        """Return what becomes of an update, float32 ().

        sound: whether all else is finite, (). changes, weights: the norms () of what the update
        adds and of what comes of it, `count` numbers each; a norm that overflows is too large
        without a cap too.
        """
        root = math.sqrt(count)
        update, most = (min(cap * root, LARGEST) for cap in self)
        sound &= ~(jnp.isnan(changes) | jnp.isnan(weights))
        large = jnp.where(weights <= most, ACCEPTED, WEIGHTS_TOO_LARGE)
        large = jnp.where(changes <= update, large, UPDATE_TOO_LARGE)
        return jnp.where(sound, large, NOT_FINITE).astype(jnp.float32)


def size_of(tree: Any) -> int:
    """Return how many numbers a tree holds."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


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
