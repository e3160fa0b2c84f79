"""Fixtures for all tests."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import settings

from .bench_modules import bench_module

# A shared machine may take long over an example; time is for the benchmarks to judge.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# Most of the time would go to compiling what another test has compiled. Each worker has a cache of
# its own, since JAX does not write to one atomically; the processes that it starts share it.
CACHE = tempfile.mkdtemp(prefix="stream-lstm-tests-")
os.environ |= {
    "JAX_COMPILATION_CACHE_DIR": CACHE,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


# Files that take a minute and more begin first, so that no worker has one to itself at the end.
LONGEST = (
    "test_bench_faults.py",
    "test_order.py",
    "test_real_series.py",
    "test_store_commands.py",
    "test_bench_question.py",
    "test_live_page.py",
    "test_service.py",
    "test_doctor.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_unconfigure() -> None:
    shutil.rmtree(CACHE, ignore_errors=True)


@pytest.fixture
def bench() -> Callable[[str], ModuleType]:
    """Import a module of the benchmarks, which are not installed, by its name."""
    return bench_module


@pytest.fixture(scope="module")
def given() -> Any:
    """The workload of the benchmarks: weights, inputs and our predictions."""
    return bench_module("ours").given()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data, from STREAM_LSTM_DATA or beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("STREAM_LSTM_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not there (set STREAM_LSTM_DATA)")
    return folder
