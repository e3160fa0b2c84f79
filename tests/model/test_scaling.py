"""The causal scaler: its figures, its causality, and that no finite input breaks it."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax import lax

from stream_lstm.model.network import causal_scaler
from stream_lstm.schema import LIMIT, ScalingConfig

from . import oracle

LENGTH = 40
KINDS = ["sd", "zscore", "none"]


@functools.cache
def _compiled(features: int, config: ScalingConfig) -> Any:
    scaler = causal_scaler(features, config)
    return jax.jit(lambda xs: lax.scan(scaler.step, scaler.init(), xs))


def scale(xs: np.ndarray, **config: Any) -> tuple[np.ndarray, np.ndarray]:
    """(final state, scaled (T, F)) of inputs xs (T, F), by default with a gain of 1."""
    xs = np.asarray(xs, np.float32)
    state, out = _compiled(xs.shape[1], ScalingConfig(**{"gain": 1.0} | config))(xs)
    return np.asarray(state), np.asarray(out)


inputs = hnp.arrays(
    np.float32,
    (LENGTH, 2),
    elements=st.floats(-(2.0**122), 2.0**122, width=32, allow_subnormal=False)
    | st.sampled_from([0.0, 1.0, -1.0, 2.0**-100, -(2.0**100)]),
)


@pytest.mark.parametrize("memory", [2.0, 30.0, 1000.0])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_a_float64_oracle(kind: str, memory: float) -> None:
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(1000, 3)) * [1e-3, 1.0, 1e5] + [0.0, 0.5, -1e5]
    xs = xs.astype(np.float32)
    how = {"memory": memory, "clip": 5.0, "gain": 3.0}
    _, ours = scale(xs, scaling=kind, **how)
    wanted = oracle.scaled(xs.astype(np.float64), kind=kind, **how)
    np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(xs=inputs, other=inputs, n=st.integers(0, LENGTH - 1))
def test_later_elements_change_no_bit(
    kind: str, xs: np.ndarray, other: np.ndarray, n: int
) -> None:
    changed = np.concatenate([xs[: n + 1], other[n + 1 :]])
    before, after = scale(xs, scaling=kind)[1], scale(changed, scaling=kind)[1]
    assert before[: n + 1].tobytes() == after[: n + 1].tobytes()


def test_the_deviation_used_is_the_one_before_the_element() -> None:
    _, out = scale([[1.0], [-1.0], [100.0]], scaling="sd", memory=1000.0, clip=1e9)
    assert out[:2, 0].tolist() == [0.0, 0.0]
    assert out[2, 0] == pytest.approx(100.0, rel=1e-6)


@pytest.mark.parametrize("kind", ["sd", "zscore"])
@settings(max_examples=30)
@given(xs=inputs)
def test_any_finite_input_stays_finite_clipped_and_keeps_its_sign(
    kind: str, xs: np.ndarray
) -> None:
    assert np.abs(xs).max() < LIMIT
    state, out = scale(xs, scaling=kind, memory=5.0, clip=3.0)
    assert np.isfinite(state).all()
    assert np.isfinite(out).all()
    assert np.abs(out).max() <= 3.0
    assert (state[3:] >= 0).all()
    if kind == "sd":
        assert (out * np.sign(xs) >= 0).all()


@pytest.mark.parametrize("kind", ["sd", "zscore"])
@settings(max_examples=30)
@given(value=st.floats(-(2.0**122), 2.0**122, width=32, allow_subnormal=False))
def test_a_constant_feature_is_exactly_zero(kind: str, value: float) -> None:
    xs = np.full((LENGTH, 2), value, np.float32)
    xs[:, 1] = np.random.default_rng(0).normal(size=LENGTH)
    state, out = scale(xs, scaling=kind, memory=5.0)
    assert (out[:, 0] == 0).all()
    assert state[3] == 0
    assert out[:, 1].any(), "the other feature is not held back"


@settings(max_examples=30)
@given(
    start=st.integers(1, LENGTH - 4),
    value=st.floats(-1e6, 1e6, width=32, allow_subnormal=False),
)
def test_a_feature_that_starts_late_is_scaled_from_then_on(start: int, value: float) -> None:
    xs = np.full((LENGTH, 1), value, np.float32)
    xs[start:, 0] += np.where(np.arange(LENGTH - start) % 2, 1, -1) * (1 + abs(value)) / 2
    _, out = scale(xs, scaling="sd", clip=5.0)
    assert (out[: start + 1] == 0).all(), "nothing was known before the first move"
    assert np.isfinite(out).all()
    moving = out[start + 1 :][xs[start + 1 :] != 0]
    assert (np.abs(moving) > 0).all()


@pytest.mark.parametrize("kind", ["sd", "zscore"])
@settings(max_examples=30)
@given(exponent=st.integers(-95, 95), seed=st.integers(0, 100))
def test_units_do_not_matter(kind: str, exponent: int, seed: int) -> None:
    xs = np.random.default_rng(seed).normal(size=(LENGTH, 2)).astype(np.float32)
    plain, scaled_up = scale(xs, scaling=kind)[1], scale(xs * 2.0**exponent, scaling=kind)[1]
    assert plain.tobytes() == scaled_up.tobytes()


@pytest.mark.parametrize("magnitude", [1e-30, 1e30, 1e36])
def test_extreme_units_in_decimal(magnitude: float) -> None:
    xs = np.random.default_rng(1).normal(size=(LENGTH, 2))
    state, out = scale(xs * magnitude, scaling="sd")
    assert np.isfinite(state).all()
    np.testing.assert_allclose(out, scale(xs, scaling="sd")[1], rtol=1e-5)


def test_clip_cuts_and_zscore_centres() -> None:
    xs = np.array([[10.0], [12.0], [1000.0], [-1000.0]])
    out = scale(xs, scaling="sd", clip=2.0)[1]
    assert out[2:, 0].tolist() == [2.0, -2.0]
    centred = scale(xs[:3] - [[0], [0], [989]], scaling="zscore", clip=5.0)[1]
    assert centred[2, 0] == 0.0


@settings(max_examples=30)
@given(xs=inputs)
def test_none_passes_bits_through(xs: np.ndarray) -> None:
    assert scale(xs, scaling="none")[1].tobytes() == xs.tobytes()


def test_gain_multiplies_what_was_cut_and_by_default_a_10_becomes_20() -> None:
    xs = np.array([[1.0], [-1.0], [3.0], [100.0], [-100.0]])
    default = ScalingConfig()
    assert (default.clip, default.gain) == (10.0, 2.0)
    plain, doubled = scale(xs, clip=10.0)[1], scale(xs, clip=10.0, gain=2.0)[1]
    assert (2 * plain).tobytes() == doubled.tobytes()
    assert doubled[3, 0] == 20.0
    assert scale(xs, scaling="none", gain=2.0)[1].tobytes() == xs.astype(np.float32).tobytes()


def test_an_unending_memory_keeps_averaging() -> None:
    xs = np.random.default_rng(0).normal(size=(LENGTH, 1))
    state, _ = scale(xs, memory=float("inf"))
    np.testing.assert_allclose(state, [LENGTH, xs.mean(), xs.std()], rtol=1e-5, atol=1e-6)
