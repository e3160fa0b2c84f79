"""Features in the user's own Python: pure functions that a memory runs as it runs built-in ones.

`init()` returns the state, a tuple of float64 or int64 arrays whose shapes and types never change.
`step(state, t_ns, *x)` returns the next state and a value. The old state stays as it is, so a step
is taken back by returning to it. All arrays that a function receives are read-only: a function
that writes into one fails.

`step` defines the feature. A call of it that fails has no value, which refuses the tick, and its
state stays. A `block` that fails is replaced by steps, with one warning: if it refused ticks, what
is accepted would depend on how the ticks are cut into blocks.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..errors import ConfigurationError, InputWarning
from ..typing import Float64s, Int64s
from .functions import FUNCTIONS, Function, Parameter, register

Arrays: TypeAlias = tuple[np.ndarray, ...]

MAX_ARGUMENTS = 16

MAX_STATE = 1_000_000
"""Numbers in a state: each stream has one, and each block of ticks copies it."""

NUMBERS = (int, float, np.integer, np.floating, np.bool_)


class Feature(NamedTuple):
    """A function for feature expressions; `feature` makes and checks one."""

    name: str
    init: Callable[[], Any]
    step: Callable[..., Any]
    block: Callable[..., Any] | None = None
    arguments: int = 1
    doc: str = ""


FEATURES: dict[str, Feature] = {}
"""The registered ones by name."""


def feature(
    name: str,
    init: Callable[[], Any],
    step: Callable[..., Any],
    block: Callable[..., Any] | None = None,
    *,
    arguments: int = 1,
    doc: str = "",
) -> Feature:
    """Return a function of your own for feature expressions, for `register_feature` or --plugin.

    name: an identifier. init: returns the state, a tuple of float64 or int64 arrays. step:
    `step(state, t_ns, *x) -> (state, value)`, with t_ns an int and each x a float, NaN where it is
    missing. block: the same for m ticks, `block(state, t_ns, *xs) -> (state, values)` with int64
    t_ns (m,), float64 xs (m,) and values (m,); without it `step` is called for each tick.
    arguments: number of x. doc: one line.

    The functions must be pure: they depend on their arguments only, and write into none of them.
    Raises ConfigurationError for a wrong argument.
    """
    made = Feature(name, init, step, block, arguments, doc)
    if not isinstance(name, str) or not name.isidentifier():
        raise ConfigurationError(f"the name of a feature is an identifier, not {name!r}")
    if name in FUNCTIONS and name not in FEATURES:
        raise ConfigurationError(f"{name} is a built-in function: choose another name")
    for called, what in (("init", init), ("step", step), ("block", block or step)):
        if not callable(what):
            raise ConfigurationError(f"feature {name}: {called} is not a function but {what!r}")
    if not isinstance(arguments, int) or not 0 <= arguments <= MAX_ARGUMENTS:
        message = f"arguments is a number from 0 to {MAX_ARGUMENTS}, not {arguments!r}"
        raise ConfigurationError(f"feature {name}: {message}")
    PluginMemory(made)
    return made


def register_feature(
    name: str,
    init: Callable[[], Any],
    step: Callable[..., Any],
    block: Callable[..., Any] | None = None,
    *,
    arguments: int = 1,
    doc: str = "",
    replace: bool = False,
) -> Feature:
    """Add a function of your own to those of feature expressions, in this process.

    The arguments are those of `feature`. replace: replace another feature of that name; sessions
    that exist keep the old one.

    Raises ConfigurationError for a wrong argument, and for a name that another feature has.
    """
    made = feature(name, init, step, block, arguments=arguments, doc=doc)
    if FEATURES.get(name, made) != made and not replace:
        raise ConfigurationError(
            f"there is another feature {name}: choose another name, or register with replace=True"
        )
    names = ["x"] if arguments == 1 else [f"x{k + 1}" for k in range(arguments)]
    parameters, doc = tuple(map(Parameter, names)), doc or "a function of your own"
    register(Function(name, parameters, doc, "plug-ins", memory=lambda: PluginMemory(made)))
    FEATURES[name] = made
    return made


class PluginMemory:
    """The memory of a feature; see `Memory`.

    Attributes: `problem`, why the last step failed, or ""; `block_problem`, why a block was
    replaced by steps, or "". Raises ConfigurationError for a wrong initial state.
    """

    def __init__(self, feature: Feature) -> None:
        self._feature, self.problem, self.block_problem = feature, "", ""
        try:
            start = feature.init()
            self._start: Arrays = _arrays(start)
        except Exception as error:
            raise ConfigurationError(self._failure("init", error)) from None
        self._make: Callable[[Any], Any] = getattr(type(start), "_make", tuple)  # a NamedTuple
        self._state: Any = None
        self._before: Any = None
        self._kinds = [(array.shape, array.dtype) for array in self._start]
        self.clear()

    def _failure(self, function: str, error: Exception) -> str:
        what = str(error)
        if type(error) is not _ResultError:
            what = f"raised {type(error).__name__}: {what}"
        if "read-only" in what:
            what += " (return new arrays instead of writing into the arguments)"
        called = getattr(getattr(self._feature, function), "__name__", function)
        named = function if called == function else f"{function} ({called})"
        return f"feature {self._feature.name}: its {named} {' '.join(what.split())}; correct it"

    def _next(self, result: Any) -> tuple[Any, Any]:
        """Return the state and the value of a result, as they are used further."""
        if not isinstance(result, tuple) or len(result) != 2:
            raise _ResultError(f"returned {_short(result)} instead of (state, value)")
        state = _arrays(result[0])
        if kinds := self._unlike(state):
            raise _ResultError(f"returned a state with {kinds}")
        return self._make(state), result[1]

    def _unlike(self, arrays: Sequence[np.ndarray]) -> str:
        """Return how arrays differ from those of `init`, or ""."""
        kinds = [(array.shape, array.dtype) for array in arrays]
        if kinds == self._kinds:
            return ""
        both = kinds, self._kinds
        listed = (", ".join(f"{t}{list(s)}" for s, t in one) or "no array" for one in both)
        return "{} instead of {}, as init returns".format(*listed)

    def step(self, t_ns: int, *xs: float) -> float:
        """Take a tick; return its value, NaN where the step fails."""
        self._before, self.problem = self._state, ""
        try:
            with np.errstate(all="ignore"):
                state, value = self._next(self._feature.step(self._state, t_ns, *xs))
            if not isinstance(value, NUMBERS):
                raise _ResultError(f"returned the value {_short(value)}, not a number")
            number = float(value)
        except Exception as error:
            self.problem = self._failure("step", error)
            return math.nan
        self._state = state
        return number

    def undo(self) -> None:
        """Take the last step back."""
        self._state = self._before

    def block(self, t_ns: Int64s, *xs: Float64s) -> Float64s:
        """Take ticks t_ns (m,), xs (m,); return their values (m,)."""
        if self._feature.block is not None and len(t_ns):
            try:
                return self._by_block(_read_only(t_ns), *map(_read_only, xs))
            except Exception as error:
                if not self.block_problem:
                    self.block_problem = self._failure("block", error)
                    message = f"{self.block_problem}; steps are used instead"
                    warnings.warn(message, InputWarning, stacklevel=2)
        rows = zip(t_ns.tolist(), *(x.tolist() for x in xs), strict=True)
        return np.array([self.step(*row) for row in rows], np.float64)

    def _by_block(self, t_ns: Int64s, *xs: Float64s) -> Float64s:
        assert self._feature.block
        with np.errstate(all="ignore"):
            state, values = self._next(self._feature.block(self._state, t_ns, *xs))
        found = isinstance(values, np.ndarray) and (values.shape, values.dtype.kind in "fiub")
        if found != (t_ns.shape, True):
            raise _ResultError(f"returned the values {_short(values)} for {len(t_ns)} ticks")
        self._state = state
        return np.array(values, np.float64)

    def state(self) -> list[np.ndarray]:
        """Return copies of the arrays."""
        return [array.copy() for array in self._state]

    def restore(self, arrays: Sequence[np.ndarray]) -> None:
        """Continue from a state; raises ValueError where it does not fit."""
        if kinds := self._unlike(arrays):
            raise ValueError(f"feature {self._feature.name}: a state with {kinds}")
        self._state = self._before = self._make(_arrays(tuple(array.copy() for array in arrays)))

    def clear(self) -> None:
        """Forget everything."""
        self._state = self._before = self._make(self._start)


class _ResultError(Exception):
    """What a function returned is not what it must return."""


def _arrays(state: Any) -> Arrays:
    """Return a state as read-only arrays that nobody else can write into."""
    kinds = np.ndarray | np.generic
    if not isinstance(state, tuple) or not all(isinstance(one, kinds) for one in state):
        raise _ResultError(f"returned the state {_short(state)}, not a tuple of NumPy arrays")
    out = []
    for array in map(np.asarray, state):  # the sum of two arrays without dimensions is a scalar
        if array.dtype not in (np.float64, np.int64):
            raise _ResultError(f"returned an array of {array.dtype}; use float64 or int64")
        own = array if array.flags.owndata else array.copy()
        own.flags.writeable = False
        out.append(own)
    if (size := sum(array.size for array in out)) > MAX_STATE:
        raise _ResultError(f"returned a state of {size:,} numbers, more than {MAX_STATE:,}")
    return tuple(out)


def _read_only(array: np.ndarray) -> Any:
    view = array.view()
    view.flags.writeable = False
    return view


def _short(value: Any) -> str:
    """Return what a wrong result is, in a few words."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    return f"of type {type(value).__name__} ({value!r:.60})"
