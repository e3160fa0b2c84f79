"""What the session hands to the writer of a store: each unit is stored whole or not at all.

Snapshots of a session in a store: rows of `snapshots`, and their states in pieces.

SQLite limits the size of a cell (to 1 GB, or less by its build), and a large snapshot in one
transaction would hold up the ticks behind it. So each transaction adds some pieces, and the row of
`snapshots` comes with the last of them. Pieces without a row mean nothing: a kill can leave them
behind, and the next run deletes them.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import msgspec

from ..errors import StoreError
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
from .schema import Row, insert


class Settle(msgspec.Struct, frozen=True):
    """The input of an orderly end: labels that could still be revised are final."""


Result: TypeAlias = Prediction | Score | Update | Rollback | Expiry

Moving: TypeAlias = Ticks | Run | Gap | SessionStart
"""Inputs that change which sequence number a stream expects."""

StreamInput: TypeAlias = Moving | Label
"""Inputs that change the position of a stream."""

StoredInput: TypeAlias = StreamInput | End | Settle


class JournalPosition(msgspec.Struct):
    """The position of a stream.

    `run_id` identifies the run of the publisher. `next_seq` is the expected sequence number, None
    where there are none. `n`, `ticks` and `labels` are counts. The CRC-32 checksums are over all
    its times and all its fields, as in the table of ticks, however they were cut into blocks.
    """

    run_id: str = msgspec.field(default="", name="session")
    next_seq: int | None = None
    n: int = 0
    ticks: int = 0
    labels: int = 0
    times_crc: int = 0
    fields_crc: int = 0

    def follow(self, event: StreamInput) -> None:
        """Apply an input to the run, the sequence number and the number of labels."""
        match event:
            case Label():
                self.labels += 1
            case Gap():
                self.next_seq = event.seq
            case SessionStart():
                # a stream without ticks may begin with any number
                self.next_seq = 1 if self.ticks else None
                self.run_id = event.session
            case _:
                self.run_id = event.session
                self.next_seq = None if event.seq is None else event.seq + count_of(event)


def count_of(ticks: Ticks | Run) -> int:
    """Return the number of ticks."""
    return len(ticks.times) if isinstance(ticks, Run) else len(ticks.t_ns)


class Step(NamedTuple):
    """An input, the number of elements that it produced, and the outputs that it caused."""

    event: StoredInput
    elements: int
    outputs: list[Result | Batch[Any]]


Steps: TypeAlias = list[Step]
"""Inputs that the session has processed completely: all of their outputs are known."""


class Saved(NamedTuple):
    """A snapshot of the session after everything that was handed over before it.

    `chunks` yields its bytes, the same ones at each call, in any thread.
    """

    chunks: Callable[[], Iterator[bytes | memoryview]]
    version: int
    fingerprint: str
    elements: int


class Note(NamedTuple):
    """An event that is not an input and happened `times` times."""

    kind: str
    stream: str
    reason: str
    times: int = 1
    n: int | None = None


class Hole(NamedTuple):
    """`inputs` inputs were left out, because the writer could not keep up.

    `positions` are the positions of their streams afterwards, without checksums; `saved` is the
    session at that moment.
    """

    inputs: int
    reason: str
    positions: dict[str, JournalPosition]
    saved: Saved


Unit: TypeAlias = Steps | Saved | Note | Hole


PIECE_BYTES = 2**16
"""Bytes of a row: below the limit of any build of SQLite; a page in 16 is all that it wastes."""

SLICE_BYTES = 2**20
"""Bytes that one transaction adds: a few milliseconds that delay a tick behind it."""


class SnapshotRow(NamedTuple):
    """A snapshot without its bytes."""

    snapshot: int
    pos: int
    elements: int
    version: int
    taken_ns: int
    set_aside: str | None


def snapshots(connection: sqlite3.Connection) -> list[SnapshotRow]:
    """Return the snapshots, the newest first."""
    found = connection.execute(
        "SELECT snapshot, pos, elements, version, taken_ns, set_aside FROM snapshots "
        "ORDER BY snapshot DESC"
    )
    return [SnapshotRow(*row) for row in found]


def last_snapshot(connection: sqlite3.Connection) -> int:
    """Return the number of the newest snapshot, 0 where there is none."""
    found = connection.execute("SELECT coalesce(max(snapshot), 0) FROM snapshots")
    return int(found.fetchone()[0])


def snapshot_state(connection: sqlite3.Connection, snapshot: int) -> bytes:
    """Return the bytes of a snapshot; raises StoreError where their checksum does not match."""
    (digest,) = connection.execute(
        "SELECT sha256 FROM snapshots WHERE snapshot = ?", (snapshot,)
    ).fetchone()
    pieces = connection.execute(
        "SELECT data FROM snapshot_pieces WHERE snapshot = ? ORDER BY piece", (snapshot,)
    )
    state = b"".join(piece if isinstance(piece, bytes) else b"" for (piece,) in pieces)
    if hashlib.sha256(state).hexdigest() != digest:
        raise StoreError(f"snapshot {snapshot} is damaged: its checksum does not match")
    return state


def insert_snapshot(connection: sqlite3.Connection, row: Row, state: bytes) -> None:
    """Insert a complete snapshot, within a transaction; row: that of `snapshots`."""
    insert(connection, "snapshots", row)
    starts = range(0, len(state), PIECE_BYTES)
    connection.executemany(
        "INSERT INTO snapshot_pieces VALUES (?, ?, ?)",
        ((row[0], k, state[start : start + PIECE_BYTES]) for k, start in enumerate(starts)),
    )


def delete_snapshot(connection: sqlite3.Connection, number: int) -> None:
    """Delete a snapshot and its pieces, within a transaction."""
    for table in ("snapshots", "snapshot_pieces"):
        connection.execute(f"DELETE FROM {table} WHERE snapshot = ?", (number,))  # noqa: S608


def delete_orphans(connection: sqlite3.Connection) -> None:
    """Delete the pieces of snapshots that an earlier run did not complete."""
    connection.execute(
        "DELETE FROM snapshot_pieces WHERE snapshot NOT IN (SELECT snapshot FROM snapshots)"
    )


class Saving:
    """A snapshot that is being written.

    number: of its row. pos: the last journal position before it. The slice stays the same until
    `advance` is called, so that a failed transaction can be repeated.
    """

    def __init__(self, saved: Saved, number: int, run: int, pos: int, taken_ns: int) -> None:
        self.number = number
        self._chunks, self._fingerprint = saved.chunks, saved.fingerprint
        self._about = number, run, pos, taken_ns, saved.elements, saved.version
        self._digest = hashlib.sha256()
        self._pieces = self._cut()
        self._next = next(self._pieces)
        self._slice: list[bytes] = []
        self._stored = 0
        self.advance()

    @property
    def is_last(self) -> bool:
        """Whether the present slice is the last one."""
        return not self._next

    def write(self, connection: sqlite3.Connection) -> None:
        """Write the slice, within a transaction."""
        if not self._stored:
            connection.execute("DELETE FROM snapshot_pieces WHERE snapshot = ?", (self.number,))
        connection.executemany(
            "INSERT OR REPLACE INTO snapshot_pieces VALUES (?, ?, ?)",
            [(self.number, self._stored + k, piece) for k, piece in enumerate(self._slice)],
        )

    def advance(self) -> None:
        """Go to the next slice: the present one is committed."""
        self._stored += len(self._slice)
        self._slice = []
        while self._next and len(self._slice) * PIECE_BYTES < SLICE_BYTES:
            self._slice.append(self._next)
            self._next = next(self._pieces, b"")

    def row(self) -> Row:
        """Return the row of `snapshots`, which belongs to the last slice."""
        return (*self._about, self._fingerprint, self._digest.hexdigest(), None)

    def _cut(self) -> Iterator[bytes]:
        """Yield the state in pieces of equal length, except for the last."""
        waiting = bytearray()
        for chunk in self._chunks():
            self._digest.update(chunk)
            waiting += chunk
            while len(waiting) >= PIECE_BYTES:
                yield bytes(waiting[:PIECE_BYTES])
                del waiting[:PIECE_BYTES]
        yield bytes(waiting)
