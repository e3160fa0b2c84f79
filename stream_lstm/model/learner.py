"""The online update of a network: observe a tape, correct the weights, guard the result.

A learner is a pair of pure functions. `update` returns what is carried (weights, optimiser state
and trace) apart from what is only diagnostic (`info`). The gradient method says what a tape
tells about the weights, the optimiser what to make of it:

* the Kalman filter takes the logits of the tape's last M elements one by one, with their own
  sensitivities, each label once;
* an optimiser of optax takes the gradient of their mean log loss. With `bptt` that is the loss
  over the whole tape, so that neighbouring tapes share most of their targets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

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
"""Logits with sensitivities of their own in one update; each takes as much as the weights do."""

MAX_COVARIANCE = 2**28
"""Floats of the filter's covariances, 1 GiB: one update of more would take seconds."""


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
        trace: Array,
        xs: Array,
        carry: Array,
        targets: Array,
        share: Array,
    ) -> tuple[Weights, Any, Array, Array]:
        """Return (weights', state', trace', info).

        `trace` (T,) is what the gradient method carries from tape to tape, `xs` (K, F) are scaled
        inputs, `carry` (2 L H,) the flat network state before them, `targets` (K,) 0 or 1 and
        `share` (K,) the weight of each. `info` (3,) float32 holds the loss before the update in
        nats, the global gradient norm before clipping, and what became of the update, of the
        kinds in `guard`; where it is not accepted, weights and state are returned as they came,
        and the trace begins anew.
        """
        ...


class Learner(NamedTuple):
    """The pair, the tape length K that `update` wants, and the trace before the first tape."""

    init: InitFn
    update: UpdateFn
    tape: int
    trace: Callable[[], Array]


def network_learner(
    shape: Shape, config: LearningConfig, method: GradientName, *, tape: int, count: int
) -> Learner:
    """Return the learner for tapes of K = `tape` elements, the last `count` observed.

    Raises ConfigurationError for an optimiser that does not exist, for a method that is not
    defined for the shape, and for more memory than an update can go through.
    """
    if config.optimizer == KALMAN:
        return _kalman_learner(shape, config, method, tape, count)
    optimizer, caps = build_optimizer(config), Caps.of(config)
    trace = gradient_method(method, shape, count=1).init
    loss = _tape_gradient(shape) if method == "bptt" else _observed_gradient(shape, method, count)

    def update(
        weights: Weights,
        state: Any,
        trace: Array,
        xs: Array,
        carry: Array,
        targets: Array,
        share: Array,
    ) -> tuple[Weights, Any, Array, Array]:
        share = _weigh(config, targets, share)
        value, gradient, moved = loss(weights, trace, xs, carry, targets, share)

        def step(state: Any, weights: Weights) -> tuple[Weights, Any]:
            out: tuple[Weights, Any] = optimizer.update(gradient, state, weights)
            return out

        return _guarded(caps, weights, state, step, moved, value, gradient)

    # As one program: eagerly, each array of the state would be compiled for.
    return Learner(jax.jit(optimizer.init), update, tape, trace)


def _kalman_learner(
    shape: Shape, config: LearningConfig, method: GradientName, tape: int, count: int
) -> Learner:
    _check_size(shape, count)
    filtered, gradients = build_kalman(config), gradient_method(method, shape, count=count)
    caps = Caps.of(config)

    def update(
        weights: Weights,
        state: Any,
        trace: Array,
        xs: Array,
        carry: Array,
        targets: Array,
        share: Array,
    ) -> tuple[Weights, Any, Array, Array]:
        logits, jacobian, moved = gradients.observe(weights, xs, carry, trace)
        labels, share = targets[-count:], _weigh(config, targets, share)[-count:]
        innovation, noise = logistic_innovation(logits, labels, share)

        def step(state: Any, weights: Weights) -> tuple[Weights, Any]:
            given = {"innovation": innovation, "noise": noise}
            out: tuple[Weights, Any] = filtered.update(jacobian, state, weights, **given)
            return out

        value = mean_log_loss(logits, labels, share)
        gradient = _mean_gradient(logits, jacobian, labels, share)
        return _guarded(caps, weights, state, step, moved, value, gradient)

    return Learner(filtered.init, update, tape, gradients.init)


