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
from .learner import Learner, truncated_bptt
from .network import Shape, Weights, check_weights, init_weights, seed_key
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


def _zeros(*shape: int) -> Floats:
    return np.zeros(shape, np.float32)


class Engine:
    """Compiled `step`, `block`, `window` and `update` for a configuration and F features.

    `block_size` is the length of the buffer that `block` takes, `row` that of a row of its
    result; `functions` holds the executables by name. They are compiled ahead of time, and reject
    shapes other than their own.
    """

    def __init__(self, config: Config, features: int) -> None:
        self.shape = Shape(features, config.model.hidden, config.model.layers)
        self.mode = config.model.mode
        self.learning = config.learning.learn
        self.tape_length = config.stream.window if self.mode == "window" else config.learning.bptt
        scaler = causal_scaler(features, config.scaling)
        self.stepper = Stepper(self.shape, scaler, self.mode, tape=self.learning)
        self.row = self.stepper.row
        self.block_size = self._block_size(config.stream.stride)
        self.learner: Learner = truncated_bptt(self.shape, config.learning)
        self._seed = config.model.seed
        self.functions = self._compile(config)
        self._step: Callable[..., Any] = self.functions["step"]
        self._block: Callable[..., Any] = self.functions["block"]
        self.exact_step = self._parity(self.init_weights())

    def _block_size(self, stride: int) -> int:
        if not self.learning:
            return REPLAY_BLOCK
        return min(LEARN_BLOCK, max(LIVE_BLOCK, 1 << (stride - 1).bit_length()))

    def _compile(self, config: Config) -> dict[str, Any]:
        features, state = self.shape.features, self.shape.state
        weights, carry, count = self.init_weights(), self.init_carry(), np.int32(0)
        calls: dict[str, tuple[Any, ...]] = {
            "step": (self.stepper.step, weights, carry, _zeros(features)),
            "block": (self.stepper.block, weights, carry, self._buffer(), count),
        }
        if self.mode == "window":
            windows = _zeros(config.stream.window, features)
            calls["window"] = (self.stepper.window, weights, windows)
        if self.learning:
            tape, inputs = _zeros(self.tape_length), _zeros(self.tape_length, features)
            optimizer = self.init_optimizer(weights)
            update = self.learner.update
            calls["update"] = (update, weights, optimizer, inputs, _zeros(state), tape, tape)
        return {name: jax.jit(call[0]).lower(*call[1:]).compile() for name, call in calls.items()}

    def _buffer(self) -> Floats:
        return _zeros(self.block_size, self.shape.features)

    def init_optimizer(self, weights: Weights) -> Any:
        """Return the optimiser's state for `weights`."""
        return jax.tree.map(jnp.asarray, self.learner.init(weights))

    def init_weights(self) -> Weights:
        """Return the random weights of the configured seed."""
        return init_weights(self.shape, key=seed_key(self._seed))

    def check_weights(self, weights: Mapping[str, Mapping[str, Any]]) -> Weights:
        """Return `weights` as float32 arrays of this engine's shape; see `network`."""
        return check_weights(self.shape, weights)

    def init_carry(self) -> Floats:
        """Return the carry before the first element."""
        return np.asarray(self.stepper.init())

    def step(self, weights: Weights, carry: Any, x: Floats) -> tuple[Any, Any]:
        """Return (carry', row) after one element x (F,) float32."""
        if self.exact_step:
            return self._step(weights, carry, x)  # type: ignore[no-any-return]
        carry, rows = self.block(weights, carry, x[None])
        return carry, rows[0]

    def block(self, weights: Weights, carry: Any, xs: Floats) -> tuple[Any, Any]:
        """Return (carry', rows) after elements xs (n, F), n <= block_size; n rows are valid."""
        count = len(xs)
        if count < self.block_size:
            # A fresh buffer each time: the executable may still be reading the last one.
            padded = self._buffer()
            padded[:count] = xs
            xs = padded
        return self._block(weights, carry, xs, np.int32(count))  # type: ignore[no-any-return]

    def window(self, weights: Weights, xs: Floats) -> float:
        """Return p after scaled inputs xs (W, F) from a zero state; mode `window` only."""
        return float(self.functions["window"](weights, xs))

    def update(
        self,
        weights: Weights,
        state: Any,
        xs: Floats,
        carry: Floats,
        targets: Floats,
        share: Floats,
    ) -> tuple[Weights, Any, Floats]:
        """Return (weights', state', info (3,)); see `learner.UpdateFn`."""
        weights, state, info = self.functions["update"](weights, state, xs, carry, targets, share)
        return weights, state, np.asarray(info)

    def _parity(self, weights: Weights) -> bool:
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
