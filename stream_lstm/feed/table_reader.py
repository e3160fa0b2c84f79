"""Typed tables: Parquet, and Arrow IPC as file (Feather) or as stream.

NumPy's `.npy` files, mapped into memory: one column, several, or records with named fields.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from ..errors import ConfigurationError, DataError
from .reader import (
    BadRow,
    RawRows,
    check_key,
    check_names,
    fault,
    keys_of,
    not_finite,
    numeric_columns,
    usable,
)
from .times import FORMS, TimeColumn, TimeUnit


class NpyReader:
    """A `.npy` file: 1-D is the column `x`, 2-D is `c0`, `c1` ..., records have their fields.

    columns: the wanted ones in order, or None for all numeric ones but the time.

    Raises ConfigurationError for a column that is not there or holds no numbers, and DataError
    for a file that is damaged, has no rows, or holds Python objects, which are never loaded.
    """

    row_word = "row"

    def __init__(
        self,
        path: Path,
        *,
        columns: Sequence[str] | None,
        time: str | None,
        time_unit: TimeUnit,
        chunk_rows: int,
        optional: Sequence[str] = (),
        key: str | None = None,
    ) -> None:
        if key is not None:
            raise ConfigurationError(
                f"{path} holds numbers alone: no column of it names streams", key="stream_column"
            )
        self.path = path
        self._optional = optional
        self.bytes_total = path.stat().st_size
        self._chunk_rows = chunk_rows
        self._fields = _fields(path)
        self.columns = tuple(self._fields)
        check_names(path, self.columns, columns or (), time)
        if columns is None:
            numeric = (name for name, field in self._fields.items() if _is_numeric(field))
            columns = numeric_columns(path, numeric, time)
        self.value_columns = tuple(columns)
        for name in self.value_columns:
            if not _is_numeric(self._fields[name]):
                message = f"{path}: column {name!r} holds no numbers"
                raise ConfigurationError(message, key="features")
        self._time = time
        self._times = TimeColumn(time_unit)
        self._count = len(next(iter(self._fields.values())))
        self._row = 0

    @property
    def bytes_read(self) -> int:
        """Bytes of the file consumed so far, from its share of rows."""
        return self.bytes_total * self._row // self._count

    def close(self) -> None:
        """Let go of the mapping."""
        self._fields = {}

    def chunks(self) -> Iterator[RawRows]:
        """Give the rows in runs of `chunk_rows`."""
        for start in range(0, self._count, self._chunk_rows):
            stop = min(start + self._chunk_rows, self._count)
            self._row = stop
            yield self._convert(start, stop)

    def _convert(self, start: int, stop: int) -> RawRows:
        count = stop - start
        values = np.empty((count, len(self.value_columns)))
        for place, name in enumerate(self.value_columns):
            values[:, place] = self._fields[name][start:stop]
        t_ns, ok = np.zeros(count, np.int64), np.ones(count, np.bool_)
        if self._time is not None:
            t_ns, ok = self._convert_times(self._fields[self._time][start:stop], start + 1)
        faulty = np.flatnonzero(~(ok & usable(values, self.value_columns, self._optional)))
        bad = [BadRow(int(at), self._fault(start + int(at), values[at])) for at in faulty]
        return RawRows(t_ns, values, np.arange(start + 1, stop + 1), bad)

    def _convert_times(self, field: Any, row: int) -> Any:
        try:
            native = np.ascontiguousarray(field, field.dtype.newbyteorder("="))
            array = pa.array(native)
            if pa.types.is_binary(array.type):
                array = array.cast(pa.string())
            return self._times.convert(array)
        except (ValueError, pa.ArrowException) as error:
            message = f"{self.path}, column {self._time!r}, from row {row} on: {error}"
            raise DataError(message) from None

    def _fault(self, at: int, values: Any) -> str:
        for name, value in zip(self.value_columns, values, strict=True):
            if not np.isfinite(value) and not (np.isnan(value) and name in self._optional):
                return not_finite(name, str(value))
        assert self._time is not None
        cell = str(self._fields[self._time][at])
        return f"column {self._time!r}: {cell!r} is not a time: {FORMS}"


def npy_columns(path: Path) -> tuple[str, ...]:
    """Return the names of the columns; DataError if the file is damaged."""
    return tuple(_fields(path))


def _fields(path: Path) -> dict[str, Any]:
    """Map the file and return its columns by name."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError, EOFError, SyntaxError) as error:
        raise DataError(f"{path} is damaged, or no file of numbers: {error}") from None
    if array.size == 0:
        raise DataError(f"{path} has no rows")
    if array.ndim == 1 and array.dtype.names:
        return {name: array[name] for name in array.dtype.names}
    if array.ndim == 1:
        return {"x": array}
    if array.ndim == 2 and not array.dtype.names:
        return {f"c{place}": array[:, place] for place in range(array.shape[1])}
    raise DataError(f"{path} holds an array of {array.ndim} dimensions, not one or two")


