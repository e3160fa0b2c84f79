"""Typed tables as a stream of rows: Parquet, Arrow IPC (file or stream) and NumPy's `.npy`.

Each format is a `_Table`: a schema and record batches. An `.npy` file is mapped into memory: a 1-D
array is the column `x`, a 2-D array `c0`, `c1` ..., and records have their fields. Arrays of
Python objects are never loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from ..errors import ConfigurationError, DataError
from .reader import BadRow, RawRows, Reader, Selection, fault, keys_of, not_finite, usable
from .times import FORMS, TimeColumn

TableKind: TypeAlias = Literal["parquet", "arrow", "npy"]

BUFFER = 65_536
"""Bytes of a column of a Parquet file that are read at a time."""

Batches: TypeAlias = Iterator[tuple[Any, float]]
"""Record batches, each with the share of the file that has then been read."""


class _Table(NamedTuple):
    """An open file; `batches` takes the names of the columns and yields their record batches."""

    schema: Any
    batches: Callable[[list[str]], Batches]
    close: Callable[[], object]


class TableReader(Reader):
    """A Parquet, Arrow or `.npy` file.

    Raises ConfigurationError for a column that does not exist or has no numbers, and DataError
    for a file that is damaged or has no rows.
    """

    row_word = "row"

    def __init__(self, path: Path, selection: Selection, *, kind: TableKind) -> None:
        super().__init__(path, selection)
        if kind == "npy" and selection.key is not None:
            raise ConfigurationError(
                f"{path} contains only numbers, and no column that names streams",
                key="stream_column",
            )
        self._share = 0.0
        self._times = TimeColumn(selection.time_unit)
        self._table = _open(path, kind, selection.chunk_rows)
        try:
            schema = self._table.schema
            self.columns = tuple(schema.names)
            selection.check(path, self.columns)
            types = zip(schema.names, schema.types, strict=True)
            numeric = [name for name, type_ in types if is_numeric(type_)]
            self.value_columns = selection.value_columns(path, self.columns, numeric)
            for name in self.value_columns:
                kind = schema.field(name).type
                unknown = pa.types.is_null(kind) and name in selection.optional
                if not is_numeric(kind) and not unknown:
                    message = f"{path}: column {name!r} contains {kind}, not numbers"
                    raise ConfigurationError(message, key="features")
        except BaseException:
            self.close()
            raise

    @property
    def bytes_read(self) -> int:
        """Bytes of the file read so far, estimated from its share of rows or batches."""
        return int(self._share * self.bytes_total)

    def close(self) -> None:
        """Close the file."""
        self._table.close()

    def chunks(self) -> Iterator[RawRows]:
        """Give the rows in runs."""
        extra = (self.selection.time, self.selection.key)
        names = dict.fromkeys((*self.value_columns, *(name for name in extra if name is not None)))
        row = 1
        try:
            for batch, share in self._table.batches(list(names)):
                self._share = share
                if batch.num_rows:
                    yield self._convert(batch, row)
                row += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path} is damaged after row {row - 1}: {error}") from None
        if row == 1:
            raise DataError(f"{self.path} has no rows")

    def _convert(self, batch: Any, row: int) -> RawRows:
        time, key = self.selection.time, self.selection.key
        count = batch.num_rows
        values = np.empty((count, len(self.value_columns)))
        for k, name in enumerate(self.value_columns):
            values[:, k] = floats(batch.column(name))
        t_ns, ok = np.zeros(count, np.int64), np.ones(count, np.bool_)
        if time is not None:
            try:
                t_ns, ok = self._times.convert(batch.column(time))
            except ValueError as error:
                message = f"{self.path}, column {time!r}, from row {row} on: {error}"
                raise DataError(message) from None
        keys = None if key is None else keys_of(batch.column(key))
        ok &= usable(values, self.value_columns, self.selection.optional)
        if keys is not None:
            ok &= keys.codes >= 0
        bad = [BadRow(int(k), self._fault(batch, int(k), values[k])) for k in np.flatnonzero(~ok)]
        return RawRows(t_ns, values, np.arange(row, row + count), bad, keys)

    def _fault(self, batch: Any, k: int, values: Any) -> str:
        """Return why row `k` cannot be used."""
        time, key, optional = self.selection.time, self.selection.key, self.selection.optional
        for name, value in zip(self.value_columns, values, strict=True):
            if not np.isfinite(value) and not (np.isnan(value) and name in optional):
                return not_finite(name, _text(batch.column(name)[k]))
        if key is not None and (why := fault(_text(batch.column(key)[k]))):
            return f"column {key!r}: {why}"
        return f"column {time!r}: {_text(batch.column(time)[k])!r} is not a time: {FORMS}"


def table_columns(path: Path, kind: TableKind) -> tuple[str, ...]:
    """Return the names of the columns; DataError if the file is damaged."""
    table = _open(path, kind, 1)
    try:
        return tuple(table.schema.names)
    finally:
        table.close()


def _open(path: Path, kind: TableKind, chunk_rows: int) -> _Table:
    opener = {"parquet": _parquet, "arrow": _arrow, "npy": _npy}[kind]
    try:
        return opener(path, chunk_rows)
    except (pa.ArrowException, OSError, ValueError, EOFError, SyntaxError) as error:
        name = {"parquet": "Parquet", "arrow": "Arrow", "npy": ".npy"}[kind]
        raise DataError(f"{path} is damaged, or not an {name} file: {error}") from None


def open_parquet(path: Path) -> pyarrow.parquet.ParquetFile:
    """Open a Parquet file to be read in batches, with memory independent of the file's size."""
    # A pre-buffer would stay in memory until the file is closed, in the end all of it.
    return pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER)


