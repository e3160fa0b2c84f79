"""Where the streams of a store stood after a transaction: the rows of `streams`, computed again.

The journal from its start has all of it, and the checksum of the transaction proves the result.
Where the start is missing, or inputs were left out, the session knows how many ticks and elements
there were; the checksums over all ticks, and the number of labels, begin with what is left.
"""

from __future__ import annotations

import heapq
import sqlite3
import zlib
from collections.abc import Iterator
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec

from ..core.session import Session
from ..core.table import TICKS, N
from ..events import Gap, SessionStart
from .chain import HELD, Row, Seal, checksum_of, sums_of
from .reading import is_whole
from .units import Position


class Places(NamedTuple):
    """Rows of `streams`; `inexact` are the streams whose checksums begin with what is left."""

    rows: list[Row]
    inexact: list[str]


def places(
    connection: sqlite3.Connection, before: Seal, last: Seal, newest: Seal, session: Session
) -> Places:
    """Return where the streams stood after the transaction `last`.

    connection: a store cut to the transactions behind `before` up to `last`, with all rows of
    `streams` that could be read. newest: the transaction that these rows were as they are after.
    session: it has taken the journal up to `last`.
    """
    known = connection.execute(HELD["streams"]).fetchall()
    total = _sum(known)
    if total == sums_of(last).get("streams"):
        return Places(known, [])
    proven = total == sums_of(newest).get("streams")
    rows: list[Row]
    if before.pos == 0 and is_whole(connection, 0, last.pos):
        rows = _from_the_start(connection)
        if _sum(rows) == sums_of(last).get("streams"):
            return Places(rows, [])
    as_they_were = {row[0]: row for row in known if proven and row[-1] <= last.pos}
    found = {stream: Position(ticks=1) for stream in session.table.places}
    for _, _, event, _ in _inputs(connection):
        _follow(found, event)
    for stream, place in session.table.places.items():
        found[stream].n = int(session.table.view[place, N])
        found[stream].ticks = int(session.table.view[place, TICKS])
    inexact = [stream for stream in found if stream not in as_they_were]
    rows = [_row(stream, found[stream], last.pos) for stream in inexact]
    return Places([*as_they_were.values(), *rows], sorted(inexact))


def _sum(rows: list[Row]) -> int:
    return sum(map(checksum_of, rows)) % 2**64


def _row(stream: str, position: Position, pos: int) -> Row:
    return (stream, *msgspec.structs.astuple(position), pos)


class _Block(NamedTuple):
    """A row of ticks without its arrays."""

    stream: str
    session: str
    seq: int | None
    many: int


def _follow(found: dict[str, Position], event: _Block | str | Gap | SessionStart) -> Position:
    """Take a stream where an input leads; a label is the name of its stream."""
    name = event if isinstance(event, str) else event.stream
    position = found.setdefault(name, Position())
    match event:
        case str():
            position.labels += 1
        case _Block():
            position.session = event.session
            position.next_seq = None if event.seq is None else event.seq + event.many
        case _:
            position.follow(event)
    return position


def _from_the_start(connection: sqlite3.Connection) -> list[Row]:
    """Return the rows as the writer made them, each with the end of the transaction it is of."""
    ends = (pos for (pos,) in connection.execute("SELECT pos FROM commits ORDER BY number"))
    found: dict[str, Position] = {}
    reached: dict[str, int] = {}
    end = 0
    for pos, _, event, ticks in _inputs(connection):
        while end < pos:
            end = next(ends)
        position = _follow(found, event)
        if isinstance(event, _Block):
            position.n, t_ns, fields = ticks
            position.ticks += event.many
            position.times_crc = zlib.crc32(t_ns, position.times_crc)
            position.fields_crc = zlib.crc32(fields, position.fields_crc)
        reached[event if isinstance(event, str) else event.stream] = end
    return [_row(stream, position, reached[stream]) for stream, position in found.items()]


def _inputs(connection: sqlite3.Connection) -> Iterator[tuple[int, int, Any, Any]]:
    """Yield (pos, table, input, (elements, times, fields)) of what moves a stream, in order."""
    blocks = (
        (pos, 0, _Block(stream, session, seq, count), rest)
        for pos, stream, session, seq, count, *rest in connection.execute(
            "SELECT pos, stream, session, seq, count, n_after, t_ns, fields FROM ticks "
            "ORDER BY pos"
        )
    )
    labels = (
        (pos, 1, stream, None)
        for pos, stream in connection.execute("SELECT pos, stream FROM labels ORDER BY pos")
    )
    events = (
        (pos, 2, Gap(stream, seq, count) if kind == "gap" else SessionStart(stream, session), None)
        for pos, kind, stream, session, seq, count in connection.execute(
            "SELECT pos, kind, stream, session, seq, count FROM events "
            "WHERE input = 1 AND kind IN ('gap', 'session') ORDER BY pos"
        )
    )
    return heapq.merge(blocks, labels, events, key=itemgetter(0))
