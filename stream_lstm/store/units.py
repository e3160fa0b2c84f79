"""What is handed to the writer of a store, in order: each unit is stored whole or not at all.

The writing of a snapshot in pieces, some with each transaction.

SQLite takes no cell above a limit (a thousand million bytes, or less where it was built so), and a
large snapshot in one transaction would hold up the ticks behind it. The pieces come first, each
transaction adding some; the row of `snapshots` comes with the last of them. Until then the
pieces belong to nothing: a kill leaves them behind, and the next run deletes them.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import msgspec

from ..events import (
    End,
    Expiry,
    Gap,
    Label,
    Prediction,
    Rollback,
    Run,
    Score,
    SessionStart,
    Ticks,
    Update,
)
from ..records import Batch

Result: TypeAlias = Prediction | Score | Update | Rollback | Expiry


class Settle(msgspec.Struct, frozen=True):
    """The labels that could still be revised count now: an input, made by an orderly end."""


class JournalPosition(msgspec.Struct):
    """Where a stream stands.

    `next_seq` is the sequence number that is due, None where there are none; `n` the elements,
    `ticks` the ticks and `labels` the labels so far. The checksums (CRC-32) are over all its times
    and all its fields, as they stand in the table of ticks, however they were cut into blocks.
    """

    session: str = ""
    next_seq: int | None = None
    n: int = 0
    ticks: int = 0
    labels: int = 0
    times_crc: int = 0
    fields_crc: int = 0

    def follow(self, event: Ticks | Run | Gap | SessionStart) -> None:
        """Go where an input leads: session and sequence number."""
        if isinstance(event, Ticks | Run):
            self.session = event.session
            self.next_seq = None if event.seq is None else event.seq + count_of(event)
        elif isinstance(event, Gap):
            self.next_seq = event.seq
        else:
            # what was never heard before may begin with any number
            self.next_seq = 1 if self.ticks else None
            self.session = event.session


Taken: TypeAlias = Ticks | Run | Label | Gap | SessionStart | End | Settle
"""An input of a session."""


def count_of(ticks: Ticks | Run) -> int:
    """Return how many ticks these are."""
    return len(ticks.times) if isinstance(ticks, Run) else len(ticks.t_ns)


class Step(NamedTuple):
    """An input, how many elements it made, and what came out of it."""

    event: Taken
    made: int
    outputs: list[Result | Batch[Any]]


Steps: TypeAlias = list[Step]
"""Inputs that the session has caught up with: only then are all of their outputs known."""


class State(Protocol):
    """The bytes of a snapshot, which a thread can ask for later; see `core.snapshot.Frozen`."""

    def chunks(self) -> Iterator[bytes | memoryview]:
        """Yield the bytes in order; every time the same ones."""


class Saved(NamedTuple):
    """A snapshot of the session as it is after everything handed over before it."""

    state: State
    version: int
    fingerprint: str
    elements: int


class Note(NamedTuple):
    """Something that happened and is no input: so many `times`, for the `reason`."""

    kind: str
    stream: str
    reason: str
    times: int = 1
    session: str = ""
    n: int | None = None


class Hole(NamedTuple):
    """`inputs` inputs were not handed over, since the writer could not keep up.

    `positions` say where the streams that they were of stand after them, but for checksums, and
    `saved` is the session as it is then.
    """

    inputs: int
    reason: str
    positions: dict[str, JournalPosition]
    saved: Saved


Unit: TypeAlias = Steps | Saved | Note | Hole


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
