"""From a damaged store a whole one is made of its intact part, and nothing else is believed."""

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
from stream_lstm.errors import ConfigurationError, LockedError, StoreError, UsageError
from stream_lstm.events import Gap, Label, Prediction, SessionStart
from stream_lstm.store.chain import damage
from stream_lstm.store.inspection import contents
from stream_lstm.store.output import export_store
from stream_lstm.store.reading import drive, entries, resume
from stream_lstm.store.recovery import recover
from stream_lstm.store.salvage import open_damaged, salvage
from stream_lstm.store.schema import connect, connect_reader
from stream_lstm.store.units import Settle
from stream_lstm.store.verify import Verification
from stream_lstm.store.writer import StoreLock

from ..engines import engine_for, settings
from .stores import (
    COLUMNS,
    PAGE,
    TABLES,
    StoredSession,
    change,
    fold_log,
    of,
    query,
    series,
    ticks,
    value,
)

CONFIG = settings(learn=True, score_window=0, labels="external", horizon=0)
POSITIONS = (
    "SELECT stream, session, next_seq, n, ticks, labels, times_crc, fields_crc FROM streams"
)
ALL_TABLES = (*TABLES, "setup")
KEEPS = ("newest", "longest")


def make(setup):
    return Session(
        setup.config, setup.columns, weights=setup.weights, engine=engine_for(setup.config, 1)
    )


def fresh():
    return Session(CONFIG, COLUMNS, engine=engine_for(CONFIG, 1))


