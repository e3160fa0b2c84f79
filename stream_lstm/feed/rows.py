"""The rows of a table of text, in runs, each row with its line number.

A run ends at a newline outside quotes. Arrow parses it with typed columns, and the result counts
only if it has one row for each line. Otherwise the run is parsed again without blank lines and
comments, with all cells as text: then each row of another width is known by its line, and the
reader of the cells finds those that are not numbers. If quotes do not pair, each line is a row,
and a line with a quote that is not closed is a bad row. Rows of another width at the very end are
a footer if they contain only words.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv

from ..errors import DataError
from ..typing import Int64s
from .dialect import BLANKS, MISSING, Column, Dialect, is_missing, is_row, number_in, value_kind
from .reader import NOT_FINITE

MAX_ROW_BYTES = 1 << 20
"""A longer row is not a row of numbers; this bounds memory while looking for its end."""

MAX_FOOTER = 5
"""Rows at the end that may be a footer; more are a fault of the table."""

READ_BYTES = 4 << 20

AMBIGUOUS = "is ambiguous: use --decimal . or --decimal ,"

WORDS = sorted({form(word) for word in MISSING for form in (str, str.upper, str.title)} | {"NaN"})
"""Cells that Arrow reads as missing, in the spellings that are usual."""


class Text(Protocol):
    """Where the bytes of a table come from."""

    def read(self, size: int) -> bytes:
        """Return about `size` bytes of UTF-8, b"" at the end."""


class Fault(NamedTuple):
    """Row `at` of its run cannot be used."""

    at: int
    reason: str


class _Run(NamedTuple):
    """Complete rows: row k ends at the newline `ends[k]` and starts in line `lines[k]`."""

    text: bytes
    ends: Int64s
    lines: Int64s
    loose: bool = False  # each line is a row, and quotes may not pair

    def rows(self) -> list[bytes]:
        """Return the text of each row, with its newline."""
        ends = (self.ends + 1).tolist()
        return [self.text[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]

    def by_lines(self) -> _Run:
        """Return the same text with one row for each line."""
        ends = _newlines(self.text)
        return _Run(self.text, ends, self.lines[0] + np.arange(len(ends)), loose=True)


class Rows(NamedTuple):
    """A run of rows.

    columns: by place, Arrow arrays of the wanted types, or of text if a cell has another form.
    They are null in a row of another width.
    """

    columns: Mapping[int, Any]
    lines: Int64s  # (m,)
    faults: Sequence[Fault]  # by rising `at`
    texts: Sequence[bytes] | _Run
    delimiter: str

    def cell(self, at: int, place: int) -> str:
        """Return the text of a cell, "" if the row does not have it."""
        texts = self.texts.rows() if isinstance(self.texts, _Run) else self.texts
        cells = cells_of(texts[at], self.delimiter)
        return cells[place] if place < len(cells) else ""


class TextRows:
    """Reads the rows of a source.

    types: Arrow types of the wanted columns, by place. missing: words that stand for no value,
    beside the usual ones. Attributes: `footer`, the texts of last lines that are not rows;
    `comments`, lines left out so far.

    Raises DataError for a row that is too long, and for damaged files.
    """

    def __init__(
        self,
        path: Path,
        source: Text,
        dialect: Dialect,
        types: Mapping[int, Any],
        *,
        missing: frozenset[str] = frozenset(),
        read_bytes: int = READ_BYTES,
    ) -> None:
        self._path, self._source, self._dialect = path, source, dialect
        self._types = dict(types) or {0: pa.binary()}
        self._read_bytes = read_bytes
        self._nulls = ([""], [*WORDS, *missing])
        floats = [dialect.columns[k] for k, kind in types.items() if kind == pa.float64()]
        signs = {column.decimal for column in floats if not column.percent} or {"."}
        plain = len(signs) == 1 and "" not in signs and not any(c.percent for c in floats)
        self._decimal = min(signs) if plain else ""
        self.footer: tuple[str, ...] = ()
        self.comments = 0

    def __iter__(self) -> Iterator[Rows]:
        held: list[_Run] = []
        for run in self._runs():
            held.append(run)
            # a footer is found however the file is cut
            while sum(len(run.lines) for run in held[1:]) > MAX_FOOTER:
                yield self._parse(held.pop(0))
        if held:
            yield self._without_footer(self._parse(_stripped(_joined(held))))

    def _runs(self) -> Iterator[_Run]:
        line, rest, skip = 1, b"", self._dialect.first_line - 1
        while data := self._source.read(self._read_bytes):
            rest += data
            while skip and b"\n" in rest:
                _, _, rest = rest.partition(b"\n")
                line, skip = line + 1, skip - 1
            if skip:
                continue
            ends, _ = _ends(rest)
            loose = len(rest) - _after(ends) > MAX_ROW_BYTES
            if loose:
                ends = _newlines(rest)
                if len(rest) - _after(ends) > MAX_ROW_BYTES:
                    line += len(ends)
                    raise DataError(
                        f"{self._path}, line {line} is longer than {MAX_ROW_BYTES} bytes: is this "
                        "a text file?"
                    )
            if len(ends):
                text, rest = rest[: _after(ends)], rest[_after(ends) :]
                yield _Run(text, ends, _starts(text, ends, line), loose)
                line += text.count(b"\n")
        if rest and not skip:
            rest = rest.removesuffix(b"\n") + b"\n"
            ends, open_ = _ends(rest)
            ends = _newlines(rest) if open_ else ends
            yield _Run(rest, ends, _starts(rest, ends, line), open_)

    def _parse(self, run: _Run) -> Rows:
        comments = b"#" in run.text and (run.text.startswith(b"#") or b"\n#" in run.text)
        if self._decimal and not run.loose and not (comments and self._dialect.comments):
            for nulls in self._nulls:
                try:
                    table = self._arrow(run.text, self._types, nulls)
                except pa.ArrowException:
                    continue
                if table.num_rows == len(run.lines):
                    columns = map(_whole, table.columns)
                    found = dict(zip(self._types, columns, strict=True))
                    return Rows(found, run.lines, (), run, self._dialect.delimiter)
                break
        return self._parse_texts(run)

    def _parse_texts(self, run: _Run) -> Rows:
        rows, kept, blanks = run.rows(), list[int](), BLANKS.encode()
        for k, row in enumerate(rows):
            comment = self._dialect.comments and row.startswith(b"#")
            if comment and is_row(self._dialect, row.decode("utf-8", "replace")):
                comment = False
            self.comments += comment
            if not comment and (row.strip(blanks) or self._dialect.width == 1):
                kept.append(k)
        # Arrow omits blank lines, which are missing cells of a single column
        rows, lines = (
            [rows[k] if rows[k].strip(blanks) else b'""\n' for k in kept],
            run.lines[kept],
        )
        wrong = {
            k: why for k, row in enumerate(rows) if run.loose and (why := self._unclosed(row))
        }
        sent = [k for k in range(len(rows)) if k not in wrong]
        invalid: list[Any] = []

        def skip(row: Any) -> str:
            invalid.append(row)
            return "skip"

        if not sent:
            columns = {k: pa.nulls(len(rows), pa.string()) for k in self._types}
            faults = [Fault(at, why) for at, why in sorted(wrong.items())]
            return Rows(columns, lines, faults, rows, self._dialect.delimiter)
        text = b"".join(rows[k] for k in sent)
        types = dict.fromkeys(self._types, pa.string())
        try:
            table = self._arrow(text, types, [""], skip, loose=run.loose)
            count = table.num_rows + len(invalid)
        except pa.ArrowException:
            count = -1
        if count != len(sent):
            if not run.loose or len(run.ends) != run.text.count(b"\n"):
                return self._parse_texts(run.by_lines())
            where = f"{self._path}, lines {lines[0]} to {lines[-1]}"
            raise DataError(f"{where}: not rows of a table")
        width, against = self._dialect.width, "header" if self._dialect.headed else "table"
        for row in invalid:
            reason = f"{row.actual_columns} fields, but the {against} has {width}"
            wrong[sent[row.number - 1]] = reason
        good = np.array([k for k in sent if k not in wrong], np.int64)
        columns = {
            place: _spread(_whole(column), good, len(rows))
            for place, column in zip(self._types, table.columns, strict=True)
        }
        faults = [Fault(at, why) for at, why in sorted(wrong.items())]
        return Rows(columns, lines, faults, rows, self._dialect.delimiter)

    def _unclosed(self, row: bytes) -> str:
        """Return why a line with quotes is not a row, "" if it is."""
        if b'"' not in row:
            return ""
        try:
            cells_of(row, self._dialect.delimiter, strict=True)
        except csv.Error as error:
            return f"not a row of a table: {error}"
        return ""

    def _without_footer(self, rows: Rows) -> Rows:
        """Return the last rows of a file without those at their end that are words."""
        count, faults = len(rows.lines), list(rows.faults)
        texts: list[str] = []
        while faults and faults[-1].at == count - 1 and faults[-1].reason[0].isdigit():
            cells = cells_of(rows.texts[count - 1], rows.delimiter)  # type: ignore[arg-type]
            filled = [cell for cell in cells if cell.strip()]
            worded = self._dialect.columns[0].kind != "text" or " " in "".join(filled)
            if not worded or len(cells) == self._dialect.width:
                break
            if any(value_kind(cell) != "text" for cell in filled):
                break
            texts.insert(0, rows.delimiter.join(filled))
            faults.pop()
            count -= 1
        if len(texts) > MAX_FOOTER or not texts:
            return rows
        self.footer = tuple(texts)
        columns = {place: column.slice(0, count) for place, column in rows.columns.items()}
        return Rows(columns, rows.lines[:count], tuple(faults), rows.texts, rows.delimiter)

    def _arrow(
        self,
        text: bytes,
        types: Mapping[int, Any],
        nulls: Sequence[str],
        on_invalid: Any = None,
        *,
        loose: bool = False,
    ) -> Any:
        types_ = {str(place): kind for place, kind in types.items()}
        return pa.csv.read_csv(
            pa.BufferReader(text),
            read_options=pa.csv.ReadOptions(
                use_threads=False,
                block_size=len(text) + 1,
                column_names=[str(place) for place in range(self._dialect.width)],
            ),
            parse_options=pa.csv.ParseOptions(
                delimiter=self._dialect.delimiter,
                newlines_in_values=b'"' in text and not loose,
                invalid_row_handler=on_invalid,
            ),
            convert_options=pa.csv.ConvertOptions(
                include_columns=list(types_),
                column_types=types_,
                # each word slows all cells, so the others are only tried when this fails
                null_values=nulls,
                decimal_point=self._decimal or ".",
            ),
        )


def cells_of(row: bytes, delimiter: str, *, strict: bool = False) -> list[str]:
    """Return the cells of the text of a row; csv.Error if `strict` and quotes do not fit."""
    text = row.decode("utf-8", "replace").rstrip("\r\n")
    return next(csv.reader(text.splitlines(keepends=True), delimiter=delimiter, strict=strict), [])


def numbers(
    cells: Any, column: Column, missing: frozenset[str]
) -> tuple[Any, list[tuple[int, str]]]:
    """Return the numbers in an array of text, null where missing, and (row, reason) of others."""
    if (simple := _simple(cells, column, missing)) is not None:
        return simple, []
    found: list[float | None] = []
    wrong: list[tuple[int, str]] = []
    for k, cell in enumerate(cells.to_pylist()):
        number = None
        if cell is not None and not is_missing(cell.strip(), missing):
            number, reason = number_in(cell, column), NOT_FINITE
            if number is None and not column.decimal:
                likely = (number_in(cell, column._replace(decimal=sign)) for sign in ".,")
                reason = AMBIGUOUS if all(one is not None for one in likely) else NOT_FINITE
            if number is None or not math.isfinite(number):
                number = None
                wrong.append((k, f"column {column.name!r}: {cell.strip()[:40]!r} {reason}"))
        found.append(number)
    return pa.array(found, pa.float64()), wrong


def _simple(cells: Any, column: Column, missing: frozenset[str]) -> Any:
    """Return the numbers if all cells are digits with one decimal sign, grouped or not."""
    compute, point = pa.compute, column.decimal
    if not point or column.percent:
        return None
    words = pa.array([*MISSING, *missing], pa.string())
    cells = compute.utf8_trim_whitespace(cells)
    lower = compute.is_in(compute.utf8_lower(cells), words[: len(MISSING)])
    cells = compute.if_else(compute.or_(lower, compute.is_in(cells, words)), None, cells)
    group = "." if point == "," else ","
    form = rf"^-?[$€£¥]?([0-9]+|[1-9][0-9]{{0,2}}([{group}][0-9]{{3}})+)([{point}][0-9]+)?$"
    if compute.all(compute.match_substring_regex(cells, form)).as_py() is False:
        return None
    cells = compute.replace_substring_regex(cells, f"[$€£¥{group}]", "")
    found = compute.replace_substring(cells, ",", ".").cast(pa.float64())
    return found if compute.all(compute.is_finite(found)).as_py() is not False else None


def _newlines(text: bytes) -> Int64s:
    return np.flatnonzero(np.frombuffer(text, np.uint8) == 10)


def _ends(text: bytes) -> tuple[Int64s, bool]:
    """Return the places of newlines outside quotes, and whether a quote is open at the end."""
    newlines = _newlines(text)
    if b'"' not in text:
        return newlines, False
    quotes = np.flatnonzero(np.frombuffer(text, np.uint8) == 34)
    return newlines[np.searchsorted(quotes, newlines) % 2 == 0], len(quotes) % 2 == 1


def _after(ends: Int64s) -> int:
    return int(ends[-1]) + 1 if len(ends) else 0


def _starts(text: bytes, ends: Int64s, line: int) -> Int64s:
    """Return the numbers of the lines at which the rows of a run start."""
    if b'"' not in text:
        return np.arange(line, line + len(ends))
    return line + np.append(0, np.searchsorted(_newlines(text), ends[:-1]) + 1)


def _joined(runs: Sequence[_Run]) -> _Run:
    starts = np.cumsum([0, *(len(run.text) for run in runs[:-1])]).tolist()
    return _Run(
        b"".join(run.text for run in runs),
        np.concatenate([run.ends + start for run, start in zip(runs, starts, strict=True)]),
        np.concatenate([run.lines for run in runs]),
        any(run.loose for run in runs),
    )


def _stripped(run: _Run) -> _Run:
    """Return the last run of a file without blank lines at its end."""
    size = len(run.text.rstrip(b"\r\n")) + 1
    count = int(np.searchsorted(run.ends, size - 1)) + 1
    text = run.text[: int(run.ends[count - 1]) + 1] if count <= len(run.ends) else run.text
    return _Run(text, run.ends[:count], run.lines[:count], run.loose)


def _whole(column: Any) -> Any:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _spread(column: Any, good: Int64s, count: int) -> Any:
    """Return a column with nulls for the rows that are not in it."""
    if len(good) == count:
        return column
    places = np.full(count, -1)
    places[good] = np.arange(len(good))
    return column.take(pa.array(places, mask=places < 0))
