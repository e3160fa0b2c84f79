"""A store that has come to its limit lets go of its oldest, and can still be gone on from."""

import contextlib

import pytest

from stream_lstm.events import Prediction
from stream_lstm.schema import StoreConfig
from stream_lstm.store import journal as trimming
from stream_lstm.store import schema, writer
from stream_lstm.store.chain import damage
from stream_lstm.store.journal import first_pos, trim, used_bytes
from stream_lstm.store.verify import Verification

from .stores import StoredSession, predictions, query, series, settings, shown, ticks

LIMIT = 150_000
SMALL = StoreConfig(snapshot_every=100, commit_elements=1, commit_ms=1, max_gb=LIMIT / 1e9)


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "PAUSE_S", 0.0)  # a commit for each block, at once
    return tmp_path / "s.db"


def filled(path, count=3000):
    """A store far beyond its limit, and all the predictions that were made."""
    values = series(count)
    with StoredSession(path, settings(), SMALL, blocking=False) as kept:
        for k in range(0, count, 5):
            kept.feed(ticks(values[k : k + 5], k + 1))
            kept.store._writer.catch_up()
        trimmed = kept.store._writer._journal.trimmed
    return values, kept.events, trimmed


def test_its_file_stays_near_the_limit_and_says_how_much_went(path):
    _, events, trimmed = filled(path)
    connection = schema.connect_reader(path)
    assert used_bytes(connection) < LIMIT + 100_000
    assert first_pos(connection) - 1 == trimmed > 0
    assert query(path, "SELECT sum(count), count(*) FROM events WHERE kind = 'trimmed'") == [
        (trimmed, 1)
    ]
    connection.close()
    kept = predictions(path)
    assert 0 < len(kept) < len(shown(events))
    assert kept == shown(events)[-len(kept) :]


def test_it_is_gone_on_from_to_the_same_bits(path, tmp_path):
    values, events, _ = filled(path)
    more = series(3200)[3000:]
    with StoredSession(path, settings(), SMALL, blocking=False) as kept:
        kept.feed(ticks(more, 3001))
    with StoredSession(tmp_path / "whole.db", settings()) as whole:
        whole.feed(ticks(values, 1), ticks(more, 3001))
    assert shown(kept.events) == shown(whole.events)[len(shown(events)) :]


def test_verify_begins_at_the_oldest_snapshot(path):
    filled(path)
    with StoredSession(path, settings(), SMALL) as kept:
        session = kept.session
    fresh = type(session)(settings(), session.columns, lambda _: None, engine=session.engine)
    connection = schema.connect_reader(path)
    oldest = query(path, "SELECT min(snapshot) FROM snapshots")[0][0]
    found = Verification(connection, fresh).run()
    connection.close()
    assert found.difference is None
    assert found.began == [oldest]
    assert found.checked
    assert found.checked + found.unchecked == len(predictions(path))


def test_what_no_snapshot_follows_stays(path):
    with StoredSession(path, settings(), StoreConfig(snapshot_every=100_000)) as kept:
        kept.feed(ticks(series(300), 1))
        kept.store._writer.catch_up()
        connection = schema.connect(path)
        assert trim(connection, 1, 0) == 0
        connection.close()
    assert len(predictions(path)) == sum(isinstance(e, Prediction) for e in kept.events)


def test_a_replay_keeps_all_of_its_file(path):
    values = series(1500)
    with StoredSession(path, settings(), SMALL, blocking=True) as kept:
        for k in range(0, 1500, 5):
            kept.feed(ticks(values[k : k + 5], k + 1))
            kept.store._writer.catch_up()
    assert query(path, "SELECT min(pos) FROM ticks") == [(1,)]


def many_commits(path):
    """A store of 400 inputs: 100 in one transaction, then 10 in each; return its connection."""
    values = series(400)
    with StoredSession(
        path, settings(), StoreConfig(snapshot_every=10**6, commit_ms=60_000)
    ) as kept:
        for first, end in [(0, 100), *((k, k + 10) for k in range(100, 400, 10))]:
            for k in range(first, end):
                kept.session.push(ticks(values[k : k + 1], k // 2 + 1, "ab"[k % 2]))
                kept.session.catch_up()
                kept.store.add(ticks(values[k : k + 1], k // 2 + 1, "ab"[k % 2]))
            kept.store.flush()
            kept.store._writer.catch_up()
        kept.store.snapshot()
    connection = schema.connect(path)
    connection.execute("BEGIN")
    return connection


def test_a_commit_takes_no_more_than_its_share_and_whole_transactions(path, monkeypatch):
    monkeypatch.setattr(trimming, "TRIMMED_POSITIONS", 25)
    with contextlib.closing(many_commits(path)) as connection:
        assert trim(connection, 1, 0) == 100, "the first transaction is larger than the share"
        assert [trim(connection, 1, 0) for _ in range(3)] == [20, 20, 20]
        assert damage(connection) is None
        assert connection.execute("SELECT count FROM events WHERE event = 0").fetchone() == (160,)


def test_what_is_behind_the_oldest_snapshot_stays(path):
    with contextlib.closing(many_commits(path)) as connection:
        connection.execute("UPDATE snapshots SET pos = 133")
        assert trim(connection, 1, 0) == 130
        assert trim(connection, 1, 0) == 0
