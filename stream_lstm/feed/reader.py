"""What every reader of one file format gives, whatever the format.

A reader opens its file, settles which columns are wanted, and gives runs of rows in file order.
It marks the rows that cannot be used and says why; what to do about them is for `files` to
decide, once for all formats.

Whether a path is a plain file: a pipe or a device would hold up or feed what opens it.

Which stream each row of a file is of, where a column says so.

The first line of a text table: its names, and what a line that names nothing looks like.

A file that another program wrote is often one step away from what is read here: separated by
something else, without names, in another encoding. Each is told apart, so that the message can
say the step.
"""

from __future__ import annotations

import csv
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ..config import nearest
from ..errors import ConfigurationError, DataError, InputMissingError, OutputError
from .records import check_name
from .times import TimeColumn

KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def other_kind(path: Path) -> str:
    """Return what a path is that is no plain file, "" for one that is, or that is not there."""
    try:
        return KINDS.get(stat.S_IFMT(path.stat().st_mode), "")
    except (OSError, ValueError):
        return ""


def check_plain(path: Path, *, directories: bool = True) -> None:
    """Raise InputMissingError for what is no plain file; called before it is opened.

    directories: they are refused too, and not left to what opens the file.
    """
    kind = other_kind(path)
    if kind and (directories or not path.is_dir()):
        raise InputMissingError(f"{path} is {kind}; name a file")


FAULTS = 131_072
"""Names whose faults are remembered: more than streams can be, and each comes in many blocks."""


class Keys(NamedTuple):
    """The streams of some rows: row k is of stream `names[codes[k]]`; a code is -1 for none."""

    names: tuple[str, ...]
    codes: npt.NDArray[np.int64]

    def some(self, which: Any) -> Keys:
        """Return those of some of the rows."""
        return Keys(self.names, self.codes[which])

    def used(self) -> list[int]:
        """Return the places in `names` that a row has, in the order in which they come first."""
        codes, firsts = np.unique(self.codes, return_index=True)
        return [int(code) for code in codes[np.argsort(firsts)]]

    def runs(self) -> list[tuple[str, int, int]]:
        """Return (name, start, stop) for rows in a row of one stream."""
        edges = (np.flatnonzero(np.diff(self.codes)) + 1).tolist()
        starts, stops = [0, *edges], [*edges, len(self.codes)]
        names = (self.names[code] for code in self.codes[starts])
        return list(zip(names, starts, stops, strict=True))


def keys_of(column: Any) -> Keys:
    """Return the keys in an Arrow array: text as it is, numbers as they are written.

    Names that no stream can have count as none; see `fault`.
    """
    import pyarrow as pa  # only a file of many streams needs it

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
    """Return the keys of rows with these names, each one that a stream can have."""
    known: dict[str, int] = {}
    codes = [known.setdefault(name, len(known)) for name in names]
    return Keys(tuple(known), np.array(codes, np.int64))


@lru_cache(maxsize=FAULTS)
def fault(name: str | None) -> str:
    """Return why no stream can be called so, "" where one can."""
    try:
        check_name(name or "")
    except ValueError as error:
        return str(error)
    return ""


def check_key(path: Any, key: str | None, columns: Sequence[str], time: str | None) -> None:
    """Raise ConfigurationError where the column of names is one of numbers that is used."""
    if key is not None and (key in columns or key == time):
        raise ConfigurationError(
            f"{path}: the column {key!r} names the streams, and cannot be a time or a feature too",
            key="stream_column",
        )


class BadRow(NamedTuple):
    """Row `at` of its run, counted from 0, cannot be used."""

    at: int
    reason: str


class RawRows(NamedTuple):
    """A run of rows of a file, in order; the bad ones hold anything."""

    t_ns: npt.NDArray[np.int64]  # (m,)
    values: npt.NDArray[np.float64]  # (m, C), C-contiguous
    rows: npt.NDArray[np.int64]  # (m,), their line or row numbers in the file, from 1
    bad: Sequence[BadRow]  # by rising `at`
    keys: Keys | None = None  # where a column names the streams


class Reader(Protocol):
    """One open file."""

    columns: tuple[str, ...]
    """All names in the file."""
    value_columns: tuple[str, ...]
    """The names of the columns of `RawRows.values`."""
    row_word: str
    """What the numbers in `RawRows.rows` count: "line" or "row"."""
    bytes_total: int
    """Size of the file."""

    @property
    def bytes_read(self) -> int:
        """Bytes of the file that have been consumed."""
        ...

    def chunks(self) -> Iterator[RawRows]:
        """Give the rows; raise DataError where the file is damaged."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def check_readable(path: Path) -> None:
    """Raise InputMissingError where there is no such file, OutputError where it cannot be read."""
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
    """Check that `columns` hold the `wanted` ones, the `time` and the `key` column, each once.

    Raises ConfigurationError for a name that is not there, DataError for one there twice.
    """
    single = {"time": time, "stream_column": key}
    asked = {kind: (name,) for kind, name in single.items() if name is not None}
    for setting, names in {"features": wanted, **asked}.items():
        for name in names:
            if name not in columns:
                known = ", ".join(columns)
                message = f"{path} has no column {name!r}{nearest(name, columns)} (it has {known})"
                raise ConfigurationError(message, key=setting)
            if columns.count(name) > 1:
                raise DataError(f"{path} has more than one column {name!r}; rename one of them")


def numeric_columns(path: Path, numeric: Iterable[str], time: str | None) -> tuple[str, ...]:
    """Return the numeric columns without the time; DataError where none is left."""
    columns = tuple(name for name in numeric if name != time)
    if not columns:
        raise DataError(f"{path} has no column of numbers")
    return columns


def usable(
    values: npt.NDArray[np.float64], names: Sequence[str], optional: Sequence[str]
) -> npt.NDArray[np.bool_]:
    """Return which rows of values (m, C) can be used, (m,): all are finite, or may be missing."""
    good = np.isfinite(values)
    for place, name in enumerate(names):
        if name in optional:
            good[:, place] |= np.isnan(values[:, place])
    return np.asarray(good.all(axis=1))


NOT_FINITE = "is not a finite number"
WRITE = ": write "
"""In the reason of a cell whose number only has to be written in another way."""

_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:([,' \u00a0\u202f])\d{3})(?:\1\d{3})*(\.\d*)?")
_DECIMAL_COMMA = re.compile(r"[-+]?(?:\d+|\d{1,3}(?:[.' \u00a0\u202f]\d{3})+),\d+")


def not_finite(column: str, text: str) -> str:
    """Return the reason why a cell cannot be used."""
    text = text.strip()
    if not text:
        return f"column {column!r} is empty"
    return f"column {column!r}: {text[:40]!r} {NOT_FINITE}{rewritten(text[:40])}"


def rewritten(text: str) -> str:
    """Return how a number with thousands separators or a decimal comma is written, else ""."""
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
