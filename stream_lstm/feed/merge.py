"""The rows of several files, merged by time.

Each file is a stream. A row is placed by the latest time of its file so far, so the rows of a file
keep their order even where its times go back. At equal times the file that is named first comes
first. Sizes of blocks and of files do not matter.

Each file has one run of rows in memory. All rows before the earliest end of a run are final: what
is read later belongs behind them. They are sorted together, and the file of that run is read next.
So a damaged file ends the rows at the same place however it was read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..core.old_ticks import NEVER
from ..typing import Int64s
from .reader import BadRow, Keys, RawRows, Reader

MIN_CHUNK_ROWS = 4096
"""Rows of a file in memory at least; fewer of each would make many files slow."""

MAX_FILES = 256
"""Each stays open, and a process usually has 1024 descriptors."""


class _File:
    """The rows of a file that are read and not given yet; `code` is its place among the files.

    `order` (m,) is the latest time of the file at each row of its run.
    """

    def __init__(self, code: int, chunks: Iterator[RawRows]) -> None:
        self.code, self.order = code, np.full(1, NEVER)
        self._chunks, self._at = chunks, 1

    def fill(self) -> bool:
        """Read the next run if the present one is given; return whether there are rows."""
        while self._at == len(self.order):
            rows = next(self._chunks, None)
            if rows is None:
                return False
            if not len(rows.t_ns):
                continue
            t_ns = np.maximum(rows.t_ns, self.order[-1])
            t_ns[[bad.at for bad in rows.bad]] = self.order[-1]  # such a row may have no time
            self.order, self._rows, self._at = np.maximum.accumulate(t_ns), rows, 0
        return True

    def take(self, end: int, *, inclusive: bool) -> tuple[Int64s, RawRows]:
        """Give the rows before a time, and those at it if `inclusive`, with their order."""
        stop = int(np.searchsorted(self.order, end, "right" if inclusive else "left"))
        part, start, rows = slice(self._at, stop), self._at, self._rows
        self._at = stop
        bad = [BadRow(at - start, why) for at, why in rows.bad if start <= at < stop]
        return self.order[part], RawRows(rows.t_ns[part], rows.values[part], rows.rows[part], bad)


def merge(files: Sequence[Iterator[RawRows]], names: tuple[str, ...]) -> Iterator[RawRows]:
    """Give the rows of some files by time, with `names` (one a file) as their streams."""
    parts = [_File(code, chunks) for code, chunks in enumerate(files)]
    while parts := [part for part in parts if part.fill()]:
        ends = [int(part.order[-1]) for part in parts]
        first = ends.index(min(ends))
        taken = [part.take(ends[first], inclusive=k <= first) for k, part in enumerate(parts)]
        codes = np.repeat([part.code for part in parts], [len(order) for order, _ in taken])
        yield _sorted(taken, Keys(names, codes))


def _sorted(taken: Sequence[tuple[Int64s, RawRows]], keys: Keys) -> RawRows:
    """Join (order, rows) of files by order; at equal times the earlier file comes first."""
    orders, runs = zip(*taken, strict=True)
    order = np.argsort(np.concatenate(orders), kind="stable")  # it merges sorted runs
    t_ns, values, rows, parts, _ = zip(*runs, strict=True)
    starts = np.cumsum([0, *map(len, orders)]).tolist()
    bad = [
        BadRow(start + at, why)
        for start, part in zip(starts, parts, strict=False)
        for at, why in part
    ]
    if bad:
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        bad = sorted(BadRow(int(place[at]), why) for at, why in bad)
    return RawRows(
        np.concatenate(t_ns)[order],
        np.concatenate(values).take(order, 0),
        np.concatenate(rows)[order],
        bad,
        keys.some(order),
    )


class MergedReader(Reader):
    """Several open files as one, each a stream.

    path: what the files are called together. readers: one a file, with the same value columns.
    names: of the streams.
    """

    row_word = "row"

    def __init__(self, path: Path, readers: Sequence[Reader], names: Sequence[str]) -> None:
        self.path, self._readers, self._names = path, tuple(readers), tuple(names)
        self.selection = readers[0].selection
        self.columns, self.value_columns = readers[0].columns, readers[0].value_columns
        self.bytes_total = sum(reader.bytes_total for reader in readers)

    @property
    def bytes_read(self) -> int:
        """Bytes of all files that have been read."""
        return sum(reader.bytes_read for reader in self._readers)

    def chunks(self) -> Iterator[RawRows]:
        """Give the rows of all files in order of time."""
        return merge([reader.chunks() for reader in self._readers], self._names)

    def of(self, rows: RawRows, at: int) -> Reader:
        """Return the reader of the file with this row."""
        assert rows.keys is not None
        return self._readers[int(rows.keys.codes[at])]

    def close(self) -> None:
        """Close all files."""
        for reader in self._readers:
            reader.close()
