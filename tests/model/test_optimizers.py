"""Every optimiser that can be named learns, or is refused by name."""

from __future__ import annotations

import difflib

import jax
import jax.numpy as jnp
import optax
import pytest

from stream_lstm.config import LearningConfig
from stream_lstm.errors import ConfigurationError
from stream_lstm.model.guard import all_finite
from stream_lstm.model.optimizers import build_optimizer, known_optimizers


def parabola(tree: dict[str, jax.Array]) -> jax.Array:
    return sum(jnp.sum((leaf - 1.0) ** 2) for leaf in tree.values())


REFUSED = {"lbfgs"}
"""Named like the others, but wanting a line search."""


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
    assert {"adam", "adamw", "sgd", "rmsprop", "adagrad", "lion", "radam"} <= set(
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
