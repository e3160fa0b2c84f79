"""Whether the rows of a file come in the order of their times."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .keys import Keys


class TimeOrder:
    """Counts rows whose time is before that of the row before them, in each stream by itself.

    Attributes: `count`, how many there were; `first`, the number of the first, 0 without any.
    """

    def __init__(self) -> None:
        self.count = 0
        self.first = 0
        self._latest: dict[str, int] = {}

    def look(
        self, t_ns: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], keys: Keys | None = None
    ) -> None:
        """Look at rows behind those of earlier calls: their times (m,) and numbers (m,).

        keys: their streams; None where all are of one.
        """
        if not len(t_ns):
            return
        names: tuple[str, ...] = ("",)
        codes = np.zeros(len(t_ns), np.int64)
        if keys is not None:
            names, codes = keys.names, keys.codes
        order = np.argsort(codes, kind="stable")
        codes, times = codes[order], t_ns[order]
        begins = np.append(True, codes[1:] != codes[:-1])
        before = np.append(times[:1], times[:-1])
        starts = np.flatnonzero(begins)
        for start in starts:
            before[start] = self._latest.get(names[codes[start]], times[start])
        for end in np.append(starts[1:], len(times)) - 1:
            self._latest[names[codes[end]]] = int(times[end])
        back = rows[order[times < before]]
        if len(back):
            self.count += len(back)
            self.first = self.first or int(back.min())

    def warning(self, where: str) -> str:
        """Return a line that tells of them, `where` naming the first; "" if there are none."""
        if not self.count:
            return ""
        more = f", as it does in {self.count:,} rows in all" if self.count > 1 else ""
        return (
            f"{where}: the time goes back{more}; rows are taken in the order in which they stand: "
            "sort them by time first if that is not the order in which they came about"
        )
