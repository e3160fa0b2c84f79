"""The disk fails, or is too slow, or the process ends within a write: what is there is true."""

from __future__ import annotations

import resource
import shutil
import sqlite3
from contextlib import contextmanager

import numpy as np
import pytest

from stream_lstm.config import StoreConfig
from stream_lstm.errors import OutputError, StoreError, StreamLSTMError
from stream_lstm.events import Gap, Prediction
from stream_lstm.store import schema, writer
from stream_lstm.store.reading import entries, same
from stream_lstm.store.writer import Writer

from .stores import (
    StoredSession,
    change,
    cut,
    of,
    predictions,
    query,
    reseal,
    series,
    shown,
    ticks,
    wait_until,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.db"


@contextmanager
def files_no_longer_than(size):
    """The kernel refuses to write behind `size` bytes of any file of this process."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def written(kept):
    """Whether everything that was handed over has been written."""
    return kept.store._writer._bytes_in == kept.store._writer._bytes_out


# ---- the disk is full -------------------------------------------------------------------


def test_a_full_disk_holds_up_no_prediction_and_nothing_is_lost_that_fits_the_queue(path):
    said = []
    values = series(900)
    with StoredSession(path, blocking=False, say=said.append) as kept:
        kept.feed(ticks(values[:100], 1))
        wait_until(lambda: written(kept))
        size = path.with_name("s.db-wal").stat().st_size
        with files_no_longer_than(size):
            kept.feed(*[ticks(values[k : k + 1], k + 1) for k in range(100, 500)])
            assert len(of(Prediction, kept.events)) == 49, "predicting went on"
            wait_until(lambda: kept.store._writer.trouble)
            kept.store.report()
            assert query(path, "SELECT ticks FROM streams") == [(100,)]
        wait_until(lambda: written(kept))
        kept.store.report()
        kept.feed(ticks(values[500:], 501))
    assert predictions(path) == shown(kept.events)
    assert [line.split(" (")[0] for line in said] == [
        f"cannot write the store {path}",
        f"the store {path} can be written again",
    ]
    trouble = query(path, "SELECT count, reason FROM events WHERE kind = 'store trouble'")
    assert sum(count for count, _ in trouble) == kept.store.figures()["retries"] >= 1
    assert not query(path, "SELECT 1 FROM events WHERE kind = 'hole'")


def test_what_does_not_fit_the_queue_is_a_hole_with_a_snapshot_behind_it(path, monkeypatch):
    monkeypatch.setattr(writer, "QUEUE_BYTES", 60_000)
    values = series(900)
    with StoredSession(path, blocking=False) as kept:
        kept.feed(ticks(values[:100], 1))
        wait_until(lambda: written(kept))
        size = path.with_name("s.db-wal").stat().st_size
        with files_no_longer_than(size):
            kept.feed(*[ticks(values[k : k + 1], k + 1) for k in range(100, 500)])
            kept.feed(Gap("a", 501, 2))
        wait_until(lambda: written(kept))
        for block in cut(values[502:], [50, 200], first=503):
            kept.feed(block)
            wait_until(lambda: written(kept))
    left_out = kept.store.figures()["inputs_left_out"]
    assert left_out > 100
    holes = query(path, "SELECT pos, count FROM events WHERE kind = 'hole'")
    assert [count for _, count in holes] == [left_out]
    snapshot = query(path, f"SELECT pos FROM snapshots WHERE pos >= {holes[0][0]}")
    assert snapshot[0][0] == holes[0][0]
    made = shown(kept.events)
    stored = predictions(path)
    assert set(stored) < set(made)
    assert stored[-1] == made[-1]
    position = query(path, "SELECT next_seq, n, ticks FROM streams")
    assert position == [(901, 898, 898)]
    # From behind the hole it goes on to the same bits.
    with StoredSession(path) as again:
        assert again.resumed.snapshot is not None
        more = series(100, seed=9)
        kept.session.emit = kept.events.append
        kept.session.push(ticks(more, 901))
        again.feed(ticks(more, 901))
    assert predictions(path)[-10:] == shown(kept.events)[-10:]


def test_a_hole_without_a_good_snapshot_behind_it_is_refused_with_a_way_out(path, monkeypatch):
    test_what_does_not_fit_the_queue_is_a_hole_with_a_snapshot_behind_it(path, monkeypatch)
    with sqlite3.connect(path) as connection:
        first = "(SELECT min(snapshot) FROM snapshots)"
        damaged = "UPDATE snapshot_pieces SET data = zeroblob(10) WHERE snapshot >"
        connection.execute(f"{damaged} {first}")
        # One that is good, and before the hole.
        connection.execute(f"UPDATE snapshots SET pos = 1 WHERE snapshot = {first}")
    connection.close()
    reseal(path)
    with pytest.raises(StoreError, match=r"no snapshot can be used .* recover STORE --to NEW"):
        StoredSession(path)


def test_a_kill_within_a_hole_leaves_what_came_before_it(path, monkeypatch):
    monkeypatch.setattr(writer, "QUEUE_BYTES", 20_000)
    monkeypatch.setattr(writer, "CLOSE_S", 0.0)
    values = series(600)
    kept = StoredSession(path, blocking=False)
    kept.feed(ticks(values[:100], 1))
    wait_until(lambda: written(kept))
    with files_no_longer_than(path.with_name("s.db-wal").stat().st_size):
        kept.feed(*[ticks(values[k : k + 1], k + 1) for k in range(100, 600)])
        kept.kill()
    with StoredSession(path) as again:
        assert again.store.positions["a"].next_seq == 101
        again.feed(ticks(values[100:], 101))
    assert predictions(path) == shown(kept.events)


def test_a_stop_on_a_full_disk_says_that_the_end_is_missing(path, monkeypatch):
    monkeypatch.setattr(writer, "CLOSE_S", 0.2)
    kept = StoredSession(path, blocking=False)
    kept.feed(ticks(series(100), 1))
    wait_until(lambda: written(kept))
    with files_no_longer_than(path.with_name("s.db-wal").stat().st_size):
        kept.feed(ticks(series(100), 101))
        with pytest.raises(OutputError, match="could not write the end"):
            kept.store.close()
    with StoredSession(path) as again:
        assert again.store.positions["a"].next_seq == 101


def test_a_replay_ends_with_an_error_where_the_disk_is_full(path):
    kept = StoredSession(path, blocking=True)
    kept.feed(ticks(series(100), 1))
    wait_until(lambda: written(kept))
    with files_no_longer_than(path.with_name("s.db-wal").stat().st_size):
        kept.feed(ticks(series(1), 101))
        wait_until(lambda: kept.store._writer.failure)
        with pytest.raises(OutputError, match="cannot write the store"):
            kept.feed(ticks(series(1), 102))
        with pytest.raises(OutputError, match="cannot write the store"):
            kept.store.close()


def test_a_replay_waits_for_a_slow_disk(path, monkeypatch):
    monkeypatch.setattr(writer, "QUEUE_BYTES", 5_000)
    values = series(500)
    with StoredSession(path, blocking=True) as kept:
        kept.feed(*[ticks(values[k : k + 1], k + 1) for k in range(500)])
    assert predictions(path) == shown(kept.events)
    assert kept.store.figures()["inputs_left_out"] == 0


@pytest.mark.parametrize("pages", range(0, 40, 3))
def test_a_store_that_is_full_at_any_page_is_written_on_once_there_is_room(
    path, monkeypatch, pages
):
    """SQLite itself refuses, in the middle of a transaction; each attempt has a page more."""
    monkeypatch.setattr(writer, "RETRY_MAX_S", 0.05)
    values = series(300)
    connect, allowed = schema.connect, [None]

    def limited(path, *, sync):
        connection = connect(path, sync=sync)
        if allowed[0] is not None:
            now = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {max(allowed[0], now)}")
            allowed[0] += 5
        return connection

    with StoredSession(path, blocking=False) as kept:
        page_count = query(path, "PRAGMA page_count")[0][0]
        kept.store._writer._disconnect()
        allowed[0] = page_count + pages
        monkeypatch.setattr(schema, "connect", limited)
        kept.feed(*[ticks(values[k : k + 1], k + 1) for k in range(300)])
        wait_until(lambda: written(kept))
    assert predictions(path) == shown(kept.events)
    assert pages or kept.store.figures()["retries"]


def test_what_no_disk_is_to_blame_for_ends_the_daemon(path):
    kept = StoredSession(path, blocking=False)
    kept.feed(ticks(series(30), 1))
    wait_until(lambda: written(kept))
    kept.store(of(Prediction, kept.events)[0])  # a second time: its number is taken
    kept.feed(ticks(series(1), 31))
    wait_until(lambda: kept.store._writer.failure)
    with pytest.raises(StreamLSTMError, match=r"cannot write these records: .*UNIQUE") as caught:
        kept.feed(ticks(series(1), 32))
    assert caught.value.exit_code == 70
    kept.kill()


def test_a_commit_that_was_one_after_all_is_not_made_twice(path):
    """An error after the last write of a commit: what was tried is there, and is seen to be."""
    connects = []

    def connect():
        connection = Once(path) if not connects else schema.connect(path)
        connects.append(connection)
        return connection

    with StoredSession(path) as kept:
        kept.feed(ticks(series(30), 1))
    from stream_lstm.store.units import Step

    thread = Writer(connect, 1, commit_elements=1, commit_s=0.01, blocking=False)
    thread.put([Step(ticks(series(5), 31), 5, [])])
    wait_until(lambda: thread.written == 1)
    assert thread.close() == 0
    assert thread.retries == 1
    assert query(path, "SELECT sum(count) FROM ticks") == [(35,)]
    assert len(connects) == 2


class Once:
    """A connection whose first COMMIT is made, and then reported as an error of the disk."""

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


@pytest.fixture
def small(path):
    """A store whose last commits are in its journal file alone: (folder, all predictions)."""
    kept = StoredSession(path, options=StoreConfig(snapshot_every=80))
    reader = schema.connect_reader(path)  # which keeps the journal from being folded in
    reader.execute("SELECT count(*) FROM ticks").fetchone()
    for block in cut(series(200), range(20, 200, 20)):
        kept.feed(block)
        wait_until(lambda: written(kept))
    kept.kill()
    folder = path.parent / "killed"
    folder.mkdir()
    for name in ("s.db", "s.db-wal"):
        shutil.copy(path.parent / name, folder / name)
    reader.close()
    return folder, shown(kept.events)


def true_beginning(folder, everything):
    """How many predictions can be read, which must be the first; the journal has no hole."""
    try:
        connection = schema.connect_reader(folder / "s.db")
    except StoreError:
        return 0  # not even its tables are there yet
    try:
        read = list(entries(connection))
        rows = connection.execute(
            "SELECT stream, n, p, t_ns, session, after_gap FROM predictions ORDER BY pos, n"
        ).fetchall()
        had = connection.execute("SELECT sum(ticks) FROM streams").fetchone()[0] or 0
    finally:
        connection.close()
    assert all(entry.intact for entry in read)
    assert sum(len(entry.event.t_ns) for entry in read) == had
    assert rows == everything[: len(rows)]
    assert len(rows) == max(0, (had - 2) // 10)
    return len(rows)


def test_a_store_cut_at_any_byte_of_its_journal_file_is_a_true_beginning(small):
    folder, everything = small
    wal = folder / "s.db-wal"
    size = wal.stat().st_size
    frame = 4096 + 24
    every_byte = [*range(size, size - 2 * frame, -1), *range(32 + 2 * frame, 0, -64)]
    sparse = range(size - 2 * frame, 0, -501)
    found = []
    for length in sorted({*every_byte, *sparse}, reverse=True):
        with wal.open("r+b") as file:
            file.truncate(length)
        (folder / "s.db-shm").unlink(missing_ok=True)
        found.append(true_beginning(folder, everything))
    assert found[0] == len(everything)
    assert found == sorted(found, reverse=True)
    assert len(set(found)) > 5


@pytest.mark.parametrize("share", [0.35, 0.6, 0.75, 0.9, 0.97, 0.999])
def test_a_store_that_was_cut_is_gone_on_from(small, share):
    folder, everything = small
    wal = folder / "s.db-wal"
    with wal.open("r+b") as file:
        file.truncate(int(wal.stat().st_size * share))
    with StoredSession(folder / "s.db") as again:
        position = again.store.positions.get("a")
        had = position.ticks if position is not None else 0
        again.feed(ticks(series(200)[had:], had + 1))
    assert predictions(folder / "s.db") == everything


def test_a_flipped_bit_in_the_journal_file_is_never_believed(small):
    folder, everything = small
    wal = folder / "s.db-wal"
    good = wal.read_bytes()
    rng = np.random.default_rng(0)
    for k in rng.choice(len(good), 150, replace=False):
        bad = bytearray(good)
        bad[k] ^= 1 << int(rng.integers(8))
        wal.write_bytes(bad)
        (folder / "s.db-shm").unlink(missing_ok=True)
        true_beginning(folder, everything)


def test_two_predictions_are_the_same_only_with_every_bit():
    one = Prediction("a", 12, 5, 0.5, "s")
    assert same(one, one)
    assert not same(None, one)
    assert not same(one, Prediction("a", 12, 5, np.nextafter(0.5, 1).item(), "s"))
    assert not same(one, Prediction("a", 12, 5, 0.5, "s", after_gap=True))


def test_an_index_that_is_a_page_of_another_table_is_damage_with_the_file_named(path):
    with StoredSession(path) as kept:
        kept.feed(ticks(series(100)))
    pages = "SELECT rootpage FROM sqlite_schema WHERE name = '{}'"
    names = ("inputs_among_events", "sqlite_autoindex_streams_1")
    one, other = (query(path, pages.format(name))[0][0] for name in names)
    change(path, "INSERT INTO events VALUES (99, 99, 1, 0, 1, 'end', 'a', '', 1, 1, 1, '')")
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA writable_schema = ON")
    for name, page in zip(names, (other, one), strict=True):
        connection.execute("UPDATE sqlite_schema SET rootpage = ? WHERE name = ?", (page, name))
    connection.commit()
    connection.close()
    with pytest.raises(StoreError, match=r"s\.db is damaged: the last position .* is 'a'"):
        StoredSession(path)
