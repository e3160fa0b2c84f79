"""What the readers of all file formats share.

A reader opens its file, determines the wanted columns, and gives runs of rows in file order. It
marks rows that cannot be used, with the reason; `files` decides what happens to them.

Also here: whether a path is a regular file (a pipe or a device would block or feed the reader),
the stream of each row if a column names it, and the header of a text table. A file of another
program is often one step away from what is read here: it has another separator, no header, or
another encoding. Each case is detected, so that the message can name the step.
"""

from __future__ import annotations

import csv
import re
import stat
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..closing import Closing
from ..config import nearest
from ..core.trees import Column
from ..errors import ConfigurationError, DataError, InputMissingError, OutputError
from ..schema import TimeUnit
from ..typing import Bools, Float64s, Int64s
from .protocol import check_name
from .times import TimeColumn

KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def other_kind(path: Path) -> str:
    """Return what a path is that is not a regular file; "" for a regular or missing one."""
    try:
        return KINDS.get(stat.S_IFMT(path.stat().st_mode), "")
    except (OSError, ValueError):
        return ""


def check_plain(path: Path, *, directories: bool = True) -> None:
    """Raise InputMissingError unless a path is a regular file; call it before opening.

    directories: reject them here too, instead of leaving that to the code that opens the file.
    """
    kind = other_kind(path)
    if kind and (directories or not path.is_dir()):
        raise InputMissingError(f"{path} is {kind}; name a file")


MAX_FAULTS = 131_072
"""Names in the cache of `fault`: more than streams can be, and each is in many blocks."""


class Keys(NamedTuple):
    """The streams of some rows: row k is of stream `names[codes[k]]`; code -1 has no stream."""

    names: tuple[str, ...]
    codes: Int64s

    def some(self, which: Any) -> Keys:
        """Return the keys of some of the rows."""
        return Keys(self.names, self.codes[which])

    def used(self) -> list[int]:
        """Return the indices of names that occur, in the order of their first rows."""
        codes, firsts = np.unique(self.codes, return_index=True)
        return [int(code) for code in codes[np.argsort(firsts)]]

    def runs(self) -> list[tuple[str, int, int]]:
        """Return (name, start, stop) for consecutive rows of one stream."""
        edges = (np.flatnonzero(np.diff(self.codes)) + 1).tolist()
        starts, stops = [0, *edges], [*edges, len(self.codes)]
        names = (self.names[code] for code in self.codes[starts])
        return list(zip(names, starts, stops, strict=True))


def keys_of(column: Any) -> Keys:
    """Return the keys in an Arrow array, numbers as their text; invalid names have code -1."""
    import pyarrow as pa  # here, since modules that only check a path import this one

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    encoded = column.cast(pa.string()).dictionary_encode()
    names = tuple(encoded.dictionary.to_pylist())
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    bad = [k for k, name in enumerate(names) if fault(name)]
    if bad:
        codes[np.isin(codes, bad)] = -1
    return Keys(names, codes)


def keys_from(names: Sequence[str]) -> Keys:
    """Return the keys of rows with these valid names."""
    known: dict[str, int] = {}
    codes = [known.setdefault(name, len(known)) for name in names]
    return Keys(tuple(known), np.array(codes, np.int64))


@lru_cache(maxsize=MAX_FAULTS)
def fault(name: str | None) -> str:
    """Return why a stream cannot have this name, "" if it can."""
    try:
        check_name(name or "")
    except ValueError as error:
        return str(error)
    return ""


class BadRow(NamedTuple):
    """Row `at` of its run, counted from 0, cannot be used."""

    at: int
    reason: str


class RawRows(NamedTuple):
    """A run of rows of a file, in order; the content of bad ones is undefined."""

    t_ns: Int64s  # (m,)
    values: Float64s  # (m, C), C-contiguous
    rows: Int64s  # (m,), their line or row numbers in the file, from 1
    bad: Sequence[BadRow]  # by rising `at`
    keys: Keys | None = None  # if a column names the streams


CHUNK_ROWS = 65536
"""Ticks of one block: enough to hide the cost of a block, and a few megabytes."""


