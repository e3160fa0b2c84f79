"""Stores for tests: sessions with shared engines, driven as a daemon or a replay drives them."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream_lstm.config import Config, StoreConfig
from stream_lstm.core.session import Session
from stream_lstm.events import Gap, Label, Output, Prediction, Score, SessionStart, Ticks
from stream_lstm.store import chain
from stream_lstm.store.reading import Setup
from stream_lstm.store.schema import connect, connect_reader
from stream_lstm.store.store import Store
from stream_lstm.store.units import Settle

from ..engines import engine_for, settings

COLUMNS = ("x",)
LEARNING = {"learn": True, "score_window": 0}
OFTEN = StoreConfig(snapshot_every=60)
WAIT_S = 30.0


def series(n: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 1))


def ticks(values: np.ndarray, seq: int = 1, stream: str = "a", session: str = "s1") -> Ticks:
    times = np.arange(seq, seq + len(values), dtype=np.int64) * 10**9
    return Ticks(stream, times, values, session, seq)


def cut(values: np.ndarray, edges: Iterable[int], first: int = 1, **more: Any) -> list[Ticks]:
    """Blocks that end at `edges`, the first tick having number `first`."""
    ends = [*edges, len(values)]
    return [
        ticks(values[low:high], low + first, **more)
        for low, high in zip([0, *ends], ends, strict=False)
        if high > low
    ]


def wait_until(true: Callable[[], bool]) -> None:
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
        self.store = Store(
            path,
            Setup(config, COLUMNS, **more),
            options,
            command="test",
            blocking=blocking,
            say=say,
        )
        try:
            self.session = Session(
                config,
                COLUMNS,
                self._emit,
                weights=self.store.setup.weights,
                members=more.get("members"),
                engine=engine_for(config, 1, more.get("members")),
            )
            self.resumed = self.store.begin(self.session)
        except BaseException:
            self.store.close(whole=False)
            raise

    def _emit(self, event: Output) -> None:
        self.events.append(event)
        self.store(event)

    def feed(self, *inputs: Ticks | Label | Gap | SessionStart | Settle) -> StoredSession:
        for event in inputs:
            match event:
                case Ticks():
                    self.session.push(event)
                case Label():
                    self.session.label(event)
                case Gap():
                    self.session.gap(event)
                case SessionStart():
                    self.session.session_start(event)
                case Settle():
                    self.session.settle()
            self.store(event)
        return self

    def kill(self) -> None:
        """End as a kill between two commits does: no last snapshot, nothing settled."""
        self.store.close(whole=False)

    def __enter__(self) -> StoredSession:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.store.__exit__(kind, error, trace)


def change(path: Path, sql: str, *values: Any) -> None:
    """Alter a store as a fault of the disk does: its checksums are those of what was written."""
    with sqlite3.connect(path) as connection:
        connection.execute(sql, values)
    connection.close()


def reseal(path: Path) -> None:
    """Give a store that was altered the checksums of what it holds now."""
    connection = connect(path)
    connection.execute("BEGIN")
    _rebuild(connection)
    connection.execute("COMMIT")
    connection.close()


def _rebuild(connection):
    """Compute all checksums again from the rows as they are."""
    held = chain._SUMS.pack(*(chain.sum_in(connection, table) for table in chain.MUTABLE))
    last = "number = (SELECT max(number) FROM commits)"
    connection.execute(f"UPDATE commits SET held = ? WHERE {last}", (held,))
    before = chain._anchor(connection, 0)
    for _, seal, rows in chain._transactions(connection, before):
        before = seal._replace(digest=chain._digest(before, seal, rows))
        connection.execute(
            "UPDATE commits SET digest = ? WHERE number = ?", (before.digest, before.number)
        )


def query(path: Path, sql: str) -> list[tuple[Any, ...]]:
    connection = connect_reader(path)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def predictions(path: Path) -> list[tuple[Any, ...]]:
    """What is stored of each prediction, in the order in which they were made."""
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
