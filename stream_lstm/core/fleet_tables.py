"""What a fleet keeps for its streams: rows of tables, in place of objects.

Every table has a row for each stream that may be opened. The memory of a row that was never
written is not taken: the system gives zeroed pages at the first write.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .reliability import BINS

Streams: TypeAlias = npt.NDArray[np.int64]
Rows: TypeAlias = npt.NDArray[Any]

WAYS = ("model", "base", "last")
"""The forecasters that are scored on each label, in the order of every axis of three."""

PLACE = np.dtype(
    [
        ("n", "i8"),  # elements accepted
        ("first", "i8"),  # the element after which predictions began, or will begin
        ("flag_until", "i8"),
        ("ticks", "i8"),
        ("missed", "i8"),
        ("predictions", "i8"),
        ("refused_ticks", "i4"),
        ("refused_labels", "i4"),
        ("gaps", "i4"),
        ("resets", "i4"),
        ("expired", "i4"),
        ("remembered", "i2"),  # ticks in the feature memory
        ("gaps_visible", "i2"),
    ]
)
"""Where a stream stands, and its counters; see `stream.StreamState` and `stream.Counters`."""

PENDING = np.dtype([("p", "f8"), ("base_p", "f8"), ("last_p", "f8"), ("last", "i8")])
"""A prediction that waits for its label; see `ledger.Pending`."""

_GRADES = np.dtype([("correct", "i8"), ("calls", "i8"), ("log_loss", "f8"), ("brier", "f8")])
_WEALTH = np.dtype([("log_e", "f8"), ("highest", "f8"), ("reached", "i8")])
_BET = np.dtype(
    [("total", "f8"), ("squares", "f8"), ("better", _WEALTH), ("worse", _WEALTH)],
)
_BAND = np.dtype([("total", "f8"), ("spread", "f8"), ("cut", "i8")])

BOARD = np.dtype(
    [
        ("labels", "i8"),
        ("positives", "i8"),
        ("repeats", "i8"),
        ("model", _GRADES),
        ("base", _GRADES),
        ("last", _GRADES),
        ("coin_bet", _BET),
        ("base_bet", _BET),
        ("last_bet", _BET),
        ("base_band", _BAND),
        ("last_band", _BAND),
    ]
)
"""The scores of a stream; see `scoring.Scoreboard`, `grades.Grades` and `skill.Evidence`."""

GIVEN = np.dtype(("f8", (len(WAYS), BINS)))
"""Sums of the probabilities given, by forecaster and bin; see `reliability.Reliability`."""


class Table:
    """Rows of one dtype, gathered to be worked on and put back.

    `rows` are those of all streams. Rows are moved as bytes, which takes a tenth of the time of
    moving them field by field.
    """

    def __init__(self, capacity: int, dtype: np.dtype[Any], shape: tuple[int, ...] = ()) -> None:
        self.rows: Rows = np.zeros((capacity, *shape), dtype)
        self._shape = self.rows.shape[1:]
        self._dtype = self.rows.dtype
        self.row_bytes = self.rows[:1].nbytes
        # The widest words that make up a row: copying bytes one by one is slow.
        word = next(k for k in (8, 4, 2, 1) if self.row_bytes % k == 0)
        self._raw: Rows = self.rows.reshape(-1).view(f"u{word}")
        self._raw = self._raw.reshape(capacity, self.row_bytes // word)

    def gather(self, streams: Streams) -> Rows:
        """Return a copy of the rows of some streams."""
        taken = self._raw.take(streams, 0)
        return taken.reshape(-1).view(self._dtype).reshape(len(streams), *self._shape)

    def put(self, streams: Streams, rows: Rows) -> None:
        """Put rows back, each stream's once."""
        flat = rows.reshape(-1).view(self._raw.dtype)
        self._raw[streams] = flat.reshape(len(streams), self._raw.shape[1])
