"""The online update: truncated back-propagation over a tape, one optimiser step, the guard.

A learner is a pair of pure functions. `update` returns what is carried (weights and optimiser
state) apart from what is only diagnostic (`info`).
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from ..config import LearningConfig
from .cell import Array
from .guard import all_finite, choose
from .network import Shape, Weights
from .optimizers import build_optimizer
from .sequence import tape_loss


class InitFn(Protocol):
    """Return the optimiser's state for weights."""

    def __call__(self, weights: Weights) -> Any:
        """Return the optimiser's state for `weights`."""
        ...


class UpdateFn(Protocol):
    """Make one update, or refuse it."""

    def __call__(
        self,
        weights: Weights,
        state: Any,
        xs: Array,
        carry: Array,
        targets: Array,
        share: Array,
    ) -> tuple[Weights, Any, Array]:
        """Return (weights', state', info).

        `xs` (K, F) are scaled inputs, `carry` (2 L H,) the flat network state before them,
        `targets` (K,) 0 or 1 and `share` (K,) the weight of each. `info` (3,) float32 holds the
        loss before the update in nats, the global gradient norm before clipping, and 1 where
        the update was accepted; where it is 0, weights and state are returned as they came.
        """
        ...


class Learner(NamedTuple):
    """The pair."""

    init: InitFn
    update: UpdateFn


def truncated_bptt(shape: Shape, config: LearningConfig) -> Learner:
    """Return the learner that differentiates through a tape of K elements.

    Raises ConfigurationError for an optimiser that does not exist.
    """
    optimizer = build_optimizer(config)

    def init(weights: Weights) -> Any:
        return optimizer.init(weights)

    def update(
        weights: Weights, state: Any, xs: Array, carry: Array, targets: Array, share: Array
    ) -> tuple[Weights, Any, Array]:
        loss, gradient = jax.value_and_grad(tape_loss, argnums=1)(
            shape, weights, xs, carry, targets, share
        )
        changes, new_state = optimizer.update(gradient, state, weights)
        new_weights: Weights = optax.apply_updates(weights, changes)
        norm = optax.tree.norm(gradient)
        # The norm can overflow where the gradient does not; clipping would leave zeros of it.
        accepted = all_finite(loss, norm, gradient, new_weights, new_state)
        info = jnp.stack([loss, norm, accepted.astype(jnp.float32)])
        return choose(accepted, new_weights, weights), choose(accepted, new_state, state), info

    return Learner(init, update)
