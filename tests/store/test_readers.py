"""Reading a store leaves nothing beside it, and shows what a writer has written."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from stream_lstm.store.schema import connect_reader

from ..engines import settings
from .stores import StoredSession, cut, series


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def elements(path: Path) -> int:
    with contextlib.closing(connect_reader(path)) as reader:
        return int(reader.execute("SELECT sum(count) FROM ticks").fetchone()[0])


def test_reading_a_closed_store_leaves_no_files(tmp_path):
    path = tmp_path / "s.db"
    with StoredSession(path, settings()) as session:
        session.feed(*cut(series(40)))
    before, data = names(tmp_path), path.read_bytes()
    with contextlib.closing(connect_reader(path)), contextlib.closing(connect_reader(path)):
        assert elements(path) == 40
    assert names(tmp_path) == before
    assert path.read_bytes() == data


def test_a_reader_beside_a_writer_sees_its_latest_and_disturbs_nothing(tmp_path):
    path = tmp_path / "s.db"
    with StoredSession(path, settings()) as session:
        for k, block in enumerate(cut(series(40), (10, 20, 30))):
            session.feed(block).settle()
            assert elements(path) == 10 * (k + 1)
    assert elements(path) == 40
    assert not any(name.endswith(("-wal", "-shm")) for name in names(tmp_path))


def test_a_reader_after_a_kill_keeps_what_the_log_has(tmp_path):
    path, copy = tmp_path / "s.db", tmp_path / "copy"
    copy.mkdir()
    with StoredSession(path, settings()) as session:
        session.feed(*cut(series(40))).settle()
        for name in names(tmp_path) - {"copy"}:  # what a kill leaves: a log with content
            (copy / name).write_bytes((tmp_path / name).read_bytes())
    before = {name: (copy / name).stat().st_size for name in names(copy)}
    assert before["s.db-wal"] > 0
    assert elements(copy / "s.db") == 40
    assert {name: (copy / name).stat().st_size for name in names(copy)} == before


@pytest.mark.skipif(os.name == "nt" or os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_only_be_read_is_no_obstacle(tmp_path):
    path = tmp_path / "s.db"
    with StoredSession(path, settings()) as session:
        session.feed(*cut(series(40)))
    tmp_path.chmod(0o500)
    try:
        assert elements(path) == 40
    finally:
        tmp_path.chmod(0o700)
