"""The filter, against its equations in dense float64 and the textbook's filter of one node."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stream_lstm.model.optimizers import (
    LEAST_VARIANCE,
    MAX_TOGETHER,
    VARIANCE_FLOOR,
    dekf,
    logistic_innovation,
)

from .oracle import F64, sigmoid

Q, P0 = 1e-3, 0.5
SIZES: dict[str, tuple[int, ...]] = {"a": (3, 4), "b": (5,)}
"""Four nodes of three weights, and one of five."""


@functools.cache
def compiled(q: float = Q) -> tuple[Any, Any]:
    kalman = dekf(p0=P0, q=q)

    @jax.jit
    def update(rows: Any, state: Any, innovation: Any, noise: Any) -> Any:
        return kalman.update(rows, state, None, innovation=innovation, noise=noise)

    return kalman.init({name: jnp.zeros(size) for name, size in SIZES.items()}), update


def nodes(rows: Any) -> list[F64]:
    """Sensitivities (M, J) of each node."""
    a, b = (np.asarray(rows[name], np.float64) for name in SIZES)
    return [*(a[:, :, u] for u in range(a.shape[2])), b]


def covariances(state: Any) -> list[F64]:
    a, b = (np.asarray(state.covariance[name], np.float64) for name in SIZES)
    return [*(a[:, :, u] for u in range(a.shape[2])), b]


def one_after_another(
    rows: F64, covariance: F64, innovation: F64, noise: F64, q: float
) -> tuple[F64, F64]:
    """(change, covariance) of one node by scalar observations, each innovation corrected."""
    change = np.zeros(len(covariance))
    for g, e, r in zip(rows, innovation, noise, strict=True):
        gain = covariance @ g
        s = r + g @ gain
        change = change + gain * (e - g @ change) / s
        covariance = covariance - np.outer(gain, gain) / s
    return change, covariance + q * np.eye(len(covariance))


def in_turns(
    rows: list[F64], before: list[F64], innovation: F64, noise: F64, q: float
) -> tuple[list[F64], list[F64]]:
    """The same by a dense filter over all nodes, decoupled after each MAX_TOGETHER logits."""
    changes, covariance = [np.zeros(len(p)) for p in before], before
    for start in range(0, len(innovation), MAX_TOGETHER):
        part = slice(start, start + MAX_TOGETHER)
        g = [s[part] for s in rows]
        left = innovation[part] - sum(s @ c for s, c in zip(g, changes, strict=True))
        more, covariance = together(g, covariance, left, noise[part])
        changes = [c + m for c, m in zip(changes, more, strict=True)]
    return changes, [p + q * np.eye(len(p)) for p in covariance]


def together(
    rows: list[F64], before: list[F64], innovation: F64, noise: F64
) -> tuple[list[F64], list[F64]]:
    """The textbook's filter of one matrix over all nodes, whose blocks alone are kept."""
    sizes = [len(p) for p in before]
    whole, ends = np.zeros((sum(sizes), sum(sizes))), np.cumsum([0, *sizes])
    blocks = [slice(a, b) for a, b in itertools.pairwise(ends)]
    for at, p in zip(blocks, before, strict=True):
        whole[at, at] = p
    g = np.concatenate(rows, axis=1)
    gain = whole @ g.T @ np.linalg.inv(g @ whole @ g.T + np.diag(noise))
    change, after = gain @ innovation, whole - gain @ g @ whole
    return [change[at] for at in blocks], [after[at, at] for at in blocks]


