"""Compiled engines that tests share: one holds no state, and takes a second to compile."""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from stream_lstm.config import Config, LogisticMember, Members, NetworkMember, TableMember, build
from stream_lstm.model.engine import Engine
from stream_lstm.schema import ScoringConfig, StreamConfig

SMALL_BANK: Members = (
    NetworkMember("filtered", hidden=3, optimizer="dekf"),
    NetworkMember("short", hidden=2, gradient="bptt", bptt=4, optimizer="sgd", gain=1.0),
    NetworkMember("latch", hidden=2, init="chrono", targets="published", gradient="rtrl"),
    LogisticMember("lags", lags=3, signs=2, q=1e-4),
    LogisticMember("far-lags", lags=20, targets="published"),
    TableMember("base-rate"),
    TableMember("signs", signs=2, targets="every", fade=30.0),
)
"""A bank with tapes of several lengths, that compiles in a second or two."""


def settings(**values: Any) -> Config:
    """A configuration of flat keys, small unless asked otherwise."""
    return build({"features": ["x"], "hidden": 4, "window": 12, "bptt": 5} | values)


def engine_for(config: Config, features: int = 1, members: Members | None = None) -> Engine:
    """An engine for `config`, compiled once for all configurations that lead to the same code.

    Feeds, stores, policies, scoring, `learn_until`, `share`, `publish_experts` and roll-backs are
    not the engine's business, and the window sets the length of arrays in mode `window` alone.
    Stride, horizon and labels set the tape and what it brings, but for an optimiser that reaches
    back by `bptt` from every element.
    """
    learn, window_mode = config.learning.learn, config.model.mode == "window"
    by_tape = config.gradient() == "bptt" and config.learning.optimizer != "dekf"
    by_tape &= config.learning.targets != "published"
    windows = window_mode or "stateless" in config.scoring.twins
    exact = windows or config.stream.stride > config.stream.window
    window = config.stream.window if exact else max(100, config.stream.stride)
    if learn and (members is not None or not by_tape):
        stream = StreamConfig(
            window=window,
            stride=config.stream.stride,
            labels=config.stream.labels,
            horizon=config.stream.horizon,
        )
    else:
        stream = StreamConfig(window=window, stride=max(config.stream.stride, 16) if learn else 10)
    replace = msgspec.structs.replace
    twins = ("stateless",) if windows and not window_mode else ()
    learning = replace(
        config.learning,
        learn_until=0,
        share=0.0,
        publish_experts=False,
        rollback_window=0,
        rollback_excess=1.0,
        rollback_refusals=1,
        freeze_labels=1,
    )
    small = Config(
        stream=stream,
        model=config.model,
        scaling=config.scaling,
        learning=learning,
        scoring=ScoringConfig(twins=twins),
    )
    return _engine(small, features, members)


@functools.cache
def _engine(config: Config, features: int, members: Members | None) -> Engine:
    return Engine(config, features, members)
