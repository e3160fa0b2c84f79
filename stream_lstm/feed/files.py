"""Historical files as a stream of blocks of raw ticks, never whole in memory.

The suffix names the format and a reader of that format gives runs of rows, the unusable ones
marked. Here, once for all formats, is what becomes of them: with `fail`, every row before the
first bad one is given and then `DataError` names file, line, column and text; with `skip`, a bad
row is left out and reported as a `Refusal`. A limit counts the ticks that are given, so that
rows behind it are never complained about.

Blocks of a file read in a thread of their own, one ahead of those that are in use.

Whether rows of a file are old; see `core.old_times` for the rule.
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
import numpy.typing as npt

from ..closing import Closing
from ..core.old_times import NEVER, find_old
from ..errors import DataError, UsageError
from ..events import Refusal
from ..schema import OnBad
from .csv_reader import CsvReader, csv_columns
from .reader import NOT_FINITE, WRITE, Keys, RawRows, Reader, check_readable
from .table_reader import NpyReader, TableReader, npy_columns, table_columns
from .times import UNITS, TimeUnit

T = TypeVar("T")

AHEAD = 2
"""Blocks that wait: while one is in use, the next is read. A block is a few megabytes."""


@contextmanager
def read_ahead(blocks: Iterable[T]) -> Iterator[Iterator[T]]:
    """Give the blocks in their order; an error comes where the block would.

    The thread is at its end when the `with` is left, whether or not all blocks were taken.
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
    """Counts the old ones among rows, in each stream by itself.

    Attributes: `count`, how many there were; `first`, the number of the first, 0 without any.
    """

    def __init__(self) -> None:
        self.count = 0
        self.first = 0
        self._latest: dict[str, tuple[int, npt.NDArray[np.float64]]] = {}

    def look(
        self,
        t_ns: npt.NDArray[np.int64],
        values: npt.NDArray[np.float64],
        rows: npt.NDArray[np.int64],
        keys: Keys | None = None,
    ) -> None:
        """Look at rows behind those of earlier calls: times (m,), values (m, C), numbers (m,).

        keys: their streams; None where all are of one.
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
        of = [names[code] for code in codes[starts].tolist()]
        new = NEVER, np.zeros(values.shape[1])
        known = [self._latest.get(name, new) for name in of]
        latest = np.array([time for time, _ in known])
        last = np.array([row for _, row in known])
        old = find_old(latest, last, starts, t_ns[order], values[order])
        self._latest.update(zip(of, zip(latest.tolist(), last, strict=True), strict=True))
        if old is not None:
            self.count += len(old.at)
            self.first = self.first or int(rows[order[old.at]].min())

    def warning(self, where: str) -> str:
        """Return a line about them, `where` naming the first; "" if there are none."""
        if not self.count:
            return ""
        more = f", as it does in {self.count:,} rows in all" if self.count > 1 else ""
        return (
            f"{where}: the time goes back, or the row repeats time and values of the one before"
            f"{more}; rows are taken in the order in which they stand: sort them by time first, "
            "and remove those that came twice, if they did not come about in this order"
        )


CHUNK_ROWS = 65536
"""Ticks of one block: enough to hide the cost of a block, and a few megabytes."""


class TickBlock(NamedTuple):
    """Consecutive ticks of a file."""

    t_ns: npt.NDArray[np.int64]  # (m,), zeros where the file has no time
    values: npt.NDArray[np.float64]  # (m, C), C-contiguous
    rows: npt.NDArray[np.int64]  # (m,), line numbers (the header is 1) or row numbers from 1
    keys: Keys | None = None  # where a column names the streams

    @property
    def row(self) -> int:
        """Line or row number of the first tick."""
        return int(self.rows[0])


class _Format(NamedTuple):
    open: Callable[..., Reader]
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
    ".npy": _Format(NpyReader, npy_columns),
}
"""What can be read, by suffix."""


class FileSource(Closing):
    """One open file; a context manager that closes it.

    Attributes: `columns`, all names in the file; `value_columns`, those of the values given, in
    order; `rows_read`, ticks given so far; `rows_refused`, rows left out.
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
        """Bytes of the file consumed so far, compressed ones where it is compressed."""
        return self._reader.bytes_read

    @property
    def bytes_total(self) -> int:
        """Size of the file in bytes."""
        return self._reader.bytes_total

    def close(self) -> None:
        """Close the file; closing twice is no mistake."""
        self._reader.close()

    def blocks(self) -> Iterator[TickBlock]:
        """Give the ticks in order, at most `chunk_rows` at a time; can be done once.

        Raises DataError for a row that cannot be used, where the file is damaged, and at the
        end if every row was left out.
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

    def _where(self, chunk: RawRows, at: int) -> str:
        word = "" if self._reader.row_word == "line" else f"{self._reader.row_word} "
        return f"{self.path}:{word}{chunk.rows[at]}"

    def _fail(self, chunk: RawRows) -> Iterator[TickBlock]:
        usable = chunk.bad[0].at if chunk.bad else len(chunk.rows)
        yield from self._give(chunk, slice(self._room(usable)))
        if chunk.bad and not self._is_full():
            at, reason = chunk.bad[0]
            place = f"{self.path}, {self._reader.row_word} {chunk.rows[at]}"
            raise DataError(f"{place}: {reason}{self._advice(chunk)}")

    def _advice(self, chunk: RawRows) -> str:
        """Return what to do about the first bad row of a run."""
        count, reason = len(chunk.rows), chunk.bad[0].reason
        if self.rows_read or len(chunk.bad) < count or count == 1:
            return "" if WRITE in reason else " (--on-bad-row skip leaves such rows out)"
        column = reason.partition(":")[0]
        same = all(bad.reason.startswith(column) for bad in chunk.bad)
        if same and NOT_FINITE in reason and WRITE not in reason:
            return f"; {column} holds no number in any of the first {count:,} rows"
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
                where = self._where(chunk, at)
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

    columns: names of the values wanted, in order; None for all numeric columns but the time.
    time: name of the column of times; None gives zeros.
    time_unit: of times that are numbers (`auto` goes by the size of the first), or `iso`.
    on_bad_row: `fail` raises at the first row that cannot be used, `skip` leaves such rows out.
    limit: ticks to give at most.
    chunk_rows: ticks in one block at most.
    optional: columns whose cells may be empty, which is read as NaN.
    key: name of the column that names each row's stream; None where they are all of one.
    on_refusal: called once for each row left out, with `where` as FILE:LINE.

    Raises InputMissingError where there is no such file, OutputError where it cannot be read,
    UsageError for an unknown suffix or unit, ConfigurationError for a column that is not there,
    and DataError for a file that is empty or damaged.
    """
    path = Path(path)
    if time_unit not in UNITS:
        raise UsageError(f"unknown time unit {time_unit!r} (there are {', '.join(UNITS)})")
    format_ = _format(path)
    check_readable(path)
    reader = format_.open(
        path,
        columns=columns,
        time=time,
        time_unit=time_unit,
        chunk_rows=chunk_rows,
        optional=optional,
        key=key,
    )
    return FileSource(
        path,
        reader,
        on_bad_row=on_bad_row,
        limit=limit,
        chunk_rows=chunk_rows,
        on_refusal=on_refusal,
    )


def file_columns(path: str | Path) -> tuple[str, ...]:
    """Return the names of the columns of a file, reading no more than its head.

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
        f"{path}: cannot tell what this is; known are {', '.join(FORMATS)}: call a table of text "
        ".csv, or .tsv where tabs separate it"
    )
