"""Features with memory: compiled once, stepped tick by tick or in blocks, to the same bits.

`features` computes what depends on the last few raw ticks alone. Everything else needs a memory of
its own: a window, a half-life, a lag of thousands of ticks, the value of another stream. A
`Program` is a list of steps that read and write numbered slots, and a `Machine` runs it for one
stream with the memories of that stream. Slots 0 to C - 1 are the columns of the tick and slot C is
its time; constants follow, then one slot for each step. Equal expressions share a slot.

A tick is stepped first and judged by its features afterwards. A refused tick is undone: each
memory can take its last step back.

**Other streams.** `of("ES", x)` reads a `Board`, which contains the value of x at the last tick of
ES that was accepted. The machine of ES also runs the expressions that others read of it, and
writes their values to the board after each accepted tick. Within a block of one stream the other
streams do not move, so the value is one number for the whole block.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..errors import ConfigurationError
from ..schema import LIMIT
from ..typing import Bools, Float32s, Float64s, Int64s
from .features import TINY, check_columns
from .functions import (
    ALWAYS,
    Function,
    constant,
    exactly,
    is_constant,
    pure_lag,
    resolve,
    window_of,
)
from .memory import Memory
from .queues import Lag
from .trees import Call, Column, Expression, Number, Span, Text, columns_in

NS_PER_S = 1e9

SECOND = 1_000_000_000

PROBES, PROBE_NS = 24, 25_200 * SECOND
"""Ticks made at random, and the time from one to the next: a week in all."""

MAX_YOUNG = 1000
"""Ticks that may come without an element at first, besides those that fill lags."""

Run: TypeAlias = Callable[[list[Any]], None]
"""Fills a slot from others."""

State: TypeAlias = list[list[np.ndarray]]
"""The arrays of each memory of a machine, the numbers of the machine itself first."""


class Foreign(NamedTuple):
    """An expression over the ticks of another stream; `tree` is None for the time of its ticks."""

    stream: str
    tree: Expression | None


class Board:
    """The last values that streams show to each other: `values` and `times` (ns) by number."""

    def __init__(self) -> None:
        self.numbers: dict[Foreign, int] = {}
        self.values: list[float] = []
        self.times: list[int | None] = []

    def number(self, foreign: Foreign) -> int:
        """Return the number of a value, added if it is new."""
        if foreign not in self.numbers:
            self.numbers[foreign] = len(self.values)
            self.values.append(math.nan)
            self.times.append(None)
        return self.numbers[foreign]

    def set(self, number: int, value: float, t_ns: int) -> None:
        """Set a value at a time, unless it is missing."""
        if math.isfinite(value):
            self.values[number], self.times[number] = value, t_ns

    def state(self) -> list[np.ndarray]:
        """Return the values (k,), the times (k,), and which are known (k,)."""
        times = np.array([time or 0 for time in self.times], np.int64)
        known = np.array([time is not None for time in self.times], np.int64)
        return [np.array(self.values, np.float64), times, known]

    def restore(self, arrays: Sequence[np.ndarray]) -> None:
        """Continue from a state; raises ValueError where it does not fit."""
        if [len(array) for array in arrays] != [len(self.values)] * 3:
            raise ValueError("values of other streams do not fit")
        values, times, known = (array.tolist() for array in arrays)
        self.values[:] = values
        self.times[:] = [time if there else None for time, there in zip(times, known, strict=True)]


class _Node(NamedTuple):
    """A step: `target` gets the value of `function` of the slots `sources`."""

    function: Function
    target: int
    sources: tuple[int, ...]
    options: tuple[Any, ...] = ()


class _ForeignNode(NamedTuple):
    """A step: `target` gets value `number` of the board, or its age; limit: its highest age."""

    target: int
    number: int
    limit_ns: int | None
    is_age: bool


class Program:
    """Expressions compiled for machines of streams with the given columns.

    trees: the expressions, the target first. stream: the name of the stream whose machines run
    it, if others refer to it; what it reads of itself is its own value.

    shown: the numbers on the board of the expressions, if other streams read them. alone: take
    the stream itself for every other one, and one tick for every lag.

    Attributes: `fill`, the number of ticks that come before the first element; `foreign`, the
    numbers of the values of other streams; `uses_time`, whether times are read.
    """

    def __init__(
        self,
        trees: Sequence[Expression],
        columns: Sequence[str],
        board: Board,
        stream: str = "",
        shown: Sequence[int] = (),
        *,
        alone: bool = False,
    ) -> None:
        self._alone = alone
        self.shown = tuple(shown)
        check_columns(columns_in(trees), columns)
        self.board, self.stream = board, stream
        self.width = len(columns)
        self.template: list[Any] = [0.0] * self.width + [0]
        self.nodes: list[_Node | _ForeignNode] = []
        self.foreign: list[int] = []
        self._columns = list(columns)
        self._known: dict[object, int] = {}
        self._delays = [0] * (self.width + 1)
        self.outputs = [self._compile(tree) for tree in trees]
        self.fill = max((self._delays[slot] for slot in self.outputs), default=0)
        self.uses_time = bool(self.foreign) or any(map(self._reads_time, self.nodes))

    def _reads_time(self, node: _Node | _ForeignNode) -> bool:
        return isinstance(node, _ForeignNode) or (
            self.width in node.sources
            or any(isinstance(one, Span) and one != ALWAYS for one in node.options)
        )

    def _compile(self, tree: Expression) -> int:
        if tree not in self._known:
            self._known[tree] = self._add(tree)
        return self._known[tree]

    def _add(self, tree: Expression) -> int:
        if isinstance(tree, Column):
            return self._columns.index(tree.name)
        if is_constant(tree) and pure_lag(tree) == 0:  # vwap(price, 1, 20) sums a constant
            return self._slot(constant(tree), 0)
        assert isinstance(tree, Call)
        function, arguments = resolve(tree)
        if function.group == "streams":
            return self._foreign(function.name, *arguments)
        if function.expands is not None:
            return self._compile(function.expands(*arguments))
        if function.lag:
            return self._lagged(function, arguments)
        if self._alone and function.late:
            return self._compile(arguments[0])
        sources, options = [], []
        for parameter, argument in zip(function.parameters, arguments, strict=True):
            if parameter.kind == "series":
                sources.append(self._compile(argument))
            else:
                options.append(_plain(argument))
        if function.time:
            sources.insert(0, self.width)
        return self._node(function, tuple(sources), tuple(options))

    def _lagged(self, function: Function, arguments: Sequence[Expression]) -> int:
        """Compile a function of a value now and the same value some ticks ago."""
        if function.time:
            return self._node(ELAPSED, (self.width,), (), 1)
        now, by = self._compile(arguments[0]), arguments[1]
        if self._alone:
            by = Number(1.0, whole=True)
        delay = int(by.value) if isinstance(by, Number) else 0
        before = self._node(BEFORE, (now,), (_plain(by),), delay)
        return self._node(function, (now, before))

    def _foreign(self, function: str, name: Expression, *rest: Expression) -> int:
        assert isinstance(name, Text)
        is_age = function == "age"
        if name.value == self.stream or self._alone:
            return self._slot(0.0, 0) if is_age else self._compile(rest[0])
        limit = None
        if not is_age and isinstance(rest[1], Span) and rest[1] != ALWAYS:
            limit = rest[1].ns
        number = self.board.number(Foreign(name.value, None if is_age else rest[0]))
        self.foreign.append(number)
        target = self._slot(0.0, 0)
        self.nodes.append(_ForeignNode(target, number, limit, is_age))
        return target

    def _node(
        self,
        function: Function,
        sources: tuple[int, ...],
        options: tuple[Any, ...] = (),
        delay: int = 0,
    ) -> int:
        key = function.name, sources, options
        if key not in self._known:
            before = max((self._delays[slot] for slot in sources), default=0)
            if function.memory is not None:
                _check_memory(function, options)
            target = self._known[key] = self._slot(0.0, before + delay)
            self.nodes.append(_Node(function, target, sources, options))
        return self._known[key]

    def _slot(self, start: float, delay: int) -> int:
        self.template.append(start)
        self._delays.append(delay)
        return len(self.template) - 1


def _check_memory(function: Function, options: tuple[Any, ...]) -> None:
    assert function.memory
    try:
        function.memory(*options)
    except ValueError as error:
        raise ConfigurationError(f"{function.name}: {error}", key="features") from None


def _plain(argument: Expression) -> Any:
    """Return a literal as what the memory of a function is made with."""
    if isinstance(argument, Number):
        return int(argument.value) if argument.whole else argument.value
    assert isinstance(argument, Span | Text)
    return argument if isinstance(argument, Span) else argument.value


class Elapsed:
    """Seconds since the tick before; NaN at the first tick."""

    def __init__(self) -> None:
        self._times: tuple[int | None, int | None] = None, None  # the last two

    def step(self, t_ns: int) -> float:
        """Take a tick; see `Memory`."""
        before = self._times[1]
        self._times = before, t_ns
        return math.nan if before is None else (t_ns - before) / NS_PER_S

    def undo(self) -> None:
        """Take the last step back."""
        self._times = None, self._times[0]

    def block(self, t_ns: Int64s) -> Float64s:
        """Take ticks t_ns (m,)."""
        out = np.full(len(t_ns), np.nan)
        if len(t_ns):
            np.divide(t_ns[1:] - t_ns[:-1], NS_PER_S, out[1:])
            out[0] = self.step(int(t_ns[0]))
            self._times = None, int(t_ns[-1])
        return out

    def state(self) -> list[np.ndarray]:
        """Return the time of the last tick, if there was one."""
        return [np.array([t for t in self._times[1:] if t is not None], np.int64)]

    def restore(self, arrays: Sequence[np.ndarray]) -> None:
        """Continue from a state; raises ValueError where it does not fit."""
        (times,) = arrays
        if times.shape not in ((0,), (1,)) or times.dtype != np.int64:
            raise ValueError(f"elapsed: times of the shape {times.shape}")
        self._times = None, int(times[0]) if len(times) else None

    def clear(self) -> None:
        """Forget everything."""
        self._times = None, None


BEFORE = Function("before", (), "", "memory", memory=lambda by: Lag(**window_of(by)))
"""The value some ticks ago, for functions of lag."""

ELAPSED = Function("elapsed", (), "", "memory", memory=Elapsed)
"""The form with memory of `elapsed()`: float64 has no room for the nanoseconds of a time."""


class StatefulFeatures:
    """Features with memory, over ticks with the given columns.

    names: the features in normal form. trees: what is computed for them. The other attributes are
    those of `FeatureSet`; `lag` is 0, since no raw ticks are kept. `probe` is a machine that shows
    what a tick alone makes of the features.

    Raises ConfigurationError for an unknown column and for what streams cannot show each other.
    """

    lag = 0

    def __init__(
        self, names: Sequence[str], trees: Sequence[Expression], columns: Sequence[str]
    ) -> None:
        self.names, self.columns_used = tuple(names), columns_in(trees)
        self.board = Board()
        self._trees, self._columns = tuple(trees), tuple(columns)
        self._programs = {"": Program(trees, columns, self.board)}
        self.fill, self.uses_time = self._programs[""].fill, self._programs[""].uses_time
        self._shows: dict[str, Program] = {}
        self.probe = Machine(Program(trees, columns, Board(), alone=True))
        for name in dict.fromkeys(foreign.stream for foreign in tuple(self.board.numbers)):
            self._shows[name] = self._show(name)
            self._programs[name] = Program(trees, columns, self.board, name)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def others(self) -> tuple[str, ...]:
        """The streams that features refer to."""
        return tuple(self._shows)

    def _show(self, name: str) -> Program:
        shown = {f.tree or _AGE: k for f, k in self.board.numbers.items() if f.stream == name}
        count = len(self.board.numbers)
        program = Program(list(shown), self._columns, self.board, name, list(shown.values()))
        if program.foreign or len(self.board.numbers) > count:
            raise ConfigurationError(
                f"what is read of the stream {name!r} refers to another stream itself: write "
                "of(...) only around columns and functions of one stream",
                key="features",
            )
        return program

    def machine(self, stream: str) -> Machine:
        """Return a machine with empty memory for a stream."""
        return Machine(self._programs.get(stream, self._programs[""]), self._shows.get(stream))

    @functools.cached_property
    def judged(self) -> Bools:
        """Which features (F,) can be judged by a tick that repeats.

        The others are never finite then, such as `x / std(x, 20)`. Random ticks of several
        orders of magnitude, at all hours, find them.
        """
        random, judged = np.random.default_rng(0), np.zeros(len(self), np.bool_)
        for k in range(PROBES):
            row = (
                random.uniform(0.5, 1.5, len(self._columns))
                * 10.0 ** (k % 6 - 2)
                * (-1) ** (k // 6)
            )
            judged |= np.abs(self.repeated(k * PROBE_NS, row.tolist())) < LIMIT
        return judged

    def repeated(self, t_ns: int, row: Sequence[float]) -> Float64s:
        """Return the features (F,) of a tick that repeats every second."""
        self.probe.clear()
        times = range(t_ns, t_ns + (self.probe.program.fill + 1) * SECOND, SECOND)
        return np.array([self.probe.step(t, row) for t in times][-1], np.float64)

    def good(self, *_: object) -> bool:
        """Return False: only a step of the machine can tell."""
        return False

    def evaluate(self, t_ns: Int64s, values: Float64s) -> Float32s:
        """Return the elements (m - fill, F) of a stream's first ticks; see `FeatureSet`."""
        machine = self.machine("")
        return machine.block(t_ns, values)[machine.program.fill :]


