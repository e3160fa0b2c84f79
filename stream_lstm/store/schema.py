"""The tables of a store, records as rows of them, and how the file is opened.

`pos` numbers the rows of the journal: the inputs in their order, whichever table they are in. The
journal consists of the ticks, the labels, and the events whose `input` is 1. A missing `pos` is
damage; inputs that were left out on purpose are an event `hole`. Each output carries the `pos` of
the input that caused it.

The columns of an output table are the declared fields of its record, and `pos`. Statements name
their columns, because the order depends on the version that created the table: a field that a
later version declares is behind `pos`.

The rows of `runs`: the writing program, and everything that can change its results.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from itertools import repeat
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar

import msgspec

from .. import __version__
from ..core.replay import weights_digest
from ..core.session import Session
from ..errors import ConfigurationError, InputMissingError, OutputError, StoreError
from ..events import Prediction, Score, Update
from ..feed.reader import check_plain, other_kind
from ..records import Batch, Field, fields_of

R = TypeVar("R", Prediction, Score, Update)
Row: TypeAlias = Sequence[Any]
Progress: TypeAlias = Callable[[int, int], object]
"""Takes the steps done and their total."""

OUTPUTS: Mapping[str, type[Prediction | Score | Update]] = MappingProxyType(
    {"predictions": Prediction, "scores": Score, "updates": Update}
)
TABLE_OF = {kind: table for table, kind in OUTPUTS.items()}
INTO = {
    kind: f"{table} ({', '.join(field.name for field in fields_of(kind))}, pos)"
    for kind, table in TABLE_OF.items()
}
"""Table and columns of an INSERT."""

_NESTED = {
    kind: [place for place, field in enumerate(fields_of(kind)) if field.nested]
    for kind in TABLE_OF
}

ADDED = {"updates": ("reason",)}
"""Fields that a released version added to a table of an earlier one."""

FETCHED = 4096
"""Rows that become columns at a time."""

APPLICATION_ID = 0x534C5354
"""`SLST`; `file` and SQLite show it."""

VERSION = 4

READABLE = 1
"""The oldest readable version. A session resumes only from the present version: up to 2 the
updates of a tick came before its prediction, and 3 was never released."""

MAGIC = b"SQLite format 3\0"

BUSY_MS = 5_000
"""How long to wait for a reader that is at a checkpoint."""


# ---- outputs as rows --------------------------------------------------------------------


def create_tables() -> str:
    """Return the statements that create the output tables."""
    return "".join(_create(table, kind) for table, kind in OUTPUTS.items())


def _create(table: str, kind: type[msgspec.Struct]) -> str:
    late = ADDED.get(table, ())
    first = [_column(field) for field in fields_of(kind) if field.name not in late]
    last = [_column(field) for field in fields_of(kind) if field.name in late]
    columns = ",\n    ".join([*first, "pos INTEGER NOT NULL", *last, "PRIMARY KEY (stream, n)"])
    return f"\nCREATE TABLE {table} (\n    {columns}\n) STRICT, WITHOUT ROWID;\n"


def _column(field: Field) -> str:
    """Return the definition of a column; rows from before it was added get the default."""
    if field.required or field.nullable or field.nested:
        return f"{field.name} {field.sql}"
    default = default_of(field)
    return f"{field.name} {field.sql} DEFAULT {default!r}"


def default_of(field: Field) -> Any:
    """Return the cell of a field's default, `NODEFAULT` where there is none."""
    if field.required:
        return field.default
    if field.nullable or field.nested:
        return None
    return field.default if isinstance(field.default, str) else +field.default  # a bool as 0 or 1


def missing_columns(connection: sqlite3.Connection) -> list[str]:
    """Return the statements that add the declared fields that a store's tables lack."""
    return [
        f"ALTER TABLE {table} ADD COLUMN {_column(field)}"
        for table, kind in OUTPUTS.items()
        for known in [{row[1] for row in connection.execute(f"PRAGMA table_info({table})")}]
        for field in fields_of(kind)
        if known and field.name not in known
    ]


