"""Times of a file, numbers or text, as int64 nanoseconds since 1970.

The first cells of a column settle its form, all of them together. Numbers are a count since 1970
(`time_unit`), digits of the calendar such as 20240301093000, or days of Excel. The unit of a count
is given, or follows once from the size of the first: seconds stay below 1e11 until the year 5138,
and the other units are a thousand apart. A number of another unit later on is an error, and so is
never read as a time long ago. Whole numbers and decimal text never pass through float64, whose
resolution at today's dates is a quarter of a microsecond. Text has a form of `time_forms`.

Arrow parses text columns of CSV files as `arrow_type`, an exact type for every form: int64 for
nanoseconds and digits, and decimals whose unscaled integers are nanoseconds for the coarser units.
`parse` does the same for one cell, and also accepts forms that Arrow rejects.
"""

from __future__ import annotations

import contextlib
import decimal
import re
from collections.abc import Sequence
from typing import Any, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from ..events import NO_TIME
from ..schema import TimeUnit
from .time_forms import DAY_FIRST, FORMS, PLAIN, from_format, order_of, read

__all__ = [
    "DIGITS",
    "FORMS",
    "UNITS",
    "TimeColumn",
    "clock_width",
    "join_cells",
    "joined",
    "time_columns",
]

Converted: TypeAlias = tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]

UNITS: tuple[TimeUnit, ...] = get_args(TimeUnit)
DIGITS = {"s": 9, "ms": 6, "us": 3, "ns": 0}
"""Decimal digits between each unit and the nanosecond."""

NAMED_FORMATS = ("excel", "epoch")
"""Formats beside those of `strptime`: days of Excel, and numbers each in the unit of its size."""

CALENDAR_WIDTHS = (8, 10, 12, 14, 17)
"""Digits of YYYYMMDD, with hours, minutes, seconds and milliseconds."""

DATED_NS = 10**17, 41 * 10**17
"""From 1973 to 2099: the times in these years differ between units, whatever they count."""

EXCEL_DAYS = 20_000, 80_000
"""Days of Excel that are recognised, from 1954 to 2119."""

EXCEL_DECIMALS = 7
"""Decimals from which on a day is a whole second by chance in one case of sixty only."""

_EXCEL_1970 = 25_569
_DAY_S = 86_400
_LIMITS: tuple[tuple[str, float], ...] = (
    ("s", 1e11),
    ("ms", 1e14),
    ("us", 1e17),
    ("ns", float("inf")),
)
_INT64 = np.iinfo(np.int64)
_EXACT = decimal.Context(prec=60)
_CALENDAR = re.compile(r"(?:19|20)\d{6}(?:\d\d){0,3}|(?:19|20)\d{15}", re.ASCII)
_SECONDS = re.compile(r"\d{14}\.\d+", re.ASCII)
_ARROW = re.compile(
    r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:Z|[+-]\d\d(?::?\d\d)?)?)?",
    re.ASCII,
)
_REWRITES = (
    (r"^(\d{4})[/.](\d\d)[/.](\d\d)", r"\1-\2-\3"),
    (r"^(\d{4})(\d\d)(\d\d)([ T].*)?$", r"\1-\2-\3\4"),
    (r"^(\d{4}-\d\d-\d\d)[ TD](\d):", r"\1 0\2:"),
    (r"^(\d{4}-\d\d-\d\d)[ TD](\d\d)(\d\d)(\d\d)$", r"\1 \2:\3:\4"),
    (r"^(\d{4}-\d\d-\d\d)[ TD](\d\d)(\d\d)(\d\d)\.?(\d{1,9})$", r"\1 \2:\3:\4.\5"),
    (r"^(\d{4}-\d\d-\d\d)D(\d\d:)", r"\1 \2"),
)
_WITHOUT_ZONE = (r" ?(?:Z|UTC|GMT)$", "")
_ORDERS = {
    True: (r"^(\d\d)[-/.](\d\d)[-/.](\d{4})", r"\3-\2-\1"),
    False: (r"^(\d\d)[-/.](\d\d)[-/.](\d{4})", r"\3-\1-\2"),
}


class UnitChangeError(ValueError):
    """A number in another unit than the first ones of its column."""


