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

SEPARATORS = {",": "','", "\t": "tabs", ";": "';'", "|": "'|'"}
"""What tables are separated by, in words; of these `,` and tab are read."""


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
        cells = next(csv.reader([head.decode().rstrip("\r")], delimiter=delimiter, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: the header is not readable: {error}") from None
    names = tuple(cell.strip() for cell in cells)
    if all(map(is_number, names)):
        message = "holds numbers, but the first line must name the columns: add such a line"
        raise DataError(f"{path}: the header {message}")
    return names


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
            check_separator(path, names, delimiter)
        raise


def check_separator(path: Path, names: Sequence[str], delimiter: str) -> None:
    """Raise DataError where a header seems to be separated by something else."""
    if fault := _separated(names, delimiter):
        raise DataError(f"{path}: {fault}")


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
    held = [f"{n!r} {cell[:40]!r}{rewritten(cell)}" for n, cell in zip(names, row, strict=False)]
    return f"{path} has no column of numbers" + (f"; it holds {', '.join(held)}" if held else "")


def is_number(text: str) -> bool:
    """Return whether a cell holds a number, finite or not."""
    try:
        float(text)
    except ValueError:
        return False
    return True
