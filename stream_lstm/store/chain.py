"""The checksum of each transaction, chained to the previous one.

SQLite has no checksums of its pages. A row of `commits` ends each transaction. Its `pos` and
`event`, the last journal position and the last event so far, delimit the rows of the transaction.
Its `digest` is SHA-256 over the previous digest, these numbers, and all of the rows. Rows of
`streams`, `snapshots` and `runs` change later, so `held` contains, for each of these tables, the
sum of the checksums of its rows after the transaction. The state of a snapshot and the parts of
the setup have a SHA-256 of their own. The event `trimmed` has none: nothing depends on it.

Where the oldest rows were trimmed, the commit before the first remaining row anchors the chain.
"""

from __future__ import annotations

import hashlib
import sqlite3
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import itemgetter
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from ..records import fields_of
from .schema import OUTPUTS, UNREADABLE, Row, default_of, insert, is_damage

MUTABLE = ("streams", "snapshots", "runs")
"""Tables whose rows change or are deleted."""

QUERIES = {
    "ticks": "SELECT * FROM ticks WHERE pos > ? ORDER BY pos",
    "labels": "SELECT * FROM labels WHERE pos > ? ORDER BY pos",
    **{
        table: f"SELECT {', '.join(field.name for field in fields_of(kind))}, pos FROM {table} "  # noqa: S608
        "WHERE pos > ? ORDER BY pos, stream, n"
        for table, kind in OUTPUTS.items()
    },
    "events": "SELECT * FROM events WHERE event > ? AND kind <> 'trimmed' ORDER BY event",
}
"""The rows of each table behind a position, those of events behind an event."""

PLACES = {"ticks": 0, "labels": 0, "events": 0} | dict.fromkeys(OUTPUTS, -1)
"""The column that assigns a row to its transaction."""

_DEFAULTS = {
    table: [default_of(field) for field in fields_of(kind)] for table, kind in OUTPUTS.items()
}
_REALS = {
    table: [k for k, field in enumerate(fields_of(kind)) if field.sql.startswith("REAL")]
    for table, kind in OUTPUTS.items()
} | {"labels": [4]}
_FLAGS = {
    table: [k for k, field in enumerate(fields_of(kind)) if field.dtype == bool]
    for table, kind in OUTPUTS.items()
}
_BY_POS = itemgetter(-1, 0, 1)
_SUMS = struct.Struct("<3Q")
_NO_CHANGES: Mapping[str, int] = MappingProxyType({})
_encode = msgspec.msgpack.Encoder().encode


class Seal(NamedTuple):
    """A row of `commits`."""

    number: int = 0
    pos: int = 0
    event: int = 0
    digest: bytes = bytes(32)
    packed_sums: bytes = bytes(_SUMS.size)

    def sums(self) -> dict[str, int]:
        """Return the sum of each table of `MUTABLE`; empty where the row is damaged."""
        if len(self.packed_sums) != _SUMS.size:
            return {}
        return dict(zip(MUTABLE, _SUMS.unpack(self.packed_sums), strict=True))


class Damage(NamedTuple):
    """What is wrong with a store; `good` is the last commit before it."""

    what: str
    good: Seal


class Segment(NamedTuple):
    """Consecutive intact transactions: those behind `before` up to `last`."""

    before: Seal
    last: Seal


def checksum_of(row: Row) -> int:
    """Return the 64-bit checksum of a row of a table of `MUTABLE`."""
    return int.from_bytes(hashlib.blake2b(_encode(list(row)), digest_size=8).digest(), "little")


def sum_of(rows: Iterable[Row]) -> int:
    """Return the sum of the checksums of rows."""
    return sum(map(checksum_of, rows)) % 2**64


def sum_in(connection: sqlite3.Connection, table: str) -> int:
    """Return the sum of the checksums of a table's present rows."""
    return sum_of(connection.execute(f"SELECT * FROM {table}"))  # noqa: S608 - ours


# ---- writing ----------------------------------------------------------------------------


