"""The results file of `--out`: one row for each prediction, with its score.

A prediction waits in memory until its score comes, so that each row is written once. Predictions
that still wait at the end, and the oldest where too many wait, are written without a label. Rows
go to `FILE.partial`; closing without an error renames it, so the name never belongs to half a
file.

The columns, `SCHEMA`, follow from the fields of `Prediction` and `Score`. A probability is a
float32; the text formats print the shortest text that reads back as the same float32.

Files that get their name once they are whole: written as FILE.partial, and renamed.

The tables of a store as Parquet or CSV files, one for each; each tick has a row of its own.
"""

from __future__ import annotations

import contextlib
import csv
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from itertools import count, islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
from pyarrow.parquet import ParquetWriter

from ..core.losses import log_losses
from ..errors import OutputError, StoreError, UsageError
from ..events import Prediction, Score
from ..platform import replace
from ..records import Batch, Column, Gathered, fields_of
from ..typing import Bools, Int64s
from .schema import NAMES, OUTPUTS, Progress, connect_reader, using


def check_place(path: Path) -> None:
    """Raise OutputError where a file cannot be written at `path`."""
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: there is no directory {path.parent}")
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a directory")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"cannot write {path}: no permission to write in {path.parent}")


def partial_of(path: Path) -> Path:
    """Return the name of a file while it is written."""
    return path.with_name(path.name + ".partial")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open FILE.partial; without an error, flush it to the disk and rename it to `path`."""
    partial = partial_of(path)
    with partial.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    replace(partial, path)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file; raises OutputError where the operating system refuses."""
    try:
        with replacing(path) as file:
            file.write(data)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from None


_LOSSES = {"base_rate_log_loss": "base_rate_p", "last_label_log_loss": "last_label_p"}
"""Columns with the log loss (nats) of a plain forecast, by the column of that forecast."""

_EARLY = ("session", "gaps_visible", "after_gap", *_LOSSES)
"""Columns between the required fields and those with a default."""

_PREDICTED = {field.name: field for field in fields_of(Prediction) if field.arrow}
_SCORED = {
    field.name: field for field in fields_of(Score) if field.arrow and field.name not in _PREDICTED
}


def _schema() -> pa.Schema:
    fields = [*_PREDICTED.values(), *_SCORED.values()]
    required = [field.name for field in fields if field.required]
    types = dict.fromkeys(_LOSSES, "float64") | {field.name: field.arrow for field in fields}
    return pa.schema(
        [
            pa.field(name, pa.type_for_alias(types[name]), nullable=name not in _PREDICTED)
            for name in dict.fromkeys([*required, *_EARLY, *_SCORED, *_PREDICTED])
        ]
    )


SCHEMA = _schema()
COLUMNS: tuple[str, ...] = tuple(SCHEMA.names)

_NO_SCORE = Batch.of(Score, [Score("", 0, 0, 0.5, 0, 0.0, 0.5, 0.5)])


def table_of(predictions: Batch[Prediction], scores: Batch[Score], scored: Int64s) -> pa.Table:
    """Return an Arrow table of `SCHEMA` with a row for each prediction.

    scored: (n,) the index of each prediction's score, -1 for none.
    """
    if not len(scores):
        scores, scored = _NO_SCORE, scored * 0 - 1
    known = scored >= 0
    found = scores.take(np.where(known, scored, 0))

    def array(name: str) -> pa.Array:
        if field := _PREDICTED.get(name):
            return _array(predictions[name], field.arrow, None)
        if field := _SCORED.get(name):
            missing = ~known | np.isnan(found[name]) if field.nullable else ~known
            return _array(found[name], field.arrow, missing)
        losses = log_losses(found[_LOSSES[name]], found["label"] == 1)
        return _array(losses, "float64", ~known)

    return pa.Table.from_arrays([array(name) for name in COLUMNS], schema=SCHEMA)


def _array(column: Column, kind: str, missing: Bools | None) -> pa.Array:
    dtype = object if kind == "string" else kind
    return pa.array(column.astype(dtype, copy=False), pa.type_for_alias(kind), mask=missing)


# ---- formats ----------------------------------------------------------------------------

FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""How formulas of a spreadsheet begin; numbers have cells of their own and stay."""


class CsvWriter:
    """CSV: unknown is empty, booleans are words, and bytes are hexadecimal.

    spreadsheet: put a `'` before text that a spreadsheet would take for a formula and run.
    """

    def __init__(self, file: BinaryIO, schema: pa.Schema, *, spreadsheet: bool = False) -> None:
        self._file, self._spreadsheet = file, spreadsheet
        self._lines = csv.writer(self)  # whose ends of line make it quote CR and LF in a cell
        self._lines.writerow(map(self._cell, schema.names))

    def write(self, line: str) -> None:
        """Write a line of the csv module."""
        self._file.write(line.removesuffix("\r\n").encode() + b"\n")

    def write_table(self, table: pa.Table) -> None:
        """Write a line for each row."""
        columns = [map(self._cell, column) for column in _cells(table)]
        self._lines.writerows(zip(*columns, strict=True))

    def _cell(self, cell: Any) -> Any:
        if isinstance(cell, bool):
            return "true" if cell else "false"
        if isinstance(cell, bytes):
            return cell.hex()
        if self._spreadsheet and isinstance(cell, str) and cell.startswith(FORMULAS):
            return f"'{cell}"
        return cell

    def close(self) -> None:
        """Do nothing: CSV has no end mark."""


class JsonWriter:
    """JSON lines: an object for each row; unknown and not finite are null."""

    def __init__(self, file: BinaryIO, schema: pa.Schema) -> None:
        self._file, self._names = file, schema.names

    def write_table(self, table: pa.Table) -> None:
        """Write a line for each row."""
        rows = zip(*_cells(table), strict=True)
        objects = [dict(zip(self._names, row, strict=True)) for row in rows]
        self._file.write(msgspec.json.Encoder().encode_lines(objects))

    def close(self) -> None:
        """Do nothing: JSON lines have no end mark."""


FORMATS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {".parquet": ParquetWriter, ".csv": CsvWriter, ".jsonl": JsonWriter}
)
"""The writers, by suffix; each takes an open file and a schema, as `ParquetWriter` does."""


def _cells(table: pa.Table) -> list[list[Any]]:
    """Return columns as cells; for a float32 the float64 with the same shortest text."""
    return [
        [float(str(cell)) for cell in column.to_numpy()]
        if pa.types.is_float32(column.type)
        else column.to_pylist()
        for column in table.columns
    ]


# ---- the file ---------------------------------------------------------------------------

MAX_WAITING = 100_000
"""Predictions that may wait for their scores, 20 MB; far above any delay of labels in use."""

BATCH_ROWS = 8192
"""Rows written at a time: one Parquet row group, or about a megabyte of text."""

Identity: TypeAlias = tuple[str, str, int]


class PredictionWriter:
    """Writes predictions with their scores; a context manager that closes the file.

    An error inside the `with` leaves the rows so far in `FILE.partial`, and an earlier file of the
    right name unchanged.

    Attributes: `rows_written`; `scores_unmatched`, scores whose prediction was not waiting.
    """

    def __init__(self, path: Path, *, spreadsheet: bool = False) -> None:
        self.path = path
        self.rows_written = 0
        self.scores_unmatched = 0
        self._predictions, self._scores = Gathered(Prediction), Gathered(Score)
        self._waiting: dict[Identity, int] = {}  # rows of the predictions
        self._due: list[tuple[int, int]] = []  # rows of predictions and scores, -1 for none
        self._closed = False
        options = {"spreadsheet": True} if spreadsheet else {}
        with self._errors():
            self._file = partial_of(path).open("wb")
            self._rows = FORMATS[path.suffix.lower()](self._file, SCHEMA, **options)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise OutputError(f"cannot write {self.path}: {reason}") from None

    def __enter__(self) -> PredictionWriter:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.close()
        else:
            with contextlib.suppress(OutputError):
                self._finish()

    def write(self, prediction: Prediction) -> None:
        """Take a prediction; its row is written when its score comes.

        Raises OutputError where the operating system refuses to write.
        """
        identity = prediction.session, prediction.stream, prediction.n
        self._waiting[identity] = len(self._predictions)
        self._predictions.add(prediction)
        self._write_due()

    def score(self, score: Score) -> None:
        """Take a score, and write the row of its prediction.

        A score whose prediction is not waiting is counted and dropped: its row was written without
        a label, or it never came. Raises OutputError as `write` does.
        """
        row = self._waiting.pop((score.session, score.stream, score.n), None)
        if row is None:
            self.scores_unmatched += 1
            return
        self._due.append((row, len(self._scores)))
        self._scores.add(score)
        self._write_due()

    def write_batch(self, predictions: Batch[Prediction], scores: Batch[Score]) -> None:
        """Take predictions, then scores, as `write` and `score` do.

        The scores of the batch are matched before the oldest predictions are written without one.
        """
        rows_of = zip(_identities(predictions), count(len(self._predictions)), strict=False)
        self._waiting.update(rows_of)
        self._predictions.extend(predictions)
        rows = [self._waiting.pop(identity, -1) for identity in _identities(scores)]
        self._due += [(row, k) for k, row in enumerate(rows, len(self._scores)) if row >= 0]
        self._scores.extend(scores)
        self.scores_unmatched += rows.count(-1)
        self._write_due()

    def close(self) -> None:
        """Write the waiting predictions, and rename the file; may be called twice.

        Raises OutputError where the operating system refuses; FILE.partial then stays.
        """
        if not self._closed:
            self._finish()
            with self._errors():
                replace(partial_of(self.path), self.path)

    def _finish(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            with self._errors():
                self._due += [(row, -1) for row in self._waiting.values()]
                self._flush()
                self._rows.close()
                self._file.flush()
                os.fsync(self._file.fileno())
        finally:
            self._waiting.clear()
            # this fails where the last write failed, but closes the descriptor all the same
            with contextlib.suppress(OSError):
                self._file.close()

    def _write_due(self) -> None:
        """Evict the oldest predictions where too many wait, and write a batch of rows."""
        for identity in list(islice(self._waiting, max(len(self._waiting) - MAX_WAITING, 0))):
            self._due.append((self._waiting.pop(identity), -1))
        if len(self._due) >= BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        """Write the rows that are due."""
        if not self._due:
            return
        predictions, scores = self._predictions.join(), self._scores.join()
        due = np.array(self._due, np.int64)
        with self._errors():
            for part in np.array_split(due, max(len(due) // BATCH_ROWS, 1)):
                rows = predictions.take(part[:, 0])
                self._rows.write_table(table_of(rows, scores, part[:, 1]))
                self.rows_written += len(part)
        self._due.clear()
        self._scores = Gathered(Score)
        if len(self._predictions) > 2 * len(self._waiting):
            self._predictions = Gathered(Prediction)
            rows = predictions.take(np.array([*self._waiting.values()], np.int64))
            self._predictions.extend(rows)
            self._waiting = dict(zip(self._waiting, count(), strict=False))


def _identities(batch: Batch[Prediction] | Batch[Score]) -> Iterator[Identity]:
    return zip(*(batch[name].tolist() for name in ("session", "stream", "n")), strict=True)


def open_output(path: str | Path, *, spreadsheet: bool = False) -> PredictionWriter:
    """Open a `.parquet`, `.csv` or `.jsonl` file for results, replacing one of that name.

    spreadsheet: of a `.csv` file, quote text that a spreadsheet would run as a formula.

    Raises UsageError for another suffix, and OutputError where the file cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise UsageError(f"{path}: unknown format; use one of {', '.join(FORMATS)}")
    if spreadsheet and suffix != ".csv":
        raise UsageError(f"{path}: --spreadsheet requires a .csv file of --out")
    check_place(path)
    return PredictionWriter(path, spreadsheet=spreadsheet)


