"""The tables of a store as Parquet or CSV files, one for each; each tick has a row of its own."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa

from ..errors import OutputError, StoreError
from .output import CsvRows, ParquetRows, SheetRows
from .schema import NAMES, OUTPUTS, UNREADABLE, connect_reader, failure

ROWS = 65_536
"""Rows of a group, which is what is held in memory."""

PIECES = 64
"""The same of the pieces of snapshots, which are of some size."""

Progress: TypeAlias = Callable[[int, int], object]
"""Takes the rows that are written, and of how many."""

TYPES = {"INTEGER": pa.int64(), "REAL": pa.float64(), "TEXT": pa.string(), "BLOB": pa.binary(),
         "ANY": pa.binary()}  # fmt: skip


FORMS: Mapping[str, type[ParquetRows | CsvRows]] = {"parquet": ParquetRows, "csv": CsvRows}
"""The formats, by the suffix of their files."""


def export_store(
    path: Path,
    out: Path,
    report: Progress = lambda *_: None,
    *,
    form: str = "parquet",
    spreadsheet: bool = False,
) -> dict[str, int]:
    """Write a file for each table into a folder; return the rows of each.

    form: one of `FORMS`. spreadsheet: with `csv`, quote text that a spreadsheet would run.

    A file gets its name when it is whole. Raises what `connect_reader` raises, and OutputError
    where the operating system will not write.
    """
    connection = connect_reader(path)
    try:
        connection.execute("BEGIN")  # all tables as they are at one moment
        out.mkdir(exist_ok=True)
        encoder = SheetRows if spreadsheet else FORMS[form]
        total, rows = sum(_count(connection, name) for name in NAMES), dict.fromkeys(NAMES, 0)
        for name in NAMES:
            for written in _export(connection, name, out / f"{name}.{form}", encoder):
                rows[name] += written
                report(sum(rows.values()), total)
        return rows
    except (OSError, pa.ArrowException) as error:
        raise OutputError(f"cannot write {out}: {error}") from None
    except UNREADABLE as error:
        raise failure(path, error) from None
    finally:
        connection.close()


def _count(connection: sqlite3.Connection, table: str) -> int:
    rows = "sum(count)" if table == "ticks" else "count(*)"
    found = connection.execute(f"SELECT {rows} FROM {table}")  # noqa: S608 - ours
    return found.fetchone()[0] or 0


def _export(
    connection: sqlite3.Connection,
    table: str,
    target: Path,
    encoder: type[ParquetRows | CsvRows],
) -> Iterator[int]:
    """Write a table; yield how many rows each step has written."""
    partial = target.with_name(target.name + ".partial")
    if table == "ticks":
        schema, batches = _ticks(connection)
    else:
        schema, batches = _table(connection, table)
    with partial.open("wb") as file:
        rows = encoder(file, schema)
        try:
            for batch in batches:
                rows.write(pa.Table.from_batches([batch]))
                yield batch.num_rows
        finally:
            rows.finish()
    partial.replace(target)


def _table(connection: sqlite3.Connection, table: str) -> tuple[Any, Iterator[Any]]:
    described = connection.execute(f"PRAGMA table_info({table})").fetchall()
    schema = pa.schema([pa.field(name, TYPES[kind]) for _, name, kind, *_ in described])
    order = "pos, n" if table in OUTPUTS else "1"

    def batches() -> Iterator[Any]:
        cursor = connection.execute(f"SELECT * FROM {table} ORDER BY {order}")  # noqa: S608 - ours
        while rows := cursor.fetchmany(ROWS if table != "snapshot_pieces" else PIECES):
            columns = zip(*rows, strict=True)
            arrays = [
                pa.array([_plain(value, field.type) for value in column], field.type)
                for column, field in zip(columns, schema, strict=True)
            ]
            yield pa.record_batch(arrays, schema=schema)

    return schema, batches()


def _plain(value: Any, kind: Any) -> Any:
    return value.encode() if isinstance(value, str) and kind == pa.binary() else value


def _ticks(connection: sqlite3.Connection) -> tuple[Any, Iterator[Any]]:
    """Return a row for each tick: `pos`, `stream`, `session`, `seq`, `t_ns` and its columns."""
    found = connection.execute("SELECT value FROM setup WHERE name = 'columns'").fetchone()
    columns = msgspec.json.decode(found[0], type=list[str]) if found else []
    about = [
        pa.field("pos", pa.int64()),
        pa.field("stream", pa.string()),
        pa.field("session", pa.string()),
        pa.field("seq", pa.int64()),
        pa.field("t_ns", pa.int64()),
    ]
    # A column may be called like one of ours.
    taken = {field.name for field in about}
    names = [f"field_{name}" if name in taken else name for name in columns]
    schema = pa.schema([*about, *(pa.field(name, pa.float64()) for name in names)])

    def batches() -> Iterator[Any]:
        cursor = connection.execute(
            "SELECT pos, stream, session, seq, count, t_ns, fields FROM ticks ORDER BY pos"
        )
        for pos, stream, session, seq, count, t_ns, fields in cursor:
            values = np.frombuffer(fields, "<f8").reshape(count, -1)
            if values.shape[1] != len(columns):
                raise StoreError(f"the ticks at position {pos} have {values.shape[1]} columns")
            numbers = pa.nulls(count, pa.int64())
            if seq is not None:
                numbers = pa.array(np.arange(seq, seq + count))
            repeated = [pa.array([one] * count) for one in (pos, stream, session)]
            rest = [np.frombuffer(t_ns, "<i8"), *(values[:, k].copy() for k in range(len(names)))]
            yield pa.record_batch([*repeated, numbers, *map(pa.array, rest)], schema=schema)

    return schema, batches()
