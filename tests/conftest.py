"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# A shared machine may take long over an example; time is for the benchmarks to judge.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data, from STREAM_LSTM_DATA or beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("STREAM_LSTM_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not there (set STREAM_LSTM_DATA)")
    return folder
