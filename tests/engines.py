"""Compiled engines that tests share: one holds no state, and takes a second to compile."""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from stream_lstm.config import Config, StreamConfig, build
from stream_lstm.model.engine import Engine


def settings(**values: Any) -> Config:
    """A configuration of flat keys, small unless asked otherwise."""
    return build({"features": ["x"], "hidden": 4, "window": 12, "bptt": 5} | values)


def engine_for(config: Config, features: int = 1) -> Engine:
    """An engine for `config`, compiled once for all configurations that lead to the same code.

    Horizon, labels and policies are the session's business; the stride sets the size of a block
    alone, and the window the length of arrays in mode `window` alone.
    """
    window = config.stream.window if config.model.mode == "window" else 100
    learn = config.learning.learn
    stride = max(config.stream.stride, 16) if learn else 10
    return _engine(
        msgspec.structs.replace(config, stream=StreamConfig(window=window, stride=stride)),
        features,
    )


@functools.cache
def _engine(config: Config, features: int) -> Engine:
    return Engine(config, features)