def _parquet(path: Path, chunk_rows: int) -> _Table:
    file = open_parquet(path)

    def batches(names: list[str]) -> Batches:
        total, done = file.metadata.num_rows, 0
        for batch in file.iter_batches(chunk_rows, columns=names, use_threads=False):
            done += batch.num_rows
            yield batch, done / total

    return _Table(file.schema_arrow, batches, file.close)


def _arrow(path: Path, chunk_rows: int) -> _Table:
    """Open a mapped file of batches as they were written; a large one is cut."""
    mapped = pa.memory_map(str(path))
    is_file = mapped.read(6) == b"ARROW1"
    mapped.seek(0)
    reader = pa.ipc.open_file(mapped) if is_file else pa.ipc.open_stream(mapped)

    def whole_batches() -> Batches:
        if is_file:
            total = reader.num_record_batches
            for index in range(total):
                yield reader.get_batch(index), (index + 1) / total
        else:
            size = mapped.size()
            for batch in reader:
                yield batch, mapped.tell() / size

    def batches(names: list[str]) -> Batches:
        for batch, share in whole_batches():
            for start in range(0, batch.num_rows, chunk_rows):
                yield batch.slice(start, chunk_rows).select(names), share

    return _Table(reader.schema, batches, mapped.close)


def _npy(path: Path, chunk_rows: int) -> _Table:
    array = np.lib.format.open_memmap(path, mode="r")
    if array.ndim == 1 and array.dtype.names:
        fields = {name: array[name] for name in array.dtype.names}
    elif array.ndim == 1:
        fields = {"x": array}
    elif array.ndim == 2 and not array.dtype.names:
        fields = {f"c{k}": array[:, k] for k in range(array.shape[1])}
    else:
        raise DataError(f"{path} contains an array of {array.ndim} dimensions, not one or two")

    def batches(names: list[str]) -> Batches:
        for start in range(0, len(array), chunk_rows):
            stop = min(start + chunk_rows, len(array))
            columns = [_arrow_column(fields[name][start:stop]) for name in names]
            # a batch without columns would have no length
            columns, names_ = (columns, names) if names else ([pa.nulls(stop - start)], [""])
            yield pa.RecordBatch.from_arrays(columns, names_), stop / len(array)

    types = [(name, _arrow_column(field[:1]).type) for name, field in fields.items()]
    return _Table(pa.schema(types), batches, fields.clear)


def _arrow_column(field: Any) -> Any:
    """Return a NumPy column as an Arrow array, nulls for a type that Arrow does not have."""
    kind = field.dtype
    native = np.float64 if kind.kind == "f" and kind.itemsize > 8 else kind.newbyteorder("=")
    try:
        column = pa.array(np.ascontiguousarray(field, native))
        return column.cast(pa.string()) if pa.types.is_binary(column.type) else column
    except pa.ArrowException:
        return pa.nulls(len(field))


def is_numeric(kind: Any) -> bool:
    """Return whether a column of an Arrow type can be read as numbers."""
    if pa.types.is_dictionary(kind):
        return is_numeric(kind.value_type)
    tests: Iterable[Callable[[Any], bool]] = (
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_boolean,
        pa.types.is_decimal,
    )
    return any(test(kind) for test in tests)


def floats(array: Any) -> Any:
    """Return float64, with NaN for null."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.uint8())
    return array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _text(cell: Any) -> str:
    return "" if cell.as_py() is None else str(cell.as_py())
