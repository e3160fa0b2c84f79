"""The part of a file that a store holds already, which is not pushed a second time."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError
from .units import JournalPosition

if TYPE_CHECKING:
    from ..core.replay import ReplayRows


class StoredPart:
    """Iterates over the pieces that the store holds; afterwards `rest` gives the others.

    known: the position of the stream in the store. file: its name, for messages. The last piece
    is cut where the store ends. Raises DataError at the end if the store holds other ticks.
    """

    def __init__(self, known: JournalPosition, pieces: Iterator[ReplayRows], file: str) -> None:
        self._known, self._pieces, self._file = known, pieces, file
        self._cut: list[ReplayRows] = []
        self._times = self._fields = 0

    def __iter__(self) -> Iterator[ReplayRows]:
        left = self._known.ticks
        while left:
            piece = next(self._pieces, None)
            if piece is None:
                raise DataError(
                    f"{self._file} has {self._known.ticks - left:,} ticks and the store "
                    f"{self._known.ticks:,} of its stream: replay the file that it holds, or "
                    "name another store or --stream"
                )
            if len(piece.values) > left:
                self._cut = [piece.part(slice(left, None))]
                piece = piece.part(slice(0, left))
            left -= len(piece.values)
            self._times = zlib.crc32(_raw(piece.t_ns, "<i8"), self._times)
            self._fields = zlib.crc32(_raw(piece.values, "<f8"), self._fields)
            yield piece
        fields_agree = self._fields == self._known.fields_crc
        if fields_agree and self._times != self._known.times_crc:
            raise DataError(
                f"{self._file} begins with the values that the store holds, but with other times: "
                "name the column of times as before (--time), or another store"
            )
        if not fields_agree:
            raise DataError(
                f"{self._file} does not begin with the {self._known.ticks:,} ticks of its stream "
                "that the store holds: replay the file that the store was started with, or name "
                "another store or --stream"
            )

    def rest(self) -> Iterator[ReplayRows]:
        """Return the pieces that the store does not hold."""
        return chain(self._cut, self._pieces)


def _raw(array: np.ndarray, dtype: str) -> bytes:
    return np.ascontiguousarray(array, dtype).tobytes()