def _is_numeric(field: Any) -> bool:
    return field.ndim == 1 and field.dtype.kind in "biuf"


TableKind: TypeAlias = Literal["parquet", "arrow"]

BUFFER = 65_536
"""Bytes of a column of a Parquet file that are read at a time."""


class _Batches(Protocol):
    """Record batches of one open file."""

    schema: Any

    def batches(self, names: Sequence[str]) -> Iterator[tuple[Any, float]]:
        """Give batches, each with the share of the file that has then been read."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class TableReader:
    """A Parquet or Arrow file.

    columns: the wanted ones in order, or None for all numeric ones but the time.

    Raises ConfigurationError for a column that is not there or holds no numbers, and DataError
    for a file that is damaged or has no rows.
    """

    row_word = "row"

    def __init__(
        self,
        path: Path,
        *,
        columns: Sequence[str] | None,
        time: str | None,
        time_unit: TimeUnit,
        chunk_rows: int,
        kind: TableKind,
        optional: Sequence[str] = (),
        key: str | None = None,
    ) -> None:
        self.path = path
        self._key = key
        self._optional = optional
        self.bytes_total = path.stat().st_size
        self._share = 0.0
        self._source = _open(path, kind, chunk_rows)
        try:
            schema = self._source.schema
            self.columns = tuple(schema.names)
            check_names(path, self.columns, columns or (), time, key)
            check_key(path, key, columns or (), time)
            if columns is None:
                numeric = (
                    name
                    for name, type_ in zip(schema.names, schema.types, strict=True)
                    if is_numeric(type_)
                )
                columns = numeric_columns(path, numeric, time)
                check_names(path, self.columns, columns, time)
            self.value_columns = tuple(columns)
            _check_types(path, schema, self.value_columns)
        except BaseException:
            self.close()
            raise
        self._time = time
        self._times = TimeColumn(time_unit)

    @property
    def bytes_read(self) -> int:
        """Bytes of the file consumed so far, estimated from its share of rows or batches."""
        return int(self._share * self.bytes_total)

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    def chunks(self) -> Iterator[RawRows]:
        """Give the rows as the file's batches have them."""
        names = list(self.value_columns)
        if self._time is not None and self._time not in names:
            names.append(self._time)
        if self._key is not None:
            names.append(self._key)
        row = 1
        try:
            for batch, share in self._source.batches(names):
                self._share = share
                if batch.num_rows:
                    yield self._convert(batch, row)
                row += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path} is damaged behind row {row - 1}: {error}") from None
        if row == 1:
            raise DataError(f"{self.path} has no rows")

    def _convert(self, batch: Any, row: int) -> RawRows:
        count = batch.num_rows
        values = np.empty((count, len(self.value_columns)))
        for place, name in enumerate(self.value_columns):
            values[:, place] = floats(batch.column(name))
        t_ns, ok = np.zeros(count, np.int64), np.ones(count, np.bool_)
        if self._time is not None:
            try:
                t_ns, ok = self._times.convert(batch.column(self._time))
            except ValueError as error:
                message = f"{self.path}, column {self._time!r}, from row {row} on: {error}"
                raise DataError(message) from None
        keys = None if self._key is None else keys_of(batch.column(self._key))
        ok &= usable(values, self.value_columns, self._optional)
        ok &= True if keys is None else keys.codes >= 0
        bad = [
            BadRow(int(at), self._fault(batch, int(at), values[at])) for at in np.flatnonzero(~ok)
        ]
        return RawRows(t_ns, values, np.arange(row, row + count), bad, keys)

    def _fault(self, batch: Any, at: int, values: Any) -> str:
        for name, value in zip(self.value_columns, values, strict=True):
            if not np.isfinite(value) and not (np.isnan(value) and name in self._optional):
                return not_finite(name, _text(batch.column(name)[at]))
        if self._key is not None and (why := fault(_text(batch.column(self._key)[at]))):
            return f"column {self._key!r}: {why}"
        cell = _text(batch.column(self._time)[at])
        return f"column {self._time!r}: {cell!r} is not a time: {FORMS}"


