"""Tables of every kind as runs of columns: text, JSON, workbooks, typed files, and queries.

The first bytes of a file decide what it is. Text is sniffed. JSON and workbooks become rows of
text, so that one set of rules applies to their headers and cells. Typed files (Parquet, Arrow,
NumPy's `.npy`) have their own names and types. An `.npy` file is mapped into memory: a 1-D array
is the column `x`, a 2-D array `c0`, `c1` ..., and records have their fields. Arrays of Python
objects are never loaded.

A query sees the rows of the file as the table `file`, as this module reads them; it cannot open
other files.
"""

from __future__ import annotations

import csv
import datetime
import functools
import io
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from ..closing import Closing
from ..errors import ConfigurationError, DataError, StreamLSTMError, UsageError
from ..interop.extras import need_for
from ..typing import Int64s
from .dialect import BLANKS, MISSING, SAMPLE_LINES, Asked, Dialect, sniff
from .rows import Fault, TextRows, cells_of, numbers
from .source import PACKED, WORDS, TextSource, kind_of

BUFFER = 65_536
"""Bytes of a column of a Parquet file that are read at a time."""

BYTES_PER_ROW = 64
"""A usual row of text; determines how much is read at a time."""

MIN_READ_BYTES, MAX_READ_BYTES = 4 << 10, 4 << 20
MAX_JSON = 256 << 20
"""Bytes of a JSON array, which is decoded whole."""

Batches: TypeAlias = Iterator[tuple[Any, float]]
"""Record batches, each with the share of the file that has then been read."""


class Run(NamedTuple):
    """Some rows: Arrow arrays by place, row or line numbers (m,), and the unusable ones."""

    columns: Mapping[int, Any]
    rows: Int64s
    faults: Sequence[Fault]
    cell: Callable[[int, int], str]
    """Returns the text of the cell in a row of the run and a place."""


class Table(Closing):
    """An open table; `row_word` is what `Run.rows` counts, and `notes` what a user should know."""

    row_word = "row"
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    bytes_read = 0

    def numeric(self) -> tuple[str, ...]:
        """Return the names of the columns of numbers."""
        raise NotImplementedError

    def sample(self) -> list[tuple[int, list[str]]]:
        """Return the cells of the first rows of text with their numbers; [] for typed columns."""
        return []

    def check(self, name: str, *, optional: bool) -> None:
        """Raise ConfigurationError unless a column can have numbers."""

    def numbers(self, place: int, column: Any) -> tuple[Any, list[tuple[int, str]]]:
        """Return a column as float64, NaN for missing, and (row, reason) where it is not one."""
        raise NotImplementedError

    def runs(self, types: Mapping[int, Any], chunk_rows: int) -> Iterator[Run]:
        """Give the columns at some places; text as one of `types` where all cells of a run fit."""
        raise NotImplementedError


# ---- text --------------------------------------------------------------------------------


class TextTable(Table):
    """A table of text; `first` is the number of its first line."""

    def __init__(
        self, path: Path, source: Any, asked: Asked, *, header: bool | None = None, first: int = 1
    ) -> None:
        self._path, self._source, self._first = path, source, first
        self.row_word = "line" if isinstance(source, TextSource) else "row"
        head = source.peek(asked.skip_lines + SAMPLE_LINES)
        lines = head.decode("utf-8", "replace").split("\n")
        if len(lines) > 1:
            lines.pop()  # incomplete, or empty
        self._lines = [line.removesuffix("\r") for line in lines]
        self.dialect: Dialect = sniff(str(path), self._lines, asked, header=header)
        self.names = tuple(column.name for column in self.dialect.columns)
        self._missing = frozenset(asked.missing)
        encoding = getattr(source, "encoding", "utf-8")
        decoded = (f"the text is read as {encoding}",) if encoding == "cp1252" else ()
        self.notes = (*decoded, *getattr(source, "notes", ()), *self.dialect.notes)

    @property
    def bytes_read(self) -> int:  # type: ignore[override]
        """Bytes of the file read so far, compressed ones if it is compressed."""
        return int(self._source.bytes_read)

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    def numeric(self) -> tuple[str, ...]:
        """Return the names of the columns of numbers."""
        return tuple(column.name for column in self.dialect.columns if column.kind == "number")

    def sample(self) -> list[tuple[int, list[str]]]:
        """Return the cells of the first rows with their line numbers."""
        start, found = self.dialect.first_line, []
        for number, line in enumerate(self._lines[start - 1 :], start):
            comment = self.dialect.comments and line.startswith("#")
            if line.strip(BLANKS) and not comment:
                cells = cells_of(line.encode(), self.dialect.delimiter)
                found.append((number - 1 + self._first, cells))
        return found

    def numbers(self, place: int, column: Any) -> tuple[Any, list[tuple[int, str]]]:
        """Return a column of text as float64."""
        if not pa.types.is_string(column.type):
            return _to_numpy(column), []
        found, wrong = numbers(column, self.dialect.columns[place], self._missing)
        return _to_numpy(found), wrong

    def runs(self, types: Mapping[int, Any], chunk_rows: int) -> Iterator[Run]:
        """Give the rows; line numbers count the lines of the file."""
        size = min(max(chunk_rows * BYTES_PER_ROW, MIN_READ_BYTES), MAX_READ_BYTES)
        rows = TextRows(
            self._path, self._source, self.dialect, types, missing=self._missing, read_bytes=size
        )
        for run in rows:
            yield Run(run.columns, run.lines - 1 + self._first, run.faults, run.cell)
        if rows.footer:
            self.notes += (f"the last lines are not rows: {'; '.join(rows.footer)[:80]}",)
        if rows.comments:
            self.notes += (f"{rows.comments:,} lines that begin with # are left out",)


