"""The first prediction in which two stores differ."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec

from .schema import UNREADABLE, VERSION, connect_reader, failure


class Unlike(msgspec.Struct, frozen=True):
    """The first prediction that differs; `p` and `other_p` are None where there is none."""

    stream: str
    n: int
    p: float | None
    other_p: float | None


class Compared(msgspec.Struct, frozen=True):
    """Predictions of each store, those that both have alike, and the first that differs.

    `older` says which one was made by a version with another order of work, if one of them was.
    """

    predictions: int
    other_predictions: int
    alike: int
    difference: Unlike | None
    older: str | None = None


def compare(path: Path, other: Path) -> Compared:
    """Compare the predictions of two stores by stream and n; p must have the same bits.

    The first is that which came first in the first store, then in the other one. Raises what
    `connect_reader` raises.
    """
    connect_reader(other).close()  # which says what is wrong with it
    connection = connect_reader(path)
    try:
        connection.execute("ATTACH ? AS other", (f"{other.resolve().as_uri()}?mode=ro",))
        found = _compare(connection)
        ours, theirs = (
            connection.execute(f"PRAGMA {name}.user_version").fetchone()[0] >= VERSION
            for name in ("main", "other")
        )
        older = None if ours == theirs else str(other if ours else path)
        return msgspec.structs.replace(found, older=older)
    except UNREADABLE as error:
        raise failure(path, error) from None
    finally:
        connection.close()


def _compare(connection: sqlite3.Connection) -> Compared:
    ours, theirs = (
        int(connection.execute(f"SELECT count(*) FROM {name}.predictions").fetchone()[0])  # noqa: S608
        for name in ("main", "other")
    )
    alike = connection.execute(
        "SELECT count(*) FROM main.predictions AS a JOIN other.predictions AS b USING (stream, n) "
        "WHERE a.p = b.p"
    ).fetchone()[0]
    first = connection.execute(
        "SELECT stream, n, a.p, b.p FROM main.predictions AS a LEFT JOIN other.predictions AS b "
        "USING (stream, n) WHERE b.p IS NOT a.p ORDER BY a.pos, n LIMIT 1"
    ).fetchone() or (
        connection.execute(
            "SELECT stream, n, a.p, b.p FROM other.predictions AS b LEFT JOIN "
            "main.predictions AS a USING (stream, n) WHERE a.p IS NULL ORDER BY b.pos, n LIMIT 1"
        ).fetchone()
    )
    return Compared(ours, theirs, int(alike), None if first is None else Unlike(*first))
