"""Each named optimiser learns or is rejected by name, and the check rejects a bad update."""

from __future__ import annotations

import difflib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stream_lstm.errors import ConfigurationError
from stream_lstm.model.optimizers import (
    ACCEPTED,
    NOT_FINITE,
    UPDATE_TOO_LARGE,
    WEIGHTS_TOO_LARGE,
    Caps,
    all_finite,
    build_kalman,
    build_optimizer,
    choose,
    known_optimizers,
)
from stream_lstm.schema import LearningConfig

finite = jax.jit(lambda *trees: all_finite(trees))


@jax.jit
def parabola(tree: dict[str, jax.Array]) -> jax.Array:
    return sum(jnp.sum((leaf - 1.0) ** 2) for leaf in tree.values())


slope = jax.jit(jax.grad(parabola))


OTHERS = {"lbfgs", "dekf"}
"""They need a line search, or sensitivities."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*deprecated", "ignore:Specifying a key:UserWarning")
@pytest.mark.parametrize("name", sorted(set(known_optimizers()) - OTHERS))
def test_a_known_optimizer_goes_downhill(name: str) -> None:
    optimizer = build_optimizer(LearningConfig(optimizer=name, learning_rate=0.01))
    # Not jitted: optimisers share most of their operations, and so their compiled programs.
    at = {"a": jnp.full((3, 4), 2.0), "b": jnp.full((3, 4), -1.0)}
    state, start = optimizer.init(at), float(parabola(at))
    for _ in range(3):
        changes, state = optimizer.update(slope(at), state, at)
        at = optax.apply_updates(at, changes)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(at))
    assert float(parabola(at)) < start


def test_the_usual_names_are_known() -> None:
    known = set(known_optimizers())
    assert {"adam", "adamw", "dekf", "sgd", "rmsprop", "adagrad", "lion", "radam"} <= known
    assert not [name for name in known if name.startswith("scale_by")], "parts of optimisers"


@pytest.mark.parametrize("wrong", ["adm", "Adam", "rmspropp", "sdg"])
def test_an_unknown_name_is_rejected_with_the_nearest(wrong: str) -> None:
    with pytest.raises(ConfigurationError, match="is not an optimiser of optax") as caught:
        build_optimizer(LearningConfig(optimizer=wrong))
    assert caught.value.key == "optimizer"
    assert difflib.get_close_matches(wrong, known_optimizers(), 1, 0.5)[0] in str(caught.value)


@pytest.mark.parametrize("name", ["lbfgs", "polyak_sgd", "chain", "_src", "clip", "apply_updates"])
def test_an_optimizer_that_needs_more_than_gradients_is_rejected(name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        build_optimizer(LearningConfig(optimizer=name))


@pytest.mark.parametrize(("clip_norm", "expected"), [(1.0, 1.0), (0.0, 20.0), (50.0, 20.0)])
def test_gradients_are_clipped_by_their_global_norm(clip_norm: float, expected: float) -> None:
    config = LearningConfig(optimizer="sgd", learning_rate=1.0, clip_norm=clip_norm)
    optimizer = build_optimizer(config)
    gradient = {"a": jnp.array([12.0]), "b": jnp.array([-16.0])}
    changes, _ = optimizer.update(gradient, optimizer.init(gradient), gradient)
    assert float(optax.tree.norm(changes)) == pytest.approx(expected)
    assert float(changes["a"][0]) < 0 < float(changes["b"][0])


def one_step(config: LearningConfig) -> float:
    """What the second of two updates adds to a weight, the gradients being 1 and -2."""
    optimizer = build_optimizer(config)
    tree = {"a": jnp.zeros(1)}
    state = optimizer.init(tree)
    _, state = optimizer.update({"a": jnp.ones(1)}, state, tree)
    changes, _ = optimizer.update({"a": jnp.full(1, -2.0)}, state, tree)
    return float(changes["a"][0])


def test_arguments_reach_the_optimizer() -> None:
    def momentum(*arguments: str) -> LearningConfig:
        return LearningConfig(
            optimizer="sgd", learning_rate=1.0, clip_norm=0.0, optimizer_args=arguments
        )

    assert one_step(momentum()) == 2.0
    assert one_step(momentum("momentum=0.5")) == 1.5
    assert one_step(momentum("momentum = 0.5", "nesterov = true")) == 2.75
    by_hand = optax.adam(0.1, b1=0.5, b2=0.7)
    tree = {"a": jnp.zeros(1)}
    _, state = by_hand.update({"a": jnp.ones(1)}, by_hand.init(tree), tree)
    wanted, _ = by_hand.update({"a": jnp.full(1, -2.0)}, state, tree)
    adam = LearningConfig(learning_rate=0.1, clip_norm=0.0, optimizer_args=("b1=0.5", "b2=0.7"))
    assert one_step(adam) == pytest.approx(float(wanted["a"][0]))


def test_a_training_optimizer_ignores_the_arguments_of_the_other() -> None:
    build_optimizer(LearningConfig(optimizer="dekf", optimizer_args=("q=0",)), "adam", 0.01)


def test_the_filter_takes_its_variances() -> None:
    config = LearningConfig(optimizer="dekf", optimizer_args=("p0=0.25", "q=0"))
    state = build_kalman(config).init({"a": jnp.zeros(2)})
    assert state.covariance["a"].tolist() == [[0.25, 0.0], [0.0, 0.25]]


@pytest.mark.parametrize(
    ("optimizer", "argument", "says"),
    [
        ("adam", "b3=0.5", "adam has no argument 'b3'"),
        ("adam", "b1", "adam has no argument 'b1'|write NAME=NUMBER"),
        ("adam", "=1", "no argument ''"),
        ("adam", "b1=much", "b1=much is not a number, true or false"),
        ("adam", "learning_rate=1", "no argument 'learning_rate'"),
        ("dekf", "p1=1", "dekf has no argument 'p1'"),
        ("dekf", "p0=0", "p0=0.0 is not a variance"),
        ("dekf", "p0=-1", "not a variance"),
        ("dekf", "p0=true", "not a variance"),
        ("dekf", "q=-1e-9", "not a variance"),
        ("dekf", "q=nan", "not a finite number"),
        ("dekf", "q=inf", "not a finite number"),
        ("dekf", "q=1_x", "not a number"),
    ],
)
def test_an_invalid_argument_is_rejected_by_name(optimizer: str, argument: str, says: str) -> None:
    config = LearningConfig(optimizer=optimizer, optimizer_args=(argument,))
    build = build_kalman if optimizer == "dekf" else build_optimizer
    with pytest.raises(ConfigurationError, match=says) as caught:
        build(config)
    assert caught.value.key == "optimizer_args"


# ---- the check ------------------------------------------------------------------------------

numbers = st.floats(-(2.0**126), 2.0**126, width=32)


@given(hnp.arrays(np.float32, (7,), elements=numbers))
def test_a_finite_number_is_accepted_however_large(values: np.ndarray) -> None:
    assert finite({"a": values, "n": jnp.int32(3)})


@given(
    hnp.arrays(np.float32, (7,), elements=numbers),
    st.integers(0, 6),
    st.sampled_from([np.nan, np.inf, -np.inf]),
)
def test_one_bad_entry_is_enough(values: np.ndarray, at: int, bad: float) -> None:
    values[at] = bad
    assert not (finite({"a": values, "n": jnp.int32(3)}))


def test_opposite_infinities_do_not_cancel_and_integers_are_finite() -> None:
    assert not finite(jnp.array([np.inf, -np.inf]), jnp.zeros(2))
    assert finite({"count": jnp.int32(2**31 - 1)})
    assert finite({})


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


def test_without_caps_only_an_overflow_is_too_large() -> None:
    caps = Caps.of(LearningConfig(max_update=0.0, max_weights=0.0))
    yes = jnp.asarray(True)
    assert caps.judge(yes, jnp.float32(1e38), jnp.float32(1e38), 4) == ACCEPTED
    assert caps.judge(yes, jnp.float32(1.0), jnp.float32(np.inf), 4) == WEIGHTS_TOO_LARGE
