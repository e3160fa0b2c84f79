"""NumPy's `.npy` files, mapped into memory: one column, several, or records with named fields."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..errors import ConfigurationError, DataError
from .reader import BadRow, RawRows, check_names, not_finite, numeric_columns, usable
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
