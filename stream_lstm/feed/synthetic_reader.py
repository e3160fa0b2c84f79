"""A synthetic series as a reader, so that it goes the same way as a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from .reader import RawRows, check_names
from .synthetic import Source


class SyntheticReader:
    """The first `count` elements of `source`, which must be fresh, as rows without times.

    columns: the wanted ones in order, or None for all. Raises ConfigurationError for one that is
    not there.
    """

    row_word = "row"

    def __init__(
        self, source: Source, *, columns: Sequence[str] | None, count: int, chunk_rows: int
    ) -> None:
        self.columns = source.columns
        check_names(Path(source.name), self.columns, columns or (), None)
        self.value_columns = self.columns if columns is None else tuple(columns)
        self.bytes_total = self._bytes(count)
        self._source = source
        self._count = count
        self._chunk_rows = chunk_rows
        self._row = 0

    def _bytes(self, rows: int) -> int:
        return rows * len(self.columns) * np.dtype(np.float64).itemsize

    @property
    def bytes_read(self) -> int:
        """Bytes of the values drawn so far."""
        return self._bytes(self._row)

    def close(self) -> None:
        """Nothing is held open."""

    def chunks(self) -> Iterator[RawRows]:
        """Give the rows in runs of `chunk_rows`."""
        places = [self.columns.index(name) for name in self.value_columns]
        while self._row < self._count:
            start = self._row
            self._row = min(start + self._chunk_rows, self._count)
            values = self._source.block(self._row - start)[:, places]
            rows = np.arange(start + 1, self._row + 1)
            yield RawRows(np.zeros_like(rows), np.ascontiguousarray(values), rows, ())