class TimeColumn:
    """Converts one column of times; its first cells settle its unit and form.

    unit: that of numbers, or `auto`. form: the format as the user gave it, as in `strptime` or one
    of `NAMED_FORMATS`, "" to find it. lenient: give `NO_TIME` for a cell that is not a time, but
    not for one in another unit.

    Raises ValueError for an invalid format.
    """

    def __init__(self, unit: TimeUnit = "auto", form: str = "", *, lenient: bool = False) -> None:
        self.unit: str = unit  # "auto" until settled; then perhaps a form instead
        self.zoned = False
        self._lenient = lenient
        self._forms: Sequence[re.Pattern[str]] = PLAIN
        self._dated = self._native = False
        self._given = bool(form)
        if form in NAMED_FORMATS:
            self.unit = form
        elif form:
            self.unit, self._forms = "iso", (from_format(form),)

    def settle(self, text: str) -> None:
        """Use one time, of no known neighbours; ValueError if it is not a time.

        Ten digits are a count of seconds here: as such they are a date from 2030 on.
        """
        if self.unit == "auto" and len(text.strip()) != 10 and _is_calendar(text.strip()):
            self.unit = "calendar"
        self._settle(text, (text,))

    def settle_all(self, cells: Sequence[str], name: str = "") -> None:
        """Settle the form by the first cells of a column, empty ones too.

        name: of the column; `date` in it makes numbers of days likely. Raises ValueError for the
        first cell if none is a time.
        """
        texts = [cell for cell in (text.strip() for text in cells) if cell]
        known = [text for text in texts if _has_digit(text)]
        if self.unit == "auto" and known:
            widths = {len(text.partition(".")[0]) for text in known}
            if all(map(_is_calendar, known)) and len(widths) == 1:
                self.unit = "calendar"
            elif _is_excel(known, "date" in name.lower()):
                self.unit = "excel"
        if self.unit in ("auto", "iso") and not self._given:
            dates = [text for text in known if DAY_FIRST.fullmatch(text)]
            if len(dates) > len(known) / 2 and (order := order_of(dates)):
                self._forms = (order, *PLAIN)
        first: ValueError | None = None
        for text in texts:
            try:
                self._settle(text, known)
            except ValueError as error:
                first = first or error
            else:
                return
        raise first or ValueError("it is empty")

    def _settle(self, text: str, texts: Sequence[str]) -> None:
        if self.unit in ("calendar", "excel", "epoch"):
            self.parse_strictly(text)
            return
        number = _number(text) if self.unit != "iso" else None
        if number is not None:
            self._settle_unit(float(number))
        elif self.unit in DIGITS:
            raise ValueError(f"{text.strip()!r} is not a number of {self.unit}")
        else:
            self.zoned = read(text, self._forms).zoned
            self.unit = "iso"
            self._native = self._forms is PLAIN and all(map(_ARROW.fullmatch, texts))

    def _settle_unit(self, number: float) -> None:
        if self.unit == "auto":
            self.unit = next(unit for unit, limit in _LIMITS if abs(number) < limit)
            low, high = DATED_NS
            self._dated = low <= number * 10 ** DIGITS[self.unit] < high

    @property
    def arrow_type(self) -> Any:
        """The type as which Arrow parses the column's text; the unit must be settled."""
        import pyarrow as pa  # here, so that a daemon without files starts without Arrow

        if self.unit == "iso" and self._native:
            return pa.timestamp("ns", tz="UTC" if self.zoned else None)
        if self.unit in DIGITS:
            digits = DIGITS[self.unit]
            return pa.decimal128(38, digits) if digits else pa.int64()
        return pa.string()

    def parse(self, text: str) -> int:
        """Return the nanoseconds of one cell; ValueError if it is not a time of this column."""
        try:
            return self.parse_strictly(text)
        except ValueError as error:
            if self._lenient and not isinstance(error, UnitChangeError):
                return NO_TIME
            raise

    def parse_strictly(self, text: str) -> int:
        """Return the nanoseconds of one cell; ValueError even if the column is lenient."""
        text = text.strip()
        if self.unit == "iso":
            t_ns = read(text, self._forms).t_ns
        elif self.unit == "calendar":
            t_ns = _calendar(text)
        else:
            t_ns = self._count(text)
        if not _INT64.min <= t_ns <= _INT64.max:
            raise ValueError(f"{text!r} is outside the years 1677 to 2262")
        return t_ns

    def _count(self, text: str) -> int:
        """Return the nanoseconds of a number of units or of days."""
        if (number := _number(text)) is None:
            raise ValueError(
                f"{text[:40]!r} is not a number of {_COUNTED.get(self.unit, self.unit)}"
            )
        if self.unit == "excel":
            return int(((number - _EXCEL_1970) * _DAY_S * 1000).to_integral_value()) * 10**6
        unit = self.unit
        if unit == "epoch":
            unit = next(unit for unit, limit in _LIMITS if abs(number) < limit)
        elif self._dated:
            for other, digits in DIGITS.items():
                if other != unit and DATED_NS[0] <= number.scaleb(digits, _EXACT) < DATED_NS[1]:
                    raise UnitChangeError(
                        f"{text!r} is in {other}, but the times before it are in {unit}, so the "
                        "unit changes inside the file: write --time-format epoch, which takes "
                        "each number in the unit of its size"
                    )
        return int(number.scaleb(DIGITS[unit], _EXACT).to_integral_value())

    def convert(self, array: Any) -> Converted:
        """Convert an Arrow array of length m: int64 (m,), and bool (m,), False for invalid times.

        Raises ValueError for a type without times, and for dates outside 1677 to 2262.
        """
        t_ns, ok = self._convert(array)
        if self._dated:
            ok = ok & ~_of_other_unit(t_ns)
        elif self._lenient:
            ok = np.array(ok)
        for at in np.flatnonzero(~ok).tolist() if self._lenient else ():
            try:
                t_ns[at] = self.parse(shown_cell(array[at].as_py()))
                ok[at] = True
            except UnitChangeError:
                continue
        return t_ns, ok

    def _convert(self, array: Any) -> Converted:
        import pyarrow as pa

        kind = array.type
        if pa.types.is_dictionary(kind):
            return self._convert(array.dictionary_decode())
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
            self.settle_all([shown_cell(number) for number in finite[:SAMPLE].tolist()])
        if self.unit not in DIGITS:
            return self.strings([shown_cell(cell) for cell in array.to_pylist()])
        factor = 10 ** DIGITS[self.unit]
        return _whole(array, factor) if pa.types.is_integer(array.type) else _real(array, factor)

    def _texts(self, array: Any) -> Converted:
        import pyarrow as pa

        if self.unit == "auto":
            try:
                self.settle_all([shown_cell(cell) for cell in array[:SAMPLE].to_pylist()])
            except ValueError:
                return np.zeros(len(array), np.int64), np.zeros(len(array), np.bool_)
        if (
            self.unit == "iso"
            and not self._given
            and (quick := self._rewritten(array)) is not None
        ):
            return quick
        if self.unit == "calendar":
            try:
                return _calendars(array.cast(pa.int64()))
            except pa.ArrowException:
                pass
        return self.strings([shown_cell(cell) for cell in array.to_pylist()])

    def _rewritten(self, array: Any) -> Converted | None:
        """Convert text by way of ISO 8601 in Arrow; None if a cell needs a closer look."""
        import pyarrow as pa
        import pyarrow.compute as pc

        order = self._forms[0]
        first = () if order is PLAIN[0] else (_ORDERS[order is DAY_FIRST],)
        for tz, rewrites in ((None, (*first, *_REWRITES, _WITHOUT_ZONE)), ("UTC", _REWRITES)):
            texts = array
            for pattern, replacement in rewrites:
                texts = pc.replace_substring_regex(texts, pattern, replacement)
            with contextlib.suppress(pa.ArrowException):
                return _whole(texts.cast(pa.timestamp("ns", tz=tz)).cast(pa.int64()), 1)
            if not self.zoned:
                break
        return None

    def strings(self, cells: Sequence[str]) -> Converted:
        """Convert cells of text: int64 (m,), and bool (m,), False for invalid times."""
        t_ns, ok = np.zeros(len(cells), np.int64), np.zeros(len(cells), np.bool_)
        for index, cell in enumerate(cells):
            try:
                t_ns[index] = self.parse_strictly(cell)
                ok[index] = True
            except ValueError:
                continue
        return t_ns, ok