def _check_size(shape: Shape, count: int) -> None:
    nodes = sum(s[0] ** 2 * (s[1] if len(s) > 1 else 1) for s in shape.weights().values())
    if nodes > MAX_COVARIANCE:
        raise ConfigurationError(
            f"optimizer = 'dekf' would carry {nodes * 4 / 2**30:.1f} GiB of covariances for "
            f"hidden={shape.hidden}, layers={shape.layers}; choose adam",
            key="optimizer",
        )
    if count > MAX_OBSERVED:
        raise ConfigurationError(
            f"optimizer = 'dekf' would observe the {count} elements of a stride one by one; "
            f"above {MAX_OBSERVED} choose targets=published, or adam",
            key="optimizer",
        )


def _weigh(config: LearningConfig, targets: Array, share: Array) -> Array:
    if config.positive_weight == 1.0:
        return share
    return share * jnp.where(targets > 0, config.positive_weight, 1.0)


def _tape_gradient(shape: Shape) -> Callable[..., tuple[Array, Weights, Array]]:
    def gradient(
        weights: Weights, trace: Array, xs: Array, carry: Array, targets: Array, share: Array
    ) -> tuple[Array, Weights, Array]:
        value, out = jax.value_and_grad(tape_loss, argnums=1)(
            shape, weights, xs, carry, targets, share
        )
        return value, out, trace

    return gradient


def _observed_gradient(
    shape: Shape, method: GradientName, count: int
) -> Callable[..., tuple[Array, Weights, Array]]:
    gradients = gradient_method(method, shape, count=count)

    def gradient(
        weights: Weights, trace: Array, xs: Array, carry: Array, targets: Array, share: Array
    ) -> tuple[Array, Weights, Array]:
        logits, jacobian, moved = gradients.observe(weights, xs, carry, trace)
        labels, share = targets[-count:], share[-count:]
        out = _mean_gradient(logits, jacobian, labels, share)
        return mean_log_loss(logits, labels, share), out, moved

    return gradient


def _mean_gradient(logits: Array, jacobian: Jacobian, labels: Array, share: Array) -> Weights:
    """Return the gradient of the mean log loss of the observed logits."""
    wanted = share * (jax.nn.sigmoid(logits) - labels) / jnp.maximum(jnp.sum(share), 1.0)
    out: Weights = jax.tree.map(lambda leaf: jnp.tensordot(wanted, leaf, 1), jacobian)
    return out


def _guarded(
    caps: Caps,
    weights: Weights,
    state: Any,
    step: Callable[[Any, Weights], tuple[Weights, Any]],
    moved: Array,
    loss: Array,
    gradient: Weights,
) -> tuple[Weights, Any, Array, Array]:
    """Return what `UpdateFn` does; `step(state, weights)` gives (changes, state')."""
    size = norm(gradient)
    # The norm can overflow where the gradient does not; clipping would leave zeros of it.
    sound = all_finite(loss, size, gradient, moved)

    def make(_: int, held: tuple[Weights, Any, Array]) -> tuple[Weights, Any, Array]:
        changes, new = step(held[1], held[0])
        return optax.apply_updates(held[0], changes), new, norm(changes)

    # A loop of one turn: what it gives is computed once, and not for each of its uses.
    turns, held = sound.astype(jnp.int32), (weights, state, jnp.float32(0.0))
    new_weights, new_state, moved_by = lax.fori_loop(0, turns, make, held)
    sound &= all_finite(new_state)
    became = caps.judge(sound, moved_by, norm(new_weights), size_of(weights))
    accepted = became == ACCEPTED
    info = jnp.stack([loss, size, became])
    return (
        choose(accepted, new_weights, weights),
        choose(accepted, new_state, state),
        choose(accepted, moved, jnp.zeros_like(moved)),
        info,
    )