def digest_of(session):
    return hashlib.sha256(snapshot.take(session)).hexdigest()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of two streams with rows in every table, of three runs, killed at their ends."""
    path, rounds = tmp_path_factory.mktemp("recover") / "s.db", 24
    values = {name: series(10 * rounds, seed) for name, seed in (("a", 3), ("b", 4))}
    seq = {"a": 1, "b": 1}
    session = None
    for k in range(rounds):
        if k % (rounds // 3) == 0:
            if session is not None:
                session.feed(Settle()).kill()
            session = StoredSession(path, CONFIG)
        for name in ("a", "b"):
            if k % 7 == 5:
                session.feed(Gap(name, seq[name] + 3, 3))
                seq[name] += 3
            restarted = k >= rounds // 2 and name == "b"
            if restarted and k == rounds // 2:
                session.feed(SessionStart(name, "s2"))
                seq[name] = 1
            block = values[name][10 * k : 10 * k + 10]
            session.feed(ticks(block, seq[name], name, "s2" if restarted else "s1"))
            seq[name] += 10
            emitted = [one.n for one in of(Prediction, session.events) if one.stream == name]
            if emitted and k % 3:
                session.feed(Label(name, emitted[-1], k % 2, 5))
            session.store._writer.catch_up()
        session.store.note("stale", reason="of the test")
        session.store._writer.catch_up()
    session.kill()
    for table in ALL_TABLES:
        assert value(path, f"count(*) > 1 FROM {table}"), table
    return fold_log(path)


@pytest.fixture(scope="module")
def states(store):
    """The state after each input of the store, by its position, from a replay of all of them."""
    session, found = fresh(), {}
    with contextlib.closing(connect_reader(store)) as connection:
        for entry in entries(connection):
            drive(session, entry.event)
            session.catch_up()
            found[entry.pos] = digest_of(session)
    return found


@pytest.fixture
def copy(store, path):
    return Path(shutil.copy(store, path))


@pytest.fixture
def new(tmp_path):
    return tmp_path / "new.db"


def state_of(path):
    """The state from which a start on a store continues."""
    session = fresh()
    with contextlib.closing(connect_reader(path)) as connection:
        resume(connection, session, str(path))
    return digest_of(session)


def check(new, found, states, store=None):
    """The new store is whole, and has the reported state, and the rows of the damaged one."""
    with contextlib.closing(connect_reader(new)) as connection:
        assert damage(connection) is None
        assert Verification(connection, fresh()).run().difference is None
    assert query(new, "PRAGMA integrity_check") == [("ok",)]
    assert query(new, "PRAGMA foreign_key_check") == []
    kept = found.kept
    assert state_of(new) == states[kept.last]
    journal = " UNION ALL ".join(
        f"SELECT pos FROM {table}" for table in ("ticks", "labels", "events WHERE input")
    )
    positions = [pos for (pos,) in query(new, f"{journal} ORDER BY pos")]
    assert positions == list(range(min(kept.first, kept.last), kept.last + 1))
    for table in ("ticks", "labels", "predictions", "scores", "updates") if store else ():
        rows = f"SELECT * FROM {table} WHERE pos BETWEEN {kept.first} AND {kept.last} "
        rows += "ORDER BY pos, 1, 2"
        assert query(new, rows) == query(store, rows), table


def recovered(damaged, new, keep="newest"):
    """Recover, and check that the damaged file stays as it is; return a refusal."""
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


def altered(path, *changes):
    for sql in changes:
        change(path, sql)
    return fold_log(path)


# ---- the part ---------------------------------------------------------------------------


@pytest.mark.slow
def test_a_store_that_is_not_damaged_needs_no_recovery(copy, new):
    assert recovered(copy, new) is None
    assert sorted(path.name for path in new.parent.iterdir()) == ["s.db", "s.db.lock"]


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_a_tick_that_is_altered_costs_one_side_of_it(store, states, copy, new, share, keep):
    end = value(store, "max(pos) FROM ticks")
    pos = value(store, f"max(pos) FROM ticks WHERE pos <= {share * end}")
    found = recovered(
        altered(copy, f"UPDATE ticks SET crc = crc + 1 WHERE pos = {pos}"), new, keep
    )
    check(new, found, states, store)
    kept, inputs = found.kept, found.kept.last - found.kept.first + 1
    assert not kept.first <= pos <= kept.last
    last = value(store, "max(pos) FROM commits")
    assert found.end == last
    if pos > value(store, "max(pos) FROM snapshots"):
        assert (kept.first, found.other) == (1, None)
    elif keep == "newest":
        assert kept.last == last
    else:
        assert inputs >= (found.other.last - found.other.first + 1 if found.other else 0)
    assert found.lost.inputs == last - inputs
    between = f"pos BETWEEN {kept.first} AND {kept.last}"
    lost = value(store, f"sum(count) FROM ticks WHERE NOT {between}")
    by_stream = sum(stream["ticks"] for stream in found.lost.by_stream.values())
    assert found.lost.rows["ticks"] == by_stream == lost


def test_it_continues_to_the_bits_of_one_that_was_never_damaged(store, copy, new, tmp_path):
    whole = shutil.copy(store, tmp_path / "whole.db")
    change(copy, "UPDATE ticks SET crc = crc + 1 WHERE pos = 12")
    assert recover(copy, new, make).kept.last == value(store, "max(pos) FROM commits")
    known = query(store, POSITIONS)
    assert query(new, POSITIONS) == known
    seq = {row[0]: row[2] for row in known}
    ends = []
    for path in (whole, new):
        with StoredSession(path, CONFIG) as session:
            session.feed(ticks(series(100, 9), seq["a"]), Label("a", 250, 1, 5))
            session.feed(ticks(series(100, 8), seq["b"], "b", "s2"))
        ends.append((session.events, digest_of(session.session)))
    assert ends[0] == ends[1]
    later = "SELECT * FROM predictions WHERE pos > 40 ORDER BY pos, n"
    assert query(new, later) == query(whole, later)
    assert contents(new)["events"]["recovered"] == 1
    assert [run["command"] for run in contents(new)["runs"]][-2:] == ["recover", "test"]
    export_store(new, tmp_path / "tables")


@pytest.mark.parametrize(
    "sql", ["UPDATE streams SET next_seq = 7, fields_crc = 1", "DELETE FROM streams"]
)
def test_positions_are_computed_from_the_journal(store, states, copy, new, sql):
    found = recovered(altered(copy, sql), new)
    check(new, found, states)
    assert (found.rebuilt, found.inexact, found.lost.inputs) == (["streams"], [], 0)
    order = "SELECT * FROM streams ORDER BY stream"
    assert query(new, order) == query(store, order)


def test_positions_are_those_of_the_last_input_of_the_part(store, states, copy, new, tmp_path):
    """As in a store that was never written beyond that."""
    altered(copy, "UPDATE labels SET y = 1 - y WHERE pos >= 30", "DELETE FROM snapshots")
    found = recovered(copy, new)
    check(new, found, states)
    assert (found.kept.first, found.inexact) == (1, [])
    earlier = tmp_path / "earlier.db"
    with (
        contextlib.closing(connect_reader(store)) as connection,
        StoredSession(earlier, CONFIG) as session,
    ):
        for entry in entries(connection):
            if entry.pos <= found.kept.last:
                session.feed(entry.event)
    assert sorted(query(new, POSITIONS)) == sorted(query(earlier, POSITIONS))


def test_behind_a_damaged_end_the_last_snapshot_stays_alone(path, new):
    """A clean stop: the state of the end is whole, and the journal before it is not."""
    with StoredSession(path, CONFIG, StoreConfig(snapshot_every=10_000)) as session:
        session.feed(ticks(series(100)))
        session.store._writer.catch_up()
        session.feed(ticks(series(50), 101), Label("a", 140, 1, 5))
    end = value(path, "max(pos) FROM commits")
    found = recovered(altered(path, "UPDATE commits SET digest = zeroblob(32)"), new)
    assert (found.kept.first, found.kept.last, found.kept.transactions) == (end + 1, end, 0)
    check(new, found, {end: digest_of(session.session)})
    with StoredSession(new, CONFIG) as again:
        assert again.store.resumed_elements == 150
        again.feed(ticks(series(20), 151))
    assert contents(new)["whole"] is False


def test_a_run_that_is_altered_is_no_loss(states, copy, new):
    found = recovered(altered(copy, "UPDATE runs SET runtime = '{}' WHERE run = 2"), new)
    check(new, found, states)
    assert (found.rebuilt, found.lost.inputs) == (["runs"], 0)
    commands = [(1, "test"), (2, "unknown"), (3, "test"), (4, "recover")]
    assert query(new, "SELECT run, command FROM runs") == commands


def test_a_snapshot_with_another_position_is_not_believed(states, copy, new):
    found = recovered(altered(copy, "UPDATE snapshots SET pos = pos - 1"), new)
    check(new, found, states)
    assert found.kept.snapshots == []
    assert found.lost.snapshots
    assert found.kept.first == 1


def test_a_commit_that_claims_to_reach_too_far_takes_no_rows_of_the_others(
    store, states, copy, new
):
    found = recovered(altered(copy, "UPDATE commits SET pos = pos + 1000 WHERE number = 9"), new)
    check(new, found, states, store)
    assert found.kept.last == value(store, "max(pos) FROM commits")
    assert found.kept.transactions > 1


@pytest.fixture
def trimmed_copy(trimmed, path):
    return Path(shutil.copy(trimmed.path, path))


@pytest.mark.parametrize(
    ("sql", "inexact"),
    [
        ("DELETE FROM streams", ["a"]),
        ("UPDATE ticks SET seq = 7 WHERE pos = (SELECT min(pos) FROM ticks)", []),
    ],
)
def test_a_store_that_was_trimmed_keeps_its_end(trimmed, trimmed_copy, new, sql, inexact):
    columns = "SELECT session, next_seq, n, ticks FROM streams"
    session = Session(
        trimmed.session.session.config, COLUMNS, engine=trimmed.session.session.engine
    )
    found = recovered(altered(trimmed_copy, sql), new)
    assert (found.inexact, found.kept.last) == (inexact, found.end)
    assert found.lost.inputs == 0 or not inexact
    assert query(new, columns) == query(trimmed.path, columns) == [("s1", 1501, 1500, 1500)]
    with contextlib.closing(connect_reader(new)) as connection:
        assert damage(connection) is None
        resume(connection, session, str(new))
    assert digest_of(session) == digest_of(trimmed.session.session)


@pytest.mark.parametrize(
    "sql", ["DELETE FROM snapshots", "UPDATE setup SET value = 'x' WHERE name = 'columns'"]
)
def test_without_a_beginning_a_store_is_refused(trimmed_copy, new, sql):
    refused = recovered(altered(trimmed_copy, sql), new)
    assert isinstance(refused, StoreError)
    assert "Restore a backup" in str(refused)


# ---- any damage -----------------------------------------------------------------------------


def alter_cell(path, table, column, row, by):
    first, second, *_ = columns = [
        name for _, name, *_ in query(path, f"PRAGMA table_info({table})")
    ]
    name = columns[column % len(columns)]
    rows = query(path, f"SELECT {first}, {second}, {name} FROM {table}")
    *key, cell = rows[row % len(rows)]
    with contextlib.suppress(sqlite3.IntegrityError):
        sql = f"UPDATE {table} SET {name} = ? WHERE {first} IS ? AND {second} IS ?"
        change(path, sql, other(cell, by), *key)


def other(cell, by):
    match cell:
        case None:
            return by
        case str():
            return cell[:-1] if by % 2 else cell + "x"
        case bytes():
            at = by % max(len(cell), 1)
            return cell[:at] + bytes([(cell[at] if cell else 0) ^ 1]) + cell[at + 1 :]
        case int():
            return cell ^ (1 << by % 40)
        case float():
            return cell + 1.0


damages = st.tuples(
    st.sampled_from(["cell", "bytes", "page", "cut"]),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 2**31),
    st.sampled_from(ALL_TABLES),
)


def spoil(path, kind, place, number, table):
    rng = np.random.default_rng(number)
    if kind == "cell":
        column, row, by = rng.integers(0, 1000, 3).tolist()
        with contextlib.suppress(sqlite3.DatabaseError, StoreError):  # it may be damaged already
            alter_cell(path, table, column, row, by)
            fold_log(path)
        return
    data = bytearray(path.read_bytes())
    at = int(place * len(data))
    if kind == "cut":
        del data[max(at, 100) :]
    elif kind == "bytes":
        noise = rng.integers(0, 256, 1 + number % 40, np.uint8).tobytes()
        data[at : at + len(noise)] = noise[: len(data) - at]
    else:
        at = at // PAGE * PAGE
        data[at : at + PAGE] = bytes(PAGE) if number % 2 else rng.bytes(PAGE)
    path.write_bytes(bytes(data))


@pytest.mark.slow
@hypothesis_settings(max_examples=60, deadline=None)
@given(st.lists(damages, min_size=1, max_size=3), st.sampled_from(KEEPS))
def test_any_damage_leads_to_a_whole_store_or_a_refusal(
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
        check(new, found, states, store)
        assert recover(new, folder / "again.db", make) is None
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("keep", KEEPS)
def test_each_page_that_is_lost_costs_no_more_than_its_part(store, states, path, new, keep):
    data = store.read_bytes()
    recoveries = refused = whole = 0
    for page in range(1, len(data) // PAGE, 2):
        path.write_bytes(data[: page * PAGE] + bytes(PAGE) + data[(page + 1) * PAGE :])
        found = recovered(path, new, keep)
        if isinstance(found, StoreError):
            refused += 1
        elif found is not None:
            recoveries += 1
            whole += found.kept.last == max(states)
            check(new, found, states, store)
    assert recoveries > 4 * refused
    assert 2 * whole >= recoveries


@pytest.mark.parametrize(
    "insert",
    [
        "labels (run, stream, n, y, t_ns, pos) VALUES (1, 'a', ?, 1.0, 0, ?)",
        "predictions (stream, n, t_ns, p, session, pos) VALUES ('a', ?, 0, 0.5, 's', ?)",
    ],
)
def test_behind_a_page_that_is_lost_reading_continues(path, new, insert):
    rows, table = 20_000, insert.split()[0]
    with contextlib.closing(connect(path)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("BEGIN")
        tick = "ticks VALUES (1, 1, 'a', 's', 1, 1, 0, 1, zeroblob(8), zeroblob(8), 0)"
        connection.execute(f"INSERT INTO {tick}")
        connection.executemany(f"INSERT INTO {insert}", ((k, k) for k in range(rows)))
        connection.execute("COMMIT")
    data = bytearray(path.read_bytes())
    pages = len(data) // PAGE
    for page in (pages // 3, pages // 2, pages // 3 * 2):
        data[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)
    path.write_bytes(data)
    with (
        contextlib.closing(open_damaged(path)) as source,
        contextlib.closing(connect(new)) as target,
    ):
        target.execute("PRAGMA foreign_keys = OFF")
        assert "malformed" in salvage(source, target).unreadable[table]
        found = {k for (k,) in target.execute(f"SELECT n FROM {table}")}
    a_page = rows // (pages - 20)
    assert rows - 4 * a_page < len(found) < rows - 2 * a_page
    assert {0, rows - 1} <= found


# ---- names, locks and kills -----------------------------------------------------------------


@pytest.fixture
def damaged(copy):
    return altered(copy, "UPDATE ticks SET crc = crc + 1 WHERE pos = 12")


def test_a_store_in_use_is_refused_and_so_is_its_place(store, damaged, new):
    shutil.copy(store, new)
    for path in (damaged, new):
        lock = StoreLock(path)
        with pytest.raises(LockedError, match=f"in use by process {os.getpid()} "):
            recover(damaged, new, make)
        lock.close()
    assert new.read_bytes() == store.read_bytes()


def test_it_never_writes_where_the_damaged_store_is(damaged, tmp_path):
    before = damaged.read_bytes()
    (tmp_path / "link.db").symlink_to(damaged)
    odd = Path(shutil.copy(damaged, tmp_path / "x.recovering"))
    pairs = [(damaged, tmp_path / name) for name in ("s.db", "link.db", "s.db-wal", "s.db.lock")]
    for source, new in [*pairs, (odd, tmp_path / "x")]:
        with pytest.raises(UsageError, match="belongs to the damaged store"):
            recover(source, new, make)
    assert damaged.read_bytes() == odd.read_bytes() == before


@contextlib.contextmanager
def with_log(path, sql):
    """Change a store in its log alone."""
    with contextlib.closing(connect(path)) as connection:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute(sql)
        yield


def test_transactions_that_are_only_in_the_log_are_recovered_too(store, states, copy, new):
    """A daemon that was killed leaves some there."""
    away = copy.parent / "away"
    away.mkdir()
    with with_log(copy, "UPDATE ticks SET crc = crc + 1 WHERE pos = 12"):
        for suffix in ("", "-wal"):
            shutil.copy(f"{copy}{suffix}", away / f"s.db{suffix}")
    log = (away / "s.db-wal").read_bytes()
    assert (away / "s.db").read_bytes() == store.read_bytes()
    found = recovered(away / "s.db", new)
    check(new, found, states)
    assert found.what.startswith("inputs ")
    assert (away / "s.db-wal").read_bytes() == log


@pytest.mark.parametrize("known", ["a store", "no store", "nothing"])
def test_an_earlier_file_of_its_name_goes_with_its_log(store, states, damaged, new, known):
    shutil.copy(store, new)
    with with_log(new, "DELETE FROM ticks"):
        shutil.copy(f"{new}-wal", new.parent / "log")
    if known == "a store":
        shutil.copy(store, new)
    elif known == "no store":
        new.write_text("something else")
    else:
        new.unlink()
    shutil.copy(new.parent / "log", f"{new}-wal")
    check(new, recover(damaged, new, make), states)


KILLS = {
    "while rows are copied": ("stream_lstm.store.salvage", "_Copy.outputs", "before"),
    "before it is stored": ("stream_lstm.store.recovery", "StoreRecovery._losses", "before"),
    "before it has its name": ("stream_lstm.store.recovery", "_name", "before"),
    "once it has its name": ("stream_lstm.store.recovery", "_name", "after"),
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


@pytest.mark.slow
@pytest.mark.parametrize("moment", KILLS)
def test_a_kill_leaves_the_damaged_store_and_no_half_one(states, damaged, new, moment):
    before, when = damaged.read_bytes(), KILLS[moment][-1]
    line = (*KILLS[moment], "recover", damaged, "--to", new)
    process = subprocess.run([sys.executable, "-c", PROGRAM, *map(str, line)], check=False)
    assert process.returncode == -signal.SIGKILL
    assert damaged.read_bytes() == before
    assert new.exists() is (when == "after")
    if new.exists():
        assert state_of(new) == states[max(states)]
    check(new, recover(damaged, new, make), states)
    assert not list(new.parent.glob("*.recovering*"))
