"""Calls of the system fail, one in each run: what was written stays, and the rest comes later."""

import pytest

from ..bench_modules import bench_module

faults = bench_module("faults_store")


@pytest.mark.skipif(bool(faults.available()), reason=faults.available())
def test_whatever_call_fails_nothing_is_lost():
    found = faults.write_errors(10, seed=1)
    assert found["injected"] >= 7, "most of the calls that were to fail were made"
    assert found["retried"] + found["refused"] >= 2
    assert found["lost"] == 0
