"""The first line of a text table: its names, and what a line that names nothing looks like.

A file that another program wrote is often one step away from what is read here: separated by
something else, without names, in another encoding. Each is told apart, so that the message can
say the step.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import ConfigurationError, DataError
from .reader import check_names, rewritten
from .times import TimeColumn

SEPARATORS = {",": "','", "\t": "tabs", ";": "';'", "|": "'|'"}
"""What tables are separated by, in words; of these `,` and tab are read."""

MOST_NAMES = 10
"""Columns that are told of where none holds numbers."""


def header(
    path: Path, chunks: Iterator[bytes], delimiter: str
) -> tuple[tuple[str, ...], bytes, int]:
    """Return the names, what follows their line in its run, and the number of the next line."""
    line = 1
    for chunk in chunks:
        body = chunk.removeprefix(b"\xef\xbb\xbf") if line == 1 else chunk
        while body:
            head, _, body = body.partition(b"\n")
            line += 1
            if head.strip():
                return _names(path, head, delimiter), body, line
    raise DataError(f"{path} is empty; its first line must name the columns")


def _names(path: Path, head: bytes, delimiter: str) -> tuple[str, ...]:
    try:
        cells = next(csv.reader([_text(head)], delimiter=delimiter, strict=True))
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path}: the header is not readable: {error}") from None
    names = tuple(cell.strip() for cell in cells)
    if all(map(is_number, names)):
        raise _without_header(path, names)
    return names


def _text(head: bytes) -> str:
    """Decode the first line; ValueError says how to convert what is not UTF-8."""
    wide = b"\0" in head or head.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        if not wide:
            return head.decode().rstrip("\r")
    except UnicodeDecodeError:
        pass
    encoding, what = ("UTF-16", "but UTF-16") if wide else ("CP1252", "but Latin-1, perhaps")
    raise ValueError(
        f"it is not UTF-8, {what}; convert it with iconv -f {encoding} -t UTF-8 FILE > NEW.csv"
    )


def check_header(
    path: Path,
    names: Sequence[str],
    delimiter: str,
    wanted: Sequence[str],
    time: str | None,
    key: str | None,
) -> None:
    """Check names as `check_names` does; a line without any of them may be no header of ours."""
    try:
        check_names(path, names, wanted, time, key)
    except ConfigurationError:
        if {*wanted, time, key}.isdisjoint(names):
            check_foreign(path, names, delimiter)
        raise


def check_foreign(path: Path, names: Sequence[str], delimiter: str) -> None:
    """Raise DataError for a first line that seems to be no header, or separated otherwise."""
    if fault := _separated(names, delimiter):
        raise DataError(f"{path}: {fault}")
    if 2 * sum(map(_is_datum, names)) > len(names):
        raise _without_header(path, names)


def check_labelled(path: Path, names: Sequence[str]) -> None:
    """Raise DataError where most of the names are data, and not all of these whole numbers.

    Names such as 2019 and 2020 are of a table of years.
    """
    data = [name for name in names if _is_datum(name)]
    if 2 * len(data) > len(names) and not all(name.isdecimal() for name in data):
        raise _without_header(path, names)


def _without_header(path: Path, names: Sequence[str]) -> DataError:
    shown = ", ".join(repr(name[:40]) for name in names[:4]) + (", ..." if len(names) > 4 else "")
    return DataError(
        f"{path}: the first line looks like data ({shown}), but it must name the columns: add "
        "such a line"
    )


def _is_datum(text: str) -> bool:
    """Return whether a cell holds a number or a time."""
    try:
        TimeColumn("iso").settle(text)
    except ValueError:
        return is_number(text)
    return True


def _separated(names: Sequence[str], delimiter: str) -> str:
    """Return how to convert a header that is separated by something else, "" if it is not."""
    line = delimiter.join(names)
    counts = {other: line.count(other) for other in SEPARATORS if other != delimiter}
    other = max(counts, key=counts.__getitem__)
    if counts[other] < len(names):
        return ""
    shown = SEPARATORS[other]
    if other in ",\t":
        suffix = "tsv" if other == "\t" else "csv"
        return f"its fields seem to be separated by {shown}: call the file .{suffix}"
    code = "import csv, sys; csv.writer(sys.stdout).writerows(csv.reader(sys.stdin, delimiter="
    return (
        f"its fields seem to be separated by {shown}; only ',' is read, and tabs in .tsv: "
        f'convert it with python -c "{code}{shown}))" < FILE > NEW.csv'
    )


def no_numbers(path: Path, names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return that no column holds numbers, and what each holds instead in the first whole row."""
    row: Sequence[str] = next((row for row in rows if len(row) == len(names)), ())
    held = []
    for name, cell in zip(names, row, strict=False):
        hint = rewritten(cell).removeprefix("; ")
        held.append(f"{name!r} holds {cell[:40]!r}" + (f" ({hint})" if hint else ""))
    return "; ".join([f"{path} has no column of numbers", *held[:MOST_NAMES]])


def is_number(text: str) -> bool:
    """Return whether a cell holds a number, finite or not."""
    try:
        float(text)
    except ValueError:
        return False
    return True
