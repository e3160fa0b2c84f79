"""The rows of a file whose newest row is first, given from the last to the first.

The whole file is in memory, since no row can be given before the last one is read.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..errors import DataError
from .reader import BadRow, RawRows, Reader

MAX_BYTES = 2 << 30
"""Memory of the rows: 60 million of two values and their times."""


class ReversedReader(Reader):
    """A reader that gives the rows of another in reverse.

    Raises DataError for a file that needs more than `MAX_BYTES`.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.path, self.selection, self.row_word = reader.path, reader.selection, reader.row_word
        self.columns, self.value_columns = reader.columns, reader.value_columns
        self.bytes_total = reader.bytes_total

    @property
    def bytes_read(self) -> int:
        """Bytes of the file that have been read."""
        return self._reader.bytes_read

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def chunks(self) -> Iterator[RawRows]:
        """Give the rows in runs, the last row first."""
        runs, size = [], 0
        for run in self._reader.chunks():
            runs.append(run)
            size += run.t_ns.nbytes + run.values.nbytes + run.rows.nbytes
            if size > MAX_BYTES:
                raise DataError(
                    f"{self.path} is too large for --reverse, which has all rows in memory "
                    f"({MAX_BYTES >> 30} GiB at most): sort its rows by time, oldest first"
                )
        while runs:
            yield _reversed(runs.pop())


def _reversed(run: RawRows) -> RawRows:
    last = len(run.rows) - 1
    return RawRows(
        run.t_ns[::-1],
        np.ascontiguousarray(run.values[::-1]),
        run.rows[::-1],
        [BadRow(last - bad.at, bad.reason) for bad in reversed(run.bad)],
        None if run.keys is None else run.keys.some(slice(None, None, -1)),
    )
