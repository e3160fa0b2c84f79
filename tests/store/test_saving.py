"""A snapshot in pieces: of any size, beside the ticks, whole or not there."""

import sqlite3

import pytest

from stream_lstm.core import snapshot
from stream_lstm.store import chain, journal, schema, snapshots
from stream_lstm.store.snapshots import snapshot_state
from stream_lstm.store.units import Hole, Step

from .stores import LEARNING, StoredSession, cut, query, series, ticks


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.db"


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(snapshots, "PIECE_BYTES", 200)
    monkeypatch.setattr(snapshots, "SLICE_BYTES", 600)


def whole(path):
    """Return the numbers of the snapshots, each of which is read."""
    connection = schema.connect_reader(path)
    numbers = [number for (number,) in query(path, "SELECT snapshot FROM snapshots")]
    for number in numbers:
        snapshot.weights_of(snapshot_state(connection, number))
    connection.close()
    return numbers


def test_a_state_above_the_limit_of_a_cell_is_stored(path, monkeypatch):
    connect = schema.connect

    def limited(path, **options):
        connection = connect(path, **options)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 70_000)
        return connection

    monkeypatch.setattr(schema, "connect", limited)
    streams = [ticks(series(70, seed=k), stream=f"s{k}") for k in range(60)]
    said = []
    with StoredSession(path, say=said.append) as kept:
        kept.feed(*streams)
    assert not said
    [(size,)] = query(
        path, "SELECT max(size) FROM (SELECT sum(length(data)) AS size FROM snapshot_pieces "
        "GROUP BY snapshot)",
    )  # fmt: skip
    assert size > 70_000
    with StoredSession(path) as again:
        assert (again.resumed.snapshot, again.resumed.inputs) == (whole(path)[-1], 0)
        assert snapshot.take(again.session) == snapshot.take(kept.session)


def test_ticks_are_stored_while_a_snapshot_is(path, small):
    """The snapshot is of its own position, however many transactions it takes."""
    kept = StoredSession(path)
    kept.feed(ticks(series(130)))
    kept.kill()
    book = journal.Journal(schema.connect(path), 1)
    before, seq = book.pos, 131
    book.write([kept.store._saved()])
    while book.saving:
        book.write([[Step(ticks(series(1), seq=seq), 1, [])]])
        seq += 1
    assert book.pos > before + 5
    assert query(path, "SELECT max(pos), count(*) FROM ticks") == [(book.pos, seq - 130)]
    assert query(path, "SELECT pos FROM snapshots ORDER BY snapshot DESC LIMIT 1") == [(before,)]
    assert chain.damage(book.connection) is None
    assert whole(path)[-1] == 2
    book.connection.close()


@pytest.mark.parametrize("slices", [1, 2, 5])
def test_what_a_kill_leaves_of_a_snapshot_is_deleted(path, small, slices):
    kept = StoredSession(path)
    kept.feed(*cut(series(130), [60]))
    kept.kill()
    [known] = [whole(path)]
    connection = schema.connect(path)
    book = journal.Journal(connection, 1)
    frozen = kept.store._saved()
    for _ in range(slices):
        book.write([frozen] if not book.saving else [])
    assert book.saving
    connection.close()  # a kill
    assert whole(path) == known
    assert query(path, "SELECT max(snapshot) FROM snapshot_pieces") == [(known[-1] + 1,)]
    with StoredSession(path) as again:
        assert again.resumed.snapshot == known[-1]
        # the number is used again, and none of the old pieces is among the new ones
        assert query(path, "SELECT max(snapshot) FROM snapshot_pieces") == [(known[-1],)]
        again.feed(ticks(series(200, seed=5), seq=131))
    assert whole(path)[-1] > known[-1]
    pieces = query(path, "SELECT DISTINCT snapshot FROM snapshot_pieces ORDER BY 1")
    assert [number for (number,) in pieces] == whole(path)


@pytest.mark.parametrize("at", range(1, 8))
def test_a_slice_that_fails_is_written_again(path, small, monkeypatch, at):
    """A live store tries again, over a new connection, until the snapshot is whole."""
    calls = []
    write = snapshots.Saving.write

    def failing(self, connection):
        write(self, connection)
        calls.append(self.number)
        if len(calls) == at:
            raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(snapshots.Saving, "write", failing)
    kept = StoredSession(path, blocking=False)
    kept.feed(*cut(series(130), range(10, 130, 10)))
    kept.store.close()
    assert len(calls) > 8
    assert kept.store.figures()["retries"] == 1
    numbers = whole(path)
    pieces = query(path, "SELECT DISTINCT snapshot FROM snapshot_pieces ORDER BY 1")
    assert [number for (number,) in pieces] == numbers
    with StoredSession(path) as again:
        assert again.resumed.snapshot == numbers[-1]
        assert snapshot.take(again.session) == snapshot.take(kept.session)


