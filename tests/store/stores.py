"""Stores for tests: sessions with shared engines, driven as a daemon or a replay drives them."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from stream_lstm.config import Config, StoreConfig
from stream_lstm.core.session import Session
from stream_lstm.events import Output, Prediction, Score, Ticks
from stream_lstm.store import chain
from stream_lstm.store.reading import Setup, drive
from stream_lstm.store.schema import connect, connect_reader
from stream_lstm.store.store import Store
from stream_lstm.store.units import StoredInput

from ..engines import engine_for, settings

COLUMNS = ("x",)
LEARNING = {"learn": True, "score_window": 0}
OFTEN = StoreConfig(snapshot_every=60)
WAIT_S = 30.0
PAGE = 4096
TABLES = ("runs", "streams", "ticks", "labels", "predictions", "scores", "updates", "events",
          "snapshots", "commits")  # fmt: skip


def series(n: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 1))


def ticks(values: np.ndarray, seq: int = 1, stream: str = "a", session: str = "s1") -> Ticks:
    times = np.arange(seq, seq + len(values), dtype=np.int64) * 10**9
    return Ticks(stream, times, values, session, seq)


def cut(values: np.ndarray, edges: Iterable[int] = (), first: int = 1) -> list[Ticks]:
    """Blocks that end at `edges`, the first tick having number `first`."""
    ends = [*edges, len(values)]
    return [
        ticks(values[low:high], low + first)
        for low, high in zip([0, *ends], ends, strict=False)
        if high > low
    ]


def singles(values: np.ndarray, first: int = 1) -> list[Ticks]:
    return cut(values, range(1, len(values)), first)


def wait_until(true: Callable[[], object]) -> None:
    """Wait until another thread has brought something about; fails after WAIT_S."""
    waiting = threading.Event()
    for _ in range(int(WAIT_S / 0.01)):
        if true():
            return
        waiting.wait(0.01)
    pytest.fail(f"it did not happen within {WAIT_S} s")


class StoredSession:
    """A session with a store; a context manager that closes it as a clean stop does."""

    def __init__(
        self,
        path: Path,
        config: Config | None = None,
        options: StoreConfig = OFTEN,
        *,
        blocking: bool = True,
        say: Callable[[str], object] = lambda _: None,
        **more: Any,
    ) -> None:
        self.events: list[Output] = []
        config = config or settings(**LEARNING)
        setup = Setup(config, COLUMNS, **more)
        self.store = Store(path, setup, options, command="test", blocking=blocking, say=say)
        try:
            self.session = Session(
                config,
                COLUMNS,
                self._emit,
                weights=self.store.setup.weights,
                members=more.get("members"),
                engine=engine_for(config, len(config.stream.features), more.get("members")),
            )
            self.resumed = self.store.begin(self.session)
        except BaseException:
            self.store.close(whole=False)
            raise

    def _emit(self, event: Output) -> None:
        self.events.append(event)
        self.store(event)

    def feed(self, *inputs: StoredInput) -> StoredSession:
        for event in inputs:
            if isinstance(event, Ticks):
                self.session.push(event)
            else:
                drive(self.session, event)
            self.store(event)
        return self

    def settle(self) -> StoredSession:
        """Wait until everything is written."""
        wait_until(lambda: not self.store.waiting_bytes)
        return self

    def kill(self) -> StoredSession:
        """End as a kill between two commits does: no last snapshot, nothing settled."""
        self.store.close(whole=False)
        return self

    def __enter__(self) -> StoredSession:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.store.__exit__(kind, error, trace)


def many_blocks(path: Path, options: StoreConfig, *, blocking: bool, n: int = 1500) -> Any:
    """A session of `n` ticks that were committed five at a time."""
    with StoredSession(path, settings(**LEARNING), options, blocking=blocking) as session:
        for block in cut(series(n), range(5, n, 5)):
            session.feed(block)
            session.store._writer.catch_up()
    return session


class Trimmed(NamedTuple):
    """A store at its limit, and the session that wrote it."""

    path: Path
    options: StoreConfig
    session: StoredSession


def change(path: Path, sql: str, *values: Any) -> None:
    """Alter a store as a fault of the disk does: its checksums are those of what was written."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute(sql, values)


def fold_log(path: Path) -> Path:
    """Write the log into the file, so that a copy of the file is all of the store."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


def reseal(path: Path) -> None:
    """Give an altered store the checksums of its present rows."""
    with contextlib.closing(connect(path)) as connection:
        connection.execute("BEGIN")
        packed = chain._SUMS.pack(*(chain.sum_in(connection, table) for table in chain.MUTABLE))
        last = "number = (SELECT max(number) FROM commits)"
        connection.execute(f"UPDATE commits SET held = ? WHERE {last}", (packed,))
        before = chain._anchor(connection, 0)
        for _, seal, rows in chain._transactions(connection, before):
            before = seal._replace(digest=chain._digest(before, seal, rows))
            sql = "UPDATE commits SET digest = ? WHERE number = ?"
            connection.execute(sql, (before.digest, before.number))
        connection.execute("COMMIT")


def thaw(path: Path) -> None:
    """Create the store that a program of version 1 left."""
    connection = sqlite3.connect(path)
    connection.executescript(Path(__file__).with_name("v1.sql").read_text(encoding="utf-8"))
    connection.execute(f"PRAGMA application_id = {0x534C5354}")
    connection.execute("PRAGMA user_version = 1")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()


def query(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(connect_reader(path)) as connection:
        return connection.execute(sql).fetchall()


def value(path: Path, sql: str) -> Any:
    """The one cell of a query."""
    [(cell,)] = query(path, f"SELECT {sql}")
    return cell


def predictions(path: Path) -> list[tuple[Any, ...]]:
    """The stored predictions, in the order in which they were made."""
    return query(
        path, "SELECT stream, n, p, t_ns, session, after_gap FROM predictions ORDER BY pos, n"
    )


def of(kind: type, events: Iterable[Any]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def shown(events: Iterable[Output]) -> list[tuple[Any, ...]]:
    """The same of predictions as they were emitted."""
    return [
        (e.stream, e.n, e.p, e.t_ns, e.session, int(e.after_gap)) for e in of(Prediction, events)
    ]


def scores(path: Path) -> list[tuple[Any, ...]]:
    return query(path, "SELECT stream, n, p, label, log_loss FROM scores ORDER BY stream, n")


def scored(events: Iterable[Output]) -> list[tuple[Any, ...]]:
    return sorted((e.stream, e.n, e.p, e.label, e.log_loss) for e in of(Score, events))
