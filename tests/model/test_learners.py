"""What every learner promises, whatever its gradient, optimiser, targets and layers."""

from __future__ import annotations

import functools
import itertools
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from stream_lstm.errors import ConfigurationError
from stream_lstm.model.learner import MAX_OBSERVED, Learner, network_learner
from stream_lstm.model.network import Shape, init_weights, seed_key
from stream_lstm.model.optimizers import ACCEPTED
from stream_lstm.schema import LearningConfig

GRADIENTS = ["bptt", "snap1", "hybrid", "rtrl"]
RATES = {"adam": 0.02, "sgd": 1.0, "dekf": 1.0}
FEATURES, HIDDEN, TAPE = 2, 3, 6


class Kind(NamedTuple):
    """One way to learn; `count` labels are observed in a tape."""

    gradient: Any
    optimizer: str
    count: int
    layers: int

    @property
    def shape(self) -> Shape:
        return Shape(FEATURES, HIDDEN, self.layers)


CHOICES = itertools.product(GRADIENTS, RATES, (1, TAPE), (1, 2))
EVERY = [Kind(*choice) for choice in CHOICES if choice[0] != "snap1" or choice[3] == 1]
kinds = pytest.mark.parametrize("kind", EVERY, ids=lambda k: "-".join(map(str, k)))


@functools.cache
def learner(kind: Kind) -> tuple[Learner, Any]:
    """The learner and its compiled update, which takes no other shapes."""
    config = LearningConfig(optimizer=kind.optimizer, learning_rate=RATES[kind.optimizer])
    made = network_learner(kind.shape, config, kind.gradient, tape=TAPE, count=kind.count)
    return made, jax.jit(made.update).lower(*_fresh(kind, made).values()).compile()


def _fresh(kind: Kind, made: Learner) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    weights = jax.tree.map(np.array, init_weights(kind.shape, key=seed_key(0)))
    share = np.zeros(TAPE, np.float32)
    share[-kind.count :] = 1
    xs = rng.normal(size=(TAPE, FEATURES)).astype(np.float32)
    trace = np.asarray(made.trace())
    return {
        "weights": weights,
        "state": jax.tree.map(np.array, made.init(weights)),
        "trace": (0.1 * rng.normal(size=trace.shape)).astype(np.float32),
        "xs": xs,
        "carry": rng.normal(size=kind.shape.state).astype(np.float32) / 2,
        "targets": (xs[:, 0] > 0).astype(np.float32),
        "share": share,
    }


def arguments(kind: Kind) -> dict[str, Any]:
    """All that an update takes, as fresh NumPy arrays."""
    return _fresh(kind, learner(kind)[0])


def update(kind: Kind, args: dict[str, Any]) -> tuple[Any, Any, np.ndarray, np.ndarray]:
    weights, state, trace, info = learner(kind)[1](*args.values())
    return weights, state, np.asarray(trace), np.asarray(info)


def bits(*trees: Any) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(trees)]


@kinds
def test_a_good_update_is_finite_and_moves_everything(kind: Kind) -> None:
    args = arguments(kind)
    weights, state, trace, info = update(kind, args)
    loss, norm, accepted = info
    assert accepted == 1
    assert 0.1 < loss < 2.5
    assert norm > 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((weights, state, trace)))
    assert all(a != b for a, b in zip(bits(weights), bits(args["weights"]), strict=True))
    if kind.optimizer != "sgd":
        assert bits(state) != bits(args["state"])
    assert trace.size == {"bptt": 0, "rtrl": kind.shape.state}.get(kind.gradient, 2) * sum(
        leaf.size for name, leaf in _kernels(args["weights"]) if name != "head"
    )
    if trace.size:
        assert bits(trace) != bits(args["trace"])


def _kernels(weights: Any) -> list[tuple[str, np.ndarray]]:
    return [(name, layer["kernel"]) for name, layer in weights.items()]


@kinds
def test_the_same_update_gives_the_same_bits(kind: Kind) -> None:
    assert bits(*update(kind, arguments(kind))) == bits(*update(kind, arguments(kind)))


@kinds
def test_what_is_not_finite_is_refused_and_changes_no_bit(kind: Kind) -> None:
    for bad, where in itertools.product((np.nan, np.inf, -np.inf), arguments(kind)):
        for leaf in range(len(jax.tree.leaves(arguments(kind)[where]))):
            args = arguments(kind)
            array = jax.tree.leaves(args[where])[leaf]
            if array.dtype != np.float32 or not array.size:
                continue
            array.flat[-1] = bad
            weights, state, trace, info = update(kind, args)
            assert info[2] != ACCEPTED, f"{bad} in leaf {leaf} of {where} was let in"
            assert bits(weights, state) == bits(args["weights"], args["state"])
            assert not trace.any(), "the trace begins anew"


@kinds
def test_a_tape_that_can_be_learned_is_learned(kind: Kind) -> None:
    """Its loss falls, the trace being what the last element of the same tape left behind."""
    args = arguments(kind)
    args["trace"] = np.zeros_like(args["trace"])
    losses = []
    for _ in range(100):
        args["weights"], args["state"], _, info = update(kind, args)
        losses.append(float(info[0]))
        assert info[2] == 1
    assert losses[-1] < 0.5 * losses[0]


def test_labels_before_those_observed_do_not_count_where_they_have_no_share() -> None:
    for kind in EVERY:
        if kind.count == 1:
            args = arguments(kind)
            other = args | {
                "targets": np.concatenate([1 - args["targets"][:-1], args["targets"][-1:]])
            }
            assert bits(*update(kind, args)) == bits(*update(kind, other))


@pytest.mark.parametrize("optimizer", ["sgd", "dekf"])
def test_a_positive_label_counts_as_often_as_is_said(optimizer: str) -> None:
    kind = Kind("hybrid", optimizer, TAPE, 1)
    config = LearningConfig(
        optimizer=optimizer, learning_rate=RATES[optimizer], positive_weight=3.0
    )
    made = network_learner(kind.shape, config, "hybrid", tape=TAPE, count=TAPE)
    args = arguments(kind)
    weighed = jax.jit(made.update)(*args.values())
    by_hand = args | {"share": np.where(args["targets"] > 0, np.float32(3), np.float32(1))}
    for a, b in zip(jax.tree.leaves(weighed), jax.tree.leaves(update(kind, by_hand)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    assert bits(weighed[0]) != bits(update(kind, args)[0])


def test_what_would_take_too_much_is_refused_by_its_key() -> None:
    config = LearningConfig(optimizer="dekf")

    def refused(
        shape: Shape, method: Any, tape: int, config: LearningConfig
    ) -> ConfigurationError:
        with pytest.raises(ConfigurationError) as caught:
            network_learner(shape, config, method, tape=tape, count=tape)
        return caught.value

    many = refused(Shape(1, 4, 1), "hybrid", MAX_OBSERVED + 1, config)
    assert many.key == "optimizer"
    assert str(MAX_OBSERVED) in str(many)
    assert refused(Shape(1, 500, 1), "hybrid", 10, config).key == "optimizer"
    deep = refused(Shape(1, 4, 2), "snap1", 10, config)
    assert deep.key == "gradient"
    assert "one layer, not 2" in str(deep)
    large = refused(Shape(1, 512, 1), "rtrl", 10, LearningConfig())
    assert large.key == "gradient"
    assert "GiB" in str(large)
