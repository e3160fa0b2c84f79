"""Times of a file, numbers or ISO 8601 text, as int64 nanoseconds since 1970.

The unit of numbers is given, or follows once from the size of the first: seconds stay below 1e11
until the year 5138, and the other units are a thousand apart. Whole numbers and decimal text never
pass through float64, whose resolution at today's dates is a quarter of a microsecond. Text without
a time zone is UTC.

Arrow parses text columns of CSV files as `arrow_type`, an exact type for every form: int64 for
nanoseconds, and decimals whose unscaled integers are nanoseconds for the coarser units. `parse`
does the same for one cell, and also accepts forms that Arrow rejects.
"""

from __future__ import annotations

import contextlib
import datetime
import decimal
import re
from typing import Any, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from ..schema import TimeUnit

Converted: TypeAlias = tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]

UNITS: tuple[TimeUnit, ...] = get_args(TimeUnit)
DIGITS = {"s": 9, "ms": 6, "us": 3, "ns": 0}
"""Decimal digits between each unit and the nanosecond."""

FORMS = "a number, or ISO 8601 such as 2024-03-01T09:30:00.5Z"
"""Valid cells of a time column."""

_LIMITS: tuple[tuple[TimeUnit, float], ...] = (
    ("s", 1e11),
    ("ms", 1e14),
    ("us", 1e17),
    ("ns", float("inf")),
)
_INT64 = np.iinfo(np.int64)
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)
_EXACT = decimal.Context(prec=60)
_ISO = re.compile(
    r"(?P<date>\d{4}-?\d\d-?\d\d)"
    r"(?:[T ](?P<time>\d\d(?::?\d\d(?::?\d\d(?:[.,](?P<fraction>\d+))?)?)?)"
    r" ?(?P<zone>[Zz]|[+-]\d\d(?::?\d\d)?)?)?"
)

_LOCAL = re.compile(r"(\d{1,2})[/.-](\d{1,2})[/.-](\d{4})\b")


class TimeColumn:
    """Converts one column of times; the first time seen settles its unit and form."""

    def __init__(self, unit: TimeUnit) -> None:
        self.unit = unit  # "auto" until settled
        self.zoned = False

    def settle(self, text: str) -> None:
        """Use `text` as the first time of the column; ValueError if it is not a time."""
        number = _number(text) if self.unit != "iso" else None
        if number is not None:
            self._settle_unit(float(number))
        elif self.unit in DIGITS:
            raise ValueError(f"{text.strip()!r} is not a number of {self.unit}")
        else:
            _, self.zoned = _parse_iso(text)
            self.unit = "iso"

    def _settle_unit(self, number: float) -> None:
        if self.unit == "auto":
            _check_no_date(number)
            self.unit = next(unit for unit, limit in _LIMITS if abs(number) < limit)

    @property
    def arrow_type(self) -> Any:
        """The type as which Arrow parses the column's text; the unit must be settled."""
        import pyarrow as pa  # here, so that a daemon without files starts without Arrow

        if self.unit == "iso":
            return pa.timestamp("ns", tz="UTC" if self.zoned else None)
        digits = DIGITS[self.unit]
        return pa.decimal128(38, digits) if digits else pa.int64()

    def parse(self, text: str) -> int:
        """Return the nanoseconds of one cell; ValueError if it is not a time of this column."""
        if self.unit == "iso":
            t_ns, _ = _parse_iso(text)
        else:
            number = _number(text)
            if number is None:
                raise ValueError(f"{text.strip()!r} is not a number of {self.unit}")
            t_ns = int(number.scaleb(DIGITS[self.unit], _EXACT).to_integral_value())
        if not _INT64.min <= t_ns <= _INT64.max:
            raise ValueError(f"{text.strip()!r} is outside the years 1677 to 2262")
        return t_ns

    def convert(self, array: Any) -> Converted:
        """Convert an Arrow array of length m: int64 (m,), and bool (m,), False for invalid times.

        Raises ValueError for a type without times, and for dates outside 1677 to 2262.
        """
        import pyarrow as pa

        kind = array.type
        if pa.types.is_dictionary(kind):
            return self.convert(array.dictionary_decode())
        if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            zone = kind.tz if pa.types.is_timestamp(kind) else None
            return _whole(array.cast(pa.timestamp("ns", tz=zone)).cast(pa.int64()), 1)
        if pa.types.is_decimal128(kind) and kind.scale == DIGITS.get(self.unit):
            return _unscaled(array)
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            return self._numbers(array)
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_decimal(kind):
            return self._texts(array)
        raise ValueError(f"a column of type {kind} contains no times")

    def _numbers(self, array: Any) -> Converted:
        import pyarrow as pa

        if self.unit == "iso":
            raise ValueError(f"a column of type {array.type} contains no ISO 8601 text")
        if self.unit == "auto":
            numbers = array.drop_null().to_numpy(zero_copy_only=False)
            finite = numbers[np.isfinite(numbers)]
            if not len(finite):
                return np.zeros(len(array), np.int64), np.zeros(len(array), np.bool_)
            self._settle_unit(float(finite[0]))
        factor = 10 ** DIGITS[self.unit]
        return _whole(array, factor) if pa.types.is_integer(array.type) else _real(array, factor)

    def _texts(self, array: Any) -> Converted:
        t_ns = np.zeros(len(array), np.int64)
        ok = np.zeros(len(array), np.bool_)
        for index, value in enumerate(array.to_pylist()):
            try:
                if self.unit == "auto":
                    self.settle(str(value))
                t_ns[index] = self.parse(str(value))
                ok[index] = True
            except ValueError:
                continue
        return t_ns, ok


