"""What is in a store, in numbers."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import msgspec

from .journal import last_pos, read_positions
from .reading import is_whole, snapshots
from .schema import NAMES, UNREADABLE, VERSION, connect_reader, failure


def contents(path: Path) -> dict[str, Any]:
    """Return what a store holds, fit for JSON; raises what `connect_reader` raises."""
    connection = connect_reader(path)
    try:
        return _contents(connection, path)
    except UNREADABLE as error:
        raise failure(path, error) from None
    finally:
        connection.close()


def _contents(connection: sqlite3.Connection, path: Path) -> dict[str, Any]:
    def one(sql: str) -> Any:
        return connection.execute(sql).fetchone()[0]

    wal = path.with_name(path.name + "-wal")
    setup = dict(connection.execute("SELECT name, value FROM setup WHERE name <> 'start'"))
    events = "SELECT kind, sum(count) FROM events GROUP BY kind ORDER BY kind"
    runs = "SELECT run, started_ns, pos, command, version, runtime FROM runs ORDER BY run"
    return {
        "path": str(path),
        "schema": VERSION,
        "bytes": path.stat().st_size + (wal.stat().st_size if wal.exists() else 0),
        "journal": last_pos(connection),
        "whole": is_whole(connection, 0, last_pos(connection)),
        "rows": {name: one(f"SELECT count(*) FROM {name}") for name in NAMES},  # noqa: S608
        "elements": one("SELECT coalesce(sum(n), 0) FROM streams"),
        "first_t_ns": one("SELECT min(t_ns) FROM predictions"),
        "last_t_ns": one("SELECT max(t_ns) FROM predictions"),
        "streams": {
            name: msgspec.to_builtins(position)
            for name, position in sorted(read_positions(connection).items())
        },
        "events": dict(connection.execute(events).fetchall()),
        "snapshots": [row._asdict() for row in snapshots(connection)],
        "runs": [
            dict(zip(("run", "started_ns", "pos", "command", "version"), row[:5], strict=True))
            | {"runtime": msgspec.json.decode(row[5])}
            for row in connection.execute(runs)
        ],
        "columns": msgspec.json.decode(setup.get("columns", "[]")),
        "configuration": msgspec.json.decode(setup.get("configuration", "{}")),
    }
