"""Every optimiser that can be named learns, or is refused by name."""

from __future__ import annotations

import difflib

import jax
import jax.numpy as jnp
import optax
import pytest

from stream_lstm.errors import ConfigurationError
from stream_lstm.model.optimizers import (
    all_finite,
    build_kalman,
    build_optimizer,
    known_optimizers,
)
from stream_lstm.schema import LearningConfig


def parabola(tree: dict[str, jax.Array]) -> jax.Array:
    return sum(jnp.sum((leaf - 1.0) ** 2) for leaf in tree.values())


REFUSED = {"lbfgs", "dekf"}
"""Named like the others, but wanting a line search, or sensitivities."""


@pytest.mark.filterwarnings("ignore:.*deprecated", "ignore:Specifying a key:UserWarning")
@pytest.mark.parametrize("name", sorted(set(known_optimizers()) - REFUSED))
def test_a_known_optimizer_goes_downhill(name: str) -> None:
    optimizer = build_optimizer(LearningConfig(optimizer=name, learning_rate=0.01))
    at = {"a": jnp.full((3, 4), 2.0), "b": jnp.full((5,), -1.0)}
    state, start = optimizer.init(at), float(parabola(at))
    for _ in range(3):
        changes, state = optimizer.update(jax.grad(parabola)(at), state, at)
        at = optax.apply_updates(at, changes)
    assert bool(all_finite(at, state))
    assert float(parabola(at)) < start


def test_the_usual_names_are_known() -> None:
    assert {"adam", "adamw", "dekf", "sgd", "rmsprop", "adagrad", "lion", "radam"} <= set(
        known_optimizers()
    )


@pytest.mark.parametrize("wrong", ["adm", "Adam", "rmspropp", "sdg"])
def test_an_unknown_name_is_refused_with_the_nearest(wrong: str) -> None:
    with pytest.raises(ConfigurationError, match="optax has no such optimiser") as caught:
        build_optimizer(LearningConfig(optimizer=wrong))
    assert caught.value.key == "optimizer"
    assert difflib.get_close_matches(wrong, known_optimizers(), 1, 0.5)[0] in str(caught.value)


@pytest.mark.parametrize("name", ["lbfgs", "polyak_sgd", "chain", "_src", "clip", "apply_updates"])
def test_what_cannot_learn_from_gradients_alone_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        build_optimizer(LearningConfig(optimizer=name))


def test_parts_of_optimizers_are_not_offered() -> None:
    assert not [name for name in known_optimizers() if name.startswith("scale_by")]


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


def test_a_training_optimizer_does_not_take_the_arguments_of_another() -> None:
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
        ("adam", "b1=much", "b1=much is neither a number nor true or false"),
        ("adam", "learning_rate=1", "no argument 'learning_rate'"),
        ("dekf", "p1=1", "dekf has no argument 'p1'"),
        ("dekf", "p0=0", "p0=0.0 is not a variance"),
        ("dekf", "p0=-1", "not a variance"),
        ("dekf", "p0=true", "not a variance"),
        ("dekf", "q=-1e-9", "not a variance"),
        ("dekf", "q=nan", "not a finite number"),
        ("dekf", "q=inf", "not a finite number"),
        ("dekf", "q=1_x", "neither a number"),
    ],
)
def test_arguments_that_cannot_be_are_refused_by_name(
    optimizer: str, argument: str, says: str
) -> None:
    config = LearningConfig(optimizer=optimizer, optimizer_args=(argument,))
    build = build_kalman if optimizer == "dekf" else build_optimizer
    with pytest.raises(ConfigurationError, match=says) as caught:
        build(config)
    assert caught.value.key == "optimizer_args"
