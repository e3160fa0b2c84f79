"""Historical files as a stream of blocks of raw ticks, never completely in memory.

A table of `tables` gives runs of columns, and `TableReader` makes ticks of them, with the unusable
rows marked. `FileSource` handles these: with `fail` it gives every row before the
first bad one and then raises `DataError` with file, line, column and text; with `skip` it omits a
bad row and reports a `Refusal`. A limit counts the ticks that are given, so rows after it are
never reported.

`read_ahead` reads blocks in a thread while others are used, and `TimeOrder` counts rows whose time
is old (see `core.old_ticks` for the rule).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute

from ..closing import Closing
from ..core.missing import EVERY
from ..core.old_ticks import NEVER, find_old
from ..errors import ConfigurationError, DataError, UsageError
from ..events import Refusal
from ..schema import OnBad, TimeUnit
from ..typing import Float64s, Int64s
from .dialect import SAMPLE_LINES, Asked
from .order import SAMPLE_ROWS, Sample
from .reader import (
    CHUNK_ROWS,
    NOT_FINITE,
    BadRow,
    Keys,
    RawRows,
    Reader,
    Selection,
    check_readable,
    fault,
    keys_of,
    not_finite,
    usable,
)
from .reversed import ReversedReader
from .rows import AMBIGUOUS
from .tables import Run, Table, TextTable, TypedTable, open_table
from .times import FORMS, UNITS, clock_width, join_cells, joined, shown_cell, time_columns

T = TypeVar("T")

AHEAD = 2
"""Blocks in the queue of `read_ahead`: one is in use, the next is read. Each is some megabytes."""


@contextmanager
def read_ahead(blocks: Iterable[T]) -> Iterator[Iterator[T]]:
    """Read blocks in a thread and yield them in order; an error is raised in place of its block.

    The thread ends with the `with`, whether or not all blocks were taken.
    """
    queue: Queue[tuple[T] | BaseException | None] = Queue(AHEAD)
    over = threading.Event()

    def read() -> None:
        end: BaseException | None = None
        try:
            for block in blocks:
                queue.put((block,))
                if over.is_set():
                    return
        except BaseException as error:
            end = error
        queue.put(end)

    def taken() -> Iterator[T]:
        while (item := queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item[0]

    thread = threading.Thread(target=read, name="read-ahead", daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        over.set()
        while thread.is_alive():
            while not queue.empty():
                queue.get_nowait()
            thread.join(0.01)


DISORDER = 0.2
"""Share of rows before the latest time from which on a replay has no verdict."""


class TimeOrder:
    """Counts the old rows of each stream; none unless `enabled`.

    Attributes: `count`, their number; `back`, those of them before the latest time; `rows`, the
    number of all rows; `first`, the row number of the first, 0 without any; and
    `stream`, the stream of that row, "" without keys.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        self.count = self.back = self.rows = 0
        self._enabled = enabled
        self.first = 0
        self.stream = ""
        self._latest: dict[str, tuple[int, Float64s]] = {}

    def look(self, t_ns: Int64s, values: Float64s, rows: Int64s, keys: Keys | None = None) -> None:
        """Check rows after those of earlier calls: times (m,), values (m, C), numbers (m,).

        keys: their streams; None if all rows are of one.
        """
        if not (self._enabled and len(t_ns)):
            return
        self.rows += len(t_ns)
        names: tuple[str, ...] = ("",)
        codes = np.zeros(len(t_ns), np.int64)
        if keys is not None:
            names, codes = keys.names, keys.codes
        order = np.argsort(codes, kind="stable")
        codes = codes[order]
        starts = np.flatnonzero(np.append(True, codes[1:] != codes[:-1]))
        streams = [names[code] for code in codes[starts].tolist()]
        new = NEVER, np.zeros(values.shape[1])
        known = [self._latest.get(name, new) for name in streams]
        latest = np.array([time for time, _ in known])
        last = np.array([row for _, row in known])
        old = find_old(latest, last, starts, t_ns[order], values[order])
        self._latest.update(zip(streams, zip(latest.tolist(), last, strict=True), strict=True))
        if old is not None:
            if not self.count:
                at = int(order[old.at].min())
                self.first = int(rows[at])
                self.stream = "" if keys is None else keys.names[keys.codes[at]]
            self.count += len(old.at)
            self.back += int((old.t_ns < old.latest_ns).sum())

    def doubt(self) -> str:
        """Return why the order makes a verdict meaningless; "" if it does not."""
        if self.back < DISORDER * self.rows or not self.back:
            return ""
        return (
            f"{self.back:,} of {self.rows:,} rows are before the latest time that their stream "
            "had reached, so they are not one series in order of time"
        )

    def warning(self, where: str) -> str:
        """Return a line about the old rows, "" without any; `where` names the first."""
        if not self.count:
            return ""
        more = f"; {self.count:,} rows in all are like this" if self.count > 1 else ""
        return (
            f"{where}: the time goes back, or the row repeats time and values of the one before"
            f"{more}; rows are used in file order: sort them by time first and remove duplicates, "
            "unless they really occurred in this order"
        )