def _check_no_date(number: float) -> None:
    """Raise ValueError for a date without dashes: as seconds it would be in 1970."""
    digits = f"{number:.0f}"
    if number != int(number) or len(digits) != 8 or digits[:2] not in ("19", "20"):
        return
    try:
        date = datetime.date.fromisoformat(digits)
    except ValueError:
        return
    raise ValueError(
        f"{digits} seems to be a date without dashes: write {date}, or set the unit s "
        "(--time-unit s) if it counts seconds"
    )


def _number(text: str) -> decimal.Decimal | None:
    """Return the finite number in `text`, or None."""
    try:
        number = decimal.Decimal(text.strip())
    except decimal.InvalidOperation:
        return None
    # a huge exponent would make an integer of a billion digits
    usable = number.is_finite() and "_" not in text and number.adjusted() < 30
    return number if usable else None


def _parse_iso(text: str) -> tuple[int, bool]:
    """Return nanoseconds since 1970, and whether the text names a time zone."""
    match = _ISO.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text.strip()[:40]!r} is not a time: {_rewritten(text) or FORMS}")
    zone, fraction = match["zone"], match["fraction"] or ""
    clock = (match["time"] or "00").replace(",", ".").split(".")[0]
    try:
        at = datetime.datetime.fromisoformat(f"{match['date']}T{clock}{zone or 'Z'}".upper())
    except ValueError as error:
        raise ValueError(f"{text.strip()!r} is not a time: {error}") from None
    return (at - _EPOCH) // _MICROSECOND * 1000 + int(fraction[:9].ljust(9, "0")), bool(zone)


def _rewritten(text: str) -> str:
    """Return the valid form of a date such as 3/1/2024, "" if it is not one."""
    match = _LOCAL.match(text.strip())
    if match is None:
        return ""
    one, two, year = (int(part) for part in match.groups())
    forms = []
    for order, month, day in (("month", one, two), ("day", two, one)):
        with contextlib.suppress(ValueError):
            forms.append(f"{datetime.date(year, month, day)} where the {order} comes first")
    return f"write {' or '.join(forms)}" if forms else ""


def _whole(array: Any, factor: int) -> Converted:
    """Multiply whole numbers by `factor`; nulls and overflows are invalid."""
    numbers = array.fill_null(0).to_numpy(zero_copy_only=False)
    ok = np.asarray(array.is_valid())
    limit = _INT64.max // factor
    ok = ok & (numbers <= limit)
    if numbers.dtype.kind == "i":
        ok &= numbers >= -(-int(_INT64.min) // factor)
    return np.where(ok, numbers, 0).astype(np.int64) * factor, ok


def _real(array: Any, factor: int) -> Converted:
    """Multiply real numbers by `factor` with the full precision of float64."""
    numbers = array.to_numpy(zero_copy_only=False).astype(np.float64)
    ok = np.isfinite(numbers) & (abs(numbers) < (1 - 1e-9) * _INT64.max / factor)
    numbers = np.where(ok, numbers, 0.0)
    whole = np.floor(numbers)
    part = np.rint((numbers - whole) * factor).astype(np.int64)
    return whole.astype(np.int64) * factor + part, ok


def _unscaled(array: Any) -> Converted:
    """Return the unscaled integers of decimals: 16 bytes each, the low 8 first."""
    words = np.frombuffer(array.buffers()[1], np.int64).reshape(-1, 2)
    low, high = words[array.offset : array.offset + len(array)].T
    ok = np.asarray(array.is_valid()) & (high == low >> 63)
    return np.where(ok, low, 0), ok
