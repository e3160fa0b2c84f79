"""The file of a store goes away while it is written: that is reported, and every loss counted."""

from __future__ import annotations

import contextlib
import os
import sqlite3

import pytest

from stream_lstm.config import StoreConfig
from stream_lstm.errors import GoneError, OutputError
from stream_lstm.events import Prediction
from stream_lstm.store import writer

from .stores import (
    StoredSession,
    of,
    predictions,
    query,
    series,
    shown,
    ticks,
    value,
    wait_until,
)

VALUES = series(900)


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


def begun(path, **options):
    """A store that has written, and whose file is not only its log."""
    session = StoredSession(path, **options).feed(ticks(VALUES[:200])).settle()
    query(path, "SELECT 1")
    return session


@pytest.mark.parametrize(
    "options",
    [
        {"blocking": True},
        {"blocking": False, "options": StoreConfig(snapshot_every=60, if_gone="stop")},
    ],
)
@pytest.mark.parametrize("way", WAYS)
def test_a_replay_and_a_daemon_that_must_stop_end_with_an_error(path, way, options):
    session = begun(path, **options)
    way(path)
    session.feed(ticks(series(1), 201))
    wait_until(lambda: session.store.trouble)
    with pytest.raises(GoneError, match=r"was (removed|replaced|cut)") as raised:
        session.feed(ticks(series(1), 202))
    assert raised.value.exit_code == 74
    with pytest.raises(GoneError):
        session.store.close()


@pytest.mark.parametrize("way", [removed, moved])
def test_a_daemon_continues_in_a_new_file_to_the_same_bits(path, way):
    lines = []
    with begun(path, blocking=False, say=lines.append) as session:
        way(path)
        wait_until(lambda: session.store.trouble)  # with nothing to write
        lost = len(of(Prediction, session.events)) + 10
        session.feed(ticks(VALUES[200:300], 201))
        assert session.store.trouble is None
        session.feed(ticks(VALUES[300:600], 301))
    assert len(lines) == 1
    assert "continues in a new file" in lines[0]
    assert session.store.figures()["inputs_left_out"] == 1
    [hole] = query(path, "SELECT pos, count, reason FROM events WHERE kind = 'hole'")
    assert hole[:2] == (1, 1)
    assert "this file begins here" in hole[2]
    assert query(path, "SELECT next_seq, n, ticks FROM streams") == [(601, 600, 600)]
    assert predictions(path) == shown(session.events)[lost:]
    if way is moved:
        assert value(path.with_name("other.db"), "ticks FROM streams") == 200
    # a session resumes from the new file alone
    session.session.emit = session.events.append
    session.session.push(ticks(VALUES[600:700], 601))
    with StoredSession(path) as again:
        again.feed(ticks(VALUES[600:700], 601))
    assert predictions(path) == shown(session.events)[lost:]


@pytest.mark.parametrize("way", [replaced, cut])
def test_a_daemon_waits_until_the_place_is_free(path, way):
    lines = []
    with begun(path, blocking=False, say=lines.append) as session:
        way(path)
        session.feed(ticks(series(10), 201))
        wait_until(lambda: session.store.trouble)
        session.feed(ticks(series(10), 211)).store.report()
        assert "in its place" in session.store.trouble
        assert "in its place" in lines[-1]
        path.rename(path.with_name("aside"))
        session.store._create_at = 0.0
        session.feed(ticks(series(10), 221))
        assert session.store.trouble is None
        session.store.report()
        assert "can be written again" in lines[-1]
    assert value(path, "next_seq FROM streams") == 231
    assert value(path, "count FROM events WHERE kind = 'hole'") == 3


def test_a_stop_without_a_file_is_an_error(path):
    session = begun(path, blocking=False)
    replaced(path)
    session.feed(ticks(series(10), 201))
    with pytest.raises(OutputError, match="replaced"):
        session.store.close()
    assert path.read_text() == "hello"
    assert not path.with_name("s.db-wal").exists(), "it is not that of the other file"


def test_a_log_that_is_removed_is_folded_in_and_begun_again(path):
    with begun(path, blocking=False) as session:
        path.with_name("s.db-wal").unlink()
        session.feed(ticks(VALUES[200:300], 201)).settle()
    assert session.store.figures()["retries"] == 1
    assert predictions(path) == shown(session.events)


def test_a_file_that_sqlite_made_smaller_is_whole(path):
    fold = "PRAGMA wal_checkpoint(TRUNCATE)"
    with begun(path, blocking=False) as session:
        session.store._writer.catch_up()
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            for sql in (fold, "CREATE TABLE filler AS SELECT zeroblob(1000000)", fold):
                other.execute(sql)
            session.feed(ticks(VALUES[200:210], 201)).store._writer.catch_up()
            for sql in ("DROP TABLE filler", "VACUUM", fold):
                other.execute(sql)
        session.feed(ticks(VALUES[210:300], 211)).store._writer.catch_up()
        assert session.store.trouble is None
    assert predictions(path) == shown(session.events)