def table_columns(path: Path, kind: TableKind) -> tuple[str, ...]:
    """Return the names of the columns; DataError if the file is damaged."""
    source = _open(path, kind, 1)
    try:
        return tuple(source.schema.names)
    finally:
        source.close()


def open_parquet(path: Path) -> pyarrow.parquet.ParquetFile:
    """Open a Parquet file to be read in batches, in memory that does not grow with the file."""
    # What is buffered ahead is held until the file is closed: in the end, all of it.
    return pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER)


class _Parquet:
    def __init__(self, path: Path, chunk_rows: int) -> None:
        self._file = open_parquet(path)
        self._chunk_rows = chunk_rows
        self.schema = self._file.schema_arrow

    def batches(self, names: Sequence[str]) -> Iterator[tuple[Any, float]]:
        total, done = self._file.metadata.num_rows, 0
        for batch in self._file.iter_batches(
            self._chunk_rows, columns=list(names), use_threads=False
        ):
            done += batch.num_rows
            yield batch, done / total

    def close(self) -> None:
        self._file.close()


class _Arrow:
    """Batches as they were written, from a mapped file."""

    def __init__(self, path: Path, chunk_rows: int) -> None:
        self._chunk_rows = chunk_rows
        self._map = pa.memory_map(str(path))
        is_file = self._map.read(6) == b"ARROW1"
        self._map.seek(0)
        self._reader = pa.ipc.open_file(self._map) if is_file else pa.ipc.open_stream(self._map)
        self._is_file = is_file
        self.schema = self._reader.schema

    def batches(self, names: Sequence[str]) -> Iterator[tuple[Any, float]]:
        for batch, share in self._whole_batches():
            # a file may be one batch as large as itself: what is made of it must stay small
            for start in range(0, batch.num_rows, self._chunk_rows):
                yield batch.slice(start, self._chunk_rows).select(list(names)), share

    def _whole_batches(self) -> Iterator[tuple[Any, float]]:
        if self._is_file:
            total = self._reader.num_record_batches
            for index in range(total):
                yield self._reader.get_batch(index), (index + 1) / total
        else:
            size = self._map.size()
            for batch in self._reader:
                yield batch, self._map.tell() / size

    def close(self) -> None:
        self._map.close()


def _open(path: Path, kind: TableKind, chunk_rows: int) -> _Batches:
    try:
        return _Parquet(path, chunk_rows) if kind == "parquet" else _Arrow(path, chunk_rows)
    except (pa.ArrowException, OSError, ValueError) as error:
        name = "Parquet" if kind == "parquet" else "Arrow"
        raise DataError(f"{path} is damaged, or no {name} file: {error}") from None


def is_numeric(kind: Any) -> bool:
    """Return whether a column of an Arrow type can be read as numbers."""
    if pa.types.is_dictionary(kind):
        return is_numeric(kind.value_type)
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)
    return any(test(kind) for test in tests)


def _check_types(path: Path, schema: Any, names: Sequence[str]) -> None:
    for name in names:
        kind = schema.field(name).type
        if not is_numeric(kind):
            message = f"{path}: column {name!r} holds {kind}, not numbers"
            raise ConfigurationError(message, key="features")


def floats(array: Any) -> Any:
    """Return float64, NaN where null."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.uint8())
    return array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _text(cell: Any) -> str:
    return "" if cell.as_py() is None else str(cell.as_py())
