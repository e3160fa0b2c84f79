"""Historical files as a stream of blocks of raw ticks, never completely in memory.

The suffix names the format, and a reader of that format gives runs of rows with the unusable ones
marked. `FileSource` handles these, for all formats: with `fail` it gives every row before the
first bad one and then raises `DataError` with file, line, column and text; with `skip` it omits a
bad row and reports a `Refusal`. A limit counts the ticks that are given, so rows after it are
never reported.

`read_ahead` reads blocks in a thread while others are used, and `TimeOrder` counts rows whose time
is old (see `core.old_ticks` for the rule).
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..closing import Closing
from ..core.missing import EVERY
from ..core.old_ticks import NEVER, find_old
from ..errors import DataError, UsageError
from ..events import Refusal
from ..schema import OnBad, TimeUnit
from ..typing import Float64s, Int64s
from .csv_reader import CsvReader, csv_columns
from .reader import (
    CHUNK_ROWS,
    NOT_FINITE,
    WRITE,
    Keys,
    RawRows,
    Reader,
    Selection,
    check_readable,
)
from .table_reader import TableReader, table_columns
from .times import UNITS

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


class TimeOrder:
    """Counts the old rows of each stream.

    Attributes: `count`, their number; `first`, the row number of the first, 0 without any; and
    `stream`, the stream of that row, "" without keys.
    """

    def __init__(self) -> None:
        self.count = 0
        self.first = 0
        self.stream = ""
        self._latest: dict[str, tuple[int, Float64s]] = {}

    def look(self, t_ns: Int64s, values: Float64s, rows: Int64s, keys: Keys | None = None) -> None:
        """Check rows after those of earlier calls: times (m,), values (m, C), numbers (m,).

        keys: their streams; None if all rows are of one.
        """
        if not len(t_ns):
            return
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


class _Format(NamedTuple):
    open: Callable[[Path, Selection], Reader]
    columns: Callable[[Path], tuple[str, ...]]


def _text_format(compression: str, delimiter: str) -> _Format:
    options: dict[str, Any] = {"compression": compression, "delimiter": delimiter}
    return _Format(
        functools.partial(CsvReader, **options), functools.partial(csv_columns, **options)
    )


def _table_format(kind: Any) -> _Format:
    return _Format(
        functools.partial(TableReader, kind=kind), functools.partial(table_columns, kind=kind)
    )


FORMATS: Mapping[str, _Format] = {
    ".csv": _text_format("", ","),
    ".csv.gz": _text_format("gzip", ","),
    ".csv.zst": _text_format("zstd", ","),
    ".tsv": _text_format("", "\t"),
    ".tsv.gz": _text_format("gzip", "\t"),
    ".tsv.zst": _text_format("zstd", "\t"),
    ".parquet": _table_format("parquet"),
    ".arrow": _table_format("arrow"),
    ".feather": _table_format("arrow"),
    ".npy": _table_format("npy"),
}
"""The formats, by suffix."""


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
            return "" if WRITE in reason else " (--on-bad-row skip leaves such rows out)"
        column = reason.partition(":")[0]
        same = all(bad.reason.startswith(column) for bad in chunk.bad)
        if same and NOT_FINITE in reason and WRITE not in reason:
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
) -> FileSource:
    """Open a historical file.

    columns: names of the values, in order; None for all numeric columns except the time.
    time: name of the column of times; None gives zeros.
    time_unit: of times that are numbers (`auto` goes by the size of the first), or `iso`.
    on_bad_row: `fail` raises at the first row that cannot be used, `skip` omits such rows.
    limit: ticks to give at most.
    chunk_rows: ticks in one block at most.
    optional: columns whose cells may be empty, which is read as NaN; `*` is all.
    key: name of the column with each row's stream; None if all rows are of one.
    on_refusal: called for each skipped row, with `where` as FILE:LINE.

    Raises InputMissingError for a missing file, OutputError for one that cannot be read,
    UsageError for an unknown suffix or unit, ConfigurationError for a missing column, and
    DataError for a file that is empty or damaged.
    """
    path = Path(path)
    return FileSource(
        path,
        open_reader(path, Selection(columns, time, time_unit, chunk_rows, optional, key)),
        on_bad_row=on_bad_row,
        limit=limit,
        chunk_rows=chunk_rows,
        on_refusal=on_refusal,
    )


def open_reader(path: Path, selection: Selection) -> Reader:
    """Open a file to be read in runs of rows; raises as `open_file`."""
    if (unit := selection.time_unit) not in UNITS:
        raise UsageError(f"unknown time unit {unit!r} (there are {', '.join(UNITS)})")
    format_ = _format(path)
    check_readable(path)
    if EVERY in selection.optional:
        selection = selection._replace(optional=format_.columns(path))
    return format_.open(path, selection)


def file_columns(path: str | Path) -> tuple[str, ...]:
    """Return the names of the columns of a file, reading only its beginning.

    Raises what `open_file` raises for a file that is missing, unknown or damaged.
    """
    path = Path(path)
    format_ = _format(path)
    check_readable(path)
    return format_.columns(path)


def _format(path: Path) -> _Format:
    name = path.name.lower()
    for suffix, format_ in FORMATS.items():
        if name.endswith(suffix):
            return format_
    raise UsageError(
        f"{path}: unknown file format; known are {', '.join(FORMATS)}: name a table of text .csv, "
        "or .tsv if tabs separate it; see 'stream-lstm help files'"
    )
