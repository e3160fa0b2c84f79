"""The file of a store goes away while it is written: it is said, and nothing is lost unseen."""

from __future__ import annotations

import os
import sqlite3

import pytest

from stream_lstm.config import StoreConfig
from stream_lstm.errors import GoneError, OutputError
from stream_lstm.events import Prediction
from stream_lstm.store import writer

from .stores import StoredSession, of, predictions, query, series, shown, ticks, wait_until


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.db"


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(writer, "FILE_CHECK_S", 0.05)


def removed(path):
    path.unlink()


def moved(path):
    path.rename(path.with_name("other.db"))


def replaced(path):
    path.with_name("hello").write_text("hello")
    path.with_name("hello").replace(path)


def cut(path):
    os.truncate(path, path.stat().st_size - 4096)


def folder_moved(path):
    path.parent.rename(path.parent.with_name(path.parent.name + " elsewhere"))


WAYS = (removed, moved, replaced, cut, folder_moved)


def begun(path, **more):
    """A store that has written, and whose file is not only its log."""
    kept = StoredSession(path, **more)
    kept.feed(ticks(series(200), 1))
    wait_until(lambda: not kept.store.waiting_bytes)
    query(path, "SELECT 1")
    return kept


@pytest.mark.parametrize("way", WAYS)
def test_a_replay_ends_with_an_error_of_the_file(path, way):
    kept = begun(path, blocking=True)
    way(path)
    kept.feed(ticks(series(1), 201))
    wait_until(lambda: kept.store._writer.failure)
    with pytest.raises(GoneError) as raised:
        kept.feed(ticks(series(1), 202))
    assert raised.value.exit_code == 74
    assert kept.store.trouble
    with pytest.raises(GoneError):
        kept.store.close()


@pytest.mark.parametrize("way", WAYS)
def test_a_daemon_stops_where_it_is_to(path, way):
    kept = begun(path, blocking=False, options=StoreConfig(snapshot_every=60, if_gone="stop"))
    way(path)
    kept.feed(ticks(series(1), 201))
    wait_until(lambda: kept.store.trouble)
    with pytest.raises(GoneError, match=r"was (removed|replaced|cut)"):
        kept.feed(ticks(series(1), 202))
    with pytest.raises(GoneError):
        kept.store.close()


@pytest.mark.parametrize("way", [removed, moved])
def test_a_daemon_goes_on_in_a_new_file_to_the_same_bits(path, way, tmp_path):
    said, values = [], series(900)
    with begun(path, blocking=False, say=said.append) as kept:
        way(path)
        wait_until(lambda: kept.store.trouble)  # with nothing to write
        made = len(of(Prediction, kept.events))
        kept.feed(ticks(values[:100], 201))
        assert kept.store.trouble is None
        kept.feed(ticks(values[100:400], 301))
    assert len(said) == 1
    assert "continues in a new file" in said[0]
    assert kept.store.figures()["inputs_left_out"] == 1
    hole = query(path, "SELECT pos, count, reason FROM events WHERE kind = 'hole'")
    assert hole[0][:2] == (1, 1)
    assert "this file begins here" in hole[0][2]
    assert query(path, "SELECT next_seq, n, ticks FROM streams") == [(601, 600, 600)]
    assert predictions(path) == shown(kept.events)[made + 10 :]
    if way is moved:
        assert query(path.with_name("other.db"), "SELECT ticks FROM streams") == [(200,)]
    # the new file alone leads on to the same bits
    kept.session.emit = kept.events.append
    kept.session.push(ticks(values[400:500], 601))
    with StoredSession(path) as again:
        again.feed(ticks(values[400:500], 601))
    assert predictions(path) == shown(kept.events)[made + 10 :]


@pytest.mark.parametrize("way", [replaced, cut])
def test_a_daemon_waits_until_the_place_is_free(path, way):
    said = []
    with begun(path, blocking=False, say=said.append) as kept:
        way(path)
        kept.feed(ticks(series(10), 201))
        wait_until(lambda: kept.store.trouble)
        kept.feed(ticks(series(10), 211))
        kept.store.report()
        assert "in its place" in kept.store.trouble
        assert "in its place" in said[-1]
        path.rename(path.with_name("aside"))
        kept.store._create_at = 0.0
        kept.feed(ticks(series(10), 221))
        assert kept.store.trouble is None
        kept.store.report()
        assert "can be written again" in said[-1]
    assert query(path, "SELECT next_seq FROM streams") == [(231,)]
    assert query(path, "SELECT count FROM events WHERE kind = 'hole'") == [(3,)]


def test_a_stop_without_a_file_is_an_error(path):
    kept = begun(path, blocking=False)
    replaced(path)
    kept.feed(ticks(series(10), 201))
    with pytest.raises(OutputError, match="replaced"):
        kept.store.close()
    assert path.read_text() == "hello"
    assert not path.with_name("s.db-wal").exists(), "it is not that of the other file"


def test_a_log_that_is_removed_is_brought_in_and_begun_again(path):
    with begun(path, blocking=False) as kept:
        path.with_name("s.db-wal").unlink()
        kept.feed(ticks(series(100), 201))
        wait_until(lambda: not kept.store.waiting_bytes)
    assert kept.store.figures()["retries"] == 1
    assert predictions(path) == shown(kept.events)


def test_a_file_that_was_made_smaller_by_sqlite_is_whole(path):
    with begun(path, blocking=False) as kept:
        kept.store._writer.catch_up()
        other = sqlite3.connect(path)
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        other.execute("CREATE TABLE filler (x)")
        other.execute("INSERT INTO filler VALUES (zeroblob(1000000))")
        other.commit()
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        kept.feed(ticks(series(10), 201))
        kept.store._writer.catch_up()
        other.execute("DROP TABLE filler")
        other.execute("VACUUM")
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        other.close()
        kept.feed(ticks(series(90), 211))
        kept.store._writer.catch_up()
        assert kept.store.trouble is None
    assert predictions(path) == shown(kept.events)