def drawn(count: int, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows = {k: rng.normal(size=(count, *size)).astype(np.float32) for k, size in SIZES.items()}
    innovation = rng.normal(size=count).astype(np.float32)
    return rows, innovation, rng.uniform(4, 50, count).astype(np.float32)


def compare(found: tuple[Any, Any], wanted: tuple[list[F64], list[F64]], atol: float) -> None:
    changes, state = found
    for one, two in zip(nodes(jax.tree.map(lambda c: c[None], changes)), wanted[0], strict=True):
        np.testing.assert_allclose(one[0], two, rtol=0, atol=atol)
    for one, two in zip(covariances(state), wanted[1], strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=atol)


COUNTS = [1, MAX_TOGETHER, MAX_TOGETHER + 5]


@pytest.mark.parametrize("count", COUNTS)
def test_logits_together_are_one_dense_filter_that_is_decoupled_afterwards(count: int) -> None:
    state, update = compiled()
    rows, innovation, noise = drawn(count)
    wanted = in_turns(nodes(rows), covariances(state), innovation, noise, Q)
    compare(update(rows, state, innovation, noise), wanted, 2e-6)


@pytest.mark.parametrize("count", COUNTS)
def test_logits_of_one_node_together_are_as_if_one_after_another(count: int) -> None:
    """Each innovation is corrected for the part that the logits before it explain."""
    kalman = dekf(p0=P0, q=Q)
    state = kalman.init({"b": jnp.zeros(SIZES["b"])})
    rows, innovation, noise = drawn(count)
    run = jax.jit(lambda g, e, r: kalman.update({"b": g}, state, None, innovation=e, noise=r))
    changes, after = run(rows["b"], innovation, noise)
    start = np.asarray(state.covariance["b"], np.float64)
    wanted = one_after_another(rows["b"].astype(np.float64), start, innovation, noise, Q)
    np.testing.assert_allclose(changes["b"], wanted[0], rtol=0, atol=2e-6)
    np.testing.assert_allclose(after.covariance["b"], wanted[1], rtol=0, atol=2e-6)


def test_nodes_stay_decoupled_from_update_to_update() -> None:
    """Over many updates that carry the covariances."""
    state, update = compiled()
    covariance = covariances(state)
    for seed in range(30):
        rows, innovation, noise = drawn(3, seed)
        changes, state = update(rows, state, innovation, noise)
        wanted = in_turns(nodes(rows), covariance, innovation, noise, Q)
        compare((changes, state), wanted, 1e-5)
        covariance = wanted[1]


def test_a_covariance_stays_symmetric_and_positive_over_ten_thousand_updates() -> None:
    """With sensitivities of many sizes, some of them repeated, for which rounding matters."""
    kalman = dekf(p0=P0, q=1e-8)
    start = kalman.init({name: jnp.zeros(size) for name, size in SIZES.items()})
    rng = np.random.default_rng(7)
    scale = 10.0 ** rng.uniform(-3, 2, size=(10_000, 1))
    same = rng.random((10_000, 1)) < 0.5
    a = scale[..., None, None] * np.where(
        same[..., None, None], 1.0, rng.normal(size=(10_000, 1, 3, 4))
    )
    b = scale[..., None] * np.where(same[..., None], 1.0, rng.normal(size=(10_000, 1, 5)))

    def turn(state: Any, rows: Any) -> Any:
        one = jnp.ones(1)
        return kalman.update(rows, state, None, innovation=one, noise=4 * one)[1], None

    tree = {"a": a.astype(np.float32), "b": b.astype(np.float32)}
    state, _ = jax.jit(lambda s: jax.lax.scan(turn, s, tree))(start)
    for p in covariances(state):
        np.testing.assert_allclose(p, p.T, rtol=0, atol=1e-6)
        assert (np.diag(p) >= LEAST_VARIANCE).all()
        assert np.linalg.eigvalsh((p + p.T) / 2).min() > -1e-5


def test_a_negative_variance_is_lifted() -> None:
    state, update = compiled(q=0.0)
    broken = jax.tree.map(lambda p: -0.1 * p, state)
    rows, innovation, noise = drawn(1)
    _, after = update(jax.tree.map(np.zeros_like, rows), broken, innovation, noise)
    for p in covariances(after):
        np.testing.assert_allclose(np.diag(p), LEAST_VARIANCE, rtol=1e-6)


@pytest.mark.slow
def test_a_label_without_weight_has_no_effect() -> None:
    state, update = compiled(q=0.0)
    rows, _, _ = drawn(2)
    logits, labels = np.float32([0.3, -0.4]), np.float32([1.0, 0.0])
    both = logistic_innovation(logits, labels, np.float32([0.0, 1.0]))
    alone = logistic_innovation(logits[1:], labels[1:], np.float32([1.0]))
    one, two = (
        update(rows, state, *both),
        update({k: v[1:] for k, v in rows.items()}, state, *alone),
    )
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    neither = logistic_innovation(logits, labels, np.float32([0.0, 0.0]))
    changes, after = update(rows, state, *neither)
    assert max(float(jnp.abs(c).max()) for c in jax.tree.leaves(changes)) < 1e-5
    for a, b in zip(covariances(after), covariances(state), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_innovation_and_noise_are_those_of_a_bernoulli_output_with_a_floor() -> None:
    logits = np.float32([0.0, 2.0, -9.0, 30.0])
    labels, share = np.float32([1, 0, 1, 0]), np.float32([1, 2, 1, 0.5])
    innovation, noise = logistic_innovation(logits, labels, share)
    p = sigmoid(logits.astype(np.float64))
    v = np.maximum(p * (1 - p), VARIANCE_FLOOR)
    np.testing.assert_allclose(innovation, (labels - p) / v, rtol=1e-5)
    np.testing.assert_allclose(noise, 1 / (v * share), rtol=1e-5)


def test_one_linear_node_is_the_extended_kalman_filter_of_the_textbook() -> None:
    """z = w x: K = P x / (x P x + 1/v), w += K (y - p) / v, P <- (I - K x) P + q I."""
    kalman, rng = dekf(p0=P0, q=Q), np.random.default_rng(1)
    truth, size = np.array([1.5, -2.0, 0.5]), 3
    w, p = np.zeros(size), P0 * np.eye(size)
    ours, state = jnp.zeros(size), kalman.init(jnp.zeros(size))
    update = jax.jit(lambda g, s, e, r: kalman.update(g, s, None, innovation=e, noise=r))
    for _ in range(300):
        x = rng.normal(size=size).astype(np.float32)
        y = float(rng.random() < sigmoid(x @ truth))
        z = jnp.asarray(x @ ours)[None]
        change, state = update(
            x[None], state, *logistic_innovation(z, jnp.array([y]), jnp.ones(1))
        )
        ours = ours + change
        guess = sigmoid(x @ w)
        v = max(guess * (1 - guess), VARIANCE_FLOOR)
        gain = p @ x / (x @ p @ x + 1 / v)
        w = w + gain * (y - guess) / v
        p = (np.eye(size) - np.outer(gain, x)) @ p + Q * np.eye(size)
    np.testing.assert_allclose(ours, w, rtol=0, atol=1e-3)
    np.testing.assert_allclose(state.covariance, p, rtol=0, atol=1e-4)
    assert np.sign(w).tolist() == np.sign(truth).tolist()