class TickBlock(NamedTuple):
    """Consecutive ticks of a file."""

    t_ns: Int64s  # (m,), zeros for a file without times
    values: Float64s  # (m, C), C-contiguous
    rows: Int64s  # (m,), line numbers (the header is 1) or row numbers from 1
    keys: Keys | None = None  # if a column names the streams

    @property
    def row(self) -> int:
        """Line or row number of the first tick."""
        return int(self.rows[0])


class TableReader(Reader):
    """The ticks in an open table.

    Raises ConfigurationError for a column that is missing or has no numbers, and DataError for a
    table without numbers or times.
    """

    def __init__(self, path: Path, selection: Selection, table: Table) -> None:
        super().__init__(path, selection)
        self._table, self.columns, self.row_word = table, table.names, table.row_word
        if EVERY in selection.optional:
            self.selection = selection = selection._replace(optional=self.columns)
        numeric, sample = table.numeric(), table.sample()
        if selection.columns is None and not numeric and sample:
            raise DataError(_no_numbers(path, self.columns, sample))
        if selection.key not in (None, *self.columns) and numeric == self.columns:
            raise ConfigurationError(
                f"{path} contains only numbers, and no column that names streams",
                key="stream_column",
            )
        selection.check(path, self.columns)
        self.value_columns = selection.value_columns(path, self.columns, numeric)
        for name in self.value_columns:
            table.check(name, optional=name in selection.optional)
        self._places = [self.columns.index(name) for name in self.value_columns]
        names = time_columns(selection.time, self.columns)
        self._time_places = [self.columns.index(name) for name in names]
        self._key_place = None if selection.key is None else self.columns.index(selection.key)
        self._times = selection.times()
        self._clock_width: int | None = None
        self._settle_times(sample)
        self._sentinels = [float(word) for word in selection.asked.missing if _is_float(word)]

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """What a user should know about how the file is read."""
        return self._table.notes

    @property
    def bytes_read(self) -> int:
        """Bytes of the file read so far, estimated for some formats."""
        return self._table.bytes_read

    def close(self) -> None:
        """Close the file."""
        self._table.close()

    def _settle_times(self, sample: Sequence[tuple[int, Sequence[str]]]) -> None:
        """Let the first valid time of the sample settle the form of times."""
        places = self._time_places
        if not places or not sample:
            return
        rows = [(line, row) for line, row in sample[:SAMPLE_LINES] if len(row) > max(places)]
        self._clock_width = clock_width([row[places[-1]] for _, row in rows if len(places) > 1])
        cells = [self._time([row[place] for place in places]) for _, row in rows]
        name = self.selection.time
        try:
            self._times.settle_all(cells, name or "")
        except ValueError as error:
            line = next((line for (line, _), cell in zip(rows, cells, strict=True) if cell), 0)
            first = f"{self.row_word} {line}: {error}" if line else "it is empty"
            raise DataError(f"{self.path}: no time in column {name!r}: {first}") from None

    def _time(self, cells: Sequence[str]) -> str:
        return join_cells(cells, self._clock_width or 0)

    def chunks(self) -> Iterator[RawRows]:
        """Give the rows in runs."""
        keys = () if self._key_place is None else (self._key_place,)
        types: dict[int, Any] = dict.fromkeys(self._places, pa.float64())
        types |= dict.fromkeys((*self._time_places, *keys), pa.string())
        alone = len(self._time_places) == 1 and self._time_places[0] not in self._places
        if alone and self._times.unit != "auto":
            types[self._time_places[0]] = self._times.arrow_type
        for run in self._table.runs(types, self.selection.chunk_rows):
            if len(run.rows):
                yield self._convert(run)

    def _convert(self, run: Run) -> RawRows:
        count = len(run.rows)
        values, reasons = np.empty((count, len(self._places))), dict(reversed(run.faults))
        for k, place in enumerate(self._places):
            column, wrong = self._table.numbers(place, run.columns[place])
            values[:, k] = column
            for at, reason in wrong:
                reasons.setdefault(at, reason)
        if self.selection.optional and isinstance(self._table, TextTable):
            values[np.isnan(values)] = np.nan  # one of all that there are, without a sign
        for sentinel in self._sentinels:
            values[values == sentinel] = np.nan
        ok = usable(values, self.value_columns, self.selection.optional)
        ok[list(reasons)] = False
        t_ns, keys = np.zeros(count, np.int64), None
        if self._time_places:
            t_ns, timed = self._t_ns(run)
            ok &= timed
        if self._key_place is not None:
            keys = keys_of(run.columns[self._key_place])
            ok &= keys.codes >= 0
        bad = [
            BadRow(int(at), reasons.get(int(at)) or self._fault(run, int(at), values[at]))
            for at in np.flatnonzero(~ok)
        ]
        return RawRows(t_ns, values, run.rows, bad, keys)

    def _t_ns(self, run: Run) -> tuple[Int64s, Any]:
        columns = [run.columns[place] for place in self._time_places]
        if len(columns) > 1:
            columns = [
                c if pa.types.is_string(c.type) else pa.array(map(shown_cell, c.to_pylist()))
                for c in columns
            ]
            if self._clock_width is None:
                self._clock_width = clock_width(columns[-1].to_pylist())
        try:
            return self._times.convert(joined(columns, self._clock_width or 0))
        except (ValueError, pa.ArrowException) as error:
            name, first = self.selection.time, run.rows[0]
            message = f"{self.path}: column {name!r}, from {self.row_word} {first}: {error}"
            raise DataError(message) from None

    def _fault(self, run: Run, at: int, values: Float64s) -> str:
        """Return why a row cannot be used."""
        time, key = self.selection.time, self.selection.key
        if self._time_places:
            text = self._time([run.cell(at, place) for place in self._time_places])
            try:
                self._times.parse(text)
            except ValueError as error:
                return f"column {time!r}: {error}"
        for name, place, value in zip(self.value_columns, self._places, values, strict=True):
            if not np.isfinite(value) and not (
                np.isnan(value) and name in self.selection.optional
            ):
                return not_finite(name, run.cell(at, place))
        if self._key_place is not None and (why := fault(run.cell(at, self._key_place))):
            return f"column {key!r}: {why}"
        return f"column {time!r}: {text!r} is not a time: {FORMS}"


