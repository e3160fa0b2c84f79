"""A small store of the schema's version 1, frozen as SQL, which every later program must read.

`python -m tests.store.frozen` writes `v1.sql`, which was done once, when version 1 was released; a
later version gets a file of its own.
"""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path

from stream_lstm.config import StoreConfig
from stream_lstm.events import Gap
from stream_lstm.store import schema

from ..engines import settings
from .stores import StoredSession, series, ticks

V1 = Path(__file__).with_name("v1.sql")


def thaw(path: Path) -> None:
    """Make the store anew, as a program of version 1 left it."""
    connection = sqlite3.connect(path)
    connection.executescript(V1.read_text(encoding="utf-8"))
    connection.execute(f"PRAGMA application_id = {0x534C5354}")
    connection.execute("PRAGMA user_version = 1")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()


def freeze() -> None:
    """Write the file."""
    assert schema.VERSION == 1, "a store of a later version is another file"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.db"
        kept = StoredSession(path, settings(score_window=0), StoreConfig())
        kept.feed(ticks(series(40)), Gap("a", 41, 2), ticks(series(20, seed=4), 43))
        kept.kill()
        connection = sqlite3.connect(path)
        V1.write_text("\n".join(connection.iterdump()) + "\n", encoding="utf-8")
        connection.close()


if __name__ == "__main__":
    freeze()
