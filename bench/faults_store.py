"""Faults of a store: every write that fails, as the kernel would have it fail.

`strace` makes one call of the system fail, the next run the call after it, and so on, with EIO and
with ENOSPC, in a process that writes a small store. Afterwards the store must hold everything, or
the process must have refused to begin with it, in a sentence; then a second run, without a fault,
must bring it to hold everything.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stream_lstm.errors import StreamLSTMError
from stream_lstm.events import Prediction, Ticks
from stream_lstm.store import schema
from stream_lstm.store import writer as writing
from stream_lstm.store.reading import entries
from stream_lstm.store.units import Saved, Step

CALLS = {"pwrite64": 330, "fdatasync": 44, "ftruncate": 12, "openat": 8, "unlink": 6}
"""Those that can fail, and about how many of each there are in a run."""

ERRORS = ("EIO", "ENOSPC")
STEPS, ROWS = 24, 10
CHECKPOINT_PAGES = 8
"""Of the journal file, so that the writes of its folding in are met too."""

OPENED = "s.db"


def available() -> str:
    """Return why calls cannot be made to fail here, "" where they can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run(
        ["strace", "-e", "inject=uname:error=EIO", "true"], capture_output=True, check=False
    )
    return "" if tried.returncode == 0 else "strace may not trace here"


def write_errors(count: int, seed: int = 0) -> dict[str, Any]:
    """Make one call fail in each of `count` runs, at random places, of all kinds in turn.

    Returns figures: `injected` runs in which a call failed, `retried` ones that wrote on,
    `refused` ones that said so and ended, and `lost`, which must be 0.
    """
    found = dict.fromkeys(("runs", "injected", "retried", "refused", "lost"), 0)
    for call, error, when in schedule(count, seed):
        with tempfile.TemporaryDirectory() as folder:
            told = one(Path(folder), call, error, when)
        found["runs"] += 1
        for key in told:
            found[key] += told[key]
    return found


def schedule(count: int, seed: int) -> Iterator[tuple[str, str, int]]:
    """Yield (call, error, which of those calls), `count` of them, of all kinds in turn."""
    kinds = [(call, error) for error in ERRORS for call in CALLS]
    rng = np.random.default_rng(seed)
    for k in range(count):
        call, error = kinds[k % len(kinds)]
        yield call, error, int(rng.integers(1, CALLS[call] + 1))


def one(folder: Path, call: str, error: str, when: int) -> dict[str, int]:
    """Let one call fail, and look at what is left."""
    path, log = folder / OPENED, folder / "trace"
    # -P: only what is done to the store's own files
    names = [path, *(path.with_name(path.name + end) for end in ("-wal", "-shm", "-journal"))]
    paths = [word for name in names for word in ("-P", str(name))]
    fault = f"inject={call}:error={error}:when={when}"
    strace = ["strace", "-f", "-o", str(log), "-e", f"trace={call}", "-e", fault, *paths]
    told = json.loads(child(path, strace))
    injected = int("(INJECTED)" in log.read_text())
    whole = holds_everything(path)
    if not whole and "refused" in told:
        json.loads(child(path, []))
        whole = holds_everything(path)
    return {
        "injected": injected,
        "retried": int(told.get("retries", 0) > 0),
        "refused": int("refused" in told),
        "lost": int(not whole),
    }


def child(path: Path, before: list[str]) -> str:
    """Write the store in a process of its own, and return the line that it prints."""
    command = [*before, sys.executable, "-m", "bench.faults_store", str(path)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=Path(__file__).parents[1],
    )
    if done.returncode:
        raise SystemExit(f"bench: writing {path} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def holds_everything(path: Path) -> bool:
    """Return whether the store is sound and holds every tick and prediction."""
    try:
        connection = schema.connect_reader(path)
    except StreamLSTMError:
        return False
    try:
        sound = connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        rows = [entry.event for entry in entries(connection) if isinstance(entry.event, Ticks)]
        made = connection.execute("SELECT count(*) FROM predictions").fetchone()[0]
    except (sqlite3.Error, StreamLSTMError):
        return False
    finally:
        connection.close()
    had = np.concatenate([ticks.values for ticks in rows]) if rows else np.empty((0, 1))
    return sound and made == STEPS and np.array_equal(had, numbers(0, STEPS * ROWS))


class Zeros:
    """The state of a snapshot, of no session."""

    def chunks(self) -> Iterator[bytes]:
        """Yield its bytes."""
        yield bytes(9000)


def numbers(start: int, stop: int) -> np.ndarray:
    """Return the values of ticks, (n, 1)."""
    return np.arange(start, stop, dtype=np.float64)[:, None]


def main(path: Path) -> dict[str, Any]:
    """Write what the store lacks of its steps; return the result."""

    def connect() -> sqlite3.Connection:
        connection = schema.connect(path)
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        return connection

    try:
        connection = connect()
        connection.execute("INSERT OR IGNORE INTO runs VALUES (1, 0, 0, 'bench', 0, '', '', '')")
        had = connection.execute("SELECT count(*) FROM predictions").fetchone()[0]
        connection.close()
    except StreamLSTMError as error:
        return {"refused": str(error)}
    except sqlite3.Error as error:
        return {"refused": str(schema.failure(path, error))}
    writer = writing.Writer(connect, 1, commit_elements=1, commit_s=0.001, blocking=False)
    handed = 0
    for k in range(had, STEPS):
        start = k * ROWS
        times = np.zeros(ROWS, np.int64)
        ticks = Ticks("a", times, numbers(start, start + ROWS), "s", start + 1)
        made = Prediction("a", start + ROWS, 0, 0.5, "s")
        writer.put([Step(ticks, ROWS, [made])])
        if k % 8 == 7:
            writer.put(Saved(Zeros().chunks, 1, "", start + ROWS))
            handed += 1
        handed += 1
        # each in a transaction of its own
        while writer.written < handed and writer.failure is None:
            time.sleep(0.0005)
    left = writer.close()
    if writer.failure is not None:
        return {"refused": str(writer.failure)}
    return {"left": left, "retries": writer.retries}


if __name__ == "__main__":
    writing.PAUSE_S = 0.0
    print(json.dumps(main(Path(sys.argv[1]))))