MAX_NAMES = 10
"""Columns in the message that none contains numbers."""


def _no_numbers(path: Path, names: Sequence[str], sample: Sequence[tuple[int, Any]]) -> str:
    """Return a message with the first complete row of a file without a column of numbers."""
    row: Sequence[str] = next((row for _, row in sample if len(row) == len(names)), ())
    cells = [f"{name!r} is {cell[:40]!r}" for name, cell in zip(names, row, strict=False)]
    return "; ".join([f"{path} has no column of numbers", *cells[:MAX_NAMES]])


def _is_float(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


class FileSource(Closing):
    """One open file; a context manager that closes it.

    Attributes: `columns`, all names in the file; `value_columns`, the names of the given values,
    in order; `rows_read`, ticks given so far; `rows_refused`, rows that were skipped.
    """

    def __init__(
        self,
        path: Path,
        reader: Reader,
        *,
        on_bad_row: OnBad,
        limit: int | None,
        chunk_rows: int,
        on_refusal: Callable[[Refusal], None],
    ) -> None:
        self.path = path
        self.columns = reader.columns
        self.value_columns = reader.value_columns
        self.rows_read = 0
        self.rows_refused = 0
        self._reader = reader
        self._on_bad_row = on_bad_row
        self._limit = limit
        self._chunk_rows = chunk_rows
        self._on_refusal = on_refusal
        self._first_refusal = ""

    @property
    def bytes_read(self) -> int:
        """Bytes of the file read so far, compressed ones if it is compressed."""
        return self._reader.bytes_read

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about how the file is read; more may come with its last rows."""
        return self._reader.notes

    @property
    def bytes_total(self) -> int:
        """Size of the file in bytes."""
        return self._reader.bytes_total

    def close(self) -> None:
        """Close the file; it may be called again."""
        self._reader.close()

    def blocks(self) -> Iterator[TickBlock]:
        """Give the ticks in order, at most `chunk_rows` at a time; call it once.

        Raises DataError for a row that cannot be used, for a damaged file, and at the end if every
        row was skipped.
        """
        if self._is_full():
            return
        for chunk in self._reader.chunks():
            yield from self._fail(chunk) if self._on_bad_row == "fail" else self._skip(chunk)
            if self._is_full():
                return
        if not self.rows_read:
            none = f"none of its {self.rows_refused} rows can be used"
            raise DataError(f"{self.path}: {none}; {self._first_refusal}")

    def _is_full(self) -> bool:
        return self._limit is not None and self.rows_read >= self._limit

    def _room(self, count: int) -> int:
        return count if self._limit is None else min(count, self._limit - self.rows_read)

    def _fail(self, chunk: RawRows) -> Iterator[TickBlock]:
        usable = chunk.bad[0].at if chunk.bad else len(chunk.rows)
        yield from self._give(chunk, slice(self._room(usable)))
        if chunk.bad and not self._is_full():
            at, reason = chunk.bad[0]
            reader = self._reader.of(chunk, at)
            place = f"{reader.path}, {reader.row_word} {chunk.rows[at]}"
            raise DataError(f"{place}: {reason}{self._advice(chunk)}")

    def _advice(self, chunk: RawRows) -> str:
        """Return what to do about the first bad row of a run."""
        count, reason = len(chunk.rows), chunk.bad[0].reason
        if self.rows_read or len(chunk.bad) < count or count == 1:
            return "" if AMBIGUOUS in reason else " (--on-bad-row skip leaves such rows out)"
        column = reason.partition(":")[0]
        same = all(bad.reason.startswith(column) for bad in chunk.bad)
        if same and NOT_FINITE in reason:
            return f"; {column} contains no number in any of the first {count:,} rows"
        return f"; none of the first {count:,} rows can be used"

    def _skip(self, chunk: RawRows) -> Iterator[TickBlock]:
        good = np.ones(len(chunk.rows), np.bool_)
        good[[at for at, _ in chunk.bad]] = False
        taken = np.flatnonzero(good)
        taken = taken[: self._room(len(taken))]
        reached = self._limit == self.rows_read + len(taken) and len(taken)
        end = taken[-1] if reached else len(chunk.rows)
        for at, reason in chunk.bad:
            if at < end:
                self.rows_refused += 1
                reader = self._reader.of(chunk, at)
                word = "" if reader.row_word == "line" else f"{reader.row_word} "
                where = f"{reader.path}:{word}{chunk.rows[at]}"
                self._first_refusal = self._first_refusal or f"{where}: {reason}"
                self._on_refusal(Refusal(stream="", kind="tick", reason=reason, where=where))
        yield from self._give(chunk, taken if chunk.bad else slice(len(taken)))

    def _give(self, chunk: RawRows, taken: Any) -> Iterator[TickBlock]:
        t_ns, values, rows = chunk.t_ns[taken], chunk.values[taken], chunk.rows[taken]
        keys = None if chunk.keys is None else chunk.keys.some(taken)
        for start in range(0, len(rows), self._chunk_rows):
            part = slice(start, start + self._chunk_rows)
            block = TickBlock(
                t_ns[part], values[part], rows[part], None if keys is None else keys.some(part)
            )
            self.rows_read += len(block.rows)
            yield block


def open_file(
    path: str | Path,
    *,
    columns: Sequence[str] | None,
    time: str | None,
    on_refusal: Callable[[Refusal], None],
    time_unit: TimeUnit = "auto",
    on_bad_row: OnBad = "fail",
    limit: int | None = None,
    chunk_rows: int = CHUNK_ROWS,
    optional: Sequence[str] = (),
    key: str | None = None,
    asked: Asked | None = None,
    time_format: str = "",
    lenient_time: bool = False,
    reverse: bool = False,
) -> FileSource:
    """Open a historical file.

    columns: names of the values, in order; None for all numeric columns except the time.
    time: name of the column of times, or several with commas that contain its parts; None gives
    zeros.
    time_unit: of times that are numbers (`auto` goes by the size of the first), or `iso`.
    on_bad_row: `fail` raises at the first row that cannot be used, `skip` omits such rows.
    limit: ticks to give at most.
    chunk_rows: ticks in one block at most.
    optional: columns whose cells may be empty, which is read as NaN; `*` is all.
    key: name of the column with each row's stream; None if all rows are of one.
    asked: what the user states about the table, such as its delimiter.
    time_format: the form of the times, as in `strptime`, or `excel` or `epoch`; "" to find it.
    lenient_time: give `NO_TIME` for a cell that is not a time, instead of refusing the row.
    reverse: give the last row first; the whole file is then in memory.
    on_refusal: called for each skipped row, with `where` as FILE:LINE.

    Raises InputMissingError for a missing file, OutputError for one that cannot be read,
    UsageError for an unknown unit, ConfigurationError for a missing column, and DataError for a
    file that is empty, damaged or not a table.
    """
    path, asked = Path(path), asked or Asked()
    selection = Selection(
        columns,
        time,
        time_unit,
        chunk_rows,
        optional,
        key,
        asked,
        time_format,
        lenient_time,
        reverse,
    )
    return FileSource(
        path,
        open_reader(path, selection),
        on_bad_row=on_bad_row,
        limit=limit,
        chunk_rows=chunk_rows,
        on_refusal=on_refusal,
    )


def open_reader(path: Path, selection: Selection) -> Reader:
    """Open a file to be read in runs of rows; raises as `open_file`."""
    if (unit := selection.time_unit) not in UNITS:
        raise UsageError(f"unknown time unit {unit!r} (there are {', '.join(UNITS)})")
    try:
        selection.times()
    except ValueError as error:
        raise UsageError(f"--time-format {selection.time_format!r}: {error}") from None
    check_readable(path)
    table = open_table(path, selection.asked)
    try:
        reader = TableReader(path, selection, table)
        return ReversedReader(reader) if selection.reverse else reader
    except BaseException:
        table.close()
        raise


def file_columns(path: str | Path, asked: Asked | None = None) -> tuple[str, ...]:
    """Return the names of the columns of a file, reading only its beginning.

    Raises what `open_file` raises for a file that is missing, unknown or damaged.
    """
    path = Path(path)
    check_readable(path)
    with open_table(path, asked) as table:
        return table.names


def file_sample(path: str | Path, asked: Asked | None = None) -> Sample:
    """Return the first rows of a file as text; raises as `file_columns`."""
    path = Path(path)
    check_readable(path)
    with open_table(path, asked) as table:
        names = table.names
        rows = [row for _, row in table.sample() if len(row) >= len(names)][:SAMPLE_ROWS]
        if rows or not isinstance(table, TypedTable):
            return Sample(names, tuple(tuple(row[k] for row in rows) for k in range(len(names))))
        types = dict.fromkeys(range(len(names)), pa.string())
        run = next(table.runs(types, SAMPLE_ROWS))
        columns = (run.columns[k].slice(0, SAMPLE_ROWS).to_pylist() for k in range(len(names)))
        return Sample(names, tuple(tuple(map(shown_cell, column)) for column in columns))