class Selection(NamedTuple):
    """What to read of a file; see `files.open_file`."""

    columns: Sequence[str] | None = None
    time: str | None = None
    time_unit: TimeUnit = "auto"
    chunk_rows: int = CHUNK_ROWS
    optional: Sequence[str] = ()
    key: str | None = None

    def check(self, path: Path, columns: Sequence[str]) -> None:
        """Check that a file's `columns` contain each selected one once, and the key no numbers.

        Raises ConfigurationError for a missing name, DataError for a repeated one.
        """
        wanted = self.columns or ()
        unknown = [name for name in self.optional if name not in columns]
        check_names(path, columns, (*wanted, *unknown), self.time, self.key)
        if self.key is not None and (self.key in wanted or self.key == self.time):
            raise ConfigurationError(
                f"{path}: the column {self.key!r} names the streams, and cannot be a time or a "
                "feature too",
                key="stream_column",
            )

    def value_columns(
        self, path: Path, columns: Sequence[str], numeric: Sequence[str]
    ) -> tuple[str, ...]:
        """Return the selected columns, or by default the `numeric` ones without the time.

        Raises DataError if none is left, or the name of one is repeated.
        """
        if self.columns is not None:
            return tuple(self.columns)
        found = tuple(name for name in numeric if name != self.time)
        if not found:
            raise DataError(f"{path} has no column of numbers")
        check_names(path, columns, found, self.time)
        return found


class Reader(Closing):
    """One open file; a subclass sets `columns` and `value_columns`, and defines the rest.

    `columns` are all names in the file, `value_columns` those of `RawRows.values`; `bytes_total`
    is the size of the file.
    """

    row_word: str
    """What `RawRows.rows` counts: "line" or "row"."""
    columns: tuple[str, ...]
    value_columns: tuple[str, ...]

    def __init__(self, path: Path, selection: Selection) -> None:
        self.path = path
        self.selection = selection
        self.bytes_total = path.stat().st_size

    @property
    def bytes_read(self) -> int:
        """Bytes of the file that have been read, estimated for some formats."""
        raise NotImplementedError

    def chunks(self) -> Iterator[RawRows]:
        """Give the rows; raise DataError for a damaged file."""
        raise NotImplementedError

    def of(self, rows: RawRows, at: int) -> Reader:  # noqa: ARG002 - here all are of one file
        """Return the reader of the file that contains row `at` of a run, for messages."""
        return self


def check_readable(path: Path) -> None:
    """Raise InputMissingError for a missing file, OutputError for one that cannot be read."""
    check_plain(path)
    try:
        path.open("rb").close()
    except FileNotFoundError:
        raise InputMissingError(f"no such file: {path}{_neighbour(path)}") from None
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror}") from None


def _neighbour(path: Path) -> str:
    try:
        return nearest(path.name, (other.name for other in path.parent.iterdir()))
    except OSError:
        return ""


def check_names(
    path: Path,
    columns: Sequence[str],
    wanted: Sequence[str],
    time: str | None,
    key: str | None = None,
) -> None:
    """Check that `columns` contain the `wanted` ones, the `time` and the `key` column, each once.

    Raises ConfigurationError for a missing name, DataError for a repeated one.
    """
    single = {"time": time, "stream_column": key}
    asked = {kind: (name,) for kind, name in single.items() if name is not None}
    for setting, names in {"features": wanted, **asked}.items():
        for name in names:
            if name not in columns:
                known = ", ".join(columns)
                odd = [one for one in columns if name in one and not one.isidentifier()]
                hint = f"; write {Column(odd[0])} in double quotes" if odd else ""
                hint = hint if setting == "features" and hint else nearest(name, columns)
                message = f"{path} has no column {name!r}{hint} (it has {known})"
                raise ConfigurationError(message, key=setting)
            if columns.count(name) > 1:
                raise DataError(f"{path} has more than one column {name!r}; rename one of them")


def usable(values: Float64s, names: Sequence[str], optional: Sequence[str]) -> Bools:
    """Return which rows of values (m, C) can be used, (m,): all are finite, or may be missing."""
    good = np.isfinite(values)
    for k, name in enumerate(names):
        if name in optional:
            good[:, k] |= np.isnan(values[:, k])
    return np.asarray(good.all(axis=1))


NOT_FINITE = "is not a finite number"
WRITE = ": write "
"""In the reason for a number in a form that is not read."""

