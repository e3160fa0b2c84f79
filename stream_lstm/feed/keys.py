"""Which stream each row of a file is of, where a column says so."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..errors import ConfigurationError
from .topics import check_name

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