def row_of(event: Prediction | Score | Update, pos: int) -> Row:
    """Return a record as a row for `INTO`."""
    row = [*msgspec.structs.astuple(event), pos]
    for place in _NESTED[type(event)]:
        row[place] = _json_cell(row[place])
    return row


def rows_of(batch: Batch[R], pos: int) -> Iterator[Row]:
    """Return the records that one input caused as rows for `INTO`."""
    cells = [batch.cells(field) for field in fields_of(batch.kind)]
    for place in _NESTED[batch.kind]:
        cells[place] = [_json_cell(value) for value in cells[place]]
    return zip(*cells, repeat(pos, len(batch)), strict=True)


def _json_cell(value: tuple[Any, ...]) -> str | None:
    return msgspec.json.encode(value).decode() if value else None


def read(
    connection: sqlite3.Connection, kind: type[R], clause: str, *arguments: Any
) -> Iterator[tuple[tuple[int, ...], Batch[R]]]:
    """Yield (positions, records) of a table; `clause` follows its name in the query."""
    cursor = connection.execute(f"SELECT * FROM {TABLE_OF[kind]} {clause}", arguments)  # noqa: S608
    names = [column[0] for column in cursor.description]
    while fetched := cursor.fetchmany(FETCHED):
        lists: dict[str, Any] = dict(zip(names, zip(*fetched, strict=True), strict=True))
        for field in fields_of(kind):
            if field.nested and field.name in lists:
                decode = msgspec.json.Decoder(field.hint).decode
                lists[field.name] = [
                    decode(cell) if cell else field.default for cell in lists[field.name]
                ]
        yield lists["pos"], Batch.from_lists(kind, lists)


# ---- the tables -------------------------------------------------------------------------

TABLES = f"""
CREATE TABLE runs (
    run INTEGER PRIMARY KEY, started_ns INTEGER NOT NULL, pos INTEGER NOT NULL,
    command TEXT NOT NULL, pid INTEGER NOT NULL, version TEXT NOT NULL,
    runtime TEXT NOT NULL, configuration TEXT NOT NULL
) STRICT;

CREATE TABLE setup (name TEXT PRIMARY KEY, value ANY NOT NULL, sha256 TEXT NOT NULL) STRICT;

CREATE TABLE streams (
    stream TEXT PRIMARY KEY, session TEXT NOT NULL, next_seq INTEGER,
    n INTEGER NOT NULL, ticks INTEGER NOT NULL, labels INTEGER NOT NULL,
    times_crc INTEGER NOT NULL, fields_crc INTEGER NOT NULL, pos INTEGER NOT NULL
) STRICT;

CREATE TABLE ticks (
    pos INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES runs,
    stream TEXT NOT NULL, session TEXT NOT NULL, seq INTEGER, count INTEGER NOT NULL,
    n_before INTEGER NOT NULL, n_after INTEGER NOT NULL,
    t_ns BLOB NOT NULL CHECK (length(t_ns) = 8 * count),
    fields BLOB NOT NULL CHECK (length(fields) % (8 * count) = 0),
    crc INTEGER NOT NULL
) STRICT;

CREATE TABLE labels (
    pos INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES runs,
    stream TEXT NOT NULL, n INTEGER NOT NULL, y REAL, t_ns INTEGER NOT NULL
) STRICT;
{create_tables()}

CREATE TABLE events (
    event INTEGER PRIMARY KEY, pos INTEGER NOT NULL,
    run INTEGER NOT NULL REFERENCES runs, at_ns INTEGER NOT NULL, input INTEGER NOT NULL,
    kind TEXT NOT NULL, stream TEXT NOT NULL, session TEXT NOT NULL,
    seq INTEGER, n INTEGER, count INTEGER NOT NULL, reason TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX inputs_among_events ON events (pos) WHERE input = 1;

CREATE TABLE snapshots (
    snapshot INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES runs,
    pos INTEGER NOT NULL, taken_ns INTEGER NOT NULL, elements INTEGER NOT NULL,
    version INTEGER NOT NULL, fingerprint TEXT NOT NULL, sha256 TEXT NOT NULL, set_aside TEXT
) STRICT;

CREATE TABLE snapshot_pieces (
    snapshot INTEGER NOT NULL, piece INTEGER NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (snapshot, piece)
) STRICT;

CREATE TABLE commits (
    number INTEGER PRIMARY KEY, pos INTEGER NOT NULL, event INTEGER NOT NULL,
    digest BLOB NOT NULL, held BLOB NOT NULL
) STRICT;
"""