class Chain:
    """The end of the chain, for the thread that writes.

    connection: of `schema.connect`. `last` is the newest commit; `streams` maps each stream to the
    checksum of its row.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.last = _last(connection)
        rows = connection.execute("SELECT * FROM streams")
        self.streams = {row[0]: checksum_of(row) for row in rows}

    def seal(
        self,
        connection: sqlite3.Connection,
        rows: Mapping[str, list[Row]],
        pos: int,
        changes: Mapping[str, int] = _NO_CHANGES,
    ) -> Seal:
        """End a transaction with its checksum; return it, to become `last` after the commit.

        rows: by table, events with their numbers. changes: what is added to the sum of each table
        of `MUTABLE`.
        """
        sums = self.last.sums()
        packed = _SUMS.pack(*((sums[name] + changes.get(name, 0)) % 2**64 for name in MUTABLE))
        return _write(connection, self.last, pos, packed, rows)


def seal_as_is(connection: sqlite3.Connection, before: Seal, pos: int, events: list[Row]) -> Seal:
    """Replace all commits behind `before` by one that seals the present rows.

    pos: the last position. events: the rows that belong to it, with their numbers.
    """
    packed = _SUMS.pack(*(sum_in(connection, table) for table in MUTABLE))
    connection.execute("DELETE FROM commits WHERE number > ?", (before.number,))
    return _write(connection, before, pos, packed, {"events": events})


def _write(
    connection: sqlite3.Connection,
    before: Seal,
    pos: int,
    sums: bytes,
    rows: Mapping[str, list[Row]],
) -> Seal:
    events = rows.get("events")
    seal = Seal(before.number + 1, pos, events[-1][0] if events else before.event, b"", sums)
    seal = seal._replace(digest=_digest(before, seal, rows))
    insert(connection, "commits", seal)
    return seal


# ---- checking ---------------------------------------------------------------------------


def damage(connection: sqlite3.Connection, after: int = 0) -> Damage | None:
    """Return the first damage to the rows behind a position, None where there is none.

    The tables of `MUTABLE` are checked whole; ticks, labels, outputs and events from the commit
    that wrote the first position behind `after`.
    """
    good = Seal()
    connection.execute("SAVEPOINT chain")  # all tables at one moment
    try:
        good = _anchor(connection, after)
        for before, seal, rows in _transactions(connection, good):
            good = before
            if seal.number != good.number + 1 or _digest(good, seal, rows) != seal.digest:
                inputs = f"inputs {good.pos + 1:,} to {seal.pos:,}"
                if seal.pos <= good.pos:
                    inputs = f"the events behind input {good.pos:,}"
                what = f"{inputs} (transaction {seal.number:,}) do not match their checksum"
                return Damage(what, good)
        last = _last(connection)
        sums = last.sums()
        for table in MUTABLE:
            if sums.get(table) != sum_in(connection, table):
                return Damage(f"the table {table} does not match its checksum", last)
        for table, query in QUERIES.items():
            behind = last.event if table == "events" else last.pos
            if connection.execute(query, (behind,)).fetchone() is not None:
                what = f"the table {table} has rows behind the last transaction, {last.number:,}"
                return Damage(what, last)
        return None
    except UNREADABLE as error:
        if not is_damage(error):
            raise
        return Damage(f"the rows behind input {good.pos:,} cannot be read ({error})", good)
    finally:
        connection.execute("RELEASE chain")


def segments(connection: sqlite3.Connection) -> list[Segment]:
    """Return the intact segments in order: a new one begins behind each damage.

    The digests of a segment are chained to its first commit, whose own rows are not known to be
    good. Only the first segment can begin at the journal's start.
    """
    found = [Segment(Seal(), Seal())]
    for before, seal, rows in _transactions(connection, Seal(), _in_order(connection)):
        if seal.number == before.number + 1 and _digest(before, seal, rows) == seal.digest:
            found[-1] = found[-1]._replace(last=seal)
        else:
            found.append(Segment(seal, seal))
    return found


def _in_order(connection: sqlite3.Connection) -> Iterator[Seal]:
    """Yield the commits, except those whose position does not fit between their neighbours.

    One that claims to reach too far would take the rows of all commits behind it.
    """
    rows = map(Seal._make, connection.execute("SELECT * FROM commits ORDER BY number"))
    known, seal = (0, 0), next(rows, None)
    while seal is not None:
        following = next(rows, None)
        too_far = following is not None and any(
            low <= later < mine
            for low, later, mine in zip(known, following[1:3], seal[1:3], strict=True)
        )
        if not too_far and seal.pos >= known[0] and seal.event >= known[1]:
            known = seal.pos, seal.event
            yield seal
        seal = following


def _last(connection: sqlite3.Connection) -> Seal:
    found = connection.execute("SELECT * FROM commits ORDER BY number DESC LIMIT 1").fetchone()
    return Seal() if found is None else Seal(*found)


def _anchor(connection: sqlite3.Connection, after: int) -> Seal:
    """Return the last commit that wrote nothing behind a position.

    In a trimmed store that is at least the first commit, whose own rows are deleted.
    """
    find = "SELECT * FROM commits WHERE {} ORDER BY number {} LIMIT 1"
    first = connection.execute(find.format("1", "")).fetchone()
    found = None
    if after:
        found = connection.execute(find.format("pos <= ?", "DESC"), (after,)).fetchone()
    if found is None and first is not None:
        trimmed = "SELECT 1 FROM events WHERE kind = 'trimmed' LIMIT 1"
        found = first if connection.execute(trimmed).fetchone() else None
    return Seal() if found is None else Seal(*found)


def _transactions(
    connection: sqlite3.Connection, known: Seal, commits: Iterable[Seal] | None = None
) -> Iterator[tuple[Seal, Seal, dict[str, list[Row]]]]:
    """Yield each commit behind `known`, with the commit before it and the rows between them.

    commits: those to yield, by default all.
    """
    take = {
        table: _takes_until(
            connection.execute(query, (known.event if table == "events" else known.pos,)),
            PLACES[table],
        )
        for table, query in QUERIES.items()
    }
    if commits is None:
        behind = "SELECT * FROM commits WHERE number > ? ORDER BY number"
        commits = map(Seal._make, connection.execute(behind, (known.number,)))
    for seal in commits:
        yield (
            known,
            seal,
            {
                table: until(seal.event if table == "events" else seal.pos)
                for table, until in take.items()
            },
        )
        known = seal


def _takes_until(rows: Iterator[Row], place: int) -> Callable[[int], list[Row]]:
    """Return a function that takes the next rows whose column `place` is up to a bound."""
    waiting = next(rows, None)

    def until(bound: int) -> list[Row]:
        nonlocal waiting
        taken: list[Row] = []
        while waiting is not None and waiting[place] <= bound:
            taken.append(waiting)
            waiting = next(rows, None)
        return taken

    return until


def _digest(before: Seal, seal: Seal, rows: Mapping[str, list[Row]]) -> bytes:
    digest = hashlib.sha256(before.digest)
    digest.update(_encode([seal.number, seal.pos, seal.event, seal.packed_sums]))
    for table in QUERIES:
        found = rows.get(table, ())
        if table in OUTPUTS:
            found = sorted(found, key=_BY_POS)
        digest.update(_encode([_as_stored(table, row) for row in found]))
    return digest.digest()


def _as_stored(table: str, row: Row) -> Row:
    """Return a row as SQLite returns it, without the last cells that have their defaults.

    So a field that a later version declares changes no checksum.
    """
    if table not in _REALS:
        return row
    cells = list(row)
    for k in _REALS[table]:
        value = cells[k]
        cells[k] = None if value is None or value != value else float(value) + 0.0  # no -0.0
    for k in _FLAGS.get(table, ()):
        cells[k] = int(cells[k])
    if table in OUTPUTS:
        pos, end = cells.pop(), len(cells)
        for default in reversed(_DEFAULTS[table]):
            if cells[end - 1] != default:
                break
            end -= 1
        cells[end:] = [pos]
    return cells
