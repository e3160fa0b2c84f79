"""Every cell that a resume relies on has a checksum: what is altered is never believed."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3

import pytest

from stream_lstm.config import StoreConfig
from stream_lstm.errors import StoreError
from stream_lstm.events import Gap, Label, SessionStart
from stream_lstm.store.chain import damage
from stream_lstm.store.inspection import contents, stored_series
from stream_lstm.store.schema import connect_reader
from stream_lstm.store.units import Settle
from stream_lstm.store.verify import compare

from ..engines import settings
from .stores import (
    LEARNING,
    TABLES,
    StoredSession,
    change,
    fold_log,
    query,
    reseal,
    series,
    ticks,
    value,
)

CONFIG = settings(**LEARNING, labels="external", horizon=0)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with rows in every table, of two runs, each killed at its end."""
    path = tmp_path_factory.mktemp("chain") / "s.db"
    values = series(300)
    for run in range(2):
        session = StoredSession(path, CONFIG, StoreConfig(snapshot_every=70))
        run_id = f"s{run + 1}"
        if run:
            session.feed(SessionStart("a", run_id))
        for k in range(0, 100, 10):
            seq = k + 1 + (3 if run and k >= 50 else 0)
            if run and k == 50:
                session.feed(Gap("a", seq, 3))
            session.feed(ticks(values[100 * run + k :][:10], seq, session=run_id))
            if k % 20:
                n = session.session.streams["a"].n // 10 * 10 + 2
                session.feed(Label("a", n, k // 10 % 2, 5))
            session.store.note("stale", reason="of the test")
            session.store._writer.catch_up()
        session.feed(Settle())
        session.kill()
    return fold_log(path)


@pytest.fixture
def copy(store, path):
    return shutil.copy(store, path)


def found(path, after=0):
    with contextlib.closing(connect_reader(path)) as connection:
        return damage(connection, after)


def resumed(path):
    StoredSession(path, CONFIG).kill()


def looked_at(path):
    stored_series(path, None, 1000)


def test_an_unchanged_store_matches_its_checksums(store, copy):
    for (pos,) in [(0,), *query(store, "SELECT DISTINCT pos FROM snapshots")]:
        assert found(store, pos) is None
    assert value(store, "count(*) > 20 FROM commits")
    reseal(copy)
    assert query(copy, "SELECT * FROM commits") == query(store, "SELECT * FROM commits")


def columns_of(path, table):
    return [row[1] for row in query(path, f"PRAGMA table_info({table})")]


def order_of(table):
    return "pos, n" if table in ("predictions", "scores", "updates") else "rowid"


@pytest.mark.parametrize("table", TABLES)
def test_a_cell_that_is_altered_is_found(store, path, table):
    first, second, *_ = columns = columns_of(store, table)
    rows = value(store, f"count(*) FROM {table}")
    for column in columns:
        for offset in {0, rows // 2, rows - 1}:
            shutil.copy(store, path)
            [(cell, *key)] = query(
                store,
                f"SELECT {column}, {first}, {second} FROM {table} ORDER BY {order_of(table)} "
                f"LIMIT 1 OFFSET {offset}",
            )
            change(
                path,
                f"UPDATE {table} SET {column} = ? WHERE {first} IS ? AND {second} IS ?",
                other(cell),
                *key,
            )
            assert found(path) is not None, (column, offset, cell)


def other(cell):
    match cell:
        case None:
            return 1
        case str():
            return cell + "x"
        case bytes():
            return bytes([cell[0] ^ 1]) + cell[1:]
        case int():
            return cell ^ 2**20
        case float():
            return cell + 1.0


@pytest.mark.parametrize("table", [name for name in TABLES if name != "commits"])
def test_a_row_that_is_missing_is_found(copy, table):
    first, second, *_ = columns_of(copy, table)
    [key] = query(
        copy, f"SELECT {first}, {second} FROM {table} ORDER BY {order_of(table)} DESC LIMIT 1"
    )
    change(copy, f"DELETE FROM {table} WHERE {first} = ? AND {second} = ?", *key)
    assert found(copy) is not None


@pytest.mark.parametrize("which", ["max(number)", "min(number)", "max(number) / 2"])
def test_a_commit_that_is_missing_is_found(copy, which):
    change(copy, f"DELETE FROM commits WHERE number = (SELECT {which} FROM commits)")
    assert found(copy) is not None


def test_the_place_is_named_and_the_rows_before_it_are_good(copy):
    pos = value(copy, "pos FROM labels ORDER BY pos LIMIT 1 OFFSET 3")
    change(copy, "UPDATE labels SET y = 1 - y WHERE pos = ?", pos)
    there = found(copy)
    assert there.good.pos < pos
    assert there.what.startswith(f"inputs {there.good.pos + 1:,} to ")
    newest = value(copy, "max(pos) FROM snapshots")
    assert newest > pos
    assert found(copy, newest) is None, "a resume from there does not need it"
    change(copy, "UPDATE streams SET next_seq = next_seq + 256")
    assert found(copy, newest).what == "the table streams does not match its checksum"


@pytest.mark.parametrize(
    "sql",
    [
        "streams SET next_seq = (next_seq | 8) - (next_seq & 8)",
        "streams SET session = 's'",
        "labels SET y = 1 - y WHERE pos = (SELECT max(pos) FROM labels)",
        "labels SET n = (n | 64) - (n & 64) WHERE pos = (SELECT max(pos) FROM labels)",
        "ticks SET seq = (seq | 8) - (seq & 8) WHERE pos = (SELECT max(pos) FROM ticks)",
        "ticks SET stream = 'b' WHERE pos = (SELECT max(pos) FROM ticks)",
        "snapshots SET pos = pos - 1",
    ],
)
def test_no_session_resumes_from_an_altered_store(copy, sql):
    change(copy, f"UPDATE {sql}")
    with pytest.raises(StoreError, match="is damaged: ") as raised:
        resumed(copy)
    assert raised.value.exit_code == 65


def test_a_number_without_a_sign_in_sqlite_has_the_same_checksum(path):
    with StoredSession(path, CONFIG) as session:
        session.feed(ticks(series(40), 1), Label("a", 40, -0.0, 0))
    assert found(path) is None


@pytest.mark.slow
@pytest.mark.parametrize("table", [*TABLES, "setup"])
def test_a_cell_of_another_type_is_damage_and_never_a_crash(store, path, table):
    for column in columns_of(store, table):
        for cell in ("5", "'x'", "x'ff'", "CAST(x'ff' AS TEXT)", "NULL"):
            shutil.copy(store, path)
            strict = value(store, f"sql FROM sqlite_schema WHERE name = '{table}'")
            loose = strict.replace("STRICT, ", "").replace(" STRICT", "").replace(" NOT NULL", "")
            for kind in (" INTEGER", " TEXT", " REAL"):
                loose = loose.replace(column + kind, column)
            redefine(path, table, loose)
            try:
                change(path, f"UPDATE {table} SET {column} = {cell}")
            except sqlite3.Error:  # its rows are then not those of a table
                continue
            redefine(path, table, strict)
            for use in (contents, found, lambda path: compare(path, store), resumed, looked_at):
                with contextlib.suppress(StoreError):
                    use(path)


def redefine(path, table, sql):
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_schema SET sql = ? WHERE name = ?", (sql, table))


@pytest.mark.parametrize("table", ["labels", "ticks", "commits"])
def test_a_schema_that_is_not_text_is_damage(copy, table):
    data = copy.read_bytes()
    at = data.index(f"CREATE TABLE {table} (".encode()) + 9
    copy.write_bytes(data[:at] + b"\xcf" + data[at + 1 :])
    for use in (contents, found, resumed, looked_at):
        with pytest.raises(StoreError, match="is damaged or not a store"):
            use(copy)
