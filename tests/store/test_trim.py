"""A store that has come to its limit deletes its oldest rows, and a session still resumes."""

import contextlib
import shutil

import pytest

from stream_lstm.core.session import Session
from stream_lstm.schema import StoreConfig
from stream_lstm.store import journal, schema
from stream_lstm.store.chain import damage
from stream_lstm.store.journal import first_pos, trim, used_bytes
from stream_lstm.store.verify import Verification

from .stores import StoredSession, change, many_blocks, predictions, query, series, shown, ticks
from .stores import value as cell


@pytest.fixture
def copy(trimmed, path):
    return shutil.copy(trimmed.path, path)


def test_the_file_stays_near_the_limit_and_counts_the_rows_that_are_gone(trimmed):
    path, written = trimmed.path, shown(trimmed.session.events)
    with contextlib.closing(schema.connect_reader(path)) as connection:
        assert used_bytes(connection) < 100_000 + 100_000
        assert damage(connection) is None
        gone = first_pos(connection) - 1
    assert query(path, "SELECT sum(count), count(*) FROM events WHERE kind = 'trimmed'") == [
        (gone, 1)
    ]
    assert gone == trimmed.session.store._writer._journal.trimmed > 0
    assert cell(path, "min(number) FROM commits") > 1
    left = predictions(path)
    assert 0 < len(left) < len(written)
    assert left == written[-len(left) :]


def test_a_session_resumes_to_the_same_bits(trimmed, copy, tmp_path):
    config, more = trimmed.session.session.config, series(200, seed=5)
    with StoredSession(copy, config, trimmed.options, blocking=False) as resumed:
        resumed.feed(ticks(more, 1501))
    with StoredSession(tmp_path / "whole.db", config) as whole:
        whole.feed(ticks(series(1500), 1), ticks(more, 1501))
    assert shown(resumed.events) == shown(whole.events)[-len(shown(resumed.events)) :] != []
    with contextlib.closing(schema.connect_reader(copy)) as connection:
        assert damage(connection) is None


def test_verify_begins_at_the_oldest_snapshot(trimmed):
    old = trimmed.session.session
    session = Session(old.config, old.columns, lambda _: None, engine=old.engine)
    with contextlib.closing(schema.connect_reader(trimmed.path)) as connection:
        found = Verification(connection, session).run()
    assert found.difference is None
    assert found.began == [cell(trimmed.path, "min(snapshot) FROM snapshots")]
    assert found.checked
    assert found.checked + found.unchecked == len(predictions(trimmed.path))


def test_damage_to_the_first_rows_that_are_left_is_found(copy):
    change(copy, "UPDATE ticks SET seq = 7 WHERE pos = (SELECT min(pos) FROM ticks)")
    with contextlib.closing(schema.connect_reader(copy)) as connection:
        assert damage(connection) is not None


@pytest.mark.slow
def test_a_replay_keeps_its_whole_file(trimmed, path, unpaused):
    many_blocks(path, trimmed.options, blocking=True, n=700)
    assert cell(path, "min(pos) FROM ticks") == 1
    with contextlib.closing(schema.connect_reader(path)) as connection:
        assert used_bytes(connection) > 1e9 * trimmed.options.max_gb


@pytest.fixture
def connection(path):
    """A store of 400 inputs: 100 in one transaction, then 10 in each."""
    values = series(400)
    options = StoreConfig(snapshot_every=10**6, commit_ms=60_000)
    with StoredSession(path, options=options) as session:
        for first, end in [(0, 100), *((k, k + 10) for k in range(100, 400, 10))]:
            for k in range(first, end):
                tick = ticks(values[k : k + 1], k // 2 + 1, "ab"[k % 2])
                session.session.push(tick)
                session.session.catch_up()
                session.store.add(tick)
            session.store.flush()
            session.store._writer.catch_up()
        session.store.snapshot()
    with contextlib.closing(schema.connect(path)) as connection:
        connection.execute("BEGIN")
        yield connection


def test_a_commit_deletes_no_more_than_its_share_and_whole_transactions(connection, monkeypatch):
    monkeypatch.setattr(journal, "TRIMMED_POSITIONS", 25)
    assert trim(connection, 1, 0) == 100, "the first transaction is larger than the share"
    assert [trim(connection, 1, 0) for _ in range(3)] == [20, 20, 20]
    assert damage(connection) is None
    assert connection.execute("SELECT count FROM events WHERE event = 0").fetchone() == (160,)


def test_nothing_behind_the_oldest_snapshot_is_deleted(connection):
    connection.execute("UPDATE snapshots SET pos = 133")
    assert trim(connection, 1, 0) == 130
    assert trim(connection, 1, 0) == 0
    connection.execute("DELETE FROM snapshots")
    assert trim(connection, 1, 0) == 0
