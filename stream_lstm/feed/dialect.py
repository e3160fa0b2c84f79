"""How a table of text is written: its delimiter, its header, and the form of its numbers.

The first lines decide. A delimiter is good if most lines have the same number of fields, and most
fields are a number, a time or missing. Lines before the first of that width are a preamble. A line
whose cells all fit their columns is data, and never a header; a line of names has no number and no
time in it. Whatever fits two readings is refused, with the option that decides.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import DataError

SAMPLE_LINES = 1000
"""Lines at the start that show the columns; the first of them show the delimiter."""

DELIMITER_LINES = 200
AMBIGUOUS = 0.7
"""Score of a second delimiter, as a share of the best, from which on both are possible."""

OTHER_FIRST = 0.6
"""Factor of the score if the first line has another number of fields."""

MAX_LINES = 50
"""Lines of one row of the sample, with newlines in quotes."""

DELIMITERS = {",": "','", ";": "';'", "\t": "tabs", "|": "'|'"}
MISSING = (
    *("", "na", "n/a", "#n/a", "#na", "<na>", "nan", "-nan", "+nan", "null", "none", "nil"),
    *("-", "--", "?", ".", "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan"),
)
"""Cells without a value, in lower case."""

MAX_EXTRA = 3
"""Lines of a header behind its first, such as units."""

_PLAIN = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)
_POINT = re.compile(
    r"[-+]?[1-9]\d{0,2}(?:([,' \u00a0\u202f])\d{3})(?:\1\d{3})*(?:\.\d*)?", re.ASCII
)
_COMMA = re.compile(
    r"[-+]?(?:\d+|[1-9]\d{0,2}(?:([.' \u00a0\u202f])\d{3})(?:\1\d{3})*)(?:,\d+)?", re.ASCII
)
BLANKS = " \r\n"
"""What a blank line consists of; tabs alone are a row of empty cells."""

TYPED = ("number", "time")
_NAME = re.compile(r"[^,;|\t]{1,40}")
_SIGNS = re.compile(r"^([-+]?)[$€£¥]\s?|\s?[$€£¥]$")
_SCALES = {"K": "e3", "k": "e3", "M": "e6", "B": "e9"}
_CLOCK = r"\d{1,2}(?::?\d\d(?::?\d\d(?:[.,]?\d+)?)?)?(?: ?(?:Z|z|UTC|GMT|[-+]\d\d(?::?\d\d)?))?"
_TIME = re.compile(
    rf"(?:\d{{4}}([-/.])\d{{1,2}}\1\d{{1,2}}|\d{{1,2}}([-/.])\d{{1,2}}\2\d{{4}})(?:[T D]{_CLOCK})?"
    r"|\d{1,2}:\d\d(?::\d\d(?:[.,]\d+)?)?|\d{8} \d{6,9}",
    re.ASCII,
)


class Asked(NamedTuple):
    """What the user states about a table that cannot be sniffed, and a query over it."""

    delimiter: str = ""
    names: tuple[str, ...] = ()
    skip_lines: int = 0
    decimal: str = ""
    missing: tuple[str, ...] = ()
    sql: str = ""


class Column(NamedTuple):
    """A column; kind: number, time, text or empty. decimal: "." or ",", "" if it can be both."""

    name: str
    kind: str
    decimal: str = "."
    percent: bool = False  # each number has a percent sign


class Dialect(NamedTuple):
    """How to read a table; `first_line` is the line of its first row, counted from 1.

    `width` counts the fields of a row; a last one that is always empty is not in `columns`.
    """

    delimiter: str
    columns: tuple[Column, ...]
    width: int
    first_line: int
    notes: tuple[str, ...] = ()
    headed: bool = True
    comments: bool = True  # lines that begin with # are not rows


class _Row(NamedTuple):
    line: int
    cells: list[str]


def is_missing(cell: str, more: Sequence[str] | frozenset[str] = ()) -> bool:
    """Return whether a cell has no value."""
    return cell.lower() in MISSING or cell in more


def plain_number(cell: str, decimal: str) -> str | None:
    """Return a number as `float` reads it, exactly; None if the cell is not a number."""
    if decimal == "." and _PLAIN.fullmatch(cell):
        return cell
    text = _SIGNS.sub(r"\1", cell.strip())
    scale = _SCALES.get(text[-1:], "")
    text = text[:-1].rstrip() if scale else text
    form = _COMMA if decimal == "," else _POINT
    if decimal == "." and _PLAIN.fullmatch(text):
        return f"{text}{scale}" if not scale or "e" not in text.lower() else None
    if not form.fullmatch(text):
        return None
    kept = re.sub(r"[' \u00a0\u202f]", "", text)
    kept = kept.replace(".", "").replace(",", ".") if decimal == "," else kept.replace(",", "")
    return kept + scale


def number_in(cell: str, column: Column) -> float | None:
    """Return the number in a cell of a column, None if it is not one or can be two."""
    cell = cell.strip()
    if column.percent:
        cell = cell.removesuffix("%").rstrip() if cell.endswith("%") else "?"
    text = plain_number(cell, column.decimal or ".")
    if not column.decimal and text != plain_number(cell, ","):
        return None
    return None if text is None else float(text)


def value_kind(cell: str) -> str:
    """Return the kind of a cell: number, time or text."""
    number = cell[:-1].rstrip() if cell.endswith("%") else cell
    if plain_number(number, ".") is not None or plain_number(number, ",") is not None:
        return "number"
    return "time" if _TIME.fullmatch(cell.strip()) else "text"


def sniff(
    where: str, lines: Sequence[str], asked: Asked | None = None, *, header: bool | None = None
) -> Dialect:
    """Return the dialect of a table that begins with `lines`, complete and without newlines.

    where: the file, for messages. header: whether there is one, None to find out. Raises DataError
    for a table that can be read in two ways, with both readings and the option that decides.
    """
    asked = asked or Asked()
    kept = [
        (number, line.rstrip("\r"))
        for number, line in enumerate(lines[: asked.skip_lines + SAMPLE_LINES], 1)
        if number > asked.skip_lines and line.strip(BLANKS)
    ]
    if kept:
        kept[0] = kept[0][0], kept[0][1].removeprefix("\ufeff")
    comments = [item for item in kept if item[1].startswith("#")]
    rest = [item for item in kept if not item[1].startswith("#")]
    in_cells = header is not None or len(comments) > len(rest) > 0
    if in_cells:
        rest, comments = kept, []
    if not rest:
        raise DataError(f"{where} is empty")
    delimiter, rows, width = _best(where, rest, asked)
    dialect = _table(where, delimiter, rows, width, asked, header, comments)
    signed = [item for item in comments if is_row(dialect, item[1])]
    if signed:
        comments = [item for item in comments if item not in signed]
        rows = _rows(sorted([*rest, *signed]), delimiter)
        dialect = _table(where, delimiter, rows, width, asked, header, comments)
    return dialect._replace(comments=not in_cells)


def is_row(dialect: Dialect, line: str) -> bool:
    """Return whether a line that begins with # is a row: it fits, also with that sign or #N/A."""
    cells = [cell.strip() for cell in next(csv.reader([line], delimiter=dialect.delimiter), [])]
    return len(cells) == dialect.width and all(
        column.kind not in TYPED or is_missing(cell) or value_kind(cell) == column.kind
        for cell, column in zip(cells, dialect.columns, strict=False)
    )


