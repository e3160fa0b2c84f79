"""What every reader of one file format gives, whatever the format.

A reader opens its file, settles which columns are wanted, and gives runs of rows in file order.
It marks the rows that cannot be used and says why; what to do about them is for `files` to
decide, once for all formats.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ..config import nearest
from ..errors import ConfigurationError, DataError, InputMissingError, OutputError
from .keys import Keys
from .plain_file import check_plain


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
