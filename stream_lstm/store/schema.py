"""The tables of a store, and the opening of its file.

`pos` counts the rows of the journal: what came in, in its order, whichever table it stands in.
The journal is ticks, labels and those events whose `input` is 1, together; a `pos` that is missing
is a hole, and one that is known of stands as an event `hole`. Outputs carry the `pos` of the input
that they came of.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import msgspec

from ..errors import ConfigurationError, InputMissingError, OutputError, StoreError
from ..feed.plain_file import check_plain, other_kind
from .outputs import create_tables, missing_columns

APPLICATION_ID = 0x534C5354
"""`SLST`; `file` and SQLite show it."""

VERSION = 4

READABLE = 1
"""The oldest version whose tables can be read. No session is resumed from an older version than
this one: up to 2 the updates of a tick came before its prediction, and 3 was never released."""

MAGIC = b"SQLite format 3\0"

BUSY_MS = 5_000
"""A reader of ours or of the user's may be at a checkpoint."""

TABLES = f"""
CREATE TABLE runs (
    run INTEGER PRIMARY KEY,
    started_ns INTEGER NOT NULL,
    pos INTEGER NOT NULL,
    command TEXT NOT NULL,
    pid INTEGER NOT NULL,
    version TEXT NOT NULL,
    runtime TEXT NOT NULL,
    configuration TEXT NOT NULL
) STRICT;

CREATE TABLE setup (
    name TEXT PRIMARY KEY,
    value ANY NOT NULL,
    sha256 TEXT NOT NULL
) STRICT;

CREATE TABLE streams (
    stream TEXT PRIMARY KEY,
    session TEXT NOT NULL,
    next_seq INTEGER,
    n INTEGER NOT NULL,
    ticks INTEGER NOT NULL,
    labels INTEGER NOT NULL,
    times_crc INTEGER NOT NULL,
    fields_crc INTEGER NOT NULL,
    pos INTEGER NOT NULL
) STRICT;

CREATE TABLE ticks (
    pos INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES runs,
    stream TEXT NOT NULL,
    session TEXT NOT NULL,
    seq INTEGER,
    count INTEGER NOT NULL,
    n_before INTEGER NOT NULL,
    n_after INTEGER NOT NULL,
    t_ns BLOB NOT NULL CHECK (length(t_ns) = 8 * count),
    fields BLOB NOT NULL CHECK (length(fields) % (8 * count) = 0),
    crc INTEGER NOT NULL
) STRICT;

CREATE TABLE labels (
    pos INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES runs,
    stream TEXT NOT NULL,
    n INTEGER NOT NULL,
    y REAL,
    t_ns INTEGER NOT NULL
) STRICT;
{create_tables()}

CREATE TABLE events (
    event INTEGER PRIMARY KEY,
    pos INTEGER NOT NULL,
    run INTEGER NOT NULL REFERENCES runs,
    at_ns INTEGER NOT NULL,
    input INTEGER NOT NULL,
    kind TEXT NOT NULL,
    stream TEXT NOT NULL,
    session TEXT NOT NULL,
    seq INTEGER,
    n INTEGER,
    count INTEGER NOT NULL,
    reason TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX inputs_among_events ON events (pos) WHERE input = 1;

CREATE TABLE snapshots (
    snapshot INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES runs,
    pos INTEGER NOT NULL,
    taken_ns INTEGER NOT NULL,
    elements INTEGER NOT NULL,
    version INTEGER NOT NULL,
    fingerprint TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    set_aside TEXT
) STRICT;

CREATE TABLE snapshot_pieces (
    snapshot INTEGER NOT NULL,
    piece INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (snapshot, piece)
) STRICT;

CREATE TABLE commits (
    number INTEGER PRIMARY KEY,
    pos INTEGER NOT NULL,
    event INTEGER NOT NULL,
    digest BLOB NOT NULL,
    held BLOB NOT NULL
) STRICT;
"""

NAMES = ("runs", "setup", "streams", "ticks", "labels", "predictions", "scores", "updates",
         "events", "snapshots", "snapshot_pieces", "commits")  # fmt: skip
"""Every table."""


