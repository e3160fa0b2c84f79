"""Fixtures for tests of stores."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream_lstm.config import StoreConfig
from stream_lstm.store import writer

from .stores import Trimmed, fold_log, many_blocks


def commit_without_pause(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(writer, "PAUSE_S", 0.0)
    patch.setattr(writer, "SETTLE_S", 0.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.db"


@pytest.fixture
def unpaused(monkeypatch: pytest.MonkeyPatch) -> None:
    commit_without_pause(monkeypatch)


@pytest.fixture(scope="session")
def trimmed(tmp_path_factory: pytest.TempPathFactory) -> Trimmed:
    """A store of 1,500 ticks that was far beyond its limit; copy its file before a change."""
    path = tmp_path_factory.mktemp("trimmed") / "s.db"
    options = StoreConfig(snapshot_every=50, commit_elements=1, commit_ms=1, max_gb=1e-4)
    with pytest.MonkeyPatch.context() as patch:
        commit_without_pause(patch)
        session = many_blocks(path, options, blocking=False)
    return Trimmed(fold_log(path), options, session)
