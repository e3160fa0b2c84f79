"""What the readers of all file formats share.

A reader opens its file, determines the wanted columns, and gives runs of rows in file order. It
marks rows that cannot be used, with the reason; `files` decides what happens to them.

Also here: whether a path is a regular file (a pipe or a device would block or feed the reader),
and the stream of each row if a column names it.
"""

from __future__ import annotations

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
from .dialect import Asked
from .protocol import check_name
from .times import TimeColumn, time_columns

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
    asked: Asked = Asked()
    time_format: str = ""
    lenient_time: bool = False
    reverse: bool = False

    def times(self) -> TimeColumn:
        """Return the converter of the times."""
        return TimeColumn(self.time_unit, self.time_format, lenient=self.lenient_time)

    def check(self, path: Path, columns: Sequence[str]) -> None:
        """Check that a file's `columns` contain each selected one once, and the key no numbers.

        Raises ConfigurationError for a missing name, DataError for a repeated one.
        """
        wanted = self.columns or ()
        unknown = [name for name in self.optional if name not in columns]
        times = time_columns(self.time, columns)
        check_names(path, columns, (*wanted, *unknown), times, self.key)
        if self.key is not None and (self.key in wanted or self.key in times):
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
        times = time_columns(self.time, columns)
        found = tuple(name for name in numeric if name not in times)
        if not found:
            raise DataError(f"{path} has no column of numbers")
        check_names(path, columns, found, times)
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
    notes: tuple[str, ...] = ()
    """What a user should know about how the file is read."""

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
    times: Sequence[str],
    key: str | None = None,
) -> None:
    """Check that `columns` contain the `wanted` ones, the `times` and the `key` column, each once.

    Raises ConfigurationError for a missing name, DataError for a repeated one.
    """
    keys = () if key is None else (key,)
    for setting, names in {"features": wanted, "time": times, "stream_column": keys}.items():
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


def not_finite(column: str, text: str) -> str:
    """Return why a cell cannot be used."""
    text = text.strip()
    if not text:
        return f"column {column!r} is empty"
    return f"column {column!r}: {text[:40]!r} {NOT_FINITE}"
