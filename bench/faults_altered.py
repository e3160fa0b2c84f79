"""Stores with one altered cell, or altered bytes: a start resumes the right state or refuses.

A small store with rows in every table is built once, and the state of its session is noted after
each input. Each copy is altered in one place and started from in this process, with one compiled
engine. `right` starts came to the state of the end, or, where the journal file (WAL) was altered,
which SQLite ends at the first frame that does not fit, to that after an earlier input; `refused`
ones ended with StoreError (65) or ConfigurationError (78) that names the file. `wrong`, a state
that never was, and `other_errors`, which a user would see as a traceback, must be 0.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from stream_lstm.config import build
from stream_lstm.core import snapshot
from stream_lstm.core.session import Session
from stream_lstm.errors import ConfigurationError, StoreError
from stream_lstm.events import Gap, Input, Label, SessionStart, Ticks
from stream_lstm.store import schema
from stream_lstm.store.reading import Setup, drive
from stream_lstm.store.store import Store
from stream_lstm.store.units import JournalPosition

CONFIG = build({
    "features": ("x",), "labels": "external", "horizon": 0, "learn": True, "hidden": 4,
    "window": 20, "bptt": 10, "stride": 5, "snapshot_every": 150, "commit_elements": 1,
})  # fmt: skip
COLUMNS = ("x",)
BLOCKS, ROWS = 40, 10
PAGE = 4096
Alter = Callable[[Path, random.Random], object]


def cells(count: int, seed: int = 0) -> dict[str, Any]:
    """Start from `count` stores with one altered cell each."""
    return _altered(count, random.Random(seed), [alter_cell], journal=False)


def altered_bytes(count: int, seed: int = 0) -> dict[str, Any]:
    """Start from `count` stores with altered bytes, half of them in the journal file."""
    chance = random.Random(seed)
    found = _altered(count - count // 2, chance, [flip, zero, swap, cut], journal=False)
    other = _altered(count // 2, chance, [flip, zero, swap, cut], journal=True)
    return {key: found[key] or other[key] if key == "first" else found[key] + other[key]
            for key in found}  # fmt: skip


def _altered(
    count: int, chance: random.Random, ways: list[Alter], *, journal: bool
) -> dict[str, Any]:
    found: dict[str, Any] = dict.fromkeys(
        ("altered", "right", "refused", "wrong", "other_errors"), 0
    )
    found["first"] = ""
    with tempfile.TemporaryDirectory(prefix="sl") as folder:
        whole, copy = Path(folder) / "whole.db", Path(folder) / "copy.db"
        with lived(whole, journal=journal) as (engine, states):
            for k in range(count):
                for end in ("", "-wal", "-shm"):
                    copy.with_name(copy.name + end).unlink(missing_ok=True)
                shutil.copy(whole, copy)
                changed = copy
                if journal:
                    changed = copy.with_name(f"{copy.name}-wal")
                    shutil.copy(whole.with_name(f"{whole.name}-wal"), changed)
                told = ways[k % len(ways)](changed, chance)
                outcome, why = started(copy, engine, states if journal else states[-1:])
                found["altered"] += 1
                found[outcome] += 1
                if outcome in ("wrong", "other_errors") and not found["first"]:
                    found["first"] = f"{ways[k % len(ways)].__name__} {told}: {why}"
    return found


# ---- the store ----------------------------------------------------------------------------


@contextlib.contextmanager
def lived(path: Path, *, journal: bool) -> Iterator[tuple[Any, list[bytes]]]:
    """Write a store; yield an engine, and the states after its inputs, the last of them its own.

    journal: the second half stays in the journal file while this is open.
    """
    store = opened(path)
    session = Session(CONFIG, COLUMNS, store)
    store.begin(session)
    states, positions, reader = [], dict[str, JournalPosition](), None
    for k, event in enumerate(inputs()):
        if journal and k == BLOCKS:
            store.close(whole=False)
            reader = schema.connect_reader(path)
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM ticks").fetchone()
            store = opened(path)
            session = Session(CONFIG, COLUMNS, store, engine=session.engine)
            store.begin(session)
        drive(session, event)
        store(event)
        if k % 16 == 0:
            store.note("stale", event.stream, "of the bench")
        assert store._writer is not None
        store._writer.catch_up()  # a transaction each: how many a thread joins is up to its pace
        if not isinstance(event, Label):
            place = positions.setdefault(event.stream, JournalPosition())
            place.follow(event)
            place.ticks += isinstance(event, Ticks)
        states.append(state(session, positions))
    store.close(whole=False)  # as a kill leaves it: without a last snapshot
    try:
        yield session.engine, states
    finally:
        if reader is not None:
            reader.close()


def inputs() -> Iterator[Input]:
    """Yield ticks of two streams, labels, a gap and a restart of the publisher."""
    rng, due = np.random.default_rng(0), {"a": 1, "b": 1}
    for k in range(BLOCKS):
        stream = "ab"[k % 3 == 2]
        if k == BLOCKS // 2:
            yield Gap(stream, due[stream] + 3, 3)
            due[stream] += 3
        if k == BLOCKS // 4:
            yield SessionStart(stream, "s2")
            due[stream] = 1
        session = "s2" if stream == "ab"[BLOCKS // 4 % 3 == 2] and k >= BLOCKS // 4 else "s1"
        times = np.arange(ROWS, dtype=np.int64) + ROWS * k
        yield Ticks(stream, times, rng.normal(size=(ROWS, 1)), session, due[stream])
        due[stream] += ROWS
        yield Label("a", 20 + 5 * (k // 2), k // 2 % 2, k)


def opened(path: Path) -> Store:
    """Open the store, or a copy of it."""
    return Store(path, Setup(CONFIG, COLUMNS), CONFIG.store, command="run", blocking=True)


def state(session: Session, positions: dict[str, JournalPosition]) -> bytes:
    """Return a digest of all that a session holds, and of where its streams stand."""
    session.catch_up()
    due = {name: (place.run_id, place.next_seq) for name, place in positions.items()}
    return hashlib.sha256(snapshot.take(session) + repr(sorted(due.items())).encode()).digest()


def started(path: Path, engine: Any, states: list[bytes]) -> tuple[str, str]:
    """Start from a store as `run` does; return what happened, and the error or the place."""
    try:
        store = opened(path)
        try:
            session = Session(
                CONFIG, COLUMNS, lambda _: None, weights=store.setup.weights, engine=engine
            )
            store.begin(session)
            right = state(session, store.positions) in states
        finally:
            store.close(whole=False)
    except (StoreError, ConfigurationError) as error:
        return ("refused" if str(path) in str(error) else "other_errors"), repr(error)
    except Exception as error:
        return "other_errors", repr(error)
    return ("right", "") if right else ("wrong", "another state than any that was stored")


# ---- what is altered ----------------------------------------------------------------------


def alter_cell(path: Path, chance: random.Random) -> str:
    """Give a random cell of a random table another value that its column could have."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute("PRAGMA synchronous = OFF")
        while True:
            table = chance.choice(schema.NAMES)
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            rows = connection.execute(f"SELECT * FROM {table}").fetchall()
            if not rows:
                continue
            row, at = chance.choice(rows), chance.randrange(len(columns))
            new = other(row[at], [cells[at] for cells in rows], chance)
            same = " AND ".join(f"{column} IS ?" for column in columns)
            with contextlib.suppress(sqlite3.IntegrityError):
                change = f"UPDATE {table} SET {columns[at]} = ? WHERE {same}"
                if connection.execute(change, (new, *row)).rowcount and new != row[at]:
                    return f"{table}.{columns[at]}: {row[at]!r:.80} became {new!r:.80}"
    finally:
        connection.close()


