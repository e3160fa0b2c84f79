"""What the first rows of a file show about its order, its series and its odd values.

A replay of rows that are newest first, or of several series as one, gives a confident verdict
about nothing. Such a file is refused with the option that reads it right. A false alarm would stop
somebody who is right, so each refusal needs two signs: names that return in a column and a name
that says what they are, or values that stay on levels far apart. What is only odd is a warning.

The thresholds were set such that none of the series with one order and one source is refused.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from ..typing import Float64s, Int64s
from .found_times import ORDERED, TimeGuess, clock_columns, shares_midnights

SAMPLE_ROWS = 2000
"""Rows at the start that are looked at: some ten milliseconds."""

STREAMS = ("symbol", "sym", "ticker", "instrument", "isin", "ric", "cusip", "contract", "pair",
           "stream", "series", "sensor", "device", "station", "site", "store", "shop", "meter",
           "node", "mote", "asset", "coin")  # fmt: skip
"""Words of the names of columns that tell series apart."""

MIN_FALLING = 3
"""Steps back in time before the newest row is first: fewer can be a mistake in a short file."""

MIN_ROWS = 3
"""Rows of a name, before its level is compared."""

APART = 2.0
"""The gap between the levels of two series, in units of the wider one of them."""

SWITCHED = 0.3
"""Share of neighbours of different names: those of a state or a side are mostly equal."""

MAX_SERIES = 64
"""Rows of one time that are taken as one row of each series."""

SENTINELS = (
    *(
        sign * size
        for size in (999.0, 999.9, 9999.0, 9999.9, 99999.0, 999999.0)
        for sign in (1, -1)
    ),
    *(-99.0, -99.99, -200.0, -999.25, -32768.0, 32767.0, 65535.0),
    *(2.0**31 - 1, -(2.0**31), 2.0**32 - 1, 2.0**63, -(2.0**63), 2.0**64),
    *(
        sign * size
        for size in (1e20, 1e30, 1e34, 9.96921e36, 9.969209968386869e36)
        for sign in (1, -1)
    ),
    *(sign * float(np.finfo(kind).max) for kind in (np.float32, np.float64) for sign in (1, -1)),
)
"""Numbers that stand for a missing value in exports."""

ALONE = "give each series a file of its own (replay has --stream-column)"
"""The remedy for several series where the command takes one only."""

Severity = Literal["refuse", "warn", "note"]


class Finding(NamedTuple):
    """One thing about a file: what was found, and what to do about it.

    severity: `refuse` ends the command, unless the user insists; `warn` and `note` do not.
    """

    severity: Severity
    name: str
    what: str
    remedy: str

    @property
    def line(self) -> str:
        """The finding and its remedy in one line."""
        return f"{self.what}: {self.remedy}"


class Sample(NamedTuple):
    """The first rows of a file: names of all columns (C,), and their cells as text (C, m)."""

    names: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]

    def reversed(self) -> Sample:
        """Return the rows from the last to the first."""
        return Sample(self.names, tuple(column[::-1] for column in self.cells))

    def first(self, count: int | None) -> Sample:
        """Return the first rows."""
        return Sample(self.names, tuple(column[:count] for column in self.cells))


def check_series(
    sample: Sample,
    times: TimeGuess | None = None,
    *,
    used: Sequence[str] | None = None,
    stream_column: str | None = None,
    reverse: bool = False,
    by_column: bool = True,
) -> list[Finding]:
    """Return what is wrong or odd about the rows, refusals first.

    sample: in the order in which they are used. times: of these rows, None if they have none.
    used: the columns in use, None for all. stream_column: the one that names the streams.
    reverse: whether the rows are already used in reverse. by_column: whether the command has
    --stream-column.
    """
    findings = []
    if times is not None and (found := _newest_first(times, reverse)):
        findings.append(found)
    series = None if stream_column is not None else _series(sample, times, used)
    if series is not None:
        findings.append(series if by_column else series._replace(remedy=ALONE))
    elif times is not None and shares_midnights(times):
        findings.append(_without_clock(sample, times))
    places = [k for k, name in enumerate(sample.names) if used is None or name in used]
    places = [k for k in places if times is None or sample.names[k] not in times.columns]
    odd = OddValues([sample.names[k] for k in places])
    if places:
        odd.look(np.column_stack([_numbers(sample.cells[k]) for k in places]))
    return findings + odd.findings()


def _newest_first(times: TimeGuess, reverse: bool) -> Finding | None:
    steps = np.diff(times.t_ns[times.ok])
    falling, rising = int((steps < 0).sum()), int((steps > 0).sum())
    if falling < MIN_FALLING or falling < ORDERED * (falling + rising):
        return None
    if reverse:
        what, remedy = "the oldest row comes first", "omit --reverse"
    else:
        what, remedy = "the newest row comes first", "--reverse reads the rows from the last on"
    return Finding("refuse", "order", f"{what} (by {times.option})", remedy)


def _without_clock(sample: Sample, times: TimeGuess) -> Finding:
    share = float((np.diff(times.t_ns[times.ok]) == 0).mean())
    what = f"{share:.0%} of neighbouring rows share a midnight in {times.option}: it has no clock"
    for name in clock_columns(sample.names, sample.cells):
        if name not in times.columns:
            joined = shlex.quote(f"{times.option},{name}")
            remedy = f"--time {joined} joins the date with its clock"
            return Finding("warn", "clock", what, remedy)
    remedy = "name the column of the clock too, as in --time DATE,CLOCK, if there is one"
    return Finding("warn", "clock", what, remedy)


# ---- several series ---------------------------------------------------------------------------


def _series(sample: Sample, times: TimeGuess | None, used: Sequence[str] | None) -> Finding | None:
    """Return the refusal of several series in one file; None without a sign of them."""
    skip = () if times is None else times.columns
    numbers = {
        name: _numbers(column)
        for name, column in zip(sample.names, sample.cells, strict=True)
        if name not in skip
    }
    texts = [n for n, v in numbers.items() if 2 * np.isfinite(v).sum() < len(v)]
    levels = [v for n, v in numbers.items() if n not in texts and (used is None or n in used)]
    named = [
        name
        for name, values in numbers.items()
        if _names_streams(name) and (name in texts or (values == np.floor(values)).all())
    ]
    for name in (*named, *(name for name in texts if name not in named)):
        cells = sample.cells[sample.names.index(name)]
        names = Counter(cell for cell in cells if cell.strip())
        if not 2 <= len(names) <= len(cells) / 2:
            continue
        codes = _codes(cells)
        sure = name in named and name in texts
        if _interleaved(codes, len(names), levels, times, sure=sure) or _blocks(codes, times):
            few = ", ".join(list(names)[:3]) + (", ..." if len(names) > 3 else "")
            return Finding(
                "refuse",
                "series",
                f"column {name} holds {len(names)} names ({few})",
                f"--stream-column {shlex.quote(name)}",
            )
    return _repeated_times(times, levels)


def _interleaved(
    codes: Int64s,
    count: int,
    levels: Sequence[Float64s],
    times: TimeGuess | None,
    *,
    sure: bool,
) -> bool:
    """Return whether the rows of several names alternate."""
    switches = int((np.diff(codes) != 0).sum())
    if switches < count:  # no name returns, as where one contract follows another
        return False
    if sure:
        return True
    together = times is not None and _shared_times(times, codes) >= 0.5
    return (together or switches >= SWITCHED * len(codes)) and _apart(codes, levels)


def _shared_times(times: TimeGuess, codes: Int64s) -> float:
    """Return the share of times that have rows of several names."""
    pairs = np.unique(np.column_stack([times.t_ns, codes]), axis=0)
    _, names = np.unique(pairs[:, 0], return_counts=True)
    return float((names > 1).mean())


def _blocks(codes: Int64s, times: TimeGuess | None) -> bool:
    """Return whether time starts again with each name, and nowhere else."""
    if times is None or not times.ok.all():
        return False
    back = np.diff(times.t_ns) < 0
    return np.array_equal(back, np.diff(codes) != 0)


def _repeated_times(times: TimeGuess | None, levels: Sequence[Float64s]) -> Finding | None:
    """Return the refusal of rows that come in groups of one time, on levels far apart."""
    if times is None or not times.ok.all() or len(times.t_ns) < 2 * MIN_ROWS:
        return None
    edges = np.flatnonzero(np.diff(times.t_ns)) + 1
    sizes = np.diff([0, *edges.tolist()])
    if len(sizes) < MIN_ROWS or not 2 <= sizes[0] <= MAX_SERIES or (sizes != sizes[0]).any():
        return None
    count = int(sizes[0])
    if not _apart(np.arange(len(times.t_ns)) % count, levels):
        return None
    return Finding(
        "refuse",
        "series",
        f"each time has {count} rows, whose values are on {count} levels far apart",
        "add a column with the name of each row's series for --stream-column, or give each series "
        "a file",
    )


def _apart(codes: Int64s, levels: Sequence[Float64s]) -> bool:
    """Return whether each series has a level of its own, far from those of all others."""
    for values in levels:
        spans = []
        for code in range(int(codes.max()) + 1):
            own = values[(codes == code) & np.isfinite(values)]
            if len(own) >= MIN_ROWS:
                spans.append(np.quantile(own, (0.02, 0.98)))
        if len(spans) < 2:
            continue
        low, high = np.array(sorted(map(tuple, spans))).T
        if (low[1:] - high[:-1] > APART * np.maximum(high - low, 0)[1:]).all() and (
            low[1:] - high[:-1] > APART * np.maximum(high - low, 0)[:-1]
        ).all():
            return True
    return False


def _names_streams(name: str) -> bool:
    """Return whether a name ends with a word for series, as in sensor_id, but not sensor_1."""
    words = re.findall("[a-z]+|[0-9]+", re.sub("([a-z])([A-Z])", r"\1 \2", name).lower())
    while words and words[-1] in ("id", "name", "code", "no", "nr", "number", "key"):
        words.pop()
    return bool(words) and words[-1] in STREAMS


def _codes(cells: Sequence[str]) -> Int64s:
    known: dict[str, int] = {}
    return np.array([known.setdefault(cell, len(known)) for cell in cells], np.int64)


def _numbers(cells: Sequence[str]) -> Float64s:
    return np.array([_number(cell) for cell in cells], np.float64)


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return np.nan


# ---- odd values -------------------------------------------------------------------------------


class OddValues:
    """Counts numbers that stand for a missing value, far from all other values of their column."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._low = np.full(len(names), np.inf)
        self._high = np.full(len(names), -np.inf)
        self._counts: list[Counter[float]] = [Counter() for _ in names]

    def look(self, values: Float64s) -> None:
        """Take values (m, C) of these columns; the least and the greatest alone are compared."""
        if not len(values):
            return
        columns = np.ascontiguousarray(values.T)  # along rows of C values NumPy is slow
        low, high = np.fmin.reduce(columns, axis=1), np.fmax.reduce(columns, axis=1)
        for k in np.flatnonzero(np.isin(low, SENTINELS) | np.isin(high, SENTINELS)).tolist():
            odd = np.isin(columns[k], SENTINELS)
            found, counts = np.unique(columns[k][odd], return_counts=True)
            self._counts[k].update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
            rest = columns[k][~odd]
            low[k] = np.fmin.reduce(rest, initial=np.inf)
            high[k] = np.fmax.reduce(rest, initial=-np.inf)
        self._low, self._high = np.fmin(self._low, low), np.fmax(self._high, high)

    def findings(self) -> list[Finding]:
        """Return a note for each column with such values."""
        notes = []
        for name, low, high, counts in zip(
            self.names, self._low, self._high, self._counts, strict=True
        ):
            far = {
                v: n
                for v, n in counts.items()
                if v < low - (high - low) or v > high + (high - low)
            }
            if low <= high and far:
                shown = ", ".join(
                    f"{_shown(v)} in {n:,} row{'s' * (n > 1)}" for v, n in far.items()
                )
                words = ",".join(map(_shown, far))
                what = f"{name} has {shown}, and {low:g} to {high:g} otherwise"
                notes.append(
                    Finding("note", "sentinels", what, f"--missing {words} if it means no value")
                )
        return notes


def _shown(value: float) -> str:
    if value == 2.0**63:
        return str(2**63 - 1)  # as text it is the greatest int64, which float64 does not have
    return str(int(value)) if value.is_integer() and abs(value) < 1e19 else repr(value)
