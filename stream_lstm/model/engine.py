"""The compiled functions of one configuration: everything is compiled here, and nothing later.

```
advance(weights, carry, xs, count)              -> carry', rows      one stream
advance_table(weights, carries, index, xs)      -> carries', p       many streams
strides(weights, optimizer, trace, carry, ...)  -> all of them       steps and updates in turns
window(weights, xs)                             -> p                 a window from a zero state
```

`advance` is one loop whose number of turns is data, so one element and a thousand are the same
machine code. XLA does not promise that two executables round alike, so construction compares
`strides` with `advance` and single updates over random elements, and `advance_table` with
`advance`; where one differs its work is done call by call: slower, but block invariance holds
either way. `exact_strides` and `exact_table` say whether they serve.

The weights and the carry are flat arrays (see `packing`). No call writes to its arguments but
`strides`, which writes the optimiser's state and the trace into the memory of those that it was
given. Elements come in through memory that JAX reads where it is (see `buffers`); a thread has
buffers of its own, so that sessions in several threads may share an engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from ..config import Config, Members
from ..errors import ConfigurationError
from ..typing import Float32s
from .buffers import (
    LINE,
    Packed,
    Packing,
    Shared,
    Windows,
    aligned,
    is_key,
    move,
    plain,
    read,
    settle,
)
from .forecaster import Ensemble, Params, alone, network, network_shape, slack
from .network import check_weights
from .plain import bank
from .runtime import check_forked, compiled, to_host
from .scaling import causal_scaler
from .stepper import FARTHEST, INFO, ROOM, Stepper, Strides, TableStepper

Learning: TypeAlias = tuple[Packed, Any, Any]
"""Weights, the optimiser's state and the trace of a stream."""

BLOCK = 4096
"""Elements of a call without learning: long enough that a call costs nothing beside it."""

LEARN_BLOCK = 64
"""The same with learning, whose rows hold whole states and must be cleared at each call."""

PARITY_STEPS = 64
"""Random elements over which executables are compared."""

PARITY_STRIDES = ((10, 1), (3, 4))
"""Strides and horizons for which `strides` is compared with steps and updates, beside its own."""


