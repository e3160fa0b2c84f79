"""Encoders of result rows: Parquet, CSV and JSON lines, behind one small interface.

`COLUMNS` and `SCHEMA` are the one place that says what a row is. A probability is a float32;
the text formats print the shortest text that reads back as the same float32.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import BinaryIO, Protocol, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet

SCHEMA = pa.schema(
    [
        pa.field("stream", pa.string(), nullable=False),
        pa.field("n", pa.int64(), nullable=False),
        pa.field("t_ns", pa.int64(), nullable=False),
        pa.field("p", pa.float32(), nullable=False),
        pa.field("label", pa.int8()),
        pa.field("log_loss", pa.float64()),
        pa.field("base_rate_p", pa.float64()),
        pa.field("last_label_p", pa.float64()),
        pa.field("session", pa.string(), nullable=False),
        pa.field("gaps_visible", pa.bool_(), nullable=False),
        pa.field("after_gap", pa.bool_(), nullable=False),
        pa.field("base_rate_log_loss", pa.float64()),
        pa.field("last_label_log_loss", pa.float64()),
        pa.field("coin_evidence", pa.float64()),
        pa.field("base_rate_evidence", pa.float64()),
        pa.field("last_label_evidence", pa.float64()),
        pa.field("raw_p", pa.float64()),
        pa.field("frozen_p", pa.float64()),
        pa.field("stateless_p", pa.float64()),
    ]
)
COLUMNS: tuple[str, ...] = tuple(SCHEMA.names)

Cell: TypeAlias = str | int | float | bool | None
Row: TypeAlias = Sequence[Cell]
"""One cell for each of `COLUMNS`."""

_P = COLUMNS.index("p")


def table_of(rows: Sequence[Row]) -> pa.Table:
    """Return rows as an Arrow table of `SCHEMA`."""
    columns = zip(*rows, strict=True) if rows else [()] * len(SCHEMA)
    arrays = [pa.array(cells, type_) for cells, type_ in zip(columns, SCHEMA.types, strict=True)]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


class RowEncoder(Protocol):
    """Writes batches of rows to an open binary file."""

    def write(self, rows: Sequence[Row]) -> None:
        """Write the rows."""
        ...

    def finish(self) -> None:
        """Write what the format wants at its end; the file stays open."""
        ...


class ParquetRows:
    """One row group for each batch."""

    def __init__(self, file: BinaryIO) -> None:
        self._writer = pyarrow.parquet.ParquetWriter(file, SCHEMA)

    def write(self, rows: Sequence[Row]) -> None:
        """Write the rows as a row group."""
        self._writer.write_table(table_of(rows))

    def finish(self) -> None:
        """Write the footer."""
        self._writer.close()


class CsvRows:
    """A header, then a line for each row; unknown is empty, true and false are words."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._lines([COLUMNS])

    def write(self, rows: Sequence[Row]) -> None:
        """Write a line for each row."""
        self._lines([_csv_cell(cell) for cell in _with_short_p(row)] for row in rows)

    def finish(self) -> None:
        """Do nothing: text has no end mark."""

    def _lines(self, rows: Iterable[Row]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        self._file.write(text.getvalue().encode())


class JsonRows:
    """An object for each line; unknown is null, and so is what is not finite."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._encoder = msgspec.json.Encoder()

    def write(self, rows: Sequence[Row]) -> None:
        """Write a line for each row."""
        objects = [dict(zip(COLUMNS, _with_short_p(row), strict=True)) for row in rows]
        self._file.write(self._encoder.encode_lines(objects))

    def finish(self) -> None:
        """Do nothing: text has no end mark."""


ENCODERS: Mapping[str, Callable[[BinaryIO], RowEncoder]] = {
    ".parquet": ParquetRows,
    ".csv": CsvRows,
    ".jsonl": JsonRows,
}
"""The formats, by suffix."""


def _with_short_p(row: Row) -> list[Cell]:
    """Return the row with the float64 whose shortest text is that of the float32 `p`."""
    cells = list(row)
    cells[_P] = float(str(np.float32(cells[_P])))
    return cells


def _csv_cell(cell: Cell) -> Cell:
    return str(cell).lower() if isinstance(cell, bool) else cell