ROWS = 65_536
"""Rows of a group, which are in memory together."""

PIECES = 64
"""The same for the pieces of snapshots, which are large."""

FORMS = ("parquet", "csv")
"""The formats, as suffixes."""

TYPES = {"INTEGER": pa.int64(), "REAL": pa.float64(), "TEXT": pa.string(), "BLOB": pa.binary(),
         "ANY": pa.binary()}  # fmt: skip


def export_store(
    path: Path,
    out: Path,
    report: Progress = lambda *_: None,
    *,
    form: str = "parquet",
    spreadsheet: bool = False,
) -> dict[str, int]:
    """Write a file for each table into a folder; return the rows of each.

    form: one of `FORMS`. spreadsheet: with `csv`, quote text that a spreadsheet would run. report
    takes the rows written and their total.

    A file gets its name once it is whole. Raises what `connect_reader` raises, and OutputError
    where the operating system refuses to write.
    """
    options = {"spreadsheet": True} if spreadsheet else {}
    rows = dict.fromkeys(NAMES, 0)
    with using(connect_reader(path), path) as connection:
        try:
            connection.execute("BEGIN")  # all tables at one moment
            out.mkdir(exist_ok=True)
            total = sum(_count(connection, name) for name in NAMES)
            for name in NAMES:
                schema, batches = (_ticks if name == "ticks" else _table)(connection, name)
                with replacing(out / f"{name}.{form}") as file:
                    writer = FORMATS[f".{form}"](file, schema, **options)
                    try:
                        for batch in batches:
                            writer.write_table(pa.Table.from_batches([batch]))
                            rows[name] += batch.num_rows
                            report(sum(rows.values()), total)
                    finally:
                        writer.close()
        except (OSError, pa.ArrowException) as error:
            raise OutputError(f"cannot write {out}: {error}") from None
    return rows


