"""The file that a recovery writes: made beside its place, and named once it is whole.

The damaged file is opened for reading alone, and locked so that no daemon starts on it meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from ..core.session import Session
from ..errors import InputMissingError, OutputError, StoreError, UsageError
from ..feed.reader import check_plain
from .chain import damage
from .journal import last_pos
from .lock import StoreLock
from .reading import Setup, is_whole, read_setup, snapshot_state, snapshots
from .recovery import Keep, Progress, Recovered, StoreRecovery, open_damaged, salvage
from .schema import UNREADABLE, connect, is_store

PARTIAL = ".recovering"
"""The suffix of the file while it is made."""

BESIDE = ("", "-journal", "-wal", "-shm")
"""Suffixes of what SQLite has of one database."""

MakeSession = Callable[[Setup], Session]


def recover(
    store: Path,
    new: Path,
    session: MakeSession,
    *,
    keep: Keep = "newest",
    report: Progress = lambda *_: None,
) -> Recovered | None:
    """Write what is of use of a damaged store as a store of its own; None where it is not damaged.

    session: makes one of the store's setup. Takes the place of a file of the name `new`, unless a
    process uses it. Nothing is left of an attempt that fails but, after a kill, `new` with the
    suffix `.recovering`, which the next attempt removes.

    Raises StoreError where nothing is of use, LockedError, InputMissingError, UsageError,
    OutputError, and StreamLSTMError where the journal leads to other predictions.
    """
    check_plain(store)
    if not store.is_file():
        raise InputMissingError(f"no such store: {store}")
    if not is_store(store):
        raise StoreError(
            f"{store} is no store, or its first page is damaged: nothing can be read of it. Put "
            "back a copy, or start a new store"
        )
    new = Path(os.path.realpath(new))
    partial = new.with_name(new.name + PARTIAL)
    _check_names(store, new, partial)
    with _locked(store), _locked(new):
        what = damage_of(store)
        if what is None:
            return None
        _remove(partial)
        try:
            found = _write(store, partial, session, what, keep, report)
            _name(partial, new)
        except sqlite3.Error as error:
            raise OutputError(f"cannot write {new}: {error}") from None
        except OSError as error:
            raise OutputError(f"cannot write {new}: {error.strerror or error}") from None
        finally:
            _remove(partial)
        return found


def damage_of(store: Path) -> str | None:
    """Return what is damaged, None where a start on the store can succeed."""
    try:
        connection = open_damaged(store, lenient=False)
    except StoreError:
        return "its first page or the definition of a table is damaged, or its end is missing"
    try:
        if read_setup(connection, str(store)) is None:
            raise StoreError(f"{store} is empty: nothing was ever stored in it")
        found = damage(connection)
        if found is not None:
            return found.what
        about = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if about != "ok":
            return str(about).strip().splitlines()[-1]
        return (
            None if _has_start(connection) else "no snapshot is whole, and the journal has a hole"
        )
    except StoreError as error:
        return str(error)
    except UNREADABLE as error:
        return str(error)
    finally:
        connection.close()


def _has_start(connection: sqlite3.Connection) -> bool:
    end = last_pos(connection)
    if is_whole(connection, 0, end):
        return True
    for row in snapshots(connection):
        if row.set_aside is None and is_whole(connection, row.pos, end):
            with contextlib.suppress(StoreError):
                snapshot_state(connection, row.snapshot)
                return True
    return False


def _write(
    store: Path, partial: Path, session: MakeSession, what: str, keep: Keep, report: Progress
) -> Recovered:
    """Write the file beside its place."""
    target = connect(partial, sync="off")  # it has no name yet, and is flushed once it is whole
    try:
        shutil.copymode(store, partial)
        target.execute("PRAGMA journal_mode = DELETE")
        target.execute("PRAGMA foreign_keys = OFF")
        source = open_damaged(store)
        try:
            target.execute("BEGIN IMMEDIATE")
            salvaged = salvage(source, target, report)
            target.execute("COMMIT")
        finally:
            source.close()
        setup = _setup(target, store)
        found = StoreRecovery(target, salvaged, lambda: session(setup), str(store)).run(what, keep)
        target.execute("VACUUM")
    finally:
        target.close()
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    return found


def _setup(connection: sqlite3.Connection, store: Path) -> Setup:
    try:
        setup = read_setup(connection, str(store))
    except StoreError as error:
        why = str(error).removeprefix(f"{store} is damaged: ").partition(". ")[0]
        raise _useless(store, why) from None
    if setup is None:
        raise _useless(store, "the configuration and weights that it was begun with are not there")
    return setup


def _useless(store: Path, why: str) -> StoreError:
    return StoreError(
        f"{store} cannot be recovered: {why}, and without them its journal leads nowhere. Put "
        "back a copy, or start a new store"
    )


def _check_names(store: Path, new: Path, partial: Path) -> None:
    """Raise UsageError where writing `new` would touch the damaged store."""
    real = Path(os.path.realpath(store))
    own = [real.with_name(real.name + suffix) for suffix in (*BESIDE, ".lock", PARTIAL)]
    made = [path.with_name(path.name + suffix) for path in (new, partial) for suffix in BESIDE]
    if new in own or any(path in own[:-1] for path in made) or _same(new, real):
        raise UsageError(f"--to {new} belongs to the store that is read; name another file")


def _same(one: Path, other: Path) -> bool:
    return one.exists() and one.samefile(other)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes from a store; where it cannot be written to, no process needs that."""
    lock = None
    if path.exists() and os.access(path, os.W_OK) and os.access(path.resolve().parent, os.W_OK):
        lock = StoreLock(path)
    try:
        yield
    finally:
        if lock is not None:
            lock.close()


def _name(partial: Path, new: Path) -> None:
    """Give the file its name, with no log of an earlier file beside it."""
    if new.exists():
        with contextlib.suppress(sqlite3.Error):  # it may be no store, or a damaged one
            earlier = sqlite3.connect(new)
            try:
                earlier.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                earlier.close()
    for suffix in BESIDE[1:]:
        new.with_name(new.name + suffix).unlink(missing_ok=True)
    os.replace(partial, new)
    if os.name == "nt":
        return  # a folder cannot be opened there
    folder = os.open(new.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _remove(partial: Path) -> None:
    for suffix in BESIDE:
        with contextlib.suppress(OSError):
            partial.with_name(partial.name + suffix).unlink(missing_ok=True)
