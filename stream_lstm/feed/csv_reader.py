"""Tables of text (CSV, TSV), read by Arrow at speed and line by line where it stumbles.

The file comes in runs of whole lines. Arrow parses a run with the wanted columns typed. Its
result counts only if it has exactly one row for each line: blank lines, quotes over several
lines, wrong field counts and cells that Arrow will not have all show as an error or another
count, and then the run is read again line by line, which is slow and names every bad cell. In a
run that Arrow did parse, only lines with a null or a number that is not finite are looked at.

A cell cannot hold a newline: one line is one row, so that line numbers are true.

A text file, compressed or not, as runs of whole lines in bounded memory.
"""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from ..errors import DataError, OutputError
from .reader import (
    BadRow,
    RawRows,
    check_foreign,
    check_header,
    check_key,
    check_labelled,
    check_names,
    fault,
    header,
    is_number,
    keys_from,
    keys_of,
    no_numbers,
    not_finite,
    numeric_columns,
    usable,
)
from .times import TimeColumn, TimeUnit

MAX_LINE_BYTES = 1 << 20
"""A longer line is no table of numbers; this bounds what is held while looking for its end."""

MARKS = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd", "": b""}
"""What a file begins with, by its compression."""


class LineChunks:
    """Iterate over runs of whole lines, each line closed by a newline, the last one too.

    compression: "gzip", "zstd", or "" for none.
    read_bytes: decompressed bytes taken at a time.

    Raises DataError where the compressed file is damaged or cut short, or a line is too long.
    """

    def __init__(self, path: Path, compression: str, read_bytes: int) -> None:
        self.path = path
        self.lines_given = 0
        self.bytes_total = path.stat().st_size
        self._read_bytes = read_bytes
        self._compression = compression
        self._closed_at = 0
        self._raw = pa.OSFile(str(path))
        self._stream = (
            pa.CompressedInputStream(self._raw, compression) if compression else self._raw
        )

    @property
    def bytes_read(self) -> int:
        """Bytes of the file consumed so far."""
        return self._closed_at if self._raw.closed else int(self._raw.tell())

    def __iter__(self) -> Iterator[bytes]:
        rest = b""
        while data := self._read():
            cut = data.rfind(b"\n") + 1
            if cut:
                yield self._give(rest + data[:cut])
                rest = data[cut:]
            else:
                rest += data
            if len(rest) > MAX_LINE_BYTES:
                message = f"is longer than {MAX_LINE_BYTES} bytes: is this a text file?"
                raise DataError(f"{self.path}, line {self.lines_given + 1} {message}")
        if rest:
            yield self._give(rest + b"\n")

    def _give(self, chunk: bytes) -> bytes:
        self.lines_given += chunk.count(b"\n")
        return chunk

    def _read(self) -> bytes:
        try:
            data: bytes = self._stream.read(self._read_bytes)
        except OSError as error:
            # Arrow sets errno for the operating system's errors only, not for its decoders'
            if error.errno:
                raise OutputError(f"cannot read {self.path}: {error}") from None
            if not self.lines_given and (name := self._other_kind()):
                raise DataError(
                    f"{self.path} is no {name} file, though it is called one"
                ) from None
            message = (
                f"{self.path} is damaged or cut short behind line {self.lines_given}: {error}"
            )
            raise DataError(message) from None
        return data

    def _other_kind(self) -> str:
        """Return the compression that the file should have where it has not even its mark."""
        with self.path.open("rb") as file:
            begins = file.read(4)
        return "" if begins.startswith(MARKS[self._compression]) else self._compression

    def close(self) -> None:
        """Close the file."""
        self._closed_at = self.bytes_read
        self._stream.close()
        self._raw.close()


SAMPLE_LINES = 1000
"""Lines at the start that say which columns are numeric and what times look like."""

BYTES_PER_ROW = 64
"""A usual row; sets how much is read at a time."""

MIN_READ_BYTES, MAX_READ_BYTES = 4 << 10, 4 << 20


