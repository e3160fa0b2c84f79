"""The compiled functions of one configuration: everything is compiled here, and nothing later.

A single element has an executable of its own (`step`), which starts faster than the loop of
`block`, and so has what comes in a stride. XLA does not promise that all give the same bits, so
construction compares them over random elements, and falls back to the loop of `block` where they
differ: slower, but block invariance holds either way. `exact_step` says whether `step` serves,
and `exact_strides` whether `strides` does, one loop over strides with the updates in its body.

The weights and the carry are flat arrays (see `packing`); a call writes the carry and the
optimiser's state into the memory of those that it was given, which are gone
then. Elements come in through memory that JAX reads where it is (see `buffers`). A thread has
buffers of its own, so that sessions in several threads may share an engine.
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
from .buffers import Copied, InPlace, Windows, in_place, settle
from .forecaster import Forecaster, Params, network, network_shape
from .network import check_weights
from .packing import Packed, Packing, plain
from .runtime import compiled, to_host
from .scaling import causal_scaler
from .stepper import Stepper
from .strides import INFO, Strides

Floats: TypeAlias = npt.NDArray[np.float32]

Learning: TypeAlias = tuple[Packed, Any, Any]
"""Weights, the optimiser's state and the trace of a stream."""

REPLAY_BLOCK = 4096
"""Elements of a block without learning: long enough that a call costs nothing beside it."""

LEARN_BLOCK = 1024
"""Most elements of a block with learning, whose rows hold whole states."""

LIVE_BLOCK = 16
"""Elements of a short block: a stride of the default length and some room."""

PARITY_STEPS = 64
"""Random elements over which `step` and `block` are compared."""

PARITY_STRIDES = ((10, 1), (3, 4))
"""Strides and horizons for which `strides` is compared with steps and updates."""

DONATED = {
    "step": (1,),
    "short": (1,),
    "block": (1,),
    "strides": (1, 2, 3),
}
"""Arguments whose memory a call writes its results to: carries, the optimiser's state and the
trace. Nobody else holds them. Weights may be held by others."""


def _zeros(*shape: int) -> Floats:
    return np.zeros(shape, np.float32)


def _placed(carry: Any) -> Any:
    """Return a carry at the place for which the jitted functions have been compiled."""
    return to_host(carry) if type(carry) is np.ndarray else carry


