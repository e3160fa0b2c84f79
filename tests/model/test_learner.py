"""Promises of every learner, whatever its gradient, optimiser, targets and layers."""

from __future__ import annotations

import functools
import itertools
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from stream_lstm.errors import ConfigurationError
from stream_lstm.model.learner import MAX_OBSERVED, Learner, Tape, network_learner
from stream_lstm.model.network import Shape, init_weights, seed_key
from stream_lstm.model.optimizers import ACCEPTED
from stream_lstm.schema import LearningConfig

GRADIENTS = ["bptt", "snap1", "hybrid", "rtrl"]
RATES = {"adam": 0.02, "sgd": 1.0, "dekf": 1.0}
FEATURES, HIDDEN, TAPE = 2, 3, 6


class Kind(NamedTuple):
    """One way to learn; `count` labels of a tape are observed. `how` is more configuration."""

    gradient: Any
    optimizer: str
    count: int
    layers: int
    how: tuple[tuple[str, float], ...] = ()

    @property
    def shape(self) -> Shape:
        return Shape(FEATURES, HIDDEN, self.layers)


def _kinds() -> list[Kind]:
    """Each gradient with each optimiser, each of them with both counts and both depths."""
    pairs = itertools.product(enumerate(GRADIENTS), enumerate(RATES))
    return [
        Kind(
            gradient,
            optimizer,
            (1, TAPE)[(g + o) % 2],
            1 if gradient == "snap1" else 1 + (g // 2 + o) % 2,
        )
        for (g, gradient), (o, optimizer) in pairs
    ]


KINDS = _kinds()
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda k: "-".join(map(str, k[:4])))


def test_the_kinds_cover_each_pair_of_choices() -> None:
    for one, two in itertools.combinations(range(4), 2):
        wanted = set(itertools.product(*({kind[k] for kind in KINDS} for k in (one, two))))
        missing = wanted - {(kind[one], kind[two]) for kind in KINDS}
        assert missing <= {("snap1", 2)}


@functools.cache
def learner(kind: Kind) -> tuple[Learner, Any]:
    """The learner and its compiled update."""
    config = LearningConfig(
        **{"optimizer": kind.optimizer, "learning_rate": RATES[kind.optimizer], **dict(kind.how)}
    )
    built = network_learner(kind.shape, config, kind.gradient, count=kind.count)
    return built, jax.jit(built.update)


def arguments(kind: Kind) -> dict[str, Any]:
    """All arguments of an update, as new NumPy arrays."""
    built = learner(kind)[0]
    rng = np.random.default_rng(0)
    weights = jax.tree.map(np.array, init_weights(kind.shape, key=seed_key(0)))
    label_weights = np.zeros(TAPE, np.float32)
    label_weights[-kind.count :] = 1
    xs = rng.normal(size=(TAPE, FEATURES)).astype(np.float32)
    trace = np.asarray(built.init_trace())
    return {
        "weights": weights,
        "state": jax.tree.map(np.array, built.init(weights)),
        "trace": (0.1 * rng.normal(size=trace.shape)).astype(np.float32),
        "xs": xs,
        "start": rng.normal(size=kind.shape.state).astype(np.float32) / 2,
        "targets": (xs[:, 0] > 0).astype(np.float32),
        "label_weights": label_weights,
    }


def update(kind: Kind, args: dict[str, Any]) -> tuple[Any, Any, np.ndarray, np.ndarray]:
    carried, tape = list(args.values())[:3], Tape(*list(args.values())[3:])
    weights, state, trace, info = learner(kind)[1](*carried, tape)
    return weights, state, np.asarray(trace), np.asarray(info)


def bits(*trees: Any) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(trees)]


@pytest.mark.slow
@kinds
def test_a_good_update_is_finite_moves_everything_and_repeats(kind: Kind) -> None:
    args = arguments(kind)
    weights, state, trace, info = update(kind, args)
    loss, norm, outcome = info
    assert outcome == ACCEPTED
    assert 0.1 < loss < 2.5
    assert norm > 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((weights, state, trace)))
    assert all(a != b for a, b in zip(bits(weights), bits(args["weights"]), strict=True))
    if kind.optimizer != "sgd":
        assert bits(state) != bits(args["state"])
    assert trace.size == {"bptt": 0, "rtrl": kind.shape.state}.get(kind.gradient, 2) * sum(
        layer["kernel"].size for name, layer in args["weights"].items() if name != "head"
    )
    if trace.size:
        assert bits(trace) != bits(args["trace"])
    assert bits(*update(kind, arguments(kind))) == bits(weights, state, trace, info)