class Engine:
    """Compiled functions for a configuration and F features.

    `members` are those of a bank, None where one network is all. `names` are the forecasters',
    whose probabilities a row begins with. `block` is the most elements that one call takes, `row`
    the length of a row of its result, `width` that of a carry, padded to whole lines of memory.
    `tape_length` is K, and `offsets` say which states an update starts from.
    """

    def __init__(self, config: Config, features: int, members: Members | None = None) -> None:
        check_forked()
        self.shape = network_shape(config.model, features)
        self.members = members
        self.mode = config.model.mode
        self.learning = config.learning.learn
        self.forecaster: Ensemble = (
            alone(network(config, features), slack(config))
            if members is None
            else bank(config, features, members)
        )
        self.names, self.state = self.forecaster.names, self.forecaster.state
        self.tape_length, self.offsets = self.forecaster.tape, self.forecaster.offsets
        scaler = causal_scaler(features, config.scaling)
        # The tape of published predictions fits its own stride and horizon alone.
        own = min(config.stream.stride, PARITY_STEPS), min(config.stream.horizon, FARTHEST)
        any_length = not any(offset.published for offset in self.offsets)
        self._parity_lengths = {own, *(PARITY_STRIDES if any_length else ())}
        # The tape of scaled inputs is what updates and windows are made from.
        self.windowed = self.mode == "window" or "stateless" in config.scoring.twins
        tape = self.learning or self.windowed
        self.stepper = Stepper(self.shape, scaler, self.forecaster, self.mode, tape=tape)
        self.row, self.scaler_size = self.stepper.row, self.stepper.scaler_size
        self.block = LEARN_BLOCK if tape else BLOCK
        self.window_length = config.stream.window
        self._start: Params = self.forecaster.init()
        self.weights = Packing(self._start)
        self._packed = self.pack(self._start)
        self.width = -(-self.stepper.size // LINE) * LINE
        self._first = np.zeros(self.width, np.float32)
        self._first[: self.stepper.size] = self.stepper.init()
        self._first_trace = np.asarray(self.forecaster.init_trace())
        self.strides = Strides(self.stepper, self.weights)
        self._windows = Windows(
            xs=(self.block, features),
            count=(1,),
            carry=(self.width,),
            sheet=self.strides.sheet,
            elements=self.strides.elements,
        )
        self._advance = self._compile("advance", self._advanced)
        self._table: TableStepper | None = None
        self._per_stream = config.model.sharing == "per-stream"
        if self.windowed:
            self._window = self._compile("window", self._over_window)
        self.exact_table = True
        self.exact_strides = False
        if self.learning:
            self._strides = self._compile("strides", self.strides.run, donated=(1, 2))
            self.exact_strides = not self.windowed and self._strides_parity()

    # ---- what is compiled -------------------------------------------------------------

    def _compile(
        self, name: str, call: Callable[..., Any], donated: tuple[int, ...] = ()
    ) -> Callable[..., Any]:
        # Weights bind a call to their place, even where it makes no use of them.
        jitted = jax.jit(call, donate_argnums=donated, keep_unused=True)
        if name == "advance":
            # A jitted function starts a microsecond sooner than what is compiled ahead of it.
            settle(jitted(*self._example(name)))
            return jitted
        out: Callable[..., Any] = compiled(jitted.lower(*self._example(name)))
        return out

    def _example(self, name: str) -> tuple[Any, ...]:
        weights, windows = self._packed, self._windows
        carry = windows.carry.device
        if name == "advance":
            return weights, carry, windows.xs.device, windows.count.device
        if name == "window":
            return weights, np.zeros((self.window_length, self.shape.features), np.float32)
        optimizer, trace = self.init_optimizer(self._start), self.init_trace()
        return weights, optimizer, trace, carry, windows.sheet.device, windows.elements.device

    def _advanced(self, weights: Any, carry: Any, xs: Any, count: Any) -> Any:
        """Return carry' (width,) and behind it the rows (block, R), flat."""
        turns = count[0].astype(jnp.int32)
        moved, rows = self.stepper.block(self.weights.unpack(weights), carry, xs, turns)
        return jnp.concatenate([moved, rows.reshape(-1)])

    def _over_window(self, weights: Any, xs: Any) -> Any:
        return self.stepper.window(self.weights.unpack(weights), xs)

    @property
    def table(self) -> TableStepper:
        """The loop over rows of many streams, compiled when it is first asked for."""
        if self._table is None:
            self._table = TableStepper(
                self.stepper, self.weights, self._packed, self.width, per_stream=self._per_stream
            )
            self.exact_table = self._table_parity(self._table)
        return self._table

    # ---- what things start from -------------------------------------------------------

    def init_optimizer(self, weights: Params) -> Any:
        """Return the optimiser's state for `weights`, in memory of its own."""
        return to_host(jax.tree.map(_fresh, self.forecaster.init_optimizer(weights)))

    def init_trace(self) -> Any:
        """Return what a stream's learning carries before its first update, (T,)."""
        return self._first_trace

    def init_weights(self) -> Params:
        """Return the weights to start from, random ones of the configured seed."""
        return self._start

    def init_carry(self) -> Float32s:
        """Return the carry (width,) before the first element."""
        return self._first.copy()

    def pack(self, weights: Params) -> Packed:
        """Return weights as the other functions here take them."""
        packed: Packed = to_host(self.weights.host_pack(weights))
        return packed

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

    # ---- stepping ---------------------------------------------------------------------

    def advance_in_place(self, weights: Packed, carry: Shared, xs: Float32s) -> Any:
        """Step `carry` over elements xs (n, F) float32, n <= block; return what `rows` reads.

        The carry is written at the very end: an exception leaves it as it was.
        """
        windows, count = self._windows, len(xs)
        windows.xs.host[:count] = xs
        number = windows.count
        number.host[0] = count
        out = self._advance(weights, carry.device, windows.xs.device, number.device)
        if not out.is_ready():
            settle(out)
        move(out, carry, self.width)
        return out

    def rows(self, out: Any, count: int) -> Float32s:
        """Return a copy of the first `count` rows (count, R) of what was advanced."""
        return read(out, self.width, count * self.row).reshape(count, self.row)

    def advance(self, weights: Packed, carry: Float32s, xs: Float32s) -> tuple[Float32s, Float32s]:
        """Return (carry' (width,), rows (n, R)) after elements xs (n, F), of any number n."""
        moved, parts = Shared(aligned((self.width,))), [np.zeros((0, self.row), np.float32)]
        moved.host[:] = carry
        for start in range(0, len(xs), self.block):
            part = xs[start : start + self.block]
            parts.append(self.rows(self.advance_in_place(weights, moved, part), len(part)))
        return moved.host, np.concatenate(parts)

    def window(self, weights: Packed, xs: Float32s) -> float:
        """Return p after scaled inputs xs (W, F) from a zero state; where `windowed` only."""
        return float(self._window(weights, xs))

    # ---- learning ---------------------------------------------------------------------

    def update(
        self,
        weights: Packed,
        state: Any,
        trace: Any,
        xs: Float32s,
        starts: Float32s,
        targets: Float32s,
        share: Float32s,
        back: int = 0,
    ) -> tuple[Packed, Any, Any, Float32s]:
        """Return (weights', optimiser state', trace', info (3,)); see `forecaster.Ensemble`.

        The state and the trace given are gone then.
        """
        lines = self.strides
        behind = slice(lines.inputs.stop, lines.positive)
        sheet = self._windows.sheet.host
        tape = slice(lines.past - len(xs), lines.past)
        sheet[tape, lines.inputs] = xs
        sheet[tape, lines.positive] = targets
        sheet[tape, lines.positive + 1] = share
        if self.stepper.state:
            for start, offset in zip(starts, self.offsets, strict=True):
                sheet[lines.past - 1 - offset.before(back), behind] = start
        carry = self._windows.carry.device
        learned, _, filled = self._run_strides((weights, state, trace), carry, (0, 0, 1, back))
        at = (lines.past - 1) * lines.sheet[1] + lines.info.start
        return *learned, read(filled, at, INFO)

    def run_strides(
        self,
        learned: Learning,
        carry: Shared,
        past: Float32s,
        xs: Float32s,
        lengths: tuple[int, int],
    ) -> tuple[Learning, Float32s, Float32s]:
        """Step `carry` over strides xs (n, F), n <= `strides.ROOM`, with an update after each.

        Returns ((weights', state', trace'), rows (n, R), infos (n / S, 3)): what `advance` and
        `update` would give, where all targets of the tape count. learned: (weights, state,
        trace), whose state and trace are gone then. past: the last entries of the tape,
        (`strides.past`, F + N + 1). lengths: the stride S and the horizon.
        """
        lines, count = self.strides, len(xs) // lengths[0]
        sheet, elements = self._windows.sheet.host, self._windows.elements.host
        sheet[: lines.past, lines.inputs.start : lines.positive + 1] = past
        sheet[: lines.past, lines.positive + 1] = 1.0
        elements[1 : 1 + len(xs), : xs.shape[1]] = xs
        stride, horizon = lengths
        learned, moved, filled = self._run_strides(
            learned, carry.device, (stride, horizon, count, -horizon % stride)
        )
        width = lines.sheet[1]
        flat = read(filled, lines.past * width, len(xs) * width).reshape(-1, width)
        move(moved, carry, self.width)
        return learned, flat[:, lines.row], flat[lengths[0] - 1 :: lengths[0], lines.info]

    def _run_strides(
        self, learned: Learning, carry: Any, lengths: tuple[int, int, int, int]
    ) -> tuple[Learning, Any, Any]:
        """Return ((weights', state', trace'), carry', sheet') of the sheet that is written."""
        sheet, elements = self._windows.sheet, self._windows.elements
        elements.host[0, : len(lengths)] = lengths
        weights, state, trace, carry, filled = self._strides(
            *learned, carry, sheet.device, elements.device
        )
        settle(filled)
        return (weights, state, trace), carry, filled

    # ---- do they agree? ---------------------------------------------------------------

    def _random(self, count: int) -> Float32s:
        drawn = np.random.default_rng(0).normal(size=(count, self.shape.features))
        return drawn.astype(np.float32)

    def _table_parity(self, table: TableStepper) -> bool:
        """Return whether the loop over many streams gives the bits of each stream alone."""
        xs = self._random(PARITY_STEPS)
        index = np.random.default_rng(0).integers(0, 5, len(xs)).astype(np.int32)
        carries, alone = np.tile(self._first, (5, 1)), np.tile(self._first, (5, 1))
        weights: Any = self._packed
        own = [self._packed] * 5
        if self._per_stream:
            flat = np.asarray(self._packed[0])
            weights = np.stack([flat * np.float32(1 + k / 8) for k in range(5)])
            own = [to_host((row,)) for row in weights]
        start = 0
        for count in (1, 2, 7, 15, 16, 23):
            part = slice(start, start + count)
            carries, p = table.step(weights, carries, index[part], xs[part])
            for k, x in zip(index[part], xs[part], strict=True):
                alone[k], rows = self.advance(own[k], alone[k], x[None])
                if rows[0, : p.shape[1]].tobytes() != p[start - part.start].tobytes():
                    return False
                start += 1
        return carries.tobytes() == alone.tobytes()

    def _strides_parity(self) -> bool:
        """Return whether `strides` gives the bits of steps and updates one by one."""
        return all(self._same_strides(*lengths) for lengths in sorted(self._parity_lengths))

    def _same_strides(self, stride: int, horizon: int) -> bool:
        xs, late = self._random(PARITY_STEPS // stride * stride), -horizon % stride
        past, members = self.strides.past, len(self.names)
        entry = self.shape.features + self.stepper.state
        tape = np.zeros((past + len(xs), entry + 1), np.float32)
        wanted: Any = self._packed, self.init_optimizer(self._start), self.init_trace()
        learned: Any = self._packed, self.init_optimizer(self._start), self.init_trace()
        ones = np.ones(self.tape_length, np.float32)
        last, carry = Shared(aligned((self.width,))), self.init_carry()
        last.host[:] = carry
        got, rows, infos = self.run_strides(learned, last, tape[:past], xs, (stride, horizon))
        for k, x in enumerate(xs):
            carry, row = self.advance(wanted[0], carry, x[None])
            tape[past + k] = *row[0, members:], x[0] > 0
            if row[0].tobytes() != rows[k].tobytes():
                return False
            if (k + 1) % stride:
                continue
            end = past + k + 1
            held = slice(end - horizon - self.tape_length, end - horizon)
            starts = tape[[end - horizon - 1 - each.before(late) for each in self.offsets]]
            *wanted, info = self.update(  # type: ignore[call-arg]
                *wanted,
                tape[held, : xs.shape[1]].copy(),
                starts[:, xs.shape[1] : -1].copy(),
                tape[end - self.tape_length : end, -1].copy(),
                ones,
                late,
            )
            if info.tobytes() != infos[k // stride].tobytes():
                return False
        pairs = zip(
            jax.tree.leaves((*got, last.host)), jax.tree.leaves((*wanted, carry)), strict=True
        )
        return all(
            np.asarray(plain(a)).tobytes() == np.asarray(plain(b)).tobytes() for a, b in pairs
        )


def _fresh(leaf: Any) -> Any:
    """Return a copy of a leaf, in memory that a call may write to; a random key as it is."""
    return leaf if is_key(leaf) else np.array(leaf)


__all__ = ["BLOCK", "LEARN_BLOCK", "ROOM", "Engine", "Learning"]
