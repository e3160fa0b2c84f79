"""Tables of text (CSV, TSV) as a stream of rows: parsed by Arrow, and line by line if it fails.

The file is read in runs of complete lines, in bounded memory. Arrow parses a run with typed
columns. Its result counts only if it has exactly one row for each line: blank lines, quotes across
lines, wrong field counts and cells that Arrow rejects all cause an error or another count. Then
the run is parsed line by line, which is slow and names every bad cell. In a run that Arrow did
parse, only lines with a null or a number that is not finite are checked again.

A cell cannot contain a newline: one line is one row, so line numbers are correct.
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
    Reader,
    Selection,
    check_foreign,
    check_header,
    check_labelled,
    fault,
    header,
    is_number,
    keys_from,
    keys_of,
    no_numbers,
    not_finite,
    usable,
)
from .times import TimeColumn

MAX_LINE_BYTES = 1 << 20
"""A longer line is not a row of numbers; this bounds memory while looking for its end."""

MAGIC = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd", "": b""}
"""First bytes of a file, by its compression."""


class LineChunks:
    """Iterate over runs of complete lines; every line ends with a newline, the last one too.

    compression: "gzip", "zstd", or "" for none. read_bytes: decompressed bytes of one read.

    Raises DataError if the compressed file is damaged or cut short, or a line is too long.
    """

    def __init__(self, path: Path, compression: str, read_bytes: int) -> None:
        self.path = path
        self._lines = 0
        self._read_bytes = read_bytes
        self._compression = compression
        self._closed_at = 0
        self._raw = pa.OSFile(str(path))
        self._stream = (
            pa.CompressedInputStream(self._raw, compression) if compression else self._raw
        )

    @property
    def bytes_read(self) -> int:
        """Bytes of the file read so far."""
        return self._closed_at if self._raw.closed else int(self._raw.tell())

    def __iter__(self) -> Iterator[bytes]:
        rest = b""
        while data := self._read():
            end = data.rfind(b"\n") + 1
            if end:
                yield self._count(rest + data[:end])
                rest = data[end:]
            else:
                rest += data
            if len(rest) > MAX_LINE_BYTES:
                message = f"is longer than {MAX_LINE_BYTES} bytes: is this a text file?"
                raise DataError(f"{self.path}, line {self._lines + 1} {message}")
        if rest:
            yield self._count(rest + b"\n")

    def _count(self, chunk: bytes) -> bytes:
        self._lines += chunk.count(b"\n")
        return chunk

    def _read(self) -> bytes:
        try:
            data: bytes = self._stream.read(self._read_bytes)
        except OSError as error:
            # Arrow sets errno only for errors of the operating system, not of its decoders
            if error.errno:
                raise OutputError(f"cannot read {self.path}: {error}") from None
            if not self._lines and not self._has_magic():
                kind = self._compression
                raise DataError(
                    f"{self.path} is not a {kind} file, despite its name: rename it"
                ) from None
            message = f"{self.path} is damaged or cut short after line {self._lines}: {error}"
            raise DataError(message) from None
        return data

    def _has_magic(self) -> bool:
        with self.path.open("rb") as file:
            return file.read(4).startswith(MAGIC[self._compression])

    def close(self) -> None:
        """Close the file."""
        self._closed_at = self.bytes_read
        self._stream.close()
        self._raw.close()


SAMPLE_LINES = 1000
"""Lines at the start that show which columns are numeric and the form of times."""

BYTES_PER_ROW = 64
"""A usual row; determines how much is read at a time."""

MIN_READ_BYTES, MAX_READ_BYTES = 4 << 10, 4 << 20


class CsvReader(Reader):
    """A CSV or TSV file with a header.

    compression: "gzip", "zstd", or "" for none.

    Raises ConfigurationError for a missing column, and DataError for a file without header or
    rows.
    """

    row_word = "line"

    def __init__(
        self, path: Path, selection: Selection, *, compression: str, delimiter: str
    ) -> None:
        super().__init__(path, selection)
        self._delimiter = delimiter
        size = min(max(selection.chunk_rows * BYTES_PER_ROW, MIN_READ_BYTES), MAX_READ_BYTES)
        self._lines = LineChunks(path, compression, size)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        selection = self.selection
        chunks = iter(self._lines)
        self.columns, rest, self._first_line = header(self.path, chunks, self._delimiter)
        check_header(self.path, self.columns, self._delimiter, selection)
        for first in itertools.chain([rest], chunks):
            if first.strip():
                break
            self._first_line += first.count(b"\n")
        else:
            raise DataError(f"{self.path} has a header and no rows")
        self._chunks = itertools.chain([first], chunks)
        lines = enumerate(_split(first)[:SAMPLE_LINES], self._first_line)
        numbered = [(number, self._sample(line)) for number, line in lines if line.strip()]
        numeric: list[str] = []
        if selection.columns is None:
            sample = [row for _, row in numbered]
            check_labelled(self.path, self.columns)
            numeric = list(self._numeric(sample))
            if not numeric:
                check_foreign(self.path, self.columns, self._delimiter)
                raise DataError(no_numbers(self.path, self.columns, sample))
        self.value_columns = selection.value_columns(self.path, self.columns, numeric)
        self._places = [self.columns.index(name) for name in self.value_columns]
        self._time_place = self._place(selection.time)
        self._key_place = self._place(selection.key)
        self._times = TimeColumn(selection.time_unit)
        self._settle_times(numbered)
        self._convert_options = self._arrow_options()

    def _place(self, name: str | None) -> int | None:
        return None if name is None else self.columns.index(name)

    @property
    def bytes_read(self) -> int:
        """Bytes of the file read so far."""
        return self._lines.bytes_read

    def close(self) -> None:
        """Close the file."""
        self._lines.close()

    def chunks(self) -> Iterator[RawRows]:
        """Give the rows in runs."""
        line = self._first_line
        for chunk in self._chunks:
            yield self._parse_fast(chunk, line) or self._parse_slow(chunk, line)
            line += chunk.count(b"\n")

    def _numeric(self, sample: Sequence[Sequence[str]]) -> Iterator[str]:
        for place, name in enumerate(self.columns):
            cells = (row[place] for row in sample if len(row) == len(self.columns))
            missing = is_missing if name in self.selection.optional else str.isspace
            first = next((cell for cell in cells if cell and not missing(cell)), "")
            if is_number(first):
                yield name

    def _settle_times(self, sample: Sequence[tuple[int, Sequence[str]]]) -> None:
        """Let the first valid time of the sample settle the form of times."""
        if self._time_place is None:
            return
        first = ""
        for line, row in sample:
            cell = row[self._time_place] if self._time_place < len(row) else ""
            try:
                self._times.settle(cell)
            except ValueError as error:
                if cell.strip():
                    first = first or f"line {line}: {error}"
            else:
                return
        name = self.columns[self._time_place]
        raise DataError(f"{self.path}: no time in column {name!r}: {first or 'it is empty'}")

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
        """Parse the run with Arrow; None if it has to be parsed line by line."""
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
                # a time that is also a value has another type
                floats = _array(table, place).cast(pa.float64(), safe=False)
                values[:, column] = floats.to_numpy(zero_copy_only=False)
        except pa.ArrowException:
            return None
        t_ns, ok = np.zeros(count, np.int64), np.ones(count, np.bool_)
        if self._time_place is not None:
            t_ns, ok = self._times.convert(_array(table, self._time_place))
        keys = None if self._key_place is None else keys_of(_array(table, self._key_place))
        ok &= usable(values, self.value_columns, self.selection.optional)
        if keys is not None:
            ok &= keys.codes >= 0
        rows = np.arange(line, line + count)
        lines = _split(chunk) if not ok.all() else []
        bad = [BadRow(int(at), self._fault(lines[at])) for at in np.flatnonzero(~ok)]
        return RawRows(t_ns, values, rows, bad, keys) if all(b.reason for b in bad) else None

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
        keys = None if self._key_place is None else keys_from(names)
        return RawRows(t_ns, values, rows, bad, keys)

    def _fault(self, line: bytes) -> str:
        """Return why a line cannot be used, "" if it can."""
        try:
            self._parse_line(line)
        except ValueError as error:
            return str(error)
        return ""

    def _parse_line(self, line: bytes) -> tuple[int, list[float], str]:
        """Return time, values and stream of one line; ValueError says why it cannot be used."""
        try:
            cells = self._cells(line, strict=True)
        except csv.Error as error:
            raise ValueError(f"not a row of a table: {error}") from None
        if len(cells) != len(self.columns):
            raise ValueError(f"{len(cells)} fields, but the header has {len(self.columns)}")
        time, name = 0, ""
        if self._time_place is not None:
            try:
                time = self._times.parse(cells[self._time_place])
            except ValueError as error:
                raise ValueError(f"column {self.selection.time!r}: {error}") from None
        values = [self._value(self.columns[place], cells[place]) for place in self._places]
        if self._key_place is not None:
            name = cells[self._key_place]
            if why := fault(name):
                raise ValueError(f"column {self.selection.key!r}: {why}")
        return time, values, name

    def _value(self, column: str, cell: str) -> float:
        if column in self.selection.optional and is_missing(cell):
            return math.nan
        if not is_number(cell) or not math.isfinite(float(cell)) or "_" in cell:
            raise ValueError(not_finite(column, cell))
        return float(cell)

    def _sample(self, line: bytes) -> list[str]:
        try:
            return self._cells(line)
        except csv.Error:
            return []

    def _cells(self, line: bytes, *, strict: bool = False) -> list[str]:
        text = line.decode("utf-8", "replace").rstrip("\r")
        return next(csv.reader([text], delimiter=self._delimiter, strict=strict), []) or [""]


def csv_columns(path: Path, *, compression: str, delimiter: str) -> tuple[str, ...]:
    """Return the names in the header; DataError if there is none."""
    lines = LineChunks(path, compression, MIN_READ_BYTES)
    try:
        return header(path, iter(lines), delimiter)[0]
    finally:
        lines.close()


MISSING_WORDS = frozenset(pyarrow.csv.ConvertOptions().null_values)
"""Cells without a value, beside NaN in any spelling: those that Arrow reads so."""


def is_missing(cell: str) -> bool:
    """Return whether a cell of a column of numbers has no value."""
    text = cell.strip()
    return text in MISSING_WORDS or text.lstrip("+-").lower() == "nan"


def _split(chunk: bytes) -> list[bytes]:
    return chunk.split(b"\n")[:-1]


def _array(table: Any, place: int) -> Any:
    return pa.concat_arrays(table.column(str(place)).chunks)
