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


def test_what_is_left_of_a_damaged_store_is_true_or_refused():
    found = faults.damage(120, seed=2)
    assert found["valid"] + found["refused"] == found["damaged"] == 120
    assert found["valid"] > 10
    assert found["refused"] > 40
