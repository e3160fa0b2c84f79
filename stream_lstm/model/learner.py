"""The online update of a network: observe a tape, correct the weights, check the result.

A learner is a pair of pure functions. `update` returns what is carried (weights, optimiser state,
trace) apart from what is only diagnostic (`info`). The gradient method gives the sensitivities of
the logits to the weights; the optimiser turns them into a change:

* the Kalman filter takes the logits of the tape's last M elements with their own sensitivities,
  and each label once;
* an optimiser of optax takes the gradient of their mean log loss. With `bptt` that is the loss
  over the whole tape, so neighbouring tapes label_weights most of their targets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax import lax

from ..errors import ConfigurationError
from ..schema import Gradient as GradientName
from ..schema import LearningConfig
from .gradients import Jacobian, gradient_method, mean_log_loss, tape_loss
from .network import Array, Shape, Weights
from .optimizers import (
    ACCEPTED,
    KALMAN,
    Caps,
    all_finite,
    build_kalman,
    build_optimizer,
    choose,
    logistic_innovation,
    norm,
    size_of,
)

MAX_OBSERVED = 1000
"""Logits in one update; the sensitivities of each take as much memory as the weights."""

MAX_COVARIANCE = 2**28
"""Floats of the filter's covariances, 1 GiB: one update of more would take seconds."""


class Tape(NamedTuple):
    """What an update learns from, the oldest element first; all float32."""

    xs: Array  # (K, F), scaled inputs
    start: Array  # (N,), the flat state before them
    targets: Array  # (K,), 0 or 1
    label_weights: Array  # (K,), 0 where there is no target


class Learner(NamedTuple):
    """The pair, and the trace before the first tape.

    `init(weights)` returns the optimiser's state. `update(weights, state, trace (T,), tape)`
    returns (weights', state', trace', info (3,)). `info` is float32: the loss in nats before the
    update, the global gradient norm before clipping, and the outcome, a constant of `optimizers`.
    A rejected update returns the weights and the state unchanged, and a trace of zeros.
    """

    init: Callable[[Weights], Any]
    update: Callable[[Weights, Any, Array, Tape], tuple[Weights, Any, Array, Array]]
    init_trace: Callable[[], Array]


class Observation(NamedTuple):
    """Loss () and gradient of a tape, the trace after it, and the optimiser's step for it.

    `step(state, weights)` returns (changes, state').
    """

    loss: Array
    gradient: Weights
    trace: Array
    step: Callable[[Any, Weights], tuple[Weights, Any]]


Observe: TypeAlias = Callable[[Weights, Array, Tape], Observation]


def network_learner(
    shape: Shape, config: LearningConfig, method: GradientName, *, count: int
) -> Learner:
    """Return the learner that observes the last `count` elements of a tape.

    Raises ConfigurationError for an unknown optimiser, for a method that is not defined for the
    shape, and for an update that needs too much memory.
    """
    caps = Caps.of(config)
    build = _kalman if config.optimizer == KALMAN else _optax
    init, observe = build(shape, config, method, count)

    def update(
        weights: Weights, state: Any, trace: Array, tape: Tape
    ) -> tuple[Weights, Any, Array, Array]:
        if config.positive_weight != 1.0:
            factor = jnp.where(tape.targets > 0, config.positive_weight, 1.0)
            tape = tape._replace(label_weights=tape.label_weights * factor)
        loss, gradient, moved, step = observe(weights, trace, tape)
        size = norm(gradient)
        # The norm can overflow where the gradient does not; clipping by it would give zeros.
        sound = all_finite(loss, size, gradient, moved)

        def apply(_: int, at: tuple[Weights, Any, Array]) -> tuple[Weights, Any, Array]:
            changes, new = step(at[1], at[0])
            return optax.apply_updates(at[0], changes), new, norm(changes)

        # XLA computes the result of a loop once, but other results again at each of their uses.
        turns, begin = sound.astype(jnp.int32), (weights, state, jnp.float32(0.0))
        new_weights, new_state, change = lax.fori_loop(0, turns, apply, begin)
        sound &= all_finite(new_state)
        outcome = caps.judge(sound, change, norm(new_weights), size_of(weights))
        accepted = outcome == ACCEPTED
        info = jnp.stack([loss, size, outcome])
        return (
            choose(accepted, new_weights, weights),
            choose(accepted, new_state, state),
            choose(accepted, moved, jnp.zeros_like(moved)),
            info,
        )

    return Learner(init, update, gradient_method(method, shape, count=1).init)


