"""The gradient of a tape, and each way to differentiate a stream, against float64 definitions."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from stream_lstm.model.gradients import gradient_method, tape_logits, tape_loss
from stream_lstm.model.network import Shape, apply, init_weights, seed_key

from . import oracle
from .influence import element, flat, logit_slope, own_only, unflat

SHAPES = [Shape(2, 3, 1), Shape(1, 2, 2)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s.layers} layers")


def weights_of(shape: Shape, seed: int) -> Any:
    """Weights far enough from zero that paths between units count."""
    rng = np.random.default_rng(seed)
    drawn = init_weights(shape, key=seed_key(seed))
    return jax.tree.map(lambda w: w + 0.5 * rng.normal(size=w.shape).astype("f4"), drawn)


# ---- the loss of a tape ---------------------------------------------------------------------

LENGTH = 9


def tape(shape: Shape, seed: int = 0) -> tuple[Any, ...]:
    """(weights, xs, state, targets, label_weights), with each part of the loss in use."""
    rng = np.random.default_rng(seed)
    xs = rng.normal(size=(LENGTH, shape.features)).astype(np.float32)
    state = rng.normal(size=shape.state).astype(np.float32)
    targets = (rng.random(LENGTH) < 0.5).astype(np.float32)
    label_weights = rng.choice([0.0, 1.0, 2.5], LENGTH).astype(np.float32)
    return weights_of(shape, seed), xs, state, targets, label_weights


def plain_loss(
    shape: Shape, weights: Any, xs: Any, state: Any, targets: Any, label_weights: Any
) -> Any:
    """The loss by single steps, for JAX to differentiate."""
    logits = lax.scan(lambda s, x: apply(shape, weights, s, x), state, xs)[1]
    losses = -targets * jax.nn.log_sigmoid(logits) - (1 - targets) * jax.nn.log_sigmoid(-logits)
    return jnp.sum(label_weights * losses) / jnp.maximum(jnp.sum(label_weights), 1.0)


def slope_of(loss: Any) -> Any:
    return jax.jit(jax.value_and_grad(loss, argnums=(1, 3)), static_argnums=0)


ours, theirs = slope_of(tape_loss), slope_of(plain_loss)


def close(found: Any, wanted: Any) -> None:
    """Equal within 1e-5 of the largest entry of each array."""
    for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        one, two = np.asarray(one, np.float64), np.asarray(two, np.float64)
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-5 * np.abs(two).max())


@pytest.mark.slow
@shapes
def test_the_gradient_is_that_of_jax_and_of_float64_differences(shape: Shape) -> None:
    """No gradient flows into the state at the start."""
    weights, *rest = tape(shape)
    (loss, (gradient, into_state)), (plain, (wanted, _)) = (
        each(shape, weights, *rest) for each in (ours, theirs)
    )
    assert loss == pytest.approx(float(plain), rel=1e-6)
    close(gradient, wanted)
    assert not np.asarray(into_state).any()
    kernels, rest64 = oracle.kernels(weights), [np.asarray(a, np.float64) for a in rest]
    assert float(loss) == pytest.approx(oracle.loss(kernels, *rest64), rel=1e-6)
    close(oracle.kernels(gradient), oracle.gradient(kernels, *rest64))


def test_label_weights_weigh_the_losses() -> None:
    shape = SHAPES[0]
    weights, xs, state, targets, _ = tape(shape)

    def loss(label_weights: np.ndarray) -> tuple[float, Any]:
        value, (gradient, _) = ours(shape, weights, xs, state, targets, label_weights)
        return float(value), gradient

    ones = np.ones(LENGTH, np.float32)
    logits = oracle.run(oracle.kernels(weights), xs, np.float64(state))[0]
    p = oracle.sigmoid(logits[-1])
    last = np.arange(LENGTH, dtype=np.float32) == LENGTH - 1
    assert loss(last * ones)[0] == pytest.approx(-np.log(p if targets[-1] else 1 - p))
    nothing, gradient = loss(0 * ones)
    assert nothing == 0
    assert not any(np.asarray(g).any() for g in jax.tree.leaves(gradient))
    assert loss(2 * ones)[0] == pytest.approx(loss(ones)[0], rel=1e-6)


@pytest.mark.parametrize("shape", [*SHAPES, Shape(3, 8, 3)], ids=str)
def test_logits_of_a_tape_are_those_of_single_steps(shape: Shape) -> None:
    weights, _, state, *_ = tape(shape)
    xs = np.random.default_rng(2).normal(size=(200, shape.features)).astype(np.float32)
    whole = jax.jit(tape_logits, static_argnums=0)(shape, weights, xs, state)
    wanted = oracle.run(oracle.kernels(weights), xs, np.float64(state))[0]
    # Some float32 roundings (6e-8) of numbers of order one.
    np.testing.assert_allclose(whole, wanted, rtol=0, atol=5e-6)


@pytest.mark.parametrize("logit", [0.0, 50.0, -50.0, 1e30, -1e30])
def test_the_loss_of_a_certain_logit_is_finite(logit: float) -> None:
    weights = {
        "layer_0": {"kernel": jnp.zeros((3, 4))},
        "head": {"kernel": jnp.array([0.0, logit])},
    }
    one = np.ones(1, np.float32)
    loss = ours(Shape(1, 1, 1), weights, one[None], np.zeros(2, np.float32), one, one)[0]
    assert float(loss) == pytest.approx(np.logaddexp(0.0, -logit), rel=1e-6)


# ---- how far back a gradient reaches --------------------------------------------------------

STRIDE, TAPES, COUNT = 4, 4, 3


@functools.cache
def stream(shape: Shape) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
    """Weights, inputs (T, F), and the logits (T,) and states (T, 2 L H) of float64."""
    weights = weights_of(shape, 4)
    xs = np.random.default_rng(4).normal(size=(STRIDE * TAPES, shape.features))
    xs = xs.astype(np.float32)
    return weights, xs, *oracle.run(oracle.kernels(weights), xs, np.zeros(shape.state))


def rows_of(jacobian: Any, count: int) -> np.ndarray:
    """Sensitivities (count, P)."""
    parts = (jax.tree.map(lambda leaf, k=k: leaf[k], jacobian) for k in range(count))
    return np.array([flat(oracle.kernels(part)) for part in parts])


@functools.cache
def observed(shape: Shape, name: Any, count: int = COUNT) -> tuple[np.ndarray, np.ndarray]:
    """(logits, sensitivities (count, P)) of the last tape of a stream, the trace carried to it."""
    weights, xs, _, states = stream(shape)
    method = gradient_method(name, shape, count=count)
    observe, trace = jax.jit(method.observe), method.init()
    for start in range(0, len(xs), STRIDE):
        state = np.zeros(shape.state) if start == 0 else states[start - 1]
        tape = xs[start : start + STRIDE]
        logits, jacobian, trace = observe(weights, tape, state.astype(np.float32), trace)
    return np.asarray(logits), rows_of(jacobian, count)


@functools.cache
def by_definition(shape: Shape, *, own_before: int = 0, own_after: bool = False) -> np.ndarray:
    """Sensitivities (T, P) after each element.

    Before element `own_before` the influence has a unit's own entries only; from there on it has
    all entries, or a unit's own again with `own_after`.
    """
    weights, xs, _, states = stream(shape)
    kernels, state = oracle.kernels(weights), np.zeros(shape.state)
    units, owned = own_only(kernels, shape.state, shape.layers)
    influence = np.zeros((shape.state, owned.shape[1]))
    rows = []
    for n, x in enumerate(np.asarray(xs, np.float64)):
        of_state, direct = element(kernels, x, state)
        if n < own_before or own_after:
            of_state, direct = of_state * units, direct * owned
        influence = of_state @ influence + direct
        state = states[n]
        rows.append(logit_slope(kernels, state, influence))
    return np.array(rows)


DEFINITIONS: dict[str, dict[str, Any]] = {
    "rtrl": {},
    "hybrid": {"own_before": STRIDE * (TAPES - 1)},
    "snap1": {"own_after": True},
}


@shapes
def test_the_definition_is_that_of_differences_through_the_whole_stream(shape: Shape) -> None:
    weights, xs, *_ = stream(shape)
    kernels, wanted = oracle.kernels(weights), by_definition(shape)[-1]
    weights64 = flat(kernels)
    for k in range(len(weights64)):
        ends = []
        for step in (1e-6, -1e-6):
            moved = weights64.copy()
            moved[k] += step
            ends.append(oracle.run(unflat(moved, kernels), xs, np.zeros(shape.state))[0][-1])
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(wanted[k], abs=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        (name, shape)
        for name in DEFINITIONS
        for shape in SHAPES
        if name != "snap1" or shape.layers == 1
    ],
)
def test_a_method_is_its_definition_however_many_logits_it_observes(
    name: str, shape: Shape
) -> None:
    """`rtrl`, moved once a stride, is backpropagation through the whole stream."""
    logits, rows = observed(shape, name)
    np.testing.assert_allclose(logits, stream(shape)[2][-COUNT:], rtol=0, atol=1e-5)
    close(rows, by_definition(shape, **DEFINITIONS[name])[-COUNT:])
    if shape == SHAPES[0]:
        close(observed(shape, name, 1)[1], rows[-1:])


@shapes
def test_bptt_over_the_whole_stream_is_exact(shape: Shape) -> None:
    weights, xs, *_ = stream(shape)
    method = gradient_method("bptt", shape, count=COUNT)
    state = np.zeros(shape.state, np.float32)
    _, jacobian, trace = jax.jit(method.observe)(weights, xs, state, method.init())
    assert trace.size == 0
    close(rows_of(jacobian, COUNT), by_definition(shape)[-COUNT:])


@shapes
def test_the_methods_differ_here(shape: Shape) -> None:
    """The tests above would otherwise pass by chance, on paths that do not count."""
    found = [by_definition(shape, **how)[-COUNT:] for how in DEFINITIONS.values()]
    exact, hybrid, own = found
    short = observed(shape, "bptt")[1]
    pairs = [(exact, hybrid), (hybrid, own), (exact, own), (exact, short), (hybrid, short)]
    for one, two in pairs:
        assert np.abs(one - two).max() > 1e-2 * np.abs(exact).max()