def is_store(path: Path) -> bool:
    """Return whether a file begins as a SQLite file does."""
    try:
        if other_kind(path):
            return False
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def connect(path: Path, *, sync: str = "normal") -> sqlite3.Connection:
    """Open a store for writing, made and brought up to date if need be.

    Raises ConfigurationError for one of another version, StoreError for a file that is no store,
    and OutputError where the operating system will not.
    """
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
            connection.execute("PRAGMA foreign_keys = ON")
            _bring_up_to_date(connection, path)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {sync}")
        except BaseException:
            connection.close()
            raise
    except UNREADABLE as error:
        raise failure(path, error) from None
    return connection


def connect_reader(path: Path, *, oldest: int = READABLE) -> sqlite3.Connection:
    """Open a store for reading alone, while it may be written to.

    oldest: the oldest version that serves. Raises InputMissingError where there is none, and else
    what `connect` raises.
    """
    check_plain(path)
    if not path.is_file():
        raise InputMissingError(f"no such store: {path}")
    return open_reader(
        path, "mode=ro", lambda connection: check_version(connection, path, oldest=oldest)
    )


def open_reader(
    path: Path, how: str, prepare: Callable[[sqlite3.Connection], object]
) -> sqlite3.Connection:
    """Open a file for reading, by the parameters `how` of a SQLite URI, and prepare it.

    Raises what `failure` makes of an error.
    """
    try:
        connection = sqlite3.connect(
            f"{path.resolve().as_uri()}?{how}", uri=True, isolation_level=None
        )
        try:
            connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
            prepare(connection)
        except BaseException:
            connection.close()
            raise
    except UNREADABLE as error:
        raise failure(path, error) from None
    return connection


UNREADABLE: tuple[type[Exception], ...] = (
    sqlite3.Error, UnicodeDecodeError, TypeError, ValueError, LookupError, OverflowError,
    msgspec.MsgspecError,
)  # fmt: skip
"""What reading raises where a cell is of another type than its column, or no text: a flipped bit
in the head of a row does that."""


WAY_OUT = "Put back a copy, or keep what is whole of it: stream-lstm recover STORE --to NEW"
"""What a user can do about a store that is damaged."""


def is_damage(error: Exception) -> bool:
    """Return whether an error of `UNREADABLE` comes of what is in the file."""
    if not isinstance(error, sqlite3.Error) or str(error).startswith("Could not decode"):
        return True
    if isinstance(error, sqlite3.IntegrityError):
        return True
    name = getattr(error, "sqlite_errorname", "")
    return name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_ERROR"))


def failure(path: Path, error: Exception) -> StoreError | OutputError:
    """Return what an error of `UNREADABLE` means for a user."""
    if is_damage(error):
        no_store = getattr(error, "sqlite_errorname", "") == "SQLITE_NOTADB"
        way_out = "Move it away and start a new store, or put back a copy" if no_store else WAY_OUT
        return StoreError(f"{path} is damaged or no store ({error}). {way_out}")
    return OutputError(f"cannot use the store {path}: {error}")


def check_version(connection: sqlite3.Connection, path: Path, *, oldest: int) -> None:
    """Raise StoreError for what is no store, and ConfigurationError for one of another version."""
    version = _version(connection, path)
    if version == 0:
        raise StoreError(f"{path} is empty: run and replay make a store of it")
    if version < oldest:
        raise _older(path, version)


def damaged(store: str, what: str) -> StoreError:
    """Return the error of a store that has a damage at a place."""
    return StoreError(f"{store} is damaged: {what}. {WAY_OUT}")


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of a store's schema, 0 for an empty file."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    empty = not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if application != APPLICATION_ID and not (empty and version == 0 and application == 0):
        raise StoreError(f"{path} is a SQLite file of something else, not a store")
    if version > VERSION:
        raise ConfigurationError(
            f"{path} has schema version {version}, and this program knows {VERSION}: use the "
            "newer program that wrote it, or name another store"
        )
    return version


def _older(path: Path, version: int) -> ConfigurationError:
    return ConfigurationError(
        f"{path} has schema version {version}, and this program resumes version {VERSION} alone: "
        "predictions now come before the updates of their tick, so the journal would lead to "
        f"others. Keep its contents with stream-lstm export {path} --out DIR, and name a new store"
    )


def _bring_up_to_date(connection: sqlite3.Connection, path: Path) -> None:
    version = _version(connection, path)
    if 0 < version < VERSION:
        raise _older(path, version)
    if version == VERSION and not missing_columns(connection):
        return
    connection.execute("BEGIN IMMEDIATE")
    for statement in filter(str.strip, TABLES.split(";") if version == 0 else ()):
        connection.execute(statement)
    for statement in missing_columns(connection):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")