def _optax(
    shape: Shape, config: LearningConfig, method: GradientName, count: int
) -> tuple[Callable[[Weights], Any], Observe]:
    optimizer, gradients = build_optimizer(config), gradient_method(method, shape, count=count)

    def observe(weights: Weights, trace: Array, tape: Tape) -> Observation:
        if method == "bptt":
            loss, gradient = jax.value_and_grad(tape_loss, argnums=1)(shape, weights, *tape)
        else:
            logits, jacobian, trace = gradients.observe(weights, tape.xs, tape.start, trace)
            labels, label_weights = tape.targets[-count:], tape.label_weights[-count:]
            gradient = _mean_gradient(logits, jacobian, labels, label_weights)
            loss = mean_log_loss(logits, labels, label_weights)

        def step(state: Any, weights: Weights) -> tuple[Weights, Any]:
            out: tuple[Weights, Any] = optimizer.update(gradient, state, weights)
            return out

        return Observation(loss, gradient, trace, step)

    # As one program: eager execution would compile one for each array of the state.
    return jax.jit(optimizer.init), observe


def _kalman(
    shape: Shape, config: LearningConfig, method: GradientName, count: int
) -> tuple[Callable[[Weights], Any], Observe]:
    _check_size(shape, count)
    kalman, gradients = build_kalman(config), gradient_method(method, shape, count=count)

    def observe(weights: Weights, trace: Array, tape: Tape) -> Observation:
        logits, jacobian, trace = gradients.observe(weights, tape.xs, tape.start, trace)
        labels, label_weights = tape.targets[-count:], tape.label_weights[-count:]
        innovation, noise = logistic_innovation(logits, labels, label_weights)

        def step(state: Any, weights: Weights) -> tuple[Weights, Any]:
            out: tuple[Weights, Any] = kalman.update(
                jacobian, state, weights, innovation=innovation, noise=noise
            )
            return out

        gradient = _mean_gradient(logits, jacobian, labels, label_weights)
        return Observation(mean_log_loss(logits, labels, label_weights), gradient, trace, step)

    return kalman.init, observe


def _check_size(shape: Shape, count: int) -> None:
    numbers = sum(s[0] ** 2 * (s[1] if len(s) > 1 else 1) for s in shape.weights().values())
    if numbers > MAX_COVARIANCE:
        raise ConfigurationError(
            f"optimizer = 'dekf' needs {numbers * 4 / 2**30:.1f} GiB of covariances for "
            f"hidden={shape.hidden}, layers={shape.layers}; use adam",
            key="optimizer",
        )
    if count > MAX_OBSERVED:
        raise ConfigurationError(
            f"optimizer = 'dekf' observes each of the {count} elements of a stride, and "
            f"{MAX_OBSERVED} is the limit; use targets=published, or adam",
            key="optimizer",
        )


def _mean_gradient(
    logits: Array, jacobian: Jacobian, labels: Array, label_weights: Array
) -> Weights:
    """Return the gradient of the mean log loss of the observed logits."""
    slope = (
        label_weights
        * (jax.nn.sigmoid(logits) - labels)
        / jnp.maximum(jnp.sum(label_weights), 1.0)
    )
    out: Weights = jax.tree.map(lambda leaf: jnp.tensordot(slope, leaf, 1), jacobian)
    return out
