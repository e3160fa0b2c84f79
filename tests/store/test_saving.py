"""A snapshot in pieces: of any size, beside the ticks, whole or not there."""

import contextlib
import sqlite3

import pytest

from stream_lstm.core import snapshot
from stream_lstm.store import chain, journal, schema, units
from stream_lstm.store.units import Hole, Step, snapshot_state

from .stores import StoredSession, cut, query, series, ticks, value


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(units, "PIECE_BYTES", 200)
    monkeypatch.setattr(units, "SLICE_BYTES", 600)


@pytest.fixture
def killed(path, small):
    """A session of 130 ticks whose process was killed."""
    return StoredSession(path).feed(*cut(series(130), [60])).kill()


@pytest.fixture
def book(path, killed):
    """The journal of its store, written in this thread."""
    with contextlib.closing(schema.connect(path)) as connection:
        yield journal.Journal(connection, 1)


def whole(path):
    """Return the numbers of the snapshots, each of which is read, and which alone have pieces."""
    numbers = [number for (number,) in query(path, "SELECT snapshot FROM snapshots")]
    with contextlib.closing(schema.connect_reader(path)) as connection:
        for number in numbers:
            snapshot.weights_of(snapshot_state(connection, number))
    return numbers


def numbers_of_pieces(path):
    rows = query(path, "SELECT DISTINCT snapshot FROM snapshot_pieces ORDER BY 1")
    return [number for (number,) in rows]


def check_resumes(path, stored):
    """The last snapshot is the state of the session at its end."""
    with StoredSession(path) as again:
        assert (again.resumed.snapshot, again.resumed.inputs) == (whole(path)[-1], 0)
        assert not again.resumed.set_aside
        assert snapshot.take(again.session) == snapshot.take(stored.session)


def test_a_state_above_the_limit_of_a_cell_is_stored(path, monkeypatch):
    connect = schema.connect

    def limited(path, **options):
        connection = connect(path, **options)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 70_000)
        return connection

    monkeypatch.setattr(schema, "connect", limited)
    lines = []
    with StoredSession(path, say=lines.append) as stored:
        stored.feed(*(ticks(series(30, seed=k), stream=f"s{k}") for k in range(60)))
    assert not lines
    largest = "sum(length(data)) FROM snapshot_pieces GROUP BY snapshot ORDER BY 1 DESC LIMIT 1"
    assert value(path, largest) > 70_000
    check_resumes(path, stored)


def test_ticks_are_stored_while_a_snapshot_is(path, killed, book):
    """The snapshot has its own position, however many transactions it takes."""
    before, seq = book.pos, 131
    book.write([killed.store._saved()])
    while book.saving:
        book.write([[Step(ticks(series(1), seq=seq), 1, [])]])
        seq += 1
    assert book.pos > before + 5
    assert query(path, "SELECT max(pos), sum(count) FROM ticks") == [(book.pos, seq - 1)]
    assert value(path, "pos FROM snapshots ORDER BY snapshot DESC LIMIT 1") == before
    assert chain.damage(book.connection) is None
    whole(path)


@pytest.mark.parametrize("slices", [1, 2, 5])
def test_pieces_that_a_kill_leaves_are_deleted(path, killed, book, slices):
    known, saved = whole(path), killed.store._saved()
    for _ in range(slices):
        book.write([] if book.saving else [saved])
    assert book.saving
    book.connection.close()  # a kill
    assert whole(path) == known
    assert numbers_of_pieces(path)[-1] == known[-1] + 1
    with StoredSession(path) as again:
        assert again.resumed.snapshot == known[-1]
        # the number is used again, and none of the old pieces is among the new ones
        assert numbers_of_pieces(path)[-1] == known[-1]
        again.feed(ticks(series(200, seed=5), seq=131))
    assert whole(path)[-1] > known[-1]
    assert numbers_of_pieces(path) == whole(path)


