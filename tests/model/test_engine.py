"""The compiled functions: steps and blocks agree in every bit, and nothing compiles later."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stream_lstm.config import Config
from stream_lstm.core.columnar import Arrivals
from stream_lstm.core.session import Session, fallbacks
from stream_lstm.errors import ConfigurationError
from stream_lstm.events import Gap, Label, Prediction, Ticks, Update
from stream_lstm.model.engine import Engine
from stream_lstm.serve.runtime import compilations

from ..engines import SMALL_BANK, engine_for, settings

CONFIGS = [
    (settings(hidden=32, scaling="zscore"), 3),
    (settings(layers=3, scaling="none"), 2),
    (settings(layers=2, learn=True), 3),
    (settings(mode="window"), 2),
    (settings(mode="window", learn=True), 1),
    (settings(learn=True, optimizer="dekf", stride=5), 2),
    (settings(learn=True, bank="small.toml", stride=5), 1),
]
STEPS = 1000


def engine_of(config: Config, features: int = 1) -> Engine:
    return engine_for(config, features, SMALL_BANK if config.learning.bank != "none" else None)


def through(engine: Engine, xs: np.ndarray, sizes: Iterator[int]) -> tuple[bytes, bytes]:
    """Bits of the carry and of the rows after xs, in calls of the given sizes."""
    weights, carry = engine.pack(engine.init_weights()), engine.init_carry()
    rows, start = [], 0
    while start < len(xs):
        size = next(sizes)
        carry, out = engine.advance(weights, carry, xs[start : start + size])
        rows.append(out)
        start += size
    assert sum(map(len, rows)) == len(xs)
    assert rows[0].shape[1] == engine.row
    return carry.tobytes(), np.concatenate(rows).tobytes()


@pytest.mark.slow
@pytest.mark.parametrize(("config", "features"), CONFIGS)
def test_steps_and_blocks_agree_in_every_bit(config: Config, features: int) -> None:
    engine = engine_of(config, features)
    rng = np.random.default_rng(0)
    xs = rng.standard_t(3, size=(STEPS, features)).astype(np.float32)
    single = through(engine, xs, itertools.repeat(1))
    assert through(engine, xs, itertools.repeat(STEPS)) == single
    assert through(engine, xs, iter(rng.integers(1, 40, STEPS).tolist())) == single


def test_advance_is_pure_and_the_padding_of_a_carry_stays_zero() -> None:
    engine = engine_for(settings())
    before, weights = engine.init_carry(), engine.pack(engine.init_weights())
    after, _ = engine.advance(weights, before, np.ones((20, 1), np.float32))
    assert before.tobytes() == engine.init_carry().tobytes()
    assert after.any()
    assert not after[engine.stepper.size :].any()
    assert engine.width % 16 == 0


@pytest.mark.parametrize("per_stream", [False, True])
def test_many_streams_in_one_loop_have_the_bits_of_each_alone(per_stream: bool) -> None:
    engine = engine_for(settings(sharing="per-stream" if per_stream else "shared"), 2)
    rng, count = np.random.default_rng(1), 300
    index = rng.integers(0, 40, count).astype(np.int32)
    xs = rng.normal(size=(count, 2)).astype(np.float32)
    (row,) = engine.pack(engine.init_weights())
    scales = 1 + np.arange(40, dtype=np.float32)[:, None] / 40
    weights: Any = np.asarray(row) * scales if per_stream else (row,)
    carries, alone = np.zeros((2, 40, engine.width), np.float32)
    ps = []
    for part in np.split(np.arange(count), [1, 3, 90, 91, 180]):
        carries, p = engine.table.step(weights, carries, index[part], xs[part])
        ps.append(p)
    assert engine.exact_table
    wanted = []
    for k, x in zip(index, xs, strict=True):
        own = (jnp.asarray(weights[k]),) if per_stream else weights
        alone[k], rows = engine.advance(own, alone[k], x[None])
        wanted.append(rows[0])
    assert carries.tobytes() == alone.tobytes()
    assert np.concatenate(ps).tobytes() == np.array(wanted).tobytes()


def test_a_loop_over_many_streams_that_differs_is_not_used() -> None:
    """The session then steps them one by one, to the same bits."""
    config = settings(stride=3)
    inexact = Engine(config, 1)
    step = inexact.table.step
    inexact.table.step = lambda *args: (step(*args)[0], step(*args)[1] + 1)  # type: ignore[method-assign]
    inexact.exact_table = inexact._table_parity(inexact.table)
    assert not inexact.exact_table
    events: list[list[Any]] = [[], []]
    xs = np.random.default_rng(0).normal(size=(90, 1))
    for out, engine in zip(events, (inexact, engine_for(config)), strict=True):
        session = Session(config, ["x"], out.append, engine=engine)
        rows = np.array([session.place(name) for name in "abc"])
        session.arrive(Arrivals(np.tile(rows, 30), np.arange(90), xs))
    assert events[0] == events[1]
    assert "tables" in fallbacks(Session(config, ["x"], engine=inexact))[0]


@pytest.mark.parametrize("output", ["carry", "tape"])
def test_strides_that_differ_from_steps_and_updates_are_not_used(output: str) -> None:
    class Drifting(Engine):
        def _compile(self, name: str, call: Any, donated: Any = ()) -> Any:
            compiled = super()._compile(name, call, donated)

            def other(*args: Any) -> Any:
                out = list(compiled(*args))
                at = {"carry": 3, "tape": 4}[output]
                out[at] = out[at] + jnp.float32(1)
                return out

            return other if name == "strides" else compiled

    config = settings(hidden=3, learn=True, gradient="snap1", stride=5)
    drifting = Drifting(config, 1)
    assert not drifting.exact_strides
    assert "one call gave other bits" in fallbacks(Session(config, ["x"], engine=drifting))[0]


def test_on_this_machine_strides_are_one_call() -> None:
    learning = [pair for pair in CONFIGS if pair[0].learning.learn]
    for config, features in learning:
        engine = engine_of(config, features)
        assert engine.exact_strides == (config.model.mode == "carry")
        assert not fallbacks(Session(settings(), ["x"], engine=engine))


def test_weights_of_another_shape_are_rejected_with_both_shapes() -> None:
    small, large = engine_for(settings()), engine_for(settings(hidden=8))
    with pytest.raises(ConfigurationError, match=r"\(6, 16\).*\(10, 32\)") as caught:
        large.check_weights(small.init_weights())
    assert caught.value.key == "weights"
    for broken in ({}, {"head": {"kernel": np.zeros(5)}}, {"head": {}}):
        with pytest.raises(ConfigurationError):
            small.check_weights(broken)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_weights_that_are_not_finite_in_float32_are_rejected(bad: float) -> None:
    engine = engine_for(settings())
    weights = jax.tree.map(lambda kernel: np.array(kernel, np.float64), engine.init_weights())
    assert engine.check_weights(weights)["head"]["kernel"].dtype == np.float32
    weights["layer_0"]["kernel"][0, 0] = bad
    with pytest.raises(ConfigurationError, match="finite"):
        engine.check_weights(weights)


def test_the_counter_of_compilations_counts() -> None:
    before = compilations()
    jax.jit(lambda x: x * 3 + before)(np.float32(1))
    assert compilations() == before + 1
    jax.jit(lambda x: x * 5)
    assert compilations() == before + 1


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"learn": True},
        {"learn": True, "labels": "external", "sharing": "per-stream"},
        {"mode": "window", "learn": True, "sharing": "per-stream"},
        {"learn": True, "gradient": "rtrl", "optimizer": "dekf", "targets": "published"},
        pytest.param(
            {"learn": True, "bank": "small.toml", "publish_experts": True},
            marks=pytest.mark.slow,
        ),
    ],
    ids=str,
)
def test_nothing_compiles_after_construction(values: dict[str, Any]) -> None:
    """Single ticks, blocks of any length, learning, labels, resets and new streams included."""
    config = settings(
        features=["diff(x)", "log1p(x)"], hidden=3, window=9, stride=3, on_gap="reset", **values
    )
    events: list[Any] = []
    members = SMALL_BANK if config.learning.bank != "none" else None
    session = Session(config, ["x"], events.append, members=members)
    rng = np.random.default_rng(0)
    before = compilations()
    for stream in ("a", "b"):
        for size in (1, 1, 1, 30, 2, 17, 1, 150, 1):
            xs = rng.random((size, 1))
            session.push(Ticks(stream, np.arange(size), xs))
            due = [e.n for e in events if isinstance(e, Prediction) and e.stream == stream]
            for n in due[-2:]:
                session.label(Label(stream, n, n % 2))
        session.gap(Gap(stream, 5, 2))
        session.push(Ticks(stream, np.arange(40), rng.random((40, 1))))
    assert compilations() == before
    assert any(isinstance(e, Prediction) for e in events)
    assert any(isinstance(e, Update) for e in events) == config.learning.learn