def _rows(kept: Sequence[tuple[int, str]], delimiter: str) -> list[_Row]:
    texts, rows, k = [f"{text}\n" for _, text in kept], [], 0
    while k < len(texts):
        part = texts[k : k + MAX_LINES] if '"' in texts[k] else texts[k : k + 1]
        reader = csv.reader(part, delimiter=delimiter, strict=True)
        try:
            cells = next(reader)
        except csv.Error:  # a quote that is not closed does not take the lines after it along
            reader = csv.reader(texts[k : k + 1], delimiter=delimiter)
            cells = next(reader)
        rows.append(_Row(kept[k][0], [cell.strip() for cell in cells]))
        k += reader.line_num
    return rows


def _best(
    where: str, kept: Sequence[tuple[int, str]], asked: Asked
) -> tuple[str, list[_Row], int]:
    """Return the delimiter, the rows it makes, and their width."""
    found = []
    for delimiter in [asked.delimiter] if asked.delimiter else DELIMITERS:
        rows = _rows(kept[:DELIMITER_LINES], delimiter)
        counts = Counter(len(row.cells) for row in rows if len(row.cells) > 1)
        width = max(counts, key=lambda w: (counts[w], w), default=1)
        body = [row.cells for row in rows if len(row.cells) == width]
        cells = [cell for row in body for cell in row]
        typed = sum(
            is_missing(cell, asked.missing) or value_kind(cell) != "text" for cell in cells
        )
        share = len(body) / len(rows)
        if width > 1 and (share > 0.5 or (share == 0.5 and delimiter == ",") or asked.delimiter):
            first = 1.0 if len(rows[0].cells) == width else OTHER_FIRST
            found.append((first * share**2 * (0.1 + typed / len(cells)), delimiter, width))
    if not found:
        return _of_blanks(where, kept, asked) or (",", _rows(kept, ","), 1)
    found.sort(key=lambda item: -item[0])
    if len(found) > 1 and found[1][0] > AMBIGUOUS * found[0][0]:
        one, two = (DELIMITERS[item[1]] for item in found[:2])
        raise DataError(f"{where}: fields are separated by {one} or {two}: use --delimiter")
    return found[0][1], _rows(kept, found[0][1]), found[0][2]


