"""The checksum of each transaction, chained to the one before.

SQLite has none over its pages. A row of `commits` ends each transaction: `pos` and `event`, the
last position of the journal and the last event so far, delimit the rows that it wrote; `digest`
is SHA-256 over the digest before, these numbers, and all of the rows. Rows that change later (of
`streams`, `snapshots` and `runs`) are in `held`: for each of the three tables the sum of the
checksums of its rows as they were after the transaction. The state of a snapshot and the parts of
the setup have a SHA-256 of their own; the event `trimmed`, which nothing depends on, has none.

Where the oldest rows are trimmed away, the commit before the first that is left anchors the chain.
"""

from __future__ import annotations

import hashlib
import sqlite3
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from ..records import fields_of
from .schema import OUTPUTS, UNREADABLE, default_of, is_damage

Row = Sequence[Any]

HELD = {
    "streams": "SELECT * FROM streams",
    "snapshots": "SELECT * FROM snapshots",
    "runs": "SELECT * FROM runs",
}
"""Tables whose rows change or go, and what of them is checked."""

QUERIES = {
    "ticks": "SELECT * FROM ticks WHERE pos > ? ORDER BY pos",
    "labels": "SELECT * FROM labels WHERE pos > ? ORDER BY pos",
    **{
        table: f"SELECT {', '.join(field.name for field in fields_of(kind))}, pos FROM {table} "  # noqa: S608 - ours
        "WHERE pos > ? ORDER BY pos, stream, n"
        for table, kind in OUTPUTS.items()
    },
    "events": "SELECT * FROM events WHERE event > ? AND kind <> 'trimmed' ORDER BY event",
}
"""The rows of each table behind a position, or of events behind an event."""

PLACES = {"ticks": 0, "labels": 0, "events": 0} | dict.fromkeys(OUTPUTS, -1)
"""The column of a row that says to which transaction it belongs."""

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
NOTHING: Mapping[str, int] = MappingProxyType({})

_encode = msgspec.msgpack.Encoder().encode


class Seal(NamedTuple):
    """A row of `commits`."""

    number: int = 0
    pos: int = 0
    event: int = 0
    digest: bytes = bytes(32)
    held: bytes = bytes(_SUMS.size)


class Damage(NamedTuple):
    """What is not as it was written; `good` is the last commit before it."""

    what: str
    good: Seal


def checksum_of(row: Row) -> int:
    """Return the 64-bit checksum of a row of a table of `HELD`."""
    return int.from_bytes(hashlib.blake2b(_encode(list(row)), digest_size=8).digest(), "little")


class Segment(NamedTuple):
    """Transactions in a row that are as they were written: those behind `before` up to `last`."""

    before: Seal
    last: Seal


class Chain:
    """The end of the chain, as the one who writes knows it.

    connection: of `schema.connect`. `last` is the newest commit; `streams` the checksum of each
    row of the table of that name.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.last = _last(connection)
        self.streams = {row[0]: checksum_of(row) for row in connection.execute(HELD["streams"])}

    def seal(
        self,
        connection: sqlite3.Connection,
        rows: Mapping[str, list[Row]],
        pos: int,
        changes: Mapping[str, int] = NOTHING,
    ) -> Seal:
        """End a transaction with its checksum; return it, to become `last` after the commit.

        rows: by table, those of events with their numbers. changes: what is added to the sum of
        each table of `HELD`.
        """
        sums = zip(HELD, _SUMS.unpack(self.last.held), strict=True)
        held = _SUMS.pack(*((total + changes.get(name, 0)) % 2**64 for name, total in sums))
        events = rows.get("events")
        event = events[-1][0] if events else self.last.event
        return _write(
            connection, self.last, Seal(self.last.number + 1, pos, event, b"", held), rows
        )


def seal_as_is(connection: sqlite3.Connection, before: Seal, pos: int, events: list[Row]) -> Seal:
    """Write the commit behind `before`, or write it again, with the tables of `HELD` as they are.

    pos: the last position. events: rows that belong to it, with their numbers.
    """
    held = _SUMS.pack(*(held_sum(connection, table) for table in HELD))
    event = events[-1][0] if events else before.event
    made = Seal(before.number + 1, pos, event, b"", held)
    connection.execute("DELETE FROM commits WHERE number > ?", (before.number,))
    return _write(connection, before, made, {"events": events})


def _write(
    connection: sqlite3.Connection, before: Seal, seal: Seal, rows: Mapping[str, list[Row]]
) -> Seal:
    made = seal._replace(digest=_digest(before, seal, rows))
    connection.execute("INSERT INTO commits VALUES (?, ?, ?, ?, ?)", made)
    return made


def held_sum(connection: sqlite3.Connection, table: str) -> int:
    """Return the sum of the checksums of a table's rows as they are."""
    return sum(map(checksum_of, connection.execute(HELD[table]))) % 2**64


