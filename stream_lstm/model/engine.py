"""The compiled functions of one configuration; nothing compiles after construction.

```
advance(weights, carry, xs, count)              -> carry', rows        one stream
table.step(weights, carries, index, xs)         -> carries', p         many streams
strides(weights, optimizer, trace, carry, ...)  -> all of them, tape   steps and updates in turns
window(weights, xs)                             -> p                   a window from a zero state
```

`advance` is one loop whose number of turns is data, so one element and a thousand are the same
machine code. XLA does not promise that two executables round alike. Construction therefore
compares `strides` with `advance` and single updates over random elements, and `table` with
`advance`. Where one differs, the session works call by call: slower, but with the same bits
however the elements are cut into blocks. `exact_strides` and `exact_table` report the result.

The weights and the carry are flat arrays (see `buffers`). No call writes to its arguments except
`strides`, which reuses the memory of the optimiser's state and the trace. Elements pass through
memory that JAX reads in place; each thread has its own, so sessions in several threads can share
an engine.

The inside of a network along a series, and one network from several starting states.

As in `stepper`, a block of several starts is a loop whose number of turns is data, so one compiled
function serves every length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import numpy.typing as npt
from jax import lax

from ..compiling import compiling
from ..config import Config, Members
from ..errors import ConfigurationError
from ..schema import ScalingConfig
from ..typing import Float32s
from .forecaster import Ensemble, Params, alone, network, network_shape, slack
from .gradients import layer_forward, tape_logits
from .network import Array, Scaler, Shape, Weights, apply, causal_scaler, check_weights
from .plain import bank
from .runtime import (
    LINE,
    Packed,
    Packing,
    SharedArray,
    ThreadBuffers,
    aligned_zeros,
    check_forked,
    compiled,
    copy_into,
    copy_out,
    is_key,
    key_data,
    to_host,
    wait_ready,
)
from .stepper import INFO, MAX_STRIDES_HORIZON, Stepper, Strides, TableStepper


class Activity(NamedTuple):
    """Values over K elements of F features, in a network of L layers with H units each."""

    scaled: Float32s  # (K, F), the inputs of the network
    gates: Float32s  # (L, K, 4, H): i, f, g, o
    cells: Float32s  # (L, K, H): tanh(c)
    outputs: Float32s  # (L, K, H): h
    logits: Float32s  # (K,)


def scaled_inputs(
    config: ScalingConfig, elements: Float32s, start: npt.ArrayLike | None = None
) -> Float32s:
    """Return elements (K, F) scaled by the causal scaler, float32 (K, F).

    start: the scaler's state (1 + 2F,) before them, if not the initial one.
    """
    state = causal_scaler(elements.shape[1], config).init() if start is None else start
    return np.asarray(_scaled(config, jnp.asarray(state, jnp.float32), elements))


@partial(jax.jit, static_argnums=0)
def _scaled(config: ScalingConfig, state: Array, xs: Array) -> Array:
    return lax.scan(causal_scaler(xs.shape[1], config).step, state, xs)[1]


def activity(shape: Shape, weights: Weights, scaled: Float32s) -> Activity:
    """Return the values in a network from a zero state along scaled inputs (K, F)."""
    return Activity(scaled, *map(np.asarray, _activity(shape, weights, scaled)))


@partial(jax.jit, static_argnums=0)
def _activity(shape: Shape, weights: Weights, xs: Array) -> tuple[Array, ...]:
    layers = []
    zero = jnp.zeros((shape.hidden,), jnp.float32)
    for layer in range(shape.layers):
        kernel = weights[f"layer_{layer}"]["kernel"]
        (xs, _), residuals = layer_forward(kernel, xs, zero, zero)
        active, squashed = residuals[4], residuals[6]
        layers.append((active.reshape(len(xs), 4, shape.hidden), squashed, xs))
    head = weights["head"]["kernel"]
    parts = tuple(jnp.stack(part) for part in zip(*layers, strict=True))
    return (*parts, xs @ head[:-1] + head[-1])


class Probe(NamedTuple):
    """Static arguments of the functions below."""

    shape: Shape
    scaler: Scaler

    def block(
        self, weights: Weights, scaler: Array, states: Array, xs: Array, count: Array
    ) -> tuple[Array, Array, Array, Array]:
        """Return (scaler', states' (M, 2 L H), scaled (B, F), p (B, M)).

        scaler: its state (1 + 2F,); states: flat states of M starts; xs: elements (B, F), of
        which the first `count` () are used.
        """

        def turn(k: Array, at: tuple[Array, ...]) -> tuple[Array, ...]:
            scaler, states, scaled, ps = at
            scaler, x = self.scaler.step(scaler, lax.dynamic_index_in_dim(xs, k, 0, False))
            states, logits = jax.vmap(lambda state: apply(self.shape, weights, state, x))(states)
            scaled = lax.dynamic_update_index_in_dim(scaled, x, k, 0)
            ps = lax.dynamic_update_index_in_dim(ps, jax.nn.sigmoid(logits), k, 0)
            return scaler, states, scaled, ps

        empty = jnp.zeros((len(xs), len(states)), jnp.float32)
        start = scaler, states, jnp.zeros_like(xs), empty
        out: tuple[Array, Array, Array, Array] = lax.fori_loop(0, count, turn, start)
        return out

    def windows(self, weights: Weights, windows: Array) -> Array:
        """Return p (M,) after scaled inputs (M, W, F), each from a zero state."""
        zero = jnp.zeros((self.shape.state,), jnp.float32)
        logits = jax.vmap(lambda xs: tape_logits(self.shape, weights, xs, zero)[-1])(windows)
        return jax.nn.sigmoid(logits)


LearningCarry: TypeAlias = tuple[Packed, Any, Any]
"""Weights, the optimiser's state and the trace of a stream."""