def _of_blanks(
    where: str, kept: Sequence[tuple[int, str]], asked: Asked
) -> tuple[str, list[_Row], int] | None:
    """Return a table with blanks between all of its names and fields, None if it is not one."""
    rows = [_Row(number, line.split()) for number, line in kept]
    widths = {len(row.cells) for row in rows}
    cells = [cell for row in rows[1:] for cell in row.cells]
    typed = sum(is_missing(cell, asked.missing) or value_kind(cell) != "text" for cell in cells)
    named = all(value_kind(cell) == "text" for cell in rows[0].cells)
    if len(widths) > 1 or widths == {1} or 2 * typed < len(cells) or not cells:
        return None
    several = any("  " in line or line != line.strip() for _, line in kept)
    if not named and not (several and max(widths) > 2):  # a date and its clock are one field
        return None
    if several:
        raise DataError(
            f"{where}: several blanks separate the fields: replace them by commas, for example "
            "with sed 's/^ *//; s/  */,/g' FILE > NEW.csv"
        )
    return " ", rows, widths.pop()


def _table(
    where: str,
    delimiter: str,
    rows: list[_Row],
    width: int,
    asked: Asked,
    header: bool | None,
    comments: Sequence[tuple[int, str]],
) -> Dialect:
    notes = []
    start = next(k for k, row in enumerate(rows) if len(row.cells) == width)
    if width == 1 and start:
        raise DataError(
            f"{where}, line {rows[0].line}: {len(rows[0].cells)} fields, but most lines have one: "
            f"use --delimiter, or --skip-lines {rows[start].line - 1}"
        )
    body = [row for row in rows[start:] if len(row.cells) == width]
    columns = _columns(body[1:] or body, width, asked)
    is_data = not header if header is not None else _is_data(body[0].cells, columns, asked)
    next_to = start > 0 and rows[start - 1].line + 1 == rows[start].line
    before = rows[start - 1].cells if next_to else []
    first, last, names = rows[start].line, 0, list[str]()
    if is_data and header is None:
        columns = _columns(body, width, asked)
    if is_data and len(before) == width - 1 > 0 and all(value_kind(c) == "text" for c in before):
        if width == 2:
            raise DataError(
                f"{where}, line {rows[start - 1].line}: {before[0]!r} is one name, but the lines "
                f"after it have two fields; unless it is a header, use --skip-lines "
                f"{rows[start - 1].line}, and --names for names"
            )
        first = rows[start - 1].line
        if columns[-1].kind == "empty":
            names = [*before, ""]
        else:
            names = ["row", *before]
            notes.append("the header has one name less than the rows: the first column is 'row'")
    elif not is_data:
        lines = 1 if header else _header_lines(body, columns, asked)
        # titles that fill their line with delimiters come before the names
        at = max(range(lines), key=lambda k: (sum(map(bool, body[k].cells)), -k))
        first, names = body[at].line, body[at].cells
        names[0] = names[0].lstrip("# ") if header is None else names[0]
        if header is None and not asked.names:
            _check_names(where, body[at], columns, asked)
        if at + 1 < lines:
            notes.append(f"lines {first + 1} to {body[lines - 1].line} continue the header")
        last, body = body[lines - 1].line, body[lines:]
    elif named := _named_by(comments, body[0].line, delimiter, width):
        names = named
        notes.append(f"the names are those of the comment before line {body[0].line}")
    if first > rows[0].line:
        notes.append(f"lines before line {first} are not part of the table")
    if not body:
        shown = ", ".join(names)[:80]
        raise DataError(f"{where} has a header and no rows (it has {shown})")
    headed = bool(names)
    # a row of another width behind the header is a bad row
    after = next(row.line for row in rows[start:] if row.line > last)
    trailing = width > 1 and columns[-1].kind == "empty" and not (names and names[-1])
    if asked.names:
        if len(asked.names) != width - trailing and len(asked.names) != width:
            raise DataError(f"{where} has {width} columns, but --names has {len(asked.names)}")
        if names:
            notes.append(f"--names replaces the header ({', '.join(names)[:80]})")
        trailing = len(asked.names) < width
        names = [*asked.names, ""][:width]
    elif not names:
        notes.append("no header: the columns are c0, c1, ...; --names gives them names")
        trailing = False
    named_columns = tuple(
        column._replace(name=name or f"c{k}")
        for k, (column, name) in enumerate(zip(columns, names or [""] * width, strict=True))
    )
    shares = [column.name for column in named_columns if column.percent]
    if shares:
        notes.append(f"numbers in percent are read without the sign: {', '.join(shares)}")
    if trailing:
        named_columns = named_columns[:-1]
    return Dialect(delimiter, named_columns, width, after, tuple(notes), headed)


