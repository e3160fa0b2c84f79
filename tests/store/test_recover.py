"""From a damaged store a whole one is made of what is intact, and nothing else is believed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from stream_lstm.config import StoreConfig
from stream_lstm.core import snapshot
from stream_lstm.core.session import Session
from stream_lstm.errors import (
    ConfigurationError,
    LockedError,
    StoreError,
    UsageError,
)
from stream_lstm.events import Gap, Label, Prediction, SessionStart
from stream_lstm.store.chain import damage
from stream_lstm.store.inspection import contents
from stream_lstm.store.lock import StoreLock
from stream_lstm.store.reading import drive, entries, resume
from stream_lstm.store.recovery import recover
from stream_lstm.store.salvage import open_damaged, salvage
from stream_lstm.store.schema import connect, connect_reader
from stream_lstm.store.table_files import export_store
from stream_lstm.store.units import Settle
from stream_lstm.store.verify import Verification

from ..engines import engine_for, settings
from .stores import COLUMNS, StoredSession, change, of, query, series, ticks

CONFIG = settings(learn=True, score_window=0, labels="external", horizon=0)
PAGE = 4096
PLACES = "SELECT stream, session, next_seq, n, ticks, labels, times_crc, fields_crc FROM streams"


TABLES = ("runs", "setup", "streams", "ticks", "labels", "predictions", "scores", "updates",
          "events", "snapshots", "commits")  # fmt: skip


def make(setup):
    return Session(
        setup.config, setup.columns, weights=setup.weights, engine=engine_for(setup.config, 1)
    )


def fresh():
    return Session(CONFIG, COLUMNS, engine=engine_for(CONFIG, 1))


def taken(session):
    """The state of a session, as the checksum of its bytes."""
    return hashlib.sha256(snapshot.take(session)).hexdigest()


def live(path, rounds=24, every=60):
    """A store of two streams with rows in every table, of three runs, killed at their ends."""
    values = {name: series(10 * rounds, seed) for name, seed in (("a", 3), ("b", 4))}
    seq = {"a": 1, "b": 1}
    kept = None
    for k in range(rounds):
        if k % (rounds // 3) == 0:
            if kept is not None:
                kept.feed(Settle())
                kept.kill()
            kept = StoredSession(path, CONFIG, StoreConfig(snapshot_every=every))
        for name in ("a", "b"):
            if k % 7 == 5:
                kept.feed(Gap(name, seq[name] + 3, 3))
                seq[name] += 3
            if k == rounds // 2 and name == "b":
                kept.feed(SessionStart(name, "s2"))
                seq[name] = 1
            session = "s2" if name == "b" and k >= rounds // 2 else "s1"
            block = values[name][10 * k : 10 * k + 10]
            kept.feed(ticks(block, seq[name], name, session))
            seq[name] += 10
            made = [one.n for one in of(Prediction, kept.events) if one.stream == name]
            if made and k % 3:
                kept.feed(Label(name, made[-1], k % 2, 5))
            kept.store._writer.catch_up()
        kept.store.note("stale", reason="of the test")
        kept.store._writer.catch_up()
    kept.kill()


def settled(path):
    """Bring the log into the file, so that a copy of the file is all of the store."""
    sqlite3.connect(path).execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("recover") / "s.db"
    live(path)
    for table in TABLES:
        assert query(path, f"SELECT count(*) > 1 FROM {table}") == [(1,)], table
    return settled(path)


@pytest.fixture(scope="module")
def states(store):
    """The state after each input of the store, by its position, from a replay of all of them."""
    session, found = fresh(), {}
    connection = connect_reader(store)
    for entry in entries(connection):
        drive(session, entry.event)
        session.catch_up()
        found[entry.pos] = taken(session)
    connection.close()
    return found


def state_of(path):
    """The state that a start on a store continues from."""
    session = fresh()
    connection = connect_reader(path)
    try:
        resume(connection, session, str(path))
    finally:
        connection.close()
    return taken(session)


def check(new, found, states):
    """A store that was recovered is whole, and its state is that of the place that it reports."""
    connection = connect_reader(new)
    assert damage(connection) is None
    verified = Verification(connection, fresh()).run()
    connection.close()
    assert verified.difference is None
    assert query(new, "PRAGMA integrity_check") == [("ok",)]
    assert query(new, "PRAGMA foreign_key_check") == []
    assert state_of(new) == states[found.kept.last]
    journal = " UNION ALL ".join(
        f"SELECT pos FROM {table}" for table in ("ticks", "labels", "events WHERE input")
    )
    held = [pos for (pos,) in query(new, f"{journal} ORDER BY pos")]
    first = min(found.kept.first, found.kept.last)
    assert held == list(range(first, found.kept.last + 1))


def reference_rows(store, new, found):
    """Everything that is kept is what was written."""
    where = f"pos BETWEEN {found.kept.first} AND {found.kept.last}"
    for table in ("ticks", "labels", "predictions", "scores", "updates"):
        rows = f"SELECT * FROM {table} WHERE {where} ORDER BY pos, 1, 2"
        assert query(new, rows) == query(store, rows), table


def recovered(damaged, new, keep="newest"):
    """Recover, and check that the damaged file stays as it is; a refusal is returned."""
    before = damaged.read_bytes()
    new.unlink(missing_ok=True)
    try:
        return recover(damaged, new, make, keep=keep)
    except (StoreError, ConfigurationError) as error:
        assert not new.exists()
        return error
    finally:
        assert damaged.read_bytes() == before
        assert sorted(p.name for p in new.parent.glob("*.recovering*")) == []


# ---- what is kept ---------------------------------------------------------------------------


def test_a_store_that_is_not_damaged_needs_no_recovery(store, tmp_path):
    copy = Path(shutil.copy(store, tmp_path / "s.db"))
    assert recovered(copy, tmp_path / "new.db") is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.db", "s.db.lock"]


@pytest.mark.parametrize("keep", ["newest", "longest"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1.0])
def test_a_tick_that_is_altered_costs_one_side_of_it(store, states, tmp_path, share, keep):
    copy, new = Path(shutil.copy(store, tmp_path / "s.db")), tmp_path / "new.db"
    [(end,)] = query(store, "SELECT max(pos) FROM ticks")
    [(pos,)] = query(store, f"SELECT max(pos) FROM ticks WHERE pos <= {share * end}")
    change(copy, "UPDATE ticks SET crc = crc + 1 WHERE pos = ?", pos)
    settled(copy)
    found = recovered(copy, new, keep)
    check(new, found, states)
    reference_rows(store, new, found)
    kept = found.kept
    assert not kept.first <= pos <= kept.last
    last = query(store, "SELECT max(pos) FROM commits")[0][0]
    assert found.end == last
    newest = query(store, "SELECT max(pos) FROM snapshots")[0][0]
    if pos > newest:
        assert (kept.first, found.other) == (1, None)
    elif keep == "newest":
        assert kept.last == last
    else:
        assert kept.last - kept.first + 1 >= (
            found.other.last - found.other.first + 1 if found.other else 0
        )
    assert found.lost.inputs == last - (kept.last - kept.first + 1)
    lost = query(
        store, f"SELECT sum(count) FROM ticks WHERE NOT pos BETWEEN {kept.first} AND {kept.last}"
    )
    assert (
        found.lost.rows["ticks"]
        == sum(s["ticks"] for s in found.lost.by_stream.values())
        == lost[0][0]
    )


def test_it_goes_on_to_the_bits_of_one_that_was_never_damaged(store, tmp_path):
    whole, copy, new = tmp_path / "whole.db", tmp_path / "s.db", tmp_path / "new.db"
    for path in (whole, copy):
        shutil.copy(store, path)
    change(copy, "UPDATE ticks SET crc = crc + 1 WHERE pos = 12")
    assert recover(copy, new, make).kept.last == query(store, "SELECT max(pos) FROM commits")[0][0]
    known = query(store, PLACES)
    assert query(new, PLACES) == known
    seq = {row[0]: row[2] for row in known}
    ends = []
    for path in (whole, new):
        with StoredSession(path, CONFIG) as kept:
            kept.feed(ticks(series(100, 9), seq["a"]), Label("a", 250, 1, 5))
            kept.feed(ticks(series(100, 8), seq["b"], "b", "s2"))
        ends.append((kept.events, taken(kept.session)))
    assert ends[0] == ends[1]
    recovered_rows = query(new, "SELECT * FROM predictions WHERE pos > 40 ORDER BY pos, n")
    assert recovered_rows == query(
        whole, "SELECT * FROM predictions WHERE pos > 40 ORDER BY pos, n"
    )
    assert contents(new)["events"]["recovered"] == 1
    assert [run["command"] for run in contents(new)["runs"]][-2:] == ["recover", "test"]
    export_store(new, tmp_path / "tables")


def test_places_of_streams_are_computed_from_the_journal(store, states, tmp_path):
    copy, new = Path(shutil.copy(store, tmp_path / "s.db")), tmp_path / "new.db"
    for sql in ("UPDATE streams SET next_seq = 7, fields_crc = 1", "DELETE FROM streams"):
        change(copy, sql)
        settled(copy)
        found = recovered(copy, new)
        check(new, found, states)
        assert (found.rebuilt, found.inexact, found.lost.inputs) == (["streams"], [], 0)
        order = "SELECT * FROM streams ORDER BY stream"
        assert query(new, order) == query(store, order)


def test_places_are_those_of_the_last_input_that_is_kept(store, states, tmp_path):
    """As a store that was never written beyond that has them."""
    copy, new = Path(shutil.copy(store, tmp_path / "s.db")), tmp_path / "new.db"
    change(copy, "UPDATE labels SET y = 1 - y WHERE pos >= 30")
    change(copy, "DELETE FROM snapshots")
    settled(copy)
    found = recovered(copy, new)
    check(new, found, states)
    assert (found.kept.first, found.inexact) == (1, [])
    earlier = tmp_path / "earlier.db"
    session_start = iter(query(store, f"SELECT number FROM commits WHERE pos = {found.kept.last}"))
    assert next(session_start)
    connection = connect_reader(store)
    with StoredSession(earlier, CONFIG) as kept:
        for entry in entries(connection):
            if entry.pos <= found.kept.last:
                kept.feed(entry.event)
    connection.close()
    assert sorted(query(new, PLACES)) == sorted(query(earlier, PLACES))


def test_behind_a_damaged_end_the_last_snapshot_is_kept_alone(store, tmp_path):
    """A clean stop: the state of the end is whole, and what led to it is not."""
    path, copy, new = tmp_path / "one.db", tmp_path / "s.db", tmp_path / "new.db"
    with StoredSession(path, CONFIG, StoreConfig(snapshot_every=10_000)) as kept:
        kept.feed(ticks(series(100), 1))
        kept.store._writer.catch_up()
        kept.feed(ticks(series(50), 101), Label("a", 140, 1, 5))
    settled(path)
    shutil.copy(path, copy)
    end = query(path, "SELECT max(pos) FROM commits")[0][0]
    change(copy, "UPDATE commits SET digest = zeroblob(32)")
    settled(copy)
    found = recovered(copy, new)
    assert (found.kept.first, found.kept.last, found.kept.transactions) == (end + 1, end, 0)
    check(new, found, {end: taken(kept.session)})
    with StoredSession(new, CONFIG) as again:
        assert again.store.resumed_elements == 150
        again.feed(ticks(series(20), 151))
    assert contents(new)["whole"] is False


def test_a_run_that_is_altered_is_no_loss(store, states, tmp_path):
    copy, new = Path(shutil.copy(store, tmp_path / "s.db")), tmp_path / "new.db"
    change(copy, "UPDATE runs SET runtime = '{}' WHERE run = 2")
    settled(copy)
    found = recovered(copy, new)
    check(new, found, states)
    assert (found.rebuilt, found.lost.inputs) == (["runs"], 0)
    assert query(new, "SELECT run, command FROM runs") == [
        (1, "test"), (2, "unknown"), (3, "test"), (4, "recover"),
    ]  # fmt: skip


def test_a_snapshot_of_another_place_is_not_believed(store, states, tmp_path):
    copy, new = Path(shutil.copy(store, tmp_path / "s.db")), tmp_path / "new.db"
    change(copy, "UPDATE snapshots SET pos = pos - 1")
    settled(copy)
    found = recovered(copy, new)
    check(new, found, states)
    assert found.kept.snapshots == []
    assert found.lost.snapshots
    assert found.kept.first == 1


def test_a_store_that_was_trimmed_keeps_its_end_and_its_places(tmp_path):
    path, copy, new = tmp_path / "s.db", tmp_path / "copy.db", tmp_path / "new.db"
    small = StoreConfig(snapshot_every=50, commit_elements=1, commit_ms=1, max_gb=1e-4)
    values = series(1500)
    with StoredSession(path, CONFIG, small, blocking=False) as kept:
        for k in range(0, 1500, 5):
            kept.feed(ticks(values[k : k + 5], k + 1))
            kept.store._writer.catch_up()
    settled(path)
    whole = taken(kept.session)
    end = query(path, "SELECT max(pos) FROM commits")[0][0]
    shutil.copy(path, copy)
    change(copy, "DELETE FROM streams")
    settled(copy)
    found = recovered(copy, new)
    check(new, found, {end: whole})
    assert (found.inexact, found.lost.inputs) == (["a"], 0)
    columns = "SELECT session, next_seq, n, ticks FROM streams"
    assert query(new, columns) == query(path, columns) == [("s1", 1501, 1500, 1500)]
    shutil.copy(path, copy)
    change(copy, "UPDATE ticks SET seq = 7 WHERE pos = (SELECT min(pos) FROM ticks)")
    settled(copy)
    found = recovered(copy, new)
    check(new, found, {end: whole})
    assert found.inexact == []
    for sql in ("DELETE FROM snapshots", "UPDATE setup SET value = 'x' WHERE name = 'columns'"):
        shutil.copy(path, copy)
        change(copy, sql)
        settled(copy)
        refused = recovered(copy, new)
        assert isinstance(refused, StoreError)
        assert "Restore a backup" in str(refused)


# ---- any damage -----------------------------------------------------------------------------


def alter_cell(path, table, column, row, by):
    columns = [name for _, name, *_ in query(path, f"PRAGMA table_info({table})")]
    name = columns[column % len(columns)]
    keys = columns[:2]
    rows = query(path, f"SELECT {', '.join(keys)}, {name} FROM {table}")
    *key, value = rows[row % len(rows)]
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        with contextlib.suppress(sqlite3.IntegrityError):
            connection.execute(
                f"UPDATE {table} SET {name} = ? WHERE {keys[0]} IS ? AND {keys[1]} IS ?",
                (other(value, by), *key),
            )
    connection.close()


def other(value, by):
    match value:
        case None:
            return by
        case str():
            return value[:-1] if by % 2 else value + "x"
        case bytes():
            at = by % max(len(value), 1)
            return value[:at] + bytes([(value[at] if value else 0) ^ 1]) + value[at + 1 :]
        case int():
            return value ^ (1 << by % 40)
        case float():
            return value + 1.0


@st.composite
def damages(draw):
    kind = draw(st.sampled_from(["cell", "bytes", "page", "cut"]))
    place = draw(st.floats(0, 1, exclude_max=True))
    return kind, place, draw(st.integers(0, 2**31)), draw(st.sampled_from(TABLES))


def spoil(path, kind, place, number, table):
    if kind == "cell":
        rng = np.random.default_rng(number)
        column, row, by = rng.integers(0, 1000, 3).tolist()
        with contextlib.suppress(sqlite3.DatabaseError, StoreError):  # it may be damaged already
            alter_cell(path, table, column, row, by)
            settled(path)
        return
    data = bytearray(path.read_bytes())
    if kind == "cut":
        del data[max(int(place * len(data)), 100) :]
    elif kind == "bytes":
        at, many = int(place * len(data)), 1 + number % 40
        noise = np.random.default_rng(number).integers(0, 256, many, np.uint8).tobytes()
        data[at : at + many] = noise[: len(data) - at]
    else:
        at = int(place * len(data)) // PAGE * PAGE
        data[at : at + PAGE] = (
            bytes(PAGE) if number % 2 else np.random.default_rng(number).bytes(PAGE)
        )
    path.write_bytes(bytes(data))


@hypothesis_settings(max_examples=120, deadline=None)
@given(st.lists(damages(), min_size=1, max_size=3), st.sampled_from(["newest", "longest"]))
def test_of_any_damage_comes_a_whole_store_or_a_refusal(
    store, states, tmp_path_factory, what, keep
):
    folder = tmp_path_factory.mktemp("any")
    copy, new = Path(shutil.copy(store, folder / "s.db")), folder / "new.db"
    for one in what:
        spoil(copy, *one)
    found = recovered(copy, new, keep)
    if found is None:
        assert state_of(copy) == states[max(states)]
        assert not new.exists()
    elif isinstance(found, ConfigurationError):
        assert "schema version" in str(found)
    elif isinstance(found, StoreError):
        assert found.exit_code == 65
    else:
        check(new, found, states)
        reference_rows(store, new, found)
        assert recover(new, folder / "again.db", make) is None
    shutil.rmtree(folder)


@pytest.mark.parametrize("keep", ["newest", "longest"])
def test_each_page_that_is_lost_costs_no_more_than_its_part(store, states, tmp_path, keep):
    copy, new = tmp_path / "s.db", tmp_path / "new.db"
    data = store.read_bytes()
    kept = refused = whole = 0
    for page in range(1, len(data) // PAGE, 3):
        copy.write_bytes(data[: page * PAGE] + bytes(PAGE) + data[(page + 1) * PAGE :])
        found = recovered(copy, new, keep)
        if isinstance(found, StoreError):
            refused += 1
        elif found is not None:
            kept += 1
            whole += found.kept.last == max(states)
            check(new, found, states)
            reference_rows(store, new, found)
    assert kept > 4 * refused
    assert 2 * whole >= kept


@pytest.mark.parametrize("table", ["labels", "predictions"])
def test_behind_a_page_that_is_lost_reading_continues(tmp_path, table):
    path, rows = tmp_path / "s.db", 20_000
    connection = connect(path)
    connection.execute("PRAGMA foreign_keys = OFF")
    connection.execute("BEGIN")
    tick = "INSERT INTO ticks VALUES (1, 1, 'a', 's', 1, 1, 0, 1, zeroblob(8), zeroblob(8), 0)"
    connection.execute(tick)
    into = {
        "labels": "labels (run, stream, n, y, t_ns, pos) VALUES (1, 'a', ?, 1.0, 0, ?)",
        "predictions": "predictions (stream, n, t_ns, p, session, pos) "
        "VALUES ('a', ?, 0, 0.5, 's', ?)",
    }[table]
    connection.executemany(f"INSERT INTO {into}", ((k, k) for k in range(rows)))
    connection.execute("COMMIT")
    connection.close()
    data = bytearray(path.read_bytes())
    pages = len(data) // PAGE
    for page in (pages // 3, pages // 2, pages // 3 * 2):
        data[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)
    path.write_bytes(data)
    source, target = open_damaged(path), connect(tmp_path / "new.db")
    target.execute("PRAGMA foreign_keys = OFF")
    assert "malformed" in salvage(source, target).unreadable[table]
    source.close()
    found = {k for (k,) in target.execute(f"SELECT n FROM {table}")}
    target.close()
    a_page = rows // (pages - 20)
    assert rows - 4 * a_page < len(found) < rows - 2 * a_page
    assert {0, rows - 1} <= found


# ---- names, locks and kills -----------------------------------------------------------------


@pytest.fixture
def damaged(store, tmp_path):
    copy = Path(shutil.copy(store, tmp_path / "s.db"))
    change(copy, "UPDATE ticks SET crc = crc + 1 WHERE pos = 12")
    return settled(copy)


def test_a_store_in_use_is_refused_and_so_is_its_place(store, damaged, tmp_path):
    new = tmp_path / "new.db"
    lock = StoreLock(damaged)
    with pytest.raises(LockedError, match=f"in use by process {os.getpid()} "):
        recover(damaged, new, make)
    lock.close()
    shutil.copy(store, new)
    lock = StoreLock(new)
    with pytest.raises(LockedError):
        recover(damaged, new, make)
    lock.close()
    assert new.read_bytes() == store.read_bytes()


def test_it_never_writes_where_the_damaged_store_is(damaged, tmp_path):
    before = damaged.read_bytes()
    (tmp_path / "link.db").symlink_to(damaged)
    odd = tmp_path / "x.recovering"
    shutil.copy(damaged, odd)
    pairs = [(damaged, tmp_path / name) for name in ("s.db", "link.db", "s.db-wal", "s.db.lock")]
    for source, new in [*pairs, (odd, tmp_path / "x")]:
        with pytest.raises(UsageError, match="belongs to the damaged store"):
            recover(source, new, make)
    assert damaged.read_bytes() == odd.read_bytes() == before


def test_what_is_in_the_log_is_recovered_too(store, states, tmp_path):
    """A daemon that was killed leaves transactions in the log alone."""
    copy, new = Path(shutil.copy(store, tmp_path / "s.db")), tmp_path / "new.db"
    connection = connect(copy)
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("UPDATE ticks SET crc = crc + 1 WHERE pos = 12")
    away = tmp_path / "away"
    away.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(f"{copy}{suffix}", away / f"s.db{suffix}")
    connection.close()
    log = (away / "s.db-wal").read_bytes()
    assert (away / "s.db").read_bytes() == store.read_bytes()
    found = recovered(away / "s.db", new)
    check(new, found, states)
    assert found.what.startswith("inputs ")
    assert (away / "s.db-wal").read_bytes() == log


@pytest.mark.parametrize("known", ["a store", "no store", "nothing"])
def test_an_earlier_file_of_its_name_goes_with_its_log(store, states, damaged, tmp_path, known):
    new = tmp_path / "new.db"
    earlier = connect(shutil.copy(store, new))
    earlier.execute("PRAGMA wal_autocheckpoint = 0")
    earlier.execute("DELETE FROM ticks")
    shutil.copy(f"{new}-wal", tmp_path / "log")
    earlier.close()
    if known == "a store":
        shutil.copy(store, new)
    elif known == "no store":
        new.write_text("another program")
    else:
        new.unlink()
    shutil.copy(tmp_path / "log", f"{new}-wal")
    check(new, recover(damaged, new, make), states)


KILLS = {
    "while rows are copied": ("stream_lstm.store.salvage._Copy.outputs", "before"),
    "before the part is cut": ("stream_lstm.store.recovery.StoreRecovery._cut", "before"),
    "before it is stored": ("stream_lstm.store.recovery.StoreRecovery._losses", "before"),
    "before it has its name": ("stream_lstm.store.recovery._name", "before"),
    "once it has its name": ("stream_lstm.store.recovery._name", "after"),
}

PROGRAM = """
import os, signal, sys
from stream_lstm.cli.main import main
place, name, when = sys.argv.pop(1), sys.argv.pop(1), sys.argv.pop(1)
module = __import__(place, fromlist=["x"])
owner, _, method = name.rpartition(".")
target = getattr(module, owner) if owner else module
real = getattr(target, method)
def killed(*arguments):
    if when == "after":
        real(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(target, method, killed)
main()
"""


@pytest.mark.parametrize("moment", KILLS)
def test_a_kill_leaves_the_damaged_store_and_no_half_one(store, states, damaged, tmp_path, moment):
    path, when = KILLS[moment]
    parts = path.split(".")
    new, before = tmp_path / "new.db", damaged.read_bytes()
    line = (".".join(parts[:3]), ".".join(parts[3:]), when, "recover", damaged, "--to", new)
    process = subprocess.run([sys.executable, "-c", PROGRAM, *map(str, line)], check=False)
    assert process.returncode == -signal.SIGKILL
    assert damaged.read_bytes() == before
    assert new.exists() is (when == "after")
    if new.exists():
        assert state_of(new) == states[max(states)]
    check(new, recover(damaged, new, make), states)
    assert not list(tmp_path.glob("*.recovering*"))