_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:([,' \u00a0\u202f])\d{3})(?:\1\d{3})*(\.\d*)?")
_DECIMAL_COMMA = re.compile(r"[-+]?(?:\d+|\d{1,3}(?:[.' \u00a0\u202f]\d{3})+),\d+")


def not_finite(column: str, text: str) -> str:
    """Return why a cell cannot be used."""
    text = text.strip()
    if not text:
        return f"column {column!r} is empty"
    return f"column {column!r}: {text[:40]!r} {NOT_FINITE}{rewritten(text[:40])}"


def rewritten(text: str) -> str:
    """Return how to write a number with thousands separators or a decimal comma, else ""."""
    thousands = _THOUSANDS.fullmatch(text)
    if _DECIMAL_COMMA.fullmatch(text):
        whole, _, part = text.partition(",")
        plain = f"{re.sub(r'[^-+0-9]', '', whole)}.{part}"
        if thousands:
            return f"; with a comma it is ambiguous{WRITE}{text.replace(',', '')} or {plain}"
        return f"; it has a decimal comma{WRITE}{plain}"
    if thousands:
        plain = re.sub(r"[^-+.0-9]", "", text)
        return f"; it has a thousands separator{WRITE}{plain}"
    return ""


SEPARATORS = {",": "','", "\t": "tabs", ";": "';'", "|": "'|'"}
"""Separators of tables, in words; `,` and tab are read."""

MAX_NAMES = 10
"""Columns in the message that none contains numbers."""


def header(
    path: Path, chunks: Iterator[bytes], delimiter: str
) -> tuple[tuple[str, ...], bytes, int]:
    """Return the names, the rest of the first run, and the number of the next line."""
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
        raise DataError(f"{path}: the header cannot be read: {error}") from None
    names = tuple(cell.strip() for cell in cells)
    if all(map(is_number, names)):
        raise _without_header(path, names)
    return names


def _text(head: bytes) -> str:
    """Decode the first line; ValueError says how to convert other encodings than UTF-8."""
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


def check_header(path: Path, names: Sequence[str], delimiter: str, selection: Selection) -> None:
    """Check a header as `Selection.check` does, and whether a foreign line is a header at all."""
    try:
        selection.check(path, names)
    except ConfigurationError:
        if {*(selection.columns or ()), selection.time, selection.key}.isdisjoint(names):
            check_foreign(path, names, delimiter)
        raise


def check_foreign(path: Path, names: Sequence[str], delimiter: str) -> None:
    """Raise DataError for a first line that looks like data or has another separator."""
    if fault := _separated(names, delimiter):
        raise DataError(f"{path}: {fault}")
    if 2 * sum(map(_is_datum, names)) > len(names):
        raise _without_header(path, names)


def check_labelled(path: Path, names: Sequence[str]) -> None:
    """Raise DataError if most names are data, unless all of these are whole numbers.

    A table of years has names such as 2019 and 2020.
    """
    data = [name for name in names if _is_datum(name)]
    if 2 * len(data) > len(names) and not all(name.isdecimal() for name in data):
        raise _without_header(path, names)


def _without_header(path: Path, names: Sequence[str]) -> DataError:
    shown = ", ".join(repr(name[:40]) for name in names[:4]) + (", ..." if len(names) > 4 else "")
    return DataError(
        f"{path}: the first line looks like data ({shown}), but it must name the columns: add a "
        "header"
    )


def _is_datum(text: str) -> bool:
    """Return whether a cell contains a number or a time."""
    try:
        TimeColumn("iso").settle(text)
    except ValueError:
        return is_number(text)
    return True


def _separated(names: Sequence[str], delimiter: str) -> str:
    """Return how to convert a file with another separator, "" if the header has ours."""
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
    """Return a message with the first complete row of a file without a column of numbers."""
    row: Sequence[str] = next((row for row in rows if len(row) == len(names)), ())
    cells = []
    for name, cell in zip(names, row, strict=False):
        hint = rewritten(cell).removeprefix("; ")
        cells.append(f"{name!r} is {cell[:40]!r}" + (f" ({hint})" if hint else ""))
    return "; ".join([f"{path} has no column of numbers", *cells[:MAX_NAMES]])


def is_number(text: str) -> bool:
    """Return whether a cell contains a number, finite or not."""
    try:
        float(text)
    except ValueError:
        return False
    return True
