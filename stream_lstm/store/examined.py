"""What a store holds of one stream, as one table, and what befell it.

What is in a store, in numbers.
"""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from ..config import Config
from ..core.doctor.series import Finding, Level, TickTable, series_of
from ..core.verdict import count
from ..errors import StoreError, UsageError
from ..events import Label, Ticks
from .journal import first_pos, last_pos, read_positions
from .reading import Setup, entries, is_whole, read_setup, snapshots
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


class Examined(NamedTuple):
    """The setup of a store, the name and the table of one stream, and what the store tells."""

    setup: Setup
    stream: str
    table: TickTable
    findings: tuple[Finding, ...]


def examined(path: Path, stream: str | None, limit: int) -> Examined:
    """Return what a store holds of a stream, `limit` ticks at most; by default the longest one.

    Raises UsageError for a stream that is not there, and what `connect_reader` raises.
    """
    connection = connect_reader(path)
    try:
        setup = read_setup(connection, str(path))
        if setup is None:
            raise StoreError(f"{path} is empty: nothing has been kept in it yet")
        name = _stream(connection, path, stream)
        table = _table(connection, setup, name, limit)
        return Examined(setup, name, table, (_events(connection, name), _scores(connection, name)))
    except UNREADABLE as error:
        raise failure(path, error) from None
    finally:
        connection.close()


def _stream(connection: sqlite3.Connection, path: Path, wanted: str | None) -> str:
    rows = connection.execute("SELECT stream FROM streams ORDER BY ticks DESC, stream").fetchall()
    names = [name for (name,) in rows]
    if not names:
        raise StoreError(f"{path} holds no ticks yet")
    if wanted is not None and wanted not in names:
        raise UsageError(f"--stream {wanted}: {path} holds {', '.join(names[:10])}")
    return names[0] if wanted is None else wanted


def _table(connection: sqlite3.Connection, setup: Setup, stream: str, limit: int) -> TickTable:
    times, values, size = [], [], 0
    labels: dict[int, float] = {}
    for entry in entries(connection, first_pos(connection) - 1):
        event = entry.event
        if isinstance(event, Ticks) and event.stream == stream and size < limit:
            times.append(event.t_ns[: limit - size])
            values.append(event.values[: limit - size])
            size += len(values[-1])
        elif isinstance(event, Label) and event.stream == stream:
            labels.setdefault(event.n, event.y)
    t_ns = np.concatenate(times) if times else np.zeros(0, np.int64)
    fields = np.concatenate(values) if values else np.zeros((0, len(setup.columns)))
    table = TickTable(
        setup.columns, fields, t_ns if t_ns.any() else None, np.arange(1, len(fields) + 1)
    )
    if setup.config.stream.labels != "external":
        return table
    before = connection.execute(
        "SELECT n_before FROM ticks WHERE stream = ? ORDER BY pos LIMIT 1", (stream,)
    ).fetchone()
    return table._replace(labels=_placed(table, setup.config, labels, before[0] if before else 0))


def _placed(table: TickTable, config: Config, labels: dict[int, float], before: int) -> Any:
    """Return labels by n in the rows in which a label column has them, NaN where there is none."""
    rows = np.full(len(table.values), math.nan)
    at = series_of(config.stream.features, table).at
    for n, y in labels.items():
        place = n + config.stream.horizon - before - 1
        if 0 <= place < len(at):
            rows[at[place]] = y
    return rows


EVENTS = {
    "gap": "ticks lost in gaps",
    "refused": "inputs refused",
    "rollback": "roll-backs",
}
"""Kinds of events that the doctor tells of."""


def _events(connection: sqlite3.Connection, stream: str) -> Finding:
    figures = dict.fromkeys(EVENTS, 0)
    rows = connection.execute(
        "SELECT kind, sum(count) FROM events WHERE stream = ? GROUP BY kind", (stream,)
    )
    for kind, times in rows:
        word = kind.partition(" ")[0]
        if word in figures:
            figures[word] += times
    told = ", ".join(f"{number:,} {EVENTS[kind]}" for kind, number in figures.items())
    level: Level = "ok"
    remedies = []
    if figures["gap"]:
        level = "warning"
        remedies.append("give the feed's --recovery, or look for what drops its ticks")
    if figures["rollback"]:
        level = "warning"
        remedies.append("lower --learning-rate, or learn with --bank default")
    if figures["refused"]:
        level = "warning" if level == "warning" else "note"
        remedies.append("the table `events` of the store tells why inputs were refused")
    return Finding("stored_events", level, told, "; ".join(remedies), figures)


STILL = 1e-6
"""A standard deviation of stored probabilities below which they are all alike."""


def _scores(connection: sqlite3.Connection, stream: str) -> Finding:
    """Look at what was published and scored."""
    name = "stored_predictions"
    rows = connection.execute(
        "SELECT s.log_loss, s.base_rate_p, s.label FROM scores s WHERE s.stream = ?", (stream,)
    ).fetchall()
    ps = connection.execute("SELECT p FROM predictions WHERE stream = ?", (stream,)).fetchall()
    if not ps:
        return Finding(name, "note", "no predictions are stored", "let it run for longer")
    spread = float(np.std([p for (p,) in ps]))
    figures: dict[str, Any] = {"predictions": len(ps), "labels": len(rows), "p_sd": spread}
    told = f"{count(len(ps), 'predictions')} are stored, their p having a s.d. of {spread:.2g}"
    scored = [(loss, base, label) for loss, base, label in rows if loss is not None]
    if scored:
        figures["log_loss"] = float(np.mean([loss for loss, *_ in scored]))
        told += f"; log loss {figures['log_loss']:.4f} over {count(len(scored), 'labels')}"
    if len(ps) > 1 and spread < STILL:
        return Finding(
            name, "fault", f"every prediction was the same: {told}",
            "see input_scale, constant_inputs and gates", figures,
        )  # fmt: skip
    return Finding(name, "ok", told, "", figures)
