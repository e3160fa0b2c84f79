"""Whether rows of a file are old; see `core.old_times` for the rule."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..core.old_times import NEVER, find_old
from .keys import Keys


class TimeOrder:
    """Counts the old ones among rows, in each stream by itself.

    Attributes: `count`, how many there were; `first`, the number of the first, 0 without any.
    """

    def __init__(self) -> None:
        self.count = 0
        self.first = 0
        self._latest: dict[str, tuple[int, npt.NDArray[np.float64]]] = {}

    def look(
        self,
        t_ns: npt.NDArray[np.int64],
        values: npt.NDArray[np.float64],
        rows: npt.NDArray[np.int64],
        keys: Keys | None = None,
    ) -> None:
        """Look at rows behind those of earlier calls: times (m,), values (m, C), numbers (m,).

        keys: their streams; None where all are of one.
        """
        if not len(t_ns):
            return
        names: tuple[str, ...] = ("",)
        codes = np.zeros(len(t_ns), np.int64)
        if keys is not None:
            names, codes = keys.names, keys.codes
        order = np.argsort(codes, kind="stable")
        codes = codes[order]
        starts = np.flatnonzero(np.append(True, codes[1:] != codes[:-1]))
        of = [names[code] for code in codes[starts].tolist()]
        new = NEVER, np.zeros(values.shape[1])
        known = [self._latest.get(name, new) for name in of]
        latest = np.array([time for time, _ in known])
        last = np.array([row for _, row in known])
        old = find_old(latest, last, starts, t_ns[order], values[order])
        self._latest.update(zip(of, zip(latest.tolist(), last, strict=True), strict=True))
        if old is not None:
            self.count += len(old.at)
            self.first = self.first or int(rows[order[old.at]].min())

    def warning(self, where: str) -> str:
        """Return a line about them, `where` naming the first; "" if there are none."""
        if not self.count:
            return ""
        more = f", as it does in {self.count:,} rows in all" if self.count > 1 else ""
        return (
            f"{where}: the time goes back, or the row repeats time and values of the one before"
            f"{more}; rows are taken in the order in which they stand: sort them by time first, "
            "and remove those that came twice, if they did not come about in this order"
        )
