"""The written forms of times, each a regular expression whose groups are the parts of a time.

Text without a time zone is UTC, so there is no summer time anywhere. A date such as 03/04/2024 has
two readings: it is in no form of its own, and `Order` says which one a column has. A form of the
user (`--time-format`) becomes an expression with the same groups. The fraction of a second is read
to the nanosecond; digits after the ninth are cut.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from typing import NamedTuple

FORMS = "a number, or ISO 8601 such as 2024-03-01T09:30:00.5Z"
"""Valid cells of a time column."""

_CLOCK = (
    r"(?:(?:[Tt D_]| {2,}|, ?)"
    r"(?P<H>\d\d|\d(?=[: ]|$|-?[AaPp]))"
    r"(?:(?P<c>:?)(?P<M>\d\d)(?:(?P=c)(?P<S>\d\d)(?:(?:[.,]|(?<=\d{6}))(?P<f>\d+))?)?)?"
    r"(?:[ -]?(?P<p>[AaPp])[Mm])?"
    r"(?: ?(?P<z>[Zz]|UTC|GMT|[+-]\d\d(?::?\d\d(?::\d\d)?)?)(?: UTC| GMT)?)?)?"
)
_WEEKDAY = r"(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*,? )?"
_MONTH = r"(?P<b>[A-Za-z]{3,9})"


def _form(date: str) -> re.Pattern[str]:
    return re.compile(date + _CLOCK, re.ASCII)


PLAIN = tuple(
    map(
        _form,
        (
            r"(?P<Y>\d{4})(?P<s>[-/. ]|(?=\d{4}(?!\d)))(?P<m>\d\d?)(?P=s)(?P<d>\d\d?)",
            rf"(?P<Y>\d{{4}})(?P<s>[-/. ]){_MONTH}(?P=s)(?P<d>\d\d?)",
            rf"{_WEEKDAY}(?P<d>\d\d?)(?P<s>[-/. ]){_MONTH}(?P=s)(?P<Y>\d{{4}})",
            rf"{_WEEKDAY}{_MONTH}\.? (?P<d>\d\d?),? (?P<Y>\d{{4}})",
        ),
    )
)
"""Forms with one reading: the year first, or the name of the month."""

DAY_FIRST = _form(r"(?P<d>\d\d?)(?P<s>[-/.])(?P<m>\d\d?)(?P=s)(?P<Y>\d{4})")
MONTH_FIRST = _form(r"(?P<m>\d\d?)(?P<s>[-/.])(?P<d>\d\d?)(?P=s)(?P<Y>\d{4})")

_MONTHS = ("january", "february", "march", "april", "may", "june", "july", "august", "september",
           "october", "november", "december")  # fmt: skip
_CLOCK_ALONE = re.compile(r"\d{1,2}:\d\d(?::\d\d(?:[.,]\d+)?)?", re.ASCII)
_EPOCH_DAY = datetime.date(1970, 1, 1).toordinal()
_DAY_S = 86_400
_DIRECTIVES = {
    "Y": r"(?P<Y>\d{4})",
    "y": r"(?P<y>\d\d)",
    "m": r"(?P<m>\d\d?)",
    "d": r"(?P<d>\d\d?)",
    "H": r"(?P<H>\d\d?)",
    "I": r"(?P<H>\d\d?)",
    "M": r"(?P<M>\d\d?)",
    "S": r"(?P<S>\d\d?)",
    "f": r"(?P<f>\d+)",
    "b": _MONTH,
    "B": _MONTH,
    "p": r"(?P<p>[AaPp])\.?[Mm]\.?",
    "z": r"(?P<z>[Zz]|UTC|GMT|[+-]\d\d:?\d\d)",
    "%": "%",
}


class Instant(NamedTuple):
    """A time in nanoseconds since 1970, and whether its text names a zone."""

    t_ns: int
    zoned: bool


def from_format(text: str) -> re.Pattern[str]:
    """Return the expression of a format such as %d/%m/%Y %H:%M:%S; ValueError if it has no date.

    %f is a fraction of a second of any length. The other directives are those of `strptime`.
    """
    parts, at = [], 0
    for match in re.finditer(r"%(.?)", text):
        if match[1] not in _DIRECTIVES:
            raise ValueError(f"%{match[1]} is unknown (there are %{' %'.join(_DIRECTIVES)})")
        parts += [re.escape(text[at : match.start()]), _DIRECTIVES[match[1]]]
        at = match.end()
    try:
        form = re.compile("".join([*parts, re.escape(text[at:])]), re.ASCII)
    except re.error:
        raise ValueError("a part of the time occurs twice in it") from None
    found = form.groupindex.keys()
    if not (found & {"Y", "y"} and found & {"m", "b"} and "d" in found):
        raise ValueError("it needs a year, a month and a day: %Y, %m and %d")
    return form


def read(text: str, forms: Sequence[re.Pattern[str]] = PLAIN) -> Instant:
    """Return the time in a text that has one of some forms; ValueError says what is wrong."""
    text = text.strip()
    for form in forms:
        if match := form.fullmatch(text):
            try:
                return _instant(match.groupdict())
            except ValueError as error:
                raise ValueError(f"{text[:40]!r} is not a time: {error}") from None
    raise ValueError(f"{text[:40]!r} is not a time: {_rewritten(text) or FORMS}")


def _instant(parts: dict[str, str | None]) -> Instant:
    year = int(parts.get("Y") or 0) or _century(int(parts.get("y") or 0))
    date = datetime.date(year, _month(parts), int(parts["d"] or 0))
    hour, minute, second = (int(parts.get(key) or 0) for key in "HMS")
    if half := parts.get("p"):
        if not 1 <= hour <= 12:
            raise ValueError("with AM or PM the hour must be in 1..12")
        hour = hour % 12 + 12 * (half in "Pp")
    if (hour, minute, second) == (24, 0, 0):  # the end of the day, as ISO 8601 permits
        date, hour = date + datetime.timedelta(1), 0
    datetime.time(hour, minute, second)
    days = date.toordinal() - _EPOCH_DAY
    seconds = days * _DAY_S + hour * 3600 + minute * 60 + second - _offset_s(parts.get("z") or "")
    fraction = (parts.get("f") or "")[:9].ljust(9, "0")
    return Instant(seconds * 10**9 + int(fraction), bool(parts.get("z")))


def _century(year: int) -> int:
    return year + (1900 if year >= 69 else 2000)  # as strptime


def _month(parts: dict[str, str | None]) -> int:
    if (name := parts.get("b")) is None:
        return int(parts["m"] or 0)
    found = [k for k, month in enumerate(_MONTHS, 1) if month.startswith(name.lower())]
    if not found and name.lower() != "sept":
        raise ValueError(f"{name} is not an English month")
    return found[0] if found else 9


def _offset_s(zone: str) -> int:
    if zone[:1] not in ("+", "-"):
        return 0
    digits = zone[1:].replace(":", "").ljust(6, "0")
    hours, minutes, seconds = (int(digits[k : k + 2]) for k in (0, 2, 4))
    datetime.time(hours, minutes, seconds)
    return (1 if zone[0] == "+" else -1) * (hours * 3600 + minutes * 60 + seconds)


def order_of(cells: Sequence[str]) -> re.Pattern[str] | None:
    """Return the one order of day and month that all cells have; None if it is ambiguous."""
    able = [form for form in (DAY_FIRST, MONTH_FIRST) if all(_reads(cell, form) for cell in cells)]
    return able[0] if len(able) == 1 else None


def _reads(text: str, form: re.Pattern[str]) -> bool:
    try:
        read(text, (form,))
    except ValueError:
        return False
    return True


def _rewritten(text: str) -> str:
    """Return what to do with a date such as 3/1/2024, or a clock; "" for other text."""
    if _CLOCK_ALONE.fullmatch(text):
        return "it is a clock without its date: write --time DATE,CLOCK with both columns"
    readings = []
    for word, form in (("month", MONTH_FIRST), ("day", DAY_FIRST)):
        if (match := form.fullmatch(text)) and _reads(text, form):
            date = datetime.date(*(int(match[key]) for key in "Ymd"))
            readings.append(
                f"{date} where the {word} comes first (--time-format '{_format_of(match)}')"
            )
    return f"write {' or '.join(readings)}" if readings else ""


def _format_of(match: re.Match[str]) -> str:
    """Return the format of the user that reads a text as this match does."""
    text = match.string
    keys = [key for key in "YmdHMSfpz" if match.groupdict().get(key) is not None]
    for key in sorted(keys, key=match.start, reverse=True):
        end = match.end(key) + (key == "p")  # the M of PM
        directive = "I" if key == "H" and match["p"] else key
        text = f"{text[: match.start(key)]}%{directive}{text[end:]}"
    return text