def _count(connection: sqlite3.Connection, table: str) -> int:
    rows = "sum(count)" if table == "ticks" else "count(*)"
    found = connection.execute(f"SELECT {rows} FROM {table}")  # noqa: S608 - ours
    return found.fetchone()[0] or 0


def _table(connection: sqlite3.Connection, table: str) -> tuple[pa.Schema, Iterator[Any]]:
    columns = connection.execute(f"PRAGMA table_info({table})").fetchall()
    schema = pa.schema([pa.field(name, TYPES[kind]) for _, name, kind, *_ in columns])
    order = "pos, n" if table in OUTPUTS else "1"

    def batches() -> Iterator[Any]:
        cursor = connection.execute(f"SELECT * FROM {table} ORDER BY {order}")  # noqa: S608 - ours
        while rows := cursor.fetchmany(ROWS if table != "snapshot_pieces" else PIECES):
            arrays = [
                pa.array([_bytes_of(cell, field.type) for cell in column], field.type)
                for column, field in zip(zip(*rows, strict=True), schema, strict=True)
            ]
            yield pa.record_batch(arrays, schema=schema)

    return schema, batches()


def _bytes_of(cell: Any, kind: pa.DataType) -> Any:
    return cell.encode() if isinstance(cell, str) and kind == pa.binary() else cell


def _ticks(connection: sqlite3.Connection, _table: str) -> tuple[pa.Schema, Iterator[Any]]:
    """Return a row for each tick: `pos`, `stream`, `session`, `seq`, `t_ns` and its columns."""
    found = connection.execute("SELECT value FROM setup WHERE name = 'columns'").fetchone()
    columns = msgspec.json.decode(found[0], type=list[str]) if found else []
    types = {"pos": pa.int64(), "stream": pa.string(), "session": pa.string(),
             "seq": pa.int64(), "t_ns": pa.int64()}  # fmt: skip
    # a column may have one of these names
    names = [f"field_{name}" if name in types else name for name in columns]
    schema = pa.schema([*types.items(), *((name, pa.float64()) for name in names)])

    def batches() -> Iterator[Any]:
        cursor = connection.execute(
            "SELECT pos, stream, session, seq, count, t_ns, fields FROM ticks ORDER BY pos"
        )
        for pos, stream, run_id, seq, rows, t_ns, fields in cursor:
            values = np.frombuffer(fields, "<f8").reshape(rows, -1)
            if values.shape[1] != len(columns):
                raise StoreError(f"the ticks at position {pos} have {values.shape[1]} columns")
            numbers = pa.nulls(rows, pa.int64()) if seq is None else np.arange(seq, seq + rows)
            repeated = [pa.repeat(cell, rows) for cell in (pos, stream, run_id)]
            rest = [np.frombuffer(t_ns, "<i8"), *np.ascontiguousarray(values.T)]
            arrays = [*repeated, pa.array(numbers), *map(pa.array, rest)]
            yield pa.record_batch(arrays, schema=schema)

    return schema, batches()