SAMPLE = 1000
"""Cells of a typed column that settle its form."""

_COUNTED = {"excel": "days of Excel", "epoch": "s, ms, us or ns since 1970"}


def shown_cell(cell: Any) -> str:
    """Return a cell as text, whole numbers without a fraction."""
    if isinstance(cell, float):
        return str(int(cell)) if cell.is_integer() else repr(cell)
    return "" if cell is None else str(cell)


def _has_digit(text: str) -> bool:
    return any("0" <= sign <= "9" for sign in text)


def _is_calendar(text: str) -> bool:
    try:
        _calendar(text)
    except ValueError:
        return False
    return True


def _calendar(text: str) -> int:
    """Return the nanoseconds of calendar digits."""
    if _CALENDAR.fullmatch(text) is None and _SECONDS.fullmatch(text) is None:
        raise ValueError(f"{text[:40]!r} is not a time of the form YYYYMMDD[HH[MM[SS[fff]]]]")
    if len(text) > 8:
        parts = [text[8:10], text[10:12] or "00", text[12:14] or "00"]
        text = f"{text[:4]}-{text[4:6]}-{text[6:8]}T{':'.join(parts)}.{text[14:].lstrip('.') or 0}"
    return read(text).t_ns


def _calendars(array: Any) -> Converted:
    """Convert whole numbers whose digits are a time, all of one width."""
    digits = array.fill_null(0).to_numpy(zero_copy_only=False)
    width = len(str(int(digits.max()))) if len(digits) else 0
    if width not in CALENDAR_WIDTHS:
        return np.zeros(len(digits), np.int64), np.zeros(len(digits), np.bool_)
    ok = (digits >= 10 ** (width - 1)) & (digits < 10**width)
    fraction = digits % 1000 * 10**6 if width == 17 else np.zeros_like(digits)
    digits = digits // 1000 if width == 17 else digits * 10 ** (14 - width)
    second, minute, hour, day, month = (digits // 100**k % 100 for k in range(5))
    months = (digits // 10**10 - 1970) * 12 + month - 1
    first = months.astype("datetime64[M]").astype("datetime64[D]")
    date = first + (day - 1)
    ok &= (month >= 1) & (month <= 12) & (date.astype("datetime64[M]").astype(np.int64) == months)
    ok &= (
        (hour < 24)
        & (minute < 60)
        & (second < 60)
        & (digits >= 19 * 10**12)
        & (digits < 21 * 10**12)
    )
    seconds = date.astype(np.int64) * _DAY_S + hour * 3600 + minute * 60 + second
    return np.where(ok, seconds, 0) * 10**9 + np.where(ok, fraction, 0), ok


def _is_excel(texts: Sequence[str], dated: bool) -> bool:
    """Return whether numbers are days of Excel: of a column of dates, or with whole seconds."""
    numbers = [_number(text) for text in texts]
    days = [number for number in numbers if number is not None]
    if len(days) < len(texts) or not all(EXCEL_DAYS[0] <= day < EXCEL_DAYS[1] for day in days):
        return False
    if dated:
        return True
    long = [day for day in days if int(day.as_tuple().exponent) <= -EXCEL_DECIMALS]
    return len(long) >= max(2, len(days) / 2) and all(map(_whole_second, long))


def _whole_second(day: decimal.Decimal) -> bool:
    nearest = (day * _DAY_S).to_integral_value() / _DAY_S
    return abs(nearest - day) <= decimal.Decimal(1).scaleb(int(day.as_tuple().exponent))


def _of_other_unit(t_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return which times of a column of dates are dates only in a coarser unit.

    A finer one makes a time out of range, and so an invalid one.
    """
    odd = np.zeros(len(t_ns), np.bool_)
    if len(t_ns) and t_ns.min() < DATED_NS[0]:
        for factor in (10**3, 10**6, 10**9):
            low, high = (limit // factor for limit in DATED_NS)
            odd |= (t_ns >= low) & (t_ns < high)
    return odd


def time_columns(time: str | None, columns: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that `--time` names: one, or several with commas between them."""
    if time is None:
        return ()
    return (time,) if time in columns else tuple(name.strip() for name in time.split(","))


def clock_width(clocks: Sequence[str]) -> int:
    """Return the digits of a column of clocks such as 93000, whose zeros are missing; else 0."""
    widths = {len(clock) for clock in clocks if clock}
    if len(widths) < 2 or not all(clock.isdecimal() for clock in clocks if clock):
        return 0
    return max(widths) + max(widths) % 2


def join_cells(cells: Sequence[str], width: int = 0) -> str:
    """Return the text of a time whose parts are in several columns; `width` as `clock_width`."""
    *first, last = (cell.strip() for cell in cells)
    return " ".join([*first, last.zfill(width)]).strip()


def joined(columns: Sequence[Any], width: int = 0) -> Any:
    """Return Arrow columns of the parts of times as one; `width` as `clock_width`."""
    import pyarrow.compute as pc

    if len(columns) == 1:
        return columns[0]
    texts = [pc.utf8_trim_whitespace(column) for column in columns]
    texts[-1] = pc.utf8_lpad(texts[-1], width, "0")
    return pc.binary_join_element_wise(*texts, " ")


def _number(text: str) -> decimal.Decimal | None:
    """Return the finite number in `text`, or None."""
    try:
        number = decimal.Decimal(text.strip())
    except decimal.InvalidOperation:
        return None
    # a huge exponent would make an integer of a billion digits
    usable = number.is_finite() and "_" not in text and number.adjusted() < 30
    return number if usable else None


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
