"""Encoders of result rows: Parquet, CSV and JSON lines, behind one small interface.

A row is a prediction and, where its label has come, its score: `SCHEMA` follows from the fields
of both. A probability is a float32; the text formats print the shortest text that reads back as
the same float32.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import BinaryIO, Protocol, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet

from ..core.losses import log_losses
from ..events import Prediction, Score
from ..records import Batch, Column, fields_of

_LOSSES = {"base_rate_log_loss": "base_rate_p", "last_label_log_loss": "last_label_p"}
"""Columns that are the log loss in nats of a plain forecast, by that forecast."""

_EARLY = ("session", "gaps_visible", "after_gap", *_LOSSES)
"""Columns that stand between the fields that every record has and those with a default."""

_MADE = {field.name: field for field in fields_of(Prediction) if field.arrow}
_TRUTH = {
    field.name: field for field in fields_of(Score) if field.arrow and field.name not in _MADE
}


def _schema() -> pa.Schema:
    fields = [*_MADE.values(), *_TRUTH.values()]
    required = [field.name for field in fields if field.required]
    types = dict.fromkeys(_LOSSES, "float64") | {field.name: field.arrow for field in fields}
    return pa.schema(
        [
            pa.field(name, pa.type_for_alias(types[name]), nullable=name not in _MADE)
            for name in dict.fromkeys([*required, *_EARLY, *_TRUTH, *_MADE])
        ]
    )


SCHEMA = _schema()
COLUMNS: tuple[str, ...] = tuple(SCHEMA.names)

Cell: TypeAlias = str | int | float | bool | bytes | None


def table_of(
    predictions: Batch[Prediction], scores: Batch[Score], scored: npt.NDArray[np.int64]
) -> pa.Table:
    """Return an Arrow table of `SCHEMA` with a row for each prediction.

    scored: int64 (n,), which of the scores is that of each prediction, -1 for none.
    """
    if not len(scores):
        scores, scored = NO_SCORE, scored * 0 - 1
    known = scored >= 0
    truth = scores.take(np.where(known, scored, 0))

    def array(name: str) -> pa.Array:
        if field := _MADE.get(name):
            return _array(predictions[name], field.arrow, None)
        if field := _TRUTH.get(name):
            missing = ~known | np.isnan(truth[name]) if field.nullable else ~known
            return _array(truth[name], field.arrow, missing)
        losses = log_losses(truth[_LOSSES[name]], truth["label"] == 1)
        return _array(losses, "float64", ~known)

    return pa.Table.from_arrays([array(name) for name in COLUMNS], schema=SCHEMA)


NO_SCORE = Batch.of(Score, [Score("", 0, 0, 0.5, 0, 0.0, 0.5, 0.5)])
"""For tables in which no prediction has a score."""


def _array(column: Column, kind: str, missing: npt.NDArray[np.bool_] | None) -> pa.Array:
    dtype = object if kind == "string" else kind
    return pa.array(column.astype(dtype, copy=False), pa.type_for_alias(kind), mask=missing)


class RowEncoder(Protocol):
    """Writes tables of one schema, such as `SCHEMA`, to an open binary file."""

    def write(self, table: pa.Table) -> None:
        """Write the rows."""
        ...

    def finish(self) -> None:
        """Write what the format wants at its end; the file stays open."""
        ...


class ParquetRows:
    """One row group for each table."""

    def __init__(self, file: BinaryIO, schema: pa.Schema = SCHEMA) -> None:
        self._writer = pyarrow.parquet.ParquetWriter(file, schema)

    def write(self, table: pa.Table) -> None:
        """Write the rows as a row group."""
        self._writer.write_table(table)

    def finish(self) -> None:
        """Write the footer."""
        self._writer.close()


class CsvRows:
    """A header, then a line for each row.

    Unknown is empty, true and false are words, and bytes are hexadecimal.
    """

    def __init__(self, file: BinaryIO, schema: pa.Schema = SCHEMA) -> None:
        self._file = file
        self._lines([self._cells(schema.names)])

    def write(self, table: pa.Table) -> None:
        """Write a line for each row."""
        self._lines(zip(*map(self._cells, _columns(table)), strict=True))

    def finish(self) -> None:
        """Do nothing: text has no end mark."""

    def _lines(self, rows: Iterable[Sequence[Cell]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        self._file.write(text.getvalue().encode())

    def _cells(self, cells: list[Cell]) -> list[Cell]:
        return [
            str(cell).lower()
            if isinstance(cell, bool)
            else cell.hex()
            if isinstance(cell, bytes)
            else cell
            for cell in cells
        ]


class SheetRows(CsvRows):
    """CSV for a spreadsheet: a `'` comes before text that it would take for a formula and run."""

    def _lines(self, rows: Iterable[Sequence[Cell]]) -> None:
        text = io.StringIO()
        for row in rows:
            line = io.StringIO()
            csv.writer(line).writerow(row)  # with CR and LF at its end it quotes both
            text.write(line.getvalue().removesuffix("\r\n") + "\n")
        self._file.write(text.getvalue().encode())

    def _cells(self, cells: list[Cell]) -> list[Cell]:
        plain = super()._cells(cells)
        return [
            f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell
            for cell in plain
        ]


class JsonRows:
    """An object for each line; unknown is null, and so is what is not finite."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._encoder = msgspec.json.Encoder()

    def write(self, table: pa.Table) -> None:
        """Write a line for each row."""
        rows = zip(*_columns(table), strict=True)
        objects = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
        self._file.write(self._encoder.encode_lines(objects))

    def finish(self) -> None:
        """Do nothing: text has no end mark."""


FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a formula of a spreadsheet begins with; numbers are cells of their own and stay."""

ENCODERS: Mapping[str, Callable[[BinaryIO], RowEncoder]] = {
    ".parquet": ParquetRows,
    ".csv": CsvRows,
    ".jsonl": JsonRows,
}
"""The formats, by suffix."""


def _columns(table: pa.Table) -> list[list[Cell]]:
    """Return columns as cells; for a float32 the float64 that has the same shortest text."""
    return [
        [float(str(cell)) for cell in column.to_numpy()]
        if pa.types.is_float32(column.type)
        else column.to_pylist()
        for column in table.columns
    ]
