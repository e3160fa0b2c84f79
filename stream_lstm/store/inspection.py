"""The content of a store in numbers, and the series of one of its streams for the doctor."""

from __future__ import annotations

import math
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from ..config import Config
from ..core.doctor.advice import proposed, slower
from ..core.doctor.inputs import Finding, Level, TickTable, series_of
from ..errors import StoreError, UsageError
from ..events import Label, Ticks
from ..quoting import count
from .journal import first_pos, last_pos, read_positions
from .reading import Setup, entries, is_whole, read_setup
from .schema import NAMES, VERSION, connect_reader, using
from .units import snapshots


def contents(path: Path) -> dict[str, Any]:
    """Return the content of a store, fit for JSON; raises what `connect_reader` raises."""
    with using(connect_reader(path), path) as connection:

        def one(sql: str) -> Any:
            return connection.execute(sql).fetchone()[0]

        wal = path.with_name(path.name + "-wal")
        setup = dict(connection.execute("SELECT name, value FROM setup WHERE name <> 'start'"))
        events = "SELECT kind, sum(count) FROM events GROUP BY kind ORDER BY kind"
        names = ("run", "started_ns", "pos", "command", "version", "runtime")
        runs = connection.execute(f"SELECT {', '.join(names)} FROM runs ORDER BY run")  # noqa: S608
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
                dict(zip(names, (*row[:5], msgspec.json.decode(row[5])), strict=True))
                for row in runs
            ],
            "columns": msgspec.json.decode(setup.get("columns", "[]")),
            "configuration": msgspec.json.decode(setup.get("configuration", "{}")),
        }


# ---- for the doctor ---------------------------------------------------------------------


class StoredSeries(NamedTuple):
    """The setup of a store, one of its streams as a table, and findings from the store."""

    setup: Setup
    stream: str
    table: TickTable
    findings: tuple[Finding, ...]


def stored_series(path: Path, stream: str | None, limit: int) -> StoredSeries:
    """Return up to `limit` ticks of a stream, by default the longest one.

    Raises UsageError for an unknown stream, and what `connect_reader` raises.
    """
    with using(connect_reader(path), path) as connection:
        setup = read_setup(connection, str(path))
        if setup is None:
            raise StoreError(f"{path} is empty: no run has written to it yet")
        rows = connection.execute("SELECT stream FROM streams ORDER BY ticks DESC, stream")
        names = [name for (name,) in rows]
        if not names:
            raise StoreError(f"{path} has no ticks yet")
        if stream is not None and stream not in names:
            raise UsageError(f"--stream {stream}: {path} has {', '.join(names[:10])}")
        name = names[0] if stream is None else stream
        table = _table(connection, setup, name, limit)
        findings = (
            _event_finding(connection, name, setup.config),
            _prediction_finding(connection, name),
        )
        return StoredSeries(setup, name, table, findings)


def _table(connection: sqlite3.Connection, setup: Setup, stream: str, limit: int) -> TickTable:
    t_ns, fields = [np.zeros(0, np.int64)], [np.zeros((0, len(setup.columns)))]
    rows = 0
    labels: dict[int, float] = {}
    for entry in entries(connection, first_pos(connection) - 1):
        event = entry.event
        if isinstance(event, Ticks) and event.stream == stream and rows < limit:
            t_ns.append(event.t_ns[: limit - rows])
            fields.append(event.values[: limit - rows])
            rows += len(fields[-1])
        elif isinstance(event, Label) and event.stream == stream:
            labels.setdefault(event.n, event.y)
    times = np.concatenate(t_ns)
    table = TickTable(
        setup.columns, np.concatenate(fields), times if times.any() else None,
        np.arange(1, rows + 1),
    )  # fmt: skip
    if setup.config.stream.labels != "external":
        return table
    before = connection.execute(
        "SELECT n_before FROM ticks WHERE stream = ? ORDER BY pos LIMIT 1", (stream,)
    ).fetchone()
    column = _label_column(table, setup.config, labels, before[0] if before else 0)
    return table._replace(labels=column)


def _label_column(
    table: TickTable, config: Config, labels: dict[int, float], before: int
) -> np.ndarray:
    """Return the labels in the rows where a label column has them, NaN elsewhere."""
    column = np.full(len(table.values), math.nan)
    rows = series_of(config.stream, table).at
    for n, y in labels.items():
        place = n + config.stream.horizon - before - 1
        if 0 <= place < len(rows):
            column[rows[place]] = y
    return column


EVENTS = {
    "gap": "ticks lost in gaps",
    "refused": "inputs refused",
    "rollback": "roll-backs",
}
"""Kinds of events that the doctor reports."""


def _event_finding(connection: sqlite3.Connection, stream: str, config: Config) -> Finding:
    counts: Counter[str] = Counter()
    for kind, times in connection.execute(
        "SELECT kind, sum(count) FROM events WHERE stream = ? GROUP BY kind", (stream,)
    ):
        counts[kind.partition(" ")[0]] += times
    figures = {kind: counts[kind] for kind in EVENTS}
    level: Level = "ok"
    remedies = []
    if figures["gap"]:
        level = "warning"
        remedies.append("set the feed's --recovery, or find what drops its ticks")
    if figures["rollback"]:
        level = "warning"
        ways = filter(None, [slower(config), proposed(config, "--bank default")])
        remedies.append(", or ".join(ways))
    if figures["refused"]:
        level = "warning" if level == "warning" else "note"
        remedies.append("the store's table `events` has the reasons of refused inputs")
    evidence = ", ".join(f"{number:,} {EVENTS[kind]}" for kind, number in figures.items())
    return Finding("stored_events", level, evidence, "; ".join(remedies), figures)


CONSTANT = 1e-6
"""The standard deviation of p below which all predictions count as equal."""


def _prediction_finding(connection: sqlite3.Connection, stream: str) -> Finding:
    name = "stored_predictions"
    losses = connection.execute("SELECT log_loss FROM scores WHERE stream = ?", (stream,))
    scores = [loss for (loss,) in losses]
    ps = connection.execute("SELECT p FROM predictions WHERE stream = ?", (stream,)).fetchall()
    if not ps:
        return Finding(name, "note", "no predictions are stored", "let it run for longer")
    spread = float(np.std([p for (p,) in ps]))
    figures: dict[str, Any] = {"predictions": len(ps), "labels": len(scores), "p_sd": spread}
    evidence = f"{count(len(ps), 'predictions')} are stored; the s.d. of their p is {spread:.2g}"
    finite = [loss for loss in scores if loss is not None]
    if finite:
        figures["log_loss"] = float(np.mean(finite))
        evidence += f"; log loss {figures['log_loss']:.4f} over {count(len(finite), 'labels')}"
    if len(ps) > 1 and spread < CONSTANT:
        remedy = "see input_scale, constant_inputs and gates"
        return Finding(name, "fault", f"all predictions are equal: {evidence}", remedy, figures)
    return Finding(name, "ok", evidence, "", figures)
