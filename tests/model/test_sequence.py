"""The tape's loss and gradient, against JAX's own derivative and against float64 differences."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from stream_lstm.model.gradients import tape_logits, tape_loss
from stream_lstm.model.network import Shape, apply, init_weights, seed_key

from . import oracle

SHAPES = [Shape(1, 3, 1), Shape(2, 3, 2)]
LENGTH = 9


def tape(shape: Shape, seed: int = 0) -> tuple[Any, ...]:
    """(weights, xs, state, targets, share) with every part of the loss in play."""
    rng = np.random.default_rng(seed)
    weights = init_weights(shape, key=seed_key(seed))
    weights = jax.tree.map(lambda w: w + 0.3 * rng.normal(size=w.shape).astype("f4"), weights)
    xs = rng.normal(size=(LENGTH, shape.features)).astype(np.float32)
    state = rng.normal(size=shape.state).astype(np.float32)
    targets = (rng.random(LENGTH) < 0.5).astype(np.float32)
    share = rng.choice([0.0, 1.0, 2.5], LENGTH).astype(np.float32)
    return weights, xs, state, targets, share


@functools.partial(jax.jit, static_argnums=0)
def stepwise(shape: Shape, weights: Any, xs: Any, state: Any) -> Any:
    """Logits (K,) by the plain step, one element after the other."""
    return lax.scan(lambda s, x: apply(shape, weights, s, x), state, xs)[1]


def plain_loss(shape: Shape, weights: Any, xs: Any, state: Any, targets: Any, share: Any) -> Any:
    logits = stepwise(shape, weights, xs, state)
    losses = -targets * jax.nn.log_sigmoid(logits) - (1 - targets) * jax.nn.log_sigmoid(-logits)
    return jnp.sum(share * losses) / jnp.maximum(jnp.sum(share), 1.0)


@functools.partial(jax.jit, static_argnums=0)
def ours(shape: Shape, *args: Any) -> Any:
    return jax.value_and_grad(tape_loss, argnums=1)(shape, *args)


@functools.partial(jax.jit, static_argnums=0)
def theirs(shape: Shape, *args: Any) -> Any:
    return jax.value_and_grad(plain_loss, argnums=1)(shape, *args)


def close(a: Any, b: Any, rtol: float) -> None:
    """Equal within `rtol` of the largest entry of each array."""
    for name in b:
        one, two = (np.asarray(jax.tree.leaves(t[name])[0], np.float64) for t in (a, b))
        np.testing.assert_allclose(one, two, rtol=0, atol=rtol * np.abs(two).max(), err_msg=name)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_equals_that_of_jax_through_the_plain_step(shape: Shape) -> None:
    args = tape(shape)
    (loss, gradient), (plain, wanted) = ours(shape, *args), theirs(shape, *args)
    assert loss == pytest.approx(float(plain), rel=1e-6)
    close(gradient, wanted, 1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_equals_differences_in_float64(shape: Shape) -> None:
    weights, xs, state, targets, share = tape(shape, seed=1)
    rest = [np.asarray(a, np.float64) for a in (xs, state, targets, share)]
    kernels = oracle.kernels(weights)
    loss, gradient = ours(shape, weights, xs, state, targets, share)
    assert float(loss) == pytest.approx(oracle.loss(kernels, *rest), rel=1e-6)
    close(gradient, oracle.gradient(kernels, *rest), 1e-5)


def test_no_gradient_flows_into_the_state_at_the_start() -> None:
    shape = SHAPES[1]
    weights, xs, state, targets, share = tape(shape)
    by_state = jax.grad(lambda s: tape_loss(shape, weights, xs, s, targets, share))(state)
    assert not np.asarray(by_state).any()


def test_share_weighs_the_losses() -> None:
    shape = SHAPES[0]
    weights, xs, state, targets, _ = tape(shape)
    rest = [np.asarray(a, np.float64) for a in (xs, state, targets)]
    only_last = np.zeros(LENGTH, np.float32)
    only_last[-1] = 1
    p = oracle.sigmoid(oracle.run(oracle.kernels(weights), *rest[:2])[0][-1])
    expected = -np.log(p if targets[-1] else 1 - p)
    assert float(ours(shape, weights, xs, state, targets, only_last)[0]) == pytest.approx(expected)
    nothing = ours(shape, weights, xs, state, targets, np.zeros(LENGTH, np.float32))
    assert float(nothing[0]) == 0
    assert not any(np.asarray(g).any() for g in jax.tree.leaves(nothing[1]))
    doubled = ours(shape, weights, xs, state, targets, 2 * np.ones(LENGTH, np.float32))
    single = ours(shape, weights, xs, state, targets, np.ones(LENGTH, np.float32))
    assert float(doubled[0]) == pytest.approx(float(single[0]), rel=1e-6)


@pytest.mark.parametrize("shape", [*SHAPES, Shape(3, 8, 3)])
def test_logits_of_a_tape_equal_those_of_the_steps(shape: Shape) -> None:
    rng = np.random.default_rng(2)
    weights, _, state, *_ = tape(shape)
    xs = rng.normal(size=(200, shape.features)).astype(np.float32)
    whole = jax.jit(tape_logits, static_argnums=0)(shape, weights, xs, state)
    # Another order of the same sums: a few float32 roundings (6e-8) of numbers of order one.
    np.testing.assert_allclose(whole, stepwise(shape, weights, xs, state), rtol=0, atol=2e-6)


@pytest.mark.parametrize("logit", [0.0, 50.0, -50.0, 1e30, -1e30])
def test_loss_of_sure_logits_is_finite(logit: float) -> None:
    shape = Shape(1, 1, 1)
    weights = {
        "layer_0": {"kernel": jnp.zeros((3, 4))},
        "head": {"kernel": jnp.array([0.0, logit])},
    }
    one = np.ones(1, np.float32)
    loss = tape_loss(shape, weights, one[None], np.zeros(2, np.float32), one, one)
    assert float(loss) == pytest.approx(np.logaddexp(0.0, -logit), rel=1e-6)