def test_a_commit_that_was_one_after_all_writes_no_snapshot_twice(path, small):
    """An error may come behind the commit: the row of the snapshot is there then."""
    kept = StoredSession(path)
    kept.feed(ticks(series(130)))
    kept.kill()
    book = journal.Journal(schema.connect(path), 1)
    book.write([kept.store._saved()])
    while book.saving > 0:
        held = list(book._savings)
        book.write([])
        last = book._savings == []
        if last:
            book._savings = held
        book.reopen(schema.connect(path))
        if last:
            break
    assert book.saving == 0
    assert whole(path)[-1] == query(path, "SELECT max(snapshot) FROM snapshot_pieces")[0][0]


class Lossy:
    """A connection whose first commit of a whole snapshot succeeds and reports an error."""

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


def test_a_snapshot_whose_commit_was_one_after_all_keeps_its_number(path, monkeypatch):
    connect = schema.connect
    monkeypatch.setattr(schema, "connect", lambda *given, **more: Lossy(connect(*given, **more)))
    monkeypatch.setattr(Lossy, "lost", 0)
    kept = StoredSession(path, blocking=False)
    kept.feed(*cut(series(200), range(10, 200, 10)))
    kept.store.close()
    assert Lossy.lost == kept.store.figures()["retries"] == 1
    assert len(whole(path)) >= 2
    with StoredSession(path) as again:
        assert again.resumed.snapshot == whole(path)[-1]
        assert not again.resumed.set_aside
        assert snapshot.take(again.session) == snapshot.take(kept.session)


def test_a_hole_is_not_stored_before_its_snapshot_is(path, small, monkeypatch):
    """A kill while the pieces are written leaves a store without the hole, and a whole journal."""
    kept = StoredSession(path)
    kept.feed(ticks(series(130)))
    kept.kill()
    connection = schema.connect(path)
    book = journal.Journal(connection, 1)
    hole = Hole(3, "a test", {}, kept.store._saved())
    write, calls = snapshots.Saving.write, []

    def dying(self, connection):
        calls.append(self.number)
        if len(calls) == 4:
            raise KeyboardInterrupt
        write(self, connection)

    with monkeypatch.context() as patched:
        patched.setattr(snapshots.Saving, "write", dying)
        with pytest.raises(KeyboardInterrupt):
            book.write([hole])
    assert query(path, "SELECT count(*) FROM events WHERE kind = 'hole'") == [(0,)]
    known = whole(path)
    book.write([hole])
    connection.close()
    assert query(path, "SELECT count(*) FROM events WHERE kind = 'hole'") == [(1,)]
    assert whole(path)[-1] > known[-1]
    with StoredSession(path) as again:
        assert (again.resumed.snapshot, again.resumed.inputs) == (whole(path)[-1], 0)


def test_the_learning_of_a_live_session_goes_on_beside(path, small):
    """The state that is stored is that of its moment, though the session learns on meanwhile."""
    states = {}
    kept = StoredSession(path, blocking=False)
    saved = kept.store._saved

    def noted():
        states[int(kept.session.streams["a"].n)] = snapshot.take(kept.session)
        return saved()

    kept.store._saved = noted
    kept.feed(*cut(series(400), range(10, 400, 10)))
    kept.store.close()
    assert LEARNING["learn"]
    connection = schema.connect_reader(path)
    rows = query(path, "SELECT snapshot, elements FROM snapshots")
    assert len(rows) >= 2
    for number, elements in rows:
        assert snapshot_state(connection, number) == states[elements]
    connection.close()


class Short:
    """A state of one piece."""

    def chunks(self):
        yield b"x" * 150


def test_the_pieces_of_a_snapshot_that_was_dropped_are_not_among_the_next_ones(path, small):
    kept = StoredSession(path)
    kept.feed(ticks(series(130)))
    kept.kill()
    book = journal.Journal(schema.connect(path), 1)
    saved = kept.store._saved()
    book.write([saved])
    # as where the commit succeeded and its answer was lost
    book._savings.clear()
    book._number -= 1
    book.write([saved._replace(chunks=Short().chunks)])
    newest = "SELECT data FROM snapshot_pieces WHERE snapshot = (SELECT max(snapshot) FROM {})"
    assert query(path, newest.format("snapshots")) == [(b"x" * 150,)]
    assert query(path, newest.format("snapshot_pieces")) == [(b"x" * 150,)]
    book.connection.close()
