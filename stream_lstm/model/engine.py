"""The compiled functions of one configuration: everything is compiled here, and nothing later.

A single element has an executable of its own (`step`), which starts a third faster than the loop
of `block`. XLA does not promise that both give the same bits, so construction compares them over
random elements, and falls back to the loop with one turn where they differ: slower, but block
invariance holds either way. `exact_step` says which it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from ..config import Config
from ..errors import ConfigurationError
from ..members import Members
from .bank import bank
from .forecaster import Forecaster, Params, network, network_shape
from .network import check_weights
from .scaling import causal_scaler
from .stepper import Stepper

Floats: TypeAlias = npt.NDArray[np.float32]

REPLAY_BLOCK = 4096
"""Elements of a block without learning: long enough that a call costs nothing beside it."""

LEARN_BLOCK = 1024
"""Most elements of a block with learning, whose rows hold whole states."""

LIVE_BLOCK = 16
"""Least elements of a block with learning: a stride of the default length and some room."""

PARITY_STEPS = 64
"""Random elements over which `step` and `block` are compared."""


DONATED = {"update": (1,)}
"""Arguments whose memory a call may write its results to. The optimiser's state is by far the
largest, and nothing else looks at it; weights may be held by others."""


def _zeros(*shape: int) -> Floats:
    return np.zeros(shape, np.float32)


class Engine:
    """Compiled `step`, `block`, `window` and `update` for a configuration and F features.

    `members` are those of a bank, None where one network is all. `names` are the forecasters',
    whose probabilities a row begins with. `block_size` is the length of the buffer that `block`
    takes, `row` that of a row of its result; `functions` holds the executables by name. They are
    compiled ahead of time, and reject shapes other than their own.
    """

    def __init__(self, config: Config, features: int, members: Members | None = None) -> None:
        self.shape = network_shape(config.model, features)
        self.members = members
        self.mode = config.model.mode
        self.learning = config.learning.learn
        self.forecaster: Forecaster = (
            network(config, features) if members is None else bank(config, features, members)
        )
        self.names = self.forecaster.names
        self.state = self.forecaster.state
        self.tape_length, self.offsets = self.forecaster.tape, self.forecaster.offsets
        scaler = causal_scaler(features, config.scaling)
        # The tape of scaled inputs is what updates and windows are made from.
        self.windowed = self.mode == "window" or "stateless" in config.scoring.twins
        tape = self.learning or self.windowed
        self.stepper = Stepper(self.shape, scaler, self.forecaster, self.mode, tape=tape)
        self.row = self.stepper.row
        self.block_size = self._block_size(config.stream.stride)
        self.functions = self._compile(config)
        self._step: Callable[..., Any] = self.functions["step"]
        self._block: Callable[..., Any] = self.functions["block"]
        self.exact_step = self._parity(self.init_weights())

    def _block_size(self, stride: int) -> int:
        if not self.learning:
            return REPLAY_BLOCK
        return min(LEARN_BLOCK, max(LIVE_BLOCK, 1 << (stride - 1).bit_length()))

    def _compile(self, config: Config) -> dict[str, Any]:
        features = self.shape.features
        weights, carry, count = self.init_weights(), self.init_carry(), np.int32(0)
        calls: dict[str, tuple[Any, ...]] = {
            "step": (self.stepper.step, weights, carry, _zeros(features)),
            "block": (self.stepper.block, weights, carry, self._buffer(), count),
        }
        if self.windowed:
            windows = _zeros(config.stream.window, features)
            calls["window"] = (self.stepper.window, weights, windows)
        if self.learning:
            tape, inputs = _zeros(self.tape_length), _zeros(self.tape_length, features)
            optimizer = self.init_optimizer(weights)
            starts = _zeros(len(self.offsets), self.state)
            given = self.init_trace(), inputs, starts, tape, tape
            calls["update"] = (self.forecaster.update, weights, optimizer, *given)
        return {
            name: jax.jit(call[0], donate_argnums=DONATED.get(name, ())).lower(*call[1:]).compile()
            for name, call in calls.items()
        }

    def _buffer(self) -> Floats:
        return _zeros(self.block_size, self.shape.features)

    def init_optimizer(self, weights: Params) -> Any:
        """Return the optimiser's state for `weights`."""
        return jax.tree.map(jnp.asarray, self.forecaster.init_optimizer(weights))

    def init_trace(self) -> Floats:
        """Return what a stream's learning carries before its first update, (T,)."""
        return np.asarray(self.forecaster.init_trace())

    def init_weights(self) -> Params:
        """Return the weights to start from, random ones of the configured seed."""
        return self.forecaster.init()

    def check_weights(self, weights: Mapping[str, Mapping[str, Any]]) -> Params:
        """Return `weights` as float32 arrays of this engine's shape; see `network`.

        Raises ConfigurationError where they do not fit, and for a bank, which has many networks.
        """
        if self.members is not None:
            raise ConfigurationError(
                "a bank starts from its own members' weights: give weights with bank=none",
                key="weights",
            )
        return check_weights(self.shape, weights)

    def init_carry(self) -> Floats:
        """Return the carry before the first element."""
        return np.asarray(self.stepper.init())

    def step(self, weights: Params, carry: Any, x: Floats) -> tuple[Any, Any]:
        """Return (carry', row) after one element x (F,) float32."""
        if self.exact_step:
            return self._step(weights, carry, x)  # type: ignore[no-any-return]
        carry, rows = self.block(weights, carry, x[None])
        return carry, rows[0]

    def block(self, weights: Params, carry: Any, xs: Floats) -> tuple[Any, Any]:
        """Return (carry', rows) after elements xs (n, F), n <= block_size; n rows are valid."""
        count = len(xs)
        if count < self.block_size:
            # A fresh buffer each time: the executable may still be reading the last one.
            padded = self._buffer()
            padded[:count] = xs
            xs = padded
        return self._block(weights, carry, xs, np.int32(count))  # type: ignore[no-any-return]

    def window(self, weights: Params, xs: Floats) -> float:
        """Return p after scaled inputs xs (W, F) from a zero state; where `windowed` only."""
        return float(self.functions["window"](weights, xs))

    def update(
        self,
        weights: Params,
        state: Any,
        trace: Any,
        xs: Floats,
        starts: Floats,
        targets: Floats,
        share: Floats,
    ) -> tuple[Params, Any, Any, Floats]:
        """Return (weights', optimiser state', trace', info (3,)); see `forecaster.Forecaster`."""
        weights, state, trace, info = self.functions["update"](
            weights, state, trace, xs, starts, targets, share
        )
        return weights, state, trace, np.asarray(info)

    def _parity(self, weights: Params) -> bool:
        drawn = np.random.default_rng(0).normal(size=(PARITY_STEPS, self.shape.features))
        xs, start = drawn.astype(np.float32), self.init_carry()
        by_block: Any = start
        rows: list[Floats] = []
        for size in (1, 2, 13) * (PARITY_STEPS // 16):
            by_block, out = self.block(weights, by_block, xs[len(rows) : len(rows) + size])
            rows.extend(np.asarray(out)[:size])
        by_step, same = start, True
        for k in range(PARITY_STEPS):
            by_step, row = self._step(weights, by_step, xs[k])
            same = same and np.array_equal(np.asarray(row), rows[k])
        return same and np.array_equal(np.asarray(by_step), np.asarray(by_block))