class CellSource(Closing):
    """Rows of cells as the text of a table.

    file: the bytes of the file, to count how many are read.
    """

    def __init__(self, rows: Iterable[Sequence[str] | None], file: Any, notes: Any = ()) -> None:
        self._rows, self._file, self.notes = iter(rows), file, notes
        self._peeked = b""

    @property
    def bytes_read(self) -> int:
        """Bytes of the file read so far."""
        return int(self._file.bytes_read)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def peek(self, lines: int) -> bytes:
        """Return the first lines, and read them again."""
        self._peeked = self._text(itertools.islice(self._rows, lines))
        return self._peeked

    def read(self, size: int) -> bytes:
        """Return the text of some rows, b"" at the end."""
        text, self._peeked = self._peeked, b""
        return text or self._text(itertools.islice(self._rows, max(size // BYTES_PER_ROW, 1)))

    @staticmethod
    def _text(rows: Iterable[Sequence[str] | None]) -> bytes:
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        for row in rows:
            # a row is a line, so that numbers of lines are numbers of rows
            writer.writerow([] if row is None else [re.sub(r"[\r\n]+", " ", cell) for cell in row])
        return buffer.getvalue().encode()


def _cell(value: Any) -> str:
    """Return a value of JSON or of a workbook as a cell of text."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    return str(value) if isinstance(value, int) else msgspec.json.encode(value).decode()


# ---- JSON --------------------------------------------------------------------------------

JSON = re.compile(r'\s*(?:\{\s*["}]|\[\s*[\[{\]"\d-])')
"""How JSON begins: an object, or an array of objects, arrays or numbers."""


def _json(path: Path, source: TextSource, asked: Asked) -> TextTable:
    """Open a JSON array of rows, or JSON lines; a row is an object or an array."""
    head = source.peek(SAMPLE_LINES)
    first = head.split(b"\n", 1)[0]
    if _decoded(first) is None or first.lstrip()[:2] in (b"[[", b"[{") or head.count(b"\n") < 2:
        rows = _json_array(path, source)
    else:
        rows = _json_lines(path, source)
    some = list(itertools.islice(rows, SAMPLE_LINES))
    known = [row for row in some if row is not None]
    objects = [row for row in known if isinstance(row, dict)]
    if not known or len(objects) not in (0, len(known)):
        raise DataError(f"{path} is JSON, but not rows: it needs an object or an array for each")
    rows = itertools.chain(some, rows)
    asked = asked._replace(delimiter=",", decimal=asked.decimal or ".")
    if not objects:
        cells = (None if row is None else [_cell(value) for value in row] for row in rows)
        return TextTable(path, CellSource(cells, source), asked, header=False)
    names = list(dict.fromkeys(name for row in objects for name in row))
    lines = (None if row is None else [_cell(row.get(name)) for name in names] for row in rows)
    text = CellSource(itertools.chain([names], lines), source)
    return TextTable(path, text, asked, header=True, first=0)


def _json_array(path: Path, source: TextSource) -> Iterator[Any]:
    parts, size = [], 0
    while data := source.read(MAX_READ_BYTES):
        parts.append(data)
        size += len(data)
        if size > MAX_JSON:
            raise DataError(
                f"{path} is a JSON array of more than {MAX_JSON >> 20} MB: write lines"
            )
    try:
        value = msgspec.json.decode(b"".join(parts))
    except msgspec.DecodeError as error:
        raise DataError(f"{path} is not valid JSON: {error}") from None
    if isinstance(value, dict):  # an answer of a server, with the rows in one of its fields
        lists = [one for one in value.values() if isinstance(one, list) and one]
        lists = [one for one in lists if isinstance(one[0], dict | list)]
        if len(lists) != 1:
            keys = ", ".join(list(value)[:10])
            raise DataError(
                f"{path} is a JSON object with {keys}, not an array of rows: extract them first, "
                "for example with jq"
            )
        value = lists[0]
    rows = [row if isinstance(row, dict | list) else [row] for row in value]
    yield from rows


def _json_lines(path: Path, source: TextSource) -> Iterator[Any]:
    rest, number = b"", 0
    while data := source.read(MAX_READ_BYTES) or (rest and b"\n"):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            number += 1
            row = _decoded(line) if line.strip() else None
            if line.strip() and not isinstance(row, dict | list):
                raise DataError(f"{path}, line {number}: not an object or an array of JSON")
            yield row


def _decoded(line: bytes) -> Any:
    try:
        return msgspec.json.decode(line)
    except msgspec.DecodeError:
        return None


# ---- workbooks ---------------------------------------------------------------------------


class _File(Closing):
    """A file that is read whole."""

    def __init__(self, path: Path) -> None:
        self.bytes_read = path.stat().st_size

    def close(self) -> None:
        """Do nothing: the file is closed."""


def _xlsx(path: Path, asked: Asked) -> TextTable:
    """Open the first sheet with rows of a workbook."""
    calamine = need_for(f"{path} is an Excel workbook, which", "python_calamine", "xlsx")
    try:
        book = calamine.load_workbook(str(path))
        sheets = [(name, book.get_sheet_by_name(name).to_python()) for name in book.sheet_names]
    except (calamine.CalamineError, OSError) as error:
        raise DataError(f"{path} is a damaged Excel workbook: {error}") from None
    full = [(name, rows) for name, rows in sheets if rows]
    if not full:
        raise DataError(f"{path} is an empty Excel workbook")
    name, values = full[0]
    others = ", ".join(repr(other) for other, _ in full[1:])
    notes = (f"the sheet {name!r} is read, not {others}",) if others else ()
    rows = _table_rows([[_cell(value) for value in row] for row in values])
    skipped = book.get_sheet_by_name(name).start
    first = 1 + (skipped[0] if skipped else 0)
    asked = asked._replace(delimiter=",", decimal=asked.decimal or ".")
    return TextTable(path, CellSource(rows, _File(path), notes), asked, first=first)


def _table_rows(rows: Sequence[list[str]]) -> Iterator[list[str]]:
    """Give rows of a sheet: a title or a footer with one cell is short, others are full."""
    full = False
    for row in rows:
        filled = sum(map(bool, row))
        full = full or filled == len(row)
        title = filled == 1 < len(row) and (not full or len(row) > 2)
        yield [] if not filled else row[:1] if title and row[0] else row


# ---- typed files -------------------------------------------------------------------------


class TypedTable(Table):
    """A table with a schema; `batches` takes names of columns and yields their record batches."""

    def __init__(
        self,
        path: Path,
        schema: Any,
        batches: Callable[[list[str], int], Batches],
        close: Callable[[], object],
    ) -> None:
        self.path, self.schema = path, schema
        self.names = tuple(schema.names)
        self._batches, self._close, self._share = batches, close, 0.0

    @property
    def bytes_read(self) -> int:  # type: ignore[override]
        """Bytes of the file read so far, estimated from its share of rows or batches."""
        return int(self._share * self.path.stat().st_size)

    def close(self) -> None:
        """Close the file."""
        self._close()

    def numeric(self) -> tuple[str, ...]:
        """Return the names of the columns of numbers."""
        types = zip(self.names, self.schema.types, strict=True)
        return tuple(name for name, kind in types if is_numeric(kind))

    def check(self, name: str, *, optional: bool) -> None:
        """Raise ConfigurationError for a column of another type, except for an empty one."""
        kind = self.schema.field(self.names.index(name)).type
        if not is_numeric(kind) and not (pa.types.is_null(kind) and optional):
            message = f"{self.path}: column {name!r} contains {kind}, not numbers"
            raise ConfigurationError(message, key="features")

    def numbers(self, place: int, column: Any) -> tuple[Any, list[tuple[int, str]]]:  # noqa: ARG002
        """Return a typed column as float64."""
        return floats(column), []

    def runs(self, types: Mapping[int, Any], chunk_rows: int) -> Iterator[Run]:
        """Give the rows, in batches of the file."""
        row = 1
        try:
            for batch, share in self._batches([self.names[k] for k in types], chunk_rows):
                self._share = share
                if batch.num_rows:
                    columns = dict(zip(types, batch.columns, strict=False))
                    rows = np.arange(row, row + batch.num_rows)
                    yield Run(columns, rows, (), functools.partial(_text, columns))
                row += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path} is damaged after row {row - 1}: {error}") from None
        if row == 1:
            raise DataError(f"{self.path} has no rows")


def open_parquet(path: Path) -> pyarrow.parquet.ParquetFile:
    """Open a Parquet file to be read in batches, with memory independent of the file's size."""
    # A pre-buffer would stay in memory until the file is closed, in the end all of it.
    return pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER)


def _parquet(path: Path) -> TypedTable:
    file = open_parquet(path)

    def batches(names: list[str], chunk_rows: int) -> Batches:
        total, done = file.metadata.num_rows, 0
        for batch in file.iter_batches(chunk_rows, columns=names, use_threads=False):
            done += batch.num_rows
            yield batch.select(names), done / total

    return TypedTable(path, file.schema_arrow, batches, file.close)


def _arrow(path: Path) -> TypedTable:
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

    def batches(names: list[str], chunk_rows: int) -> Batches:
        for batch, share in whole_batches():
            for start in range(0, batch.num_rows, chunk_rows):
                yield batch.slice(start, chunk_rows).select(names), share

    return TypedTable(path, reader.schema, batches, mapped.close)


def _npy(path: Path) -> TypedTable:
    array = np.lib.format.open_memmap(path, mode="r")
    if array.ndim == 1 and array.dtype.names:
        fields = {name: array[name] for name in array.dtype.names}
    elif array.ndim == 1:
        fields = {"x": array}
    elif array.ndim == 2 and not array.dtype.names:
        fields = {f"c{k}": array[:, k] for k in range(array.shape[1])}
    else:
        raise DataError(f"{path} contains an array of {array.ndim} dimensions, not one or two")

    def batches(names: list[str], chunk_rows: int) -> Batches:
        for start in range(0, len(array), chunk_rows):
            stop = min(start + chunk_rows, len(array))
            columns = [_arrow_column(fields[name][start:stop]) for name in names]
            # a batch without columns would have no length
            columns, names_ = (columns, names) if names else ([pa.nulls(stop - start)], [""])
            yield pa.RecordBatch.from_arrays(columns, names_), stop / len(array)

    types = [(name, _arrow_column(field[:1]).type) for name, field in fields.items()]
    return TypedTable(path, pa.schema(types), batches, fields.clear)


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
    return _to_numpy(array.cast(pa.float64(), safe=False))


def _to_numpy(array: Any) -> Any:
    return array.to_numpy(zero_copy_only=False)


def _text(columns: Mapping[int, Any], at: int, place: int) -> str:
    cell = columns[place][at].as_py()
    return "" if cell is None else str(cell)


# ---- queries -----------------------------------------------------------------------------

EXACT = 2**53
"""Whole numbers from here on are integers in a query, since float64 does not hold them."""

QUERY_ROWS = 65_536


def _queried(path: Path, table: Table, sql: str) -> TypedTable:
    """Return the result of a query over a table named `file`."""
    duckdb = need_for("--sql", "duckdb", "sql")
    failed: list[BaseException] = []
    schema, batches = _for_sql(path, table, failed)
    config = {"enable_external_access": "false", "autoinstall_known_extensions": "false"}
    connection = duckdb.connect(config=config | {"threads": "1"})
    try:
        connection.register("file", pa.RecordBatchReader.from_batches(schema, batches))
        reader = connection.sql(sql).to_arrow_reader(QUERY_ROWS)
    except (duckdb.Error, AttributeError) as error:
        connection.close()
        if failed:
            raise failed[0] from None
        reason = str(error).split("\n", 1)[0]
        known = ", ".join(f"{field.name} {field.type}" for field in schema)
        raise UsageError(f"--sql: {reason} (the table is file, with {known})") from None

    def result(names: list[str], chunk_rows: int) -> Batches:
        try:
            for batch in reader:
                for start in range(0, batch.num_rows, chunk_rows):
                    part = batch.slice(start, chunk_rows)
                    yield part.select(names), table.bytes_read / max(path.stat().st_size, 1)
        except (pa.ArrowException, OSError, duckdb.Error) as error:
            raise (failed[0] if failed else DataError(f"{path}: --sql: {error}")) from None

    def close() -> None:
        connection.close()
        table.close()

    return TypedTable(path, reader.schema, result, close)


def _for_sql(path: Path, table: Table, failed: list[BaseException]) -> tuple[Any, Iterator[Any]]:
    """Return the schema of a table in a query and its batches; text columns remain text."""
    if isinstance(table, TypedTable):
        types = dict(enumerate(table.schema.types))
    else:
        numeric, sample = table.numeric(), table.sample()
        types = {
            k: _sql_type([row[k] for _, row in sample if k < len(row)])
            if name in numeric
            else pa.string()
            for k, name in enumerate(table.names)
        }
    schema = pa.schema([(name, types[k]) for k, name in enumerate(table.names)])

    def batches() -> Iterator[Any]:
        try:
            for run in table.runs(types, QUERY_ROWS):
                faults = [(fault.at, fault.reason) for fault in run.faults]
                columns = []
                for place, kind in types.items():
                    column = run.columns[place]
                    if column.type != kind:
                        column, wrong = table.numbers(place, column)
                        faults += wrong
                        column = pa.array(column, kind, from_pandas=True, safe=True)
                    columns.append(column)
                if faults:
                    at, reason = min(faults)
                    raise DataError(f"{path}, {table.row_word} {run.rows[at]}: {reason}")
                yield pa.RecordBatch.from_arrays(columns, schema=schema)
        except BaseException as error:
            failed.append(error)
            raise

    return schema, batches()


def _sql_type(cells: Sequence[str]) -> Any:
    whole = [cell.strip() for cell in cells if cell.strip().lower() not in MISSING]
    is_exact = all(re.fullmatch(r"-?[0-9]{1,19}", cell) for cell in whole)
    sizes = [abs(int(cell)) for cell in whole] if is_exact else []
    large = any(size >= EXACT for size in sizes) and max(sizes) < 2**63
    return pa.int64() if large else pa.float64()


# ---- opening -----------------------------------------------------------------------------


def open_table(path: Path, asked: Asked | None = None) -> Table:
    """Open a file as a table, by its first bytes.

    Raises DataError for a file that is not a table, UsageError for a query that fails and for a
    package that is not installed.
    """
    asked = asked or Asked()
    table = _open(path, asked)
    try:
        return _queried(path, table, asked.sql) if asked.sql else table
    except BaseException:
        table.close()
        raise


def file_notes(path: Path, asked: Asked) -> tuple[str, ...]:
    """Return what a user should know about how a file is read; () for one that is not a table."""
    try:
        with open_table(path, asked._replace(sql="")) as table:
            return table.notes
    except (StreamLSTMError, OSError):
        return ()


def _open(path: Path, asked: Asked) -> Table:
    kind = kind_of(path)
    typed = {"parquet": _parquet, "arrow": _arrow, "npy": _npy}.get(kind)
    if typed is not None:
        try:
            return typed(path)
        except (pa.ArrowException, OSError, ValueError, EOFError, SyntaxError) as error:
            raise DataError(f"{path} is damaged, or not {WORDS[kind]}: {error}") from None
    if kind == "xlsx":
        return _xlsx(path, asked)
    if kind not in (*PACKED, "text"):
        raise DataError(f"{path} is {WORDS[kind]}; a table of text or a typed file is needed")
    source = TextSource(path)
    try:
        if JSON.match(source.peek(1)[:1000].decode("utf-8", "replace").removeprefix("\ufeff")):
            return _json(path, source, asked)
        return TextTable(path, source, asked)
    except BaseException:
        source.close()
        raise