def damage(connection: sqlite3.Connection, after: int = 0) -> Damage | None:
    """Return the first damage to what was written behind a position, None where there is none.

    The tables of `HELD` are checked whole, and ticks, labels, outputs and events from the commit
    on that wrote the position behind it.
    """
    known = Seal()
    connection.execute("SAVEPOINT chain")  # all tables as they are at one moment
    try:
        known = _anchor(connection, after)
        for before, seal, rows in _parts(connection, known):
            known = before
            if seal.number != known.number + 1 or _digest(known, seal, rows) != seal.digest:
                inputs = f"inputs {known.pos + 1:,} to {seal.pos:,}"
                if seal.pos <= known.pos:
                    inputs = f"the events behind input {known.pos:,}"
                what = f"{inputs} (transaction {seal.number:,}) are not what was written"
                return Damage(what, known)
        last = _last(connection)
        for (table, query), total in zip(HELD.items(), _SUMS.unpack(last.held), strict=True):
            if total != sum(map(checksum_of, connection.execute(query))) % 2**64:
                return Damage(f"the table {table} is not what was written", last)
        for table, query in QUERIES.items():
            behind = last.event if table == "events" else last.pos
            if connection.execute(query, (behind,)).fetchone() is not None:
                what = f"the table {table} has rows behind the last transaction, {last.number:,}"
                return Damage(what, last)
        return None
    except UNREADABLE as error:
        if not is_damage(error):
            raise
        return Damage(f"what follows input {known.pos:,} cannot be read ({error})", known)
    finally:
        connection.execute("RELEASE chain")


def sums_of(seal: Seal) -> dict[str, int]:
    """Return the sum of each table of `HELD` after a transaction; empty where it is damaged."""
    if len(seal.held) != _SUMS.size:
        return {}
    return dict(zip(HELD, _SUMS.unpack(seal.held), strict=True))


def segments(connection: sqlite3.Connection) -> list[Segment]:
    """Return what is intact, in order: behind each damage a new segment begins.

    The commit with which a segment begins says what the digests of the next ones are chained to;
    its own rows are not known to be good. Only the first segment can begin at the journal's start.
    """
    found = [Segment(Seal(), Seal())]
    for before, seal, rows in _parts(connection, Seal(), _in_order(connection)):
        if seal.number == before.number + 1 and _digest(before, seal, rows) == seal.digest:
            found[-1] = found[-1]._replace(last=seal)
        else:
            found.append(Segment(seal, seal))
    return found


def _in_order(connection: sqlite3.Connection) -> Iterator[Seal]:
    """Yield the commits, without those whose place does not fit between their neighbours.

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


def rebuild(connection: sqlite3.Connection) -> None:
    """Compute all checksums anew from the rows as they are, within a transaction."""
    sums = [held_sum(connection, table) for table in HELD]
    connection.execute(
        "UPDATE commits SET held = ? WHERE number = (SELECT max(number) FROM commits)",
        (_SUMS.pack(*sums),),
    )
    before = _anchor(connection, 0)
    for _, seal, rows in _parts(connection, before):
        before = seal._replace(digest=_digest(before, seal, rows))
        connection.execute(
            "UPDATE commits SET digest = ? WHERE number = ?", (before.digest, before.number)
        )


def _last(connection: sqlite3.Connection) -> Seal:
    found = connection.execute("SELECT * FROM commits ORDER BY number DESC LIMIT 1").fetchone()
    return Seal() if found is None else Seal(*found)


def _anchor(connection: sqlite3.Connection, after: int) -> Seal:
    """Return the last commit that wrote nothing behind a position.

    In a store that was trimmed that is the first one at least: its own rows are gone.
    """
    find = "SELECT * FROM commits WHERE {} ORDER BY number {} LIMIT 1"
    first = connection.execute(find.format("1", "")).fetchone()
    found = None
    if after:
        found = connection.execute(find.format("pos <= ?", "DESC"), (after,)).fetchone()
    if found is None and first is not None and _is_trimmed(connection):
        found = first
    return Seal() if found is None else Seal(*found)


def _is_trimmed(connection: sqlite3.Connection) -> bool:
    found = connection.execute("SELECT 1 FROM events WHERE kind = 'trimmed' LIMIT 1")
    return found.fetchone() is not None


def _parts(
    connection: sqlite3.Connection, known: Seal, commits: Iterable[Seal] | None = None
) -> Iterator[tuple[Seal, Seal, dict[str, list[Row]]]]:
    """Yield each commit behind one, with the commit before it and the rows between them.

    commits: those to yield, by default all.
    """
    tables = {
        table: _Rows(
            connection.execute(query, (known.event if table == "events" else known.pos,)),
            PLACES[table],
        )
        for table, query in QUERIES.items()
    }
    if commits is None:
        behind = "SELECT * FROM commits WHERE number > ? ORDER BY number"
        commits = map(Seal._make, connection.execute(behind, (known.number,)))
    for seal in commits:
        rows = {
            table: source.until(seal.event if table == "events" else seal.pos)
            for table, source in tables.items()
        }
        yield known, seal, rows
        known = seal


class _Rows:
    """The rows of a table in the order of the column `place`, taken up to a bound at a time."""

    def __init__(self, rows: Iterator[Row], place: int) -> None:
        self._rows, self._place = rows, place
        self._next = next(rows, None)

    def until(self, bound: int) -> list[Row]:
        """Return the rows up to a bound."""
        taken: list[Row] = []
        while self._next is not None and self._next[self._place] <= bound:
            taken.append(self._next)
            self._next = next(self._rows, None)
        return taken


def _digest(before: Seal, seal: Seal, rows: Mapping[str, list[Row]]) -> bytes:
    digest = hashlib.sha256(before.digest)
    digest.update(_encode([seal.number, seal.pos, seal.event, seal.held]))
    for table in QUERIES:
        found = rows.get(table, ())
        if table in OUTPUTS:
            found = sorted(found, key=_BY_POS)
        digest.update(_encode([_plain(table, row) for row in found]))
    return digest.digest()


def _plain(table: str, row: Row) -> Row:
    """Return a row as SQLite returns it, without the last cells that have their defaults.

    A field that a later version declares changes no checksum so.
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