NAMES = ("runs", "setup", "streams", "ticks", "labels", "predictions", "scores", "updates",
         "events", "snapshots", "snapshot_pieces", "commits")  # fmt: skip
"""Every table."""


def insert(connection: sqlite3.Connection, table: str, row: Row) -> None:
    """Insert a row into all columns of a table."""
    connection.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608


# ---- opening ----------------------------------------------------------------------------

SQLITE_ERRORS: tuple[type[Exception], ...] = (sqlite3.Error, UnicodeDecodeError)
"""What a query raises where the file cannot be read or written."""

UNREADABLE: tuple[type[Exception], ...] = (
    *SQLITE_ERRORS, TypeError, ValueError, LookupError, OverflowError, msgspec.MsgspecError,
)  # fmt: skip
"""What reading raises where a cell has another type than its column, or is not text: a flipped
bit in the head of a row causes that."""

DAMAGED: tuple[type[Exception], ...] = (StoreError, *UNREADABLE)
"""What reading a damaged store raises."""

WAY_OUT = "Restore a backup, or save the intact part: stream-lstm recover STORE --to NEW"
"""What a user can do about a damaged store."""


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
    """Open a store for writing; create it or add missing columns if necessary.

    Raises ConfigurationError for a store of another version, StoreError for a file that is not a
    store, and OutputError where the operating system refuses.
    """

    def prepare(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA foreign_keys = ON")
        _bring_up_to_date(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {sync}")

    return _open(path, str(path), prepare, check_same_thread=False)


def connect_reader(path: Path, *, oldest: int = READABLE) -> sqlite3.Connection:
    """Open a store read-only; a daemon may write to it meanwhile.

    oldest: the oldest acceptable version. Raises InputMissingError where there is no such file,
    and otherwise what `connect` raises.
    """
    check_plain(path)
    if not path.is_file():
        raise InputMissingError(f"no such store: {path}")
    return open_reader(
        path, "mode=ro", lambda connection: check_version(connection, path, oldest=oldest)
    )


def open_reader(
    path: Path, options: str, prepare: Callable[[sqlite3.Connection], object]
) -> sqlite3.Connection:
    """Open a file with the options of a SQLite URI, and prepare the connection.

    At its end the files `-wal` and `-shm` are removed, unless somebody writes.
    """
    name = f"{path.resolve().as_uri()}?{options}"
    return _open(path, name, prepare, uri=True, factory=_Reader)


class _Reader(sqlite3.Connection):
    """A connection that leaves no files beside the store.

    SQLite needs two for reading a store in WAL mode, and removes them when the last connection
    ends, but not if that one may only read.
    """

    def close(self) -> None:
        """Close the connection."""
        path = None
        with contextlib.suppress(sqlite3.Error):
            path = Path(self.execute("PRAGMA database_list").fetchone()[2])
        super().close()
        if path is None:
            return
        with contextlib.suppress(sqlite3.Error, OSError):
            # with something in it, it belongs to a writer, or to one that was killed
            if path.with_name(f"{path.name}-wal").stat().st_size == 0:
                last = sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, isolation_level=None)
                with contextlib.closing(last):
                    last.execute("SELECT count(*) FROM sqlite_master")


def _open(
    path: Path, name: str, prepare: Callable[[sqlite3.Connection], object], **options: Any
) -> sqlite3.Connection:
    try:
        connection: sqlite3.Connection = sqlite3.connect(name, isolation_level=None, **options)
        try:
            connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
            prepare(connection)
        except BaseException:
            connection.close()
            raise
    except UNREADABLE as error:
        raise failure(path, error) from None
    return connection


@contextlib.contextmanager
def using(
    connection: sqlite3.Connection, path: Path, errors: tuple[type[Exception], ...] = UNREADABLE
) -> Iterator[sqlite3.Connection]:
    """Close a connection at the end, and raise what `failure` makes of `errors`."""
    try:
        yield connection
    except errors as error:
        raise failure(path, error) from None
    finally:
        connection.close()


def is_damage(error: Exception) -> bool:
    """Return whether an error of `UNREADABLE` is due to the content of the file."""
    if not isinstance(error, sqlite3.Error) or str(error).startswith("Could not decode"):
        return True
    if isinstance(error, sqlite3.IntegrityError):
        return True
    name = getattr(error, "sqlite_errorname", "")
    return name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_ERROR"))


def failure(path: Path, error: Exception) -> StoreError | OutputError:
    """Return the exception that reports an error of `UNREADABLE` to a user."""
    if not is_damage(error):
        return OutputError(f"cannot use the store {path}: {error}")
    foreign = getattr(error, "sqlite_errorname", "") == "SQLITE_NOTADB"
    way_out = "Move it away and start a new store, or restore a backup" if foreign else WAY_OUT
    return StoreError(f"{path} is damaged or not a store ({error}). {way_out}")


def damaged(store: str, what: str) -> StoreError:
    """Return the error of a store with a known damage."""
    return StoreError(f"{store} is damaged: {what}. {WAY_OUT}")


def check_version(connection: sqlite3.Connection, path: Path, *, oldest: int) -> None:
    """Raise StoreError for another kind of file, ConfigurationError for another version."""
    version = _version(connection, path)
    if version == 0:
        raise StoreError(f"{path} is an empty file, not a store: run and replay create stores")
    if version < oldest:
        raise _older(path, version)


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of a store's schema, 0 for an empty file."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    empty = not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if application != APPLICATION_ID and not (empty and version == 0 and application == 0):
        raise StoreError(f"{path} is a SQLite database of another program, not a store")
    if version > VERSION:
        raise ConfigurationError(
            f"{path} has schema version {version}, and this program supports up to {VERSION}: "
            "use the newer program that wrote it, or name another store"
        )
    return version


def _older(path: Path, version: int) -> ConfigurationError:
    return ConfigurationError(
        f"{path} has schema version {version}, and this program resumes only version {VERSION}: "
        "it predicts before the updates of a tick, so the results would differ. Save its contents "
        f"with stream-lstm export {path} --out DIR, and name a new store"
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


def runtime() -> dict[str, str]:
    """Return everything that can change the bits of a result: versions, machine and flags."""
    libraries = ("jax", "jaxlib", "numpy", "optax", "flax")
    return {
        "stream_lstm": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in libraries},
        "sqlite": sqlite3.sqlite_version,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
    }


def run_row(
    session: Session, run: int, started_ns: int, pos: int, command: str, configuration: str
) -> Row:
    """Return a row of `runs`, with the weights that the session has at its start."""
    about = runtime() | {"weights": short_digest(session)}
    known = msgspec.json.encode(about).decode(), configuration
    return (run, started_ns, pos, command, os.getpid(), about["stream_lstm"], *known)


def short_digest(session: Session) -> str:
    """Return a short digest of a session's weights."""
    weights = {name: learned.weights for name, learned in session.learners.items()}
    return weights_digest(weights)[:16]


def _processor() -> str:
    """Return the processor's name: XLA compiles for its instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    found = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(found, platform.processor())