_AGE = Number(0.0, whole=False)
"""Stands for the time of a stream's ticks on the board: its value is always known."""


class Machine:
    """Runs a program for one stream.

    shows: the program of what other streams read of this one, None if they do not.

    Attributes: `count`, the ticks that were stepped since the memory was empty; `missed`, the
    good ticks in a row that this memory refused, -1 before the first element; `is_known`, whether
    all streams that the features refer to have shown something; `ready`, whether the next accepted
    tick makes an element.
    """

    def __init__(self, program: Program, shows: Program | None = None) -> None:
        self.program = program
        self.count, self.missed, self.ready, self.is_known = 0, -1, False, False
        self._slots = program.template[:]
        self._memories: list[Memory] = []
        self._late: list[Any] = []
        self._runs: list[Run] = []
        self._blocks: list[Run] = []
        for node in program.nodes:
            run, block = self._node(node) if isinstance(node, _Node) else self._foreign(node)
            self._runs.append(run)
            self._blocks.append(block)
        self._shows = None if shows is None else Machine(shows)
        self._set_ready()

    def _node(self, node: _Node) -> tuple[Run, Run]:
        function, target, sources, options = node
        time = self.program.width
        if function.memory is None:
            one, block = exactly(function), function.block
            if options:
                one, block = _with(one, options), _with(block, options)
            return _call(one, target, sources), _call(block, target, sources)
        memory = function.memory(*options)
        self._memories.append(memory)
        if function.late:
            self._late.append(memory)
        if sources[:1] != (time,):
            sources = time, *sources
        return _call(memory.step, target, sources), _block_of(memory, target, sources)

    def _foreign(self, node: _ForeignNode) -> tuple[Run, Run]:
        target, number, limit, is_age = node
        values, times, time = (
            self.program.board.values,
            self.program.board.times,
            self.program.width,
        )

        def run(slots: list[Any]) -> None:
            at = times[number]
            if at is None or (limit is not None and slots[time] - at > limit):
                slots[target] = math.nan
            else:
                slots[target] = (slots[time] - at) / NS_PER_S if is_age else values[number]

        def block(slots: list[Any]) -> None:
            t_ns, at = slots[time], times[number]
            if at is None:
                slots[target] = np.full(len(t_ns), math.nan)
            elif is_age:
                slots[target] = (t_ns - at) / NS_PER_S
            else:
                old = np.zeros(len(t_ns), np.bool_) if limit is None else t_ns - at > limit
                slots[target] = np.where(old, math.nan, values[number])

        return run, block

    # ---- one tick ---------------------------------------------------------------------

    def step(self, t_ns: int, values: Sequence[float]) -> list[float]:
        """Step one tick, and return the features after it; `undo` takes it back."""
        slots, width = self._slots, self.program.width
        slots[:width] = values
        slots[width] = t_ns
        for run in self._runs:
            run(slots)
        return [slots[k] for k in self.program.outputs]

    def problem(self, attribute: str = "problem") -> str:
        """Return why a plug-in failed in the last step, or ""; see `PluginMemory`."""
        return next(filter(None, (getattr(one, attribute, "") for one in self._memories)), "")

    def undo(self) -> None:
        """Take the last step back."""
        for memory in self._memories:
            memory.undo()

    @property
    def is_young(self) -> bool:
        """Whether ticks may still come without an element, since none was made so far."""
        return self.missed < 0 and self.count < self.program.fill + MAX_YOUNG

    def accept(
        self, t_ns: int, values: Sequence[float], *, fills: bool = True, whole: bool = True
    ) -> None:
        """Count the tick that was stepped last, and show it to other streams.

        fills: whether it was stepped; before other streams are known, it is not. whole: whether it
        made an element.
        """
        self.count += fills
        if whole:
            self.missed = 0
        if self._shows is not None:
            for number, value in zip(
                self._shows.program.shown, self._shows.step(t_ns, values), strict=True
            ):
                self.program.board.set(number, value, t_ns)
        if not self.ready:
            self._set_ready()

    # ---- blocks -----------------------------------------------------------------------

    def block(self, t_ns: Int64s, values: Float64s) -> Float32s:
        """Step ticks t_ns (m,), values (m, C), and return their features float32 (m, F).

        The bits are those of `step`, tiny values replaced by 0.
        """
        out = np.empty((len(t_ns), len(self.program.outputs)), np.float32)
        with np.errstate(all="ignore"):
            for k, column in enumerate(self.columns(t_ns, values)):
                out[:, k] = column
        return without_tiny(out)

    def accept_block(self, t_ns: Int64s, values: Float64s) -> None:
        """Count the ticks of the last block, and show them to other streams."""
        self.count, self.missed = self.count + len(t_ns), 0
        if self._shows is not None and len(t_ns):
            made = self._shows.columns(t_ns, values)
            for number, column in zip(self._shows.program.shown, made, strict=True):
                at = np.flatnonzero(np.isfinite(column))
                if len(at):
                    self.program.board.set(number, float(column[at[-1]]), int(t_ns[at[-1]]))
        if not self.ready:
            self._set_ready()

    def columns(self, t_ns: Int64s, values: Float64s) -> list[Float64s]:
        """Step ticks, and return their features in float64, (m,) each."""
        slots = self._slots[:]
        slots[: self.program.width] = values.T
        slots[self.program.width] = t_ns
        with np.errstate(all="ignore"):
            for block in self._blocks:
                block(slots)
        return [np.broadcast_to(slots[slot], len(t_ns)) for slot in self.program.outputs]

    # ---- state ------------------------------------------------------------------------

    def _set_ready(self) -> None:
        board = self.program.board
        self.is_known = all(board.times[number] is not None for number in self.program.foreign)
        self.ready = self.is_known and self.count >= self.program.fill
        self.ready &= all(memory.is_ready for memory in self._late)

    def look(self) -> bool:
        """Return whether the next accepted tick makes an element, after others have moved."""
        if not self.ready:
            self._set_ready()
        return self.ready

    def state(self) -> State:
        """Return copies of all arrays of the memories."""
        own = [[np.array([self.count, self.missed])], *(one.state() for one in self._memories)]
        for array in (array for arrays in own for array in arrays):
            if array.dtype == np.float64:
                array[array != array] = math.nan  # two ways to the same state: one NaN
        return own if self._shows is None else [*own, *self._shows.state()]

    def restore(self, state: Sequence[Sequence[np.ndarray]]) -> None:
        """Continue from a state; raises ValueError where it does not fit."""
        size = 1 + len(self._memories)
        shown = 0 if self._shows is None else 1 + len(self._shows._memories)
        if len(state) != size + shown or len(state[0]) != 1 or state[0][0].shape != (2,):
            raise ValueError(f"{len(state)} memories, and the features have {size + shown}")
        self.count, self.missed = state[0][0].tolist()
        for memory, arrays in zip(self._memories, state[1:size], strict=True):
            memory.restore(list(arrays))
        if self._shows is not None:
            self._shows.restore(state[size:])
        self.ready = False
        self._set_ready()

    def clear(self) -> None:
        """Empty all memories."""
        for memory in self._memories:
            memory.clear()
        if self._shows is not None:
            self._shows.clear()
        self.count, self.missed, self.ready = 0, -1, False
        self._set_ready()

    def copy(self) -> Machine:
        """Return a copy that shows nothing to other streams."""
        other = Machine(self.program)
        other.restore(self.state()[: 1 + len(self._memories)])
        return other