def _named_by(
    comments: Sequence[tuple[int, str]], line: int, delimiter: str, width: int
) -> list[str]:
    """Return the names in the comment directly before the first row, [] without."""
    for number, text in comments:
        cells = next(csv.reader([text.lstrip("# ")], delimiter=delimiter), [])
        names = [cell.strip() for cell in cells]
        if number == line - 1 and len(names) == width and width > 1:
            return (
                names if all(value_kind(n) == "text" and _NAME.fullmatch(n) for n in names) else []
            )
    return []


def _check_names(where: str, row: _Row, columns: Sequence[Column], asked: Asked) -> None:
    typed = [c for c, column in zip(row.cells, columns, strict=True) if column.kind in TYPED]
    if typed and all(is_missing(cell, asked.missing) for cell in typed):
        raise DataError(
            f"{where}, line {row.line} has no name for a column of numbers or times: use --names "
            f"if it is a row, and --skip-lines {row.line} too if it is a header"
        )
    if sum(map(bool, row.cells)) == 1 < len(row.cells) - 1:
        raise DataError(
            f"{where}, line {row.line} has one name for {len(row.cells)} columns: use "
            f"--skip-lines {row.line} if it is a title"
        )
    for cell in row.cells:
        if not is_missing(cell, asked.missing) and (kind := value_kind(cell)) != "text":
            raise DataError(
                f"{where}, line {row.line}: {cell!r} is a {kind} and cannot be the name of a "
                f"column, and the line does not fit the columns; use --skip-lines {row.line} "
                "and --names"
            )


def _columns(rows: Sequence[_Row], width: int, asked: Asked) -> list[Column]:
    cells = [[row.cells[k] for row in rows] for k in range(width)]
    known = [[c for c in column if not is_missing(c, asked.missing)] for column in cells]
    kinds = [Counter(map(value_kind, column)).most_common(1) for column in known]
    percent = [bool(column) and all(c.endswith("%") for c in column) for column in known]
    bare = [[c.rstrip("% ") for c in column] for column in known]
    votes = [asked.decimal or _decimal(column) for column in bare]
    sure = {vote for vote in votes if vote in (".", ",")}
    commas = ",?" in votes
    columns: list[Column] = []
    for kind, vote, share in zip(kinds, votes, percent, strict=True):
        name = kind[0][0] if kind else "empty"
        sign = vote
        if vote.endswith("?"):
            sign = min(sure) if len(sure) == 1 else "" if commas or sure else "."
        columns.append(Column("", name, sign or ("" if vote else "."), share))
    return columns


def _decimal(cells: Sequence[str]) -> str:
    """Return the decimal sign of a column; "," or "." in front of "?" is in what can be both."""
    votes = {vote for cell in cells if (vote := _vote(cell))}
    sure = votes & {".", ","}
    if sure:
        return "," if sure == {","} else "."
    return ",?" if ",?" in votes else ".?" if votes else ""


def _vote(cell: str) -> str:
    if cell.isdecimal():
        return ""
    point, comma = plain_number(cell, "."), plain_number(cell, ",")
    if point == comma:
        return ""
    if point is None or comma is None:
        return "," if point is None else "."
    return ",?" if "," in cell else ".?"


def _is_data(cells: Sequence[str], columns: Sequence[Column], asked: Asked) -> bool:
    """Return whether every cell fits, and one is a number or a time or all are missing."""
    pairs = [
        (cell, column)
        for cell, column in zip(cells, columns, strict=True)
        if not is_missing(cell, asked.missing)
    ]
    fits = all(
        column.kind in ("text", "empty") or value_kind(cell) == column.kind
        for cell, column in pairs
    )
    return fits and (not pairs or any(value_kind(cell) != "text" for cell, _ in pairs))


def _header_lines(body: Sequence[_Row], columns: Sequence[Column], asked: Asked) -> int:
    """Return the number of lines of a header: after the first, those without any value."""
    for lines in range(1, min(MAX_EXTRA + 1, len(body))):
        typed = [
            value_kind(cell) == column.kind
            for cell, column in zip(body[lines].cells, columns, strict=True)
            if column.kind in TYPED and not is_missing(cell, asked.missing)
        ]
        if not typed or any(typed):
            return lines
    return min(MAX_EXTRA + 1, len(body))
