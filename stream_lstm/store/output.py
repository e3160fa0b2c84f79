"""The file of results that `--out` asks for: one row for each prediction, with its score.

A prediction waits in a bounded book until its score has come, so that a row is written once and
whole; what still waits at the end, and the oldest when the book is full, is written without
label. Rows go to `FILE.partial` and the file gets its name when it is closed without error: what
has the right name is never half a file.

Encoders of result rows: Parquet, CSV and JSON lines, behind one small interface.

A row is a prediction and, where its label has come, its score: `SCHEMA` follows from the fields
of both. A probability is a float32; the text formats print the shortest text that reads back as
the same float32.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count, islice
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet

from ..core.losses import log_losses
from ..errors import OutputError, UsageError
from ..events import Prediction, Score
from ..records import Batch, Column, Gathered, fields_of

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


MAX_WAITING = 100_000
"""Predictions that may wait for their scores; far above any delay of labels in use, 20 MB."""

BATCH_ROWS = 8192
"""Rows written at a time: one Parquet row group, or about a megabyte of text."""

Identity: TypeAlias = tuple[str, str, int]


class PredictionWriter:
    """Writes predictions with their scores; a context manager that closes it.

    An error inside the `with` leaves the rows so far in `FILE.partial`, and what had the right
    name before as it was.

    Attributes: `rows_written`; `scores_unmatched`, scores whose prediction was not waiting.
    """

    def __init__(self, path: Path, *, spreadsheet: bool = False) -> None:
        self.path = path
        self.partial = path.with_name(path.name + ".partial")
        self.rows_written = 0
        self.scores_unmatched = 0
        self._book, self._scores = Gathered(Prediction), Gathered(Score)
        self._waiting: dict[Identity, int] = {}  # rows of the book
        self._due: list[tuple[int, int]] = []  # rows of the book and of the scores, -1 for none
        self._closed = False
        try:
            self._file = self.partial.open("wb")
            encoder = SheetRows if spreadsheet else ENCODERS[path.suffix.lower()]
            self._rows: RowEncoder = encoder(self._file)
        except (OSError, pa.ArrowException) as error:
            raise self._failure(error) from None

    def __enter__(self) -> PredictionWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self._abandon()

    def write(self, prediction: Prediction) -> None:
        """Take a prediction; its row is written when its score comes.

        Raises OutputError where the operating system will not write.
        """
        self._waiting[prediction.session, prediction.stream, prediction.n] = len(self._book)
        self._book.add(prediction)
        self._settle()

    def score(self, score: Score) -> None:
        """Take the score of a prediction and write its row.

        A score whose prediction is not waiting is counted and dropped: its row has gone out
        without label, or was never here. Raises OutputError as `write` does.
        """
        row = self._waiting.pop((score.session, score.stream, score.n), None)
        if row is None:
            self.scores_unmatched += 1
            return
        self._due.append((row, len(self._scores)))
        self._scores.add(score)
        self._settle()

    def write_batch(self, predictions: Batch[Prediction], scores: Batch[Score]) -> None:
        """Take predictions, then scores, as `write` and `score` do.

        The oldest leave a full book only after the scores of the batch are matched.
        """
        self._waiting.update(zip(_identities(predictions), count(len(self._book)), strict=False))
        self._book.extend(predictions)
        rows = [self._waiting.pop(identity, -1) for identity in _identities(scores)]
        self._due += [
            (row, score) for score, row in enumerate(rows, len(self._scores)) if row >= 0
        ]
        self._scores.extend(scores)
        self.scores_unmatched += rows.count(-1)
        self._settle()

    def close(self) -> None:
        """Write what still waits, and give the file its name; closing twice is no mistake.

        Raises OutputError where the operating system will not; FILE.partial then stays.
        """
        if self._closed:
            return
        self._finish()
        try:
            self.partial.replace(self.path)
        except OSError as error:
            raise self._failure(error) from None

    def _abandon(self) -> None:
        """Close `FILE.partial` as readable as it can be; an error is already on its way."""
        with contextlib.suppress(OutputError):
            self._finish()

    def _finish(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            self._due += [(row, -1) for row in self._waiting.values()]
            self._flush()
            self._rows.finish()
            self._file.flush()
            os.fsync(self._file.fileno())
        except (OSError, pa.ArrowException) as error:
            raise self._failure(error) from None
        finally:
            self._waiting.clear()
            # where the last write failed, so does this one; the descriptor is closed all the same
            with contextlib.suppress(OSError):
                self._file.close()

    def _settle(self) -> None:
        """Let the oldest go where too many wait, and write where enough rows are due."""
        if len(self._waiting) > MAX_WAITING:
            for identity in list(islice(self._waiting, len(self._waiting) - MAX_WAITING)):
                self._due.append((self._waiting.pop(identity), -1))
        if len(self._due) >= BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        """Write the rows that are due."""
        if not self._due:
            return
        predictions, scores = self._book.join(), self._scores.join()
        due = np.array(self._due, np.int64)
        try:
            for part in np.array_split(due, max(len(due) // BATCH_ROWS, 1)):
                self._rows.write(table_of(predictions.take(part[:, 0]), scores, part[:, 1]))
                self.rows_written += len(part)
        except (OSError, pa.ArrowException) as error:
            raise self._failure(error) from None
        self._due.clear()
        self._scores = Gathered(Score)
        if len(self._book) > 2 * len(self._waiting):
            self._book = Gathered(Prediction)
            self._book.extend(predictions.take(np.array([*self._waiting.values()], np.int64)))
            self._waiting = dict(zip(self._waiting, count(), strict=False))

    def _failure(self, error: Exception) -> OutputError:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        return OutputError(f"cannot write {self.path}: {reason}")


def _identities(batch: Batch[Prediction] | Batch[Score]) -> Iterator[Identity]:
    return zip(*(batch[name].tolist() for name in ("session", "stream", "n")), strict=True)


def open_output(path: str | Path, *, spreadsheet: bool = False) -> PredictionWriter:
    """Open a `.parquet`, `.csv` or `.jsonl` file for results, replacing one of that name.

    spreadsheet: of a `.csv` file, quote text that a spreadsheet would run as a formula.

    Raises UsageError for another suffix, and OutputError where the directory is missing or the
    operating system will not write there.
    """
    path = Path(path)
    if path.suffix.lower() not in ENCODERS:
        known = ", ".join(ENCODERS)
        raise UsageError(f"{path}: cannot tell what to write; known are {known}")
    if spreadsheet and path.suffix.lower() != ".csv":
        raise UsageError(f"{path}: --spreadsheet is for a .csv file of --out")
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: there is no directory {path.parent}")
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a directory")
    return PredictionWriter(path, spreadsheet=spreadsheet)