def other(value: Any, column: list[Any], chance: random.Random) -> Any:
    """Return another value of a cell: of its column, empty, or with a flipped bit."""
    rest = [cell for cell in column if cell != value]
    if rest and chance.random() < 0.3:
        return chance.choice(rest)
    match value:
        case int():
            return chance.choice((value ^ 1 << chance.randrange(40), value + 1, value - 1, -value))
        case float():
            return chance.choice((1.0 - value, -value, value + 1.0, np.nextafter(value, 2.0)))
        case str():
            return chance.choice((f"{value}x", value[:-1], ""))
        case bytes() if value:
            at = chance.randrange(len(value))
            return value[:at] + bytes([value[at] ^ 1 << chance.randrange(8)]) + value[at + 1 :]
    return chance.choice((0, 1, "x"))


def flip(path: Path, chance: random.Random) -> str:
    """Flip a bit, or up to eight."""
    size, places = path.stat().st_size, []
    with path.open("r+b") as file:
        for _ in range(chance.randint(1, 8)):
            at, bit = chance.randrange(size), chance.randrange(8)
            places.append((at, bit))
            overwrite(file, at, lambda old, bit=bit: bytes([old[0] ^ 1 << bit]), 1)
    return str(places)


def zero(path: Path, chance: random.Random) -> str:
    """Fill a run of up to two pages with zeros."""
    at, count = chance.randrange(path.stat().st_size), chance.randint(1, 2 * PAGE)
    with path.open("r+b") as file:
        overwrite(file, at, lambda old: bytes(len(old)), count)
    return f"{count} zeros at {at}"


def swap(path: Path, chance: random.Random) -> str:
    """Exchange two pages."""
    one, two = chance.sample(range(path.stat().st_size // PAGE), 2)
    data = bytearray(path.read_bytes())
    first, second = (slice(k * PAGE, (k + 1) * PAGE) for k in (one, two))
    data[first], data[second] = data[second], data[first]
    path.write_bytes(data)
    return f"pages {one} and {two}"


def cut(path: Path, chance: random.Random) -> str:
    """Cut the end off; a file without any byte is a new store, and right."""
    size = chance.randint(1, path.stat().st_size - 1)
    os.truncate(path, size)
    return f"{size} bytes left"


def overwrite(file: BinaryIO, at: int, new: Callable[[bytes], bytes], count: int) -> None:
    file.seek(at)
    made = new(file.read(count))
    file.seek(at)
    file.write(made)