@pytest.mark.parametrize("at", range(1, 8))
def test_a_slice_that_fails_is_written_again(path, small, monkeypatch, at):
    """A live store tries again, over a new connection, until the snapshot is whole."""
    calls, write = [], units.Saving.write

    def failing(self, connection):
        write(self, connection)
        calls.append(self.number)
        if len(calls) == at:
            raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(units.Saving, "write", failing)
    stored = StoredSession(path, blocking=False).feed(*cut(series(130), range(10, 130, 10)))
    stored.store.close()
    assert len(calls) > 8
    assert stored.store.figures()["retries"] == 1
    assert numbers_of_pieces(path) == whole(path)
    check_resumes(path, stored)


class Lossy:
    """A connection whose first commit of a whole snapshot succeeds and raises an error."""

    lost = 0

    def __init__(self, connection):
        self._connection, self._saved = connection, False

    def __getattr__(self, name):
        return getattr(self._connection, name)

    def execute(self, sql, *values):
        out = self._connection.execute(sql, *values)
        self._saved |= sql.startswith("INSERT INTO snapshots")
        if sql == "COMMIT" and self._saved and not Lossy.lost:
            Lossy.lost += 1
            raise sqlite3.OperationalError("disk I/O error")
        return out


def test_a_snapshot_whose_commit_succeeded_after_all_keeps_its_number(path, monkeypatch):
    connect = schema.connect
    monkeypatch.setattr(schema, "connect", lambda *args, **more: Lossy(connect(*args, **more)))
    monkeypatch.setattr(Lossy, "lost", 0)
    stored = StoredSession(path, blocking=False).feed(*cut(series(200), range(10, 200, 10)))
    stored.store.close()
    assert Lossy.lost == stored.store.figures()["retries"] == 1
    assert len(whole(path)) >= 2
    check_resumes(path, stored)


def test_a_reopened_journal_does_not_write_a_snapshot_twice(path, killed, book):
    """An error may come behind the commit: the row of the snapshot is there then."""
    book.write([killed.store._saved()])
    while book.saving:
        savings = list(book._savings)
        book.write([])
        if not book._savings:  # as where the answer of the commit was lost
            book._savings = savings
            book.reopen(book.connection)
            assert not book.saving
    assert numbers_of_pieces(path) == whole(path)


def test_a_hole_is_not_stored_before_its_snapshot_is(path, killed, book, monkeypatch):
    """A kill while the pieces are written leaves a store without the hole, and a whole journal."""
    hole = Hole(3, "a test", {}, killed.store._saved())
    write, calls = units.Saving.write, []

    def dying(self, connection):
        calls.append(self.number)
        if len(calls) == 4:
            raise KeyboardInterrupt
        write(self, connection)

    holes = "count(*) FROM events WHERE kind = 'hole'"
    with monkeypatch.context() as patched:
        patched.setattr(units.Saving, "write", dying)
        with pytest.raises(KeyboardInterrupt):
            book.write([hole])
    assert value(path, holes) == 0
    known = whole(path)
    book.write([hole])
    assert value(path, holes) == 1
    assert whole(path)[-1] > known[-1]
    book.connection.close()
    with StoredSession(path) as again:
        assert (again.resumed.snapshot, again.resumed.inputs) == (whole(path)[-1], 0)


def test_a_snapshot_is_the_state_of_its_moment_though_the_session_learns_on(path, small):
    states, stored = {}, StoredSession(path, blocking=False)
    saved = stored.store._saved

    def noted():
        states[int(stored.session.streams["a"].n)] = snapshot.take(stored.session)
        return saved()

    stored.store._saved = noted
    stored.feed(*cut(series(400), range(10, 400, 10)))
    stored.store.close()
    rows = query(path, "SELECT snapshot, elements FROM snapshots")
    assert len(rows) >= 2
    with contextlib.closing(schema.connect_reader(path)) as connection:
        for number, elements in rows:
            assert snapshot_state(connection, number) == states[elements]


def test_the_pieces_of_a_snapshot_that_was_dropped_are_not_among_the_next_ones(path, killed, book):
    saved = killed.store._saved()
    book.write([saved])
    # as where the commit succeeded and its answer was lost
    book._savings.clear()
    book._number -= 1
    book.write([saved._replace(chunks=lambda: iter([b"x" * 150]))])
    for table in ("snapshots", "snapshot_pieces"):
        newest = f"snapshot = (SELECT max(snapshot) FROM {table})"
        assert value(path, f"data FROM snapshot_pieces WHERE {newest}") == b"x" * 150
