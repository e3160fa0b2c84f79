"""The disk fails, or is too slow, or the process ends within a write: nothing stored is wrong."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3

import numpy as np
import pytest

from stream_lstm.config import StoreConfig
from stream_lstm.errors import OutputError, StoreError, StreamLSTMError
from stream_lstm.events import Gap, Prediction
from stream_lstm.store import schema, writer
from stream_lstm.store.reading import entries, same
from stream_lstm.store.units import Step
from stream_lstm.store.writer import Writer

from ..bench_modules import bench_module
from .stores import (
    PAGE,
    StoredSession,
    change,
    cut,
    of,
    predictions,
    query,
    reseal,
    series,
    shown,
    singles,
    ticks,
    value,
    wait_until,
)

faults = bench_module("faults_store")


@pytest.mark.slow
@pytest.mark.skipif(bool(faults.available()), reason=faults.available())
def test_whatever_call_fails_nothing_is_lost():
    """Calls of the system fail, one in each run: everything written stays, the rest follows."""
    found = faults.write_errors(5, seed=1)
    assert found["injected"] >= 3, "most of the calls that were to fail were made"
    assert found["retried"] + found["refused"] >= 1
    assert found["lost"] == 0


# ---- the disk is full -------------------------------------------------------------------


@contextlib.contextmanager
def full_disk(path):
    """The kernel refuses to write behind the present end of the log, in any file."""
    resource = pytest.importorskip("resource")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = path.with_name("s.db-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def begun(path, **options):
    """A store that has written 100 ticks."""
    return StoredSession(path, **options).feed(ticks(series(900)[:100])).settle()


def test_a_full_disk_holds_up_no_prediction_and_nothing_is_lost_that_fits_the_queue(path):
    lines, values = [], series(900)
    with begun(path, blocking=False, say=lines.append) as session:
        with full_disk(path):
            session.feed(*singles(values[100:500], 101))
            assert len(of(Prediction, session.events)) == 49, "predicting went on"
            wait_until(lambda: session.store._writer.trouble)
            session.store.report()
            assert value(path, "ticks FROM streams") == 100
        session.settle().store.report()
        session.feed(ticks(values[500:], 501))
    assert predictions(path) == shown(session.events)
    assert [line.split(" (")[0] for line in lines] == [
        f"cannot write the store {path}",
        f"the store {path} can be written again",
    ]
    retries = value(path, "sum(count) FROM events WHERE kind = 'store trouble'")
    assert retries == session.store.figures()["retries"] >= 1
    assert not query(path, "SELECT 1 FROM events WHERE kind = 'hole'")


@pytest.fixture
def with_hole(path, monkeypatch):
    """The session of a store that left out inputs, since they did not fit the queue."""
    monkeypatch.setattr(writer, "QUEUE_BYTES", 60_000)
    values = series(900)
    with begun(path, blocking=False) as session:
        with full_disk(path):
            session.feed(*singles(values[100:500], 101), Gap("a", 501, 2))
        session.settle()
        for block in cut(values[502:], [50, 200], first=503):
            session.feed(block).settle()
    return session


def test_inputs_that_do_not_fit_the_queue_are_a_hole_with_a_snapshot_behind_it(path, with_hole):
    left_out = with_hole.store.figures()["inputs_left_out"]
    assert left_out > 100
    [(pos, count)] = query(path, "SELECT pos, count FROM events WHERE kind = 'hole'")
    assert count == left_out
    assert value(path, f"min(pos) FROM snapshots WHERE pos >= {pos}") == pos
    emitted, stored = shown(with_hole.events), predictions(path)
    assert set(stored) < set(emitted)
    assert stored[-1] == emitted[-1]
    assert query(path, "SELECT next_seq, n, ticks FROM streams") == [(901, 898, 898)]
    # a session resumes behind the hole to the same bits
    more = ticks(series(100, seed=9), 901)
    with StoredSession(path) as again:
        assert again.resumed.snapshot is not None
        with_hole.session.emit = with_hole.events.append
        with_hole.session.push(more)
        again.feed(more)
    assert predictions(path)[-10:] == shown(with_hole.events)[-10:]


def test_a_hole_without_a_good_snapshot_behind_it_is_refused_with_a_way_out(path, with_hole):
    first = "(SELECT min(snapshot) FROM snapshots)"
    change(path, f"UPDATE snapshot_pieces SET data = zeroblob(10) WHERE snapshot > {first}")
    change(path, f"UPDATE snapshots SET pos = 1 WHERE snapshot = {first}")  # good, before the hole
    reseal(path)
    with pytest.raises(StoreError, match=r"no snapshot can be used .* recover STORE --to NEW"):
        StoredSession(path)


def test_a_kill_within_a_hole_leaves_everything_before_it(path, monkeypatch):
    monkeypatch.setattr(writer, "QUEUE_BYTES", 20_000)
    monkeypatch.setattr(writer, "CLOSE_S", 0.0)
    values = series(900)
    session = begun(path, blocking=False)
    with full_disk(path):
        session.feed(*singles(values[100:600], 101)).kill()
    with StoredSession(path) as again:
        assert again.store.positions["a"].next_seq == 101
        again.feed(ticks(values[100:600], 101))
    assert predictions(path) == shown(session.events)


def test_a_stop_on_a_full_disk_reports_that_the_end_is_missing(path, monkeypatch):
    monkeypatch.setattr(writer, "CLOSE_S", 0.2)
    session = begun(path, blocking=False)
    with full_disk(path):
        session.feed(ticks(series(100), 101))
        with pytest.raises(OutputError, match="could not write the end"):
            session.store.close()
    with StoredSession(path) as again:
        assert again.store.positions["a"].next_seq == 101


def test_a_replay_ends_with_an_error_where_the_disk_is_full(path):
    session = begun(path)
    with full_disk(path):
        session.feed(ticks(series(1), 101))
        wait_until(lambda: session.store._writer.failure)
        for action in (lambda: session.feed(ticks(series(1), 102)), session.store.close):
            with pytest.raises(OutputError, match="cannot write the store"):
                action()


def test_a_replay_waits_for_a_slow_disk(path, monkeypatch):
    monkeypatch.setattr(writer, "QUEUE_BYTES", 5_000)
    with StoredSession(path) as session:
        session.feed(*singles(series(300)))
    assert predictions(path) == shown(session.events)
    assert session.store.figures()["inputs_left_out"] == 0


@pytest.mark.parametrize("pages", range(0, 40, 5))
def test_a_store_that_is_full_at_any_page_is_written_once_there_is_room(path, monkeypatch, pages):
    """SQLite itself refuses, in the middle of a transaction; each attempt has more pages."""
    monkeypatch.setattr(writer, "RETRY_S", 0.01)
    monkeypatch.setattr(writer, "RETRY_MAX_S", 0.02)
    connect, allowed = schema.connect, []

    def limited(path, *, sync):
        connection = connect(path, sync=sync)
        present = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {max(allowed[0], present)}")
        allowed[0] += 5
        return connection

    with StoredSession(path, blocking=False) as session:
        allowed.append(value(path, "page_count FROM pragma_page_count") + pages)
        session.store._writer._disconnect()
        monkeypatch.setattr(schema, "connect", limited)
        session.feed(*singles(series(300))).settle()
    assert predictions(path) == shown(session.events)
    assert pages or session.store.figures()["retries"]


def test_an_error_that_is_not_the_disks_ends_the_daemon(path):
    session = begun(path, blocking=False)
    session.store(of(Prediction, session.events)[0])  # a second time: its number is taken
    session.feed(ticks(series(1), 101))
    wait_until(lambda: session.store._writer.failure)
    with pytest.raises(StreamLSTMError, match=r"cannot write these records: .*UNIQUE") as caught:
        session.feed(ticks(series(1), 102))
    assert caught.value.exit_code == 70
    session.kill()


def test_a_commit_that_succeeded_after_all_is_not_repeated(path):
    """An error after the last write of a commit: the batch is there, and that is noticed."""
    connects = []

    def connect():
        connects.append(Once(path) if not connects else schema.connect(path))
        return connects[-1]

    with StoredSession(path) as session:
        session.feed(ticks(series(30)))
    thread = Writer(connect, 1, commit_elements=1, commit_s=0.01, blocking=False)
    thread.put([Step(ticks(series(5), 31), 5, [])])
    wait_until(lambda: thread.written == 1)
    assert thread.close() == 0
    assert thread.retries == 1
    assert value(path, "sum(count) FROM ticks") == 35
    assert len(connects) == 2


class Once:
    """A connection whose first COMMIT succeeds, and then raises an error of the disk."""

    def __init__(self, path):
        self._real, self._failed = schema.connect(path), False

    def __getattr__(self, name):
        return getattr(self._real, name)

    def execute(self, sql, *arguments):
        done = self._real.execute(sql, *arguments)
        if sql == "COMMIT" and not self._failed:
            self._failed = True
            raise sqlite3.OperationalError("disk I/O error")
        return done


# ---- the process ends within a write ----------------------------------------------------


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A store whose last commits are in its log alone: (folder, all predictions)."""
    path = tmp_path_factory.mktemp("killed") / "s.db"
    session = StoredSession(path, options=StoreConfig(snapshot_every=80))
    with contextlib.closing(schema.connect_reader(path)) as reader:  # keeps SQLite from folding it
        reader.execute("SELECT count(*) FROM ticks").fetchone()
        for block in cut(series(200), range(20, 200, 20)):
            session.feed(block).settle()
        session.kill()
        folder = path.parent / "folder"
        folder.mkdir()
        for name in ("s.db", "s.db-wal"):
            shutil.copy(path.parent / name, folder / name)
    return folder, shown(session.events)