BLOCK = 4096
"""Elements of a call without learning: the call itself then costs nothing."""

LEARN_BLOCK = 64
"""The same with learning, whose rows are whole states and are cleared at each call."""

PARITY_STEPS = 64
"""Random elements over which executables are compared."""

PARITY_STRIDES = ((10, 1), (3, 4))
"""Strides and horizons to compare, besides those of the configuration."""


class Engine:
    """Compiled functions for a configuration and F features.

    members: those of a bank, None for a single network. `names` are the forecasters', in the order
    of their probabilities in a row. `block` is the most elements of a call, `row` the length of a
    row of its result, `width` that of a carry, padded to whole lines of memory. `tape_length` is
    K, and `offsets` are the positions of the states at the start of an update.
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
        self.tape_length, self.offsets = self.forecaster.tape_length, self.forecaster.offsets
        scaler = causal_scaler(features, config.scaling)
        # The tape of published predictions fits only its own stride and horizon.
        horizon = min(config.stream.horizon, MAX_STRIDES_HORIZON)
        own = min(config.stream.stride, PARITY_STEPS), horizon
        any_length = not any(offset.published for offset in self.offsets)
        lengths = {own, *(PARITY_STRIDES if any_length else ())}
        # Updates and windows need a tape of scaled inputs.
        self.windowed = self.mode == "window" or "stateless" in config.scoring.twins
        tape = self.learning or self.windowed
        self.stepper = Stepper(self.shape, scaler, self.forecaster, self.mode, keep_tape=tape)
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
        self._buffers = ThreadBuffers(
            xs=(self.block, features),
            count=(1,),
            carry=(self.width,),
            tape=self.strides.tape_shape,
            elements=self.strides.elements_shape,
        )
        self._table: TableStepper | None = None
        self._per_stream = config.model.sharing == "per-stream"
        self.exact_table = True
        self.exact_strides = False
        kind = "learning" if self.learning else "plain"
        with compiling("bank" if members else kind, self._key(config, features)):
            self._compile_all(lengths)

    # ---- compilation ------------------------------------------------------------------

    def _key(self, config: Config, features: int) -> str:
        """Return a name of the programs; equal settings of the network and learning have one."""
        model = msgspec.structs.replace(config.model, weights=None, compile_cache=None, seed=0)
        stream = config.stream.window, config.stream.stride, config.stream.horizon
        about = (model, config.learning, config.scaling, self.windowed, stream, features)
        text = msgspec.json.encode((about, self.members), enc_hook=repr)
        return hashlib.sha256(text).hexdigest()[:16]

    def _compile_all(self, lengths: set[tuple[int, int]]) -> None:
        self._advance = self._compile("advance", self._run_block)
        if self.windowed:
            self._window = self._compile("window", self._run_window)
        if self.learning:
            self._strides = self._compile("strides", self.strides.run, donated=(1, 2))
            self.exact_strides = not self.windowed and all(
                self._strides_parity(*pair) for pair in sorted(lengths)
            )

    def _compile(
        self, name: str, call: Callable[..., Any], donated: tuple[int, ...] = ()
    ) -> Callable[..., Any]:
        # Weights bind a call to their device, even if it does not use them.
        jitted = jax.jit(call, donate_argnums=donated, keep_unused=True)
        if name == "advance":
            # A jitted function starts a microsecond sooner than one compiled ahead of time.
            wait_ready(jitted(*self._example(name)))
            return jitted
        out: Callable[..., Any] = compiled(jitted.lower(*self._example(name)))
        return out

    def _example(self, name: str) -> tuple[Any, ...]:
        weights, buffers = self._packed, self._buffers
        carry = buffers.carry.device
        if name == "advance":
            return weights, carry, buffers.xs.device, buffers.count.device
        if name == "window":
            return weights, np.zeros((self.window_length, self.shape.features), np.float32)
        optimizer, trace = self.init_optimizer(self._start), self.init_trace()
        return weights, optimizer, trace, carry, buffers.tape.device, buffers.elements.device

    def _run_block(self, weights: Any, carry: Any, xs: Any, count: Any) -> Any:
        """Return carry' (width,) and after it the rows (block, R), flat."""
        turns = count[0].astype(jnp.int32)
        moved, rows = self.stepper.block(self.weights.unpack(weights), carry, xs, turns)
        return jnp.concatenate([moved, rows.reshape(-1)])

    def _run_window(self, weights: Any, xs: Any) -> Any:
        return self.stepper.window(self.weights.unpack(weights), xs)

    @property
    def table(self) -> TableStepper:
        """The loop over rows of many streams, compiled on first use."""
        if self._table is None:
            self._table = TableStepper(
                self.stepper, self.weights, self._packed, self.width, per_stream=self._per_stream
            )
            self.exact_table = self._table_parity(self._table)
        return self._table

    # ---- initial values ---------------------------------------------------------------

    def init_optimizer(self, weights: Params) -> Any:
        """Return the optimiser's state for `weights`, in memory of its own."""
        state = self.forecaster.init_optimizer(weights)
        return to_host(jax.tree.map(lambda x: x if is_key(x) else np.array(x), state))

    def init_trace(self) -> Any:
        """Return the trace (T,) of a stream before its first update."""
        return self._first_trace

    def init_weights(self) -> Params:
        """Return the random weights of the configured seed."""
        return self._start

    def init_carry(self) -> Float32s:
        """Return the carry (width,) before the first element."""
        return self._first.copy()

    def pack(self, weights: Params) -> Packed:
        """Return weights in the form that the other functions take."""
        packed: Packed = to_host(self.weights.host_pack(weights))
        return packed

    def check_weights(self, weights: Mapping[str, Mapping[str, Any]]) -> Params:
        """Return `weights` as float32 arrays of this engine's shape.

        Raises ConfigurationError where they do not fit, and for a bank, which has many networks.
        """
        if self.members is not None:
            raise ConfigurationError(
                "a bank has weights of its own: use weights with bank=none",
                key="weights",
            )
        return check_weights(self.shape, weights)

    # ---- stepping ---------------------------------------------------------------------

    def advance_in_place(self, weights: Packed, carry: SharedArray, xs: Float32s) -> Any:
        """Step `carry` over elements xs (n, F) float32, n <= block; return the result for `rows`.

        The carry is written last: an exception leaves it unchanged.
        """
        buffers, count = self._buffers, len(xs)
        buffers.xs.host[:count] = xs
        number = buffers.count
        number.host[0] = count
        out = self._advance(weights, carry.device, buffers.xs.device, number.device)
        if not out.is_ready():
            wait_ready(out)
        copy_into(out, carry, self.width)
        return out

    def rows(self, out: Any, count: int) -> Float32s:
        """Return a copy of the first `count` rows (count, R) of a result of `advance_in_place`."""
        return copy_out(out, self.width, count * self.row).reshape(count, self.row)

    def advance(self, weights: Packed, carry: Float32s, xs: Float32s) -> tuple[Float32s, Float32s]:
        """Return (carry' (width,), rows (n, R)) after any number n of elements xs (n, F)."""
        moved, parts = self._shared(carry), [np.zeros((0, self.row), np.float32)]
        for start in range(0, len(xs), self.block):
            part = xs[start : start + self.block]
            parts.append(self.rows(self.advance_in_place(weights, moved, part), len(part)))
        return moved.host, np.concatenate(parts)

    def _shared(self, carry: Float32s) -> SharedArray:
        shared = SharedArray(aligned_zeros((self.width,)))
        shared.host[:] = carry
        return shared

    def window(self, weights: Packed, xs: Float32s) -> float:
        """Return p after scaled inputs xs (W, F) from a zero state; only with `windowed`."""
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
        label_weights: Float32s,
        back: int = 0,
    ) -> tuple[Packed, Any, Any, Float32s]:
        """Return (weights', optimiser state', trace', info (3,)); see `forecaster.Ensemble`.

        The call consumes `state` and `trace`.
        """
        columns = self.strides
        tape = self._buffers.tape.host
        lines = slice(columns.past - len(xs), columns.past)
        tape[lines, columns.inputs] = xs
        tape[lines, columns.positive] = targets
        tape[lines, columns.positive + 1] = label_weights
        if self.stepper.state:
            for start, offset in zip(starts, self.offsets, strict=True):
                tape[columns.past - 1 - offset.before(back), columns.states] = start
        carry = self._buffers.carry.device
        learned, _, out = self._call_strides((weights, state, trace), carry, (0, 0, 1, back))
        at = (columns.past - 1) * columns.tape_shape[1] + columns.info.start
        return *learned, copy_out(out, at, INFO)

    def run_strides(
        self,
        learned: LearningCarry,
        carry: SharedArray,
        past: Float32s,
        xs: Float32s,
        lengths: tuple[int, int],
    ) -> tuple[LearningCarry, Float32s, Float32s]:
        """Step `carry` over strides xs (n, F), n <= `STRIDES_BLOCK`, with an update after each.

        Returns ((weights', state', trace'), rows (n, R), infos (n / S, 3)), the same as `advance`
        and `update` if all targets of the tape count. The call consumes the state and the trace of
        `learned`. past: the last entries of the tape, (`strides.past`, F + N + 1). lengths: the
        stride S and the horizon.
        """
        columns, (stride, horizon) = self.strides, lengths
        tape, elements = self._buffers.tape.host, self._buffers.elements.host
        tape[: columns.past, columns.inputs.start : columns.positive + 1] = past
        tape[: columns.past, columns.positive + 1] = 1.0
        elements[1 : 1 + len(xs), : xs.shape[1]] = xs
        learned, moved, out = self._call_strides(
            learned, carry.device, (stride, horizon, len(xs) // stride, -horizon % stride)
        )
        width = columns.tape_shape[1]
        lines = copy_out(out, columns.past * width, len(xs) * width).reshape(-1, width)
        copy_into(moved, carry, self.width)
        return learned, lines[:, columns.row], lines[stride - 1 :: stride, columns.info]

    def _call_strides(
        self, learned: LearningCarry, carry: Any, lengths: tuple[int, int, int, int]
    ) -> tuple[LearningCarry, Any, Any]:
        """Return ((weights', state', trace'), carry', tape') of the tape in the buffer."""
        tape, elements = self._buffers.tape, self._buffers.elements
        elements.host[0, : len(lengths)] = lengths
        weights, state, trace, carry, out = self._strides(
            *learned, carry, tape.device, elements.device
        )
        wait_ready(out)
        return (weights, state, trace), carry, out

    # ---- parity of the executables ----------------------------------------------------

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

    def _strides_parity(self, stride: int, horizon: int) -> bool:
        """Return whether `strides` gives the bits of single steps and updates."""
        xs, back = self._random(PARITY_STEPS // stride * stride), -horizon % stride
        past, members = self.strides.past, len(self.names)
        features = self.shape.features
        tape = np.zeros((past + len(xs), features + self.stepper.state + 1), np.float32)
        single: Any = self._packed, self.init_optimizer(self._start), self.init_trace()
        learned: Any = self._packed, self.init_optimizer(self._start), self.init_trace()
        ones = np.ones(self.tape_length, np.float32)
        carry, shared = self._first, self._shared(self._first)
        learned, rows, infos = self.run_strides(
            learned, shared, tape[:past], xs, (stride, horizon)
        )
        for k, x in enumerate(xs):
            carry, row = self.advance(single[0], carry, x[None])
            tape[past + k] = *row[0, members:], x[0] > 0
            if row[0].tobytes() != rows[k].tobytes():
                return False
            if (k + 1) % stride:
                continue
            end = past + k + 1
            last = end - horizon
            starts = tape[[last - 1 - offset.before(back) for offset in self.offsets]]
            *single, info = self.update(  # type: ignore[call-arg]
                *single,
                tape[last - self.tape_length : last, :features].copy(),
                starts[:, features:-1].copy(),
                tape[end - self.tape_length : end, -1].copy(),
                ones,
                back,
            )
            if info.tobytes() != infos[k // stride].tobytes():
                return False
        pairs = zip(
            jax.tree.leaves((*learned, shared.host)),
            jax.tree.leaves((*single, carry)),
            strict=True,
        )
        return all(
            np.asarray(key_data(a)).tobytes() == np.asarray(key_data(b)).tobytes()
            for a, b in pairs
        )
