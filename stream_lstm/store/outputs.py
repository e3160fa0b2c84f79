"""The tables of what comes out of a session, and records as their rows.

The columns of such a table are the declared fields of its record, and `pos`, the position of the
input that a row came of. Columns are named wherever rows are written or read, since their order
depends on the version that made the table: a field that is declared later stands behind `pos`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec

from ..events import Prediction, Score, Update
from ..records import Batch, Field, fields_of

R = TypeVar("R", Prediction, Score, Update)

OUTPUTS: Mapping[str, type[Prediction | Score | Update]] = MappingProxyType(
    {"predictions": Prediction, "scores": Score, "updates": Update}
)
TABLE_OF = {kind: table for table, kind in OUTPUTS.items()}
INTO = {
    kind: f"{table} ({', '.join(field.name for field in fields_of(kind))}, pos)"
    for kind, table in TABLE_OF.items()
}
"""Table and columns of a row that is inserted."""

_NESTED = {
    kind: [place for place, field in enumerate(fields_of(kind)) if field.nested]
    for kind in TABLE_OF
}

ADDED = {"updates": ("reason",)}
"""Fields that a released version added to a table of an earlier one."""

FETCHED = 4096
"""Rows that become columns at a time."""


def create_tables() -> str:
    """Return the statements that create the tables."""
    return "".join(_create(table, kind) for table, kind in OUTPUTS.items())


def _create(table: str, kind: type[msgspec.Struct]) -> str:
    late = ADDED.get(table, ())
    first = [_column(field) for field in fields_of(kind) if field.name not in late]
    last = [_column(field) for field in fields_of(kind) if field.name in late]
    columns = ",\n    ".join([*first, "pos INTEGER NOT NULL", *last, "PRIMARY KEY (stream, n)"])
    return f"\nCREATE TABLE {table} (\n    {columns}\n) STRICT, WITHOUT ROWID;\n"


def _column(field: Field) -> str:
    """Return a column of a table; where it is added, old rows get the default."""
    if field.required or field.nullable or field.nested:
        return f"{field.name} {field.sql}"
    default = default_of(field)
    shown = repr(default) if isinstance(default, str) else default
    return f"{field.name} {field.sql} DEFAULT {shown}"


def default_of(field: Field) -> Any:
    """Return what a column has where its field has the default; a field without one is not it."""
    if field.required:
        return field.default
    if field.nullable or field.nested:
        return None
    return field.default if isinstance(field.default, str) else +field.default  # a bool as 0 or 1


def missing_columns(connection: sqlite3.Connection) -> list[str]:
    """Return the statements that add the declared fields that a store's tables lack."""
    return [
        f"ALTER TABLE {table} ADD COLUMN {_column(field)}"
        for table, kind in OUTPUTS.items()
        for known in [{row[1] for row in connection.execute(f"PRAGMA table_info({table})")}]
        for field in fields_of(kind)
        if known and field.name not in known
    ]


def row_of(event: Prediction | Score | Update, pos: int) -> Sequence[Any]:
    """Return a record as a row for `INTO`."""
    row = [*msgspec.structs.astuple(event), pos]
    for place in _NESTED[type(event)]:
        row[place] = _text(row[place])
    return row


def rows_of(batch: Batch[R], pos: int) -> Iterator[Sequence[Any]]:
    """Return records that came of one input as rows for `INTO`."""
    cells = [batch.cells(field) for field in fields_of(batch.kind)]
    for place in _NESTED[batch.kind]:
        cells[place] = [_text(value) for value in cells[place]]
    return zip(*cells, repeat(pos, len(batch)), strict=True)


def _text(value: tuple[Any, ...]) -> str | None:
    return msgspec.json.encode(value).decode() if value else None


def read(
    connection: sqlite3.Connection, kind: type[R], rest: str, *arguments: Any
) -> Iterator[tuple[tuple[int, ...], Batch[R]]]:
    """Yield (positions, records) of a table; `rest` is what follows its name in the query."""
    table = TABLE_OF[kind]
    cursor = connection.execute(f"SELECT * FROM {table} {rest}", arguments)  # noqa: S608 - ours
    names = [column[0] for column in cursor.description]
    while fetched := cursor.fetchmany(FETCHED):
        lists: dict[str, Any] = dict(zip(names, zip(*fetched, strict=True), strict=True))
        for field in fields_of(kind):
            if field.nested and field.name in lists:
                decode = msgspec.json.Decoder(field.hint).decode
                lists[field.name] = [
                    decode(cell) if cell else field.default for cell in lists[field.name]
                ]
        yield lists["pos"], Batch.from_lists(kind, lists)
