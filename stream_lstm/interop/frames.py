"""The rows of tables and files as blocks, in order: what a predictor replays.

A table in memory is one block. The batches of a LazyFrame, of an Arrow reader and of a file come
one after the other, so a series need not fit into memory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..core.replay import ReplayRows
from ..errors import DataError
from ..feed.tables import floats, is_numeric
from ..feed.times import FORMS, TimeColumn
from ..schema import TimeUnit
from .notices import warn

_UNNAMED = re.compile(r"__index_level_\d+__")
"""Arrow's name for a pandas index without a name."""


class Rows:
    """The rows of a table or a file.

    blocks: never without rows, and numbered. where: names a row by its number. skipped: returns
    how many rows the reader has left out. Attributes: `time_type`, the Arrow type of the times,
    None without times.
    """

    def __init__(
        self,
        blocks: Iterator[ReplayRows],
        where: Callable[[int], str],
        skipped: Callable[[], int] = lambda: 0,
    ) -> None:
        self.blocks, self.where, self.skipped = blocks, where, skipped
        self.time_type: pa.DataType | None = None

    def begin(self) -> None:
        """Read the first block now, and so find most mistakes before anything is compiled."""
        first = next(self.blocks, None)
        if first is None:
            raise DataError("the table has no rows")
        self.blocks = _chained(first, self.blocks)


def _chained(first: ReplayRows, others: Iterator[ReplayRows]) -> Iterator[ReplayRows]:
    yield first
    yield from others


@contextmanager
def open_rows(
    source: Any,
    columns: Sequence[str],
    optional: Sequence[str],
    *,
    time: str | None = None,
    time_unit: TimeUnit = "auto",
    skip_bad: bool = False,
) -> Iterator[Rows]:
    """Give the rows of a table, or of the file at a path; close the file at the end.

    columns: those to read; cells of `optional` may be empty. time, time_unit, skip_bad: as in
    `Predictor.replay`. Raises DataError for a table that cannot be used, and
    what opening a file raises.
    """
    if isinstance(source, str | os.PathLike):
        with _file_rows(Path(source), columns, optional, time, time_unit, skip_bad) as rows:
            yield rows
    else:
        yield _frame_rows(source, columns, optional, time, time_unit)


# ---- files ------------------------------------------------------------------------------------


@contextmanager
def _file_rows(
    path: Path,
    columns: Sequence[str],
    optional: Sequence[str],
    time: str | None,
    time_unit: TimeUnit,
    skip_bad: bool,
) -> Iterator[Rows]:
    from ..feed.input_file import InputFile, look_over

    file = InputFile(
        path,
        path.name,
        time,
        time_unit,
        on_bad_row="skip" if skip_bad else "fail",
        optional=tuple(optional),
    )
    file, _ = look_over(file, used=columns, warn=warn)
    with file.open(columns) as source:
        blocks = (
            ReplayRows(block.t_ns, block.values[:, : len(columns)], block.rows)
            for block in source.blocks()
            if len(block.rows)
        )
        rows = Rows(blocks, lambda number: f"{path}:{number}", lambda: source.rows_refused)
        if file.time is not None:
            rows.time_type = pa.timestamp("ns", "UTC")
        yield rows


# ---- tables -----------------------------------------------------------------------------------


def _frame_rows(
    frame: Any,
    columns: Sequence[str],
    optional: Sequence[str],
    time: str | None,
    unit: TimeUnit,
) -> Rows:
    form = None if time is None else TimeColumn(unit)

    def blocks() -> Iterator[ReplayRows]:
        done = 0
        for table in _tables(frame, columns, time):
            count = table.num_rows
            if not count:
                continue  # whose columns may be of no type
            values = _values(table, columns, optional)
            t_ns = np.zeros(count, np.int64)
            if form is not None and time is not None:
                t_ns = _times(table, time, form, done)
                rows.time_type = _time_type(_column(table, time).type)
            yield ReplayRows(t_ns, values, np.arange(done, done + count))
            done += count

    rows = Rows(blocks(), lambda number: f"row {number} (counted from 0)")
    return rows


def _time_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of times in results: the zone of the column, UTC for what has no type."""
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return pa.timestamp("ns", getattr(kind, "tz", None))
    return pa.timestamp("ns", "UTC")


def _tables(frame: Any, columns: Sequence[str], time: str | None) -> Iterator[pa.Table]:
    """Yield a table, or its parts, in order."""
    if isinstance(frame, pa.RecordBatchReader):
        yield from (pa.Table.from_batches([batch]) for batch in frame)
    elif hasattr(frame, "collect_schema") and hasattr(frame, "lazy"):  # a LazyFrame of Polars
        yield from map(_table, _collected(frame, columns, time))
    else:
        yield _table(frame)


def _collected(frame: Any, columns: Sequence[str], time: str | None) -> Iterator[Any]:
    """Yield the batches of a LazyFrame, with the columns in use; older Polars gives all in one."""
    if not hasattr(frame, "collect"):
        yield frame  # a DataFrame, which has `lazy` too
        return
    known = frame.collect_schema().names()
    wanted = [name for name in dict.fromkeys([*columns, *filter(None, [time])]) if name in known]
    frame = frame.select(wanted) if wanted else frame
    if hasattr(frame, "collect_batches"):
        yield from frame.collect_batches()
    else:
        yield frame.collect(engine="streaming")


def _table(frame: Any) -> pa.Table:
    try:
        table = pa.table(frame)
    except (pa.ArrowException, TypeError, ValueError) as error:
        kind = type(frame).__name__
        if hasattr(frame, "to_frame"):
            why = "a series has no columns: pass a frame, s.to_frame('x')"
        elif isinstance(frame, np.ndarray | pa.Array | pa.ChunkedArray):
            why = 'an array has no names: pass {"x": array}, with one entry for each column'
        else:
            why = str(error)
        raise DataError(f"cannot convert {kind} to a table: {why}") from None
    return table


def _column(table: pa.Table, name: str) -> pa.Array:
    if name not in table.column_names:
        known = [other for other in table.column_names if not _UNNAMED.fullmatch(other)]
        raise DataError(f"the table has no column {name!r}; its columns are {', '.join(known)}")
    return table.column(name).combine_chunks()


def _values(
    table: pa.Table, columns: Sequence[str], optional: Sequence[str]
) -> npt.NDArray[np.float64]:
    out = np.empty((table.num_rows, len(columns)))
    for place, name in enumerate(columns):
        column = _column(table, name)
        unknown = pa.types.is_null(column.type) and name in optional
        if not is_numeric(column.type) and not unknown:
            raise DataError(f"column {name!r} has type {column.type}, not numbers")
        out[:, place] = floats(column)
    return out


def _times(table: pa.Table, name: str, form: TimeColumn, done: int) -> npt.NDArray[np.int64]:
    """Return the times of a table's rows, the first of which is row number `done`."""
    column = _column(table, name)
    try:
        t_ns, good = form.convert(column)
    except ValueError as error:
        raise DataError(f"column {name!r}: {error}") from None
    if not good.all():
        row = int(np.argmin(good))
        cell = column[row].as_py()
        raise DataError(f"column {name!r}, row {done + row}: {cell!r} is not a time: {FORMS}")
    return t_ns
