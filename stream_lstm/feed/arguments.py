"""Arguments of the public calls: what is no time, whole number, text or list of names is refused.

Each function returns its argument in the form that the code behind it relies on, or raises
UsageError that names the argument, what it was and what it has to be.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from numbers import Real
from typing import Any

from ..errors import UsageError

MAX_INT = 2**31 - 1
"""Of an option of libzmq."""


def seconds(name: str, value: object) -> float:
    """Return a time to wait in seconds: infinite for None, 0 for what is in the past."""
    if value is None:
        return math.inf
    if isinstance(value, Real):
        try:
            found = float(value)
        except OverflowError:
            found = math.nan
        if not math.isnan(found):
            return max(found, 0.0)
    raise UsageError(
        f"{name}={value!r:.60}: write seconds as a number, 0 not to wait, or None to wait "
        "without limit"
    )


def milliseconds(wait_s: float) -> int:
    """Return a time for libzmq, rounded up; it waits without limit for -1."""
    return math.ceil(wait_s * 1000) if wait_s * 1000 < MAX_INT else -1


def whole(name: str, value: Any, least: int) -> int:
    """Return a whole number from `least` to MAX_INT."""
    try:
        found = operator.index(value)
    except TypeError:
        found = -1
    if not least <= found <= MAX_INT:
        raise UsageError(f"{name}={value!r:.60}: write a whole number from {least} to {MAX_INT:,}")
    return found


def text(name: str, value: object) -> str:
    """Return a text."""
    if not isinstance(value, str):
        raise UsageError(f'{name}={value!r:.60}: write text, such as "tcp://127.0.0.1:5555"')
    return value


def names(name: str, value: object) -> tuple[str, ...]:
    """Return a list of names; one text alone would be taken for a list of letters."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise UsageError(f'{name}={value!r:.60}: write a list of names, such as ["bid", "ask"]')
    found = tuple(value)
    for one in found:
        if not isinstance(one, str):
            raise UsageError(f"{name}: {one!r:.60} is not a name; write names as text")
    return found
