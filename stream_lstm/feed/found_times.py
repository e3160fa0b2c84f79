"""The column of times of a file, found by its name and by the first rows.

A column of text whose cells are all times is one, and so are numbers that are dates in a column
with such a name. Numbers that are no dates, such as seconds of a run, have to rise too. A column
of dates that repeat is joined with one of clocks, if there is one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..schema import TimeUnit
from ..typing import Bools, Int64s
from .times import (
    DATED_NS,
    DIGITS,
    UNITS,
    TimeColumn,
    UnitChangeError,
    clock_width,
    join_cells,
    time_columns,
)

TIMES = ("time", "timestamp", "ts", "datetime", "date", "t", "epoch", "unix", "zeit", "datum",
         "fecha", "hora", "heure", "instant", "when")  # fmt: skip
CLOCKS = ("time", "clock", "hour", "hr", "hhmm", "hhmmss", "zeit", "uhrzeit", "hora", "heure")
"""Words in the names of columns of times, and of the clocks of a column of dates."""

MISSING_SHARE = 0.1
"""Cells of the sample that may be empty or a word for a missing value."""

ORDERED = 0.95
"""Share of steps in one direction from which on a column is ordered."""

NOT_DATES = "they are not dates"
UNIT_CHANGES = "the unit changes inside the file, and each number has that of its size"
"""Notes about times."""

DAY_NS = 86_400 * 10**9

_CLOCK = re.compile(r"\d{1,2}:\d\d(?::\d\d(?:[.,]\d+)?)?(?: ?[AaPp][Mm])?", re.ASCII)
_MADE = re.compile(r"c\d+")


class TimeGuess(NamedTuple):
    """The column of times of a file, or the columns whose cells make a time together.

    form: text, digits of the calendar, days of Excel, or numbers since 1970, in words. unit: as
    `TimeColumn.unit`. confidence: `certain`, or `likely` for a count without dates or a name that
    says nothing. t_ns: int64 (m,) of the sample's rows, where `ok` (m,).
    """

    columns: tuple[str, ...]
    form: str
    unit: str
    confidence: str
    notes: tuple[str, ...]
    t_ns: Int64s
    ok: Bools

    @property
    def option(self) -> str:
        """The value of --time."""
        return ",".join(self.columns)

    @property
    def dated(self) -> bool:
        """Whether the times are dates, and not a count from some start."""
        return NOT_DATES not in self.notes

    @property
    def line(self) -> str:
        """One line about what was found."""
        notes = "".join(f"; {note}" for note in self.notes)
        return f"the times are in {self.option} ({self.form}){notes}"


def find_times(
    names: Sequence[str], cells: Sequence[Sequence[str]], unit: TimeUnit = "auto", form: str = ""
) -> TimeGuess | None:
    """Return the times of a file; None if no column has them.

    names: of its columns (C,). cells: text of the first rows, column by column (C, m). unit, form:
    as given by the user.
    """
    found = []
    for place, name in enumerate(names):
        guess = read_times(names, cells, (name,), unit, form)
        if guess is not None and (score := _score(guess, name)) is not None:
            found.append((score, -place, guess))
    if not found:
        return None
    best = max(found, key=lambda item: item[:2])[2]
    if shares_midnights(best):
        best = _with_clock(names, cells, best) or best
    steps = np.diff(best.t_ns[best.ok])
    return best if steps.any() or len(best.t_ns) == 1 else None


def given_times(
    names: Sequence[str], cells: Sequence[Sequence[str]], time: str, unit: TimeUnit, form: str
) -> TimeGuess | None:
    """Return the times that `--time` names; None if they cannot be read."""
    columns = time_columns(time, names)
    return read_times(names, cells, columns, unit, form) if set(columns) <= set(names) else None


def read_times(
    names: Sequence[str],
    cells: Sequence[Sequence[str]],
    columns: tuple[str, ...],
    unit: TimeUnit = "auto",
    form: str = "",
) -> TimeGuess | None:
    """Return the times in some columns; None if most cells are not times of one form."""
    parts = [cells[names.index(name)] for name in columns]
    width = clock_width(parts[-1]) if len(parts) > 1 else 0
    texts = [join_cells(row, width) for row in zip(*parts, strict=True)]
    if unit not in UNITS:
        return None
    try:
        column = TimeColumn(unit, form)
        column.settle_all(texts, ",".join(columns))
    except ValueError:
        return None
    t_ns, ok = column.strings(texts)
    if column.unit in DIGITS and not form and _changes_unit(column, texts):
        guess = read_times(names, cells, columns, unit, "epoch")
        return None if guess is None else guess._replace(notes=(UNIT_CHANGES,))
    if ok.sum() < (1 - MISSING_SHARE) * len(ok):
        return None
    dated = column.unit not in DIGITS or bool(
        ((t_ns[ok] >= DATED_NS[0]) & (t_ns[ok] < DATED_NS[1])).all()
    )
    notes = [] if dated else [NOT_DATES]
    if column.unit == "iso" and not column.zoned:
        notes.append("as UTC")
    confidence = "certain" if dated and all(map(is_time_name, columns)) else "likely"
    shown = _FORMS.get(column.unit, f"{column.unit} since 1970" if dated else column.unit)
    return TimeGuess(columns, shown, column.unit, confidence, tuple(notes), t_ns, ok)


_FORMS = {
    "iso": "text",
    "calendar": "digits of the calendar",
    "excel": "days of Excel",
    "epoch": "numbers since 1970",
}


def _changes_unit(column: TimeColumn, texts: Sequence[str]) -> bool:
    for text in texts:
        try:
            column.parse_strictly(text)
        except UnitChangeError:
            return True
        except ValueError:
            continue
    return False


def _score(guess: TimeGuess, name: str) -> tuple[bool, ...] | None:
    """Return how likely a column contains the times of the rows; None if it does not."""
    named, dated = is_time_name(name), guess.dated
    steps = np.diff(guess.t_ns[guess.ok])
    rising, falling = (
        float(np.mean(one)) if len(steps) else 1.0 for one in (steps >= 0, steps <= 0)
    )
    ordered = max(rising, falling) >= ORDERED
    if not dated:
        distinct = 2 * len(np.unique(guess.t_ns)) > len(guess.t_ns)
        fits = named and rising >= ORDERED and distinct and "date" not in name.lower()
    elif guess.unit == "iso":
        fits = named or rising >= 0.5 or ordered
    else:
        fits = named or (_MADE.fullmatch(name) is not None and ordered and bool(steps.any()))
    return (ordered, named, dated) if fits else None


def is_time_name(name: str) -> bool:
    """Return whether a name has a word for times in it."""
    words = re.findall("[a-z]+", re.sub("([a-z])([A-Z])", r"\1 \2", name).lower())
    return any(word in TIMES for word in words) or any(w in name.lower() for w in ("time", "date"))


def shares_midnights(guess: TimeGuess) -> bool:
    """Return whether most neighbours have one date, all without a clock."""
    t_ns = guess.t_ns[guess.ok]
    if len(t_ns) < 2 or not guess.dated:
        return False
    return float((t_ns % DAY_NS == 0).mean()) >= 0.98 and float((np.diff(t_ns) == 0).mean()) >= 0.5


def _with_clock(
    names: Sequence[str], cells: Sequence[Sequence[str]], dates: TimeGuess
) -> TimeGuess | None:
    for name in clock_columns(names, cells):
        if name not in dates.columns:
            joined = read_times(names, cells, (*dates.columns, name))
            if joined and len(np.unique(joined.t_ns)) > len(np.unique(dates.t_ns)):
                return joined
    return None


def clock_columns(names: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    """Return the columns that contain clocks: by their cells, or numbers with such a name."""
    found = []
    for name, column in zip(names, cells, strict=True):
        known = [cell.strip() for cell in column if cell.strip()]
        words = re.findall("[a-z]+", name.lower())
        numbers = all(cell.isdecimal() and len(cell) <= 6 for cell in known)
        if known and (
            all(map(_CLOCK.fullmatch, known)) or (numbers and any(w in CLOCKS for w in words))
        ):
            found.append(name)
    return found
