"""The writing of a snapshot in pieces, some with each transaction.

SQLite takes no cell above a limit (a thousand million bytes, or less where it was built so), and a
large snapshot in one transaction would hold up the ticks behind it. The pieces come first, each
transaction adding some; the row of `snapshots` comes with the last of them. Until then the
pieces belong to nothing: a kill leaves them behind, and the next run deletes them.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from .units import Saved

PIECE_BYTES = 2**16
"""Of a row: below the limit of any build of SQLite, and a page in 16 is all that it wastes."""

SLICE_BYTES = 2**20
"""What one transaction adds: a few milliseconds in which a tick behind it waits."""


class Saving:
    """A snapshot on its way into the store.

    number: of its row. pos: of the journal's last row before it. A slice is the same one until
    `stored` is called, so that a transaction that failed can be tried again.
    """

    def __init__(self, saved: Saved, number: int, run: int, pos: int, taken_ns: int) -> None:
        self.number = number
        self._saved = saved
        self._about = number, run, pos, taken_ns, saved.elements, saved.version
        self._digest = hashlib.sha256()
        self._pieces = self._cut()
        self._next = next(self._pieces)
        self._stored = 0
        self._fill()

    @property
    def is_last(self) -> bool:
        """Whether the present slice is the last one."""
        return not self._next

    def write(self, connection: sqlite3.Connection) -> None:
        """Write a slice, within a transaction."""
        if not self._stored:
            connection.execute("DELETE FROM snapshot_pieces WHERE snapshot = ?", (self.number,))
        connection.executemany(
            "INSERT OR REPLACE INTO snapshot_pieces VALUES (?, ?, ?)",
            [(self.number, self._stored + k, piece) for k, piece in enumerate(self._slice)],
        )

    def stored(self) -> None:
        """Go to the next slice: this one is committed."""
        self._stored += len(self._slice)
        self._fill()

    def row(self) -> tuple[object, ...]:
        """Return the row of `snapshots`, which goes with the last slice."""
        return (*self._about, self._saved.fingerprint, self._digest.hexdigest(), None)

    def _fill(self) -> None:
        self._slice: list[bytes] = []
        while self._next and len(self._slice) * PIECE_BYTES < SLICE_BYTES:
            self._slice.append(self._next)
            self._next = next(self._pieces, b"")

    def _cut(self) -> Iterator[bytes]:
        """Yield the bytes of the state in pieces of equal length, but for the last."""
        held = bytearray()
        for chunk in self._saved.state.chunks():
            self._digest.update(chunk)
            held += chunk
            while len(held) >= PIECE_BYTES:
                yield bytes(held[:PIECE_BYTES])
                del held[:PIECE_BYTES]
        yield bytes(held)


def insert_snapshot(connection: sqlite3.Connection, row: Sequence[Any], state: bytes) -> None:
    """Insert a whole snapshot, within a transaction; row: that of `snapshots`."""
    number = row[0]
    connection.execute("INSERT INTO snapshots VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    starts = range(0, len(state), PIECE_BYTES)
    connection.executemany(
        "INSERT INTO snapshot_pieces VALUES (?, ?, ?)",
        ((number, k, state[start : start + PIECE_BYTES]) for k, start in enumerate(starts)),
    )


def delete_snapshot(connection: sqlite3.Connection, number: int) -> None:
    """Delete a snapshot and its pieces, within a transaction."""
    for table in ("snapshots", "snapshot_pieces"):
        connection.execute(f"DELETE FROM {table} WHERE snapshot = ?", (number,))  # noqa: S608


def delete_orphans(connection: sqlite3.Connection) -> None:
    """Delete the pieces that a run left behind before its snapshot was whole."""
    connection.execute(
        "DELETE FROM snapshot_pieces WHERE snapshot NOT IN (SELECT snapshot FROM snapshots)"
    )
