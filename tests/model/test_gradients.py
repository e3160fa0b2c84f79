"""Each way to differentiate a stream, against its own definition in float64."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import pytest

from stream_lstm.errors import ConfigurationError
from stream_lstm.model.gradients import Gradient, gradient_method
from stream_lstm.model.network import Shape, init_weights, seed_key

from . import oracle
from .influence import element, flat, logit_slope, own_only

STRIDE, TAPES, COUNT = 4, 5, 3
SHAPES = [Shape(2, 3, 1), Shape(1, 2, 2)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s.layers} layers")


@functools.cache
def network(shape: Shape) -> tuple[Any, np.ndarray]:
    """Weights far enough from zero that paths between units count, and the inputs (T, F)."""
    rng = np.random.default_rng(4)
    drawn = init_weights(shape, key=seed_key(4))
    weights = jax.tree.map(lambda w: w + 0.5 * rng.normal(size=w.shape).astype("f4"), drawn)
    return weights, rng.normal(size=(STRIDE * TAPES, shape.features)).astype(np.float32)


def observed(shape: Shape, name: Any, count: int = COUNT) -> tuple[np.ndarray, np.ndarray]:
    """(logits, sensitivities (count, P)) of the last tape of a stream, the trace carried to it."""
    weights, xs = network(shape)
    method: Gradient = gradient_method(name, shape, count=count)
    observe, trace = jax.jit(method.observe), method.init()
    states = oracle.run(oracle.kernels(weights), xs, np.zeros(shape.state))[1]
    for start in range(0, len(xs), STRIDE):
        state = np.zeros(shape.state) if start == 0 else states[start - 1]
        tape = xs[start : start + STRIDE]
        logits, jacobian, trace = observe(weights, tape, state.astype(np.float32), trace)
    rows = [
        flat(oracle.kernels(jax.tree.map(lambda leaf, k=k: leaf[k], jacobian)))
        for k in range(count)
    ]
    return np.asarray(logits), np.array(rows)


def by_definition(shape: Shape, *, own_before: int, own_after: bool = False) -> np.ndarray:
    """Sensitivities (T, P) after each element, of paths that are followed.

    Up to element `own_before` the influence keeps a unit's own entries alone; from there on all
    of them, or a unit's own again with `own_after`.
    """
    weights, xs = network(shape)
    kernels, state = oracle.kernels(weights), np.zeros(shape.state)
    units, owned = own_only(kernels, shape.state, shape.layers)
    influence = np.zeros((shape.state, owned.shape[1]))
    rows = []
    for n, x in enumerate(np.asarray(xs, np.float64)):
        of_state, direct = element(kernels, x, state)
        if n < own_before or own_after:
            of_state, direct = of_state * units, direct * owned
        influence = of_state @ influence + direct
        state = oracle.run(kernels, x[None], state)[1][-1]
        rows.append(logit_slope(kernels, state, influence))
    return np.array(rows)


def close(found: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@shapes
def test_the_definition_is_that_of_differences_through_the_whole_stream(shape: Shape) -> None:
    """The oracle's own oracle: every weight moved, the whole stream run again."""
    weights, xs = network(shape)
    kernels, step = oracle.kernels(weights), 1e-6
    wanted = by_definition(shape, own_before=0)[-1]
    at = 0
    for name in (*sorted(k for k in kernels if k != "head"), "head"):
        for k in range(kernels[name].size):
            ends = []
            for sign in (1, -1):
                moved = kernels[name].copy()
                moved.flat[k] += sign * step
                run = oracle.run(kernels | {name: moved}, xs, np.zeros(shape.state))
                ends.append(run[0][-1])
            assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(wanted[at], abs=1e-7)
            at += 1


@shapes
def test_rtrl_moved_once_a_stride_is_backpropagation_through_the_whole_stream(
    shape: Shape,
) -> None:
    logits, rows = observed(shape, "rtrl")
    weights, xs = network(shape)
    plain = oracle.run(oracle.kernels(weights), xs, np.zeros(shape.state))[0]
    np.testing.assert_allclose(logits, plain[-COUNT:], rtol=0, atol=1e-5)
    close(rows, by_definition(shape, own_before=0)[-COUNT:])


def test_snap1_keeps_a_units_own_entries_at_every_element() -> None:
    close(
        observed(SHAPES[0], "snap1")[1],
        by_definition(SHAPES[0], own_before=0, own_after=True)[-COUNT:],
    )


@shapes
def test_hybrid_is_exact_in_the_last_tape_and_own_before_it(shape: Shape) -> None:
    wanted = by_definition(shape, own_before=STRIDE * (TAPES - 1))
    close(observed(shape, "hybrid")[1], wanted[-COUNT:])


@shapes
def test_bptt_over_the_whole_stream_is_exact(shape: Shape) -> None:
    weights, xs = network(shape)
    method = gradient_method("bptt", shape, count=COUNT)
    state = np.zeros(shape.state, np.float32)
    _, jacobian, trace = jax.jit(method.observe)(weights, xs, state, method.init())
    assert trace.size == 0
    wanted = by_definition(shape, own_before=0)[-COUNT:]
    for k in range(COUNT):
        close(flat(oracle.kernels(jax.tree.map(lambda leaf, k=k: leaf[k], jacobian))), wanted[k])


@shapes
def test_they_differ_here(shape: Shape) -> None:
    """What would make the tests above pass by chance: paths that do not count."""
    exact = by_definition(shape, own_before=0)[-COUNT:]
    hybrid = by_definition(shape, own_before=STRIDE * (TAPES - 1))[-COUNT:]
    own = by_definition(shape, own_before=0, own_after=True)[-COUNT:]
    short = observed(shape, "bptt")[1]
    pairs = [(exact, hybrid), (hybrid, own), (exact, own), (exact, short), (hybrid, short)]
    for one, two in pairs:
        assert np.abs(one - two).max() > 1e-2 * np.abs(exact).max()


@pytest.mark.parametrize("name", ["bptt", "snap1", "hybrid", "rtrl"])
def test_how_many_logits_are_observed_changes_no_other(name: Any) -> None:
    one, all_ = (observed(SHAPES[0], name, count)[1] for count in (1, STRIDE))
    close(all_[-1:], one)


def test_snap1_is_refused_for_two_layers() -> None:
    with pytest.raises(ConfigurationError, match="one layer, not 2; choose hybrid") as caught:
        gradient_method("snap1", SHAPES[1], count=1)
    assert caught.value.key == "gradient"
