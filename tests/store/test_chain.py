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
from .stores import LEARNING, StoredSession, change, query, reseal, series, ticks

OUTSIDE = {**LEARNING, "labels": "external", "horizon": 0}
OWN = {("snapshots", "state"), ("setup", "name"), ("setup", "value"), ("setup", "sha256")}
"""Columns with a checksum of their own."""


def config():
    return settings(**OUTSIDE)


OPTIONS = StoreConfig(snapshot_every=70)


def lived(path, options=OPTIONS, runs=2):
    """A store with rows in every table, of several runs, killed at the end of each."""
    values = series(300)
    for run in range(runs):
        kept = StoredSession(path, config(), options)
        first = 100 * run
        if run:
            kept.feed(SessionStart("a", f"s{run}"))
        for k in range(first, first + 100, 10):
            seq = k + 1 if not run else k - first + 1 + (3 if k >= first + 50 else 0)
            if run and k == first + 50:
                kept.feed(Gap("a", seq, 3))
            kept.feed(ticks(values[k : k + 10], seq, session=f"s{run}" if run else "s1"))
            if k % 20:
                kept.feed(Label("a", kept.session.streams["a"].n // 10 * 10 + 2, k // 10 % 2, 5))
            kept.store.note("stale", reason="of the test")
            kept.store._writer.catch_up()
        kept.feed(Settle())
        kept.kill()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("chain") / "s.db"
    lived(path)
    sqlite3.connect(path).execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
    return path


def found(path, after=0):
    connection = connect_reader(path)
    try:
        return damage(connection, after)
    finally:
        connection.close()


def test_what_was_written_is_as_it_was(store):
    assert found(store) is None
    for (pos,) in query(store, "SELECT DISTINCT pos FROM snapshots"):
        assert found(store, pos) is None
    assert query(store, "SELECT count(*) > 20 FROM commits") == [(1,)]


def test_to_compute_them_anew_changes_none(store, tmp_path):
    copy = shutil.copy(store, tmp_path / "s.db")
    reseal(copy)
    commits = "SELECT * FROM commits"
    assert query(copy, commits) == query(store, commits)


TABLES = ("runs", "streams", "ticks", "labels", "predictions", "scores", "updates", "events",
          "snapshots", "commits")  # fmt: skip


@pytest.mark.parametrize("table", TABLES)
def test_a_cell_that_is_altered_is_found(store, tmp_path, table):
    columns = [row[1] for row in query(store, f"PRAGMA table_info({table})")]
    copy = tmp_path / "s.db"
    rows = query(store, f"SELECT count(*) FROM {table}")[0][0]
    assert rows
    for column in columns:
        if (table, column) in OWN:
            continue
        for offset in {0, rows // 2, rows - 1}:
            shutil.copy(store, copy)
            connection = sqlite3.connect(copy)
            order = "pos, n" if table in ("predictions", "scores", "updates") else "rowid"
            what, *key = connection.execute(
                f"SELECT {column}, {columns[0]}, {columns[1]} FROM {table} "
                f"ORDER BY {order} LIMIT 1 OFFSET {offset}"
            ).fetchone()
            connection.execute("PRAGMA ignore_check_constraints = ON")
            connection.execute(
                f"UPDATE {table} SET {column} = ? WHERE {columns[0]} IS ? AND {columns[1]} IS ?",
                (other(what), *key),
            )
            connection.commit()
            connection.close()
            assert found(copy) is not None, (column, offset, what)


def other(value):
    match value:
        case None:
            return 1
        case str():
            return value + "x"
        case bytes():
            return bytes([value[0] ^ 1]) + value[1:]
        case int():
            return value ^ 2**20
        case float():
            return value + 1.0


@pytest.mark.parametrize("table", [name for name in TABLES if name != "commits"])
def test_a_row_that_is_missing_is_found(store, tmp_path, table):
    copy = shutil.copy(store, tmp_path / "s.db")
    order = "pos, n" if table in ("predictions", "scores", "updates") else "rowid"
    first, second = [row[1] for row in query(copy, f"PRAGMA table_info({table})")][:2]
    key = query(copy, f"SELECT {first}, {second} FROM {table} ORDER BY {order} DESC LIMIT 1")[0]
    change(copy, f"DELETE FROM {table} WHERE {first} = ? AND {second} = ?", *key)
    assert found(copy) is not None


@pytest.mark.parametrize("which", ["max(number)", "min(number)", "max(number) / 2"])
def test_a_commit_that_is_missing_is_found(store, tmp_path, which):
    copy = shutil.copy(store, tmp_path / "s.db")
    change(copy, f"DELETE FROM commits WHERE number = (SELECT {which} FROM commits)")
    assert found(copy) is not None


def test_the_place_is_named_and_what_is_before_it_is_good(store, tmp_path):
    copy = shutil.copy(store, tmp_path / "s.db")
    [(pos,)] = query(copy, "SELECT pos FROM labels ORDER BY pos LIMIT 1 OFFSET 3")
    change(copy, "UPDATE labels SET y = 1 - y WHERE pos = ?", pos)
    there = found(copy)
    assert there.good.pos < pos
    assert there.what.startswith(f"inputs {there.good.pos + 1:,} to ")
    [(newest,)] = query(copy, "SELECT max(pos) FROM snapshots")
    assert newest > pos
    assert found(copy, newest) is None, "a resume from there does not need it"
    change(copy, "UPDATE streams SET next_seq = next_seq + 256")
    assert found(copy, newest).what == "the table streams does not match its checksum"


def test_a_store_that_was_altered_is_not_gone_on_from(store, tmp_path):
    for sql in (
        "streams SET next_seq = (next_seq | 8) - (next_seq & 8)",
        "streams SET session = 's'",
        "labels SET y = 1 - y WHERE pos = (SELECT max(pos) FROM labels)",
        "labels SET n = (n | 64) - (n & 64) WHERE pos = (SELECT max(pos) FROM labels)",
        "ticks SET seq = (seq | 8) - (seq & 8) WHERE pos = (SELECT max(pos) FROM ticks)",
        "ticks SET stream = 'b' WHERE pos = (SELECT max(pos) FROM ticks)",
        "snapshots SET pos = pos - 1",
    ):
        copy = shutil.copy(store, tmp_path / "s.db")
        change(copy, f"UPDATE {sql}")
        with pytest.raises(StoreError, match="is damaged: ") as raised:
            StoredSession(copy, config())
        assert raised.value.exit_code == 65


def test_a_store_that_was_trimmed_keeps_its_chain(tmp_path):
    path = tmp_path / "s.db"
    small = StoreConfig(snapshot_every=50, commit_elements=1, commit_ms=1, max_gb=1e-4)
    values = series(1500)
    with StoredSession(path, settings(**LEARNING), small, blocking=False) as kept:
        for k in range(0, 1500, 5):
            kept.feed(ticks(values[k : k + 5], k + 1))
            kept.store._writer.catch_up()
    assert query(path, "SELECT min(number) > 1 FROM commits") == [(1,)]
    assert found(path) is None
    with StoredSession(path, settings(**LEARNING), small, blocking=False) as again:
        again.feed(ticks(series(100), 1501))
    assert found(path) is None
    change(path, "UPDATE ticks SET seq = 7 WHERE pos = (SELECT min(pos) FROM ticks)")
    assert found(path) is not None


def test_a_number_without_a_sign_in_sqlite_has_the_same_checksum(tmp_path):
    path = tmp_path / "s.db"
    with StoredSession(path, config()) as kept:
        kept.feed(ticks(series(40), 1), Label("a", 40, -0.0, 0))
    assert found(path) is None


@pytest.mark.parametrize("table", [*TABLES, "setup"])
def test_a_cell_of_another_type_is_damage_and_never_a_crash(store, tmp_path, table):
    copy = tmp_path / "s.db"
    for column in [row[1] for row in query(store, f"PRAGMA table_info({table})")]:
        for value in ("5", "'x'", "x'ff'", "1.5", "CAST(x'ff' AS TEXT)", "NULL"):
            shutil.copy(store, copy)
            connection = sqlite3.connect(copy)
            connection.execute("PRAGMA writable_schema = ON")
            text = connection.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (table,))
            strict = text.fetchone()[0]
            loose = strict.replace("STRICT, ", "").replace(" STRICT", "").replace(" NOT NULL", "")
            loose = loose.replace(column + " INTEGER", column).replace(column + " TEXT", column)
            loose = loose.replace(column + " REAL", column)
            alter = "UPDATE sqlite_schema SET sql = ? WHERE name = ?"
            connection.execute(alter, (loose, table))
            connection.commit()
            connection.close()
            connection = sqlite3.connect(copy)
            connection.execute("PRAGMA ignore_check_constraints = ON")
            try:
                connection.execute(f"UPDATE {table} SET {column} = {value}")
            except sqlite3.Error:  # its rows are then not those of a table
                connection.close()
                continue
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute(alter, (strict, table))
            connection.commit()
            connection.close()
            for use in (contents, found, lambda path: compare(path, store), resumed, looked_at):
                with contextlib.suppress(StoreError):
                    use(copy)


def resumed(path):
    StoredSession(path, config()).kill()


def looked_at(path):
    stored_series(path, None, 1000)


@pytest.mark.parametrize("table", ["labels", "ticks", "commits"])
def test_a_schema_that_is_no_text_is_damage(store, tmp_path, table):
    copy = shutil.copy(store, tmp_path / "s.db")
    data = copy.read_bytes()
    at = data.index(f"CREATE TABLE {table} (".encode()) + 9
    copy.write_bytes(data[:at] + b"\xcf" + data[at + 1 :])
    for use in (contents, found, resumed, looked_at):
        with pytest.raises(StoreError, match="is damaged or not a store"):
            use(copy)
