"""Modules of the benchmarks, for tests of what is counted there and not timed."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

REPOSITORY = str(Path(__file__).parents[1])


def bench_module(name: str) -> ModuleType:
    """Import `bench.NAME`, which is not installed with the package."""
    sys.path.insert(0, REPOSITORY)
    try:
        return importlib.import_module(f"bench.{name}")
    finally:
        sys.path.remove(REPOSITORY)
