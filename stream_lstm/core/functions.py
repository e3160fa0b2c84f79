"""The functions of feature expressions: the only place that declares them.

A function without memory has two forms. `block` computes it over float64 arrays (m,), of which
some may be plain floats; `one` computes one value in plain Python. Both give the same bits, except
that `one` of an `inexact` function may differ in the last ones: IEEE 754 does not define log, exp
and tanh to the last bit. `exactly` computes one value with the bits of the block for those too.

The bits of a block do not depend on its length, for two reasons: every block works element by
element, and the inexact functions always get contiguous float64 arrays, for which NumPy takes the
same code path for one element as for a thousand. NaN is one value here: its sign and payload are
not defined.

A function of lag k gets the values at its ticks and those k ticks before, as two arguments.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from ..errors import ConfigurationError
from . import clock, queues, recurrences, windows
from .recurrences import Bar
from .trees import Call, Column, Expression, Number, Span, Text

NS_PER_S = 1e9

MAX_PURE_LAG = 16
"""Earlier ticks that the features of a set without other memory may need."""

MAX_NODES = 2000
"""Functions and arguments of an expression, written in full; an expression has 500 at most."""

_HALF = np.array(0.5)  # NumPy takes longer to convert a Python number


class Parameter(NamedTuple):
    """A parameter: `kind` is "series", "window", "span", "number" or "text".

    A window is a whole number of elements or a `Span`. Trailing parameters may have a default.
    """

    name: str
    kind: str = "series"
    default: Expression | None = None


class Function(NamedTuple):
    """A function of feature expressions.

    doc: one line for manuals. group: "arithmetic", "prices", "memory", "windows", "clock",
    "streams", "missing" or "plug-ins". block, one, inexact: see the module. time: both take the
    times of the ticks, in nanoseconds, as their first argument. lag: both take the values some
    ticks before as their last argument. memory: returns the memory of a function, from its
    parameters that are not series. expands: returns the expression that a call is short for, from
    its arguments. windowed: the name of the function that is meant if the second argument is a
    window. late: the memory has no value at first; its `is_ready` says whether it has one.
    """

    name: str
    parameters: tuple[Parameter, ...]
    doc: str
    group: str
    block: Callable[..., Any] | None = None
    one: Callable[..., float] | None = None
    inexact: bool = False
    time: bool = False
    lag: bool = False
    memory: Callable[..., Any] | None = None
    expands: Callable[..., Expression] | None = None
    windowed: str | None = None
    late: bool = False


FUNCTIONS: dict[str, Function] = {}
"""By name."""


def register(function: Function) -> None:
    """Add a function to `FUNCTIONS`, or replace the one of the same name."""
    FUNCTIONS[function.name] = function


def signature(function: Function) -> str:
    """Return how the function is written, such as `clip(x, low, high)` or `lag(x, k=1)`."""
    names = [
        one.name if one.default is None else f"{one.name}={one.default}"
        for one in function.parameters
    ]
    if function.name == "neg":
        return f"-{names[0]}"
    if not function.name.isidentifier():
        return f" {function.name} ".join(names)
    return f"{function.name}({', '.join(names)})"


# ---- calls -------------------------------------------------------------------------------------


def is_window(argument: Expression) -> bool:
    """Return whether an argument is written as a window: a whole number or a span."""
    return isinstance(argument, Span) or (isinstance(argument, Number) and argument.whole)


def function_of(name: str, arguments: tuple[Expression, ...]) -> Function:
    """Return the function that a call means: `min(x, 20)` is that of a window."""
    function = FUNCTIONS[name]
    if function.windowed and len(arguments) == 2 and is_window(arguments[1]):
        return FUNCTIONS[function.windowed]
    return function


def resolve(call: Call) -> tuple[Function, tuple[Expression, ...]]:
    """Return the function of a call and all its arguments, defaults included."""
    function = function_of(call.function, call.arguments)
    rest = function.parameters[len(call.arguments) :]
    defaults = [one.default for one in rest if one.default is not None]
    return function, (*call.arguments, *defaults)


def expand(tree: Expression) -> Expression:
    """Return the tree with every call that is short for another expression replaced.

    Raises ConfigurationError if that has more than `MAX_NODES` functions and arguments: each level
    of nested calls may repeat its arguments.
    """
    if not isinstance(tree, Call):
        return tree
    function, arguments = resolve(tree)
    parts = tuple(expand(part) for part in arguments)
    if not function.expands:
        return Call(tree.function, parts[: len(tree.arguments)])
    longer = function.expands(*parts)
    if _size(longer) > MAX_NODES:
        message = f"{function.name} is too deep inside functions like it; use fewer of them"
        raise ConfigurationError(message, key="features")
    return expand(longer)


def _size(tree: Expression) -> int:
    return 1 + sum(map(_size, tree.arguments)) if isinstance(tree, Call) else 1


def series_in(call: Call) -> list[Expression]:
    """Return the arguments of a call that are series."""
    function, arguments = resolve(call)
    pairs = zip(function.parameters, arguments, strict=True)
    return [argument for parameter, argument in pairs if parameter.kind == "series"]


def is_constant(tree: Expression) -> bool:
    """Return whether a tree has the same value at every tick because it reads nothing."""
    if not isinstance(tree, Call):
        return not isinstance(tree, Column)
    if resolve(tree)[0].time:
        return False
    series = series_in(tree)
    return bool(series) and all(map(is_constant, series))


@np.errstate(all="ignore")
def constant(tree: Expression) -> float:
    """Return the value of a tree without memory for which `is_constant`."""
    if isinstance(tree, Number):
        return tree.value
    assert isinstance(tree, Call)
    function, arguments = resolve(tree)
    assert function.block
    return float(function.block(*[np.array([constant(part)]) for part in arguments])[0])


def is_pure(trees: Iterable[Expression]) -> bool:
    """Return whether the last `MAX_PURE_LAG` ticks are memory enough for all trees."""
    lags = [pure_lag(expand(tree)) for tree in trees]
    return all(lag is not None and lag <= MAX_PURE_LAG for lag in lags)


def pure_lag(tree: Expression) -> int | None:
    """Return how many earlier ticks an expanded tree needs; None if it needs another memory."""
    if not isinstance(tree, Call):
        return 0
    function, arguments = resolve(tree)
    own = lag_of(function, arguments)
    inner = [pure_lag(part) for part in series_in(tree)]
    if function.block is None or own is None or None in inner:
        return None
    return own + max([lag for lag in inner if lag is not None], default=0)


def uses_time(tree: Expression) -> bool:
    """Return whether the value of a tree depends on the times of the ticks."""
    if not isinstance(tree, Call):
        return isinstance(tree, Span) and tree != ALWAYS
    function, arguments = resolve(tree)
    clock = function.time or function.group in ("clock", "streams")
    return clock or any(map(uses_time, arguments))


def lag_of(function: Function, arguments: tuple[Expression, ...]) -> int | None:
    """Return the lag that a function adds to its arguments' own; None for a span."""
    if not function.lag:
        return 0
    k = arguments[-1] if arguments else Number(1.0, whole=True)
    return int(k.value) if isinstance(k, Number) else None