class Engine:
    """Compiled `step`, `block`, `window` and `update` for a configuration and F features.

    `members` are those of a bank, None where one network is all. `names` are the forecasters',
    whose probabilities a row begins with. `block_size` is the most elements that `block` takes,
    `row` the length of a row of its result; `functions` holds the executables by name. All of
    them are compiled on construction.
    """

    def __init__(
        self,
        config: Config,
        features: int,
        members: Members | None = None,
    ) -> None:
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
        self.row, self._scaler = self.stepper.row, self.stepper.scaler_size
        self.block_size = self._block_size(config.stream.stride)
        self.window_length = config.stream.window
        self._start: Params = self.forecaster.init()
        optimizer = self._optimizer_of(self._start)
        self.weights = Packing(self._start)
        self._packed = self.pack(self._start), optimizer
        self._first = np.asarray(self.stepper.init()), np.asarray(self.forecaster.init_trace())
        self.strides = Strides(self.stepper, self.weights)
        self._windows = Windows(
            x=(features,),
            xs=(LIVE_BLOCK, features),
            count=(1,),
            sheet=self.strides.sheet,
            elements=self.strides.elements,
        )
        self.functions = self._compile()
        self._step: Callable[..., Any] = self.functions["step"]
        self._short: Callable[..., Any] = self.functions["short"]
        self._read = InPlace() if in_place() else Copied()
        self.exact_step = True
        self.exact_step = self._parity()
        self.exact_strides = self.learning and not self.windowed and self._strides_parity()

    def _block_size(self, stride: int) -> int:
        if not self.learning:
            return REPLAY_BLOCK
        return min(LEARN_BLOCK, max(LIVE_BLOCK, 1 << (stride - 1).bit_length()))

    # ---- what is compiled -------------------------------------------------------------

    def _compile(self) -> dict[str, Any]:
        stepper, unpack = self.stepper, self.weights.unpack
        functions: dict[str, Callable[..., Any]] = {
            "step": lambda weights, *rest: stepper.step(unpack(weights), *rest),
            "short": lambda weights, carry, xs, count: stepper.block(
                unpack(weights), carry, xs, count[0].astype(jnp.int32)
            ),
        }
        if self.block_size > LIVE_BLOCK:
            functions["block"] = functions["short"]
        if self.windowed:
            functions["window"] = lambda weights, xs: stepper.window(unpack(weights), xs)
        if self.learning:
            functions["strides"] = self.strides.run
        jitted = {
            # Weights bind a call to their place, even where it makes no use of them.
            name: jax.jit(call, donate_argnums=DONATED.get(name, ()), keep_unused=True)
            for name, call in functions.items()
        }
        # A jitted function starts a microsecond sooner than what is compiled ahead of it; these
        # two are compiled by being called, with arguments bound to the place of all later ones.
        early = {name: jitted.pop(name) for name in ("step", "short")}
        return early | {
            name: compiled(f.lower(*self._example(name))) for name, f in jitted.items()
        }

    def _example(self, name: str) -> tuple[Any, ...]:
        """Return arguments for a function that is compiled ahead."""
        weights, features = self._packed[0], self.shape.features
        if name == "window":
            return weights, _zeros(self.window_length, features)
        if name == "block":
            return weights, self.init_carry(), _zeros(self.block_size, features), _zeros(1)
        given = _zeros(*self.strides.sheet), _zeros(*self.strides.elements)
        return *self._packed, self.init_trace(), self.init_carry(), *given

    # ---- what things start from -------------------------------------------------------

    def _optimizer_of(self, weights: Params) -> Any:
        return to_host(jax.tree.map(jnp.asarray, self.forecaster.init_optimizer(weights)))

    def init_optimizer(self, weights: Params) -> Any:
        """Return the optimiser's state for `weights`."""
        return self._optimizer_of(weights)

    def init_trace(self) -> Floats:
        """Return what a stream's learning carries before its first update, (T,)."""
        return self._first[1]

    def init_weights(self) -> Params:
        """Return the weights to start from, random ones of the configured seed."""
        return self._start

    def init_carry(self) -> Floats:
        """Return the carry before the first element."""
        return self._first[0]

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

    def step(self, weights: Packed, carry: Any, x: Floats) -> Any:
        """Return the carry after one element x (F,) float32; the one given is gone then."""
        if not self.exact_step:
            return self.block(weights, carry, x[None])[0]
        if type(carry) is np.ndarray:
            carry = to_host(carry)
        window = self._windows.x
        window.host[:] = x
        carry = self._step(weights, carry, window.device)
        if not carry.is_ready():
            settle(carry)
        return carry

    def block(self, weights: Packed, carry: Any, xs: Floats) -> tuple[Any, Any]:
        """Return (carry', rows) after elements xs (n, F), n <= block_size; n rows are valid.

        The carry given is gone then.
        """
        windows, count = self._windows, len(xs)
        number = windows.count
        number.host[0] = count
        if count <= LIVE_BLOCK:
            windows.xs.host[:count] = xs
            given = windows.xs.device, number.device
            carry, rows = self._short(weights, _placed(carry), *given)
            settle(carry)
            return carry, rows
        if count < self.block_size:
            padded = _zeros(self.block_size, xs.shape[1])
            padded[:count] = xs
            xs = padded
        carry, rows = self.functions["block"](weights, carry, xs, number.device)
        settle(carry)
        return carry, rows

    def p(self, carry: Any) -> float:
        """Return the first probability of the element that left `carry`."""
        return self._read.one(carry, self._scaler)

    def row_of(self, carry: Any) -> Floats:
        """Return a copy of the row (R,) of the element that left `carry`."""
        return self._read.some(carry, self._scaler, self.row)

    def rows(self, rows: Any, count: int) -> Floats:
        """Return a copy of the first `count` rows (count, R) of what `block` gave."""
        return self._read.some(rows, 0, count * self.row).reshape(count, self.row)

    def window(self, weights: Packed, xs: Floats) -> float:
        """Return p after scaled inputs xs (W, F) from a zero state; where `windowed` only."""
        return float(self.functions["window"](weights, xs))

    # ---- learning ---------------------------------------------------------------------

    def update(
        self,
        weights: Packed,
        state: Any,
        trace: Any,
        xs: Floats,
        starts: Floats,
        targets: Floats,
        share: Floats,
    ) -> tuple[Packed, Any, Any, Floats]:
        """Return (weights', optimiser state', trace', info (3,)); see `forecaster.Forecaster`.

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
            for start, back in zip(starts, self.offsets, strict=True):
                sheet[lines.past - 1 - back, behind] = start
        learned, _, filled = self._run_strides(
            (weights, state, trace), self.init_carry(), (0, 0, 1)
        )
        at = (lines.past - 1) * lines.sheet[1] + lines.info.start
        return *learned, self._read.some(filled, at, INFO)

    def run_strides(
        self, learned: Learning, carry: Any, past: Floats, xs: Floats, lengths: tuple[int, int]
    ) -> tuple[Learning, Any, Floats, Floats]:
        """Return ((weights', state', trace'), carry', rows (n, R), infos (n / S, 3)).

        What `step` and `update` would give over whole strides xs (n, F), n <= `strides.ROOM`, of
        which each ends with an update where all targets of the tape count. learned: (weights,
        state, trace). past: the last entries of the tape, (`strides.past`, F + N + 1). lengths:
        the stride S and the horizon. All but the weights and the arrays of NumPy are gone then.
        """
        lines, count = self.strides, len(xs) // lengths[0]
        sheet, elements = self._windows.sheet.host, self._windows.elements.host
        sheet[: lines.past, lines.inputs.start : lines.positive + 1] = past
        sheet[: lines.past, lines.positive + 1] = 1.0
        elements[1 : 1 + len(xs), : xs.shape[1]] = xs
        learned, carry, filled = self._run_strides(learned, carry, (*lengths, count))
        width = lines.sheet[1]
        read = self._read.some(filled, lines.past * width, len(xs) * width).reshape(-1, width)
        return learned, carry, read[:, lines.row], read[lengths[0] - 1 :: lengths[0], lines.info]

    def _run_strides(
        self, learned: Learning, carry: Any, lengths: tuple[int, int, int]
    ) -> tuple[Learning, Any, Any]:
        """Return ((weights', state', trace'), carry', sheet') of the sheet that is written."""
        sheet, elements = self._windows.sheet, self._windows.elements
        elements.host[0, : len(lengths)] = lengths
        weights, state, trace, carry, filled = self.functions["strides"](
            *learned, carry, sheet.device, elements.device
        )
        settle(filled)
        return (weights, state, trace), carry, filled

    # ---- do they agree? ---------------------------------------------------------------

    def _random(self, count: int) -> Floats:
        drawn = np.random.default_rng(0).normal(size=(count, self.shape.features))
        return drawn.astype(np.float32)

    def _parity(self) -> bool:
        """Return whether `step` and both blocks give the same bits."""
        weights, xs = self._packed[0], self._random(PARITY_STEPS)
        singly, rows = self.init_carry(), []
        for x in xs:
            singly = self.step(weights, singly, x)
            rows.append(self.row_of(singly))
        for sizes in ((1, 2, 13), (17, 15, 32)) if "block" in self.functions else ((1, 2, 13),):
            carry: Any = self.init_carry()
            at = 0
            for size in sizes * (PARITY_STEPS // sum(sizes)):
                carry, out = self.block(weights, carry, xs[at : at + size])
                if self.rows(out, size).tobytes() != np.array(rows[at : at + size]).tobytes():
                    return False
                at += size
            if np.asarray(carry).tobytes() != np.asarray(singly).tobytes():
                return False
        return True

    def _strides_parity(self) -> bool:
        """Return whether `strides` gives the bits of steps and updates one by one."""
        return all(self._same_strides(*lengths) for lengths in PARITY_STRIDES)

    def _same_strides(self, stride: int, horizon: int) -> bool:
        xs = self._random(PARITY_STEPS // stride * stride)
        past, members = self.strides.past, len(self.names)
        entry = self.shape.features + self.stepper.state
        tape = np.zeros((past + len(xs), entry + 1), np.float32)
        weights = self._packed[0]
        wanted: Any = weights, self.init_optimizer(self._start), self.init_trace()
        learned: Any = weights, self.init_optimizer(self._start), self.init_trace()
        ones = np.ones(self.tape_length, np.float32)
        got, last, rows, infos = self.run_strides(
            learned, self.init_carry(), tape[:past], xs, (stride, horizon)
        )
        carry: Any = self.init_carry()
        for k, x in enumerate(xs):
            carry = self.step(wanted[0], carry, x)
            row = self.row_of(carry)
            tape[past + k] = *row[members:], x[0] > 0
            if row.tobytes() != rows[k].tobytes():
                return False
            if (k + 1) % stride:
                continue
            end = past + k + 1
            held = slice(end - horizon - self.tape_length, end - horizon)
            starts = tape[[end - horizon - 1 - back for back in self.offsets]]
            weights, optimizer, trace = wanted
            *wanted, info = self.update(
                weights,
                optimizer,
                trace,
                tape[held, : xs.shape[1]].copy(),
                starts[:, xs.shape[1] : -1].copy(),
                tape[end - self.tape_length : end, -1].copy(),
                ones,
            )
            if info.tobytes() != infos[k // stride].tobytes():
                return False
        pairs = zip(jax.tree.leaves((*got, last)), jax.tree.leaves((*wanted, carry)), strict=True)
        return all(
            np.asarray(plain(a)).tobytes() == np.asarray(plain(b)).tobytes() for a, b in pairs
        )
