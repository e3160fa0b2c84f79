"""An update of an optimiser of optax: clipping, weighing, and what no update may let in."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import pytest

from stream_lstm.model.learner import network_learner
from stream_lstm.model.network import Shape, init_weights, seed_key
from stream_lstm.schema import LearningConfig

SHAPE = Shape(2, 4, 2)
LENGTH = 10


@functools.cache
def learner(optimizer: str, learning_rate: float = 0.01, clip_norm: float = 1.0) -> Any:
    config = LearningConfig(optimizer=optimizer, learning_rate=learning_rate, clip_norm=clip_norm)
    made = network_learner(SHAPE, config, "bptt", tape=LENGTH, count=1)
    return made.init, jax.jit(made.update)


def arguments(optimizer: str = "adam", **config: float) -> dict[str, Any]:
    """All that an update takes, as fresh NumPy arrays."""
    rng = np.random.default_rng(0)
    weights = jax.tree.map(np.array, init_weights(SHAPE, key=seed_key(0)))
    state = jax.tree.map(np.array, learner(optimizer, **config)[0](weights))
    return {
        "weights": weights,
        "state": state,
        "trace": np.zeros(0, np.float32),
        "xs": rng.normal(size=(LENGTH, SHAPE.features)).astype(np.float32),
        "carry": rng.normal(size=SHAPE.state).astype(np.float32) / 2,
        "targets": (rng.random(LENGTH) < 0.5).astype(np.float32),
        "share": np.ones(LENGTH, np.float32),
    }


def bits(tree: Any) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def update(optimizer: str, args: dict[str, Any], **config: float) -> tuple[Any, Any, np.ndarray]:
    weights, state, _, info = learner(optimizer, **config)[1](*args.values())
    return weights, state, np.asarray(info)


def test_a_good_update_changes_weights_and_tells_of_it() -> None:
    args = arguments()
    weights, state, info = update("adam", args)
    loss, norm, accepted = info
    assert accepted == 1
    assert 0.3 < loss < 1.5
    assert norm > 0
    assert all(a != b for a, b in zip(bits(weights), bits(args["weights"]), strict=True))
    assert bits(state) != bits(args["state"])


def test_the_norm_told_is_the_one_before_clipping() -> None:
    *_, loose = update("sgd", arguments("sgd", clip_norm=0.0), learning_rate=1.0, clip_norm=0.0)
    args = arguments("sgd")
    tight_weights, _, tight = update("sgd", args, learning_rate=1.0, clip_norm=1e-3)
    assert tight[1] == loose[1]
    moved = [
        np.asarray(a) - b
        for a, b in zip(
            jax.tree.leaves(tight_weights), jax.tree.leaves(args["weights"]), strict=True
        )
    ]
    assert np.sqrt(sum(float((m.astype(np.float64) ** 2).sum()) for m in moved)) == pytest.approx(
        1e-3, rel=1e-3
    )


def test_a_step_that_would_overflow_the_weights_is_refused() -> None:
    args = arguments("sgd", clip_norm=0.0)
    args["weights"]["head"]["kernel"][:] = 3e38
    args["targets"][:] = 0
    weights, _, info = update("sgd", args, learning_rate=3e38, clip_norm=0.0)
    assert info[2] == 0
    assert bits(weights) == bits(args["weights"])


def test_a_norm_that_overflows_is_refused() -> None:
    """Clipping by an infinite norm turns the gradient into zeros: that is no update."""
    args = arguments("sgd")
    args["xs"][:] = 1e-3
    args["xs"][-1] = 1e22
    args["weights"]["layer_0"]["kernel"][: SHAPE.features] *= 1e-22
    weights, _, info = update("sgd", args)
    assert np.isinf(info[1])
    assert info[2] == 0
    assert bits(weights) == bits(args["weights"])