@pytest.fixture
def small(killed, tmp_path):
    shutil.copytree(killed[0], tmp_path / "copy")
    return tmp_path / "copy", killed[1]


def true_beginning(folder, everything):
    """How many predictions can be read, which must be the first; the journal has no hole."""
    (folder / "s.db-shm").unlink(missing_ok=True)
    try:
        connection = schema.connect_reader(folder / "s.db")
    except StoreError:
        return 0  # not even its tables are there yet
    with contextlib.closing(connection):
        read = list(entries(connection))
        rows = connection.execute(
            "SELECT stream, n, p, t_ns, session, after_gap FROM predictions ORDER BY pos, n"
        ).fetchall()
        had = connection.execute("SELECT sum(ticks) FROM streams").fetchone()[0] or 0
    assert all(entry.intact for entry in read)
    assert sum(len(entry.event.t_ns) for entry in read) == had
    assert rows == everything[: len(rows)]
    assert len(rows) == max(0, (had - 2) // 10)
    return len(rows)


def test_a_store_cut_at_any_byte_of_its_log_is_a_true_beginning(small):
    folder, everything = small
    wal = folder / "s.db-wal"
    size, frame = wal.stat().st_size, PAGE + 24
    frames = range(32, size + 1, frame)
    around = [edge + k for edge in frames for k in (-1, 0, 1, 23, 24, 25)]
    dense = [*range(size - 40, size), *range(1, 2 * frame, 97), *range(1, size, 1501)]
    found = []
    for length in sorted({*around, *dense, size}, reverse=True):
        if length <= size:
            with wal.open("r+b") as file:
                file.truncate(length)
            found.append(true_beginning(folder, everything))
    assert found[0] == len(everything)
    assert found == sorted(found, reverse=True)
    assert len(set(found)) > 5


@pytest.mark.parametrize("share", [0.35, 0.6, 0.9, 0.999])
def test_a_session_resumes_from_a_store_that_was_cut(small, share):
    folder, everything = small
    wal = folder / "s.db-wal"
    with wal.open("r+b") as file:
        file.truncate(int(wal.stat().st_size * share))
    with StoredSession(folder / "s.db") as again:
        position = again.store.positions.get("a")
        had = position.ticks if position is not None else 0
        again.feed(ticks(series(200)[had:], had + 1))
    assert predictions(folder / "s.db") == everything


def test_a_flipped_bit_in_the_log_is_never_believed(small):
    folder, everything = small
    wal = folder / "s.db-wal"
    good = wal.read_bytes()
    rng = np.random.default_rng(0)
    for k in rng.choice(len(good), 100, replace=False):
        bad = bytearray(good)
        bad[k] ^= 1 << int(rng.integers(8))
        wal.write_bytes(bad)
        true_beginning(folder, everything)


def test_two_predictions_are_the_same_only_with_every_bit():
    one = Prediction("a", 12, 5, 0.5, "s")
    assert same(one, one)
    assert not same(None, one)
    assert not same(one, Prediction("a", 12, 5, np.nextafter(0.5, 1).item(), "s"))
    assert not same(one, Prediction("a", 12, 5, 0.5, "s", after_gap=True))


def test_an_index_that_is_a_page_of_another_table_is_damage_with_the_file_named(path):
    with StoredSession(path) as session:
        session.feed(ticks(series(100)))
    names = ("inputs_among_events", "sqlite_autoindex_streams_1")
    pages = [value(path, f"rootpage FROM sqlite_schema WHERE name = '{name}'") for name in names]
    change(path, "INSERT INTO events VALUES (99, 99, 1, 0, 1, 'end', 'a', '', 1, 1, 1, '')")
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA writable_schema = ON")
        sql = "UPDATE sqlite_schema SET rootpage = ? WHERE name = ?"
        connection.executemany(sql, zip(pages[::-1], names, strict=True))
    with pytest.raises(StoreError, match=r"s\.db is damaged: the last position .* is 'a'"):
        StoredSession(path)
