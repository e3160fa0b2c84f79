"""The tables of a store as Parquet or CSV files, one for each; each tick has a row of its own."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from ..errors import OutputError, StoreError
from .files import replacing
from .output import FORMATS
from .schema import NAMES, OUTPUTS, Progress, connect_reader, using

ROWS = 65_536
"""Rows of a group, which are in memory together."""

PIECES = 64
"""The same for the pieces of snapshots, which are large."""

FORMS = ("parquet", "csv")
"""The formats, as suffixes."""

TYPES = {"INTEGER": pa.int64(), "REAL": pa.float64(), "TEXT": pa.string(), "BLOB": pa.binary(),
         "ANY": pa.binary()}  # fmt: skip


def export_store(
    path: Path,
    out: Path,
    report: Progress = lambda *_: None,
    *,
    form: str = "parquet",
    spreadsheet: bool = False,
) -> dict[str, int]:
    """Write a file for each table into a folder; return the rows of each.

    form: one of `FORMS`. spreadsheet: with `csv`, quote text that a spreadsheet would run. report
    takes the rows written and their total.

    A file gets its name once it is whole. Raises what `connect_reader` raises, and OutputError
    where the operating system refuses to write.
    """
    options = {"spreadsheet": True} if spreadsheet else {}
    rows = dict.fromkeys(NAMES, 0)
    with using(connect_reader(path), path) as connection:
        try:
            connection.execute("BEGIN")  # all tables at one moment
            out.mkdir(exist_ok=True)
            total = sum(_count(connection, name) for name in NAMES)
            for name in NAMES:
                schema, batches = (_ticks if name == "ticks" else _table)(connection, name)
                with replacing(out / f"{name}.{form}") as file:
                    writer = FORMATS[f".{form}"](file, schema, **options)
                    try:
                        for batch in batches:
                            writer.write_table(pa.Table.from_batches([batch]))
                            rows[name] += batch.num_rows
                            report(sum(rows.values()), total)
                    finally:
                        writer.close()
        except (OSError, pa.ArrowException) as error:
            raise OutputError(f"cannot write {out}: {error}") from None
    return rows


def _count(connection: sqlite3.Connection, table: str) -> int:
    rows = "sum(count)" if table == "ticks" else "count(*)"
    found = connection.execute(f"SELECT {rows} FROM {table}")  # noqa: S608 - ours
    return found.fetchone()[0] or 0


def _table(connection: sqlite3.Connection, table: str) -> tuple[pa.Schema, Iterator[Any]]:
    columns = connection.execute(f"PRAGMA table_info({table})").fetchall()
    schema = pa.schema([pa.field(name, TYPES[kind]) for _, name, kind, *_ in columns])
    order = "pos, n" if table in OUTPUTS else "1"

    def batches() -> Iterator[Any]:
        cursor = connection.execute(f"SELECT * FROM {table} ORDER BY {order}")  # noqa: S608 - ours
        while rows := cursor.fetchmany(ROWS if table != "snapshot_pieces" else PIECES):
            arrays = [
                pa.array([_bytes_of(cell, field.type) for cell in column], field.type)
                for column, field in zip(zip(*rows, strict=True), schema, strict=True)
            ]
            yield pa.record_batch(arrays, schema=schema)

    return schema, batches()


def _bytes_of(cell: Any, kind: pa.DataType) -> Any:
    return cell.encode() if isinstance(cell, str) and kind == pa.binary() else cell


def _ticks(connection: sqlite3.Connection, _table: str) -> tuple[pa.Schema, Iterator[Any]]:
    """Return a row for each tick: `pos`, `stream`, `session`, `seq`, `t_ns` and its columns."""
    found = connection.execute("SELECT value FROM setup WHERE name = 'columns'").fetchone()
    columns = msgspec.json.decode(found[0], type=list[str]) if found else []
    types = {"pos": pa.int64(), "stream": pa.string(), "session": pa.string(),
             "seq": pa.int64(), "t_ns": pa.int64()}  # fmt: skip
    # a column may have one of these names
    names = [f"field_{name}" if name in types else name for name in columns]
    schema = pa.schema([*types.items(), *((name, pa.float64()) for name in names)])

    def batches() -> Iterator[Any]:
        cursor = connection.execute(
            "SELECT pos, stream, session, seq, count, t_ns, fields FROM ticks ORDER BY pos"
        )
        for pos, stream, run_id, seq, count, t_ns, fields in cursor:
            values = np.frombuffer(fields, "<f8").reshape(count, -1)
            if values.shape[1] != len(columns):
                raise StoreError(f"the ticks at position {pos} have {values.shape[1]} columns")
            numbers = pa.nulls(count, pa.int64()) if seq is None else np.arange(seq, seq + count)
            repeated = [pa.repeat(cell, count) for cell in (pos, stream, run_id)]
            rest = [np.frombuffer(t_ns, "<i8"), *np.ascontiguousarray(values.T)]
            arrays = [*repeated, pa.array(numbers), *map(pa.array, rest)]
            yield pa.record_batch(arrays, schema=schema)

    return schema, batches()
