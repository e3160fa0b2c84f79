"""Optimisers by name with their arguments: those of optax, and the Kalman filter."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..config import nearest
from ..errors import ConfigurationError
from ..tables import LearningConfig
from .guard import norm
from .kalman import dekf

KALMAN = "dekf"
"""The optimiser that wants sensitivities where others want a gradient."""

FLAGS = {"true": True, "false": False}


def known_optimizers() -> tuple[str, ...]:
    """Return the names of optax factories that take a learning rate, and of the filter."""
    return tuple(sorted([KALMAN, *(name for name in vars(optax) if _factory(name) is not None)]))


def _factory(name: str) -> Callable[..., optax.GradientTransformation] | None:
    candidate = vars(optax).get(name)
    # `scale_by_*` are parts of optimisers; some of them go uphill on their own.
    if name.startswith(("_", "scale_by_")) or not inspect.isfunction(candidate):
        return None
    parameters = inspect.signature(candidate).parameters
    required = [p.name for p in parameters.values() if p.default is p.empty]
    takes_rate = next(iter(parameters), "") == "learning_rate"
    return candidate if takes_rate and set(required) <= {"learning_rate"} else None


def build_kalman(config: LearningConfig) -> optax.GradientTransformationExtraArgs:
    """Return the Kalman filter with the configured arguments.

    Raises ConfigurationError for an argument that it does not have or a value that it refuses.
    """
    arguments = _arguments(config.optimizer_args, KALMAN, dekf)
    for name, value in arguments.items():
        if isinstance(value, bool) or not 0 <= value < 1e6 or (name == "p0" and value == 0):
            raise ConfigurationError(
                f"optimizer_args: {name}={value} is not a variance: dekf wants p0 above 0 and q "
                "from 0 on",
                key="optimizer_args",
            )
    return dekf(**arguments)


def build_optimizer(
    config: LearningConfig, name: str | None = None, rate: float | None = None
) -> optax.GradientTransformation:
    """Return an optimiser of optax with the configured arguments, behind gradient clipping.

    `name` and `rate` go before `optimizer` (whose arguments are then not used) and
    `learning_rate`.

    Raises ConfigurationError for a name that optax does not have, or whose optimiser wants more
    than gradients (a line search, say), and for arguments that it does not take.
    """
    chosen = config.optimizer if name is None else name
    factory = _factory(chosen)
    if factory is None:
        hint = nearest(chosen, known_optimizers()) or "; dekf, adam, sgd, rmsprop are some"
        raise ConfigurationError(
            f"optimizer = {chosen!r}: optax has no such optimiser that takes "
            f"a learning rate alone{hint}",
            key="optimizer" if name is None else "train_optimizer",
        )
    arguments = _arguments(config.optimizer_args, chosen, factory) if name is None else {}
    try:
        optimizer = factory(config.learning_rate if rate is None else rate, **arguments)
        clip = [_clip_by_norm(config.clip_norm)] if config.clip_norm > 0 else []
        chained: optax.GradientTransformation = optax.chain(*clip, optimizer)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"optimizer_args: {chosen} does not take them: {error}", key="optimizer_args"
        ) from None
    _probe(chosen, chained)
    return chained


def _clip_by_norm(limit: float) -> optax.GradientTransformation:
    """Return what `optax.clip_by_global_norm` does, by a norm that is cheap in a loop."""

    def init(_: Any) -> optax.EmptyState:
        return optax.EmptyState()

    def update(
        updates: Any, state: optax.EmptyState, _: Any = None
    ) -> tuple[Any, optax.EmptyState]:
        size = norm(updates)
        factor = jnp.where(size < limit, 1.0, limit / size)
        return jax.tree.map(lambda leaf: leaf * factor, updates), state

    return optax.GradientTransformation(init, update)


def _arguments(
    given: Sequence[str], name: str, factory: Callable[..., Any]
) -> Mapping[str, float | bool]:
    """Return {argument: value} of NAME=VALUE, whose names the factory must have."""
    known = [p for p in inspect.signature(factory).parameters if p != "learning_rate"]
    arguments: dict[str, float | bool] = {}
    for text in given:
        argument, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise ConfigurationError(
                f"optimizer_args: {text!r} gives no value; write NAME=NUMBER, such as b1=0.9",
                key="optimizer_args",
            )
        if argument not in known:
            hint = nearest(argument, known) or f"; it has {', '.join(known) or 'none'}"
            raise ConfigurationError(
                f"optimizer_args: {name} has no argument {argument!r}{hint}; write NAME=NUMBER",
                key="optimizer_args",
            )
        try:
            arguments[argument] = FLAGS[value] if value in FLAGS else float(value)
        except ValueError:
            raise ConfigurationError(
                f"optimizer_args: {argument}={value} is neither a number nor true or false",
                key="optimizer_args",
            ) from None
        if not math.isfinite(arguments[argument]):
            raise ConfigurationError(
                f"optimizer_args: {argument}={value} is not a finite number", key="optimizer_args"
            )
    return arguments


def _probe(name: str, optimizer: optax.GradientTransformation) -> None:
    """Raise ConfigurationError where an update wants more than gradients; nothing is computed."""
    tree: Any = {"layer_0": {"kernel": np.ones((2, 4))}, "head": {"kernel": np.ones((2,))}}
    try:
        jax.eval_shape(lambda t: optimizer.update(t, optimizer.init(t), t), tree)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"optimizer = {name!r} cannot learn from gradients alone ({error}); use another",
            key="optimizer",
        ) from None
