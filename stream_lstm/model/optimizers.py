"""Optimisers of optax, by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from ..config import LearningConfig, nearest
from ..errors import ConfigurationError


def known_optimizers() -> tuple[str, ...]:
    """Return the names of optax factories that take a learning rate."""
    return tuple(sorted(name for name in vars(optax) if _factory(name) is not None))


def _factory(name: str) -> Callable[..., optax.GradientTransformation] | None:
    candidate = vars(optax).get(name)
    # `scale_by_*` are parts of optimisers; some of them go uphill on their own.
    if name.startswith(("_", "scale_by_")) or not inspect.isfunction(candidate):
        return None
    parameters = inspect.signature(candidate).parameters
    required = [p.name for p in parameters.values() if p.default is p.empty]
    takes_rate = next(iter(parameters), "") == "learning_rate"
    return candidate if takes_rate and set(required) <= {"learning_rate"} else None


def build_optimizer(
    config: LearningConfig, rate: float | None = None
) -> optax.GradientTransformation:
    """Return the configured optimiser behind its gradient clipping.

    `rate` is its step size where that is not `learning_rate`.

    Raises ConfigurationError for a name that optax does not have, or whose optimiser wants more
    than gradients (a line search, say).
    """
    factory = _factory(config.optimizer)
    if factory is None:
        hint = nearest(config.optimizer, known_optimizers()) or "; adam, sgd, rmsprop are some"
        raise ConfigurationError(
            f"optimizer = {config.optimizer!r}: optax has no such optimiser that takes "
            f"a learning rate alone{hint}",
            key="optimizer",
        )
    optimizer = factory(config.learning_rate if rate is None else rate)
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm > 0 else []
    chained: optax.GradientTransformation = optax.chain(*clip, optimizer)
    _probe(config.optimizer, chained)
    return chained


def _probe(name: str, optimizer: optax.GradientTransformation) -> None:
    tree: Any = {"layer_0": {"kernel": jnp.ones((2, 4))}, "head": {"kernel": jnp.ones((2,))}}
    try:
        optimizer.update(tree, optimizer.init(tree), tree)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"optimizer = {name!r} cannot learn from gradients alone ({error}); use another",
            key="optimizer",
        ) from None