class CsvReader:
    """A CSV or TSV file with a header.

    columns: the wanted ones in order, or None for all numeric ones but the time.
    compression: "gzip", "zstd", or "" for none.

    Raises ConfigurationError for a column that is not there, and DataError for a file without
    header or rows.
    """

    row_word = "line"

    def __init__(
        self,
        path: Path,
        *,
        columns: Sequence[str] | None,
        time: str | None,
        time_unit: TimeUnit,
        chunk_rows: int,
        compression: str,
        delimiter: str,
        optional: Sequence[str] = (),
        key: str | None = None,
    ) -> None:
        self.path = path
        self._key = key
        self._optional = optional
        self._delimiter = delimiter
        size = min(max(chunk_rows * BYTES_PER_ROW, MIN_READ_BYTES), MAX_READ_BYTES)
        self._lines = LineChunks(path, compression, size)
        self.bytes_total = self._lines.bytes_total
        try:
            self._open(columns, time, time_unit)
        except BaseException:
            self.close()
            raise

    def _open(self, columns: Sequence[str] | None, time: str | None, time_unit: TimeUnit) -> None:
        chunks = iter(self._lines)
        self.columns, rest, self._first_line = header(self.path, chunks, self._delimiter)
        separator = self._delimiter
        check_header(self.path, self.columns, separator, columns or (), time, self._key)
        check_key(self.path, self._key, columns or (), time)
        for first in itertools.chain([rest], chunks):
            if first.strip():
                break
            self._first_line += first.count(b"\n")
        else:
            raise DataError(f"{self.path} holds a header and no rows")
        self._chunks = itertools.chain([first], chunks)
        lines = enumerate(_split(first)[:SAMPLE_LINES], self._first_line)
        numbered = [(number, self._sample(line)) for number, line in lines if line.strip()]
        sample = [row for _, row in numbered]
        if columns is None:
            check_labelled(self.path, self.columns)
            numeric = list(self._numeric(sample))
            if not numeric:
                check_foreign(self.path, self.columns, separator)
                raise DataError(no_numbers(self.path, self.columns, sample))
            columns = numeric_columns(self.path, numeric, time)
            check_names(self.path, self.columns, columns, time)
        self.value_columns = tuple(columns)
        self._places = [self.columns.index(name) for name in self.value_columns]
        self._time_place = None if time is None else self.columns.index(time)
        self._key_place = None if self._key is None else self.columns.index(self._key)
        self._times = TimeColumn(time_unit)
        self._settle_times(numbered)
        self._convert_options = self._arrow_options()

    @property
    def bytes_read(self) -> int:
        """Bytes of the file consumed so far, compressed ones where it is compressed."""
        return self._lines.bytes_read

    def close(self) -> None:
        """Close the file."""
        self._lines.close()

    def chunks(self) -> Iterator[RawRows]:
        """Give the rows in runs of some megabytes of text."""
        line = self._first_line
        for chunk in self._chunks:
            yield self._parse_fast(chunk, line) or self._parse_slow(chunk, line)
            line += chunk.count(b"\n")

    def _numeric(self, sample: Sequence[Sequence[str]]) -> Iterator[str]:
        for place, name in enumerate(self.columns):
            cells = (row[place] for row in sample if len(row) == len(self.columns))
            first = next((cell for cell in cells if cell.strip()), "")
            if is_number(first):
                yield name

    def _settle_times(self, sample: Sequence[tuple[int, Sequence[str]]]) -> None:
        if self._time_place is None:
            return
        first = "it is empty"
        for line, row in sample:
            cell = row[self._time_place] if self._time_place < len(row) else ""
            try:
                self._times.settle(cell)
            except ValueError as error:
                if cell.strip() and first == "it is empty":
                    first = f"line {line}: {error}"
            else:
                return
        name = self.columns[self._time_place]
        raise DataError(f"{self.path}: no time in column {name!r}: {first}")

    def _arrow_options(self) -> Any:
        types = {str(place): pa.float64() for place in self._places}
        if self._time_place is not None:
            types[str(self._time_place)] = self._times.arrow_type
        if self._key_place is not None:
            types[str(self._key_place)] = pa.string()
        return pyarrow.csv.ConvertOptions(
            include_columns=list(types) or ["0"],  # an empty list would mean all
            column_types=types or {"0": pa.binary()},
        )

    def _parse_fast(self, chunk: bytes, line: int) -> RawRows | None:
        """Let Arrow parse the run; None if the lines must be looked at one by one."""
        try:
            table = pyarrow.csv.read_csv(
                pa.BufferReader(chunk),
                read_options=pyarrow.csv.ReadOptions(
                    use_threads=False,
                    block_size=len(chunk) + 1,
                    column_names=[str(place) for place in range(len(self.columns))],
                ),
                parse_options=pyarrow.csv.ParseOptions(delimiter=self._delimiter),
                convert_options=self._convert_options,
            )
            count = table.num_rows
            if count != chunk.count(b"\n"):
                return None
            values = np.empty((count, len(self._places)))
            for column, place in enumerate(self._places):
                values[:, column] = _floats(_array(table, place))
        except pa.ArrowException:
            return None
        t_ns, ok = np.zeros(count, np.int64), np.ones(count, np.bool_)
        if self._time_place is not None:
            t_ns, ok = self._times.convert(_array(table, self._time_place))
        keys = None if self._key_place is None else keys_of(_array(table, self._key_place))
        ok &= usable(values, self.value_columns, self._optional)
        ok &= True if keys is None else keys.codes >= 0
        rows = np.arange(line, line + count)
        if ok.all():
            return RawRows(t_ns, values, rows, (), keys)
        lines = _split(chunk)
        bad = [BadRow(int(at), self._fault(lines[at])) for at in np.flatnonzero(~ok)]
        known = all(row.reason for row in bad)
        return RawRows(t_ns, values, rows, bad, keys) if known else None

    def _parse_slow(self, chunk: bytes, line: int) -> RawRows:
        """Parse the run line by line."""
        lines = list(enumerate(_split(chunk), line))
        while lines and not lines[-1][1].strip():
            lines.pop()
        # In a file of one column an empty line in the middle is an empty cell.
        if len(self.columns) > 1:
            lines = [(number, text) for number, text in lines if text.strip()]
        t_ns = np.zeros(len(lines), np.int64)
        values = np.zeros((len(lines), len(self._places)))
        bad, names = [], ["-"] * len(lines)
        for index, (_, text) in enumerate(lines):
            try:
                t_ns[index], values[index], names[index] = self._parse_line(text)
            except ValueError as error:
                bad.append(BadRow(index, str(error)))
        rows = np.array([number for number, _ in lines], np.int64)
        keys = None if self._key is None else keys_from(names)
        return RawRows(t_ns, values, rows, bad, keys)

    def _fault(self, line: bytes) -> str:
        """Return what is wrong with a line, "" if nothing is."""
        try:
            self._parse_line(line)
        except ValueError as error:
            return str(error)
        return ""

    def _parse_line(self, line: bytes) -> tuple[int, list[float], str]:
        """Return time, values and stream of one line; ValueError says what is wrong with it."""
        try:
            cells = self._fields(line, strict=True)
        except csv.Error as error:
            raise ValueError(f"no row of a table: {error}") from None
        if len(cells) != len(self.columns):
            raise ValueError(f"{len(cells)} fields, but the header has {len(self.columns)}")
        place = self._time_place
        return (
            0 if place is None else self._time(cells[place]),
            [self._value(self.columns[place], cells[place]) for place in self._places],
            "" if self._key_place is None else self._name(cells[self._key_place]),
        )

    def _name(self, cell: str) -> str:
        if why := fault(cell):
            raise ValueError(f"column {self._key!r}: {why}")
        return cell

    def _value(self, column: str, cell: str) -> float:
        missing = column in self._optional and cell.strip().lower() in ("", "nan")
        return math.nan if missing else _number(column, cell)

    def _time(self, cell: str) -> int:
        try:
            return self._times.parse(cell)
        except ValueError as error:
            assert self._time_place is not None
            raise ValueError(f"column {self.columns[self._time_place]!r}: {error}") from None

    def _sample(self, line: bytes) -> list[str]:
        try:
            return self._fields(line)
        except csv.Error:
            return []

    def _fields(self, line: bytes, *, strict: bool = False) -> list[str]:
        text = line.decode("utf-8", "replace").rstrip("\r")
        return next(csv.reader([text], delimiter=self._delimiter, strict=strict), []) or [""]


def csv_columns(path: Path, *, compression: str, delimiter: str) -> tuple[str, ...]:
    """Return the names in the header; DataError if there is none."""
    lines = LineChunks(path, compression, MIN_READ_BYTES)
    try:
        return header(path, iter(lines), delimiter)[0]
    finally:
        lines.close()


def _split(chunk: bytes) -> list[bytes]:
    return chunk.split(b"\n")[:-1]


def _number(column: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or "_" in text:
        raise ValueError(not_finite(column, text))
    return number


def _array(table: Any, place: int) -> Any:
    return pa.concat_arrays(table.column(str(place)).chunks)


def _floats(array: Any) -> Any:
    """Return float64, NaN where null; a time that is also a value comes as another type."""
    return array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