@kinds
def test_a_number_that_is_not_finite_is_rejected_and_changes_no_bit(kind: Kind) -> None:
    for bad, where in itertools.product((np.nan, -np.inf), arguments(kind)):
        for leaf in range(len(jax.tree.leaves(arguments(kind)[where]))):
            args = arguments(kind)
            array = jax.tree.leaves(args[where])[leaf]
            if array.dtype != np.float32 or not array.size:
                continue
            array.flat[-1] = bad
            weights, state, trace, info = update(kind, args)
            assert info[2] != ACCEPTED, f"{bad} in leaf {leaf} of {where} was accepted"
            assert bits(weights, state) == bits(args["weights"], args["state"])
            assert not trace.any()


@kinds
def test_the_loss_of_a_tape_falls(kind: Kind) -> None:
    args = arguments(kind)
    args["trace"] = np.zeros_like(args["trace"])
    losses = []
    for _ in range(100):
        args["weights"], args["state"], _, info = update(kind, args)
        losses.append(float(info[0]))
        assert info[2] == ACCEPTED
    assert losses[-1] < 0.5 * losses[0]


def test_a_label_without_weight_does_not_count() -> None:
    for kind in KINDS:
        if kind.count == 1:
            args = arguments(kind)
            changed = np.concatenate([1 - args["targets"][:-1], args["targets"][-1:]])
            other = args | {"targets": changed}
            assert bits(*update(kind, args)) == bits(*update(kind, other))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "dekf"])
def test_positive_weight_multiplies_the_weight_of_positive_labels(optimizer: str) -> None:
    kind = next(kind for kind in KINDS if kind[1:3] == (optimizer, TAPE))
    args = arguments(kind)
    weighed = update(kind._replace(how=(("positive_weight", 3.0),)), args)
    by_hand = args | {"label_weights": np.where(args["targets"] > 0, np.float32(3), np.float32(1))}
    for a, b in zip(jax.tree.leaves(weighed), jax.tree.leaves(update(kind, by_hand)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    assert bits(weighed[0]) != bits(update(kind, args)[0])


# ---- optax: clipping and overflow -----------------------------------------------------------

BPTT = Kind("bptt", "sgd", TAPE, 2)
HUGE = BPTT._replace(how=(("clip_norm", 0.0), ("learning_rate", 3e38)))


@pytest.mark.slow
def test_the_reported_norm_is_the_one_before_clipping() -> None:
    args, tight = arguments(BPTT), BPTT._replace(how=(("clip_norm", 1e-3),))
    weights, *_, info = update(tight, args)
    assert info[1] == update(BPTT, args)[3][1] > 1e-2
    pairs = zip(jax.tree.leaves(weights), jax.tree.leaves(args["weights"]), strict=True)
    changes = [np.ravel(np.float64(a) - b) for a, b in pairs]
    assert np.linalg.norm(np.concatenate(changes)) == pytest.approx(1e-3, rel=1e-3)


def test_a_step_that_would_overflow_the_weights_is_rejected() -> None:
    args = arguments(HUGE)
    args["weights"]["head"]["kernel"][:] = 3e38
    args["targets"][:] = 0
    weights, *_, info = update(HUGE, args)
    assert info[2] != ACCEPTED
    assert bits(weights) == bits(args["weights"])


def test_a_norm_that_overflows_is_rejected() -> None:
    """Clipping by an infinite norm would make the gradient zero."""
    args = arguments(BPTT)
    args["xs"][:] = 1e-3
    args["xs"][-1] = 1e22
    args["weights"]["layer_0"]["kernel"][:FEATURES] *= 1e-22
    weights, *_, info = update(BPTT, args)
    assert np.isinf(info[1])
    assert info[2] != ACCEPTED
    assert bits(weights) == bits(args["weights"])


@pytest.mark.parametrize(
    ("shape", "method", "count", "optimizer", "key", "says"),
    [
        (Shape(1, 4, 1), "hybrid", MAX_OBSERVED + 1, "dekf", "optimizer", str(MAX_OBSERVED)),
        (Shape(1, 500, 1), "hybrid", 10, "dekf", "optimizer", "GiB of covariances"),
        (Shape(1, 4, 2), "snap1", 10, "dekf", "gradient", "one layer, not 2; use hybrid"),
        (Shape(1, 512, 1), "rtrl", 10, "adam", "gradient", "GiB"),
    ],
)
def test_an_update_that_is_undefined_or_too_large_is_rejected(
    shape: Shape, method: Any, count: int, optimizer: str, key: str, says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        network_learner(shape, LearningConfig(optimizer=optimizer), method, count=count)
    assert caught.value.key == key