# ---- values ------------------------------------------------------------------------------------

_NAN, _INF = math.nan, math.inf


def _divide_one(a: float, b: float) -> float:
    if b:
        return a / b
    return _NAN if a == 0.0 or a != a else math.copysign(_INF, a) * math.copysign(1.0, b)


def _comparing(
    compare: Callable[[Any, Any], Any],
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    def block(a: Any, b: Any) -> Any:
        return np.where((a != a) | (b != b), _NAN, compare(a, b))

    def one(a: float, b: float) -> float:
        return _NAN if a != a or b != b else 1.0 if compare(a, b) else 0.0

    return block, one


# Adding 0.0 makes -0.0 the same value as 0.0, which one is the smaller is not defined.
def _min(a: Any, b: Any) -> Any:
    return np.minimum(a, b) + 0.0


def _max(a: Any, b: Any) -> Any:
    return np.maximum(a, b) + 0.0


def _min_one(a: float, b: float) -> float:
    return _NAN if a != a or b != b else (b if b < a else a) + 0.0


def _max_one(a: float, b: float) -> float:
    return _NAN if a != a or b != b else (b if b > a else a) + 0.0


def _where(condition: Any, a: Any, b: Any) -> Any:
    return np.where(condition != condition, _NAN, np.where(condition != 0.0, a, b))


def _where_one(condition: float, a: float, b: float) -> float:
    return _NAN if condition != condition else a if condition else b


def _contiguous(ufunc: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x: ufunc(np.ascontiguousarray(x))


def _exp_one(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return _INF


def _log_one(x: float) -> float:
    return math.log(x) if x > 0.0 else -_INF if x == 0.0 else _NAN


def _log1p_one(x: float) -> float:
    return math.log1p(x) if x > -1.0 else -_INF if x == -1.0 else _NAN


def _mid(a: Any, b: Any) -> Any:
    total = a + b
    total *= _HALF
    return total


def _imbalance(a: Any, b: Any) -> Any:
    total = a + b
    return np.divide(a - b, total, np.zeros_like(total), where=total != 0)


def _imbalance_one(a: float, b: float) -> float:
    total = a + b
    return (a - b) / total if total != 0.0 else 0.0


def _microprice(bid: Any, ask: Any, bid_size: Any, ask_size: Any) -> Any:
    total = bid_size + ask_size
    return np.where(total == 0.0, (bid + ask) * 0.5, (bid * ask_size + ask * bid_size) / total)


def _microprice_one(bid: float, ask: float, bid_size: float, ask_size: float) -> float:
    total = bid_size + ask_size
    return (bid * ask_size + ask * bid_size) / total if total else (bid + ask) * 0.5


def _log_return(now: Any, before: Any) -> Any:
    ratio = now / before
    # Two negative values have a positive ratio, but no log return.
    np.copysign(ratio, now, ratio)
    return np.log(ratio, ratio)


def _log_return_one(now: float, before: float) -> float:
    try:
        return math.log(math.copysign(now / before, now))
    except (ValueError, ZeroDivisionError):
        return _log_one(math.copysign(_divide_one(now, before), now))


_UFUNCS: dict[str, tuple[Callable[..., Any], float, float]] = {
    "exp": (np.exp, -700.0, 700.0),
    "log": (np.log, 0.0, _INF),
    "log1p": (np.log1p, -1.0, _INF),
    "log_return": (np.log, 0.0, _INF),
    "tanh": (np.tanh, -_INF, _INF),
}
"""The inexact part of each inexact function, and between which numbers it gives no warning."""


def exactly(function: Function) -> Callable[..., float]:
    """Return what computes one value of a function without memory with the bits of its block."""
    assert function.one
    if not function.inexact:
        return function.one
    ufunc, low, high = _UFUNCS[function.name]

    def value(x: float) -> float:
        # NumPy makes an array of one element of it, three times faster than we could.
        if low < x < high:
            return float(ufunc(x))
        with np.errstate(all="ignore"):
            return float(ufunc(x))

    if function.name == "log_return":
        return lambda now, before: value(math.copysign(_divide_one(now, before), now))
    return value


# ---- declarations ------------------------------------------------------------------------------

_X, _A, _B = Parameter("x"), Parameter("a"), Parameter("b")
_BID, _ASK = Parameter("bid"), Parameter("ask")
_K = Parameter("k", "window", Number(1.0, whole=True))
_AB = (_A, _B)
ALWAYS = Span(36_500 * 86_400 * 10**9)
"""Stands for no limit of age."""

_SIZES = (Parameter("bid_size"), Parameter("ask_size"))


def _compared(name: str, compare: Callable[[Any, Any], Any], words: str) -> Function:
    block, one = _comparing(compare)
    doc = f"1 where a {words} b, else 0; missing where one of them is missing"
    return Function(name, _AB, doc, "arithmetic", block, one)


def _elementwise(
    name: str,
    parameters: tuple[Parameter, ...],
    doc: str,
    block: Callable[..., Any],
    one: Callable[..., float],
    group: str = "arithmetic",
) -> Function:
    return Function(name, parameters, doc, group, block, one, inexact=name in _UFUNCS)


for _function in (
    _elementwise("+", _AB, "sum", operator.add, operator.add),
    _elementwise("-", _AB, "difference", operator.sub, operator.sub),
    _elementwise("*", _AB, "product", operator.mul, operator.mul),
    _elementwise("/", _AB, "quotient", operator.truediv, _divide_one),
    _elementwise("neg", (_X,), "the value with the other sign", operator.neg, operator.neg),
    _compared("<", operator.lt, "is less than"),
    _compared("<=", operator.le, "is at most"),
    _compared(">", operator.gt, "is greater than"),
    _compared(">=", operator.ge, "is at least"),
    _compared("==", operator.eq, "equals"),
    _compared("!=", operator.ne, "differs from"),
    _elementwise("abs", (_X,), "absolute value", abs, abs),
    _elementwise(
        "sign",
        (_X,),
        "-1, 0 or 1: the sign of the value",
        lambda x: np.sign(x) + 0.0,
        lambda x: _NAN if x != x else float((x > 0.0) - (x < 0.0)),
    ),
    _elementwise(
        "sqrt", (_X,), "square root", np.sqrt, lambda x: math.sqrt(x) if x >= 0.0 else _NAN
    ),
    _elementwise("exp", (_X,), "e to the power of the value", _contiguous(np.exp), _exp_one),
    _elementwise("log", (_X,), "natural logarithm", _contiguous(np.log), _log_one),
    _elementwise(
        "log1p", (_X,), "natural logarithm of 1 + x", _contiguous(np.log1p), _log1p_one
    ),
    _elementwise("tanh", (_X,), "hyperbolic tangent", _contiguous(np.tanh), math.tanh),
    _elementwise(
        "min", _AB, "the smaller of two series; min(x, 20) is that of a window", _min, _min_one
    )._replace(windowed="rolling_min"),
    _elementwise(
        "max", _AB, "the larger of two series; max(x, 20) is that of a window", _max, _max_one
    )._replace(windowed="rolling_max"),
    _elementwise(
        "clip",
        (_X, Parameter("low"), Parameter("high")),
        "the value cut to the range from low to high",
        lambda x, low, high: _min(_max(x, low), high),
        lambda x, low, high: _min_one(_max_one(x, low), high),
    ),
    _elementwise(
        "where",
        (Parameter("condition"), _A, _B),
        "a where the condition is not 0, else b; missing where the condition is missing",
        _where,
        _where_one,
    ),
    _elementwise(
        "missing",
        (_X,),
        "1 where the value is missing, else 0",
        lambda x: np.where(x != x, 1.0, 0.0),
        lambda x: 1.0 if x != x else 0.0,
        "missing",
    ),
    _elementwise(
        "mid", (_BID, _ASK), "(bid + ask) / 2", _mid, lambda a, b: (a + b) * 0.5, "prices"
    ),
    _elementwise(
        "spread", (_BID, _ASK), "ask - bid", lambda a, b: b - a, lambda a, b: b - a, "prices"
    ),
    _elementwise(
        "spread_bps",
        (_BID, _ASK),
        "ask - bid in basis points of the mid price",
        lambda a, b: (b - a) / ((a + b) * 0.5) * 10_000.0,
        lambda a, b: _divide_one(b - a, (a + b) * 0.5) * 10_000.0,
        "prices",
    ),
    _elementwise(
        "imbalance", _AB, "(a - b) / (a + b), 0 where a + b is 0", _imbalance, _imbalance_one,
        "prices",
    ),
    _elementwise(
        "microprice",
        (_BID, _ASK, *_SIZES),
        "the mid price weighted by the size of the other side; the mid price without sizes",
        _microprice,
        _microprice_one,
        "prices",
    ),
    Function(
        "lag", (_X, _K), "the value k elements, or a span, before", "memory",
        lambda _, before: before, lambda _, before: before, lag=True,
    ),
    Function(
        "diff", (_X, _K), "the change since k elements, or a span, before", "memory",
        operator.sub, operator.sub, lag=True,
    ),
    Function(
        "log_return", (_X, _K), "the change of the logarithm since k elements, or a span, before",
        "memory", _log_return, _log_return_one, inexact=True, lag=True,
    ),
    # int64 differences could wrap around, but no real time is near the limit.
    Function(
        "elapsed", (), "seconds since the tick before", "clock",
        lambda now, before: (now - before) / NS_PER_S,
        lambda now, before: (now - before) / NS_PER_S,
        time=True, lag=True,
    ),
    Function(
        "of",
        (Parameter("stream", "text"), _X, Parameter("limit", "span", ALWAYS)),
        "the value at the last tick of another stream; missing if it is older than the limit",
        "streams",
    ),
    Function(
        "age", (Parameter("stream", "text"),), "seconds since the last tick of another stream",
        "streams",
    ),
):  # fmt: skip
    register(_function)


# ---- functions with memory ---------------------------------------------------------------------

_Y, _PRICE, _VOLUME = Parameter("y"), Parameter("price"), Parameter("volume")
_WINDOW, _HALF_LIFE = Parameter("window", "window"), Parameter("half_life", "window")
_CONDITION = Parameter("condition")


def window_of(window: int | Span) -> dict[str, int]:
    """Return a window as arguments of a memory."""
    return {"span_ns": window.ns} if isinstance(window, Span) else {"elements": window}


def _window(
    name: str,
    memory: Callable[..., Any],
    doc: str,
    parameters: tuple[Parameter, ...] = (_X, _WINDOW),
    group: str = "windows",
) -> Function:
    return Function(
        name,
        parameters,
        doc,
        group,
        memory=lambda *rest: memory(*rest[:-1], **window_of(rest[-1])),
    )


def _bar(name: str) -> Function:
    doc = f"{name} of the last complete bar of a span; bars begin at multiples of it since 1970"
    parameters = (_X, Parameter("span", "span"))
    memory = functools.partial(_make_bar, name)
    return Function(f"bar_{name}", parameters, doc, "prices", memory=memory, late=True)


def _make_bar(name: str, span: Span) -> Bar:
    return Bar(name, span.ns)


def _call(name: str, *arguments: Expression) -> Call:
    return Call(name, arguments)


def _squared(x: Expression) -> Call:
    return _call("*", x, x)


for _function in (
    _window("sum", windows.Sum, "sum over the window"),
    _window("mean", windows.Mean, "mean over the window"),
    _window("std", windows.Std, "standard deviation over the window (n - 1); 0 with one value"),
    _window("var", windows.Var, "variance over the window (n - 1); 0 with one value"),
    _window("rolling_min", windows.Min, "smallest value in the window, written min(x, window)"),
    _window("rolling_max", windows.Max, "largest value in the window, written max(x, window)"),
    _window("median", functools.partial(queues.Quantile, 0.5), "median of the window"),
    _window(
        "quantile", queues.Quantile, "quantile q of the window, between 0 and 1, interpolated",
        (_X, Parameter("q", "number"), _WINDOW),
    ),
    _window(
        "rank", queues.Rank,
        "share of the window's values below x, half of the equal ones included",
    ),
    _window("zscore", windows.ZScore, "(x - mean) / std over the window; 0 where std is 0"),
    _window(
        "count", windows.Count, "ticks in the window at which the condition is not 0",
        (_CONDITION, _WINDOW),
    ),
    _window(
        "corr", windows.Corr, "correlation over the window; 0 where one is constant",
        (_X, _Y, _WINDOW),
    ),
    _window(
        "beta", windows.Beta, "slope of x on y over the window; 0 where y is constant",
        (_X, _Y, _WINDOW),
    ),
    _window(
        "ewm_mean", recurrences.EwmMean, "mean with exponential weights", (_X, _HALF_LIFE)
    ),
    _window(
        "ewm_std", recurrences.EwmStd, "standard deviation with exponential weights",
        (_X, _HALF_LIFE),
    ),
    _window(
        "ewm_var", recurrences.EwmVar, "variance with exponential weights", (_X, _HALF_LIFE)
    ),
    Function(
        "cumulative", (_X,), "sum of all values so far", "memory", memory=recurrences.Cumulative
    ),
    Function(
        "since", (_CONDITION,), "elements since the condition was last not 0", "memory",
        memory=recurrences.Since,
    ),
    *map(_bar, ("open", "high", "low", "close")),
    Function(
        "tick_sign", (_PRICE,), "1 or -1: the sign of the last change of the price (tick rule)",
        "prices", memory=recurrences.TickSign,
    ),
    Function(
        "signed_volume", (_PRICE, _VOLUME), "the volume with the sign of the last change of price",
        "prices", expands=lambda price, volume: _call("*", _call("tick_sign", price), volume),
    ),
    Function(
        "ofi", (_BID, Parameter("bid_size"), _ASK, Parameter("ask_size")),
        "order flow imbalance of one level since the tick before; add the levels", "prices",
        memory=recurrences.OrderFlow,
    ),
    Function(
        "vwap", (_PRICE, _VOLUME, _WINDOW), "mean price over the window, weighted by volume",
        "prices",
        expands=lambda price, volume, window: _call(
            "/",
            _call("sum", _call("*", price, volume), window),
            _call("sum", volume, window),
        ),
    ),
    Function(
        "realized_volatility", (_PRICE, _WINDOW),
        "root of the sum of squared log returns over the window", "prices",
        expands=lambda price, window: _call(
            "sqrt", _call("sum", _squared(_call("log_return", price)), window)
        ),
    ),
    Function(
        "last", (_X, Parameter("age", "span", ALWAYS)),
        "the last value that was not missing; missing if it is older than the age", "missing",
        memory=lambda age: recurrences.Last(age.ns),
    ),
    Function(
        "zero", (_X,), "the value, 0 where it is missing", "missing",
        lambda x: np.where(x != x, 0.0, x), lambda x: 0.0 if x != x else x,
    ),
):  # fmt: skip
    register(_function)


# ---- functions of time -------------------------------------------------------------------------

_ZONE = Parameter("zone", "text", Text("UTC"))
_SESSION = (
    Parameter("hours", "text"), _ZONE, Parameter("holidays", "text", Text("")),
)  # fmt: skip


def _clock(
    name: str,
    make: Callable[..., clock.Clock],
    doc: str,
    parameters: tuple[Parameter, ...] = (_ZONE,),
) -> Function:
    made = functools.lru_cache(64)(make)
    return Function(
        name,
        parameters,
        doc,
        "clock",
        lambda t_ns, *texts: made(*texts).block(t_ns),
        lambda t_ns, *texts: made(*texts).one(t_ns),
        time=True,
    )


def _with_holidays(make: Callable[..., clock.Clock]) -> Callable[..., clock.Clock]:
    return lambda hours, zone, days: make(hours, zone, clock.holidays_of(days.split()))


for _function in (
    _clock("day_sin", clock.day_sin, "sine of the time of day in a time zone"),
    _clock("day_cos", clock.day_cos, "cosine of the time of day in a time zone"),
    _clock("week_sin", clock.week_sin, "sine of the position in the week, which begins on Monday"),
    _clock("week_cos", clock.week_cos, "cosine of the position in the week"),
    _clock(
        "session",
        _with_holidays(clock.session),
        'whether a session such as "09:30-16:00" or "Sun-Fri 18:00-17:00" is open, 1 or 0',
        _SESSION,
    ),
    _clock(
        "since_open",
        _with_holidays(clock.since_open),
        "minutes since a session opened, 0 while it is closed",
        _SESSION,
    ),
):
    register(_function)
