"""What is not finite never gets past the guard, whatever leaf it sits in."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stream_lstm.model.optimizers import (
    ACCEPTED,
    NOT_FINITE,
    UPDATE_TOO_LARGE,
    WEIGHTS_TOO_LARGE,
    Caps,
    all_finite,
    choose,
)
from stream_lstm.schema import LearningConfig

finite = st.floats(-(2.0**126), 2.0**126, width=32)
_judge = jax.jit(all_finite)


@settings(deadline=None)  # the first example compiles
@given(hnp.arrays(np.float32, (7,), elements=finite))
def test_finite_is_accepted_however_large(values: np.ndarray) -> None:
    assert bool(_judge({"a": values, "n": jnp.int32(3)}))


@settings(deadline=None)  # the first example compiles
@given(
    hnp.arrays(np.float32, (7,), elements=finite),
    st.integers(0, 6),
    st.sampled_from([np.nan, np.inf, -np.inf]),
)
def test_one_bad_entry_is_enough(values: np.ndarray, at: int, bad: float) -> None:
    values[at] = bad
    assert not bool(_judge({"a": values, "n": jnp.int32(3)}))


def test_opposite_infinities_do_not_cancel() -> None:
    assert not bool(all_finite(jnp.array([np.inf, -np.inf]), jnp.zeros(2)))


def test_whole_numbers_count_as_finite() -> None:
    assert bool(all_finite({"count": jnp.int32(2**31 - 1)}))
    assert bool(all_finite({}))


@pytest.mark.parametrize("accepted", [True, False])
def test_choose_takes_every_leaf_of_one_side(accepted: bool) -> None:
    new: Any = {"a": jnp.array([1.0, np.nan]), "b": (jnp.int32(1),)}
    old: Any = {"a": jnp.array([np.nan, 2.0]), "b": (jnp.int32(2),)}
    got = choose(jnp.asarray(accepted), new, old)
    wanted = new if accepted else old
    for one, two in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(two).tobytes()


@pytest.mark.parametrize(
    ("sound", "changes", "weights", "wanted"),
    [
        (True, 2.0, 6.0, ACCEPTED),
        (True, 2.1, 6.0, UPDATE_TOO_LARGE),
        (True, np.inf, 6.0, UPDATE_TOO_LARGE),
        (True, 2.0, 6.1, WEIGHTS_TOO_LARGE),
        (True, 2.1, 6.1, UPDATE_TOO_LARGE),
        (True, np.nan, 6.0, NOT_FINITE),
        (True, 2.0, np.nan, NOT_FINITE),
        (False, 2.0, 6.0, NOT_FINITE),
    ],
)
def test_caps_are_root_mean_squares(
    sound: bool, changes: float, weights: float, wanted: float
) -> None:
    caps = Caps.of(LearningConfig(max_update=1.0, max_weights=3.0))
    given_norms = jnp.float32(changes), jnp.float32(weights)
    assert caps.judge(jnp.asarray(sound), *given_norms, 4) == wanted


def test_without_caps_all_is_let_in_but_what_overflows() -> None:
    caps = Caps.of(LearningConfig(max_update=0.0, max_weights=0.0))
    yes = jnp.asarray(True)
    assert caps.judge(yes, jnp.float32(1e38), jnp.float32(1e38), 4) == ACCEPTED
    assert caps.judge(yes, jnp.float32(1.0), jnp.float32(np.inf), 4) == WEIGHTS_TOO_LARGE