def without_tiny(elements: Float32s) -> Float32s:
    """Replace in place what compiled code takes for zero, see `TINY`; return the array."""
    elements[np.abs(elements) < TINY] = 0.0
    return elements


def _with(function: Any, options: tuple[Any, ...]) -> Callable[..., Any]:
    return lambda *slots: function(*slots, *options)


def _call(function: Any, target: int, sources: tuple[int, ...]) -> Run:
    """Return what puts the value of `function` of some slots into another one."""
    if len(sources) == 1:
        (a,) = sources

        def unary(slots: list[Any]) -> None:
            slots[target] = function(slots[a])

        return unary
    if len(sources) == 2:
        a, b = sources

        def binary(slots: list[Any]) -> None:
            slots[target] = function(slots[a], slots[b])

        return binary

    def call(slots: list[Any]) -> None:
        slots[target] = function(*[slots[k] for k in sources])

    return call


def _block_of(memory: Memory, target: int, sources: tuple[int, ...]) -> Run:
    """Return what runs a memory over a block; numbers become arrays."""

    def block(slots: list[Any]) -> None:
        t_ns, *xs = [slots[k] for k in sources]
        series = [np.ascontiguousarray(np.broadcast_to(x, len(t_ns)), np.float64) for x in xs]
        slots[target] = memory.block(t_ns, *series)

    return block
